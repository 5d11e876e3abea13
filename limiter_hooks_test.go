package ratelimit_test

import (
	"context"
	"fmt"
	"io"
	"math"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gin-gonic/gin"
	"github.com/stretchr/testify/require"

	"github.com/gin-ratelimit/ratelimit"
)

func TestWithLimitFunc(t *testing.T) {
	plans := map[string][]ratelimit.Limit{
		"pro":    {{Capacity: 3, Refill: ratelimit.PerHour(3)}},
		"two":    {{Capacity: 3, Refill: ratelimit.PerHour(3)}, {Capacity: 2, Refill: ratelimit.PerHour(1)}},
		"empty":  {},
		"broken": {{Capacity: -1, Refill: ratelimit.PerHour(3)}},
		"bare":   {{Refill: ratelimit.PerHour(2)}},
	}
	for plan, want := range map[string]struct {
		statuses []int
		limits   []string
	}{
		"pro":     {[]int{200, 200, 200, 429}, []string{"3", "3", "3", "3"}},
		"two":     {[]int{200, 200, 429}, []string{"2", "2", "2"}},
		"empty":   {[]int{200, 429}, []string{"1", "1"}},
		"unknown": {[]int{200, 429}, []string{"1", "1"}},
		"broken":  {[]int{503, 503}, []string{"", ""}},
		"bare":    {[]int{200, 200, 429}, []string{"2", "2", "2"}},
	} {
		t.Run(plan, func(t *testing.T) {
			var failure error
			h := serving(perMinute(1,
				ratelimit.WithLimitFunc(func(c *gin.Context) []ratelimit.Limit { return plans[c.GetHeader("Plan")] }),
				ratelimit.WithErrorHandler(func(c *gin.Context, err error) {
					failure = err
					ratelimit.FailClosed(c, err)
				}),
			))
			for i, status := range want.statuses {
				a := ask(h, header("Plan", plan))
				require.Equal(t, status, a.status, "request %d", i)
				require.Equal(t, want.limits[i], a.header.Get("X-RateLimit-Limit"), "request %d", i)
			}
			if plan == "broken" {
				require.ErrorIs(t, failure, ratelimit.ErrArgument)
			} else {
				require.NoError(t, failure)
			}
		})
	}
	t.Run("a client whose plan changes keeps what it has left", func(t *testing.T) {
		h := serving(perMinute(1, ratelimit.WithLimitFunc(func(c *gin.Context) []ratelimit.Limit {
			return plans[c.GetHeader("Plan")]
		})))
		require.Equal(t, 200, ask(h, header("Plan", "pro")).status)
		require.Equal(t, 200, ask(h, header("Plan", "pro")).status)
		require.Equal(t, 200, ask(h).status)
		require.Equal(t, 429, ask(h).status)
		require.Equal(t, 429, ask(h, header("Plan", "pro")).status)
	})
}

