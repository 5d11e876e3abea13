package ratelimit_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gin-gonic/gin"
	"github.com/stretchr/testify/require"

	"github.com/gin-ratelimit/ratelimit"
)

func TestUsage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		observed := 0
		limiter := newLimiter(t, ratelimit.WithName("api"), ratelimit.WithStore(ratelimit.NewMemoryStore()),
			ratelimit.WithLimit(ratelimit.PerHour(100).Burst(100)),
			ratelimit.WithLimitFunc(func(c *gin.Context) []ratelimit.Limit {
				switch c.GetHeader("Plan") {
				case "pro":
					return []ratelimit.Limit{{Refill: ratelimit.PerHour(500)}}
				case "staff":
					return ratelimit.Unlimited
				default:
					return nil
				}
			}),
			ratelimit.WithObserver(func(context.Context, ratelimit.Event) { observed++ }))
		var usage ratelimit.Usage
		h := serving(limiter.Handle, func(c *gin.Context) {
			var err error
			usage, err = limiter.Usage(c)
			require.NoError(t, err)
		})
		ask(h)
		require.Equal(t, ratelimit.Usage{Source: ratelimit.SourceMemory, Limits: []ratelimit.LimitUsage{
			{Limit: ratelimit.PerSecond(1).Burst(10), Remaining: 9, NextToken: time.Second, ResetAfter: time.Second},
			{Limit: ratelimit.PerHour(100).Burst(100), Remaining: 99, NextToken: 36 * time.Second, ResetAfter: 36 * time.Second},
		}}, usage)
		ask(h, header("Plan", "pro"))
		require.Len(t, usage.Limits, 1)
		require.Equal(t, 498, usage.Limits[0].Remaining, "what was used counts in every plan")
		require.Equal(t, 2, observed, "looks are not observed")
		require.Equal(t, 200, ask(h, header("Plan", "staff")).status)
		require.Empty(t, usage.Limits)
		require.Equal(t, 2, observed, "nor is who is not limited")
	})
}

func TestPeek(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		stats := ratelimit.NewStats()
		ban := ratelimit.Ban{After: 3, Within: time.Minute, For: time.Minute}
		limiter := newLimiter(t, ratelimit.WithCapacity(1), ratelimit.WithRefillRate(ratelimit.PerMinute(60)), ratelimit.WithBan(ban),
			ratelimit.WithObserver(stats.Observe))
		usage, err := limiter.Peek(t.Context(), "key")
		require.NoError(t, err)
		require.True(t, usage.Static, "the store holds nothing")
		require.Equal(t, []ratelimit.LimitUsage{{Limit: ratelimit.PerMinute(60).Burst(1), Remaining: 1}}, usage.Limits)

		for range 3 {
			_, err := limiter.Take(t.Context(), "key", 1)
			require.NoError(t, err)
		}
		before := stats.Snapshot()
		for range 8 {
			usage, err = limiter.Peek(t.Context(), "key")
			require.NoError(t, err)
		}
		require.False(t, usage.Static)
		require.Equal(t, ratelimit.PerMinute(60).Burst(1), usage.Limits[0].Limit, "as it was configured")
		require.Equal(t, 2, usage.Strikes)
		require.Zero(t, usage.BannedFor)
		require.Equal(t, before, stats.Snapshot(), "no look counts")
		_, err = limiter.Take(t.Context(), "key", 0)
		require.NoError(t, err)
		require.Equal(t, before, stats.Snapshot(), "nor does a take of nothing")

		_, err = limiter.Take(t.Context(), "key", 1)
		require.NoError(t, err)
		usage, err = limiter.Peek(t.Context(), "key")
		require.NoError(t, err)
		require.Equal(t, time.Minute, usage.BannedFor)

		usage, err = limiter.Peek(t.Context(), "key", ratelimit.Limit{Refill: ratelimit.PerHour(7)})
		require.NoError(t, err)
		require.Equal(t, ratelimit.PerHour(7).Burst(7), usage.Limits[0].Limit)
		_, err = limiter.Peek(t.Context(), "key", ratelimit.Limit{Capacity: -1})
		require.ErrorIs(t, err, ratelimit.ErrArgument)
	})
}

func TestWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		limiter := newLimiter(t, ratelimit.WithCapacity(1))
		start := time.Now()
		for i := range 3 {
			r, err := limiter.Wait(t.Context(), "key", 1)
			require.NoError(t, err)
			require.True(t, r.Allowed)
			require.Zero(t, r.Wait)
			require.Equal(t, time.Duration(i)*time.Second, time.Since(start))
		}
		soon, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
		defer cancel()
		r, err := limiter.Wait(soon, "key", 1)
		require.NoError(t, err)
		require.False(t, r.Allowed, "its turn would come too late")
		require.Equal(t, 2*time.Second, time.Since(start), "and it says so at once")

		leaving, leave := context.WithCancel(t.Context())
		time.AfterFunc(100*time.Millisecond, leave)
		_, err = limiter.Wait(leaving, "key", 1)
		require.ErrorIs(t, err, context.Canceled)
		_, err = limiter.Wait(leaving, "key", 1)
		require.ErrorIs(t, err, context.Canceled)
		r, err = limiter.Wait(t.Context(), "key", 1)
		require.NoError(t, err)
		require.True(t, r.Allowed)
		require.Equal(t, 3*time.Second, time.Since(start), "in the place that was given up")
		_, err = limiter.Wait(t.Context(), "key", -1)
		require.ErrorIs(t, err, ratelimit.ErrArgument)
	})
}

// Off, the kill switch, works for jobs too.
func TestTakeHeedsTheMode(t *testing.T) {
	limiter := newLimiter(t, ratelimit.WithCapacity(1))
	limiter.SetMode(ratelimit.Off)
	for range 3 {
		r, err := limiter.Take(t.Context(), "key", 1)
		require.NoError(t, err)
		require.True(t, r.Allowed)
		r, err = limiter.Wait(t.Context(), "key", 1)
		require.NoError(t, err)
		require.True(t, r.Allowed)
	}
	limiter.SetMode(ratelimit.Shadow)
	r, err := limiter.Take(t.Context(), "key", 1)
	require.NoError(t, err)
	require.True(t, r.Allowed, "nothing was taken before")
	r, err = limiter.Take(t.Context(), "key", 1)
	require.NoError(t, err)
	require.False(t, r.Allowed, "as in Enforce")
}

func TestWhatALimiterSaysOfItself(t *testing.T) {
	store := ratelimit.NewMemoryStore()
	limiter := ratelimit.Must(ratelimit.NewLimiter(ratelimit.WithName("login"), ratelimit.WithStore(store),
		ratelimit.WithLimit(ratelimit.PerMinute(5).Burst(5), ratelimit.Limit{Refill: ratelimit.PerHour(20)})))
	require.Equal(t, "login", limiter.Name())
	require.Same(t, store, limiter.Store())
	require.Equal(t, "[5/m 20/h]", fmt.Sprint(limiter.Limits()))
	limiter.Limits()[0].Capacity = 0
	require.Equal(t, 5, limiter.Limits()[0].Capacity, "its own")
	require.Zero(t, limiter.Ban())
	strict := ratelimit.Must(ratelimit.NewLimiter(ratelimit.WithLimit(ratelimit.PerMinute(5).Burst(5)),
		ratelimit.WithBan(ratelimit.Ban{After: 50, Within: time.Minute, For: time.Hour})))
	require.Equal(t, ratelimit.Ban{After: 50, Within: time.Minute, For: time.Hour, Max: time.Hour}, strict.Ban())
	text, err := json.Marshal(limiter)
	require.NoError(t, err)
	require.JSONEq(t, `{"name":"login","limits":["5/m","20/h"],"mode":"enforce"}`, string(text))

	observed := 0
	limiter.AddObserver(func(context.Context, ratelimit.Event) { observed++ })
	limiter.AddObserver(func(context.Context, ratelimit.Event) { observed++ })
	_, err = limiter.Take(t.Context(), "key", 1)
	require.NoError(t, err)
	require.Equal(t, 2, observed)
	require.Contains(t, panicOf(func() { limiter.AddObserver(nil) }), "AddObserver(nil)")
	boom := errors.New("boom")
	require.Equal(t, "boom", panicOf(func() { ratelimit.Must(nil, boom) }))
	require.Contains(t, panicOf(func() { ratelimit.Must(nil, nil) }), "needs a limiter")
}

