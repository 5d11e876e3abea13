package ratelimit_test

import (
	"net/http"
	"strconv"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gin-gonic/gin"
	"github.com/stretchr/testify/require"

	"github.com/gin-ratelimit/ratelimit"
)

// ownHeaders is a writer with a header map of its own, as used by middleware for timeouts and buffering.
type ownHeaders struct {
	gin.ResponseWriter
	header http.Header
}

func (w *ownHeaders) Header() http.Header { return w.header }

// Headers are made from the decisions, not from what is in the header map.
func TestHeadersInAMapOfSomebodyElses(t *testing.T) {
	store := ratelimit.WithStore(ratelimit.NewMemoryStore())
	headers := ratelimit.WithHeaders(ratelimit.XHeaders, ratelimit.IETFHeaders)
	tight := perDay(t, "tight", store, headers, ratelimit.WithCapacity(5))
	loose := perDay(t, "loose", store, headers, ratelimit.WithCapacity(100))
	var inner http.Header
	require.Equal(t, 200, get(featureEngine(tight.Handle, func(c *gin.Context) {
		inner = http.Header{}
		c.Writer = &ownHeaders{c.Writer, inner}
	}, loose.Handle, func(c *gin.Context) {
		tightest, ok := ratelimit.Get(c)
		require.True(t, ok)
		require.Equal(t, 4, tightest.Remaining)
	})).Code)
	require.Equal(t, "5", inner.Get("X-RateLimit-Limit"))
	require.Equal(t, "4", inner.Get("X-RateLimit-Remaining"))
	require.Equal(t, `"tight";q=10;w=86400;tb-burst=5, "loose";q=10;w=86400;tb-burst=100`, inner.Get("RateLimit-Policy"))
}

// Each limit is an item, and t is the time until there are more tokens.
func TestHeadersOfSeveralLimits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		limiter, err := ratelimit.NewLimiter(ratelimit.WithName("api"), ratelimit.WithHeaders(ratelimit.IETFHeaders),
			ratelimit.WithLimit(ratelimit.PerSecond(2).Burst(2), ratelimit.PerHour(100).Burst(100), ratelimit.PerDay(1).Burst(3)),
			ratelimit.WithDeniedHandler(ratelimit.DenyProblem))
		require.NoError(t, err)
		engine := featureEngine(limiter.Handle)
		const policies = `"api";q=2;w=1, "api:2";q=100;w=3600, "api:3";q=1;w=86400;tb-burst=3`
		for _, want := range []struct {
			status       int
			state, retry string
		}{
			{status: 200, state: `"api";r=1;t=1, "api:2";r=99;t=3564, "api:3";r=2;t=172800`},
			{status: 200, state: `"api";r=0;t=1, "api:2";r=98;t=3528, "api:3";r=1;t=86400`},
			{status: 429, state: `"api";r=0;t=1, "api:2";r=98;t=3528, "api:3";r=1;t=86400`, retry: "1"},
		} {
			w := get(engine)
			require.Equal(t, want.status, w.Code)
			require.Equal(t, policies, w.Header().Get("RateLimit-Policy"))
			require.Equal(t, want.state, w.Header().Get("RateLimit"))
			require.Equal(t, want.retry, w.Header().Get("Retry-After"))
			if want.retry != "" {
				require.Contains(t, w.Body.String(), `"violated-policies":["api"]`)
			}
		}
		time.Sleep(time.Second)
		require.Equal(t, 200, get(engine).Code)
		w := get(engine)
		require.Equal(t, 429, w.Code)
		require.Equal(t, "86399", w.Header().Get("Retry-After"))
		require.Contains(t, w.Body.String(), `"violated-policies":["api:3"]`)
	})
}

// No header promises tokens to a client that is shut out before the ban is over.
func TestHeadersDuringABan(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		limiter := newLimiter(t, ratelimit.WithHeaders(ratelimit.XHeaders, ratelimit.IETFHeaders),
			ratelimit.WithLimit(ratelimit.PerHour(100).Burst(100)), ratelimit.WithCapacity(1),
			ratelimit.WithBan(ratelimit.Ban{After: 1, Within: time.Minute, For: time.Hour}))
		engine, start := featureEngine(limiter.Handle), time.Now()
		get(engine)
		get(engine)
		time.Sleep(10 * time.Second)
		w := get(engine)
		require.Equal(t, "3590", w.Header().Get("Retry-After"))
		require.Equal(t, strconv.FormatInt(start.Add(time.Hour).Unix(), 10), w.Header().Get("X-RateLimit-Reset"))
		require.Equal(t, `"default";r=0;t=3590, "default:2";r=0;t=3590`, w.Header().Get("RateLimit"))
	})
}

