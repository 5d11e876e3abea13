package limitconfig

import (
	"github.com/gin-gonic/gin"

	"github.com/gin-ratelimit/ratelimit"
)

// rules is a document without mistakes.
type rules struct {
	everybody section
	plans     map[string]*section
	keys      map[string]*section
	named     map[route]string // the routes that any section names, and their text
	mentions  []mention        // where the sections name them
}

// section is limits: the document's own, those of a plan, or those of a key. The nil section has none.
type section struct {
	limits []ratelimit.Limit // nil: none given
	routes map[route][]ratelimit.Limit
}

// route is a pattern and its method; "" is all methods.
type route struct{ method, pattern string }

// mention is a place where the document names a route.
type mention struct {
	route route
	line  int
	field string
}

// routeOf is the route of a request. If the request matches none, the pattern is "", which no document can name.
func routeOf(c *gin.Context) route {
	return route{c.Request.Method, c.FullPath()}
}

func (r route) anyMethod() route { return route{"", r.pattern} }

// String returns the route as the document has it.
func (r route) String() string {
	if r.method == "" {
		return r.pattern
	}
	return r.method + " " + r.pattern
}

// limits returns the limits for a key, a plan and a route: those of the most specific section that names the route, or
// else the default of the most specific section that has one.
func (r *rules) limits(key, plan *section, route route) []ratelimit.Limit {
	if r.bucket(route) != "" {
		for _, s := range [...]*section{key, plan, &r.everybody} {
			if limits := s.onRoute(route); limits != nil {
				return limits
			}
		}
	}
	for _, s := range [...]*section{key, plan} {
		if s != nil && s.limits != nil {
			return s.limits
		}
	}
	return r.everybody.limits
}

// bucket is the route that a request's buckets belong to, "" for all routes that are not named.
func (r *rules) bucket(route route) string {
	if text, ok := r.named[route]; ok {
		return text
	}
	return r.named[route.anyMethod()]
}

func (s *section) onRoute(route route) []ratelimit.Limit {
	if s == nil {
		return nil
	}
	if limits := s.routes[route]; limits != nil {
		return limits
	}
	return s.routes[route.anyMethod()]
}
