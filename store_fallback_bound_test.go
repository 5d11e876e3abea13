package ratelimit_test

import (
	"cmp"
	"context"
	"errors"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gin-ratelimit/ratelimit"
)

// The primary goes down and up a hundred times, under load: each cool-off ends in one probe, and the switches are reported in
// order.
func TestSwitchesAHundredTimes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const (
			coolOff = 200 * time.Millisecond
			timeout = 50 * time.Millisecond
			pause   = 10 * time.Millisecond // between a client's calls, at most
			clients = 8
		)
		var (
			mu       sync.Mutex
			switches []bool
			last     time.Time // when the breaker opened, or the probe before ended
			probes   int
		)
		primary := newFickleStore()
		var s *ratelimit.FallbackStore
		s = newFallback(t, primary, ratelimit.NewMemoryStore(), ratelimit.WithCoolOff(coolOff),
			ratelimit.WithOnSwitch(func(degraded bool, cause error) {
				if degraded != s.Degraded() || degraded != errors.Is(cause, errDown) {
					t.Errorf("degraded %v because of %v", degraded, cause)
				}
				mu.Lock()
				defer mu.Unlock()
				switches, last, probes = append(switches, degraded), time.Now(), 0
			}))
		probe := func() {
			mu.Lock()
			defer mu.Unlock()
			if gap := time.Since(last); gap < coolOff || gap > coolOff*3/2+pause {
				t.Errorf("a probe after %v", gap)
			}
			probes++
			last = time.Now().Add(timeout) // A second one meanwhile has a negative gap.
		}

		ctx, stop := context.WithCancel(t.Context())
		var load sync.WaitGroup
		for range clients {
			load.Go(func() {
				for ctx.Err() == nil {
					if r, err := s.Take(context.Background(), "key", ratelimit.Take{Limits: tenAnHour}); err != nil || !r.Allowed {
						t.Errorf("got %+v, %v", r, err)
					}
					time.Sleep(rand.N(pause))
				}
			})
		}
		for range 100 {
			primary.fallsIll(func() error {
				if s.Degraded() {
					probe()
				}
				time.Sleep(timeout)
				return errDown
			})
			time.Sleep(2*timeout + 3*coolOff + rand.N(coolOff))
			if mu.Lock(); probes < 1 || probes > 3 {
				t.Errorf("%d probes in three cool-offs", probes)
			}
			mu.Unlock()
			primary.recovers()
			time.Sleep(2*timeout + 2*coolOff)
			if s.Degraded() {
				t.Fatal("not back after two cool-offs")
			}
			primary.calls.Store(0)
			if time.Sleep(2 * pause); primary.calls.Load() < clients {
				t.Error("it is back, but is not asked")
			}
		}
		stop()
		load.Wait()
		for i, degraded := range switches {
			if degraded != (i%2 == 0) {
				t.Fatalf("switch %d: degraded %v", i, degraded)
			}
		}
		if len(switches) != 200 {
			t.Errorf("%d switches were told", len(switches))
		}
	})
}

// What is admitted over an outage stays within the documented bound, and reaches it.
func TestFallbackBound(t *testing.T) {
	traces := 120
	if testing.Short() {
		traces = 30
	}
	reached, highest := 0, 0.0
	for seed := range traces {
		synctest.Test(t, func(t *testing.T) {
			o := newOutages(t, uint64(seed))
			o.run()
			fallback, both := o.check()
			if fallback == 1 {
				reached++
			}
			highest = max(highest, both)
		})
		if t.Failed() {
			t.Fatalf("seed %d", seed)
		}
	}
	if !testing.Short() && (reached < traces/20 || highest < 0.9) {
		t.Errorf("the bound proves little: the fallbacks reached it in %d of %d traces, and all stores came up to %.2f of theirs", reached, traces, highest)
	}
	t.Logf("%d traces; the fallbacks reached their bound in %d; all stores together came up to %.3f of theirs", traces, reached, highest)
}

// outages is processes that share a primary, each with a fallback of its own, and links that break at random.
type outages struct {
	t       *testing.T
	random  *rand.Rand
	limit   ratelimit.Limit
	stores  []*ratelimit.FallbackStore
	links   []*fickleStore
	greedy  bool
	mu      sync.Mutex
	entries []admission
}

func upTo(random *rand.Rand, longest time.Duration) time.Duration {
	return time.Duration(random.Int64N(int64(longest)))
}

// admission is what one process admitted.
type admission struct {
	at      time.Duration
	process int
	n       int
	source  ratelimit.Source
}

