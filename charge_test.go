package ratelimit_test

import (
	"bytes"
	"context"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gin-gonic/gin"
	"github.com/stretchr/testify/require"

	"github.com/gin-ratelimit/ratelimit"
)

// slowStore is a MemoryStore whose calls take time, as over a network.
type slowStore struct {
	*ratelimit.MemoryStore
	pause time.Duration
}

func (s slowStore) Take(ctx context.Context, key string, take ratelimit.Take) (ratelimit.Result, error) {
	time.Sleep(s.pause)
	return s.MemoryStore.Take(ctx, key, take)
}

func (s slowStore) Adjust(ctx context.Context, key string, change ratelimit.Adjustment) (ratelimit.Result, error) {
	time.Sleep(s.pause)
	return s.MemoryStore.Adjust(ctx, key, change)
}

// eachSpeed runs a test in bubbles, on a fast store and on a slow one.
func eachSpeed(t *testing.T, test func(t *testing.T, store func() ratelimit.Option)) {
	t.Helper()
	for name, pause := range map[string]time.Duration{"memory": 0, "a slow store": 20 * time.Millisecond} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				test(t, func() ratelimit.Option { return ratelimit.WithStore(slowStore{ratelimit.NewMemoryStore(), pause}) })
			})
		})
	}
}

// day is a limit that does not refill while a test runs: ten tokens a day.
func perDay(t *testing.T, name string, store ratelimit.Option, opts ...ratelimit.Option) *ratelimit.Limiter {
	t.Helper()
	return newLimiter(t, append([]ratelimit.Option{
		ratelimit.WithRefillRate(ratelimit.PerDay(10)), ratelimit.WithName(name), store,
	}, opts...)...)
}

func failing(context.Context, string, ratelimit.Take) (ratelimit.Result, error) {
	return ratelimit.Result{}, errStore
}

