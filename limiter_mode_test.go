package ratelimit_test

import (
	"context"
	"net/http"
	"testing"

	"github.com/gin-gonic/gin"
	"github.com/stretchr/testify/require"

	"github.com/gin-ratelimit/ratelimit"
)

func TestShadowDecidesAndRefusesNobody(t *testing.T) {
	var reasons []ratelimit.Reason
	limiter := newLimiter(t, ratelimit.WithCapacity(2), ratelimit.WithShadow(),
		ratelimit.WithObserver(func(_ context.Context, e ratelimit.Event) { reasons = append(reasons, e.Reason) }))
	engine := featureEngine(limiter.Handle, func(c *gin.Context) {
		_, ok := ratelimit.Get(c)
		require.False(t, ok, "a decision that does not count")
	})
	for range 4 {
		w := get(engine)
		require.Equal(t, http.StatusOK, w.Code)
		require.Empty(t, w.Header(), "nobody sees a shadow")
	}
	require.Equal(t, []ratelimit.Reason{"allowed", "allowed", "shadow", "shadow"}, reasons)

	require.Equal(t, ratelimit.Shadow, limiter.Mode())
	limiter.SetMode(ratelimit.Enforce)
	require.Equal(t, http.StatusTooManyRequests, get(engine).Code, "the buckets are the same")

	limiter.SetMode(ratelimit.Off)
	require.Equal(t, http.StatusOK, get(engine).Code)
	require.Len(t, reasons, 5, "Off asks nobody")
}

func TestShadowLetsThroughWhenTheStoreIsDown(t *testing.T) {
	limiter := newLimiter(t, ratelimit.WithShadow(), ratelimit.WithName("shadow"), ratelimit.WithStore(brokenStore{}),
		ratelimit.WithErrorHandler(ratelimit.FailClosed))
	require.Equal(t, http.StatusOK, get(featureEngine(limiter.Handle)).Code)
}

// brokenStore cannot decide.
type brokenStore struct{ ratelimit.Store }

func (brokenStore) Take(context.Context, string, ratelimit.Take) (ratelimit.Result, error) {
	return ratelimit.Result{}, context.DeadlineExceeded
}

func TestModesPrint(t *testing.T) {
	require.Equal(t, "enforce shadow off unknown",
		ratelimit.Enforce.String()+" "+ratelimit.Shadow.String()+" "+ratelimit.Off.String()+" "+ratelimit.Mode(7).String())
}
