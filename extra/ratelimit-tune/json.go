package main

import (
	"encoding/json"
	"fmt"
	"os"
	"time"

	"github.com/gin-ratelimit/ratelimit"
	"github.com/gin-ratelimit/ratelimit/extra/ratelimit-tune/tune"
)

// jsonReport is what -json writes. Scripts rely on its names.
type jsonReport struct {
	Read struct {
		Lines      int             `json:"lines"`
		Requests   int             `json:"requests"`
		Missed     int             `json:"missed"`
		Clients    int             `json:"clients"`
		From       time.Time       `json:"from"`
		To         time.Time       `json:"to"`
		Resolution float64         `json:"resolution_seconds"`
		Partial    bool            `json:"partial"`
		Beyond     int             `json:"requests_of_further_clients"`
		Warnings   []string        `json:"warnings"` // what is odd about the files
		Suspicions []jsonSuspicion `json:"suspicions"`
	} `json:"read"`
	Frontier    []jsonCurve      `json:"frontier"`
	Replay      []jsonReplay     `json:"replay"`
	Compare     *jsonComparison  `json:"compare,omitempty"`
	Suggestions []jsonSuggestion `json:"suggestions"`
	Routes      []jsonRoute      `json:"routes"`
	Clients     []jsonClient     `json:"clients"`
}

type jsonSuspicion struct {
	Kind string `json:"kind"`
	Text string `json:"text"`
}

type jsonCurve struct {
	Rate  ratelimit.Rate `json:"rate"`
	Burst struct {
		P90  int64 `json:"p90"`
		P95  int64 `json:"p95"`
		P99  int64 `json:"p99"`
		P999 int64 `json:"p999"`
		Max  int64 `json:"max"`
	} `json:"burst"`
	BelowResolution bool `json:"below_resolution"` // tokens come back faster than the stamps step
}

type jsonReplay struct {
	Limit    string       `json:"limit"` // several that hold together are joined by ", "; the name of a document
	Requests jsonInterval `json:"refused_requests"`
	Clients  jsonInterval `json:"refused_clients"`
	First    *time.Time   `json:"first,omitempty"`
	Last     *time.Time   `json:"last,omitempty"`
	Busiest  *jsonMinute  `json:"busiest_minute,omitempty"`
	ByRoute  []jsonCount  `json:"by_route"`
}

// jsonInterval is a figure with what comes at one stamp at once, and the bounds of both readings.
type jsonInterval struct {
	Stamped int `json:"stamped"`
	Min     int `json:"min"`
	Max     int `json:"max"`
}

type jsonMinute struct {
	At      time.Time `json:"at"`
	Refused int       `json:"refused_requests"`
}

type jsonCount struct {
	Route   string `json:"route"`
	Refused int    `json:"refused_requests"`
}

type jsonComparison struct {
	Against         string            `json:"against"`
	RefusedRequests jsonInterval      `json:"newly_refused_requests"`
	RefusedClients  jsonInterval      `json:"newly_refused_clients"`
	Admitted        jsonInterval      `json:"newly_admitted_requests"`
	AdmittedClients jsonInterval      `json:"newly_admitted_clients"`
	ByRoute         []jsonRouteChange `json:"by_route"`
}

type jsonRouteChange struct {
	Route    string `json:"route"`
	Refused  int    `json:"newly_refused_requests"`
	Admitted int    `json:"newly_admitted_requests"`
}

type jsonSuggestion struct {
	Limit      ratelimit.Limit `json:"limit"`
	Requests   jsonInterval    `json:"refused_requests"`
	Clients    jsonInterval    `json:"refused_clients"`
	Confidence tune.Confidence `json:"confidence"`
	Picked     bool            `json:"picked"`
}

type jsonRoute struct {
	Route      string          `json:"route"`
	Requests   int             `json:"requests"`
	Clients    int             `json:"clients"`
	Suggestion *jsonSuggestion `json:"suggestion"`
}

type jsonClient struct {
	Client     string `json:"client"`
	Requests   int    `json:"requests"`
	Refused    int    `json:"refused_requests"`
	Succeeded  int    `json:"answered_2xx"`
	UserAgents int    `json:"user_agents"`
	Burst      int64  `json:"needed_burst,omitempty"`
}