func TestWithCost(t *testing.T) {
	var failure error
	h := serving(ratelimit.New(
		ratelimit.WithCapacity(10),
		ratelimit.WithRefillRate(ratelimit.PerMinute(1)),
		ratelimit.WithCost(func(c *gin.Context) int {
			cost, _ := strconv.Atoi(c.GetHeader("Cost"))
			return cost
		}),
		ratelimit.WithErrorHandler(func(c *gin.Context, err error) {
			failure = err
			c.AbortWithStatus(418)
		}),
	))
	const forGood = `{"error":"rate limit exceeded"}`
	for i, step := range []struct {
		cost             int
		status           int
		remaining, retry string
		body             string
	}{
		{cost: 4, status: 200, remaining: "6", body: "hello"},
		{cost: 0, status: 200, remaining: "6", body: "hello"},
		{cost: 7, status: 429, remaining: "6", retry: "60", body: `{"error":"rate limit exceeded","retry_after":60}`},
		{cost: 6, status: 200, remaining: "0", body: "hello"},
		{cost: 0, status: 200, remaining: "0", body: "hello"},
		{cost: 1, status: 429, remaining: "0", retry: "60", body: `{"error":"rate limit exceeded","retry_after":60}`},
		{cost: 10, status: 429, remaining: "0", retry: "600", body: `{"error":"rate limit exceeded","retry_after":600}`},
		{cost: 11, status: 429, remaining: "0", body: forGood},
		{cost: math.MaxInt, status: 429, remaining: "0", body: forGood},
		{cost: -1, status: 418},
		{cost: math.MinInt, status: 418},
		{cost: 0, status: 200, remaining: "0", body: "hello"},
	} {
		failure = nil
		a := ask(h, header("Cost", strconv.Itoa(step.cost)))
		require.Equal(t, step.status, a.status, "step %d", i)
		require.Equal(t, step.remaining, a.header.Get("X-RateLimit-Remaining"), "step %d", i)
		require.Equal(t, step.body, a.body, "step %d", i)
		if step.retry == "" {
			require.NotContains(t, a.header, "Retry-After", "step %d", i)
		} else {
			require.Equal(t, step.retry, a.header.Get("Retry-After"), "step %d", i)
		}
		if step.cost < 0 {
			require.ErrorIs(t, failure, ratelimit.ErrArgument, "step %d", i)
		} else {
			require.NoError(t, failure, "step %d", i)
		}
	}
}

func TestSkipList(t *testing.T) {
	limiter, behind := perMinute(1), 0
	h := serving(
		func(c *gin.Context) {
			if c.GetHeader("Internal") == "" {
				limiter(c)
			}
		},
		func(*gin.Context) { behind++ },
	)
	internal := header("Internal", "yes")
	require.Equal(t, 200, ask(h).status)
	require.Equal(t, 429, ask(h).status)
	require.Equal(t, 200, ask(h, internal).status)
	require.NotContains(t, ask(h, internal).header, "X-Ratelimit-Limit")
	require.Equal(t, 429, ask(h).status)
	require.Equal(t, 3, behind, "a refusal also stops the chain where the limiter was called and not registered")
}

func TestWithDeniedHandler(t *testing.T) {
	var told ratelimit.Result
	ran := 0
	h := serving(
		perMinute(1, ratelimit.WithDeniedHandler(func(c *gin.Context, r ratelimit.Result) {
			told = r
			c.String(http.StatusTeapot, "later") // Does not abort.
		})),
		func(*gin.Context) { ran++ },
	)
	require.Equal(t, "hello", ask(h).body)
	a := ask(h)
	require.Equal(t, http.StatusTeapot, a.status)
	require.Equal(t, "later", a.body, "the handler did not run")
	require.Equal(t, 1, ran)
	require.Equal(t, "60", a.header.Get("Retry-After"))
	require.Equal(t, "no-store", a.header.Get("Cache-Control"))
	require.False(t, told.Allowed)
	require.Equal(t, ratelimit.Limit{Capacity: 1, Refill: ratelimit.PerMinute(1)}, told.Limit)
}

func TestErrorHandlers(t *testing.T) {
	for name, c := range map[string]struct {
		options options
		status  int
		body    string
	}{
		"the default lets it through": {nil, 200, "hello"},
		"FailOpen":                    {options{ratelimit.WithErrorHandler(ratelimit.FailOpen)}, 200, "hello"},
		"FailClosed":                  {options{ratelimit.WithErrorHandler(ratelimit.FailClosed)}, 503, failClosedBody},
		"one that aborts": {options{ratelimit.WithErrorHandler(func(c *gin.Context, err error) {
			_ = c.Error(err)
			c.AbortWithStatus(http.StatusBadGateway)
		})}, 502, ""},
	} {
		t.Run(name, func(t *testing.T) {
			var errs []*gin.Error
			h := serving(
				func(c *gin.Context) { c.Next(); errs = c.Errors },
				perMinute(1, append(c.options, ratelimit.WithName("down"), downStore())...),
			)
			for range 3 {
				a := ask(h)
				require.Equal(t, c.status, a.status)
				require.Equal(t, c.body, a.body)
				require.NotContains(t, fmt.Sprint(a), "hunter2")
				if strings.HasPrefix(name, "one that") { // The others leave nothing in c.Errors, or the middleware that makes responses of it would show it.
					require.Len(t, errs, 1)
					require.ErrorIs(t, errs[0], errStore)
				} else {
					require.Empty(t, errs)
				}
			}
		})
	}
}

