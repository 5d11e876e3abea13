package ratelimit_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gin-gonic/gin"
	"github.com/stretchr/testify/require"

	"github.com/gin-ratelimit/ratelimit"
)

func init() { gin.SetMode(gin.TestMode) }

// perMinute is a limiter of so many requests at once, of which that many come back over a minute.
func perMinute(tokens int, opts ...ratelimit.Option) gin.HandlerFunc {
	return ratelimit.New(append(opts, ratelimit.WithRefillRate(ratelimit.PerMinute(tokens)))...)
}

// engine trusts no proxy, so that the peer of a request is its client.
func engine() *gin.Engine {
	router := gin.New()
	_ = router.SetTrustedProxies(nil)
	return router
}

// serving is an engine with one route, GET /, behind the middleware.
func serving(middleware ...gin.HandlerFunc) *gin.Engine {
	router := engine()
	router.GET("/", append(middleware, hello)...)
	return router
}

func hello(c *gin.Context) { c.String(http.StatusOK, "hello") }

type edit = func(*http.Request)

func peer(remoteAddr string) edit {
	return func(r *http.Request) { r.RemoteAddr = remoteAddr }
}

func header(name string, values ...string) edit {
	return func(r *http.Request) { r.Header[http.CanonicalHeaderKey(name)] = values }
}

// withContext replaces the request's context.
func withContext(ctx context.Context) edit {
	return func(r *http.Request) { *r = *r.WithContext(ctx) }
}

// answer is what a handler wrote.
type answer struct {
	status int
	header http.Header
	body   string
}

func send(h http.Handler, method, path string, edits ...edit) answer {
	r := httptest.NewRequest(method, path, nil)
	for _, edit := range edits {
		edit(r)
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	headers := w.Result().Header
	headers.Del("Content-Length") // net/http sends it, whether the handler has set it or not.
	return answer{w.Code, headers, w.Body.String()}
}

func ask(h http.Handler, edits ...edit) answer { return send(h, http.MethodGet, "/", edits...) }

// statuses sends a GET to each path in turn.
func statuses(h http.Handler, paths ...string) []int {
	var codes []int
	for _, path := range paths {
		codes = append(codes, send(h, http.MethodGet, path).status)
	}
	return codes
}

// spyStore is a MemoryStore of which some calls can be looked at or answered differently.
type spyStore struct {
	ratelimit.Store
	take func(ctx context.Context, key string, take ratelimit.Take) (ratelimit.Result, error)
}

func (s spyStore) Take(ctx context.Context, key string, take ratelimit.Take) (ratelimit.Result, error) {
	return s.take(ctx, key, take)
}

// errStore says what no client may read.
var errStore = errors.New("dial tcp 10.0.0.7:6379: password hunter2 refused")

// downStore cannot decide anything.
func downStore() ratelimit.Option {
	return storeOption(func(context.Context, string, ratelimit.Take) (ratelimit.Result, error) {
		return ratelimit.Result{}, errStore
	})
}

func storeOption(take func(context.Context, string, ratelimit.Take) (ratelimit.Result, error)) ratelimit.Option {
	return ratelimit.WithStore(spyStore{ratelimit.NewMemoryStore(), take})
}

func TestBurstThenRefill(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := serving(ratelimit.New(
			ratelimit.WithCapacity(3),
			ratelimit.WithRefillRate(ratelimit.Every(3*time.Second)),
		))
		start := time.Now().Unix()
		for i, step := range []struct {
			after                   time.Duration
			status                  int
			remaining, reset, retry string // reset counts from the start
		}{
			{0, 200, "2", "3", ""},
			{0, 200, "1", "6", ""},
			{0, 200, "0", "9", ""},
			{0, 429, "0", "9", "3"},
			{2900 * time.Millisecond, 429, "0", "9", "1"},
			{100*time.Millisecond - time.Microsecond, 429, "0", "9", "1"},
			{time.Microsecond, 200, "0", "12", ""},
			{500 * time.Millisecond, 429, "0", "12", "3"},
			{time.Hour, 200, "2", "3607", ""},
		} {
			time.Sleep(step.after)
			a := ask(h)
			reset, err := strconv.ParseInt(a.header.Get("X-RateLimit-Reset"), 10, 64)
			require.NoError(t, err)
			require.Equal(t, step.status, a.status, "step %d", i)
			require.Equal(t, "3", a.header.Get("X-RateLimit-Limit"), "step %d", i)
			require.Equal(t, step.remaining, a.header.Get("X-RateLimit-Remaining"), "step %d", i)
			require.Equal(t, step.reset, strconv.FormatInt(reset-start, 10), "step %d", i)
			require.Equal(t, step.retry, a.header.Get("Retry-After"), "step %d", i)
		}
	})
}

