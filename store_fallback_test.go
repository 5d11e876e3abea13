package ratelimit_test

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math/big"
	"math/rand/v2"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gin-ratelimit/ratelimit"
	"github.com/gin-ratelimit/ratelimit/storetest"
)

var errDown = errors.New("down")

// fickleStore is a Store that a test can make ill: every call asks how first, unless that is nil.
type fickleStore struct {
	ratelimit.Store
	how   atomic.Pointer[func() error]
	calls atomic.Int64
}

func newFickleStore() *fickleStore { return &fickleStore{Store: ratelimit.NewMemoryStore()} }

func (p *fickleStore) fallsIll(how func() error) { p.how.Store(&how) }
func (p *fickleStore) failsWith(err error)       { p.fallsIll(func() error { return err }) }
func (p *fickleStore) recovers()                 { p.how.Store(nil) }

func (p *fickleStore) ask() error {
	p.calls.Add(1)
	if how := p.how.Load(); how != nil {
		return (*how)()
	}
	return nil
}

func (p *fickleStore) Take(ctx context.Context, key string, take ratelimit.Take) (ratelimit.Result, error) {
	if err := p.ask(); err != nil {
		return ratelimit.Result{}, err
	}
	return p.Store.Take(ctx, key, take)
}

func (p *fickleStore) Adjust(ctx context.Context, key string, change ratelimit.Adjustment) (ratelimit.Result, error) {
	if err := p.ask(); err != nil {
		return ratelimit.Result{}, err
	}
	return p.Store.Adjust(ctx, key, change)
}

func (p *fickleStore) Look(ctx context.Context, key string, limits []ratelimit.Limit) (ratelimit.Usage, error) {
	if err := p.ask(); err != nil {
		return ratelimit.Usage{}, err
	}
	return p.Store.Look(ctx, key, limits)
}

func (p *fickleStore) Reset(ctx context.Context, key string) (bool, error) {
	if err := p.ask(); err != nil {
		return false, err
	}
	return p.Store.Reset(ctx, key)
}

