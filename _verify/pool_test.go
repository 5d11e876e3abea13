package verify

import (
	"context"
	"errors"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/gin-ratelimit/ratelimit"
	"github.com/gin-ratelimit/ratelimit/internal/redistest"
)

func TestF25PoolExhausted(t *testing.T) { nearAndFar(t, "F25", f25PoolExhausted) }

func f25PoolExhausted(t *testing.T, c *trial) {
	const goroutines, budget = 1000, 50 * time.Millisecond
	for _, frozen := range []bool{false, true} {
		server := redistest.Start(t)
		store := storeOn(t, openClient(t, &redis.Options{Addr: server.Addr, PoolSize: 1}), ratelimit.WithTimeout(budget))
		reach(t, store)
		take(t, store, "key", 1, hoard)
		before := runtime.NumGoroutine()
		if frozen {
			server.Pause()
		}
		var asking sync.WaitGroup
		var ok atomic.Int64
		latencies := make([]time.Duration, goroutines)
		for i := range goroutines {
			asking.Go(func() {
				began := time.Now()
				_, err := store.Take(context.Background(), "key", ratelimit.Take{N: 1, Limits: []ratelimit.Limit{hoard}})
				latencies[i] = time.Since(began)
				if err == nil {
					ok.Add(1)
				}
			})
		}
		peak := runtime.NumGoroutine()
		asking.Wait()
		server.Resume()
		c.times(goroutines)
		c.takes(latencies, budget)
		if peak > before+2*goroutines {
			t.Errorf("%d goroutines for %d takes", peak-before, goroutines)
		}
		info, err := server.Client().ClientList(t.Context()).Result()
		if err != nil {
			t.Fatal(err)
		}
		// One is the admin's, and the server may still list one that is closed.
		connections := strings.Count(info, "\n")
		if connections > 2+int(time.Second/budget) {
			t.Errorf("%d connections", connections)
		}
		c.note("frozen %v: %d of %d decided, %d connections", frozen, ok.Load(), goroutines, connections)
		if !frozen && ok.Load() == 0 {
			t.Error("nobody got a decision from a Redis that is well")
		}
		// The charged takes are those that were decided, and those that gave up after they were sent.
		reader := openStore(t, server.Addr, patient)
		if got := charged(t, reader, "key") - 1; got > goroutines || got < int(ok.Load()) {
			t.Errorf("%d of %d takes decided, %d charged", ok.Load(), goroutines, got)
		}
	}
	c.exceeds(0, 0)
}

func TestF26Clients(t *testing.T) { nearAndFar(t, "F26", f26Clients) }

func f26Clients(t *testing.T, c *trial) {
	nodes := redistest.Cluster(t, 3)
	for name, client := range map[string]redis.UniversalClient{
		"cluster without deadlines": redis.NewClusterClient(&redis.ClusterOptions{Addrs: nodes.Addrs()}),
		"ring without deadlines":    redis.NewRing(&redis.RingOptions{Addrs: map[string]string{"a": nodes.Addrs()[0]}}),
		"nil":                       (*redis.Client)(nil),
		"unknown":                   struct{ redis.UniversalClient }{},
	} {
		if _, err := ratelimit.NewRedisStore(client); err == nil {
			t.Errorf("%s: no error", name)
		}
		if closer, ok := client.(interface{ Close() error }); ok && name != "nil" && name != "unknown" {
			_ = closer.Close()
		}
		c.times(1)
	}

	// The store makes a single server's client keep deadlines.
	server := redistest.Start(t)
	single := openClient(t, &redis.Options{Addr: server.Addr, MaxRetries: 3})
	const budget = 50 * time.Millisecond
	store := storeOn(t, single, ratelimit.WithTimeout(budget))
	reach(t, store)
	take(t, store, "key", 1, hoard)
	server.Pause()
	var latencies []time.Duration
	for range 10 {
		began := time.Now()
		if _, err := store.Take(t.Context(), "key", ratelimit.Take{N: 1, Limits: []ratelimit.Limit{hoard}}); err == nil {
			t.Error("a frozen server has decided")
		}
		latencies = append(latencies, time.Since(began))
	}
	server.Resume()
	c.takes(latencies, budget)
	if got := charged(t, openStore(t, server.Addr, patient), "key"); got > 11 {
		t.Errorf("11 takes were charged %d times", got)
	}
	if single.Options().ContextTimeoutEnabled {
		t.Error("the caller's own client was changed")
	}

	// Takes are never sent to replicas, however reads are routed, and never twice.
	replicated := redistest.Cluster(t, 6)
	for name, options := range map[string]redis.ClusterOptions{
		"ReadOnly":       {ReadOnly: true},
		"RouteByLatency": {RouteByLatency: true},
		"RouteRandomly":  {RouteRandomly: true},
	} {
		if options.RouteByLatency && testing.Short() {
			// Short runs use the race detector, and go-redis 9.23 has a race: it writes to the client of a new node while a
			// goroutine measures its latency.
			continue
		}
		options.Addrs, options.Dialer, options.ContextTimeoutEnabled, options.MaxRetries = replicated.Addrs(), far, true, 3
		client := redis.NewClusterClient(&options)
		defer client.Close()
		store, err := ratelimit.NewRedisStore(client, patient, ratelimit.WithDenyCache(0))
		if err != nil {
			c.note("%s: refused when the store is made", name)
			continue
		}
		const times = 100
		for range times {
			take(t, store, name, 1, hoard)
		}
		if got := charged(t, store, name); got != times {
			t.Errorf("%s: %d takes were charged %d times", name, times, got)
		}
		c.times(times)
	}
	c.exceeds(0, 0)
}

func TestF27ClientClosed(t *testing.T) { nearAndFar(t, "F27", f27ClientClosed) }

func f27ClientClosed(t *testing.T, c *trial) {
	server := redistest.Start(t)
	const budget = 50 * time.Millisecond
	if far != nil { // The link itself has a goroutine, which must not be counted.
		conn, err := far(t.Context(), "tcp", server.Addr)
		if err != nil {
			t.Fatal(err)
		}
		_ = conn.Close()
		time.Sleep(100 * time.Millisecond)
	}
	for range pick(20, 5) {
		before := runtime.NumGoroutine()
		client := redis.NewClient(&redis.Options{Addr: server.Addr, Dialer: far})
		store := storeOn(t, client, ratelimit.WithTimeout(budget))
		var asking sync.WaitGroup
		var mu sync.Mutex
		var latencies []time.Duration
		var failures atomic.Int64
		stop := make(chan struct{})
		for range 8 {
			asking.Go(func() {
				for {
					select {
					case <-stop:
						return
					default:
					}
					began := time.Now()
					_, err := store.Take(context.Background(), "key", ratelimit.Take{N: 1, Limits: []ratelimit.Limit{hoard}})
					took := time.Since(began)
					mu.Lock()
					latencies = append(latencies, took)
					mu.Unlock()
					if err != nil {
						failures.Add(1)
						if errors.Is(err, ratelimit.ErrArgument) {
							t.Error(err)
						}
						time.Sleep(time.Millisecond)
					}
				}
			})
		}
		time.Sleep(20 * time.Millisecond)
		_ = client.Close()
		eventually(t, 5*time.Second, "takes fail", func() bool { return failures.Load() > 20 })
		close(stop)
		asking.Wait()
		eventually(t, 5*time.Second, "no goroutine is left", func() bool { return runtime.NumGoroutine() <= before })
		c.times(1)
		c.takes(latencies, budget)
	}
	c.exceeds(0, 0)
}