func TestAnswers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := serving(perMinute(1))
		reset := strconv.FormatInt(time.Now().Unix()+60, 10)
		require.Equal(t, answer{200, http.Header{
			"Content-Type":          {"text/plain; charset=utf-8"},
			"X-Ratelimit-Limit":     {"1"},
			"X-Ratelimit-Remaining": {"0"},
			"X-Ratelimit-Reset":     {reset},
		}, "hello"}, ask(h))
		require.Equal(t, answer{429, http.Header{
			"Cache-Control":         {"no-store"},
			"Content-Type":          {"application/json; charset=utf-8"},
			"Retry-After":           {"60"},
			"X-Ratelimit-Limit":     {"1"},
			"X-Ratelimit-Remaining": {"0"},
			"X-Ratelimit-Reset":     {reset},
		}, `{"error":"rate limit exceeded","retry_after":60}`}, ask(h))
	})
}

func TestClientsAreApart(t *testing.T) {
	h := serving(perMinute(2))
	for _, client := range []string{"192.0.2.1:1", "192.0.2.2:1", "[2001:db8::1]:1"} {
		require.Equal(t, 200, ask(h, peer(client)).status)
		require.Equal(t, 200, ask(h, peer(client)).status)
		require.Equal(t, 429, ask(h, peer(client)).status)
	}
	require.Equal(t, 429, ask(h, peer("192.0.2.1:2")).status, "another port of the first client")
}

func TestWhereLimitersStand(t *testing.T) {
	for name, c := range map[string]struct {
		routes func(router *gin.Engine)
		paths  []string
		want   []int
	}{
		"one value on two routes is one set of buckets": {
			func(router *gin.Engine) {
				limiter := perMinute(2)
				router.GET("/a", limiter, hello)
				router.GET("/b", limiter, hello)
			},
			[]string{"/a", "/b", "/a", "/b"},
			[]int{200, 200, 429, 429},
		},
		"two calls of New are two": {
			func(router *gin.Engine) {
				router.GET("/a", perMinute(1), hello)
				router.GET("/b", perMinute(1), hello)
			},
			[]string{"/a", "/a", "/b", "/b"},
			[]int{200, 429, 200, 429},
		},
		"on the engine": {
			func(router *gin.Engine) {
				router.Use(perMinute(2))
				router.GET("/a", hello)
				router.GET("/b", hello)
			},
			[]string{"/a", "/b", "/a"},
			[]int{200, 200, 429},
		},
		"on the engine, where no route matches": {
			func(router *gin.Engine) { router.Use(perMinute(2)) },
			[]string{"/x", "/y", "/z"},
			[]int{404, 404, 429},
		},
		"on a group": {
			func(router *gin.Engine) {
				api := router.Group("/api", perMinute(2))
				api.GET("/a", hello)
				api.GET("/b", hello)
				router.GET("/free", hello)
			},
			[]string{"/api/a", "/api/b", "/api/a", "/free", "/free", "/free"},
			[]int{200, 200, 429, 200, 200, 200},
		},
		"one limit for each route": {
			func(router *gin.Engine) {
				router.GET("/login", perMinute(1), hello)
				router.GET("/search", perMinute(3), hello)
				router.GET("/free", hello)
			},
			[]string{"/login", "/login", "/search", "/search", "/search", "/search", "/free"},
			[]int{200, 429, 200, 200, 200, 429, 200},
		},
		"on a group and a route of it, which need both, or take nothing": {
			func(router *gin.Engine) {
				api := router.Group("/api", perMinute(3))
				api.GET("/login", perMinute(1), hello)
				api.GET("/a", hello)
			},
			[]string{"/api/login", "/api/login", "/api/login", "/api/a", "/api/a", "/api/a", "/api/login"},
			[]int{200, 429, 429, 200, 200, 429, 429},
		},
		"what the first refuses is not charged by the second": {
			func(router *gin.Engine) {
				inner := perMinute(2)
				router.GET("/both", perMinute(1), inner, hello)
				router.GET("/inner", inner, hello)
			},
			[]string{"/both", "/both", "/both", "/inner", "/inner"},
			[]int{200, 429, 429, 200, 429},
		},
	} {
		t.Run(name, func(t *testing.T) {
			router := engine()
			c.routes(router)
			require.Equal(t, c.want, statuses(router, c.paths...))
		})
	}
}

