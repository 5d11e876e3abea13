package ratelimit_test

import (
	"context"
	"net/http"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gin-gonic/gin"
	"github.com/stretchr/testify/require"

	"github.com/gin-ratelimit/ratelimit"
)

func TestWaitingRequestsGoOnAtTheRefillRateInOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		var events []ratelimit.Event
		limiter := newLimiter(t, ratelimit.WithCapacity(2), ratelimit.WithMaxWait(3*time.Second),
			ratelimit.WithObserver(func(_ context.Context, e ratelimit.Event) {
				mu.Lock()
				defer mu.Unlock()
				events = append(events, e)
			}))
		engine := featureEngine(limiter.Handle)
		start := time.Now()
		codes := make([]int, 7)
		at := make([]time.Duration, 7)
		var requests sync.WaitGroup
		for i := range codes {
			requests.Go(func() {
				codes[i] = get(engine).Code
				at[i] = time.Since(start)
			})
			synctest.Wait() // So that they come one after the other.
		}
		requests.Wait()
		require.Equal(t, []int{200, 200, 200, 200, 200, 429, 429}, codes)
		require.Equal(t, []time.Duration{0, 0, 1 * time.Second, 2 * time.Second, 3 * time.Second, 0, 0}, at)
		require.Len(t, events, 7)
		last := events[6]
		require.Equal(t, 3*time.Second, last.Waited)
		require.Equal(t, ratelimit.ReasonAllowed, last.Reason)
		require.Equal(t, 3, events[2].Waiting, "while the first refusal was told of")
		require.Equal(t, 0, last.Waiting, "after the last")
	})
}

func TestWaitingClientThatLeavesGivesItsPlaceBack(t *testing.T) {
	for _, test := range []struct {
		name   string
		end    func(context.Context) (context.Context, context.CancelFunc)
		code   int
		reason ratelimit.Reason
		next   time.Duration
	}{
		{name: "hangs up", end: func(ctx context.Context) (context.Context, context.CancelFunc) {
			ctx, cancel := context.WithCancel(ctx)
			time.AfterFunc(500*time.Millisecond, cancel)
			return ctx, cancel
		}, code: 499, reason: "gone", next: 500 * time.Millisecond},
		{name: "runs out of time", end: func(ctx context.Context) (context.Context, context.CancelFunc) {
			return context.WithTimeout(ctx, 500*time.Millisecond)
		}, code: http.StatusTooManyRequests, reason: "refused", next: time.Second}, // At once, because its turn would come too late.
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var reasons []ratelimit.Reason
				limiter := newLimiter(t, ratelimit.WithCapacity(1), ratelimit.WithMaxWait(time.Second),
					ratelimit.WithObserver(func(_ context.Context, e ratelimit.Event) { reasons = append(reasons, e.Reason) }))
				served := 0
				engine := featureEngine(limiter.Handle, func(*gin.Context) { served++ })
				require.Equal(t, http.StatusOK, get(engine).Code)
				ctx, cancel := test.end(context.Background())
				defer cancel()
				require.Equal(t, test.code, getWith(ctx, engine).Code)
				require.Equal(t, 1, served, "its handler does not run")
				require.Equal(t, []ratelimit.Reason{"allowed", test.reason}, reasons)

				start := time.Now()
				require.Equal(t, http.StatusOK, get(engine).Code)
				require.Equal(t, test.next, time.Since(start), "the next has its place")
			})
		})
	}
}

// A place in the queue that would be left again is not reserved: until then it would hold others back.
func TestWaitsNoLongerThanTheDeadline(t *testing.T) {
	for _, test := range []struct{ deadline, maxWait time.Duration }{
		{deadline: 500 * time.Millisecond, maxWait: 500 * time.Millisecond},
		{deadline: time.Minute, maxWait: 3 * time.Second},
		{deadline: -time.Second, maxWait: time.Microsecond}, // 0 would be a take without a queue.
	} {
		synctest.Test(t, func(t *testing.T) {
			var asked ratelimit.Take
			memory := ratelimit.NewMemoryStore()
			limiter := newLimiter(t, ratelimit.WithName("a"), ratelimit.WithMaxWait(3*time.Second),
				storeOption(func(ctx context.Context, key string, take ratelimit.Take) (ratelimit.Result, error) {
					asked = take
					return memory.Take(ctx, key, take)
				}))
			ctx, cancel := context.WithTimeout(context.Background(), test.deadline)
			defer cancel()
			getWith(ctx, featureEngine(limiter.Handle))
			require.Equal(t, test.maxWait, asked.MaxWait)
		})
	}
}

func TestShadowDoesNotHoldBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		limiter := newLimiter(t, ratelimit.WithCapacity(1), ratelimit.WithMaxWait(time.Second), ratelimit.WithShadow())
		engine, start := featureEngine(limiter.Handle), time.Now()
		for range 5 {
			require.Equal(t, http.StatusOK, get(engine).Code)
		}
		require.Zero(t, time.Since(start))
	})
}

func TestWrongMaxWait(t *testing.T) {
	_, err := ratelimit.NewLimiter(ratelimit.WithRefillRate(ratelimit.PerSecond(1)), ratelimit.WithMaxWait(0),
		ratelimit.WithBan(ratelimit.Ban{After: 1}))
	require.ErrorContains(t, err, "WithMaxWait(0s): must be from 1µs to 24h")
	require.ErrorContains(t, err, "ratelimit: ban of 0s up to 0s: For must be positive")
}