func newFallback(t testing.TB, primary, fallback ratelimit.Store, opts ...ratelimit.FallbackOption) *ratelimit.FallbackStore {
	t.Helper()
	s, err := ratelimit.NewFallbackStore(primary, fallback, opts...)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// tenAnHour is ten tokens that come back within the hour: none, as far as a short test is concerned.
var tenAnHour = []ratelimit.Limit{{Capacity: 10, Refill: ratelimit.PerHour(10)}}

// fallbackTake takes n and returns who decided, and how many tokens are left, or the error.
func fallbackTake(s ratelimit.Store, n int) string {
	r, err := s.Take(context.Background(), "key", ratelimit.Take{N: n, Limits: tenAnHour})
	if err != nil {
		return err.Error()
	}
	verdict := "allowed"
	if !r.Allowed {
		verdict = "refused"
	}
	return fmt.Sprintf("%s by %v, %d left", verdict, r.Source, r.Remaining)
}

func wantText(t *testing.T, what, got, want string) {
	t.Helper()
	if got != want {
		t.Errorf("%s:\ngot  %s\nwant %s", what, got, want)
	}
}

// tripBreaker makes the breaker open by its default of five failures.
func tripBreaker(t *testing.T, s *ratelimit.FallbackStore, primary *fickleStore) {
	t.Helper()
	primary.failsWith(errDown)
	for i := range 5 {
		if s.Degraded() {
			t.Fatalf("degraded after %d failures", i)
		}
		fallbackTake(s, 0)
	}
	if !s.Degraded() {
		t.Fatal("not degraded after 5 failures")
	}
}

func TestFallbackStoreConforms(t *testing.T) {
	t.Run("well", func(t *testing.T) {
		storetest.Run(t, storetest.Harness{Open: func(t *testing.T) ratelimit.Store {
			return newFallback(t, ratelimit.NewMemoryStore(), yesStore{})
		}})
	})
	t.Run("in an outage", func(t *testing.T) {
		storetest.Run(t, storetest.Harness{Open: func(t *testing.T) ratelimit.Store {
			return halfReset{newFallback(t, deadStore{}, ratelimit.NewMemoryStore())}
		}})
	})
}

// deadStore is a Store that is not there.
type deadStore struct{}

func (deadStore) Take(context.Context, string, ratelimit.Take) (ratelimit.Result, error) {
	return ratelimit.Result{}, errDown
}

func (deadStore) Adjust(context.Context, string, ratelimit.Adjustment) (ratelimit.Result, error) {
	return ratelimit.Result{}, errDown
}

func (deadStore) Look(context.Context, string, []ratelimit.Limit) (ratelimit.Usage, error) {
	return ratelimit.Usage{}, errDown
}

func (deadStore) Reset(context.Context, string) (bool, error) { return false, errDown }

// halfReset is content when the fallback is reset.
type halfReset struct{ *ratelimit.FallbackStore }

func (s halfReset) Reset(ctx context.Context, key string) (bool, error) {
	found, err := s.FallbackStore.Reset(ctx, key)
	if !errors.Is(err, errDown) {
		return false, fmt.Errorf("a reset without the primary: %w", err)
	}
	return found, nil
}

func TestFallbackStoreMistakes(t *testing.T) {
	memory, replicas := ratelimit.NewMemoryStore(), 3
	for _, c := range []struct {
		name string
		make func() (*ratelimit.FallbackStore, error)
		want string
	}{
		{"nothing", func() (*ratelimit.FallbackStore, error) {
			return ratelimit.NewFallbackStore(nil, nil)
		}, "ratelimit: NewFallbackStore: the primary is nil: needs a Store, for example a RedisStore\n" +
			"ratelimit: NewFallbackStore: the fallback is nil: needs a Store, for example NewMemoryStore()"},
		{"stores that could not be made", func() (*ratelimit.FallbackStore, error) {
			return ratelimit.NewFallbackStore((*ratelimit.RedisStore)(nil), (*ratelimit.MemoryStore)(nil))
		}, "ratelimit: NewFallbackStore: the primary is nil: needs a Store, for example a RedisStore\n" +
			"ratelimit: NewFallbackStore: the fallback is nil: needs a Store, for example NewMemoryStore()"},
		{"all options at once", func() (*ratelimit.FallbackStore, error) {
			return ratelimit.NewFallbackStore(memory, memory, ratelimit.WithShare(float64(1/replicas)), ratelimit.WithTripAfter(0),
				ratelimit.WithCoolOff(0), ratelimit.WithOnSwitch(nil))
		}, "ratelimit: WithOnSwitch(nil): needs a function\n" +
			"ratelimit: WithShare(0): must be above 0 and at most 1, for example 1.0/3; note that 1/3 is 0 in integers\n" +
			"ratelimit: WithTripAfter(0): must be at least 1, for example 5\n" +
			"ratelimit: WithCoolOff(0s): must be positive and at most 24h, for example time.Second"},
		{"more than all", func() (*ratelimit.FallbackStore, error) {
			return ratelimit.NewFallbackStore(memory, memory, ratelimit.WithShare(1.5), ratelimit.WithCoolOff(25*time.Hour))
		}, "ratelimit: WithShare(1.5): must be above 0 and at most 1, for example 1.0/3; note that 1/3 is 0 in integers\n" +
			"ratelimit: WithCoolOff(25h0m0s): must be positive and at most 24h, for example time.Second"},
		{"a nil option", func() (*ratelimit.FallbackStore, error) {
			return ratelimit.NewFallbackStore(memory, memory, ratelimit.WithShare(1), nil)
		}, "ratelimit: option 1 is nil"},
	} {
		t.Run(c.name, func(t *testing.T) {
			s, err := c.make()
			if err == nil || s != nil {
				t.Fatalf("got %v, %v", s, err)
			}
			wantText(t, "error", err.Error(), c.want)
		})
	}
	var zero float64
	if _, err := ratelimit.NewFallbackStore(memory, memory, ratelimit.WithShare(zero/zero)); err == nil {
		t.Error("a share that is not a number was accepted")
	}
}

// The fallback decides what the primary does not, and never in place of it.
func TestFallbackStoreTranscript(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		primary := newFickleStore()
		s := newFallback(t, primary, ratelimit.NewMemoryStore(), ratelimit.WithShare(0.5))

		wantText(t, "well", fallbackTake(s, 7), "allowed by memory, 3 left")
		primary.failsWith(errDown)
		wantText(t, "one failure", fallbackTake(s, 1), "allowed by fallback, 4 left")
		primary.recovers()
		wantText(t, "a moment later", fallbackTake(s, 1), "allowed by memory, 2 left")
		tripBreaker(t, s, primary)
		wantText(t, "an outage", fallbackTake(s, 4), "allowed by fallback, 0 left")
		wantText(t, "an outage", fallbackTake(s, 1), "refused by fallback, 0 left")
		primary.recovers()
		wantText(t, "recovered, unnoticed", fallbackTake(s, 1), "refused by fallback, 0 left")
		time.Sleep(1500 * time.Millisecond)
		wantText(t, "after a cool-off", fallbackTake(s, 1), "allowed by memory, 1 left")
		if s.Degraded() {
			t.Error("still degraded")
		}
	})
}

func TestBreakerCountsFailuresInARow(t *testing.T) {
	const well, ill = true, false
	for _, c := range []struct {
		name  string
		after int
		calls []bool
		want  bool
	}{
		{"four", 5, []bool{ill, ill, ill, ill}, false},
		{"five", 5, []bool{ill, ill, ill, ill, ill}, true},
		{"not in a row", 5, []bool{ill, ill, ill, ill, well, ill, ill, ill, ill}, false},
		{"in a row at last", 5, []bool{ill, ill, well, ill, well, ill, ill, ill, ill, ill}, true},
		{"after many successes", 2, []bool{well, well, well, well, ill, well, well, ill, ill}, true},
		{"one", 1, []bool{well, ill}, true},
		{"every other", 2, []bool{ill, well, ill, well, ill, well, ill, well}, false},
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

// What is about the call, its key or its caller is returned as it is, and does not count, however often it comes.
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
		{"an argument", context.Background(), fmt.Errorf("cost: %w", ratelimit.ErrArgument), false},
		{"foreign state", context.Background(), fmt.Errorf("key: %w", ratelimit.ErrForeignState), false},
		{"a client that has gone", cancelled, context.Canceled, false},
		{"a client that has gone, and a store that fails", cancelled, errDown, false},
		{"a caller's deadline", late, context.DeadlineExceeded, false},
		{"a cancellation of somebody else's", context.Background(), fmt.Errorf("closing: %w", context.Canceled), true},
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

				// Nor does it reset the count, nor decide a probe.
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

// However many calls were on a connection that broke, it broke once.
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
		for range 4 { // But failures one after the other do.
			fallbackTake(s, 0)
		}
		if !s.Degraded() {
			t.Fatal("the first failure was not counted")
		}
	})
}

