package tune

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"

	"github.com/gin-gonic/gin"
)

// NoRoute is the route of requests that match none of a [Router]'s.
const NoRoute = "(no route)"

// Route is a route as it is registered, as in {"GET", "/users/:id"}. The method "" is every one that Gin's Any has.
type Route struct{ Method, Path string }

// ParseRoutes reads JSON as ratelimit.Routes and gin.RoutesInfo have it: a list of objects with method and path. The
// entry for requests without a route, whose path is "", is left out.
func ParseRoutes(text []byte) ([]Route, error) {
	var all []Route
	if err := json.Unmarshal(text, &all); err != nil {
		return nil, fmt.Errorf(`ratelimit-tune: routes: %w: want a list as in [{"method": "GET", "path": "/users/:id"}]`, err)
	}
	var routes []Route
	for _, r := range all {
		if r.Path != "" {
			routes = append(routes, r)
		}
	}
	if len(routes) == 0 {
		return nil, errors.New(`ratelimit-tune: routes: there are none: want a list as in [{"method": "GET", "path": "/users/:id"}]`)
	}
	return routes, nil
}

// ParseRoute reads "GET /users/:id", or "/users/:id" for every method.
func ParseRoute(text string) (Route, error) {
	method, path := "", text
	if !strings.HasPrefix(text, "/") {
		method, path, _ = strings.Cut(text, " ")
	}
	if !strings.HasPrefix(path, "/") {
		return Route{}, fmt.Errorf(`ratelimit-tune: route %q: want it as it is registered, as in "GET /users/:id"`, text)
	}
	return Route{method, path}, nil
}

// Router names requests by the routes of an application, which a real engine of Gin's finds. It is not safe for
// concurrent use.
type Router struct {
	engine  *gin.Engine
	request http.Request
	url     url.URL
	found   string
	known   map[string]bool // the routes that are registered
}

// NewRouter registers the routes. Those that stand twice count once.
func NewRouter(routes []Route) (*Router, error) {
	r := &Router{engine: gin.New(), known: make(map[string]bool)}
	r.engine.RedirectTrailingSlash = false // No handler sees what is redirected, and no limiter.
	r.request.URL = &r.url
	for _, route := range routes {
		if err := r.add(route); err != nil {
			return nil, err
		}
	}
	return r, nil
}

// Engine is the engine that finds routes, to check limits against.
func (r *Router) Engine() *gin.Engine { return r.engine }

func (r *Router) add(route Route) (err error) {
	defer func() { // Gin panics where routes exclude each other.
		if problem := recover(); problem != nil {
			err = fmt.Errorf("ratelimit-tune: route %q: %v: give the routes as they are registered", strings.TrimSpace(route.Method+" "+route.Path), problem)
		}
	}()
	methods := []string{route.Method}
	if route.Method == "" {
		methods = []string{"GET", "POST", "PUT", "PATCH", "HEAD", "OPTIONS", "DELETE", "CONNECT", "TRACE"}
	}
	for _, method := range methods {
		name := method + " " + route.Path
		if r.known[name] {
			continue
		}
		r.known[name] = true
		r.engine.Handle(method, route.Path, func(*gin.Context) { r.found = name })
	}
	return nil
}

// Route returns the route of a request, as in "GET /users/:id", or [NoRoute]. It is for [Options].
func (r *Router) Route(method, path []byte) string {
	r.found = NoRoute
	r.request.Method = string(method)
	r.url.Path = string(path)
	if unescaped, err := url.PathUnescape(r.url.Path); err == nil {
		r.url.Path = unescaped
	}
	r.engine.ServeHTTP(nobody{}, &r.request)
	return r.found
}

// nobody takes an answer that is of no interest.
type nobody struct{}

func (nobody) Header() http.Header         { return make(http.Header) }
func (nobody) Write(p []byte) (int, error) { return len(p), nil }
func (nobody) WriteHeader(int)             {}