func TestObservers(t *testing.T) {
	foreign := storeOption(func(context.Context, string, ratelimit.Take) (ratelimit.Result, error) {
		return ratelimit.Result{}, fmt.Errorf("HGETALL: %w", ratelimit.ErrForeignState)
	})
	for name, c := range map[string]struct {
		options  []ratelimit.Option
		requests int // The last one is looked at.
		reason   ratelimit.Reason
		cost     int
		err      error
	}{
		"allowed":       {requests: 1, reason: ratelimit.ReasonAllowed, cost: 1},
		"free":          {options: options{costOf(0)}, requests: 1, reason: ratelimit.ReasonAllowed, cost: 0},
		"refused":       {requests: 3, reason: ratelimit.ReasonRefused, cost: 1},
		"never allowed": {options: options{costOf(3)}, requests: 1, reason: ratelimit.ReasonCost, cost: 3},
		"negative cost": {options: options{costOf(-1)}, requests: 1, reason: ratelimit.ReasonArgument, cost: -1, err: ratelimit.ErrArgument},
		"store down":    {options: options{downStore()}, requests: 1, reason: ratelimit.ReasonStore, cost: 1, err: errStore},
		"not our state": {options: options{foreign}, requests: 1, reason: ratelimit.ReasonForeign, cost: 1, err: ratelimit.ErrForeignState},
	} {
		t.Run(name, func(t *testing.T) {
			type marker struct{}
			var events [2][]ratelimit.Event
			observe := func(i int) ratelimit.Option {
				return ratelimit.WithObserver(func(ctx context.Context, e ratelimit.Event) {
					require.Equal(t, "request", ctx.Value(marker{}))
					events[i] = append(events[i], e)
				})
			}
			router := engine()
			router.GET("/users/:id", perMinute(2, append(c.options, ratelimit.WithName("users"), observe(0), observe(1))...), hello)
			var a answer
			for range c.requests {
				a = send(router, http.MethodGet, "/users/7?secret=8", withContext(context.WithValue(t.Context(), marker{}, "request")))
			}
			require.Equal(t, events[0], events[1], "every observer sees every event")
			require.Len(t, events[0], c.requests, "one event a decision")
			e := events[0][c.requests-1]
			require.Equal(t, "users", e.Name)
			require.Equal(t, "/users/:id", e.Route)
			require.Equal(t, ratelimit.KeyOf("192.0.2.1"), e.Key)
			require.Equal(t, c.cost, e.Cost)
			require.Equal(t, c.reason, e.Reason)
			require.ErrorIs(t, e.Err, c.err)
			require.GreaterOrEqual(t, e.Elapsed, time.Duration(0))
			require.Equal(t, a.status == 429, e.Refused())
			if e.Err == nil {
				require.Equal(t, a.header.Get("X-RateLimit-Remaining"), strconv.Itoa(e.Result.Remaining))
			} else {
				require.Equal(t, ratelimit.Result{}, e.Result)
			}
		})
	}
	t.Run("outside of a request", func(t *testing.T) {
		var events []ratelimit.Event
		l, err := ratelimit.NewLimiter(ratelimit.WithRefillRate(ratelimit.PerSecond(1)),
			ratelimit.WithObserver(func(_ context.Context, e ratelimit.Event) { events = append(events, e) }))
		require.NoError(t, err)
		_, err = l.Take(t.Context(), "job", 1)
		require.NoError(t, err)
		require.Len(t, events, 1)
		require.Equal(t, "default", events[0].Name)
		require.Empty(t, events[0].Route)
	})
	t.Run("the time that the store took", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			var elapsed time.Duration
			slow := storeOption(func(_ context.Context, _ string, take ratelimit.Take) (ratelimit.Result, error) {
				time.Sleep(7 * time.Millisecond)
				return ratelimit.Result{Allowed: true, Limit: take.Limits[0]}, nil
			})
			ask(serving(perMinute(1, ratelimit.WithName("slow"), slow, ratelimit.WithObserver(
				func(_ context.Context, e ratelimit.Event) { elapsed = e.Elapsed }))))
			require.Equal(t, 7*time.Millisecond, elapsed)
		})
	})
}

