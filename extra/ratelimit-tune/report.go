package main

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/gin-ratelimit/ratelimit"
	"github.com/gin-ratelimit/ratelimit/extra/ratelimit-tune/tune"
)

// candidates are rates from one that a patient person keeps to, up to one that only programs reach.
var candidates = []ratelimit.Rate{
	{Tokens: 1, Per: time.Minute}, {Tokens: 1, Per: 30 * time.Second}, {Tokens: 1, Per: 20 * time.Second},
	{Tokens: 1, Per: 10 * time.Second}, {Tokens: 1, Per: 5 * time.Second}, {Tokens: 1, Per: 2 * time.Second},
	{Tokens: 1, Per: time.Second}, {Tokens: 2, Per: time.Second}, {Tokens: 3, Per: time.Second},
	{Tokens: 5, Per: time.Second}, {Tokens: 10, Per: time.Second}, {Tokens: 20, Per: time.Second},
	{Tokens: 50, Per: time.Second}, {Tokens: 100, Per: time.Second}, {Tokens: 200, Per: time.Second},
	{Tokens: 500, Per: time.Second},
}

// candidatesOf returns the candidates for a log whose requests cost so much: rates of typical requests.
func candidatesOf(t *tune.Trace) []ratelimit.Rate {
	rates := slices.Clone(candidates)
	for i := range rates {
		rates[i].Tokens *= int(t.TypicalCost())
	}
	return rates
}

// report is all that is found out, for the terminal, JSON and HTML alike.
type report struct {
	trace      *tune.Trace
	excluded   exclusion
	suspicions []tune.Suspicion
	most       tune.Share

	curves      []tune.Curve
	suggestions []tune.Suggestion
	pick        int // index in suggestions; -1 for none
	routes      []routeReport
	moreRoutes  int
	document    suggestedDocument

	limits   []ratelimit.Limit // that were given
	policies *policies
	replay   *replayReport // of the policy, or else of the pick; nil without either
	compare  *compareReport
}

// exclusion is what was left out by choice.
type exclusion struct {
	clients  []string
	requests int
}

// String is a sentence, "" if nothing was left out.
func (e exclusion) String() string {
	if len(e.clients) == 0 {
		return ""
	}
	return fmt.Sprintf("%s of %s left out by choice.", counted(e.requests, "request"), strings.Join(e.clients, ", "))
}

// suggestedDocument is the suggestions for limitconfig.
type suggestedDocument struct {
	text     string
	ofRoutes bool         // it has limits for routes
	refused  tune.Refused // by such a document
}

// String says what it would have refused, "" if it has the one limit alone.
func (d *suggestedDocument) String() string {
	if !d.ofRoutes {
		return ""
	}
	return fmt.Sprintf("Together they would have refused %s of %s.", counted(d.refused.Requests, "request"), counted(d.refused.Clients, "client"))
}

// routeReport is what is suggested for a route.
type routeReport struct {
	index             int32 // in Trace.Routes
	name              string
	requests, clients int
	suggestion        *tune.Suggestion // nil for none
	confidence        tune.Confidence
}

// newReport finds out what is asked for. The frontier is a pass of its own, so a replay does without, if nobody looks.
func newReport(t *tune.Trace, s *settings, p *policies) (*report, error) {
	r := &report{trace: t, most: s.most, limits: s.limits, policies: p, pick: -1}
	if len(s.excluded) > 0 {
		rest, unknown := t.Without(s.excluded)
		if len(unknown) > 0 {
			return nil, &mistake{fmt.Errorf("ratelimit-tune: -exclude %s: the log has no such client: give one as the report names it without -anonymize", unknown[0])}
		}
		r.excluded = exclusion{s.excluded, len(t.Requests) - len(rest.Requests)}
		r.trace, t = rest, rest
	}
	r.suspicions = t.Suspicions()
	if len(p.plans) > 0 && len(t.Plans) == 1 {
		r.suspicions = append(r.suspicions, tune.Suspicion{Kind: "plans", Text: fmt.Sprintf("No request has a plan, and there are limits for %q: name the field of the log that has it, as in -fields plan=…", p.plans[0])})
	}
	if len(t.Requests) == 0 {
		return r, nil
	}
	if p.replay == nil || s.json != "" || s.html != "" {
		if err := r.suggest(); err != nil {
			return nil, err
		}
	}
	if p.replay == nil && r.pick < 0 {
		return r, nil
	}
	var err error
	if p.replay == nil {
		r.replay, err = r.replayOfPick()
	} else {
		r.replay, err = newReplay(t, *p.replay, p.name, s.limits)
	}
	if err != nil {
		return nil, err
	}
	r.replay.hit = r.replay.mostHit(t)
	if p.against != nil {
		r.compare, err = newComparison(t, p)
	}
	return r, err
}