// A timeout of the store's own is a failure, unlike one of the caller's.
func TestStoreTimeoutCounts(t *testing.T) {
	primary := newFickleStore()
	s := newFallback(t, primary, ratelimit.NewMemoryStore(), ratelimit.WithTripAfter(1))
	primary.failsWith(context.DeadlineExceeded)
	wantText(t, "take", fallbackTake(s, 1), "allowed by fallback, 9 left")
	if !s.Degraded() {
		t.Error("it did not count")
	}
}

// What Redis has refused before says nothing about whether it is there.
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

// remembering is a Store that need not ask to refuse the key "refused".
type remembering struct{ *fickleStore }

func (s remembering) Take(ctx context.Context, key string, take ratelimit.Take) (ratelimit.Result, error) {
	if key == "refused" {
		return ratelimit.Result{Source: ratelimit.SourceDenyCache, Limit: take.Limits[0], RetryAfter: time.Minute}, nil
	}
	return s.fickleStore.Take(ctx, key, take)
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

// A call that was under way when the breaker opened neither ends the outage nor prolongs it, however late it comes back.
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

// A hundred times down and up again, under load: each cool-off ends in one probe, and the switches are told in order.
func TestSwitchesAHundredTimes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const (
			coolOff = 200 * time.Millisecond
			timeout = 50 * time.Millisecond
			pause   = 10 * time.Millisecond // between a client's calls, at most
			clients = 8
		)
		var (
			mu       sync.Mutex
			switches []bool
			last     time.Time // when the breaker opened, or the probe before ended
			probes   int
		)
		primary := newFickleStore()
		var s *ratelimit.FallbackStore
		s = newFallback(t, primary, ratelimit.NewMemoryStore(), ratelimit.WithCoolOff(coolOff),
			ratelimit.WithOnSwitch(func(degraded bool, cause error) {
				if degraded != s.Degraded() || degraded != errors.Is(cause, errDown) {
					t.Errorf("degraded %v because of %v", degraded, cause)
				}
				mu.Lock()
				defer mu.Unlock()
				switches, last, probes = append(switches, degraded), time.Now(), 0
			}))
		probe := func() {
			mu.Lock()
			defer mu.Unlock()
			if gap := time.Since(last); gap < coolOff || gap > coolOff*3/2+pause {
				t.Errorf("a probe after %v", gap)
			}
			probes++
			last = time.Now().Add(timeout) // A second one meanwhile has a negative gap.
		}

		ctx, stop := context.WithCancel(t.Context())
		var load sync.WaitGroup
		for range clients {
			load.Go(func() {
				for ctx.Err() == nil {
					if r, err := s.Take(context.Background(), "key", ratelimit.Take{Limits: tenAnHour}); err != nil || !r.Allowed {
						t.Errorf("got %+v, %v", r, err)
					}
					time.Sleep(rand.N(pause))
				}
			})
		}
		for range 100 {
			primary.fallsIll(func() error {
				if s.Degraded() {
					probe()
				}
				time.Sleep(timeout)
				return errDown
			})
			time.Sleep(2*timeout + 3*coolOff + rand.N(coolOff))
			if mu.Lock(); probes < 1 || probes > 3 {
				t.Errorf("%d probes in three cool-offs", probes)
			}
			mu.Unlock()
			primary.recovers()
			time.Sleep(2*timeout + 2*coolOff)
			if s.Degraded() {
				t.Fatal("not back after two cool-offs")
			}
			primary.calls.Store(0)
			if time.Sleep(2 * pause); primary.calls.Load() < clients {
				t.Error("it is back, but is not asked")
			}
		}
		stop()
		load.Wait()
		for i, degraded := range switches {
			if degraded != (i%2 == 0) {
				t.Fatalf("switch %d: degraded %v", i, degraded)
			}
		}
		if len(switches) != 200 {
			t.Errorf("%d switches were told", len(switches))
		}
	})
}

// Replicas that lose their primary together come back one by one.
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

// Panics and runtime.Goexit pass through, count as failures, and leave the probe free for others.
func TestFallbackStorePanics(t *testing.T) {
	for name, leave := range map[string]func() error{
		"panic":  func() error { panic("broken") },
		"goexit": func() error { runtime.Goexit(); return nil },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				primary := newFickleStore()
				s := newFallback(t, primary, ratelimit.NewMemoryStore())
				primary.fallsIll(leave)
				crash := func() {
					t.Helper()
					returned := false
					var wait sync.WaitGroup
					wait.Go(func() {
						defer func() { _ = recover() }()
						fallbackTake(s, 0)
						returned = true
					})
					if wait.Wait(); returned {
						t.Error("it was swallowed")
					}
				}
				for range 5 {
					crash()
				}
				if !s.Degraded() {
					t.Fatal("it does not count")
				}
				wantText(t, "in the outage", fallbackTake(s, 1), "allowed by fallback, 9 left")
				time.Sleep(1500 * time.Millisecond)
				crash()
				wantText(t, "after the probe", fallbackTake(s, 1), "allowed by fallback, 8 left")
				time.Sleep(1500 * time.Millisecond)
				primary.recovers()
				wantText(t, "after the next probe", fallbackTake(s, 1), "allowed by memory, 9 left")
			})
		})
	}
}