func TestSeveralLimits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		hourly := ratelimit.Limit{Capacity: 3, Refill: ratelimit.PerHour(3)}
		l, err := ratelimit.NewLimiter(
			ratelimit.WithCapacity(2),
			ratelimit.WithRefillRate(ratelimit.PerSecond(2)),
			ratelimit.WithLimit(hourly),
		)
		require.NoError(t, err)
		h := serving(l.Handle)
		require.Equal(t, []int{200, 200, 429}, statuses(h, "/", "/", "/"))
		time.Sleep(time.Second)
		require.Equal(t, []int{200}, statuses(h, "/"), "the refusal took nothing from the hour's bucket")
		a := ask(h)
		require.Equal(t, 429, a.status)
		require.Equal(t, "3", a.header.Get("X-RateLimit-Limit"))
		require.Equal(t, "1199", a.header.Get("Retry-After"))
		result, err := l.Take(t.Context(), "192.0.2.1", 1)
		require.NoError(t, err)
		require.False(t, result.Allowed)
		require.Equal(t, hourly, result.Limit)
	})
}

func TestStackedLimiters(t *testing.T) {
	type layer struct {
		name         string
		tokens, cost int
	}
	for name, c := range map[string]struct {
		stack     []layer
		requests  int // The last one is looked at.
		status    int
		limit     string
		remaining string
		retry     string
		policies  string
		state     string
	}{
		"the first is tighter": {
			[]layer{{"a", 2, 1}, {"b", 3, 1}}, 1, 200, "2", "1", "",
			`"a";q=2;w=60, "b";q=3;w=60`, `"a";r=1;t=30, "b";r=2;t=40`,
		},
		"the second is tighter": {
			[]layer{{"a", 3, 1}, {"b", 2, 1}}, 1, 200, "2", "1", "",
			`"a";q=3;w=60, "b";q=2;w=60`, `"a";r=2;t=40, "b";r=1;t=30`,
		},
		"the middle one is tightest": {
			[]layer{{"a", 3, 1}, {"b", 2, 1}, {"c", 4, 1}}, 2, 200, "2", "0", "",
			`"a";q=3;w=60, "b";q=2;w=60, "c";q=4;w=60`, `"a";r=1;t=20, "b";r=0;t=30, "c";r=2;t=30`,
		},
		"the first refuses": {
			[]layer{{"a", 2, 1}, {"b", 3, 1}}, 3, 429, "2", "0", "30",
			`"a";q=2;w=60`, `"a";r=0;t=30`,
		},
		"the second refuses": {
			[]layer{{"a", 3, 1}, {"b", 2, 1}}, 3, 429, "2", "0", "30",
			`"a";q=3;w=60, "b";q=2;w=60`, `"a";r=1;t=20, "b";r=0;t=30`,
		},
		"the second refuses, though it has more left": {
			[]layer{{"a", 3, 2}, {"b", 2, 9}}, 1, 429, "2", "2", "",
			`"a";q=3;w=60, "b";q=2;w=60`, `"a";r=3;t=60, "b";r=2`,
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var decision ratelimit.Result
				var decided bool
				watch := func(c *gin.Context) { c.Next(); decision, decided = ratelimit.Get(c) }
				stack := []gin.HandlerFunc{watch}
				for _, l := range c.stack {
					stack = append(stack, perMinute(l.tokens, ratelimit.WithName(l.name),
						costOf(l.cost),
						ratelimit.WithHeaders(ratelimit.XHeaders, ratelimit.IETFHeaders)))
				}
				h := serving(stack...)
				var a answer
				for range c.requests {
					a = ask(h)
				}
				require.Equal(t, c.status, a.status)
				for name, want := range map[string]string{
					"X-Ratelimit-Limit":     c.limit,
					"X-Ratelimit-Remaining": c.remaining,
					"Retry-After":           c.retry,
					"Ratelimit-Policy":      c.policies,
					"Ratelimit":             c.state,
				} {
					if want == "" {
						require.NotContains(t, a.header, name)
					} else {
						require.Equal(t, []string{want}, a.header[name], name)
					}
				}
				require.Len(t, a.header["X-Ratelimit-Reset"], 1)

				require.True(t, decided)
				require.Equal(t, c.status == 200, decision.Allowed)
				require.Equal(t, c.limit, strconv.Itoa(decision.Limit.Capacity), "Get says what the headers say")
				require.Equal(t, c.remaining, strconv.Itoa(decision.Remaining))
			})
		})
	}
}

