package limitconfig

import (
	"slices"
	"strings"

	"github.com/gin-gonic/gin"

	"github.com/gin-ratelimit/ratelimit"
)

// Check finds routes of the document whose limits never apply: those that match none of the engine's routes, and those on
// which no limiter of [Config.Option] is registered, for example because it was registered after them. It recognizes such
// a limiter by its own limits. Call Check when all routes are registered. The error joins a [*Mistake] for each.
//
// [Config.Replace] does not know the engine. If a reload must not add such routes, check the document beforehand:
//
//	next, err := limitconfig.Load(document, options...)
//	if err == nil {
//		err = next.Check(router)
//	}
//	if err == nil {
//		err = limits.Replace(document)
//	}
func (c *Config) Check(engine *gin.Engine) error {
	methods := make(map[string][]string) // of each pattern
	for _, info := range engine.Routes() {
		methods[info.Path] = append(methods[info.Path], info.Method)
	}
	limited := c.limited(engine)
	var ms mistakes
	for _, m := range c.rules.Load().mentions {
		switch registered := methods[m.route.pattern]; {
		case len(registered) == 0:
			ms.add(m.line, m.field, `matches no route: write it as it is registered, with groups' prefixes and parameters, as in "GET /api/users/:id"`)
		case m.route.method != "" && !slices.Contains(registered, m.route.method):
			slices.Sort(registered)
			ms.add(m.line, m.field, "matches no route: %s is registered for %s", m.route.pattern, strings.Join(registered, ", "))
		case m.route.method != "" && !limited(m.route):
			ms.add(m.line, m.field, "no limiter of this document is registered on it: register the limiter before the route")
		case m.route.method == "":
			for _, method := range registered {
				if !limited(route{method, m.route.pattern}) {
					ms.add(m.line, m.field, "no limiter of this document is registered on %s %s: register the limiter before the route", method, m.route.pattern)
				}
			}
		}
	}
	return ms.err()
}

// limited returns a function that reports whether a limiter of this document is registered on a route. If Option was never
// called, there is nothing to check, and it reports true for all.
func (c *Config) limited(engine *gin.Engine) func(route) bool {
	static := c.static.Load()
	if static == nil {
		return func(route) bool { return true }
	}
	on := make(map[route]bool)
	for _, r := range ratelimit.Routes(engine) {
		on[route{r.Method, r.Path}] = slices.ContainsFunc(r.Limiters, func(l *ratelimit.Limiter) bool {
			return slices.Equal(l.Limits(), *static)
		})
	}
	return func(r route) bool { return on[r] }
}
