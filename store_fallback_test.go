package ratelimit_test

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gin-ratelimit/ratelimit"
	"github.com/gin-ratelimit/ratelimit/storetest"
)

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

// halfReset is a FallbackStore whose error of a Reset is ignored, because the fallback is reset.
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

// The fallback decides what the primary does not decide, and nothing else.
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

// onSwitch is called with no lock held: it may use the store, and even cause another switch.
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
					told = append(told, "meanwhile: "+fallbackTake(s, 1)) // Causes the switch back.
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

	// A wrong argument is the caller's mistake, whichever store is down.
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
		{name: "the primary waits", primary: ratelimit.NewMemoryStore(), fallback: deadStore{}, wait: 100 * time.Millisecond},
		{name: "the fallback waits", primary: deadStore{}, fallback: ratelimit.NewMemoryStore(), wait: 200 * time.Millisecond}, // At half the rate.
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				// The stores were made outside of the bubble, so their clocks are ahead, and do not move until the bubble's time has
				// caught up.
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