// Two limiters with as much left: it does not matter which one is told, but the headers and Get tell the same.
func TestGetAgreesWithHeaders(t *testing.T) {
	var decision ratelimit.Result
	h := serving(
		perMinute(2),
		ratelimit.New(ratelimit.WithRefillRate(ratelimit.PerHour(3)), costOf(2)),
		func(c *gin.Context) { decision, _ = ratelimit.Get(c) },
	)
	a := ask(h)
	require.Equal(t, "1", a.header.Get("X-RateLimit-Remaining"))
	require.Equal(t, a.header.Get("X-RateLimit-Limit"), strconv.Itoa(decision.Limit.Capacity))
}

func TestGetWithoutDecision(t *testing.T) {
	for name, limiter := range map[string]gin.HandlerFunc{
		"no limiter":     func(*gin.Context) {},
		"its store errs": perMinute(1, ratelimit.WithName("down"), downStore()),
	} {
		t.Run(name, func(t *testing.T) {
			ran := false
			a := ask(serving(limiter, func(c *gin.Context) {
				result, ok := ratelimit.Get(c)
				require.False(t, ok)
				require.Equal(t, ratelimit.Result{}, result)
				ran = true
			}))
			require.True(t, ran)
			require.Equal(t, http.Header{"Content-Type": {"text/plain; charset=utf-8"}}, a.header)
		})
	}
}

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
		{4, 200, "6", "", "hello"},
		{0, 200, "6", "", "hello"},
		{7, 429, "6", "60", `{"error":"rate limit exceeded","retry_after":60}`},
		{6, 200, "0", "", "hello"},
		{0, 200, "0", "", "hello"},
		{1, 429, "0", "60", `{"error":"rate limit exceeded","retry_after":60}`},
		{10, 429, "0", "600", `{"error":"rate limit exceeded","retry_after":600}`},
		{11, 429, "0", "", forGood},
		{math.MaxInt, 429, "0", "", forGood},
		{-1, 418, "", "", ""},
		{math.MinInt, 418, "", "", ""},
		{0, 200, "0", "", "hello"},
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

func TestOneFunctionThatCallsTwo(t *testing.T) {
	first, second := perMinute(1), perMinute(1)
	h := serving(func(c *gin.Context) { first(c); second(c) })
	require.Equal(t, 200, ask(h).status)
	require.Equal(t, 1, strings.Count(ask(h).body, "{"), "one answer")
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
				if strings.HasPrefix(name, "one that") { // The others leave no trace: what makes answers of errors would tell.
					require.Len(t, errs, 1)
					require.ErrorIs(t, errs[0], errStore)
				} else {
					require.Empty(t, errs)
				}
			}
		})
	}
}

func TestLimiterTake(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		limit := ratelimit.Limit{Capacity: 3, Refill: ratelimit.PerMinute(1)}
		l, err := ratelimit.NewLimiter(ratelimit.WithCapacity(3), ratelimit.WithRefillRate(ratelimit.PerMinute(1)))
		require.NoError(t, err)
		ctx := t.Context()
		allowed := func(remaining int, resetAfter time.Duration) ratelimit.Result {
			return ratelimit.Result{Allowed: true, Source: ratelimit.SourceMemory, Name: "default", Limit: limit, Remaining: remaining, ResetAfter: resetAfter}
		}
		for i, step := range []struct {
			key  string
			n    int
			want ratelimit.Result
		}{
			{"a", 0, allowed(3, 0)},
			{"a", 2, allowed(1, 2*time.Minute)},
			{"a", 0, allowed(1, 2*time.Minute)},
			{"a", 2, ratelimit.Result{
				Source: ratelimit.SourceMemory, Name: "default", Limit: limit,
				Remaining: 1, RetryAfter: time.Minute, ResetAfter: 2 * time.Minute,
			}},
			{"a", 4, ratelimit.Result{
				Source: ratelimit.SourceMemory, Name: "default", Limit: limit,
				Remaining: 1, RetryAfter: ratelimit.Never, ResetAfter: 2 * time.Minute,
			}},
			{"b", 3, allowed(0, 3*time.Minute)},
		} {
			result, err := l.Take(ctx, step.key, step.n)
			require.NoError(t, err, "step %d", i)
			result.Receipt = ratelimit.Receipt{}
			require.Equal(t, step.want, result, "step %d", i)
		}
		_, err = l.Take(ctx, "a", -1)
		require.ErrorIs(t, err, ratelimit.ErrArgument)

		found, err := l.Reset(ctx, "a")
		require.NoError(t, err)
		require.True(t, found)
		found, err = l.Reset(ctx, "never seen")
		require.NoError(t, err)
		require.False(t, found)
		result, err := l.Take(ctx, "a", 3)
		require.NoError(t, err)
		result.Receipt = ratelimit.Receipt{}
		require.Equal(t, allowed(0, 3*time.Minute), result)
		result, err = l.Take(ctx, "b", 1)
		require.NoError(t, err)
		require.False(t, result.Allowed, "the reset of a left b alone")

		require.Equal(t, []int{200, 200, 200}, statuses(serving(l.Handle), "/", "/", "/"))
		result, err = l.Take(ctx, "192.0.2.1", 0)
		require.NoError(t, err)
		require.Equal(t, allowed(0, 3*time.Minute), result, "requests and Take share the buckets of a key")
	})
}

