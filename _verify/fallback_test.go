package verify

import (
	"context"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/gin-ratelimit/ratelimit"
	"github.com/gin-ratelimit/ratelimit/internal/redistest"
)

// Two stores on one Redis lose it and get it back, a hundred times. What all admit stays within the documented bound, and a
// Redis that is down is asked once per cool-off and process.
func TestF28BackAndForth(t *testing.T) { nearAndFar(t, "F28", f28BackAndForth) }

func f28BackAndForth(t *testing.T, c *trial) {
	server := redistest.Start(t)
	p := startProxy(t, server.Addr)
	const members, coolOff = 2, 40 * time.Millisecond
	limit := ratelimit.Limit{Capacity: 20, Refill: ratelimit.PerSecond(20)}
	var mu sync.Mutex
	var log []admission
	var latencies []time.Duration
	var asking sync.WaitGroup
	stop := make(chan struct{})
	done := sync.OnceFunc(func() { close(stop); asking.Wait() })
	t.Cleanup(done)
	var calls atomic.Int64
	var switches [members][]bool
	stores := make([]*ratelimit.FallbackStore, members)
	for m := range members {
		client := openClient(t, &redis.Options{Addr: p.addr, DialerRetries: 1, PoolSize: 100, MaxRetries: -1})
		var err error
		stores[m], err = ratelimit.NewFallbackStore(&counted{Store: storeOn(t, client), calls: &calls}, ratelimit.NewMemoryStore(),
			ratelimit.WithShare(1.0/members), ratelimit.WithCoolOff(coolOff),
			ratelimit.WithOnSwitch(func(degraded bool, _ error) {
				mu.Lock()
				defer mu.Unlock()
				switches[m] = append(switches[m], degraded)
			}))
		if err != nil {
			t.Fatal(err)
		}
		for range 2 {
			asking.Go(func() {
				ticks := time.NewTicker(2 * time.Millisecond)
				defer ticks.Stop()
				for {
					select {
					case <-stop:
						return
					case <-ticks.C:
					}
					start := monotonic()
					r, err := stores[m].Take(context.Background(), "key", ratelimit.Take{N: 1, Limits: []ratelimit.Limit{limit}})
					end := monotonic()
					if err != nil {
						t.Error(err)
					}
					mu.Lock()
					latencies = append(latencies, time.Duration(end-start))
					if r.Allowed {
						log = append(log, admission{"key", 1, start, end})
					}
					mu.Unlock()
				}
			})
		}
	}
	all := func(degraded bool) func() bool {
		return func() bool {
			return !slices.ContainsFunc(stores, func(s *ratelimit.FallbackStore) bool { return s.Degraded() != degraded })
		}
	}
	began := time.Now()
	times := pick(100, 10)
	var probes float64
	for range times {
		p.refuse(true)
		eventually(t, 5*time.Second, "all fall back", all(true))
		calls.Store(0)
		away := time.Now()
		time.Sleep(3 * coolOff)
		asked := float64(calls.Load())
		probes = max(probes, asked/(members*(1+float64(time.Since(away))/float64(coolOff))))
		p.refuse(false)
		back := monotonic()
		eventually(t, 5*time.Second, "all are back", all(false))
		c.recovers(time.Duration(monotonic()-back), time.Second)
	}
	done()
	c.times(times)
	c.takes(latencies, 50*time.Millisecond)
	elapsed := time.Since(began)
	c.exceeds(worstExcess(log, limit), members*float64(limit.Capacity/members)+20*elapsed.Seconds())
	c.note("at most %.1f probes per cool-off and process", probes)
	if probes > 1 {
		t.Errorf("%.1f probes per cool-off and process", probes)
	}
	for m, seen := range switches {
		for i, degraded := range seen {
			if degraded != (i%2 == 0) {
				t.Fatalf("store %d: switches are told as %v", m, seen)
			}
		}
	}
}

// counted counts the calls to a store.
type counted struct {
	ratelimit.Store
	calls *atomic.Int64
}

func (s *counted) Take(ctx context.Context, key string, take ratelimit.Take) (ratelimit.Result, error) {
	s.calls.Add(1)
	return s.Store.Take(ctx, key, take)
}
