package main

import (
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"

	"github.com/gin-gonic/gin"

	"github.com/gin-ratelimit/ratelimit"
	"github.com/gin-ratelimit/ratelimit/extra/limitconfig"
	"github.com/gin-ratelimit/ratelimit/extra/ratelimit-tune/tune"
)

// policies are what is replayed, and how routes are named for it.
type policies struct {
	replay  *tune.Policy // nil: limits are to be suggested
	against *tune.Policy // nil: there is nothing to compare with
	name    string       // of replay
	older   string       // of against
	router  *tune.Router // nil: routes are first segments of paths
	listed  bool         // the router's routes are the application's, and not only those of documents
	plans   []string     // that the documents name
}

func (s *settings) policies() (*policies, error) {
	p := new(policies)
	configs, err := s.configs()
	if err != nil {
		return nil, err
	}
	if err := p.route(s.routes, configs); err != nil {
		return nil, err
	}
	for _, c := range configs {
		p.plans = append(p.plans, c.Plans()...)
	}
	charge := s.chargeStatus.chargeIf()
	if len(s.limits) > 0 {
		texts := make([]string, len(s.limits))
		for i, l := range s.limits {
			texts[i] = l.String()
		}
		policy := tune.Together(s.limits...)
		policy.ChargeIf = charge
		p.replay, p.name = &policy, strings.Join(texts, ", ")
	}
	if len(configs) > 0 {
		p.replay, p.name = policyOf(configs[0], charge), s.config
	}
	if len(configs) > 1 {
		p.against, p.older = policyOf(configs[1], charge), s.against
	}
	return p, nil
}

// configs loads the documents.
func (s *settings) configs() (configs []*limitconfig.Config, err error) {
	for _, name := range []string{s.config, s.against} {
		if name == "" {
			continue
		}
		document, err := os.ReadFile(name)
		if err != nil {
			return nil, fmt.Errorf("ratelimit-tune: %w", err)
		}
		// What a plan and a key are the log's fields say, and not requests.
		nothing := func(*gin.Context) string { return "" }
		c, err := limitconfig.Load(document, limitconfig.WithPlan(nothing), limitconfig.WithKeyFunc(nothing))
		if err != nil {
			return nil, fmt.Errorf("ratelimit-tune: %s: %w", name, err)
		}
		configs = append(configs, c)
	}
	return configs, nil
}

// route makes the router of the application's routes, or else of those that the documents name.
func (p *policies) route(routes []tune.Route, configs []*limitconfig.Config) (err error) {
	p.listed = len(routes) > 0
	if !p.listed {
		for _, c := range configs {
			for _, text := range c.Routes() {
				r, err := tune.ParseRoute(text)
				if err != nil {
					return err
				}
				routes = append(routes, r)
			}
		}
	}
	if len(routes) == 0 {
		return nil
	}
	if p.router, err = tune.NewRouter(routes); err != nil || !p.listed {
		return err
	}
	for _, c := range configs {
		if err := c.Check(p.router.Engine()); err != nil {
			return fmt.Errorf("ratelimit-tune: the document does not go with the routes: %w", err)
		}
	}
	return nil
}

// policyOf asks a document.
func policyOf(c *limitconfig.Config, charge func(status int) bool) *tune.Policy {
	return &tune.Policy{
		Limits: func(route, plan, client string) ([]ratelimit.Limit, string) {
			method, pattern, _ := strings.Cut(route, " ")
			if !strings.HasPrefix(pattern, "/") {
				method, pattern = "", "" // No route, or the first segment of a path: no document names it.
			}
			key := client
			if address := ratelimit.AddressKey(client); address != "" {
				key = address
			}
			return c.Lookup(method, pattern, plan, key)
		},
		ChargeIf: charge,
	}
}

// document is a suggestion as a document for limitconfig. Routes have buckets of their own in it.
func document(general ratelimit.Limit, routes map[string]ratelimit.Limit) string {
	var text strings.Builder
	fmt.Fprintf(&text, "default: %v\n", general)
	if len(routes) > 0 {
		text.WriteString("routes:\n")
	}
	for _, name := range slices.Sorted(maps.Keys(routes)) {
		fmt.Fprintf(&text, "  %q: %v\n", name, routes[name])
	}
	return text.String()
}
