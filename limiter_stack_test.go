package ratelimit_test

import (
	"context"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gin-gonic/gin"
	"github.com/stretchr/testify/require"

	"github.com/gin-ratelimit/ratelimit"
)

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
			stack: []layer{{name: "a", tokens: 2, cost: 1}, {name: "b", tokens: 3, cost: 1}}, requests: 1, status: 200, limit: "2", remaining: "1",
			policies: `"a";q=2;w=60, "b";q=3;w=60`, state: `"a";r=1;t=30, "b";r=2;t=40`,
		},
		"the second is tighter": {
			stack: []layer{{name: "a", tokens: 3, cost: 1}, {name: "b", tokens: 2, cost: 1}}, requests: 1, status: 200, limit: "2", remaining: "1",
			policies: `"a";q=3;w=60, "b";q=2;w=60`, state: `"a";r=2;t=40, "b";r=1;t=30`,
		},
		"the middle one is tightest": {
			stack: []layer{{name: "a", tokens: 3, cost: 1}, {name: "b", tokens: 2, cost: 1}, {name: "c", tokens: 4, cost: 1}}, requests: 2, status: 200, limit: "2", remaining: "0",
			policies: `"a";q=3;w=60, "b";q=2;w=60, "c";q=4;w=60`, state: `"a";r=1;t=20, "b";r=0;t=30, "c";r=2;t=30`,
		},
		"the first refuses": {
			stack: []layer{{name: "a", tokens: 2, cost: 1}, {name: "b", tokens: 3, cost: 1}}, requests: 3, status: 429, limit: "2", remaining: "0", retry: "30",
			policies: `"a";q=2;w=60`, state: `"a";r=0;t=30`,
		},
		"the second refuses": {
			stack: []layer{{name: "a", tokens: 3, cost: 1}, {name: "b", tokens: 2, cost: 1}}, requests: 3, status: 429, limit: "2", remaining: "0", retry: "30",
			policies: `"a";q=3;w=60, "b";q=2;w=60`, state: `"a";r=1;t=20, "b";r=0;t=30`,
		},
		"the second refuses, though it has more left": {
			stack: []layer{{name: "a", tokens: 3, cost: 2}, {name: "b", tokens: 2, cost: 9}}, requests: 1, status: 429, limit: "2", remaining: "2",
			policies: `"a";q=3;w=60, "b";q=2;w=60`, state: `"a";r=3;t=60, "b";r=2`,
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

func TestOneFunctionThatCallsTwo(t *testing.T) {
	first, second := perMinute(1), perMinute(1)
	h := serving(func(c *gin.Context) { first(c); second(c) })
	require.Equal(t, 200, ask(h).status)
	require.Equal(t, 1, strings.Count(ask(h).body, "{"), "one answer")
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

// A limiter's keys must not be mistaken for those of another name: "a" + "b:c" is not "a:b" + "c".
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
