package ratelimit_test

import (
	"context"
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/gin-ratelimit/ratelimit"
)

func TestClientsThatIgnoreRetryAfterStayOut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var last ratelimit.Event
		limiter := newLimiter(t, ratelimit.WithCapacity(1),
			ratelimit.WithBan(ratelimit.Ban{After: 5, Within: time.Minute, For: time.Minute, Max: time.Hour}),
			ratelimit.WithObserver(func(_ context.Context, e ratelimit.Event) { last = e }))
		engine := featureEngine(limiter.Handle)
		require.Equal(t, http.StatusOK, get(engine).Code)
		for range 4 {
			require.Equal(t, "1", get(engine).Header().Get("Retry-After"))
			require.Equal(t, ratelimit.ReasonRefused, last.Reason)
		}
		w := get(engine)
		require.Equal(t, http.StatusTooManyRequests, w.Code)
		require.Equal(t, "60", w.Header().Get("Retry-After"), "the ban's, not the bucket's")
		require.Equal(t, ratelimit.ReasonBanned, last.Reason)
		time.Sleep(59 * time.Second) // The bucket is full again.
		w = get(engine)
		require.Equal(t, http.StatusTooManyRequests, w.Code)
		require.Equal(t, "1", w.Header().Get("Retry-After"))
		require.Equal(t, "0", w.Header().Get("X-Ratelimit-Remaining"))
		time.Sleep(time.Second)
		require.Equal(t, http.StatusOK, get(engine).Code)
		require.Equal(t, "120", get(engine).Header().Get("Retry-After"), "it goes on")
		_, err := limiter.Reset(t.Context(), "key")
		require.NoError(t, err)
		require.Equal(t, http.StatusOK, get(engine).Code)
	})
}
