package ratelimit_test

import (
	"context"
	"fmt"
	"math/big"
	"math/rand/v2"
	"runtime"
	"slices"
	"testing"
	"time"

	"github.com/gin-ratelimit/ratelimit"
)

// A take that costs more than the share holds has to wait for the primary, and not for ever.
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

// shareOf is a limit's share, as the fallback gets it.
func shareOf(t testing.TB, s *ratelimit.FallbackStore, limit ratelimit.Limit) ratelimit.Limit {
	t.Helper()
	r, err := s.Take(context.Background(), "key", ratelimit.Take{Limits: []ratelimit.Limit{limit}})
	if err != nil {
		t.Fatalf("%v of share: %v", limit, err)
	}
	return r.Limit
}

func TestShares(t *testing.T) {
	// Quotients that programs compute are a little inexact; these are so inexact that a token would be lost.
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

// The share of any limit is a valid limit, never above the exact share, and close to it.
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
	two[1].Capacity = 300 // The caller may change its slice.
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