// Each way in which a request can end, and what it has cost at the first of its limiters, which has ten tokens.
func TestChargeByEnding(t *testing.T) {
	gone, hangUp := context.WithCancel(context.Background())
	hangUp()
	for _, ending := range []struct {
		name   string
		first  []ratelimit.Option
		rest   func(t *testing.T, store func() ratelimit.Option) []gin.HandlerFunc
		ctx    context.Context
		status int
		left   int
	}{
		{name: "served", status: 200, left: 9},
		{name: "aborted by a handler in between", status: 401, left: 9, rest: func(*testing.T, func() ratelimit.Option) []gin.HandlerFunc {
			return []gin.HandlerFunc{func(c *gin.Context) { c.AbortWithStatus(401) }}
		}},
		{name: "gone before the decision", ctx: gone, status: 200, left: 9},
		{name: "gone before the decision, and not to be charged", ctx: gone, status: 200, left: 10,
			first: options{ratelimit.WithChargeIf(func(*gin.Context) bool { return false })}},
		{name: "panicked", status: 500, left: 9, rest: func(*testing.T, func() ratelimit.Option) []gin.HandlerFunc {
			return []gin.HandlerFunc{func(*gin.Context) { panic("boom") }}
		}},
		{name: "panicked, and not to be charged", status: 500, left: 9,
			first: options{ratelimit.WithChargeIf(func(*gin.Context) bool { return false })},
			rest: func(*testing.T, func() ratelimit.Option) []gin.HandlerFunc {
				return []gin.HandlerFunc{func(*gin.Context) { panic("boom") }}
			}},
		{name: "refused here", status: 429, left: 10, first: options{costOf(11)}},
		{name: "refused by a later limiter", status: 429, left: 10, rest: func(t *testing.T, store func() ratelimit.Option) []gin.HandlerFunc {
			return []gin.HandlerFunc{perDay(t, "later", store(), costOf(11)).Handle}
		}},
		{name: "gone between the limiters, and refused", status: 429, left: 10, rest: func(t *testing.T, store func() ratelimit.Option) []gin.HandlerFunc {
			ctx, cancel := context.WithCancel(context.Background())
			return []gin.HandlerFunc{func(c *gin.Context) {
				c.Request = c.Request.WithContext(ctx)
				cancel()
			}, perDay(t, "later", store(), costOf(11)).Handle}
		}},
		{name: "a later store fails, closed", status: 503, left: 10, rest: func(t *testing.T, _ func() ratelimit.Option) []gin.HandlerFunc {
			return []gin.HandlerFunc{perDay(t, "later", storeOption(failing), ratelimit.WithErrorHandler(ratelimit.FailClosed)).Handle}
		}},
		{name: "a later store fails, open", status: 200, left: 9, rest: func(t *testing.T, _ func() ratelimit.Option) []gin.HandlerFunc {
			return []gin.HandlerFunc{perDay(t, "later", storeOption(failing)).Handle}
		}},
		{name: "held back, and its deadline comes first", status: 429, left: 10, rest: func(t *testing.T, store func() ratelimit.Option) []gin.HandlerFunc {
			queue := newLimiter(t, ratelimit.WithName("queue"), store(), ratelimit.WithMaxWait(time.Minute))
			_, err := queue.Take(context.Background(), "key", 10)
			require.NoError(t, err)
			return []gin.HandlerFunc{func(c *gin.Context) {
				ctx, cancel := context.WithTimeout(c.Request.Context(), 500*time.Millisecond)
				t.Cleanup(cancel)
				c.Request = c.Request.WithContext(ctx)
			}, queue.Handle}
		}},
		{name: "held back, and its client leaves", status: 499, left: 10, rest: func(t *testing.T, store func() ratelimit.Option) []gin.HandlerFunc {
			queue := newLimiter(t, ratelimit.WithName("queue"), store(), ratelimit.WithMaxWait(time.Minute))
			_, err := queue.Take(context.Background(), "key", 10)
			require.NoError(t, err)
			return []gin.HandlerFunc{func(c *gin.Context) {
				ctx, cancel := context.WithCancel(c.Request.Context())
				time.AfterFunc(500*time.Millisecond, cancel)
				c.Request = c.Request.WithContext(ctx)
			}, queue.Handle}
		}},
		{name: "refused by a limiter in Shadow", status: 200, left: 9, rest: func(t *testing.T, store func() ratelimit.Option) []gin.HandlerFunc {
			return []gin.HandlerFunc{perDay(t, "later", store(), costOf(11), ratelimit.WithShadow()).Handle}
		}},
		{name: "Off", status: 200, left: 10, first: options{ratelimit.WithSkip(func(*gin.Context) bool { return false })}},
		{name: "skipped", status: 200, left: 10, first: options{ratelimit.WithSkip(func(*gin.Context) bool { return true })}},
		{name: "sent through HandleContext", status: 200, left: 8, rest: func(*testing.T, func() ratelimit.Option) []gin.HandlerFunc {
			again := false
			return []gin.HandlerFunc{func(c *gin.Context) {
				if !again {
					again = true
					engineOf(c).HandleContext(c)
				}
			}}
		}},
	} {
		t.Run(ending.name, func(t *testing.T) {
			eachSpeed(t, func(t *testing.T, store func() ratelimit.Option) {
				limiter := perDay(t, "first", store(), ending.first...)
				if ending.name == "Off" {
					limiter.SetMode(ratelimit.Off)
				}
				handlers := []gin.HandlerFunc{limiter.Handle}
				if ending.rest != nil {
					handlers = append(handlers, ending.rest(t, store)...)
				}
				engine := featureEngine(append(handlers, func(c *gin.Context) { c.Status(http.StatusOK) })...)
				current = engine
				ctx := ending.ctx
				if ctx == nil {
					ctx = context.Background()
				}
				require.Equal(t, ending.status, getWith(ctx, engine).Code)
				limiter.SetMode(ratelimit.Enforce)
				require.Equal(t, ending.left, tokensLeft(t, limiter))
			})
		})
	}
}

