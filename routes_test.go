package ratelimit_test

import (
	"net/http"
	"testing"

	"github.com/gin-gonic/gin"
	"github.com/stretchr/testify/require"

	"github.com/gin-ratelimit/ratelimit"
)

func TestStackDecidesAllBeforeTheHandlers(t *testing.T) {
	store := ratelimit.WithStore(ratelimit.NewMemoryStore())
	onlyFailures := ratelimit.WithChargeIf(func(c *gin.Context) bool { return c.Writer.Status() == http.StatusUnauthorized })
	first := perDay(t, "first", store, onlyFailures)
	second := perDay(t, "second", store, ratelimit.WithCapacity(2))
	third := perDay(t, "third", store, onlyFailures)
	status, ran := http.StatusOK, 0
	engine := featureEngine(ratelimit.Stack(first, second, third), func(c *gin.Context) {
		ran++
		c.Status(status)
	})
	left := func() []int { return []int{tokensLeft(t, first), tokensLeft(t, second), tokensLeft(t, third)} }

	require.Equal(t, 200, get(engine).Code)
	require.Equal(t, []int{10, 1, 10}, left(), "a success is charged by the second alone")
	status = http.StatusUnauthorized
	require.Equal(t, 401, get(engine).Code)
	require.Equal(t, []int{9, 0, 9}, left(), "a failure by all")
	require.Equal(t, 429, get(engine).Code)
	require.Equal(t, []int{9, 0, 9}, left(), "a refusal by none")
	require.Equal(t, 2, ran)
}

// A limiter in front of the stack is asked by itself after the handlers, and once.
func TestStackBehindALimiter(t *testing.T) {
	store := ratelimit.WithStore(ratelimit.NewMemoryStore())
	asked := map[string]int{}
	asks := func(name string) ratelimit.Option {
		return ratelimit.WithChargeIf(func(*gin.Context) bool { asked[name]++; return false })
	}
	outer, inner := perDay(t, "outer", store, asks("outer")), perDay(t, "inner", store, asks("inner"))
	require.Equal(t, 200, get(featureEngine(outer.Handle, ratelimit.Stack(inner), func(*gin.Context) {})).Code)
	require.Equal(t, map[string]int{"outer": 1, "inner": 1}, asked)
	require.Equal(t, []int{10, 10}, []int{tokensLeft(t, outer), tokensLeft(t, inner)})
}

func TestStackOfNothing(t *testing.T) {
	require.PanicsWithValue(t, "ratelimit: Stack(): needs limiters, as NewLimiter makes them", func() { ratelimit.Stack() })
	require.PanicsWithValue(t, "ratelimit: Stack: limiter 1 is nil", func() { ratelimit.Stack(newLimiter(t), nil) })
}

// Check and Routes find limiters within the middleware of this package.
func TestCombinatorsAreSeenThrough(t *testing.T) {
	always := func(*gin.Context) bool { return true }
	a, b := newLimiter(t, ratelimit.WithName("a")), newLimiter(t, ratelimit.WithName("b"))
	router := engine()
	router.GET("/stack", ratelimit.Stack(a, b), hello)
	router.GET("/when", ratelimit.When(always, ratelimit.When(always, ratelimit.Stack(a, b))), hello)
	router.GET("/plain", a.Handle, ratelimit.When(always, hello), b.Handle, hello)
	for _, route := range ratelimit.Routes(router)[:3] {
		require.Equal(t, []*ratelimit.Limiter{a, b}, route.Limiters, route.Path)
	}
	for _, warning := range ratelimit.Check(router) {
		require.NotEqual(t, ratelimit.WarnUnlimited, warning.Code, "%v", warning)
	}
}
