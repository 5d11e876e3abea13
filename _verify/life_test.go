package verify

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gin-gonic/gin"

	"github.com/gin-ratelimit/ratelimit"
	"github.com/gin-ratelimit/ratelimit/internal/redistest"
)

// limiterOf is a limiter of the key "key", on a store of its own unless the options have one.
func limiterOf(t *testing.T, name string, limit ratelimit.Limit, opts ...ratelimit.Option) *ratelimit.Limiter {
	t.Helper()
	l, err := ratelimit.NewLimiter(append([]ratelimit.Option{
		ratelimit.WithName(name), ratelimit.WithLimit(limit), ratelimit.WithKeyFunc(func(*gin.Context) string { return "key" }),
	}, opts...)...)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// route serves GET / by handlers.
func route(handlers ...gin.HandlerFunc) *gin.Engine {
	engine := gin.New()
	engine.GET("/", handlers...)
	return engine
}

func visit(ctx context.Context, engine *gin.Engine) *httptest.ResponseRecorder {
	w := httptest.NewRecorder()
	engine.ServeHTTP(w, httptest.NewRequestWithContext(ctx, http.MethodGet, "/", http.NoBody))
	return w
}

// left returns how many tokens the limiter's bucket holds.
func left(t *testing.T, l *ratelimit.Limiter) int {
	t.Helper()
	usage, err := l.Peek(t.Context(), "key")
	if err != nil {
		t.Fatal(err)
	}
	return usage.Limits[0].Remaining
}

func want[T comparable](t *testing.T, what string, got, want T) {
	t.Helper()
	if got != want {
		t.Errorf("%s: got %v, want %v", what, got, want)
	}
}

func when(statuses ...int) ratelimit.Option {
	return ratelimit.WithChargeIf(func(c *gin.Context) bool {
		for _, status := range statuses {
			if c.Writer.Status() == status {
				return true
			}
		}
		return false
	})
}

func cost(n int) ratelimit.Option { return ratelimit.WithCost(func(*gin.Context) int { return n }) }

// In a bubble each case has a clock of its own.
func lifeCase(t *testing.T, id string, times int, run func(t *testing.T)) {
	t.Helper()
	t.Run(id, func(t *testing.T) {
		try(t, id).times(times)
		synctest.Test(t, run)
	})
}

func TestLifeOfGiveBacks(t *testing.T) {
	lifeCase(t, "L1", 60, func(t *testing.T) {
		l := limiterOf(t, "login", ratelimit.PerMinute(5).Burst(5), when(401))
		release := make(chan struct{})
		slow, attack := route(l.Handle, func(*gin.Context) { <-release }), route(l.Handle, func(c *gin.Context) { c.Status(401) })
		var parked sync.WaitGroup
		for range 12 {
			for range 5 {
				parked.Go(func() { visit(context.Background(), slow) })
			}
			time.Sleep(time.Minute)
		}
		failed := 0
		for range 60 {
			for visit(t.Context(), attack).Code == 401 {
				failed++
			}
			release <- struct{}{}
			synctest.Wait()
		}
		parked.Wait()
		want(t, "charged in an instant", failed, 5)
	})
	lifeCase(t, "L2", 1, func(t *testing.T) {
		l := limiterOf(t, "model", ratelimit.PerMinute(100).Burst(100), cost(100))
		visit(t.Context(), route(l.Handle, func(c *gin.Context) {
			time.Sleep(2 * time.Minute)
			_, err := l.Take(t.Context(), "key", 100)
			want(t, "take", err, nil)
			want(t, "settle", ratelimit.Settle(c, 0), nil)
		}))
		r, err := l.Take(t.Context(), "key", 100)
		want(t, "take", err, nil)
		want(t, "another 100 of 100", r.Allowed, false)
	})
	lifeCase(t, "L3", 5, func(t *testing.T) {
		outer := limiterOf(t, "outer", ratelimit.PerMinute(5).Burst(5))
		inner := limiterOf(t, "inner", ratelimit.PerHour(1).Burst(1), ratelimit.WithMaxWait(24*time.Hour))
		_, err := inner.Take(t.Context(), "key", 1)
		want(t, "take", err, nil)
		var waiting sync.WaitGroup
		for range 5 {
			waiting.Go(func() {
				ctx, cancel := context.WithCancel(context.Background())
				time.AfterFunc(59*time.Second, cancel)
				visit(ctx, route(outer.Handle, inner.Handle))
			})
		}
		waiting.Wait()
		admitted := 0
		for range 20 {
			if r, err := outer.Take(t.Context(), "key", 1); err == nil && r.Allowed {
				admitted++
			}
			time.Sleep(100 * time.Millisecond)
		}
		if admitted > 5 {
			t.Errorf("%d admitted in 2 s", admitted)
		}
	})
	lifeCase(t, "L4", 1, func(t *testing.T) {
		first, second := limiterOf(t, "first", ratelimit.PerDay(100).Burst(100)), limiterOf(t, "second", ratelimit.PerDay(1).Burst(1), cost(2))
		ctx, cancel := context.WithCancel(context.Background())
		visit(ctx, route(first.Handle, func(*gin.Context) { cancel() }, second.Handle))
		want(t, "left of the first", left(t, first), 100)
	})
}

func TestLifeOfClientsThatLeave(t *testing.T) {
	t.Run("L5", func(t *testing.T) {
		c := try(t, "L5")
		byRoute := limiterOf(t, "route", ratelimit.PerDay(100).Burst(100))
		queue := limiterOf(t, "client", ratelimit.PerDay(1).Burst(1), ratelimit.WithMaxWait(24*time.Hour))
		if _, err := queue.Take(t.Context(), "key", 1); err != nil {
			t.Fatal(err)
		}
		var ended atomic.Int64
		server := httptest.NewServer(route(func(c *gin.Context) { c.Next(); ended.Add(1) }, byRoute.Handle, queue.Handle))
		defer server.Close()
		hangUp(t, server, 105, 5*time.Millisecond)
		eventually(t, 10*time.Second, "all have ended", func() bool { return ended.Load() == 105 })
		want(t, "left for strangers", left(t, byRoute), 100)
		c.times(105)
	})
	lifeCase(t, "L6", 5, func(t *testing.T) {
		l := limiterOf(t, "login", ratelimit.PerDay(5).Burst(5), when(401))
		ran := 0
		gone, cancel := context.WithCancel(context.Background())
		cancel()
		for range 5 {
			visit(gone, route(l.Handle, func(*gin.Context) { ran++ }))
		}
		want(t, "handlers", ran, 5)
		want(t, "left", left(t, l), 5)
	})
	t.Run("L7", func(t *testing.T) {
		c := try(t, "L7")
		server := redistest.Start(t)
		for name, store := range map[string]ratelimit.Store{"memory": ratelimit.NewMemoryStore(), "redis": openStore(t, server.Addr, patient)} {
			l := limiterOf(t, name, ratelimit.PerDay(1000).Burst(1000), ratelimit.WithStore(store))
			var handled atomic.Int64
			web := httptest.NewServer(route(l.Handle, func(*gin.Context) { handled.Add(1) }))
			hangUp(t, web, 50, 0)
			eventually(t, 10*time.Second, name+": all handlers have run", func() bool { return handled.Load() == 50 })
			web.Close()
			want(t, name+": left", left(t, l), 950)
			c.times(50)
		}
	})
	lifeCase(t, "L8", 15, func(t *testing.T) {
		l := limiterOf(t, "queue", ratelimit.PerSecond(1).Burst(1), ratelimit.WithMaxWait(time.Minute))
		start := time.Now()
		var mu sync.Mutex
		served := map[int]int{}
		engine := route(l.Handle, func(*gin.Context) {
			mu.Lock()
			defer mu.Unlock()
			served[int(time.Since(start)/time.Second)]++
		})
		visit(t.Context(), engine)
		leaving, leave := context.WithCancel(context.Background())
		defer leave()
		var all sync.WaitGroup
		for i := range 15 {
			ctx := context.Background()
			if i < 5 {
				ctx = leaving
			}
			if i == 10 {
				leave()
				synctest.Wait()
			}
			all.Go(func() { visit(ctx, engine) })
			synctest.Wait()
		}
		all.Wait()
		for second, n := range served {
			want(t, fmt.Sprintf("served in second %d", second), n, 1)
		}
		want(t, "served", len(served), 11)
	})
	lifeCase(t, "L17", 1, func(t *testing.T) {
		stats := ratelimit.NewStats()
		l := limiterOf(t, "queue", ratelimit.PerSecond(1).Burst(1), ratelimit.WithMaxWait(time.Minute), ratelimit.WithObserver(stats.Observe))
		visit(t.Context(), route(l.Handle))
		ctx, cancel := context.WithCancel(context.Background())
		time.AfterFunc(100*time.Millisecond, cancel)
		want(t, "status", visit(ctx, route(l.Handle)).Code, 499)
		n := stats.Snapshot()[0]
		want(t, "counts", fmt.Sprint(n.Accepted, n.Refused, n.Gone, n.Requests), "1 0 1 1")
	})
	lifeCase(t, "L19", 1, func(t *testing.T) {
		l := limiterOf(t, "queue", ratelimit.PerMinute(1).Burst(1), ratelimit.WithMaxWait(time.Hour))
		visit(t.Context(), route(l.Handle))
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		start := time.Now()
		want(t, "status", visit(ctx, route(l.Handle)).Code, 429)
		want(t, "held back for", time.Since(start), 0)
		want(t, "status", visit(t.Context(), route(l.Handle)).Code, 200)
		want(t, "the next was held back for", time.Since(start), time.Minute)
	})
}

// hangUp sends requests, and closes each connection after a while.
func hangUp(t *testing.T, server *httptest.Server, requests int, after time.Duration) {
	t.Helper()
	for range requests {
		conn, err := net.Dial("tcp", server.Listener.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		if _, err := conn.Write([]byte("GET / HTTP/1.1\r\nHost: x\r\n\r\n")); err != nil {
			t.Fatal(err)
		}
		time.Sleep(after)
		_ = conn.Close()
	}
}

func TestLifeOfAnswers(t *testing.T) {
	lifeCase(t, "L9", 1, func(t *testing.T) {
		l := limiterOf(t, "api", ratelimit.PerSecond(1).Burst(1), ratelimit.WithHeaders(ratelimit.XHeaders, ratelimit.IETFHeaders),
			ratelimit.WithBan(ratelimit.Ban{After: 1, Within: time.Minute, For: time.Hour}))
		end := time.Now().Add(time.Hour).Unix()
		visit(t.Context(), route(l.Handle))
		visit(t.Context(), route(l.Handle))
		time.Sleep(10 * time.Second)
		h := visit(t.Context(), route(l.Handle)).Header()
		want(t, "Retry-After", h.Get("Retry-After"), "3590")
		want(t, "X-RateLimit-Reset", h.Get("X-RateLimit-Reset"), fmt.Sprint(end))
		want(t, "RateLimit", h.Get("RateLimit"), `"api";r=0;t=3590`)
	})
	lifeCase(t, "L11", 1, func(t *testing.T) {
		headers := ratelimit.WithHeaders(ratelimit.XHeaders, ratelimit.IETFHeaders)
		tight, loose := limiterOf(t, "tight", ratelimit.PerMinute(5).Burst(5), headers), limiterOf(t, "loose", ratelimit.PerMinute(100).Burst(100), headers)
		own := http.Header{}
		visit(t.Context(), route(tight.Handle, func(c *gin.Context) { c.Writer = &mapped{c.Writer, own} }, loose.Handle))
		want(t, "X-RateLimit-Remaining", own.Get("X-RateLimit-Remaining"), "4")
		want(t, "RateLimit", own.Get("RateLimit"), `"tight";r=4;t=48, "loose";r=99;t=60`)
	})
	lifeCase(t, "L14", 3, func(t *testing.T) {
		var logged bytes.Buffer
		before := slog.Default()
		slog.SetDefault(slog.New(slog.NewTextHandler(&logged, nil)))
		defer slog.SetDefault(before)
		answers := func(c *gin.Context) {
			c.Next()
			if len(c.Errors) > 0 {
				c.JSON(500, gin.H{"error": c.Errors.String()})
			}
		}
		open := limiterOf(t, "open", ratelimit.PerDay(5).Burst(5), ratelimit.WithStore(unreachable{}))
		w := visit(t.Context(), route(answers, open.Handle, func(c *gin.Context) { c.Status(204) }))
		want(t, "status", w.Code, 204)
		want(t, "body", w.Body.String(), "")
		closed := limiterOf(t, "closed", ratelimit.PerDay(5).Burst(5), ratelimit.WithStore(unreachable{}), ratelimit.WithErrorHandler(ratelimit.FailClosed))
		w = visit(t.Context(), route(answers, closed.Handle))
		want(t, "status", w.Code, 503)
		want(t, "the store's error is in the answer", strings.Contains(w.Body.String(), "10.0.0.7"), false)
		want(t, "lines logged", bytes.Count(logged.Bytes(), []byte("\n")), 2)
	})
	lifeCase(t, "L15", 2, func(t *testing.T) {
		denied := limiterOf(t, "denied", ratelimit.PerDay(5).Burst(5), cost(6), ratelimit.WithDeniedHandler(func(c *gin.Context, _ ratelimit.Result) {
			_, _ = c.Writer.WriteString("no")
		}))
		want(t, "denied", visit(t.Context(), route(denied.Handle)).Code, 429)
		failed := limiterOf(t, "failed", ratelimit.PerDay(5).Burst(5), ratelimit.WithStore(unreachable{}),
			ratelimit.WithErrorHandler(func(c *gin.Context, _ error) { c.Abort() }))
		want(t, "failed", visit(t.Context(), route(failed.Handle)).Code, 503)
	})
	lifeCase(t, "L18", 2, func(t *testing.T) {
		free := limiterOf(t, "free", ratelimit.PerDay(4).Burst(4), when(401), ratelimit.WithHeaders(ratelimit.IETFHeaders))
		h := visit(t.Context(), route(free.Handle, func(c *gin.Context) { c.Status(204) })).Header()
		want(t, "not charged", h.Get("RateLimit"), `"free";r=4;t=86400`)
		second := limiterOf(t, "second", ratelimit.PerDay(1).Burst(1), cost(2))
		h = visit(t.Context(), route(free.Handle, second.Handle)).Header()
		want(t, "refused by the second", h.Get("RateLimit"), `"free";r=4;t=86400`)
	})
	t.Run("L20", func(t *testing.T) {
		c := try(t, "L20")
		for forwarded, address := range map[string]string{
			"203.0.113.7:51234": "203.0.113.7", "[2001:db8::7]:443": "2001:db8::7", "unknown": "", "[v6]:443": "", "203.0.113.7, _x": "",
		} {
			engine := gin.New()
			if err := engine.SetTrustedProxies([]string{"10.1.2.3"}); err != nil {
				t.Fatal(err)
			}
			engine.GET("/", func(c *gin.Context) {
				addr, ok := ratelimit.ClientAddr(c)
				want(t, forwarded+" is known", ok, address != "")
				if ok {
					want(t, forwarded, addr.String(), address)
				}
			})
			r := httptest.NewRequest(http.MethodGet, "/", http.NoBody)
			r.RemoteAddr = "10.1.2.3:1"
			r.Header.Set("X-Forwarded-For", forwarded)
			r.Header.Set("X-Real-IP", "10.9.9.9")
			engine.ServeHTTP(httptest.NewRecorder(), r)
			c.times(1)
		}
	})
}

// mapped is a response with a header map of its own.
type mapped struct {
	gin.ResponseWriter
	header http.Header
}

func (m *mapped) Header() http.Header { return m.header }

// unreachable is a store that cannot decide.
type unreachable struct{ ratelimit.Store }

func (unreachable) Take(context.Context, string, ratelimit.Take) (ratelimit.Result, error) {
	return ratelimit.Result{}, fmt.Errorf("dial tcp 10.0.0.7:6379: %w", net.ErrClosed)
}

func TestLifeOfCharges(t *testing.T) {
	t.Run("L10", func(t *testing.T) {
		c := try(t, "L10")
		model := limiterOf(t, "model", ratelimit.PerDay(100).Burst(100), cost(60))
		if _, err := model.Take(t.Context(), "key", 30); err != nil {
			t.Fatal(err)
		}
		var settling sync.WaitGroup
		visit(t.Context(), route(model.Handle, func(c *gin.Context) {
			for range 4 {
				copied := c.Copy()
				settling.Go(func() { want(t, "settle", ratelimit.Settle(copied, 15), nil) })
			}
		}))
		settling.Wait()
		want(t, "left after four settles", left(t, model), 55)
		free := limiterOf(t, "free", ratelimit.PerDay(20).Burst(20), cost(20), when(401))
		visit(t.Context(), route(free.Handle, func(c *gin.Context) {
			copied := c.Copy()
			settling.Go(func() { want(t, "settle", ratelimit.Settle(copied, 5), nil) })
		}))
		settling.Wait()
		if n := left(t, free); n != 15 && n != 20 {
			t.Errorf("%d left of 20", n)
		}
		c.times(5)
	})
	lifeCase(t, "L12", 1, func(t *testing.T) {
		weight, model := limiterOf(t, "weight", ratelimit.PerDay(100).Burst(100), cost(5)), limiterOf(t, "model", ratelimit.PerDay(2000).Burst(2000), cost(1000))
		visit(t.Context(), route(weight.Handle, model.Handle, func(c *gin.Context) {
			want(t, "an error", ratelimit.Settle(c, 1500) != nil, true)
			want(t, "settle", model.Settle(c, 1500), nil)
		}))
		want(t, "left", fmt.Sprint(left(t, weight), left(t, model)), "95 500")
	})
	lifeCase(t, "L13", 2*24*60*60, func(t *testing.T) {
		l := limiterOf(t, "api", ratelimit.PerSecond(1).Burst(1), ratelimit.WithShadow(),
			ratelimit.WithBan(ratelimit.Ban{After: 50, Within: time.Minute, For: time.Minute, Max: 24 * time.Hour}))
		engine := route(l.Handle)
		for range 2 * 24 * 60 * 60 {
			visit(t.Context(), engine)
			time.Sleep(500 * time.Millisecond)
		}
		l.SetMode(ratelimit.Enforce)
		time.Sleep(10 * time.Minute)
		want(t, "status", visit(t.Context(), engine).Code, 200)
	})
	lifeCase(t, "L16", 2, func(t *testing.T) {
		a, b := limiterOf(t, "a", ratelimit.PerDay(9).Burst(9), when(401)), limiterOf(t, "b", ratelimit.PerDay(1).Burst(1))
		ran := 0
		engine := route(ratelimit.Stack(a, b), func(c *gin.Context) { ran++; c.Status(401) })
		want(t, "first", visit(t.Context(), engine).Code, 401)
		want(t, "second", visit(t.Context(), engine).Code, 429)
		want(t, "handlers", ran, 1)
		want(t, "left", left(t, a), 8)
	})
}