func TestTakeDoesNotAllocate(t *testing.T) {
	l, err := ratelimit.NewLimiter(ratelimit.WithRefillRate(ratelimit.PerMinute(10)))
	require.NoError(t, err)
	for name, n := range map[string]int{"allowed": 0, "charged, then refused": 1, "refused for good": 11} {
		allocs := testing.AllocsPerRun(100, func() { _, err = l.Take(t.Context(), "192.0.2.1", n) })
		require.NoError(t, err)
		require.Zero(t, allocs, name)
	}
}

func TestRequestsWithoutKey(t *testing.T) {
	for name, c := range map[string]struct {
		key  ratelimit.KeyFunc
		peer string
	}{
		"unix socket":     {ratelimit.ByClientIP, "@"},
		"no peer at all":  {ratelimit.ByClientIP, ""},
		"junk for a peer": {ratelimit.ByRemoteIP, "pipe"},
		"no such header":  {ratelimit.ByHeader("X-API-Key"), "192.0.2.1:1"},
		"no token":        {ratelimit.FirstOf(ratelimit.ByBearerToken), "192.0.2.1:1"},
	} {
		t.Run(name, func(t *testing.T) {
			var events []ratelimit.Event
			h := serving(perMinute(2, ratelimit.WithKeyFunc(c.key), ratelimit.WithObserver(
				func(_ context.Context, e ratelimit.Event) { events = append(events, e) })))
			for _, want := range []int{200, 200, 429} {
				require.Equal(t, want, ask(h, peer(c.peer)).status)
			}
			require.Len(t, events, 3)
			require.Equal(t, ratelimit.ReasonAllowed, events[1].Reason)
			require.Equal(t, ratelimit.ReasonNoKey, events[2].Reason)
			require.Equal(t, "none", events[2].Key.String())
			if c.key(newContext(engine(), peer("192.0.2.1:1"))) != "" {
				require.Equal(t, 200, ask(h, peer("192.0.2.1:1")).status, "the bucket is theirs alone")
			}
		})
	}
}

func TestClientThatHasGone(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	late, cancelLate := context.WithTimeout(t.Context(), -1)
	defer cancelLate()
	never := func(*gin.Context, error) { t.Error("an aborting client is no failing store") }

	for name, c := range map[string]struct {
		ctx     context.Context
		options options
		status  int
		ran     bool
	}{
		"before":                        {ctx, nil, 200, true},
		"and nothing is left":           {ctx, options{costOf(9)}, 429, false},
		"and the store says so":         {ctx, options{ratelimit.WithName("a"), obedientStore(), ratelimit.WithErrorHandler(never)}, 200, true},
		"the server's own deadline":     {late, nil, 200, true},
		"the deadline, and store obeys": {late, options{ratelimit.WithName("a"), obedientStore(), ratelimit.WithErrorHandler(ratelimit.FailClosed)}, 503, false},
	} {
		t.Run(name, func(t *testing.T) {
			ran := false
			h := serving(perMinute(1, c.options...), func(*gin.Context) { ran = true })
			a := ask(h, withContext(c.ctx))
			require.Equal(t, c.status, a.status)
			require.Equal(t, c.ran, ran)
		})
	}
	t.Run("during the decision", func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		memory := ratelimit.NewMemoryStore()
		ran := false
		h := serving(
			perMinute(1, ratelimit.WithName("a"), ratelimit.WithStore(spyStore{memory,
				func(ctx context.Context, key string, take ratelimit.Take) (ratelimit.Result, error) {
					cancel()
					return memory.Take(ctx, key, take)
				},
			})),
			func(*gin.Context) { ran = true },
		)
		require.Equal(t, 200, ask(h, withContext(ctx)).status)
		require.True(t, ran, "as without a limiter")
	})
}

