package main

import (
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/gin-ratelimit/ratelimit"
	"github.com/gin-ratelimit/ratelimit/extra/ratelimit-tune/tune"
)

// document is what -json writes. Scripts rely on its names.
type document struct {
	Read struct {
		Lines      int       `json:"lines"`
		Requests   int       `json:"requests"`
		Missed     int       `json:"missed"`
		Clients    int       `json:"clients"`
		From       time.Time `json:"from"`
		To         time.Time `json:"to"`
		Resolution float64   `json:"resolution_seconds"`
	} `json:"read"`
	Frontier    []curve      `json:"frontier"`
	Replay      []replayed   `json:"replay"`
	Suggestions []suggestion `json:"suggestions"`
}

type curve struct {
	Rate  ratelimit.Rate `json:"rate"`
	Burst struct {
		P90  int64 `json:"p90"`
		P95  int64 `json:"p95"`
		P99  int64 `json:"p99"`
		P999 int64 `json:"p999"`
		Max  int64 `json:"max"`
	} `json:"burst"`
}

type replayed struct {
	Limit    string   `json:"limit"` // several that hold together are joined by ", "
	Requests interval `json:"refused_requests"`
	Clients  interval `json:"refused_clients"`
}

type interval struct {
	Stamped int `json:"stamped"`
	Min     int `json:"min"`
	Max     int `json:"max"`
}

type suggestion struct {
	Limit    ratelimit.Limit `json:"limit"`
	Requests int             `json:"refused_requests"`
	Clients  int             `json:"refused_clients"`
}

func newDocument(t *tune.Trace, limits []ratelimit.Limit, most tune.Share) (*document, error) {
	d := &document{Frontier: []curve{}, Replay: []replayed{}, Suggestions: []suggestion{}}
	d.Read.Lines, d.Read.Requests, d.Read.Missed, d.Read.Clients = t.Lines, len(t.Requests), t.Misses, len(t.Clients)
	d.Read.Resolution = t.Resolution.Seconds()
	if n := len(t.Requests); n > 0 {
		d.Read.From, d.Read.To = time.UnixMicro(t.Requests[0].Tick).UTC(), time.UnixMicro(t.Requests[n-1].Tick).UTC()
	}
	curves, err := tune.Frontier(t, candidates)
	if err != nil {
		return nil, err
	}
	for _, from := range curves {
		c := curve{Rate: from.Rate}
		b := &c.Burst
		b.P90, b.P95, b.P99 = from.Quantile(900), from.Quantile(950), from.Quantile(990)
		b.P999, b.Max = from.Quantile(999), from.Quantile(1000)
		d.Frontier = append(d.Frontier, c)
	}
	suggestions, err := tune.Suggest(t, curves, most)
	if err != nil {
		return nil, err
	}
	for _, s := range suggestions {
		d.Suggestions = append(d.Suggestions, suggestion{s.Limit, s.Refused.Requests, s.Refused.Clients})
	}
	if len(limits) == 0 {
		return d, nil
	}
	stamped, err := tune.Replay(t, limits, nil)
	if err != nil {
		return nil, err
	}
	spread := stamped
	if t.WholeSeconds() {
		if spread, err = tune.Replay(t.Spread(), limits, nil); err != nil {
			return nil, err
		}
	}
	texts := make([]string, len(limits))
	for i, l := range limits {
		texts[i] = l.String()
	}
	between := func(a, b int) interval { return interval{a, min(a, b), max(a, b)} }
	d.Replay = append(d.Replay, replayed{strings.Join(texts, ", "), between(stamped.Requests, spread.Requests), between(stamped.Clients, spread.Clients)})
	return d, nil
}

func (d *document) write(name string) error {
	text, err := json.MarshalIndent(d, "", "  ")
	if err == nil {
		err = os.WriteFile(name, append(text, '\n'), 0o600)
	}
	if err != nil {
		return fmt.Errorf("ratelimit-tune: -json %s: %w", name, err)
	}
	return nil
}