// A user's hook that panics must leave nothing locked, and nothing half done.
func TestHooksThatPanic(t *testing.T) {
	for hook, c := range map[string]struct {
		options   func(boom func()) options
		before    int    // requests before the panic
		remaining string // of 2, after the panic and one more request
	}{
		"KeyFunc": {options: func(boom func()) options {
			return options{ratelimit.WithKeyFunc(func(*gin.Context) string { boom(); return "k" })}
		}, before: 0, remaining: "1"},
		"cost": {options: func(boom func()) options {
			return options{ratelimit.WithCost(func(*gin.Context) int { boom(); return 1 })}
		}, before: 0, remaining: "1"},
		"limits": {options: func(boom func()) options {
			return options{ratelimit.WithLimitFunc(func(*gin.Context) []ratelimit.Limit { boom(); return nil })}
		}, before: 0, remaining: "1"},
		"HeaderFunc": {options: func(boom func()) options {
			return options{ratelimit.WithHeaders(ratelimit.XHeaders, func(http.Header, []ratelimit.Explanation) { boom() })}
		}, before: 0, remaining: "0"},
		"observer": {options: func(boom func()) options {
			return options{ratelimit.WithObserver(func(context.Context, ratelimit.Event) { boom() })}
		}, before: 0, remaining: "0"},
		"denied handler": {options: func(boom func()) options {
			return options{ratelimit.WithDeniedHandler(func(c *gin.Context, r ratelimit.Result) { boom(); ratelimit.DenyJSON(c, r) })}
		}, before: 2, remaining: "0"},
		"error handler": {options: func(boom func()) options {
			return options{ratelimit.WithName("down"), downStore(), ratelimit.WithErrorHandler(func(*gin.Context, error) { boom() })}
		}, before: 0},
	} {
		t.Run(hook, func(t *testing.T) {
			armed := false
			h := serving(gin.RecoveryWithWriter(io.Discard), perMinute(2, c.options(func() {
				if armed {
					armed = false
					panic("boom")
				}
			})...))
			for range c.before {
				require.Equal(t, 200, ask(h).status)
			}
			armed = true
			require.Equal(t, 500, ask(h).status)
			require.False(t, armed)
			require.Equal(t, c.remaining, ask(h).header.Get("X-RateLimit-Remaining"))
		})
	}
}

func TestHooksThatUseTheLimiter(t *testing.T) {
	var l *ratelimit.Limiter
	look := func() {
		_, err := l.Take(context.Background(), "192.0.2.1", 0)
		require.NoError(t, err)
	}
	l, err := ratelimit.NewLimiter(
		ratelimit.WithRefillRate(ratelimit.PerMinute(1)),
		ratelimit.WithKeyFunc(func(c *gin.Context) string { look(); return ratelimit.ByClientIP(c) }),
		ratelimit.WithCost(func(*gin.Context) int { look(); return 1 }),
		ratelimit.WithDeniedHandler(func(c *gin.Context, r ratelimit.Result) { look(); ratelimit.DenyJSON(c, r) }),
	)
	require.NoError(t, err)
	require.Equal(t, []int{200, 429}, statuses(serving(l.Handle), "/", "/"))
}