// Tokens that come back before the response is written are in its headers.
func TestHeadersAfterAGiveBack(t *testing.T) {
	store := ratelimit.WithStore(ratelimit.NewMemoryStore())
	free := perDay(t, "free", store, ratelimit.WithChargeIf(func(*gin.Context) bool { return false }))
	w := get(featureEngine(free.Handle, func(c *gin.Context) { c.Status(http.StatusNoContent) }))
	require.Equal(t, "10", w.Header().Get("X-RateLimit-Remaining"))

	model := perDay(t, "model", store, costOf(6))
	w = get(featureEngine(model.Handle, func(c *gin.Context) {
		require.NoError(t, ratelimit.Settle(c, 2))
		c.String(http.StatusOK, "done")
	}))
	require.Equal(t, "8", w.Header().Get("X-RateLimit-Remaining"))

	first := perDay(t, "first", store, ratelimit.WithHeaders(ratelimit.IETFHeaders))
	second := perDay(t, "second", store, costOf(11))
	w = get(featureEngine(first.Handle, second.Handle))
	require.Equal(t, 429, w.Code)
	require.Equal(t, `"first";r=10;t=86400`, w.Header().Get("RateLimit"))
	require.Equal(t, "10", w.Header().Get("X-RateLimit-Remaining"), "of the second")
}

// A limiter in Shadow sends headers only to requests with its secret.
func TestHeadersOfShadow(t *testing.T) {
	const secret = "correct horse battery"
	limiter := perDay(t, "dry", ratelimit.WithStore(ratelimit.NewMemoryStore()), ratelimit.WithShadow(), costOf(11),
		ratelimit.WithDebugHeader(secret))
	h := serving(limiter.Handle)
	require.Empty(t, ask(h).header.Get("X-RateLimit-Limit"))
	knowing := ask(h, header("X-RateLimit-Debug", secret))
	require.Equal(t, "10", knowing.header.Get("X-RateLimit-Limit"))
	require.Contains(t, knowing.header.Get("X-RateLimit-Explain"), "dry: refused; mode=shadow")
}

// The headers of other limiters do not mention a limiter without headers.
func TestHeadersOfAHiddenLimiter(t *testing.T) {
	store := ratelimit.WithStore(ratelimit.NewMemoryStore())
	hidden := perDay(t, "hidden", store, ratelimit.WithCapacity(2), ratelimit.WithHeaders(ratelimit.NoHeaders))
	shown := perDay(t, "shown", store, ratelimit.WithHeaders(ratelimit.XHeaders, ratelimit.IETFHeaders))
	w := get(featureEngine(hidden.Handle, shown.Handle))
	require.Equal(t, "9", w.Header().Get("X-RateLimit-Remaining"))
	require.Equal(t, `"shown";q=10;w=86400`, w.Header().Get("RateLimit-Policy"))
}

// A user's header function gets every decision so far, with the buckets of all limits.
func TestHeaderFuncGetsAllDecisions(t *testing.T) {
	store := ratelimit.WithStore(ratelimit.NewMemoryStore())
	var got [][]ratelimit.Explanation
	own := ratelimit.WithHeaders(func(_ http.Header, decisions []ratelimit.Explanation) { got = append(got, decisions) })
	first := perDay(t, "first", store, own)
	second := perDay(t, "second", store, own, ratelimit.WithLimit(ratelimit.PerDay(20).Burst(20)), costOf(3))
	require.Equal(t, 200, get(featureEngine(first.Handle, second.Handle)).Code)
	require.Len(t, got, 2)
	require.Len(t, got[0], 1)
	require.Len(t, got[1], 2)
	require.Equal(t, []string{"first", "second"}, []string{got[1][0].Name, got[1][1].Name})
	require.Equal(t, []int{7, 17}, []int{got[1][1].Buckets[0].Remaining, got[1][1].Buckets[1].Remaining})
	require.Equal(t, 9, got[1][0].Buckets[0].Remaining)
}
