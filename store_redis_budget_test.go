package ratelimit_test

import (
	"context"
	"sync"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/gin-ratelimit/ratelimit"
	"github.com/gin-ratelimit/ratelimit/internal/redistest"
)

// A Redis that hangs costs the budget, whatever the client's own timeouts, which are seconds by default.
func TestRedisBudget(t *testing.T) {
	const budget = 50 * time.Millisecond
	hanging := redistest.Start(t)
	addrs := map[string]func() string{
		"black hole": func() string { return redistest.Silent(t) },
		"paused":     func() string { return hanging.Addr },
	}
	clients := map[string]func(addr string) redis.UniversalClient{
		"plain": func(addr string) redis.UniversalClient { return redis.NewClient(&redis.Options{Addr: addr}) },
		"no retries": func(addr string) redis.UniversalClient {
			return redis.NewClient(&redis.Options{Addr: addr, MaxRetries: -1})
		},
		"context": func(addr string) redis.UniversalClient {
			return redis.NewClient(&redis.Options{Addr: addr, ContextTimeoutEnabled: true})
		},
		"no timeouts": func(addr string) redis.UniversalClient {
			return redis.NewClient(&redis.Options{Addr: addr, ReadTimeout: -1, WriteTimeout: -1})
		},
		"one at a time": func(addr string) redis.UniversalClient {
			return redis.NewClient(&redis.Options{Addr: addr, PoolSize: 1})
		},
		"ring": func(addr string) redis.UniversalClient {
			return redis.NewRing(&redis.RingOptions{Addrs: map[string]string{"a": addr}, ContextTimeoutEnabled: true})
		},
		"cluster": func(addr string) redis.UniversalClient {
			return redis.NewClusterClient(&redis.ClusterOptions{
				ContextTimeoutEnabled: true,
				ClusterSlots: func(context.Context) ([]redis.ClusterSlot, error) {
					return []redis.ClusterSlot{{End: 16383, Nodes: []redis.ClusterNode{{Addr: addr}}}}, nil
				},
			})
		},
	}
	for place, addr := range addrs {
		for kind, connect := range clients {
			t.Run(place+"/"+kind, func(t *testing.T) {
				client := connect(addr())
				defer client.Close()
				store, err := ratelimit.NewRedisStore(client)
				if err != nil {
					t.Fatal(err)
				}
				if place == "paused" {
					mustTakeEventually(t, store)
					hanging.Pause()
					defer hanging.Resume()
				}
				// The machine may be busy, so one take in time is enough: without a budget, none would be.
				best, worst := time.Hour, time.Duration(0)
				for range 5 {
					start := time.Now()
					_, err := store.Take(ctx, "key", ratelimit.Take{N: 1, Limits: ten})
					took := time.Since(start)
					best, worst = min(best, took), max(worst, took)
					if err == nil {
						t.Fatal("decided without Redis")
					}
				}
				if best > 3*budget || worst > 20*budget {
					t.Errorf("5 takes took from %v to %v, with a budget of %v", best, worst, budget)
				}
				// Takes that come together do not wait for one another.
				var waiting sync.WaitGroup
				start := time.Now()
				for range 100 {
					waiting.Go(func() { _, _ = store.Take(ctx, "key", ratelimit.Take{N: 1, Limits: ten}) })
				}
				waiting.Wait()
				if took := time.Since(start); took > 20*budget {
					t.Errorf("100 takes at once took %v", took)
				}
			})
		}
	}
}

// Each reply to a new connection comes in time, but all together come too late.
func TestRedisBudgetIsForAllRoundTrips(t *testing.T) {
	const budget = 200 * time.Millisecond
	replies := newReplies(t, "-NOSCRIPT no\r\n")
	replies.delay = budget * 3 / 4
	for name, options := range map[string]redis.Options{
		"plain":   {},
		"context": {ContextTimeoutEnabled: true},
	} {
		t.Run(name, func(t *testing.T) {
			options.Addr = replies.addr
			client := redis.NewClient(&options)
			defer client.Close()
			store, err := ratelimit.NewRedisStore(client, ratelimit.WithTimeout(budget))
			if err != nil {
				t.Fatal(err)
			}
			best := time.Hour
			for range 3 {
				start := time.Now()
				if _, err := store.Take(ctx, "key", ratelimit.Take{N: 1, Limits: ten}); err == nil {
					t.Fatal("decided without a reply")
				}
				best = min(best, time.Since(start))
			}
			if best > budget*3/2 {
				t.Errorf("a take took %v, with a budget of %v", best, budget)
			}
		})
	}
}