func newOutages(t *testing.T, seed uint64) *outages {
	random := rand.New(rand.NewPCG(seed, 0))
	o := &outages{
		t:      t,
		random: random,
		limit:  ratelimit.Limit{Capacity: 1 + random.IntN(40), Refill: ratelimit.Rate{Tokens: 1 + random.IntN(20), Per: time.Duration(1+random.IntN(5)) * time.Second}},
		greedy: random.IntN(2) == 0,
	}
	processes := 1 + random.IntN(6)
	primary := ratelimit.NewMemoryStore()
	for range processes {
		link := &fickleStore{Store: primary}
		o.links = append(o.links, link)
		o.stores = append(o.stores, newFallback(t, link, ratelimit.NewMemoryStore(),
			ratelimit.WithShare(1/float64(processes)),
			ratelimit.WithTripAfter(1+random.IntN(6)),
			ratelimit.WithCoolOff(time.Duration(10+random.IntN(1000))*time.Millisecond)))
	}
	return o
}

// run lets clients take and links break for a minute.
func (o *outages) run() {
	const length = time.Minute
	start := time.Now()
	var running sync.WaitGroup
	for p, s := range o.stores {
		random := rand.New(rand.NewPCG(o.random.Uint64(), 0))
		running.Go(func() {
			for time.Since(start) < length {
				n := 1 + random.IntN(min(3, o.limit.Capacity))
				r, err := s.Take(context.Background(), "key", ratelimit.Take{N: n, Limits: []ratelimit.Limit{o.limit}})
				if err != nil {
					o.t.Errorf("a take of %d: %v", n, err)
					return
				}
				if r.Allowed {
					o.mu.Lock()
					o.entries = append(o.entries, admission{time.Since(start), p, n, r.Source})
					o.mu.Unlock()
				}
				switch {
				case !o.greedy:
					time.Sleep(upTo(random, 300*time.Millisecond))
				case !r.Allowed:
					time.Sleep(max(time.Millisecond, min(r.RetryAfter, 20*time.Millisecond)))
				}
			}
		})
	}
	running.Go(func() {
		for time.Since(start) < length {
			together, calm := o.random.IntN(2) == 0, upTo(o.random, 8*time.Second)
			for _, link := range o.links {
				if together || o.random.IntN(2) == 0 {
					o.breakLink(link)
				}
			}
			time.Sleep(upTo(o.random, 4*time.Second))
			for _, link := range o.links {
				link.recovers()
			}
			time.Sleep(calm)
		}
	})
	running.Wait()
}

// breakLink makes calls fail at once or after a while, and with or without having been executed.
func (o *outages) breakLink(link *fickleStore) {
	delay, lost := upTo(o.random, 50*time.Millisecond), o.random.IntN(2) == 0
	if o.random.IntN(2) == 0 {
		delay = 0
	}
	link.fallsIll(func() error {
		if lost {
			_, _ = link.Store.Take(context.Background(), "key", ratelimit.Take{N: 1, Limits: []ratelimit.Limit{o.limit}})
		}
		time.Sleep(delay)
		return errDown
	})
}

// check compares every window of what was admitted with the bound. It returns how much of it was used, of 1: by
// the fallbacks together, and by all stores.
func (o *outages) check() (fallback, both float64) {
	processes := len(o.stores)
	// A token is so many units that both rates are whole numbers of units a microsecond.
	token := int64(o.limit.Refill.Per/time.Microsecond) * int64(processes)
	part := window{capacity: max(1, int64(o.limit.Capacity/processes)) * token, rate: int64(o.limit.Refill.Tokens)}
	parts := window{capacity: int64(processes) * part.capacity, rate: int64(processes) * part.rate}
	whole := window{capacity: int64(o.limit.Capacity) * token, rate: int64(processes) * part.rate}
	all := window{capacity: whole.capacity + parts.capacity, rate: whole.rate + parts.rate}

	each := make([]window, processes)
	for p := range each {
		each[p] = part
	}
	slices.SortStableFunc(o.entries, func(a, b admission) int { return cmp.Compare(a.at, b.at) })
	for _, e := range o.entries {
		ok := all.add(e.at, int64(e.n)*token)
		if e.source == ratelimit.SourceFallback {
			ok = each[e.process].add(e.at, int64(e.n)*token) && parts.add(e.at, int64(e.n)*token) && ok
		} else {
			ok = whole.add(e.at, int64(e.n)*token) && ok
		}
		if !ok {
			o.t.Errorf("limit %v, %d processes: more than the bound at %+v", o.limit, processes, e)
			return 0, 0
		}
	}
	return float64(parts.worst) / float64(parts.capacity), float64(all.worst) / float64(all.capacity)
}

// window compares all windows up to now with capacity + rate · length; level is the worst of them, in units.
type window struct {
	capacity, rate, level, worst int64
	last                         int64 // in microseconds, which is how stores count time
}

func (w *window) add(at time.Duration, units int64) (ok bool) {
	now := at.Microseconds()
	w.level = max(0, w.level-w.rate*(now-w.last)) + units
	w.last = now
	w.worst = max(w.worst, w.level)
	return w.level <= w.capacity
}