// The switch is told with no lock held: the hook may use the store, and even switch it again.
func TestOnSwitchMayUseTheStore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var s *ratelimit.FallbackStore
		var told []string
		primary := newFickleStore()
		s = newFallback(t, primary, ratelimit.NewMemoryStore(), ratelimit.WithTripAfter(1),
			ratelimit.WithOnSwitch(func(degraded bool, cause error) {
				told = append(told, fmt.Sprintf("%v %v: %s", degraded, cause, fallbackTake(s, 1)))
				if len(told) == 1 {
					time.Sleep(1500 * time.Millisecond)
					primary.recovers()
					told = append(told, "meanwhile: "+fallbackTake(s, 1)) // Which is the switch back.
				}
			}))
		primary.failsWith(errDown)
		fallbackTake(s, 1)
		wantText(t, "told", strings.Join(told, "\n"), `true down: allowed by fallback, 9 left
meanwhile: allowed by memory, 9 left
false <nil>: allowed by memory, 8 left`)
	})
}

func TestOnSwitchMayPanic(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		told := 0
		primary := newFickleStore()
		s := newFallback(t, primary, ratelimit.NewMemoryStore(), ratelimit.WithTripAfter(1),
			ratelimit.WithOnSwitch(func(bool, error) { told++; panic("hook") }))
		survive := func() {
			defer func() { _ = recover() }()
			fallbackTake(s, 0)
		}
		for range 10 {
			primary.failsWith(errDown)
			survive()
			time.Sleep(1500 * time.Millisecond)
			primary.recovers()
			survive()
		}
		if told != 20 || s.Degraded() {
			t.Errorf("told %d times; degraded: %v", told, s.Degraded())
		}
	})
}

func TestBothStoresFail(t *testing.T) {
	errFull := errors.New("full")
	primary, fallback := newFickleStore(), newFickleStore()
	s := newFallback(t, primary, fallback, ratelimit.WithTripAfter(2))
	primary.failsWith(errDown)
	fallback.failsWith(errFull)
	for _, want := range []string{
		"ratelimit: down; and the fallback: full",
		"ratelimit: down; and the fallback: full",
		"ratelimit: circuit open, primary store not asked: down; and the fallback: full",
	} {
		r, err := s.Take(context.Background(), "key", ratelimit.Take{N: 1, Limits: tenAnHour})
		if !errors.Is(err, errDown) || !errors.Is(err, errFull) || r != (ratelimit.Result{}) {
			t.Fatalf("got %+v, %v", r, err)
		}
		wantText(t, "error", err.Error(), want)
	}

	// A wrong argument is the caller's fault, whoever is down.
	fallback.recovers()
	if _, err := s.Take(context.Background(), "key", ratelimit.Take{N: -1, Limits: tenAnHour}); !errors.Is(err, ratelimit.ErrArgument) || errors.Is(err, errDown) {
		t.Errorf("a negative cost: %v", err)
	}
	if _, err := s.Take(context.Background(), "key", ratelimit.Take{N: 1, Limits: nil}); !errors.Is(err, ratelimit.ErrArgument) {
		t.Errorf("no limits: %v", err)
	}
	half := newFallback(t, primary, fallback, ratelimit.WithShare(0.5))
	if _, err := half.Take(context.Background(), "key", ratelimit.Take{N: 1, Limits: []ratelimit.Limit{{}}}); !errors.Is(err, ratelimit.ErrArgument) {
		t.Errorf("the share of no limit at all: %v", err)
	}
}

