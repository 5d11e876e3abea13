// Package traffic makes up the requests of a day and writes them as servers log them. Tests and benchmarks read that.
package traffic

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"time"
)

// Request is what a log could tell of a request.
type Request struct {
	Begin time.Time
	Took  time.Duration

	Client, User, Method, Path, Referer, Agent, Plan string
	Status, Bytes, Cost                              int
}

// The clients that are not people by themselves.
const (
	Office   = "198.51.100.7"   // 40 people behind one address, at work
	Crawler  = "203.0.113.66"   // a page every ten seconds, all day
	Attacker = "203.0.113.99"   // 50 passwords a second, for two minutes at night
	agents   = 40               // of the office
	attack   = 2 * time.Minute  // how long it takes
	pause    = 10 * time.Second // of the crawler
)

// Day returns what so many people, an office, a crawler and an attacker ask for in the 24 hours from start, in the order
// in which the requests begin. The same seed gives the same day.
func Day(seed uint64, start time.Time, people int) []Request {
	d := &day{Rand: rand.New(rand.NewPCG(seed, 0)), start: start}
	for person := range people {
		client, agent := fmt.Sprintf("192.0.%d.%d", person/250, 1+person%250), browser(d.IntN(12))
		for range 1 + d.IntN(3) {
			d.visit(client, agent, d.hour())
		}
	}
	for person := range agents {
		for range 4 {
			d.visit(Office, browser(person), time.Duration(9+d.Float64()*8)*time.Hour+time.Duration(d.Int64N(int64(time.Hour))))
		}
	}
	for at := time.Duration(0); at < 24*time.Hour; at += pause + time.Duration(d.Int64N(int64(time.Second))) {
		d.add(at, Request{Client: Crawler, Agent: "examplebot/1.0", Method: "GET", Path: fmt.Sprintf("/articles/%d", d.IntN(5000))})
	}
	for at := time.Duration(0); at < attack; at += time.Second / 50 {
		d.add(3*time.Hour+at, Request{Client: Attacker, Agent: "python-requests/2.32", Method: "POST", Path: "/login", Status: 401})
	}
	slices.SortStableFunc(d.requests, func(a, b Request) int { return a.Begin.Compare(b.Begin) })
	return d.requests
}

type day struct {
	*rand.Rand
	start    time.Time
	requests []Request
}

// hour is a time of the day: nights are quiet, and evenings are not.
func (d *day) hour() time.Duration {
	for {
		at := d.Float64() * 24
		busy := 0.05
		if at > 7 {
			busy = 0.3 + 0.7*(at-7)/13
		}
		if at > 22 {
			busy = 0.4
		}
		if d.Float64() < busy {
			return time.Duration(at * float64(time.Hour))
		}
	}
}

// visit adds a few pages, each with what belongs to it.
func (d *day) visit(client, agent string, at time.Duration) {
	user := ""
	if d.IntN(3) == 0 {
		user = fmt.Sprintf("user%d", d.IntN(500))
	}
	for range 1 + d.IntN(8) {
		page := fmt.Sprintf("/articles/%d?from=%s", d.IntN(5000), client)
		d.add(at, Request{Client: client, User: user, Agent: agent, Method: "GET", Path: page, Plan: "free"})
		for range d.IntN(6) {
			at += time.Duration(d.Int64N(int64(80 * time.Millisecond)))
			d.add(at, Request{Client: client, User: user, Agent: agent, Method: "GET", Path: fmt.Sprintf("/assets/%d.js", d.IntN(40)), Referer: "https://example.com" + page, Plan: "free"})
		}
		at += time.Duration(d.Int64N(int64(time.Minute)))
	}
}

// add adds a request that begins at a time of the day, within it.
func (d *day) add(at time.Duration, r Request) {
	r.Begin = d.start.Add(at % (24 * time.Hour)).Truncate(time.Microsecond)
	r.Took = time.Duration(d.ExpFloat64() * float64(40*time.Millisecond)).Truncate(time.Millisecond)
	r.Bytes, r.Cost = 200+d.IntN(20_000), 1
	if r.Status == 0 {
		r.Status = 200
	}
	d.requests = append(d.requests, r)
}

func browser(n int) string {
	return fmt.Sprintf("Mozilla/5.0 (X11; Linux x86_64; rv:%d.0) Gecko/20100101 Firefox/%d.0", 100+n, 100+n)
}

// Handful returns so few requests that their figures can be worked out by hand. In whole seconds from start:
//
//	192.0.2.1  5 at 0, 3 at 1, 2 at 2
//	192.0.2.2  3 at 0
//	192.0.2.3  1 at 0, 1 at 60
//	192.0.2.4  1 at 30
func Handful(start time.Time) (requests []Request) {
	for _, group := range []struct{ client, at, count int }{{1, 0, 5}, {2, 0, 3}, {3, 0, 1}, {1, 1, 3}, {1, 2, 2}, {4, 30, 1}, {3, 60, 1}} {
		for range group.count {
			requests = append(requests, Request{
				Begin: start.Add(time.Duration(group.at) * time.Second), Client: fmt.Sprintf("192.0.2.%d", group.client),
				Method: "GET", Path: "/", Status: 200, Cost: 1,
			})
		}
	}
	return requests
}