// obedientStore stops where the request is over, as a store must not, though many will.
func obedientStore() ratelimit.Option {
	return storeOption(func(ctx context.Context, _ string, _ ratelimit.Take) (ratelimit.Result, error) {
		<-ctx.Done()
		return ratelimit.Result{}, ctx.Err()
	})
}

func TestNamesOnOneStore(t *testing.T) {
	store := ratelimit.NewMemoryStore()
	on := func(name string) gin.HandlerFunc {
		return perMinute(1, ratelimit.WithName(name), ratelimit.WithStore(store))
	}
	router := engine()
	router.GET("/login", on("login"), hello)
	router.GET("/search", on("search"), hello)
	router.GET("/login/again", on("login"), hello)
	router.GET("/own", perMinute(1), hello)
	require.Equal(t, []int{200, 200, 200, 429, 429, 429, 429},
		statuses(router, "/login", "/search", "/own", "/login", "/search", "/login/again", "/own"))
	require.Equal(t, 2, store.Len())

	login, err := ratelimit.NewLimiter(ratelimit.WithName("login"), ratelimit.WithStore(store),
		ratelimit.WithRefillRate(ratelimit.PerMinute(1)))
	require.NoError(t, err)
	_, err = login.Reset(t.Context(), "192.0.2.1")
	require.NoError(t, err)
	require.Equal(t, []int{200, 429}, statuses(router, "/login", "/search"))
}

