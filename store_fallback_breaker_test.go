package ratelimit_test

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gin-ratelimit/ratelimit"
)

func TestBreakerCountsFailuresInARow(t *testing.T) {
	const well, ill = true, false
	for _, c := range []struct {
		name  string
		after int
		calls []bool
		want  bool
	}{
		{name: "four", after: 5, calls: []bool{ill, ill, ill, ill}},
		{name: "five", after: 5, calls: []bool{ill, ill, ill, ill, ill}, want: true},
		{name: "not in a row", after: 5, calls: []bool{ill, ill, ill, ill, well, ill, ill, ill, ill}},
		{name: "in a row at last", after: 5, calls: []bool{ill, ill, well, ill, well, ill, ill, ill, ill, ill}, want: true},
		{name: "after many successes", after: 2, calls: []bool{well, well, well, well, ill, well, well, ill, ill}, want: true},
		{name: "one", after: 1, calls: []bool{well, ill}, want: true},
		{name: "every other", after: 2, calls: []bool{ill, well, ill, well, ill, well, ill, well}},
	} {
		t.Run(c.name, func(t *testing.T) {
			primary := newFickleStore()
			s := newFallback(t, primary, ratelimit.NewMemoryStore(), ratelimit.WithTripAfter(c.after))
			for i, isWell := range c.calls {
				if s.Degraded() {
					t.Fatalf("degraded before call %d", i)
				}
				if primary.recovers(); !isWell {
					primary.failsWith(errDown)
				}
				fallbackTake(s, 0)
			}
			if s.Degraded() != c.want {
				t.Errorf("degraded: %v", s.Degraded())
			}
		})
	}
}

// An error about the call, its key or its caller is returned as it is, and never counts, however often it comes.
func TestWhatIsNoFailure(t *testing.T) {
	cancelled, cancel := context.WithCancel(context.Background())
	cancel()
	late, cancel := context.WithTimeout(context.Background(), -1)
	defer cancel()
	for _, c := range []struct {
		name       string
		ctx        context.Context
		err        error
		byFallback bool
	}{
		{name: "an argument", ctx: context.Background(), err: fmt.Errorf("cost: %w", ratelimit.ErrArgument)},
		{name: "foreign state", ctx: context.Background(), err: fmt.Errorf("key: %w", ratelimit.ErrForeignState)},
		{name: "a client that has gone", ctx: cancelled, err: context.Canceled},
		{name: "a client that has gone, and a store that fails", ctx: cancelled, err: errDown},
		{name: "a caller's deadline", ctx: late, err: context.DeadlineExceeded},
		{name: "a cancellation of somebody else's", ctx: context.Background(), err: fmt.Errorf("closing: %w", context.Canceled), byFallback: true},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				primary := newFickleStore()
				s := newFallback(t, primary, ratelimit.NewMemoryStore())
				primary.failsWith(c.err)
				ask := func() {
					t.Helper()
					r, err := s.Take(c.ctx, "key", ratelimit.Take{Limits: tenAnHour})
					switch {
					case c.byFallback && (err != nil || r.Source != ratelimit.SourceFallback):
						t.Fatalf("got %+v, %v; want the fallback's decision", r, err)
					case !c.byFallback && err != c.err: //nolint:errorlint // As it is.
						t.Fatalf("got %+v, %v; want the error as it is", r, err)
					}
				}
				for range 20 {
					ask()
				}
				if s.Degraded() {
					t.Fatal("it opened the breaker")
				}

				// It neither resets the count nor decides a probe.
				primary.failsWith(errDown)
				for range 4 {
					fallbackTake(s, 0)
				}
				primary.failsWith(c.err)
				ask()
				primary.failsWith(errDown)
				fallbackTake(s, 0)
				if !s.Degraded() {
					t.Fatal("it reset the count of failures")
				}
				time.Sleep(1500 * time.Millisecond)
				primary.failsWith(c.err)
				for range 3 {
					before := primary.calls.Load()
					ask()
					if primary.calls.Load() != before+1 {
						t.Fatal("the probe was not free for the next call")
					}
				}
				if !s.Degraded() {
					t.Fatal("it closed the breaker")
				}
				primary.recovers()
				wantText(t, "the next probe", fallbackTake(s, 1), "allowed by memory, 9 left")
			})
		})
	}
}

// A broken connection counts as one failure, however many calls were on it.
func TestFailuresTogetherCountOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		primary := newFickleStore()
		s := newFallback(t, primary, ratelimit.NewMemoryStore())
		broken := make(chan struct{})
		primary.fallsIll(func() error { <-broken; return errDown })
		var calls sync.WaitGroup
		for range 256 {
			calls.Go(func() { fallbackTake(s, 0) })
		}
		synctest.Wait()
		close(broken)
		calls.Wait()
		if s.Degraded() {
			t.Fatal("one broken connection has opened the breaker")
		}
		for range 4 { // Failures one after the other all count.
			fallbackTake(s, 0)
		}
		if !s.Degraded() {
			t.Fatal("the first failure was not counted")
		}
	})
}