func TestFallbackStoreAdjustAndReset(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx := context.Background()
		primary, fallback := newFickleStore(), newFickleStore()
		s := newFallback(t, primary, fallback, ratelimit.WithShare(0.5))
		take := func(n int) ratelimit.Receipt {
			r, err := s.Take(ctx, "key", ratelimit.Take{N: n, Limits: tenAnHour})
			if err != nil || !r.Allowed {
				t.Fatalf("take of %d: %+v, %v", n, r, err)
			}
			return r.Receipt
		}
		giveBack := func(n int, receipt *ratelimit.Receipt) string {
			r, err := s.Adjust(ctx, "key", ratelimit.Adjustment{N: n, Limits: tenAnHour, Receipt: *receipt})
			if err != nil {
				return err.Error()
			}
			*receipt = r.Receipt
			return fmt.Sprintf("%v, %d left", r.Source, r.Remaining)
		}
		ofPrimary := take(4)
		wantText(t, "well", giveBack(1, &ofPrimary), "memory, 7 left")
		tripBreaker(t, s, primary)
		ofFallback := take(4)
		wantText(t, "in an outage", giveBack(2, &ofFallback), "fallback, 3 left")
		wantText(t, "what the primary took, in an outage", giveBack(1, &ofPrimary), "ratelimit: circuit open, primary store not asked: down")
		if r, err := s.Adjust(ctx, "key", ratelimit.Adjustment{N: -1, Limits: tenAnHour}); err != nil || r.Source != ratelimit.SourceFallback || r.Remaining != 2 {
			t.Errorf("a debt goes to the store that decides: got %+v, %v", r, err)
		}
		time.Sleep(1500 * time.Millisecond)
		primary.recovers()
		wantText(t, "the primary is back", fallbackTake(s, 0), "allowed by memory, 7 left")
		wantText(t, "what the fallback took", giveBack(1, &ofFallback), "fallback, 3 left")
		wantText(t, "what the primary took", giveBack(1, &ofPrimary), "memory, 8 left")
		fallbackTake(s, 1)
		if r, err := s.Adjust(ctx, "key", ratelimit.Adjustment{N: 1, Limits: tenAnHour}); err != nil || r.Remaining != 7 {
			t.Errorf("without a receipt: got %+v, %v", r, err)
		}

		// A store around two may be the primary of another.
		outer := newFallback(t, s, ratelimit.NewMemoryStore())
		r, err := outer.Take(ctx, "nested", ratelimit.Take{N: 4, Limits: tenAnHour})
		if err != nil {
			t.Fatal(err)
		}
		tripBreaker(t, s, primary)
		inOutage, err := outer.Take(ctx, "nested", ratelimit.Take{N: 4, Limits: tenAnHour})
		if err != nil {
			t.Fatal(err)
		}
		back, err := outer.Adjust(ctx, "nested", ratelimit.Adjustment{N: 4, Limits: tenAnHour, Receipt: inOutage.Receipt})
		if err != nil || back.Source != ratelimit.SourceFallback || back.Remaining != 5 {
			t.Errorf("of the inner fallback: got %+v, %v", back, err)
		}
		if _, err := outer.Adjust(ctx, "nested", ratelimit.Adjustment{N: 4, Limits: tenAnHour, Receipt: r.Receipt}); !errors.Is(err, errDown) {
			t.Errorf("of the inner primary, in an outage: %v", err)
		}

		if _, err := s.Reset(ctx, "key"); !errors.Is(err, errDown) {
			t.Errorf("a reset in an outage: %v", err)
		}
		wantText(t, "the fallback afterwards", fallbackTake(s, 0), "allowed by fallback, 5 left")
		fallbackTake(s, 1)
		time.Sleep(1500 * time.Millisecond)
		primary.recovers()
		wantText(t, "the primary", fallbackTake(s, 0), "allowed by memory, 7 left")
		if _, err := s.Reset(ctx, "key"); err != nil {
			t.Error(err)
		}
		wantText(t, "the primary afterwards", fallbackTake(s, 0), "allowed by memory, 10 left")
		tripBreaker(t, s, primary)
		wantText(t, "the fallback afterwards", fallbackTake(s, 0), "allowed by fallback, 5 left")

		time.Sleep(1500 * time.Millisecond)
		primary.recovers()
		fallbackTake(s, 0)
		fallback.failsWith(errDown)
		if _, err := s.Reset(ctx, "key"); !errors.Is(err, errDown) {
			t.Errorf("a reset that the fallback fails: %v", err)
		}
	})
}

func TestFallbackStoreTakesWithOptions(t *testing.T) {
	ctx := context.Background()
	tenPerSecond := []ratelimit.Limit{{Capacity: 1, Refill: ratelimit.PerSecond(10)}}
	for _, c := range []struct {
		name              string
		primary, fallback ratelimit.Store
		wait              time.Duration
	}{
		{"the primary waits", ratelimit.NewMemoryStore(), deadStore{}, 100 * time.Millisecond},
		{"the fallback waits", deadStore{}, ratelimit.NewMemoryStore(), 200 * time.Millisecond}, // At half the rate.
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				// The stores were made outside of the bubble, so that their clocks are ahead and stand still.
				s := newFallback(t, c.primary, c.fallback, ratelimit.WithShare(0.5))
				if r, err := s.Take(ctx, "key", ratelimit.Take{N: 1, Limits: tenPerSecond}); err != nil || !r.Allowed {
					t.Fatalf("without options: got %+v, %v", r, err)
				}
				r, err := s.Take(ctx, "key", ratelimit.Take{N: 1, Limits: tenPerSecond, MaxWait: time.Second})
				if err != nil || r.Wait != c.wait || !r.Allowed {
					t.Errorf("got %+v, %v", r, err)
				}
			})
		})
	}
}

// What costs more than the share holds has to wait for the primary, and not for ever.
func TestCostAboveTheShare(t *testing.T) {
	s := newFallback(t, deadStore{}, ratelimit.NewMemoryStore(), ratelimit.WithShare(0.5), ratelimit.WithCoolOff(3*time.Second))
	for n, want := range map[int]time.Duration{
		5:  0,
		6:  3 * time.Second,
		10: 3 * time.Second,
		11: ratelimit.Never,
	} {
		r, err := s.Take(context.Background(), fmt.Sprint(n), ratelimit.Take{N: n, Limits: tenAnHour})
		if err != nil || r.RetryAfter != want || r.Allowed != (want == 0) {
			t.Errorf("a take of %d: got %+v, %v", n, r, err)
		}
	}
}

// shareOf is a limit's share, as the fallback is asked for it.
func shareOf(t testing.TB, s *ratelimit.FallbackStore, limit ratelimit.Limit) ratelimit.Limit {
	t.Helper()
	r, err := s.Take(context.Background(), "key", ratelimit.Take{Limits: []ratelimit.Limit{limit}})
	if err != nil {
		t.Fatalf("%v of share: %v", limit, err)
	}
	return r.Limit
}