// A name must not be able to reach into another's keys: "a" + "b:c" is not "a:b" + "c".
func TestNamesAreNoPrefixes(t *testing.T) {
	var keys []string
	spy := storeOption(func(_ context.Context, key string, take ratelimit.Take) (ratelimit.Result, error) {
		keys = append(keys, key)
		return ratelimit.Result{Allowed: true, Limit: take.Limits[0]}, nil
	})
	for _, pair := range [][2]string{{"a", "b:c"}, {"a", "b"}, {"a", ""}, {"ab", ""}, {"ab", ":c"}} {
		l, err := ratelimit.NewLimiter(spy, ratelimit.WithName(pair[0]), ratelimit.WithRefillRate(ratelimit.PerSecond(1)))
		require.NoError(t, err)
		_, err = l.Take(t.Context(), pair[1], 1)
		require.NoError(t, err)
	}
	require.Equal(t, []string{"a:b:c", "a:b", "a:", "ab:", "ab::c"}, keys)
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
		"allowed":       {nil, 1, ratelimit.ReasonAllowed, 1, nil},
		"free":          {options{costOf(0)}, 1, ratelimit.ReasonAllowed, 0, nil},
		"refused":       {nil, 3, ratelimit.ReasonRefused, 1, nil},
		"never allowed": {options{costOf(3)}, 1, ratelimit.ReasonCost, 3, nil},
		"negative cost": {options{costOf(-1)}, 1, ratelimit.ReasonArgument, -1, ratelimit.ErrArgument},
		"store down":    {options{downStore()}, 1, ratelimit.ReasonStore, 1, errStore},
		"not our state": {options{foreign}, 1, ratelimit.ReasonForeign, 1, ratelimit.ErrForeignState},
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

// A hook of the user's that panics must leave nothing locked and nothing half done.
func TestHooksThatPanic(t *testing.T) {
	for hook, c := range map[string]struct {
		options   func(boom func()) options
		before    int    // requests before the panic
		remaining string // of 2, after the panic and one more request
	}{
		"KeyFunc": {func(boom func()) options {
			return options{ratelimit.WithKeyFunc(func(*gin.Context) string { boom(); return "k" })}
		}, 0, "1"},
		"cost": {func(boom func()) options {
			return options{ratelimit.WithCost(func(*gin.Context) int { boom(); return 1 })}
		}, 0, "1"},
		"limits": {func(boom func()) options {
			return options{ratelimit.WithLimitFunc(func(*gin.Context) []ratelimit.Limit { boom(); return nil })}
		}, 0, "1"},
		"HeaderFunc": {func(boom func()) options {
			return options{ratelimit.WithHeaders(ratelimit.XHeaders, func(http.Header, []ratelimit.Explanation) { boom() })}
		}, 0, "0"},
		"observer": {func(boom func()) options {
			return options{ratelimit.WithObserver(func(context.Context, ratelimit.Event) { boom() })}
		}, 0, "0"},
		"denied handler": {func(boom func()) options {
			return options{ratelimit.WithDeniedHandler(func(c *gin.Context, r ratelimit.Result) { boom(); ratelimit.DenyJSON(c, r) })}
		}, 2, "0"},
		"error handler": {func(boom func()) options {
			return options{ratelimit.WithName("down"), downStore(), ratelimit.WithErrorHandler(func(*gin.Context, error) { boom() })}
		}, 0, ""},
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

func TestMethods(t *testing.T) {
	router := engine()
	router.Use(perMinute(2))
	for _, method := range []string{http.MethodGet, http.MethodHead, http.MethodOptions} {
		router.Handle(method, "/", func(c *gin.Context) { c.Status(http.StatusNoContent) })
	}
	router.GET("/unchanged", func(c *gin.Context) { c.Status(http.StatusNotModified) })

	a := send(router, http.MethodOptions, "/")
	require.Equal(t, 204, a.status)
	require.Equal(t, "1", a.header.Get("X-RateLimit-Remaining"), "a preflight is counted; put CORS before the limiter")
	a = send(router, http.MethodGet, "/unchanged")
	require.Equal(t, 304, a.status)
	require.Equal(t, "0", a.header.Get("X-RateLimit-Remaining"))
	require.NotContains(t, a.header, "Cache-Control")
	a = send(router, http.MethodHead, "/")
	require.Equal(t, 429, a.status)
	require.Empty(t, a.body)
	require.Equal(t, "application/json; charset=utf-8", a.header.Get("Content-Type"))
	require.NotEmpty(t, a.header.Get("Retry-After"))
	a = send(router, http.MethodOptions, "/")
	require.Equal(t, 429, a.status)
	require.NotEmpty(t, a.body)
}

// Other middleware may write to the values in a header map; that must reach neither another value of the
// same response nor another response.
func TestHeaderValuesAreNotShared(t *testing.T) {
	var first http.Header
	h := serving(
		perMinute(2, ratelimit.WithHeaders(ratelimit.XHeaders, ratelimit.IETFHeaders)),
		func(c *gin.Context) {
			if first != nil {
				return
			}
			first = c.Writer.Header()
			for name, values := range first {
				values[0] = "changed"
				first[name] = append(values, "appended")
			}
		},
	)
	ask(h)
	for name, values := range first {
		if name != "Content-Type" {
			require.Equal(t, []string{"changed", "appended"}, values, name)
		}
	}
	for _, status := range []int{200, 429} {
		a := ask(h)
		require.Equal(t, status, a.status)
		require.NotContains(t, fmt.Sprint(a.header), "changed")
		require.NotContains(t, fmt.Sprint(a.header), "appended")
		require.Equal(t, []string{"2"}, a.header["X-Ratelimit-Limit"])
	}
}

func TestManyGoroutines(t *testing.T) {
	const goroutines, capacity, perSecond = 64, 50, 200
	// run hammers the middleware and returns how many requests were let through, and over what time.
	run := func(pause func(i int), rounds func(start time.Time, i int) bool) (admitted int64, elapsed time.Duration) {
		h := serving(ratelimit.New(
			ratelimit.WithCapacity(capacity),
			ratelimit.WithRefillRate(ratelimit.PerSecond(perSecond)),
		))
		var n atomic.Int64
		var wg sync.WaitGroup
		start := time.Now()
		for range goroutines {
			wg.Go(func() {
				for i := 0; rounds(start, i); i++ {
					if ask(h).status == 200 {
						n.Add(1)
					}
					pause(i)
				}
			})
		}
		wg.Wait()
		return n.Load(), time.Since(start)
	}
	t.Run("exactly, on a clock that waits for them", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			const rounds, step = 100, 3 * time.Millisecond
			admitted, elapsed := run(
				func(i int) {
					if i < rounds-1 {
						time.Sleep(step)
					}
				},
				func(_ time.Time, i int) bool { return i < rounds },
			)
			require.Equal(t, (rounds-1)*step, elapsed)
			bound := capacity + int64(elapsed*perSecond/time.Second)
			t.Logf("admitted %d of %d in %v; bound %d, slack %d", admitted, goroutines*rounds, elapsed, bound, bound-admitted)
			require.Equal(t, bound, admitted)
		})
	})
	t.Run("on the real clock", func(t *testing.T) {
		admitted, elapsed := run(func(int) {}, func(start time.Time, _ int) bool { return time.Since(start) < 300*time.Millisecond })
		bound := capacity + int64(elapsed*perSecond/time.Second)
		t.Logf("admitted %d in %v; bound %d, slack %d", admitted, elapsed, bound, bound-admitted)
		require.LessOrEqual(t, admitted, bound)
		require.GreaterOrEqual(t, admitted, int64(capacity))
	})
}

