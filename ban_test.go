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

// Errors about a ban have the package's prefix once, and their cause once, whatever function returns them.
func TestBanErrors(t *testing.T) {
	limit := ratelimit.PerMinute(1).Burst(1)
	for name, c := range map[string]struct {
		ban  ratelimit.Ban
		want string
	}{
		"no refusals": {ratelimit.Ban{After: 0, Within: time.Minute, For: time.Minute},
			"ratelimit: ban after 0 refusals within 1m0s: After must be at least 1, and Within positive, for example 50 within 1m"},
		"no time": {ratelimit.Ban{After: 1, Within: 0, For: time.Minute},
			"ratelimit: ban after 1 refusals within 0s: After must be at least 1, and Within positive, for example 50 within 1m"},
		"no length": {ratelimit.Ban{After: 1, Within: time.Minute},
			"ratelimit: ban of 0s up to 0s: For must be positive, and Max from For to 87600h0m0s"},
		"more than can be counted": {ratelimit.Ban{After: 1 << 30, Within: 100_000 * time.Hour, For: time.Minute},
			"ratelimit: ban after 1073741824 refusals within 100000h0m0s: cannot be counted exactly; lower After or Within"},
	} {
		t.Run(name, func(t *testing.T) {
			require.EqualError(t, c.ban.Validate(), c.want)
			_, err := ratelimit.NewLimiter(ratelimit.WithLimit(limit), ratelimit.WithBan(c.ban))
			require.EqualError(t, err, c.want+" (given to WithBan)")
			_, err = ratelimit.NewMemoryStore().Take(t.Context(), "key", ratelimit.Take{N: 1, Limits: []ratelimit.Limit{limit}, Ban: c.ban})
			require.EqualError(t, err, c.want+": invalid argument")
			require.ErrorIs(t, err, ratelimit.ErrArgument)
		})
	}
}
