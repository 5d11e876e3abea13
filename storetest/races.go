package storetest

import (
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"github.com/gin-ratelimit/ratelimit"
)

// races are cases whose goroutines really run at the same time, in bubbles too. The clock does not move while they run, so
// the tokens that they get together are known exactly.
var races = []testCase{
	{"race for a new key", raceForNewKey},
	{"race for a trickle", raceForTrickle},
	{"race of limits", raceOfLimits},
	{"race of costs", raceOfCosts},
	{"race of takes and returns", raceOfReturns},
	{"race of everything", raceOfEverything},
}

const racers = 16

// race runs f in many goroutines, and returns when all are done.
func race(f func(i int)) {
	var started, done sync.WaitGroup
	started.Add(racers)
	for i := range racers {
		done.Go(func() {
			started.Done()
			started.Wait()
			f(i)
		})
	}
	done.Wait()
}

// try takes from the store alone: the order of racing calls is unknown, so the oracle cannot follow them.
func (s *session) try(key string, n int, limits ...ratelimit.Limit) ratelimit.Result {
	r, err := s.store.Take(s.ctx, key, ratelimit.Take{N: n, Limits: limits})
	if err != nil {
		s.t.Errorf("Take(%q, %d): %v", key, n, err)
	}
	return r
}

func raceForNewKey(s *session) {
	l := limit(5, ratelimit.PerHour(1))
	for i := range 50 {
		key := fmt.Sprint(i)
		var admitted atomic.Int64
		race(func(int) {
			if s.try(key, 1, l).Allowed {
				admitted.Add(1)
			}
		})
		if got := admitted.Load(); got != 5 {
			s.t.Fatalf("%d goroutines took 1 of 5 tokens, at first use: %d were admitted", racers, got)
		}
	}
}

// Each round makes more takes than there are tokens, a random time after the round before. In all, exactly C + r·t are
// admitted.
func raceForTrickle(s *session) {
	l := limit(40, ratelimit.Rate{Tokens: 7, Per: 3 * sec})
	var admitted atomic.Int64
	for round := range 40 {
		race(func(int) {
			for range 4 {
				if s.try("key", 1, l).Allowed {
					admitted.Add(1)
				}
			}
		})
		want := 40 + int64(s.now()/us)*7/int64(3*sec/us)
		if got := admitted.Load(); got != want {
			s.t.Fatalf("round %d, %v after the first: %d were admitted, want %d", round, s.now(), got, want)
		}
		s.wait(us * time.Duration(rand.Int64N(6e6)))
	}
}

// The scarcer limit decides, and what it refuses is not taken from the other.
func raceOfLimits(s *session) {
	scarce, ample := limit(5, ratelimit.PerHour(5)), limit(100, ratelimit.PerHour(100))
	for i := range 20 {
		key := fmt.Sprint(i)
		var admitted atomic.Int64
		race(func(racer int) {
			limits := []ratelimit.Limit{ample, scarce}
			if i%2 == 1 {
				limits = []ratelimit.Limit{scarce, ample}
			}
			if s.try(key, 1, limits...).Allowed {
				admitted.Add(1)
			}
		})
		if got := admitted.Load(); got != 5 {
			s.t.Fatalf("%d goroutines took from 5 and from 100 tokens: %d were admitted", racers, got)
		}
		if i%2 == 0 {
			if r := s.try(key, 0, ample); r.Remaining != 95 {
				s.t.Fatalf("after 5 takes and %d refusals by the other limit, %d of 100 tokens remain", racers-5, r.Remaining)
			}
		}
	}
}

// The tokens that are missing are exactly those of the admitted takes.
func raceOfCosts(s *session) {
	l := limit(100, ratelimit.PerHour(1))
	for i := range 20 {
		key := fmt.Sprint(i)
		var cost atomic.Int64
		race(func(racer int) {
			for n := 1 + racer; n <= 30; n += 7 {
				if s.try(key, n, l).Allowed {
					cost.Add(int64(n))
				}
			}
		})
		got := cost.Load()
		if r := s.try(key, 0, l); got > 100 || int64(r.Remaining) != 100-got {
			s.t.Fatalf("%d of 100 tokens were admitted, and %d remain", got, r.Remaining)
		}
	}
}

// All give back what they took: no more than the capacity is ever out, and in the end the bucket is full.
func raceOfReturns(s *session) {
	l := limit(5, ratelimit.PerHour(1))
	var out, maxOut atomic.Int64
	race(func(int) {
		for range 50 {
			r := s.try("key", 1, l)
			if !r.Allowed {
				continue
			}
			now := out.Add(1)
			for m := maxOut.Load(); now > m && !maxOut.CompareAndSwap(m, now); m = maxOut.Load() {
			}
			out.Add(-1)
			if _, err := s.store.Adjust(s.ctx, "key", ratelimit.Adjustment{N: 1, Limits: []ratelimit.Limit{l}, Receipt: r.Receipt}); err != nil {
				s.t.Error(err)
			}
		}
	})
	if r := s.try("key", 0, l); maxOut.Load() > 5 || r.Remaining != 5 {
		s.t.Fatalf("at most %d of 5 tokens were out at a time; all came back, and %d remain", maxOut.Load(), r.Remaining)
	}
}

// Keys with every call at once: the total of each is right where it can be known.
func raceOfEverything(s *session) {
	l := limit(1000, ratelimit.PerHour(1))
	other := limit(7, ratelimit.PerDay(7))
	var taken [4]atomic.Int64
	race(func(racer int) {
		for i := range 60 {
			k := (racer + i) % len(taken)
			key := fmt.Sprint("counted", k)
			switch {
			case i%5 == 4:
				s.try(key, 0, l)
			case s.try(key, 2, l).Allowed:
				taken[k].Add(2)
			}
			// Around it: keys that come, change and go.
			key = fmt.Sprint("noise", (racer*i)%9)
			switch i % 4 {
			case 0:
				s.try(key, 3, other, l)
			case 1:
				if _, err := s.store.Reset(s.ctx, key); err != nil {
					s.t.Error(err)
				}
			case 2:
				if _, err := s.store.Adjust(s.ctx, key, ratelimit.Adjustment{N: -1, Limits: []ratelimit.Limit{l}}); err != nil {
					s.t.Error(err)
				}
			default:
				s.try(key, 1, l)
			}
		}
	})
	for k := range taken {
		want := 1000 - taken[k].Load()
		if r := s.try(fmt.Sprint("counted", k), 0, l); int64(r.Remaining) != want {
			s.t.Fatalf("key %d: %d tokens were taken, and %d remain, want %d", k, taken[k].Load(), r.Remaining, want)
		}
	}
}