func TestRoutes(t *testing.T) {
	a := newLimiter(t, ratelimit.WithName("a"))
	router := engine()
	router.Use(a.Handle)
	router.POST("/users/:id", hello)
	router.GET("/users/:id", hello)
	router.GET("/", hello)
	text, err := json.Marshal(ratelimit.Routes(router))
	require.NoError(t, err)
	const limiters = `[{"name":"a","limits":["1/s burst 10"],"mode":"enforce"}]`
	require.JSONEq(t, `[{"method":"GET","path":"/","limiters":`+limiters+`},{"method":"GET","path":"/users/:id","limiters":`+limiters+
		`},{"method":"POST","path":"/users/:id","limiters":`+limiters+`},{"method":"","path":"","limiters":`+limiters+`}]`, string(text))
}

func TestSkip(t *testing.T) {
	observed := 0
	byHeader := func(name string) ratelimit.Option {
		return ratelimit.WithSkip(func(c *gin.Context) bool { return c.GetHeader(name) != "" })
	}
	h := serving(perMinute(1, byHeader("A"), byHeader("B"), ratelimit.WithObserver(func(context.Context, ratelimit.Event) { observed++ })))
	require.Equal(t, 200, ask(h).status)
	for _, name := range []string{"A", "B"} {
		a := ask(h, header(name, "yes"))
		require.Equal(t, 200, a.status)
		require.Empty(t, a.header.Get("X-RateLimit-Limit"))
	}
	require.Equal(t, 429, ask(h).status)
	require.Equal(t, 2, observed)
	_, err := ratelimit.NewLimiter(ratelimit.WithRefillRate(ratelimit.PerSecond(1)), ratelimit.WithSkip(nil))
	require.EqualError(t, err, "ratelimit: WithSkip(nil): needs a function")
}

func TestWhen(t *testing.T) {
	h := serving(ratelimit.When(func(c *gin.Context) bool { return c.GetHeader("Write") != "" }, perMinute(1)))
	for range 3 {
		require.Equal(t, 200, ask(h).status)
	}
	require.Equal(t, []int{200, 429}, []int{ask(h, header("Write", "1")).status, ask(h, header("Write", "1")).status})
	require.Contains(t, panicOf(func() { ratelimit.When(nil, hello) }), "needs a condition and a handler")
	require.Contains(t, panicOf(func() { ratelimit.When(func(*gin.Context) bool { return true }, nil) }), "needs a condition and a handler")
}

type account int

func TestByValue(t *testing.T) {
	for name, c := range map[string]struct {
		value any
		want  string
	}{
		"a string":        {"ada", "user:ada"},
		"an integer":      {42, "user:42"},
		"a negative one":  {int8(-3), "user:-3"},
		"a large one":     {uint64(1 << 63), "user:9223372036854775808"},
		"a kind of one":   {account(7), "user:7"},
		"a Stringer":      {netip.MustParseAddr("192.0.2.1"), "user:192.0.2.1"},
		"an empty string": {"", ""},
		"nothing":         {nil, ""},
		"a float":         {1.5, ""},
		"a struct":        {struct{ ID int }{1}, ""},
		"a nil Stringer":  {(*time.Location)(nil), ""},
	} {
		t.Run(name, func(t *testing.T) {
			context := newContext(engine())
			if c.value != nil {
				context.Set("user", c.value)
			}
			require.Equal(t, c.want, ratelimit.ByValue("user")(context))
			require.Equal(t, c.want, ratelimit.ValueKey("user", c.value))
		})
	}
	require.Contains(t, panicOf(func() { ratelimit.ByValue(nil) }), "ByValue(nil)")
	require.Equal(t, "user:42", ratelimit.KeyOf("user:42").Reveal())
}