func TestShares(t *testing.T) {
	// The quotients that are computed in programs are a little off; these are off enough to lose a token.
	fortyNine, oneHundredSeven := 49.0, 107.0
	for _, c := range []struct {
		share       float64
		limit, want string
	}{
		{1, "10/s", "10/s"},
		{0.5, "10/s", "10/2s burst 5"},
		{1.0 / 3, "10/s", "10/3s burst 3"},
		{1.0 / 3, "9/s burst 3", "9/3s burst 1"},
		{2.0 / 3, "9/s burst 3", "18/3s burst 2"},
		{1.0 / 3, "1/86.4s", "1/259.2s"},
		{1.0 / 3, "1/86.4s burst 2", "1/259.2s"},
		{1 / fortyNine, "49/s burst 98", "49/49s burst 2"},
		{1 / oneHundredSeven, "1/h burst 214", "1/107h burst 2"},
		{0.1, "1000/h", "1000/10h burst 100"},
		{0.35, "100/m burst 200", "700/20m burst 70"},
		{1.0 / 3, "1000000000/s", "1000000000/3s burst 333333333"},
		{1e-4, "10/s", "10/10000s burst 1"},
		{0.9999, "1/450359.962737s burst 10000", "1/450405.003238s burst 9998"}, // a bucket of 9999 would be too large
		{1e-300, "10/s", "1/4503599627.370496s"},                                // as slow as can be: 142 years
		{1, "1/4503599627.370496s", "1/4503599627.370496s"},
		{1.0 / 3, "1/4503599627.370496s", "1/4503599627.370496s"},
	} {
		t.Run(fmt.Sprintf("%v of %s", c.share, c.limit), func(t *testing.T) {
			var limit ratelimit.Limit
			if err := limit.UnmarshalText([]byte(c.limit)); err != nil {
				t.Fatal(err)
			}
			s := newFallback(t, deadStore{}, ratelimit.NewMemoryStore(), ratelimit.WithShare(c.share))
			got := shareOf(t, s, limit)
			again := shareOf(t, s, limit)
			if got != again {
				t.Errorf("first %v, then %v", got, again)
			}
			var want ratelimit.Limit
			if err := want.UnmarshalText([]byte(c.want)); err != nil {
				t.Fatal(err)
			}
			if got != want {
				t.Errorf("got %v, want %v", got, want)
			}
		})
	}
}

// For any limit and share: a valid limit, never above the share, and next to it.
func TestSharesOfAnyLimit(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	slowest, fast := big.NewRat(1, 1<<52), big.NewRat(1e6, 1) // tokens a microsecond
	for tested := 0; tested < 5000; {
		limit := ratelimit.Limit{
			Capacity: 1 + int(random.Int64N(1<<random.IntN(52))),
			Refill: ratelimit.Rate{
				Tokens: 1 + int(random.Int64N(1<<random.IntN(40))),
				Per:    time.Duration(1 + random.Int64N(1<<random.IntN(62))),
			},
		}
		if random.IntN(2) == 0 {
			limit.Refill.Per = limit.Refill.Per.Truncate(time.Second) + time.Second
		}
		if limit.Validate() != nil {
			continue
		}
		tested++
		share := random.Float64()
		fraction := new(big.Rat).SetFloat64(share)
		if random.IntN(2) == 0 {
			replicas := 1 + random.Int64N(1000)
			share, fraction = 1/float64(replicas), big.NewRat(1, replicas)
		}
		if share == 0 {
			continue
		}
		got := shareOf(t, newFallback(t, deadStore{}, yesStore{}, ratelimit.WithShare(share)), limit)

		mistake := func(format string, args ...any) {
			t.Errorf("%v of %v is %v: %s", share, limit, got, fmt.Sprintf(format, args...))
		}
		if err := got.Validate(); err != nil {
			mistake("%v", err)
		}
		capacity := new(big.Rat).Mul(fraction, big.NewRat(int64(limit.Capacity), 1))
		if whole := max(1, int(new(big.Int).Quo(capacity.Num(), capacity.Denom()).Int64())); got.Capacity > whole || got.Capacity < whole-whole/1000-1 {
			mistake("capacity should be %d", whole)
		}
		rate := func(r ratelimit.Rate) *big.Rat { return new(big.Rat).SetFrac64(1000*int64(r.Tokens), int64(r.Per)) }
		want, have := new(big.Rat).Mul(fraction, rate(limit.Refill)), rate(got.Refill)
		switch {
		case have.Sign() <= 0:
			mistake("it does not refill")
		case have.Cmp(want) > 0 && want.Cmp(slowest) >= 0:
			mistake("its rate is above the share")
		case have.Cmp(new(big.Rat).Mul(want, big.NewRat(999, 1000))) < 0 && want.Cmp(fast) <= 0:
			mistake("its rate is below the share by more than a thousandth")
		}
	}
}

