package ratelimit

import (
	"cmp"
	"encoding/json"
	"slices"

	"github.com/gin-gonic/gin"

	"github.com/gin-ratelimit/ratelimit/internal/ginroutes"
)

// Route is a route of an engine with the limiters on it, in their order. Its JSON has the fields method, path and
// limiters, which are objects of name, limits (in the text form) and mode.
type Route struct {
	Method   string     `json:"method"` // "" for requests that match no route
	Path     string     `json:"path"`   // the pattern: "/users/:id"
	Limiters []*Limiter `json:"limiters"`
}

// Routes returns the routes of an engine, sorted by path and method, with the limiters that are on them; the last is for
// requests that match no route. It sees the limiters that are registered as they are, and those in [Stack] and [When].
// It is nil where Gin's routes cannot be read, of which [Check] warns.
//
//	admin.GET("/limits", func(c *gin.Context) { c.JSON(http.StatusOK, ratelimit.Routes(router)) })
func Routes(engine *gin.Engine) []Route {
	read, ok := routesOf(engine)
	if !ok {
		return nil
	}
	routes := make([]Route, 0, len(read))
	for _, r := range read {
		limiters := r.limiters()
		if limiters == nil {
			limiters = []*Limiter{} // [] in JSON
		}
		routes = append(routes, Route{r.method, r.path, limiters})
	}
	slices.SortFunc(routes[:len(routes)-1], func(a, b Route) int {
		return cmp.Or(cmp.Compare(a.Path, b.Path), cmp.Compare(a.Method, b.Method))
	})
	return routes
}

// MarshalJSON returns the limiter's name, own limits and mode.
func (l *Limiter) MarshalJSON() ([]byte, error) {
	return json.Marshal(struct {
		Name   string  `json:"name"`
		Limits []Limit `json:"limits"`
		Mode   string  `json:"mode"`
	}{l.name, l.limits, l.Mode().String()})
}

// routesOf returns the routes of an engine with their handlers, that of no route last. It is not ok if they cannot be
// read.
func routesOf(engine *gin.Engine) (routes []route, ok bool) {
	read, ok := ginroutes.Read(engine)
	for _, r := range read {
		routes = append(routes, route{r.Method, r.Path, r.Handlers})
	}
	return routes, ok
}