var current *gin.Engine // of the test that runs

func engineOf(*gin.Context) *gin.Engine { return current }

// Requests with slow bodies all end in one instant. Those that began longer ago than the bucket takes to fill have nothing
// to give back.
func TestChargeOfParkedRequestsThatEndTogether(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		limiter := newLimiter(t, ratelimit.WithCapacity(5), ratelimit.WithRefillRate(ratelimit.PerMinute(5)),
			ratelimit.WithChargeIf(func(c *gin.Context) bool { return c.Writer.Status() == http.StatusUnauthorized }))
		var end sync.WaitGroup
		release := make(chan struct{})
		parked := featureEngine(limiter.Handle, func(*gin.Context) { <-release })
		for range 12 {
			for range 5 {
				end.Go(func() { get(parked) })
			}
			synctest.Wait()
			time.Sleep(time.Minute)
		}
		attack := featureEngine(limiter.Handle, func(c *gin.Context) { c.AbortWithStatus(http.StatusUnauthorized) })
		failed := 0
		for range 60 {
			for get(attack).Code == http.StatusUnauthorized {
				failed++
			}
			release <- struct{}{} // One of the waiting requests ends.
			synctest.Wait()
		}
		require.Equal(t, 5, failed, "in an instant")
		end.Wait()
	})
}

// If a reservation is settled only after the bucket is full again, its tokens were there for others meanwhile.
func TestChargeSettledLate(t *testing.T) {
	eachSpeed(t, func(t *testing.T, store func() ratelimit.Option) {
		limiter := newLimiter(t, ratelimit.WithName("model"), store(), ratelimit.WithCapacity(100),
			ratelimit.WithRefillRate(ratelimit.PerMinute(100)), costOf(100))
		ask := func(think time.Duration) int {
			return get(featureEngine(limiter.Handle, func(c *gin.Context) {
				time.Sleep(think)
				require.NoError(t, ratelimit.Settle(c, 0))
			})).Code
		}
		var late sync.WaitGroup
		late.Go(func() { require.Equal(t, 200, ask(2*time.Minute)) })
		time.Sleep(2*time.Minute - time.Second)
		_, err := limiter.Take(t.Context(), "key", 100)
		require.NoError(t, err)
		late.Wait()
		r, err := limiter.Take(t.Context(), "key", 100)
		require.NoError(t, err)
		require.False(t, r.Allowed, "200 of 100 in two seconds")

		// Settled in time, the difference comes back: 10 requests of 100 ms cost nothing.
		time.Sleep(2 * time.Minute)
		for range 10 {
			require.Equal(t, 200, ask(100*time.Millisecond))
		}
	})
}

// If requests give up in a queue, a limiter in front of it gets their tokens back, except what has refilled since.
func TestChargeOfWaitersThatGiveUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		outer := newLimiter(t, ratelimit.WithCapacity(5), ratelimit.WithRefillRate(ratelimit.PerMinute(5)))
		inner := newLimiter(t, ratelimit.WithCapacity(1), ratelimit.WithRefillRate(ratelimit.PerHour(1)), ratelimit.WithMaxWait(24*time.Hour))
		_, err := inner.Take(t.Context(), "key", 1)
		require.NoError(t, err)
		engine := featureEngine(outer.Handle, inner.Handle)
		var waiting sync.WaitGroup
		for range 5 {
			waiting.Go(func() {
				ctx, cancel := context.WithCancel(context.Background())
				time.AfterFunc(59*time.Second, cancel)
				require.Equal(t, 499, getWith(ctx, engine).Code)
			})
		}
		time.Sleep(59 * time.Second)
		waiting.Wait()
		admitted := 0
		for range 10 {
			if r, err := outer.Take(t.Context(), "key", 1); err == nil && r.Allowed {
				admitted++
			}
		}
		require.LessOrEqual(t, admitted, 5)
	})
}

