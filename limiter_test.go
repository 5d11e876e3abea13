package ratelimit_test

import (
	"context"
	"net/http"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/gin-ratelimit/ratelimit"
)

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
			{after: 0, status: 200, remaining: "2", reset: "3"},
			{after: 0, status: 200, remaining: "1", reset: "6"},
			{after: 0, status: 200, remaining: "0", reset: "9"},
			{after: 0, status: 429, remaining: "0", reset: "9", retry: "3"},
			{after: 2900 * time.Millisecond, status: 429, remaining: "0", reset: "9", retry: "1"},
			{after: 100*time.Millisecond - time.Microsecond, status: 429, remaining: "0", reset: "9", retry: "1"},
			{after: time.Microsecond, status: 200, remaining: "0", reset: "12"},
			{after: 500 * time.Millisecond, status: 429, remaining: "0", reset: "12", retry: "3"},
			{after: time.Hour, status: 200, remaining: "2", reset: "3607"},
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
