package ratelimit

import (
	"cmp"
	"encoding/json"
	"fmt"
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
// requests that match no route. It finds limiters whose Handle is registered itself, or in [Stack] or [When]. It is nil
// if Gin's routes cannot be read; [Check] warns of that.
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

// routesOf returns the routes of an engine with their handlers, and the handlers for no route last. It is not ok if they
// cannot be read.
func routesOf(engine *gin.Engine) (routes []route, ok bool) {
	read, ok := ginroutes.Read(engine)
	for _, r := range read {
		routes = append(routes, route{r.Method, r.Path, r.Handlers})
	}
	return routes, ok
}

// When runs h for the requests that cond picks, and lets the others pass:
//
//	router.Use(ratelimit.When(isWrite, limiter.Handle))
//
// Unlike an if around a limiter's Handle, it lets [Check] and [Routes] find the limiter. To exempt requests from one
// limiter, use [WithSkip]. It panics if either is nil.
func When(cond func(*gin.Context) bool, h gin.HandlerFunc) gin.HandlerFunc {
	if cond == nil || h == nil {
		panic("ratelimit: When: needs a condition and a handler, for example a limiter's Handle")
	}
	return when{cond, h}.handle
}

type when struct {
	cond    func(*gin.Context) bool
	handler gin.HandlerFunc
}

func (w when) handle(c *gin.Context) {
	if p, ok := c.Writer.(*probe); ok {
		p.look(w.handler)
		return
	}
	if w.cond(c) {
		w.handler(c)
	}
}

// WithSkip lets requests for which skip returns true pass, as if there were no limiter: they take nothing, have no headers
// and are not observed. [Check] and [Routes] still find the limiter. skip must be safe for concurrent use. Repeatable: a
// request passes if any of the functions returns true.
//
//	ratelimit.WithSkip(func(c *gin.Context) bool { return c.Request.Method == http.MethodOptions })
func WithSkip(skip func(*gin.Context) bool) Option {
	return func(c *config) {
		c.notNil(skip == nil, "WithSkip", "a function")
		c.skips = append(c.skips, skip)
	}
}

func (l *Limiter) skipped(c *gin.Context) bool {
	for _, skip := range l.skips {
		if skip(c) {
			return true
		}
	}
	return false
}

// Stack is one middleware of several limiters. Before the handlers run, the limiters decide in their order, up to the
// first that refuses: what the ones before have taken comes back. After the handlers, those with [WithChargeIf] are asked,
// each once:
//
//	router.POST("/login", ratelimit.Stack(byAddress, byAccount), login)
//
// Use it to call several limiters in one place, or register them one after the other. Do not call one limiter's Handle
// after another's in one handler: if the first has WithChargeIf, the rest of the chain runs inside its Handle, and the
// second decides when the response has been written.
//
// It panics without limiters, and if one is nil.
func Stack(limiters ...*Limiter) gin.HandlerFunc {
	if len(limiters) == 0 {
		panic("ratelimit: Stack(): needs limiters, as NewLimiter makes them")
	}
	for i, l := range limiters {
		if l == nil {
			panic(fmt.Sprintf("ratelimit: Stack: limiter %d is nil", i))
		}
	}
	return stack(append([]*Limiter(nil), limiters...)).handle
}

type stack []*Limiter

func (s stack) handle(c *gin.Context) {
	if p, ok := c.Writer.(*probe); ok {
		p.found = append(p.found, s...)
		return
	}
	before := lastDecision(c)
	last := before
	for _, l := range s {
		if d := l.admit(c); d != nil {
			last = d
		}
		if c.IsAborted() {
			return
		}
	}
	last.chargeByOutcome(c, before)
}