// A client that opens and drops connections must not use up a bucket that all clients share.
func TestChargeOfDroppedConnections(t *testing.T) {
	byRoute := newLimiter(t, ratelimit.WithCapacity(100), ratelimit.WithRefillRate(ratelimit.PerDay(100)))
	perClient := newLimiter(t, ratelimit.WithCapacity(1), ratelimit.WithRefillRate(ratelimit.PerHour(1)), ratelimit.WithMaxWait(24*time.Hour))
	_, err := perClient.Take(t.Context(), "key", 1)
	require.NoError(t, err)
	var ended atomic.Int64
	server := httptest.NewServer(featureEngine(func(c *gin.Context) { c.Next(); ended.Add(1) }, byRoute.Handle, perClient.Handle))
	defer server.Close()
	for range 105 {
		conn, err := net.Dial("tcp", server.Listener.Addr().String())
		require.NoError(t, err)
		_, err = conn.Write([]byte("GET / HTTP/1.1\r\nHost: x\r\n\r\n"))
		require.NoError(t, err)
		time.Sleep(time.Millisecond)
		require.NoError(t, conn.Close())
	}
	require.Eventually(t, func() bool { return ended.Load() == 105 }, 10*time.Second, time.Millisecond)
	require.GreaterOrEqual(t, tokensLeft(t, byRoute), 99, "what was never served")
}

// If a client sends a request and closes its socket, the handler runs as without a limiter, whatever the store.
func TestChargeOfClientsThatHangUp(t *testing.T) {
	for name, store := range map[string]ratelimit.Store{
		"memory": ratelimit.NewMemoryStore(), "a slow store": slowStore{ratelimit.NewMemoryStore(), 20 * time.Millisecond},
	} {
		t.Run(name, func(t *testing.T) {
			limiter := perDay(t, "l", ratelimit.WithStore(store), ratelimit.WithCapacity(1000))
			var handled atomic.Int64
			server := httptest.NewServer(featureEngine(limiter.Handle, func(*gin.Context) { handled.Add(1) }))
			defer server.Close()
			for range 50 {
				conn, err := net.Dial("tcp", server.Listener.Addr().String())
				require.NoError(t, err)
				_, err = conn.Write([]byte("GET / HTTP/1.1\r\nHost: x\r\n\r\n"))
				require.NoError(t, err)
				require.NoError(t, conn.Close())
			}
			require.Eventually(t, func() bool { return handled.Load() == 50 }, 10*time.Second, time.Millisecond)
			require.Equal(t, 950, tokensLeft(t, limiter))
		})
	}
}

// The last correction counts, and once, whether it comes from a copy of the context or from WithChargeIf.
func TestChargeSettledByMany(t *testing.T) {
	limiter := perDay(t, "model", ratelimit.WithStore(slowStore{ratelimit.NewMemoryStore(), time.Millisecond}),
		ratelimit.WithCapacity(100), costOf(60))
	_, err := limiter.Take(t.Context(), "key", 30)
	require.NoError(t, err)
	var settling sync.WaitGroup
	engine := featureEngine(limiter.Handle, func(c *gin.Context) {
		for range 4 {
			copied := c.Copy()
			settling.Go(func() { require.NoError(t, ratelimit.Settle(copied, 15)) })
		}
	})
	require.Equal(t, 200, get(engine).Code)
	settling.Wait()
	require.Equal(t, 55, tokensLeft(t, limiter), "30 and 15 of 100")

	free := perDay(t, "free", ratelimit.WithStore(slowStore{ratelimit.NewMemoryStore(), time.Millisecond}),
		ratelimit.WithCapacity(20), costOf(20), ratelimit.WithChargeIf(func(*gin.Context) bool { return false }))
	engine = featureEngine(free.Handle, func(c *gin.Context) {
		copied := c.Copy()
		settling.Go(func() { require.NoError(t, free.Settle(copied, 5)) })
	})
	require.Equal(t, 200, get(engine).Code)
	settling.Wait()
	require.Contains(t, []int{15, 20}, tokensLeft(t, free), "as the one or the other came last")
}

