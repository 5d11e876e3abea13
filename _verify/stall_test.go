package verify

import (
	"context"
	"math/rand/v2"
	"net/http"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/gin-ratelimit/ratelimit"
	"github.com/gin-ratelimit/ratelimit/internal/redistest"
)

func TestF04Frozen(t *testing.T) { nearAndFar(t, "F4", f04Frozen) }

func f04Frozen(t *testing.T, c *trial) {
	for _, withFallback := range []bool{false, true} {
		server := redistest.Start(t)
		stall(c, server, withFallback, time.Duration(pick(3000, 1000))*time.Millisecond, func(d time.Duration) {
			server.Pause()
			time.Sleep(d)
			server.Resume()
		})
	}
}

func TestF05ClientPause(t *testing.T) { nearAndFar(t, "F5", f05ClientPause) }

func f05ClientPause(t *testing.T, c *trial) {
	for _, mode := range []string{"ALL", "WRITE"} {
		server := redistest.Start(t)
		admin := server.Client()
		stall(c, server, mode == "ALL", 2*time.Second, func(d time.Duration) {
			if err := admin.Do(t.Context(), "client", "pause", d.Milliseconds(), mode).Err(); err != nil {
				t.Fatal(err)
			}
			time.Sleep(d)
		})
	}
}

// stall has a fault happen under load during which Redis does not reply. Takes that gave up are executed afterwards: they are
// charged once, and admitted no request.
func stall(c *trial, server *redistest.Server, withFallback bool, length time.Duration, fault func(time.Duration)) {
	c.t.Helper()
	spec := defaultSpec(server.Addr)
	if withFallback {
		spec = spec.withFallback()
	}
	l := startLoad(c.t, processes, spec)
	l.run(300 * time.Millisecond)
	began := monotonic()
	fault(length)
	ended := monotonic()
	l.failing(began, time.Second)
	due := time.Second
	if withFallback {
		due += coolOff * 3 / 2
	}
	c.recovers(l.recovered(ended, 10*time.Second), due)
	l.run(500 * time.Millisecond)
	log := l.stop()
	c.times(1)
	during := log.between(began, ended)
	c.takes(during.latencies(), spec.Budget)
	allowance := 0.0
	if withFallback {
		allowance = spec.fallbackBound(time.Duration(log.lastFallback(began) - began))
		if n := log.count(failed); n > 0 {
			c.t.Errorf("%d requests got no decision, although there is a fallback: %v", n, log.errors())
		}
		c.note("median during the stall with a fallback %v", percentile(during.latencies(), 50).Round(time.Microsecond))
	}
	c.exceeds(worstExcess(log.admissions(), spec.Limit), allowance)
	if ran := server.CommandCalls("evalsha"); ran > int64(len(log)) {
		c.t.Errorf("Redis ran %d takes for %d requests", ran, len(log))
	}
}

// During a freeze, 200 concurrent requests take their budget until the breaker opens, and then almost no time.
func TestFreezeUnder200Requests(t *testing.T) { nearAndFar(t, "F4", freezeUnder200Requests) }

func freezeUnder200Requests(t *testing.T, c *trial) {
	server := redistest.Start(t)
	spec := defaultSpec(server.Addr).withFallback()
	client := openClient(t, &redis.Options{Addr: server.Addr})
	opened := make(chan int64, 100)
	store, err := spec.store(client, ratelimit.WithOnSwitch(func(degraded bool, _ error) {
		if degraded {
			opened <- monotonic()
		}
	}))
	if err != nil {
		t.Fatal(err)
	}
	limiter, err := ratelimit.NewLimiter(ratelimit.WithName("verify"), ratelimit.WithStore(store),
		ratelimit.WithRefillRate(ratelimit.PerSecond(1000)), ratelimit.WithKeyFunc(ratelimit.ByHeader("X-Key")))
	if err != nil {
		t.Fatal(err)
	}
	before := runtime.NumGoroutine()
	var mu sync.Mutex
	var log record
	peak := 0
	var asking sync.WaitGroup
	stop := make(chan struct{})
	engine := routed(limiter.Handle)
	for range 200 {
		asking.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				d := decision{Start: monotonic()}
				w := get(engine, "X-Key", "key")
				d.End = monotonic()
				if w.Code != http.StatusOK && w.Code != http.StatusTooManyRequests {
					t.Errorf("status %d", w.Code)
				}
				mu.Lock()
				log = append(log, d)
				peak = max(peak, runtime.NumGoroutine())
				mu.Unlock()
				// At random, or requests that met at the breaker would always come together, and wait for each other's CPU time.
				time.Sleep(25*time.Millisecond + rand.N(50*time.Millisecond))
			}
		})
	}
	time.Sleep(300 * time.Millisecond)
	began := monotonic()
	server.Pause()
	time.Sleep(3 * time.Second)
	ended := monotonic()
	server.Resume()
	eventually(t, 5*time.Second, "Redis decides again", func() bool { return !store.(*ratelimit.FallbackStore).Degraded() })
	close(stop)
	asking.Wait()
	c.times(1)
	during := log.between(began, ended)
	c.takes(during.latencies(), spec.Budget)
	after := log.between(<-opened, ended)
	p99 := percentile(after.latencies(), 99)
	c.note("200 concurrent requests in a 3 s freeze: p99 %v of %d; once the breaker was open, median %v, p99 %v",
		percentile(during.latencies(), 99).Round(time.Microsecond), len(during),
		percentile(after.latencies(), 50).Round(time.Microsecond), p99.Round(time.Microsecond))
	if p99 > grossDelay() { // It should be 1 ms, but other processes may hold this one up.
		t.Errorf("with the breaker open, the 99th percentile is %v", p99)
	}
	if peak > before+3*200 { // A request is one, the end of its budget another, and a connection that is dialled a third.
		t.Errorf("%d goroutines at a time, %d before", peak, before)
	}
	_ = client.Close()
	eventually(t, 5*time.Second, "goroutines are back to where they were", func() bool { return runtime.NumGoroutine() <= before })
	c.note("goroutines: %d before, %d at most, %d after", before, peak, runtime.NumGoroutine())
}

func TestF15Busy(t *testing.T) { nearAndFar(t, "F15", f15Busy) }

func f15Busy(t *testing.T, c *trial) {
	server := redistest.Start(t, redistest.WithConfig("lua-time-limit", "100"))
	admin := openClient(t, &redis.Options{Addr: server.Addr, ReadTimeout: -1, MaxRetries: -1})
	l := startLoad(t, processes, defaultSpec(server.Addr))
	l.run(200 * time.Millisecond)
	began := monotonic()
	var slow sync.WaitGroup
	slow.Go(func() { admin.Eval(context.Background(), "while true do end", nil) })
	l.each("is told BUSY", 5*time.Second, func(log []decision) bool {
		return slices.ContainsFunc(log, func(d decision) bool { return strings.Contains(d.Text, "BUSY") })
	})
	if err := server.Client().ScriptKill(t.Context()).Err(); err != nil {
		t.Fatal(err)
	}
	ended := monotonic()
	slow.Wait()
	c.recovers(l.recovered(ended, 10*time.Second), time.Second)
	l.run(300 * time.Millisecond)
	log := l.stop()
	c.times(1)
	c.takes(log.between(began, ended).latencies(), l.spec.Budget)
	c.exceeds(worstExcess(log.admissions(), l.spec.Limit), 0)
}
