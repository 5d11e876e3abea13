package verify

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/gin-gonic/gin"
	"github.com/redis/go-redis/v9"

	"github.com/gin-ratelimit/ratelimit"
	"github.com/gin-ratelimit/ratelimit/internal/redistest"
)

func TestA08EveryClientCancels(t *testing.T) {
	c := try(t, "A8")
	server := redistest.Start(t)
	p := startProxy(t, server.Addr)
	p.with(func([]byte) action { return action{pass: -1, delay: 15 * time.Millisecond} })
	direct := openStore(t, server.Addr, patient)
	store, err := ratelimit.NewFallbackStore(openStore(t, p.addr, patient), ratelimit.NewMemoryStore())
	if err != nil {
		t.Fatal(err)
	}
	var handled atomic.Int64
	engine := gin.New()
	engine.GET("/", ratelimit.New(ratelimit.WithName("a8"), ratelimit.WithStore(store), ratelimit.WithCapacity(hoard.Capacity),
		ratelimit.WithRefillRate(hoard.Refill), ratelimit.WithKeyFunc(func(*gin.Context) string { return "key" })),
		func(*gin.Context) { handled.Add(1) })
	times := pick(1000, 200)
	var canceling sync.WaitGroup
	for range 4 {
		canceling.Go(func() {
			for range times / 4 {
				ctx, cancel := context.WithCancel(context.Background())
				w := httptest.NewRecorder()
				timer := time.AfterFunc(2*time.Millisecond, cancel)
				engine.ServeHTTP(w, httptest.NewRequestWithContext(ctx, http.MethodGet, "/", http.NoBody))
				timer.Stop()
				cancel()
				if w.Code != http.StatusOK {
					t.Errorf("status %d", w.Code)
				}
			}
		})
	}
	canceling.Wait()
	if n := handled.Load(); n != int64(times) {
		t.Errorf("the handler ran for %d of %d requests, whose clients were gone", n, times)
	}
	if store.Degraded() {
		t.Error("clients that hang up have opened the breaker")
	}
	if got := charged(t, direct, "a8:key"); got > times {
		t.Errorf("%d requests were charged %d times", times, got)
	}
	c.times(times)
	c.exceeds(0, 0)
}

func TestA09HammeredKey(t *testing.T) {
	c := try(t, "A9")
	server := redistest.Start(t, redistest.WithClock())
	clock := server.Clock()
	clock.Freeze(time.Now())
	const interval = 86400 * time.Millisecond
	limit := ratelimit.Limit{Capacity: 1, Refill: ratelimit.Every(interval)}
	store, err := ratelimit.NewRedisStore(openClient(t, &redis.Options{Addr: server.Addr}), patient)
	if err != nil {
		t.Fatal(err)
	}
	admin := server.Client()
	var asked atomic.Int64
	// hammer returns how many of the takes within d were admitted.
	hammer := func(d time.Duration) int64 {
		var admitted atomic.Int64
		var hammering sync.WaitGroup
		until := time.Now().Add(d)
		for range 2 {
			hammering.Go(func() {
				for time.Now().Before(until) {
					r, err := store.Take(context.Background(), "key", ratelimit.Take{N: 1, Limits: []ratelimit.Limit{limit}})
					if err != nil {
						t.Error(err)
						return
					}
					asked.Add(1)
					if r.Allowed {
						admitted.Add(1)
					}
				}
			})
		}
		hammering.Wait()
		return admitted.Load()
	}
	began := time.Now()
	const span = 1300 * time.Millisecond // A remembered refusal lasts a second.
	cycles := pick(5, 1)
	for i := range cycles {
		if n := hammer(span); n != 1 {
			t.Errorf("cycle %d: %d were admitted", i, n)
		}
		before := admin.PTTL(t.Context(), "ratelimit:key").Val()
		clock.Advance(interval / 2)
		if n := hammer(span); n != 0 {
			t.Errorf("cycle %d: %d were admitted at half time", i, n)
		}
		clock.Advance(interval/2 - time.Microsecond)
		if take(t, store, "key", 1, limit).Allowed {
			t.Errorf("cycle %d: admitted a microsecond too early", i)
		}
		after := admin.PTTL(t.Context(), "ratelimit:key").Val()
		if grown := after - (before - interval); grown > 2*time.Millisecond {
			t.Errorf("cycle %d: the TTL has grown by %v", i, grown)
		}
		clock.Advance(time.Microsecond)
	}
	elapsed := time.Since(began).Seconds()
	ran := server.CommandCalls("evalsha")
	c.times(int(asked.Load()))
	c.exceeds(0, 0)
	c.note("%.0f requests a second, of which Redis saw %.1f", float64(asked.Load())/elapsed, float64(ran)/elapsed)
	const probe = 33 // Calls by which the store finds out, every ten seconds under load, whether there is one server.
	if float64(ran) > 10*elapsed+probe*(1+elapsed/10) {
		t.Errorf("Redis was asked %d times in %.0f s", ran, elapsed)
	}
}

// Clients that never finish their bodies keep the handler waiting. They hold no connection to Redis, no lock and no goroutine
// of the limiter's.
func TestA10SlowBodies(t *testing.T) {
	c := try(t, "A10")
	server := redistest.Start(t)
	client := openClient(t, &redis.Options{Addr: server.Addr, PoolSize: 2})
	store := storeOn(t, client, ratelimit.WithTimeout(time.Second))
	var inside atomic.Int64
	engine := gin.New()
	engine.Use(ratelimit.New(ratelimit.WithName("a10"), ratelimit.WithStore(store), ratelimit.WithRefillRate(ratelimit.PerHour(1_000_000)),
		ratelimit.WithErrorHandler(ratelimit.FailClosed)))
	engine.POST("/", func(c *gin.Context) {
		inside.Add(1)
		defer inside.Add(-1)
		_, _ = io.Copy(io.Discard, c.Request.Body)
	})
	engine.GET("/", func(c *gin.Context) { c.String(http.StatusOK, "done") })
	web := httptest.NewServer(engine)
	defer web.Close()
	before := runtime.NumGoroutine()
	slow := pick(1000, 200)
	var conns []net.Conn
	defer func() {
		for _, conn := range conns {
			_ = conn.Close()
		}
	}()
	for range slow {
		conn, err := net.Dial("tcp", web.Listener.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		conns = append(conns, conn)
		if _, err := fmt.Fprint(conn, "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\nx"); err != nil {
			t.Fatal(err)
		}
	}
	eventually(t, 30*time.Second, "all are in the handler", func() bool { return inside.Load() == int64(slow) })
	if n := runtime.NumGoroutine() - before; n > 2*slow+20 { // net/http has two for each.
		t.Errorf("%d goroutines for %d requests", n, slow)
	}
	var latencies []time.Duration
	for range 50 {
		began := time.Now()
		res, err := web.Client().Get(web.URL)
		if err != nil {
			t.Fatal(err)
		}
		latencies = append(latencies, time.Since(began))
		_ = res.Body.Close()
		if res.StatusCode != http.StatusOK {
			t.Errorf("status %d", res.StatusCode)
		}
	}
	if stats := client.PoolStats(); stats.TotalConns-stats.IdleConns > 0 {
		t.Errorf("%d connections to Redis are held", stats.TotalConns-stats.IdleConns)
	}
	c.times(slow)
	c.takes(latencies, 50*time.Millisecond)
	c.exceeds(0, 0)
}
