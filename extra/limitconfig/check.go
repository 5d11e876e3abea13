package limitconfig

import (
	"slices"
	"strings"

	"github.com/gin-gonic/gin"
)

// Check finds routes of the document that match none of the engine's: a limit that never holds. Call it when all
// routes are registered. The error joins a [*Mistake] for each.
//
// [Config.Replace] does not know the engine. Where a reload must not bring such routes in, check it beforehand:
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
	var ms mistakes
	for _, m := range c.rules.Load().mentions {
		switch registered := methods[m.route.pattern]; {
		case len(registered) == 0:
			ms.add(m.line, m.field, `matches no route: write it as it is registered, with groups' prefixes and parameters, as in "GET /api/users/:id"`)
		case m.route.method != "" && !slices.Contains(registered, m.route.method):
			slices.Sort(registered)
			ms.add(m.line, m.field, "matches no route: %s is registered for %s", m.route.pattern, strings.Join(registered, ", "))
		}
	}
	return ms.err()
}