// flakyStore makes the first give-back, but returns an error.
type flakyStore struct {
	*ratelimit.MemoryStore
	fail *atomic.Bool
}

func (s flakyStore) Adjust(ctx context.Context, key string, change ratelimit.Adjustment) (ratelimit.Result, error) {
	r, err := s.MemoryStore.Adjust(ctx, key, change)
	if err == nil && s.fail.CompareAndSwap(true, false) {
		return ratelimit.Result{}, errStore
	}
	return r, err
}

// A give-back whose reply was lost may have been made. If it were repeated, its tokens would come back twice.
func TestChargeWhoseGiveBackFailed(t *testing.T) {
	var fail atomic.Bool
	var events []ratelimit.Event
	limiter := perDay(t, "model", ratelimit.WithStore(flakyStore{ratelimit.NewMemoryStore(), &fail}), costOf(6),
		ratelimit.WithObserver(func(_ context.Context, e ratelimit.Event) { events = append(events, e) }))
	_, err := limiter.Take(t.Context(), "key", 4)
	require.NoError(t, err)
	require.Equal(t, 200, get(featureEngine(limiter.Handle, func(c *gin.Context) {
		fail.Store(true)
		require.ErrorIs(t, ratelimit.Settle(c, 2), errStore)
		require.Error(t, ratelimit.Settle(c, 2), "it says so again, and does not do it again")
		require.NoError(t, ratelimit.Settle(c, 7), "a debt is another matter")
	})).Code)
	require.Equal(t, 3, tokensLeft(t, limiter), "10, less 4, less 6, and 4 back, less 1")
	require.Equal(t, ratelimit.ReasonGiveBack, events[2].Reason)
	require.ErrorIs(t, events[2].Err, errStore)
	require.Equal(t, 4, events[2].Cost)
	require.False(t, events[2].Refused())
}

// Limiters that count different things are settled each by itself.
func TestChargeSettledByLimiter(t *testing.T) {
	store := ratelimit.NewMemoryStore()
	weight := perDay(t, "weight", ratelimit.WithStore(store), ratelimit.WithCapacity(100), costOf(5))
	model := perDay(t, "model", ratelimit.WithStore(store), ratelimit.WithCapacity(2000), costOf(1000))
	plain := perDay(t, "plain", ratelimit.WithStore(store))
	other := perDay(t, "other", ratelimit.WithStore(store))
	require.Equal(t, 200, get(featureEngine(weight.Handle, plain.Handle, model.Handle, func(c *gin.Context) {
		err := ratelimit.Settle(c, 1500)
		require.ErrorContains(t, err, `the limiters "weight" and "model" on this request all have WithCost; settle each by its own Limiter.Settle`)
		require.NotErrorIs(t, err, ratelimit.ErrNotCharged)
		require.NoError(t, model.Settle(c, 1500))
		require.NoError(t, plain.Settle(c, 3))
		require.ErrorIs(t, other.Settle(c, 3), ratelimit.ErrNotCharged)
		require.ErrorContains(t, model.Settle(c, -1), "must not be negative")
	})).Code)
	require.Equal(t, []int{95, 7, 500}, []int{tokensLeft(t, weight), tokensLeft(t, plain), tokensLeft(t, model)})
}