func newJSON(r *report) *jsonReport {
	t := r.trace
	j := &jsonReport{Frontier: []jsonCurve{}, Replay: []jsonReplay{}, Suggestions: []jsonSuggestion{}, Routes: []jsonRoute{}, Clients: []jsonClient{}}
	j.Read.Lines, j.Read.Requests, j.Read.Missed, j.Read.Clients = t.Lines, len(t.Requests), t.Misses, len(t.Clients)
	j.Read.Resolution, j.Read.Partial, j.Read.Beyond = t.Resolution.Seconds(), t.Partial, t.Beyond.Requests
	if n := len(t.Requests); n > 0 {
		j.Read.From, j.Read.To = utc(t.Requests[0].Tick), utc(t.Requests[n-1].Tick)
	}
	j.Read.Warnings, j.Read.Suspicions = append([]string{}, t.Warnings...), []jsonSuspicion{}
	for _, s := range r.suspicions {
		j.Read.Suspicions = append(j.Read.Suspicions, jsonSuspicion(s))
	}
	for _, from := range r.curves {
		c := jsonCurve{Rate: from.Rate, BelowResolution: t.TooFast(from.Rate)}
		b := &c.Burst
		b.P90, b.P95, b.P99 = from.Quantile(900), from.Quantile(950), from.Quantile(990)
		b.P999, b.Max = from.Quantile(999), from.Quantile(1000)
		j.Frontier = append(j.Frontier, c)
	}
	for i := range r.suggestions {
		s := newJSONSuggestion(&r.suggestions[i], t.Confidence(&r.suggestions[i], r.suspicions))
		s.Picked = i == r.pick
		j.Suggestions = append(j.Suggestions, *s)
	}
	for _, route := range r.routes {
		j.Routes = append(j.Routes, jsonRoute{route.name, route.requests, route.clients, newJSONSuggestion(route.suggestion, route.confidence)})
	}
	j.replay(r)
	return j
}

// replay adds what was replayed: the policy, if there is one, and the clients that it or the pick hits.
func (j *jsonReport) replay(r *report) {
	y := r.replay
	if y == nil {
		return
	}
	for _, h := range y.hit {
		j.Clients = append(j.Clients, jsonClient{h.name, h.Requests, h.Refused, h.Succeeded, int(h.agents), h.need})
	}
	if r.policies.replay == nil {
		return
	}
	one := jsonReplay{
		Limit: y.name, ByRoute: []jsonCount{},
		Requests: newJSONInterval(y.stamped.Requests, y.spread.Requests), Clients: newJSONInterval(y.stamped.Clients, y.spread.Clients),
	}
	if y.tally.Refused > 0 {
		first, last := utc(y.tally.First), utc(y.tally.Last)
		one.First, one.Last, one.Busiest = &first, &last, &jsonMinute{utc(y.tally.Busiest), y.tally.InBusiest}
	}
	for route, refused := range y.tally.ByRoute {
		if refused > 0 {
			one.ByRoute = append(one.ByRoute, jsonCount{r.trace.Routes[route], refused})
		}
	}
	j.Replay = append(j.Replay, one)
	if r.compare == nil {
		return
	}
	a, b := r.compare.stamped, r.compare.spread
	j.Compare = &jsonComparison{
		Against:         r.policies.older,
		RefusedRequests: newJSONInterval(a.Refused.Requests, b.Refused.Requests), RefusedClients: newJSONInterval(a.Refused.Clients, b.Refused.Clients),
		Admitted: newJSONInterval(a.Admitted.Requests, b.Admitted.Requests), AdmittedClients: newJSONInterval(a.Admitted.Clients, b.Admitted.Clients),
		ByRoute: []jsonRouteChange{},
	}
	for route, c := range a.ByRoute {
		if c.Refused+c.Admitted > 0 {
			j.Compare.ByRoute = append(j.Compare.ByRoute, jsonRouteChange{r.trace.Routes[route], c.Refused, c.Admitted})
		}
	}
}

func newJSONSuggestion(s *tune.Suggestion, confidence tune.Confidence) *jsonSuggestion {
	if s == nil {
		return nil
	}
	return &jsonSuggestion{
		Limit: s.Limit, Confidence: confidence,
		Requests: newJSONInterval(s.Refused.Requests, s.Spread.Requests), Clients: newJSONInterval(s.Refused.Clients, s.Spread.Clients),
	}
}

func newJSONInterval(stamped, spread int) jsonInterval {
	return jsonInterval{stamped, min(stamped, spread), max(stamped, spread)}
}

func utc(tick int64) time.Time { return time.UnixMicro(tick).UTC() }

// writeJSON writes the figures to a file.
func (r *report) writeJSON(name string) error {
	text, err := json.MarshalIndent(newJSON(r), "", "  ")
	if err == nil {
		err = os.WriteFile(name, append(text, '\n'), 0o600)
	}
	if err != nil {
		return fmt.Errorf("ratelimit-tune: -json %s: %w", name, err)
	}
	return nil
}