func TestResultAsJSON(t *testing.T) {
	for name, c := range map[string]struct {
		result  ratelimit.Result
		want    string
		seconds int
		ok      bool
	}{
		"nothing": {result: ratelimit.Result{}, want: `{"allowed":false,"name":"","limit":"","remaining":0,"retry_after":0,"reset_after":0,"wait":0,"banned":false,"source":"unknown"}`, seconds: 1, ok: true},
		"refused": {result: ratelimit.Result{Name: "n", Limit: ratelimit.PerSecond(10).Burst(20), RetryAfter: 1500 * time.Millisecond, ResetAfter: 2 * time.Second, Source: ratelimit.SourceRedis},
			want: `{"allowed":false,"name":"n","limit":"10/s burst 20","remaining":0,"retry_after":1.5,"reset_after":2,"wait":0,"banned":false,"source":"redis"}`, seconds: 2, ok: true},
		"never": {result: ratelimit.Result{Limit: ratelimit.PerSecond(1).Burst(1), RetryAfter: ratelimit.Never},
			want: `{"allowed":false,"name":"","limit":"1/s","remaining":0,"retry_after":null,"reset_after":0,"wait":0,"banned":false,"source":"unknown"}`, seconds: 0},
		"allowed": {result: ratelimit.Result{Allowed: true, Limit: ratelimit.PerSecond(1).Burst(1), Wait: time.Second},
			want: `{"allowed":true,"name":"","limit":"1/s","remaining":0,"retry_after":0,"reset_after":0,"wait":1,"banned":false,"source":"unknown"}`, seconds: 0},
	} {
		t.Run(name, func(t *testing.T) {
			text, err := json.Marshal(c.result)
			require.NoError(t, err)
			require.JSONEq(t, c.want, string(text))
			seconds, ok := c.result.RetryAfterSeconds()
			require.Equal(t, c.ok, ok)
			require.Equal(t, c.seconds, seconds)
		})
	}
	text, err := json.Marshal(ratelimit.Usage{Limits: []ratelimit.LimitUsage{{Limit: ratelimit.PerSecond(1).Burst(5), Remaining: 2, Debt: 1,
		NextToken: time.Second, ResetAfter: 3 * time.Second}}, BannedFor: time.Minute, Strikes: 4, Static: true, Source: ratelimit.SourceMemory})
	require.NoError(t, err)
	require.JSONEq(t, `{"limits":[{"limit":"1/s burst 5","remaining":2,"debt":1,"next_token":1,"reset_after":3}],"banned_for":60,"strikes":4,"static":true,"source":"memory"}`, string(text))
}

func TestParseLimit(t *testing.T) {
	for text, want := range map[string]string{
		"10/s": "10/s", "10/sec": "10/s", "10/second": "10/s", "10/seconds": "10/s", "100/min": "100/m", "100/minutes": "100/m",
		"5/hr": "5/h", "5/hour": "5/h", "1/day": "1/d", "1/30days": "1/30d", "3/250ms": "3/250ms", "100/min burst 200": "100/m burst 200",
		"unlimited": "unlimited",
	} {
		limit, err := ratelimit.ParseLimit(text)
		require.NoError(t, err, text)
		require.Equal(t, want, limit.String())
	}
	for _, text := range []string{"", "10", "10/", "10/fortnight", "10/ s", "x/s", "10/s burst", "10/s burst x", "0/s", "-1/s", "10/99999999999999999999d", "limited"} {
		_, err := ratelimit.ParseLimit(text)
		require.Error(t, err, text)
	}
	limit, err := ratelimit.ParseLimit("unlimited")
	require.NoError(t, err)
	require.Equal(t, []ratelimit.Limit{limit}, ratelimit.Unlimited)
}
