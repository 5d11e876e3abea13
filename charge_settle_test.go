package ratelimit_test

import (
	"context"
	"net/http"
	"net/http/httptest"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gin-gonic/gin"
	"github.com/stretchr/testify/require"

	"github.com/gin-ratelimit/ratelimit"
)

// featureEngine serves GET / with the handlers, and answers 500 where they panic.
func featureEngine(handlers ...gin.HandlerFunc) *gin.Engine {
	engine := gin.New()
	engine.Use(gin.CustomRecoveryWithWriter(nil, func(c *gin.Context, _ any) { c.AbortWithStatus(http.StatusInternalServerError) }))
	engine.GET("/", handlers...)
	return engine
}

func get(engine *gin.Engine) *httptest.ResponseRecorder {
	return getWith(context.Background(), engine)
}

func getWith(ctx context.Context, engine *gin.Engine) *httptest.ResponseRecorder {
	w := httptest.NewRecorder()
	engine.ServeHTTP(w, httptest.NewRequestWithContext(ctx, http.MethodGet, "/", nil))
	return w
}

// newLimiter returns a limiter of ten tokens, one a second, keyed by "key".
func newLimiter(t *testing.T, opts ...ratelimit.Option) *ratelimit.Limiter {
	t.Helper()
	limiter, err := ratelimit.NewLimiter(append([]ratelimit.Option{
		ratelimit.WithCapacity(10),
		ratelimit.WithRefillRate(ratelimit.PerSecond(1)),
		ratelimit.WithKeyFunc(func(*gin.Context) string { return "key" }),
	}, opts...)...)
	require.NoError(t, err)
	return limiter
}

func tokensLeft(t *testing.T, limiter *ratelimit.Limiter) int {
	t.Helper()
	look, err := limiter.Take(context.Background(), "key", 0)
	require.NoError(t, err)
	return look.Remaining
}

func costOf(n int) ratelimit.Option {
	return ratelimit.WithCost(func(*gin.Context) int { return n })
}

func TestSettleCorrectsTheCost(t *testing.T) {
	for _, test := range []struct {
		name     string
		settle   []int
		left     int
		nextIn   time.Duration // until another request that reserves 4 is admitted
		panicked bool
	}{
		{name: "never", left: 6},
		{name: "what was reserved", settle: []int{4}, left: 6},
		{name: "less", settle: []int{1}, left: 9},
		{name: "nothing", settle: []int{0}, left: 10},
		{name: "more", settle: []int{9}, left: 1, nextIn: 3 * time.Second},
		{name: "more than there is", settle: []int{15}, left: 0, nextIn: 9 * time.Second},
		{name: "the last holds", settle: []int{15, 2}, left: 8},
		{name: "before a panic", settle: []int{1}, left: 9, panicked: true},
		{name: "a panic instead", left: 6, panicked: true},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				limiter := newLimiter(t, costOf(4))
				engine := featureEngine(limiter.Handle, func(c *gin.Context) {
					for _, actual := range test.settle {
						require.NoError(t, ratelimit.Settle(c, actual))
					}
					if test.panicked {
						panic("the handler's own")
					}
				})
				get(engine)
				require.Equal(t, test.left, tokensLeft(t, limiter))
				if test.nextIn > 0 {
					time.Sleep(test.nextIn - time.Microsecond)
					require.Equal(t, http.StatusTooManyRequests, get(engine).Code)
					time.Sleep(time.Microsecond)
				}
				if !test.panicked {
					require.Equal(t, http.StatusOK, get(engine).Code)
				}
			})
		})
	}
}

func TestSettleAfterTheClientHasGone(t *testing.T) {
	limiter := newLimiter(t, costOf(4))
	ctx, hangUp := context.WithCancel(context.Background())
	engine := featureEngine(limiter.Handle, func(c *gin.Context) {
		hangUp()
		require.NoError(t, ratelimit.Settle(c, 7))
	})
	getWith(ctx, engine)
	require.Equal(t, 3, tokensLeft(t, limiter))
}

func TestSettleLeavesLimitersThatCountRequestsAlone(t *testing.T) {
	requests, tokens := newLimiter(t), newLimiter(t, costOf(4))
	get(featureEngine(requests.Handle, tokens.Handle, func(c *gin.Context) {
		require.NoError(t, ratelimit.Settle(c, 2))
	}))
	require.Equal(t, 9, tokensLeft(t, requests))
	require.Equal(t, 8, tokensLeft(t, tokens))
}

func TestSettleThatCannotBe(t *testing.T) {
	limiter := newLimiter(t)
	get(featureEngine(limiter.Handle, func(c *gin.Context) {
		require.ErrorIs(t, ratelimit.Settle(c, 2), ratelimit.ErrNotCharged)
		require.ErrorContains(t, ratelimit.Settle(c, -1), "Settle(-1): the cost must not be negative")
	}))
}

func TestChargeIf(t *testing.T) {
	status := http.StatusUnauthorized
	failed := ratelimit.WithChargeIf(func(c *gin.Context) bool { return c.Writer.Status() == http.StatusUnauthorized })
	limiter := newLimiter(t, failed)
	engine := featureEngine(limiter.Handle, func(c *gin.Context) { c.Status(status) })
	for range 3 {
		require.Equal(t, http.StatusUnauthorized, get(engine).Code)
	}
	require.Equal(t, 7, tokensLeft(t, limiter), "failures are charged")
	status = http.StatusOK
	for range 30 {
		require.Equal(t, http.StatusOK, get(engine).Code)
	}
	require.Equal(t, 7, tokensLeft(t, limiter), "successes are not")
}

func TestChargeIfReservesBefore(t *testing.T) {
	limiter := newLimiter(t, ratelimit.WithChargeIf(func(*gin.Context) bool { return false }))
	get(featureEngine(limiter.Handle, func(*gin.Context) {
		require.Equal(t, 9, tokensLeft(t, limiter), "while the handler runs")
	}))
	require.Equal(t, 10, tokensLeft(t, limiter))
}

func TestChargeIfChargesPanics(t *testing.T) {
	limiter := newLimiter(t, ratelimit.WithChargeIf(func(*gin.Context) bool { return false }))
	require.Equal(t, http.StatusInternalServerError, get(featureEngine(limiter.Handle, func(*gin.Context) { panic("the handler's own") })).Code)
	require.Equal(t, 9, tokensLeft(t, limiter))
}

func TestRefusalGivesBackWhatEarlierLimitersTook(t *testing.T) {
	wide, wider, narrow := newLimiter(t), newLimiter(t, costOf(3)), newLimiter(t, ratelimit.WithCapacity(2))
	engine := featureEngine(wide.Handle, wider.Handle, narrow.Handle, func(*gin.Context) {})
	for range 2 {
		require.Equal(t, http.StatusOK, get(engine).Code)
	}
	for range 20 {
		require.Equal(t, http.StatusTooManyRequests, get(engine).Code)
	}
	require.Equal(t, 8, tokensLeft(t, wide))
	require.Equal(t, 4, tokensLeft(t, wider))
	require.Equal(t, 0, tokensLeft(t, narrow))
}