// A decision in Shadow has no consequence for a client, now or later.
func TestShadowLeavesNothingBehind(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := ratelimit.NewMemoryStore()
		reasons := map[ratelimit.Reason]int{}
		limiter := newLimiter(t, ratelimit.WithName("api"), ratelimit.WithStore(store), ratelimit.WithCapacity(1),
			ratelimit.WithBan(ratelimit.Ban{After: 50, Within: time.Minute, For: time.Minute, Max: 24 * time.Hour}), ratelimit.WithShadow(),
			ratelimit.WithObserver(func(_ context.Context, e ratelimit.Event) { reasons[e.Reason]++ }))
		engine := featureEngine(limiter.Handle)
		for range 24 * 60 * 60 * 2 {
			require.Equal(t, 200, get(engine).Code)
			time.Sleep(500 * time.Millisecond)
		}
		require.Equal(t, map[ratelimit.Reason]int{ratelimit.ReasonAllowed: 86400, ratelimit.ReasonShadow: 86400}, reasons)
		usage, err := limiter.Peek(t.Context(), "key")
		require.NoError(t, err)
		require.Zero(t, usage.BannedFor)
		require.Zero(t, usage.Strikes)
		limiter.SetMode(ratelimit.Enforce)
		time.Sleep(10 * time.Minute)
		require.Equal(t, 200, get(engine).Code)

		// A request that Enforce would hold back counts as one that it would let through.
		reasons = map[ratelimit.Reason]int{}
		queue := newLimiter(t, ratelimit.WithCapacity(1), ratelimit.WithMaxWait(2*time.Second), ratelimit.WithShadow(),
			ratelimit.WithObserver(func(_ context.Context, e ratelimit.Event) { reasons[e.Reason]++ }))
		engine = featureEngine(queue.Handle)
		for range 5 {
			require.Equal(t, 200, get(engine).Code)
		}
		usage, err = queue.Peek(t.Context(), "key")
		require.NoError(t, err)
		require.Zero(t, usage.Limits[0].Debt)
	})
}

// Observers get a store's error, and nothing is left of it in the request, from which other middleware makes responses.
func TestChargeOfOpenFailures(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var logged bytes.Buffer
		old := slog.Default()
		slog.SetDefault(slog.New(slog.NewTextHandler(&logged, nil)))
		defer slog.SetDefault(old)
		answersOfErrors := func(c *gin.Context) {
			c.Next()
			if len(c.Errors) > 0 {
				c.JSON(http.StatusInternalServerError, gin.H{"error": c.Errors[0].Error()})
			}
		}
		down := perDay(t, "down", storeOption(failing))
		var fail atomic.Bool
		stuck := perDay(t, "stuck", ratelimit.WithStore(flakyStore{ratelimit.NewMemoryStore(), &fail}),
			ratelimit.WithChargeIf(func(*gin.Context) bool { return false }))
		for range 3 {
			fail.Store(true)
			w := get(featureEngine(answersOfErrors, down.Handle, stuck.Handle, func(c *gin.Context) { c.Status(http.StatusNoContent) }))
			require.Equal(t, http.StatusNoContent, w.Code)
			require.Empty(t, w.Body.String())
			time.Sleep(5 * time.Second)
		}
		require.Equal(t, 2, bytes.Count(logged.Bytes(), []byte("name=down")), "at most one in 10 s: %s", &logged)
		require.Equal(t, 2, bytes.Count(logged.Bytes(), []byte("reason=give_back")), "at most one in 10 s: %s", &logged)

		closed := perDay(t, "closed", storeOption(failing), ratelimit.WithErrorHandler(ratelimit.FailClosed))
		w := get(featureEngine(answersOfErrors, closed.Handle))
		require.Equal(t, http.StatusServiceUnavailable, w.Code)
		require.NotContains(t, w.Body.String(), "hunter2")
	})
}

// If a user's handler forgets the status, a refusal still does not look like a success.
func TestStatusOfOwnHandlers(t *testing.T) {
	deny := func(denied func(*gin.Context, ratelimit.Result)) int {
		return get(featureEngine(perDay(t, "l", ratelimit.WithStore(ratelimit.NewMemoryStore()), costOf(11), ratelimit.WithDeniedHandler(denied)).Handle)).Code
	}
	require.Equal(t, 429, deny(func(*gin.Context, ratelimit.Result) {}))
	require.Equal(t, 429, deny(func(c *gin.Context, _ ratelimit.Result) { _, _ = c.Writer.WriteString("slow down") }))
	require.Equal(t, 418, deny(func(c *gin.Context, _ ratelimit.Result) { c.String(418, "no") }))

	fail := func(failed func(*gin.Context, error)) int {
		return get(featureEngine(perDay(t, "l", storeOption(failing), ratelimit.WithErrorHandler(failed)).Handle)).Code
	}
	require.Equal(t, 503, fail(func(c *gin.Context, _ error) { c.Abort() }))
	require.Equal(t, 502, fail(func(c *gin.Context, _ error) { c.AbortWithStatus(502) }))
	require.Equal(t, 500, fail(func(c *gin.Context, _ error) { c.Status(500); c.Abort() }))
	require.Equal(t, 200, fail(func(*gin.Context, error) {}))
}

