// Package tune replays access logs through the arithmetic of the rate limiter, offline.
package tune

import (
	"cmp"
	"iter"
	"net/http"
	"slices"
	"time"

	"github.com/gin-ratelimit/ratelimit"
)

// Request is one request of a log.
type Request struct {
	Tick   int64  // microseconds since 1970, at which the request began
	Client int32  // index in Trace.Clients
	Route  int32  // index in Trace.Routes
	Cost   int32  // tokens: 1 unless a field of the line says otherwise
	Status int16  // as in 200; 0 if the line has none
	Plan   uint16 // index in Trace.Plans; 0 is ""
}

// Trace is the requests of one or more logs, by time.
type Trace struct {
	Clients  []string // hosts or addresses; keyed hashes under Options.Anonymize
	Routes   []string // what Options.Route returned, or first path segments as in "/api"; "" if the line has no path, [OtherRoutes] after 10,000
	Plans    []string // values of Fields.Plan; the first is ""
	Agents   []uint16 // distinct user agents of each client, counted up to [MaxAgents]; 0 if the lines have none
	Requests []Request

	// Resolution is the step of the stamps, as in [time.Second]: the finest that a format shows in a file, and of those the
	// coarsest. No log is finer than a microsecond here.
	Resolution time.Duration
	Formats    []FileFormat // one per file, in the order of the files
	Partial    bool         // the context was cancelled before the end
	Beyond     Beyond       // what Options.MaxClients left out

	Lines  int
	Missed []Miss // the first few lines that did not parse
	Misses int    // all lines that did not parse

	typicalCost int64 // 0: not known yet

	Warnings []string // what is odd about the files, as in "access.log: the file is empty"
}

// MaxAgents is as far as the user agents of a client are counted.
const MaxAgents = 100

// FileFormat is the format in which a file was read, as in {"access.log", "combined"}.
type FileFormat struct{ File, Format string }

// Beyond is the requests of clients that came after Options.MaxClients others. They are not in the trace.
type Beyond struct {
	Requests int
	Clients  []string // the first few
}

// Miss is a line that did not parse.
type Miss struct {
	File string
	Line int
	Text string // shortened and escaped; "" under Options.Anonymize
}

// sort puts the requests in the order of their time. Apache writes lines when requests end and stamps when they begin,
// and several files overlap. Requests of one stamp keep their order.
func (t *Trace) sort() {
	earlier := func(a, b Request) int { return cmp.Compare(a.Tick, b.Tick) }
	if !slices.IsSortedFunc(t.Requests, earlier) {
		slices.SortStableFunc(t.Requests, earlier)
	}
}

// charge is a request as a bucket sees it.
type charge struct {
	tick int64
	cost int64
}

// byClient returns the charges of each client, by time. What a client's buckets need then stays in the processor's cache,
// and that is worth a copy: to evaluate the requests in the order of the log is mostly to wait for memory.
func (t *Trace) byClient() iter.Seq2[int, []charge] {
	ends := make([]int, len(t.Clients))
	for _, r := range t.Requests {
		ends[r.Client]++
	}
	start := 0
	for client, count := range ends {
		ends[client] = start
		start += count
	}
	charges := make([]charge, len(t.Requests))
	for _, r := range t.Requests {
		charges[ends[r.Client]] = charge{r.Tick, int64(r.Cost)}
		ends[r.Client]++
	}
	return func(yield func(int, []charge) bool) {
		start := 0
		for client, end := range ends {
			if !yield(client, charges[start:end]) {
				return
			}
			start = end
		}
	}
}

// OnRoute returns the requests on a route, an index in t.Routes, and the clients that made them.
func (t *Trace) OnRoute(route int32) *Trace {
	return t.only(func(r *Request) bool { return r.Route == route })
}

// Without returns the trace without the clients of these names, and the names that are none of its clients.
func (t *Trace) Without(names []string) (rest *Trace, unknown []string) {
	left := make([]bool, len(t.Clients))
	for _, name := range names {
		client := slices.Index(t.Clients, name)
		if client < 0 {
			unknown = append(unknown, name)
			continue
		}
		left[client] = true
	}
	return t.only(func(r *Request) bool { return !left[r.Client] }), unknown
}

// only returns the requests that are kept, and the clients that made them.
func (t *Trace) only(keep func(*Request) bool) *Trace {
	count := 0
	index := make([]int32, len(t.Clients)) // of those that are kept, from 1
	part := *t
	part.Clients, part.Agents, part.typicalCost = nil, nil, 0
	for i := range t.Requests {
		r := &t.Requests[i]
		if !keep(r) {
			continue
		}
		count++
		if index[r.Client] == 0 {
			part.Clients = append(part.Clients, t.Clients[r.Client])
			part.Agents = append(part.Agents, t.Agents[r.Client])
			index[r.Client] = int32(len(part.Clients))
		}
	}
	part.Requests = make([]Request, 0, count)
	if count == 0 {
		return &part
	}
	for i := range t.Requests {
		if r := t.Requests[i]; keep(&r) {
			r.Client = index[r.Client] - 1
			part.Requests = append(part.Requests, r)
		}
	}
	return &part
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

// TypicalCost is the power of ten at or below the mean cost of a request: 1 where each costs one token.
func (t *Trace) TypicalCost() int64 {
	if t.typicalCost == 0 {
		sum := int64(0)
		for i := range t.Requests {
			sum += int64(t.Requests[i].Cost)
		}
		t.typicalCost = 1
		for t.typicalCost*10*int64(len(t.Requests)) <= sum && sum > 0 {
			t.typicalCost *= 10
		}
	}
	return t.typicalCost
}

// TooFast reports whether the tokens of a typical request come back at the rate within one step of the stamps. Of such
// rates the log cannot tell whether requests had to wait for them.
func (t *Trace) TooFast(rate ratelimit.Rate) bool {
	return float64(rate.Per)*float64(t.TypicalCost()) < float64(rate.Tokens)*float64(t.Resolution)
}