// pipes is a network inside this process: a bubble's clock would not move while a real socket is waited for.
type pipes struct {
	conns  chan net.Conn
	closed chan struct{}
}

func (p pipes) Accept() (net.Conn, error) {
	select {
	case conn := <-p.conns:
		return conn, nil
	case <-p.closed:
		return nil, net.ErrClosed
	}
}

func (p pipes) Close() error   { close(p.closed); return nil }
func (p pipes) Addr() net.Addr { return &net.TCPAddr{} }

func (p pipes) dial(context.Context, string, string) (net.Conn, error) {
	client, server := net.Pipe()
	p.conns <- pipeConn{server}
	return client, nil
}

type pipeConn struct{ net.Conn }

func (pipeConn) RemoteAddr() net.Addr { return &net.TCPAddr{IP: net.IPv4(192, 0, 2, 1), Port: 1234} }

// listen serves h over HTTP until the end of the test.
func listen(t *testing.T, h http.Handler) *http.Client {
	network := pipes{make(chan net.Conn), make(chan struct{})}
	server := &http.Server{Handler: h}
	var serving sync.WaitGroup
	serving.Go(func() { _ = server.Serve(network) })
	transport := &http.Transport{DialContext: network.dial}
	t.Cleanup(func() {
		transport.CloseIdleConnections()
		_ = server.Close()
		serving.Wait()
	})
	return &http.Client{Transport: transport}
}

// fetch gets / and hands the response to read while its body is open.
func open(t *testing.T, client *http.Client, read func(*http.Response)) {
	response, err := client.Get("http://test/")
	require.NoError(t, err)
	defer func() { _ = response.Body.Close() }()
	read(response)
}

func TestOverHTTP(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client := listen(t, serving(ratelimit.New(
			ratelimit.WithCapacity(5),
			ratelimit.WithRefillRate(ratelimit.PerMinute(20)),
		)))
		call := func(want int) (retryAfter string) {
			open(t, client, func(response *http.Response) {
				_, err := io.Copy(io.Discard, response.Body)
				require.NoError(t, err)
				require.Equal(t, want, response.StatusCode)
				retryAfter = response.Header.Get("Retry-After")
			})
			return retryAfter
		}
		for range 5 {
			call(200)
		}
		for range 10 {
			require.Equal(t, "3", call(429))
			time.Sleep(3*time.Second - time.Millisecond)
			require.Equal(t, "1", call(429))
			time.Sleep(time.Millisecond)
			call(200)
		}
	})
}

func TestStreaming(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		more := make(chan struct{})
		client := listen(t, serving(perMinute(2), func(c *gin.Context) {
			c.SSEvent("n", 1)
			c.Writer.Flush()
			<-more
			c.SSEvent("n", 2)
			c.Abort()
		}))
		open(t, client, func(response *http.Response) {
			require.Equal(t, "1", response.Header.Get("X-RateLimit-Remaining"), "there before the handler is done")
			close(more)
			body, err := io.ReadAll(response.Body)
			require.NoError(t, err)
			require.Equal(t, "event:n\ndata:1\n\nevent:n\ndata:2\n\n", string(body))
		})
	})
}

func TestUpgrade(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client := listen(t, serving(perMinute(1), func(c *gin.Context) {
			remaining := c.Writer.Header().Get("X-RateLimit-Remaining")
			hijacked, buffer, err := c.Writer.Hijack()
			if err != nil {
				t.Error(err)
				return
			}
			defer func() { _ = hijacked.Close() }()
			_, _ = fmt.Fprintf(buffer, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: echo\r\n"+
				"X-RateLimit-Remaining: %s\r\n\r\n", remaining)
			_ = buffer.Flush()
			line, _ := buffer.ReadString('\n')
			_, _ = hijacked.Write([]byte(strings.ToUpper(line)))
			c.Abort()
		}))
		open(t, client, func(response *http.Response) {
			require.Equal(t, 101, response.StatusCode)
			require.Equal(t, "0", response.Header.Get("X-RateLimit-Remaining"))
			stream, ok := response.Body.(io.ReadWriter)
			require.True(t, ok)
			_, err := stream.Write([]byte("echo\n"))
			require.NoError(t, err)
			line, err := bufio.NewReader(stream).ReadString('\n')
			require.NoError(t, err)
			require.Equal(t, "ECHO\n", line)
		})
		open(t, client, func(response *http.Response) {
			require.Equal(t, 429, response.StatusCode, "a refused upgrade is an answer like any other")
		})
	})
}