// CLIENT PAUSE holds commands back while everything else works.
func TestRedisClientPause(t *testing.T) {
	for _, mode := range []string{"all", "write"} {
		t.Run(mode, func(t *testing.T) {
			server := redistest.Start(t)
			client := redis.NewClient(&redis.Options{Addr: server.Addr})
			defer client.Close()
			store, err := ratelimit.NewRedisStore(client)
			if err != nil {
				t.Fatal(err)
			}
			mustTakeEventually(t, store)
			const pause = 1500 // ms
			if err := server.Client().Do(ctx, "client", "pause", pause, mode).Err(); err != nil {
				t.Fatal(err)
			}
			start := time.Now()
			_, err = store.Take(ctx, "key", ratelimit.Take{N: 1, Limits: ten})
			if took := time.Since(start); err == nil || took > time.Second {
				t.Errorf("error %v after %v, with a budget of 50 ms", err, took)
			}
			mustTakeEventually(t, store)
			// The take was charged once or not at all. A retry would have charged it twice.
			if r := mustTake(t, redisStore(t, client), "key", 0, ten...); r.Remaining < 9 {
				t.Errorf("%d of 10 remain after one take", r.Remaining)
			}
		})
	}
}

// An HTTP client that hangs up must not look like a store that fails.
func TestRedisContextOfTheRequest(t *testing.T) {
	server := redistest.Start(t)
	store := redisStore(t, server.Client())
	cancelled, cancel := context.WithCancel(ctx)
	cancel()
	expired, cancel := context.WithDeadline(ctx, time.Unix(0, 0))
	defer cancel()
	var receipts []ratelimit.Receipt
	for i, gone := range []context.Context{cancelled, expired} {
		r, err := store.Take(gone, "key", ratelimit.Take{N: 1, Limits: still})
		receipts = append(receipts, r.Receipt)
		if want := still[0].Capacity - 1 - i; err != nil || r.Remaining != want {
			t.Errorf("%d remaining, want %d; %v", r.Remaining, want, err)
		}
	}
	if r, err := store.Adjust(cancelled, "key", ratelimit.Adjustment{N: 2, Limits: still, Receipt: receipts[1]}); err != nil || r.Remaining != still[0].Capacity {
		t.Errorf("%d remaining, %v", r.Remaining, err)
	}
	if _, err := store.Reset(cancelled, "key"); err != nil {
		t.Error(err)
	}
}

func TestRedisDownAtFirst(t *testing.T) {
	server := redistest.Start(t)
	server.Stop()
	client := redis.NewClient(&redis.Options{Addr: server.Addr})
	defer client.Close()
	store, err := ratelimit.NewRedisStore(client)
	if err != nil {
		t.Fatalf("Redis need not be up: %v", err)
	}
	for range 3 {
		if _, err := store.Take(ctx, "key", ratelimit.Take{N: 1, Limits: ten}); err == nil {
			t.Fatal("decided without Redis")
		}
	}
	for range 2 {
		server.Restart()
		mustTakeEventually(t, store)
		server.Kill()
		if _, err := store.Take(ctx, "key", ratelimit.Take{N: 1, Limits: ten}); err == nil {
			t.Fatal("decided without Redis")
		}
	}
}

func TestRedisClientClosed(t *testing.T) {
	server := redistest.Start(t)
	client := redis.NewClient(&redis.Options{Addr: server.Addr})
	store := redisStore(t, client)
	mustTake(t, store, "key", 1, ten...)
	_ = client.Close()
	if _, err := store.Take(ctx, "key", ratelimit.Take{N: 1, Limits: ten}); err == nil {
		t.Error("no error from a closed client")
	}
}
