// Package tune replays access logs through the arithmetic of the rate limiter, offline.
package tune

import (
	"cmp"
	"net/http"
	"slices"
)

// Request is one request of a log.
type Request struct {
	Client int32 // index in Trace.Clients
	Status int16
	Tick   int64 // microseconds since 1970
}

// Trace is the requests of one or more logs.
type Trace struct {
	Clients  []string
	Requests []Request

	Lines  int
	Missed []Miss // the first few lines that did not parse
	Misses int    // all lines that did not parse

	index map[string]int32
}

// Miss is a line that did not parse.
type Miss struct {
	File string
	Line int
}

func (t *Trace) client(host []byte) int32 {
	if t.index == nil {
		t.index = make(map[string]int32)
	}
	id, known := t.index[string(host)]
	if !known {
		id = int32(len(t.Clients))
		t.Clients = append(t.Clients, string(host))
		t.index[t.Clients[id]] = id
	}
	return id
}

// sort puts the requests in the order of their time. Apache writes lines when requests end and stamps when they begin,
// and several files overlap. Requests of one stamp keep their order.
func (t *Trace) sort() {
	earlier := func(a, b Request) int { return cmp.Compare(a.Tick, b.Tick) }
	if !slices.IsSortedFunc(t.Requests, earlier) {
		slices.SortStableFunc(t.Requests, earlier)
	}
}

// Spread returns the trace with the requests that a client made in one second spread evenly over that second. The log's
// stamps are of whole seconds: all at once and evenly spread are the two readings that a replay can compare.
func (t *Trace) Spread() *Trace {
	const second = 1_000_000
	type group struct{ tick, count, next int64 }
	spread := *t
	spread.Requests = make([]Request, 0, len(t.Requests))
	groups := make([]group, len(t.Clients))
	for rest := t.Requests; len(rest) > 0; {
		end := 1
		for end < len(rest) && rest[end].Tick == rest[0].Tick {
			end++
		}
		for _, r := range rest[:end] {
			if g := &groups[r.Client]; g.count == 0 || g.tick != r.Tick {
				*g = group{tick: r.Tick}
			}
			groups[r.Client].count++
		}
		for _, r := range rest[:end] {
			g := &groups[r.Client]
			r.Tick += g.next * second / g.count
			g.next++
			spread.Requests = append(spread.Requests, r)
		}
		rest = rest[end:]
	}
	spread.sort()
	return &spread
}

// Refused counts the requests that were answered by 429: a limiter was at work when the log was written.
func (t *Trace) Refused() (requests int) {
	for _, r := range t.Requests {
		if r.Status == http.StatusTooManyRequests {
			requests++
		}
	}
	return requests
}

// WholeSeconds reports whether every stamp is of a whole second, so that [Trace.Spread] applies.
func (t *Trace) WholeSeconds() bool {
	return !slices.ContainsFunc(t.Requests, func(r Request) bool { return r.Tick%1_000_000 != 0 })
}