// A timeout of the store's own is a failure; one of the caller's is not.
func TestStoreTimeoutCounts(t *testing.T) {
	primary := newFickleStore()
	s := newFallback(t, primary, ratelimit.NewMemoryStore(), ratelimit.WithTripAfter(1))
	primary.failsWith(context.DeadlineExceeded)
	wantText(t, "take", fallbackTake(s, 1), "allowed by fallback, 9 left")
	if !s.Degraded() {
		t.Error("it did not count")
	}
}

// A refusal from memory does not show whether Redis can be reached.
func TestDenyCacheIsNoSuccess(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		primary := newFickleStore()
		s := newFallback(t, remembering{primary}, ratelimit.NewMemoryStore())
		refused := func() {
			t.Helper()
			r, err := s.Take(context.Background(), "refused", ratelimit.Take{N: 1, Limits: tenAnHour})
			if err != nil || r.Source != ratelimit.SourceDenyCache {
				t.Fatalf("got %+v, %v", r, err)
			}
		}
		primary.failsWith(errDown)
		for range 5 {
			refused()
			fallbackTake(s, 0)
		}
		if !s.Degraded() {
			t.Fatal("it reset the count of failures")
		}
		time.Sleep(1500 * time.Millisecond)
		refused()
		if !s.Degraded() {
			t.Fatal("it closed the breaker")
		}
		wantText(t, "the probe", fallbackTake(s, 1), "allowed by fallback, 9 left")
		time.Sleep(1500 * time.Millisecond)
		primary.recovers()
		wantText(t, "the next probe", fallbackTake(s, 1), "allowed by memory, 9 left")
	})
}

// An outage costs a request nothing: the primary, which takes 50 ms to fail, is not asked.
func TestOutageCostsNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		primary := newFickleStore()
		s := newFallback(t, primary, ratelimit.NewMemoryStore())
		tripBreaker(t, s, primary)
		primary.fallsIll(func() error {
			time.Sleep(50 * time.Millisecond)
			return errDown
		})
		primary.calls.Store(0)
		start := time.Now()
		for range 100_000 {
			fallbackTake(s, 0)
		}
		if calls, elapsed := primary.calls.Load(), time.Since(start); calls > 0 || elapsed > 0 {
			t.Errorf("%d calls, %v", calls, elapsed)
		}
	})
}

// A call that was under way when the breaker opened neither ends the outage nor prolongs it, however late it ends.
func TestLateCalls(t *testing.T) {
	for name, end := range map[string]error{"well": nil, "ill": errDown} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				primary := newFickleStore()
				s := newFallback(t, primary, ratelimit.NewMemoryStore())
				primary.fallsIll(func() error {
					time.Sleep(1600 * time.Millisecond)
					return end
				})
				go fallbackTake(s, 0)
				synctest.Wait()
				tripBreaker(t, s, primary)
				primary.recovers()
				time.Sleep(1700 * time.Millisecond)
				synctest.Wait()
				if !s.Degraded() {
					t.Error("it ended the outage")
				}
				wantText(t, "the probe", fallbackTake(s, 1), "allowed by memory, 9 left")
			})
		})
	}
}

// Replicas that lose their primary together return to it one by one.
func TestProbesAreSpread(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const replicas, step = 200, 10 * time.Millisecond
		var stores []*ratelimit.FallbackStore
		for range replicas {
			primary := newFickleStore()
			s := newFallback(t, primary, yesStore{})
			tripBreaker(t, s, primary)
			primary.recovers()
			stores = append(stores, s)
		}
		back, steps := 0, 0
		for after := time.Duration(0); after <= 1500*time.Millisecond; after += step {
			together := 0
			for _, s := range stores {
				if fallbackTake(s, 0); !s.Degraded() {
					together++
				}
			}
			if together -= back; together > 0 {
				steps++
			}
			if back += together; together > replicas/8 || back > 0 && after < time.Second {
				t.Errorf("%d replicas are back at once after %v", together, after)
			}
			time.Sleep(step)
		}
		if back != replicas || steps < 30 {
			t.Errorf("%d replicas came back, at %d times", back, steps)
		}
	})
}

// After any mix of successes and failures at once, a success still resets the count of failures.
func TestBreakerCountsUnderConcurrency(t *testing.T) {
	const clients, calls = 8, 20
	for range 200 {
		var turn atomic.Uint64
		primary := newFickleStore()
		s := newFallback(t, primary, yesStore{}, ratelimit.WithTripAfter(clients*calls))
		primary.fallsIll(func() error {
			if turn.Add(1)%2 == 0 {
				return errDown
			}
			return nil
		})
		var load sync.WaitGroup
		for range clients {
			load.Go(func() {
				for range calls {
					fallbackTake(s, 0)
				}
			})
		}
		load.Wait()
		primary.recovers()
		fallbackTake(s, 0)
		primary.failsWith(errDown)
		for range clients*calls - 1 {
			fallbackTake(s, 0)
		}
		if s.Degraded() {
			t.Fatal("failures from before a success counted")
		}
		if fallbackTake(s, 0); !s.Degraded() {
			t.Fatal("failures after a success did not count")
		}
	}
}