// A share is computed once, whatever the list of limits; what is remembered stays small.
func TestSharesAreRemembered(t *testing.T) {
	s := newFallback(t, deadStore{}, yesStore{}, ratelimit.WithShare(1.0/3))
	ctx := context.Background()
	one := []ratelimit.Limit{{Capacity: 10, Refill: ratelimit.PerSecond(10)}}
	two := append(slices.Clone(one), ratelimit.Limit{Capacity: 1000, Refill: ratelimit.PerHour(1000)})
	three := append(slices.Clone(one), ratelimit.Limit{Capacity: 100, Refill: ratelimit.PerHour(100)})
	for range 10 {
		for _, limits := range [][]ratelimit.Limit{one, two, three} {
			if r, err := s.Take(ctx, "key", ratelimit.Take{N: 1, Limits: limits}); err != nil || r.Limit.Capacity != limits[len(limits)-1].Capacity/3 {
				t.Fatalf("%v: got %v, %v", limits, r.Limit, err)
			}
		}
	}
	for _, limits := range [][]ratelimit.Limit{one, two, three} {
		allocs := testing.AllocsPerRun(100, func() {
			if _, err := s.Take(ctx, "key", ratelimit.Take{N: 1, Limits: limits}); err != nil {
				t.Fatal(err)
			}
		})
		if allocs > 0 {
			t.Errorf("a take under %v allocates %v times", limits, allocs)
		}
	}
	two[1].Capacity = 300 // The caller's slice is the caller's.
	if r, err := s.Take(ctx, "key", ratelimit.Take{N: 1, Limits: two}); err != nil || r.Limit.Capacity != 100 {
		t.Errorf("a changed limit: got %v, %v", r.Limit, err)
	}

	before := heapBytes()
	for i := range 20_000 {
		limits := []ratelimit.Limit{{Capacity: 3 + i, Refill: ratelimit.PerSecond(10)}}
		if r, err := s.Take(ctx, "key", ratelimit.Take{N: 1, Limits: limits}); err != nil || r.Limit.Capacity != (3+i)/3 {
			t.Fatalf("%v: got %v, %v", limits, r.Limit, err)
		}
	}
	if grown := heapBytes() - before; grown > 1<<20 {
		t.Errorf("it remembers %d KiB", grown>>10)
	}
	runtime.KeepAlive(s)
}