func (r *report) suggest() (err error) {
	if r.curves, err = tune.Frontier(r.trace, candidatesOf(r.trace)); err != nil {
		return err
	}
	if r.suggestions, err = tune.Suggest(r.trace, r.curves, r.most); err != nil {
		return err
	}
	r.pick = tune.Pick(r.suggestions)
	if r.pick < 0 {
		return nil
	}
	general := r.suspicions
	r.suspicions = withOutliers(general, r.trace, r.curves)
	if err := r.suggestByRoute(general); err != nil {
		return err
	}
	return r.makeDocument()
}

// makeDocument makes a document of the suggestions, and finds what it would have refused: with buckets for each route, that
// is another share than those of its limits.
func (r *report) makeDocument() (err error) {
	general := r.picked().Limit
	limits := make(map[string]ratelimit.Limit)
	if r.policies.listed {
		for _, route := range r.routes {
			if route.suggestion != nil && route.name != tune.NoRoute {
				limits[route.name] = route.suggestion.Limit
			}
		}
	}
	r.document.text = document(general, limits)
	if len(limits) == 0 {
		return nil
	}
	r.document.ofRoutes = true
	r.document.refused, err = tune.Replay(r.trace, tune.Policy{Limits: func(route, _, _ string) ([]ratelimit.Limit, string) {
		if own, ok := limits[route]; ok {
			return []ratelimit.Limit{own}, route
		}
		return []ratelimit.Limit{general}, ""
	}}, tune.AtOnce, nil)
	return err
}

// suggestByRoute suggests limits for the routes that are asked for most, if there are several.
func (r *report) suggestByRoute(suspicions []tune.Suspicion) error {
	t := r.trace
	if len(t.Routes) < 2 {
		return nil
	}
	const shown = 10
	counts := make([]int, len(t.Routes))
	for i := range t.Requests {
		counts[t.Requests[i].Route]++
	}
	routes := make([]int32, len(t.Routes))
	for i := range routes {
		routes[i] = int32(i)
	}
	slices.SortStableFunc(routes, func(a, b int32) int { return cmp.Compare(counts[b], counts[a]) })
	for _, route := range routes {
		switch {
		case counts[route] == 0:
			continue
		case len(r.routes) == shown:
			r.moreRoutes++
			continue
		}
		part := t.OnRoute(route)
		curves, err := tune.Frontier(part, candidatesOf(part))
		if err != nil {
			return err
		}
		suggestions, err := tune.Suggest(part, curves, r.most)
		if err != nil {
			return err
		}
		found := routeReport{index: route, name: t.Routes[route], requests: len(part.Requests), clients: len(part.Clients)}
		if pick := tune.Pick(suggestions); pick >= 0 {
			found.suggestion = &suggestions[pick]
			found.confidence = part.Confidence(found.suggestion, withOutliers(suspicions, part, curves))
		}
		r.routes = append(r.routes, found)
	}
	return nil
}

// withOutliers adds a suspicion of clients that need far more than the others, at the rate where people and programs part.
func withOutliers(suspicions []tune.Suspicion, t *tune.Trace, curves []tune.Curve) []tune.Suspicion {
	for i := range curves {
		if curves[i].Rate == ratelimit.PerSecond(int(t.TypicalCost())) {
			if outliers := t.Outliers(&curves[i]); outliers != nil {
				return append(slices.Clip(suspicions), *outliers)
			}
		}
	}
	return suspicions
}

// picked is the suggestion, nil if there is none.
func (r *report) picked() *tune.Suggestion {
	if r.pick < 0 {
		return nil
	}
	return &r.suggestions[r.pick]
}