// A request whose client left while it was held back counts neither as a request nor as a refusal.
func TestWaiterThatLeftIsNoRequest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		stats := ratelimit.NewStats()
		limiter := newLimiter(t, ratelimit.WithCapacity(1), ratelimit.WithMaxWait(time.Minute), ratelimit.WithObserver(stats.Observe))
		engine := featureEngine(limiter.Handle)
		require.Equal(t, 200, get(engine).Code)
		ctx, cancel := context.WithCancel(context.Background())
		time.AfterFunc(100*time.Millisecond, cancel)
		require.Equal(t, 499, getWith(ctx, engine).Code)
		n := stats.Snapshot()[0]
		require.Equal(t, []uint64{1, 0, 1, 1, 0}, []uint64{n.Accepted, n.Refused, n.Gone, n.Requests, n.Refusals})
	})
}

// Ten requests wait in a queue, five leave, and five more come: no two share a place.
func TestWaitersKeepTheirPlaces(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		limiter := newLimiter(t, ratelimit.WithCapacity(1), ratelimit.WithMaxWait(time.Minute))
		engine, start := featureEngine(limiter.Handle), time.Now()
		require.Equal(t, 200, get(engine).Code)
		var mu sync.Mutex
		served := map[time.Duration]int{}
		var all sync.WaitGroup
		come := func(ctx context.Context) {
			all.Go(func() {
				if getWith(ctx, engine).Code == 200 {
					mu.Lock()
					served[time.Since(start)]++
					mu.Unlock()
				}
			})
			synctest.Wait()
		}
		leaving, leave := context.WithCancel(context.Background())
		for i := range 10 {
			ctx := context.Background()
			if i < 5 {
				ctx = leaving
			}
			come(ctx)
		}
		leave()
		synctest.Wait()
		for range 5 {
			come(context.Background())
		}
		all.Wait()
		want := map[time.Duration]int{}
		for i := 6; i <= 15; i++ {
			want[time.Duration(i)*time.Second] = 1
		}
		require.Equal(t, want, served)
	})
}

// At a rate of one a second, no more than two requests are ever served in a second, although some of them give back.
func TestWaitersDoNotShareAPlaceThatWasGivenBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		limiter := newLimiter(t, ratelimit.WithCapacity(1), ratelimit.WithMaxWait(time.Minute),
			ratelimit.WithChargeIf(func(c *gin.Context) bool { return c.Request.Header.Get("Free") == "" }))
		start := time.Now()
		var mu sync.Mutex
		served := map[time.Duration]int{}
		engine := featureEngine(limiter.Handle, func(c *gin.Context) {
			if c.Request.Header.Get("Free") == "" {
				mu.Lock()
				served[time.Since(start)]++
				mu.Unlock()
			}
		})
		var all sync.WaitGroup
		ask := func(free string) {
			all.Go(func() {
				r := httptest.NewRequest(http.MethodGet, "/", nil)
				r.Header.Set("Free", free)
				engine.ServeHTTP(httptest.NewRecorder(), r)
			})
			synctest.Wait()
		}
		for i := range 20 {
			ask([]string{"", "yes"}[i%2])
		}
		for range 10 {
			time.Sleep(1100 * time.Millisecond)
			ask("")
		}
		all.Wait()
		for at, n := range served {
			require.Equal(t, 1, n, "at %v", at)
		}
	})
}