func heapBytes() int64 {
	var m runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

// yesStore is a Store that keeps nothing and admits everything, by the last limit.
type yesStore struct{}

func (yesStore) Take(_ context.Context, _ string, take ratelimit.Take) (ratelimit.Result, error) {
	return ratelimit.Result{Allowed: true, Limit: take.Limits[len(take.Limits)-1]}, nil
}

func (s yesStore) Adjust(ctx context.Context, key string, change ratelimit.Adjustment) (ratelimit.Result, error) {
	return s.Take(ctx, key, ratelimit.Take{Limits: change.Limits})
}

func (yesStore) Look(context.Context, string, []ratelimit.Limit) (ratelimit.Usage, error) {
	return ratelimit.Usage{}, nil
}

func (yesStore) Reset(context.Context, string) (bool, error) { return false, nil }

func TestFallbackStoreAllocatesNothing(t *testing.T) {
	primary := newFickleStore()
	again := newFallback(t, primary, ratelimit.NewMemoryStore())
	primary.failsWith(errDown)
	fallbackTake(again, 0)
	primary.recovers()
	for name, s := range map[string]*ratelimit.FallbackStore{
		"well":         newFallback(t, ratelimit.NewMemoryStore(), deadStore{}),
		"well again":   again,
		"in an outage": newFallback(t, deadStore{}, ratelimit.NewMemoryStore(), ratelimit.WithShare(0.5), ratelimit.WithTripAfter(1), ratelimit.WithCoolOff(time.Hour)),
	} {
		allocs := testing.AllocsPerRun(1000, func() {
			if _, err := s.Take(context.Background(), "key", ratelimit.Take{N: 1, Limits: tenAnHour}); err != nil {
				t.Fatal(err)
			}
		})
		if allocs > 0 {
			t.Errorf("%s: %v allocations a take", name, allocs)
		}
	}
}

// After any number of calls at once, well and ill, a success still ends the row of failures.
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

// What is admitted over an outage stays within the published bound, and reaches it.
func TestFallbackBound(t *testing.T) {
	traces := 120
	if testing.Short() {
		traces = 30
	}
	reached, most := 0, 0.0
	for seed := range traces {
		synctest.Test(t, func(t *testing.T) {
			o := newOutages(t, uint64(seed))
			o.run()
			fallback, both := o.check()
			if fallback == 1 {
				reached++
			}
			most = max(most, both)
		})
		if t.Failed() {
			t.Fatalf("seed %d", seed)
		}
	}
	if !testing.Short() && (reached < traces/20 || most < 0.9) {
		t.Errorf("the bound proves little: the fallbacks reached it in %d of %d traces, and all stores came up to %.2f of theirs", reached, traces, most)
	}
	t.Logf("%d traces; the fallbacks reached their bound in %d; all stores together came up to %.3f of theirs", traces, reached, most)
}

// outages is processes that share a primary, each with a fallback of its own, and links that break at random.
type outages struct {
	t       *testing.T
	random  *rand.Rand
	limit   ratelimit.Limit
	stores  []*ratelimit.FallbackStore
	links   []*fickleStore
	greedy  bool
	mu      sync.Mutex
	entries []admission
}

func upTo(random *rand.Rand, longest time.Duration) time.Duration {
	return time.Duration(random.Int64N(int64(longest)))
}

// admission is what one process admitted.
type admission struct {
	at      time.Duration
	process int
	n       int
	source  ratelimit.Source
}

func newOutages(t *testing.T, seed uint64) *outages {
	random := rand.New(rand.NewPCG(seed, 0))
	o := &outages{
		t:      t,
		random: random,
		limit:  ratelimit.Limit{Capacity: 1 + random.IntN(40), Refill: ratelimit.Rate{Tokens: 1 + random.IntN(20), Per: time.Duration(1+random.IntN(5)) * time.Second}},
		greedy: random.IntN(2) == 0,
	}
	processes := 1 + random.IntN(6)
	primary := ratelimit.NewMemoryStore()
	for range processes {
		link := &fickleStore{Store: primary}
		o.links = append(o.links, link)
		o.stores = append(o.stores, newFallback(t, link, ratelimit.NewMemoryStore(),
			ratelimit.WithShare(1/float64(processes)),
			ratelimit.WithTripAfter(1+random.IntN(6)),
			ratelimit.WithCoolOff(time.Duration(10+random.IntN(1000))*time.Millisecond)))
	}
	return o
}

// run lets clients take and links break for a minute.
func (o *outages) run() {
	const length = time.Minute
	start := time.Now()
	var running sync.WaitGroup
	for p, s := range o.stores {
		random := rand.New(rand.NewPCG(o.random.Uint64(), 0))
		running.Go(func() {
			for time.Since(start) < length {
				n := 1 + random.IntN(min(3, o.limit.Capacity))
				r, err := s.Take(context.Background(), "key", ratelimit.Take{N: n, Limits: []ratelimit.Limit{o.limit}})
				if err != nil {
					o.t.Errorf("a take of %d: %v", n, err)
					return
				}
				if r.Allowed {
					o.mu.Lock()
					o.entries = append(o.entries, admission{time.Since(start), p, n, r.Source})
					o.mu.Unlock()
				}
				switch {
				case !o.greedy:
					time.Sleep(upTo(random, 300*time.Millisecond))
				case !r.Allowed:
					time.Sleep(max(time.Millisecond, min(r.RetryAfter, 20*time.Millisecond)))
				}
			}
		})
	}
	running.Go(func() {
		for time.Since(start) < length {
			together, calm := o.random.IntN(2) == 0, upTo(o.random, 8*time.Second)
			for _, link := range o.links {
				if together || o.random.IntN(2) == 0 {
					o.breakLink(link)
				}
			}
			time.Sleep(upTo(o.random, 4*time.Second))
			for _, link := range o.links {
				link.recovers()
			}
			time.Sleep(calm)
		}
	})
	running.Wait()
}

// breakLink makes calls fail at once or after a while, and with or without having been executed.
func (o *outages) breakLink(link *fickleStore) {
	delay, lost := upTo(o.random, 50*time.Millisecond), o.random.IntN(2) == 0
	if o.random.IntN(2) == 0 {
		delay = 0
	}
	link.fallsIll(func() error {
		if lost {
			_, _ = link.Store.Take(context.Background(), "key", ratelimit.Take{N: 1, Limits: []ratelimit.Limit{o.limit}})
		}
		time.Sleep(delay)
		return errDown
	})
}

// check compares every window of what was admitted with the bound. It returns how much of it was used, of 1: by
// the fallbacks together, and by all stores.
func (o *outages) check() (fallback, both float64) {
	processes := len(o.stores)
	// A token is so many units that both rates are whole numbers of units a microsecond.
	token := int64(o.limit.Refill.Per/time.Microsecond) * int64(processes)
	part := window{capacity: max(1, int64(o.limit.Capacity/processes)) * token, rate: int64(o.limit.Refill.Tokens)}
	parts := window{capacity: int64(processes) * part.capacity, rate: int64(processes) * part.rate}
	whole := window{capacity: int64(o.limit.Capacity) * token, rate: int64(processes) * part.rate}
	all := window{capacity: whole.capacity + parts.capacity, rate: whole.rate + parts.rate}

	each := make([]window, processes)
	for p := range each {
		each[p] = part
	}
	slices.SortStableFunc(o.entries, func(a, b admission) int { return cmp.Compare(a.at, b.at) })
	for _, e := range o.entries {
		ok := all.add(e.at, int64(e.n)*token)
		if e.source == ratelimit.SourceFallback {
			ok = each[e.process].add(e.at, int64(e.n)*token) && parts.add(e.at, int64(e.n)*token) && ok
		} else {
			ok = whole.add(e.at, int64(e.n)*token) && ok
		}
		if !ok {
			o.t.Errorf("limit %v, %d processes: more than the bound at %+v", o.limit, processes, e)
			return 0, 0
		}
	}
	return float64(parts.worst) / float64(parts.capacity), float64(all.worst) / float64(all.capacity)
}

// window holds all windows up to now against capacity + rate · length: level is the worst of them, in units.
type window struct {
	capacity, rate, level, worst int64
	last                         int64 // in microseconds, which is how stores count time
}

func (w *window) add(at time.Duration, units int64) (ok bool) {
	now := at.Microseconds()
	w.level = max(0, w.level-w.rate*(now-w.last)) + units
	w.last = now
	w.worst = max(w.worst, w.level)
	return w.level <= w.capacity
}

func BenchmarkFallbackStore(b *testing.B) {
	limits := []ratelimit.Limit{{Capacity: 1e9, Refill: ratelimit.PerSecond(1e9)}}
	memory := ratelimit.NewMemoryStore
	for _, c := range []struct {
		name  string
		store ratelimit.Store
	}{
		{"bare", memory()},
		{"well", newFallback(b, memory(), deadStore{})},
		{"outage", newFallback(b, deadStore{}, memory(), ratelimit.WithShare(1.0/3), ratelimit.WithTripAfter(1), ratelimit.WithCoolOff(time.Hour))},
	} {
		ctx := context.Background()
		b.Run(c.name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, err := c.store.Take(ctx, "key", ratelimit.Take{N: 1, Limits: limits}); err != nil {
					b.Fatal(err)
				}
			}
		})
		b.Run(c.name+"/parallel", func(b *testing.B) {
			b.ReportAllocs()
			b.RunParallel(func(p *testing.PB) {
				for p.Next() {
					if _, err := c.store.Take(ctx, "key", ratelimit.Take{N: 1, Limits: limits}); err != nil {
						b.Error(err)
					}
				}
			})
		})
	}
}
