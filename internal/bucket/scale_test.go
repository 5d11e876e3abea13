package bucket

import (
	"math"
	"math/big"
	"math/bits"
	"math/rand/v2"
	"testing"
)

// The arithmetic is compared with math/big, on numbers of all magnitudes.
const bucketRounds = 30_000

type numbers struct{ *rand.Rand }

func newNumbers(t *testing.T) numbers {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	return numbers{rand.New(rand.NewPCG(seed, 0))}
}

// upTo returns a number from 0 to n, each order of magnitude as likely as the next, and both ends often.
func (r numbers) upTo(n int64) int64 {
	switch r.IntN(16) {
	case 0:
		return 0
	case 1:
		return n
	}
	return min(n, r.Int64N(1<<r.IntN(63)))
}

func (r numbers) from1To(n int64) int64 { return max(1, r.upTo(n)) }

// scale returns a valid scale.
func (r numbers) scale() Scale {
	for {
		capacity, tokens, nanoseconds := r.from1To(MaxUnits), r.from1To(math.MaxInt64), r.from1To(math.MaxInt64)
		if r.IntN(2) == 0 {
			tokens, nanoseconds = r.from1To(1e9), 1e9*r.from1To(86400)
		}
		if s, maxCapacity := NewScale(capacity, tokens, nanoseconds); maxCapacity > 0 {
			s.Capacity = min(s.Capacity, maxCapacity)
			return s
		}
	}
}

func bigInt(n int64) *big.Int { return big.NewInt(n) }

func mul(a, b int64) *big.Int { return new(big.Int).Mul(bigInt(a), bigInt(b)) }

func add(a, b *big.Int) *big.Int { return new(big.Int).Add(a, b) }

func sub(a, b *big.Int) *big.Int { return new(big.Int).Sub(a, b) }

func minOf(a, b *big.Int) *big.Int {
	if a.Cmp(b) < 0 {
		return a
	}
	return b
}

func maxOf(a, b *big.Int) *big.Int {
	if a.Cmp(b) > 0 {
		return a
	}
	return b
}

// ceilDiv is ⌈a/b⌉ for b > 0: Div rounds down.
func ceilDiv(a, b *big.Int) *big.Int {
	q := new(big.Int).Div(new(big.Int).Neg(a), b)
	return q.Neg(q)
}

// same ends the test unless got is want.
func same(t *testing.T, what string, got int64, want *big.Int, args ...any) {
	t.Helper()
	if !want.IsInt64() || want.Int64() != got {
		t.Fatalf("%s of %+v: got %d, want %v", what, args, got, want)
	}
}

var zero = bigInt(0)

func TestNewScale(t *testing.T) {
	r := newNumbers(t)
	valid := 0
	for range bucketRounds {
		capacity, tokens, nanoseconds := r.from1To(math.MaxInt64), r.from1To(math.MaxInt64), r.from1To(math.MaxInt64)
		s, limit := NewScale(capacity, tokens, nanoseconds)
		perTick := big.NewRat(tokens, nanoseconds)
		perTick.Mul(perTick, big.NewRat(1000, 1)) // tokens a microsecond, in lowest terms
		if perTick.Num().Cmp(bigInt(MaxUnits)) > 0 {
			if limit >= 0 {
				t.Fatalf("%d tokens in %d ns: %+v, of up to %d tokens, but %v units come back each tick", tokens, nanoseconds, s, limit, perTick.Num())
			}
			continue
		}
		valid++
		if !perTick.Denom().IsInt64() || s.Token != perTick.Denom().Int64() || s.PerTick != perTick.Num().Int64() || s.Capacity != capacity {
			t.Fatalf("%d of %d tokens in %d ns: got %+v, want %v", capacity, tokens, nanoseconds, s, perTick)
		}
		same(t, "max capacity", limit, new(big.Int).Div(bigInt(MaxUnits), bigInt(s.Token)), tokens, nanoseconds)
	}
	if valid < bucketRounds/10 {
		t.Errorf("only %d of %d rates were valid", valid, bucketRounds)
	}
}

func TestRefill(t *testing.T) {
	r := newNumbers(t)
	for range bucketRounds {
		s, deficit, ticks := r.scale(), r.upTo(MaxDeficit), r.upTo(MaxDeficit)
		if r.IntN(2) == 0 {
			ticks = s.UntilFull(deficit) - r.Int64N(3) + 1 // around the moment of fullness
		}
		want := deficit
		if ticks > 0 {
			left := maxOf(zero, sub(bigInt(deficit), mul(ticks, s.PerTick)))
			want = left.Int64()
		}
		same(t, "refill", s.Refill(deficit, ticks), bigInt(want), s, deficit, ticks)
		same(t, "untilFull", s.UntilFull(deficit), ceilDiv(bigInt(deficit), bigInt(s.PerTick)), s, deficit)
		same(t, "remaining", s.Remaining(deficit),
			new(big.Int).Div(maxOf(zero, sub(mul(s.Capacity, s.Token), bigInt(deficit))), bigInt(s.Token)), s, deficit)
	}
	s := Scale{10, 100, 3}
	for _, ticks := range []int64{0, -1, math.MinInt64} {
		if got := s.Refill(700, ticks); got != 700 {
			t.Errorf("after %d ticks %d of 700 are missing: time that goes backwards minted", ticks, got)
		}
	}
}

func TestTakes(t *testing.T) {
	r := newNumbers(t)
	for range bucketRounds {
		s, deficit := r.scale(), r.upTo(MaxDeficit)
		n := r.upTo(math.MaxInt64)
		if r.IntN(2) == 0 {
			n = r.upTo(s.Capacity + 1)
		}
		if r.IntN(2) == 0 {
			deficit = max(0, min(MaxDeficit, (s.Capacity-min(n, s.Capacity))*s.Token+r.Int64N(3)-1)) // around what admits n
		}
		c := Change{N: n}
		after := add(bigInt(deficit), mul(n, s.Token))
		fits := after.Cmp(mul(s.Capacity, s.Token)) <= 0
		want := after
		if !fits {
			want = bigInt(deficit)
		}
		got, allowed := c.Of(0, &s, deficit, 0)
		same(t, "take", got, want, s, deficit, n)
		if allowed != fits {
			t.Fatalf("take of %d from %+v with %d missing: allowed is %v", n, s, deficit, allowed)
		}
		if n <= s.Capacity {
			lack := maxOf(zero, sub(after, mul(s.Capacity, s.Token)))
			same(t, "retry", c.Retry(&s, deficit), ceilDiv(lack, bigInt(s.PerTick)), s, deficit, n)
		}
	}
}

func TestDebts(t *testing.T) {
	r := newNumbers(t)
	for range bucketRounds {
		s, deficit, n := r.scale(), r.upTo(MaxDeficit), r.upTo(MaxDeficit)
		c := Change{N: n, Debt: true}
		got, allowed := c.Of(0, &s, deficit, 0)
		same(t, "debt", got, minOf(bigInt(MaxDeficit), add(bigInt(deficit), mul(n, s.Token))), s, deficit, n)
		if !allowed {
			t.Fatalf("a debt of %d to %+v with %d missing was refused", n, s, deficit)
		}
	}
}

func TestTakeOver(t *testing.T) {
	r := newNumbers(t)
	larger, forgotten := 0, 0
	for range bucketRounds {
		from, to, deficit := r.scale(), r.scale(), r.upTo(MaxDeficit)
		switch r.IntN(4) {
		case 0: // in debt or not, by the same token
			to.Token = from.Token
			to.Capacity = r.from1To(MaxUnits / to.Token)
		case 1:
			to.Token, to.Capacity = from.Token, from.Capacity
		}
		missing := bigInt(deficit)
		if from.Token != to.Token {
			whole, part := new(big.Int).DivMod(missing, bigInt(from.Token), new(big.Int))
			missing = add(new(big.Int).Mul(whole, bigInt(to.Token)), ceilDiv(new(big.Int).Mul(part, bigInt(to.Token)), bigInt(from.Token)))
			missing = minOf(missing, bigInt(MaxDeficit))
		}
		same(t, "convert", convert(deficit, from.Token, to.Token), missing, from, to, deficit)

		kept := to
		if from.Capacity > to.Capacity {
			if mul(from.Capacity, to.Token).Cmp(bigInt(MaxUnits)) <= 0 {
				kept.Capacity = from.Capacity
				larger++
			} else {
				missing = minOf(missing, mul(to.Capacity, to.Token))
				forgotten++
			}
		}
		ticks := r.upTo(MaxDeficit)
		if r.IntN(2) == 0 {
			ticks = max(0, from.UntilFull(deficit)+r.Int64N(3)-1) // around the moment of fullness by the old limit
		}
		// No more tokens than the new limit can hold, of a bucket of the size that is kept.
		want := maxOf(sub(missing, mul(ticks, to.PerTick)), mul(kept.Capacity-to.Capacity, to.Token))
		if mul(ticks, from.PerTick).Cmp(bigInt(deficit)) >= 0 {
			want, kept = zero, to
		}
		got, scale := to.TakeOver(deficit, from, ticks)
		same(t, "takeOver", got, want, from, to, deficit, ticks)
		if scale != kept {
			t.Fatalf("%+v took over from %+v: counts on by %+v, want %+v", to, from, scale, kept)
		}
	}
	if larger < bucketRounds/20 || forgotten < bucketRounds/200 {
		t.Errorf("a larger capacity was kept %d times and forgotten %d times", larger, forgotten)
	}
}

// Converting between two sizes of token, to and fro, mints nothing: what is missing is never less than before.
func TestConvertMintsNothing(t *testing.T) {
	r := newNumbers(t)
	for range bucketRounds / 10 {
		a, b := r.from1To(MaxUnits), r.from1To(MaxUnits)
		deficit := r.upTo(min(MaxDeficit, MaxDeficit/b*a))
		before := deficit
		for range 4 {
			deficit = convert(convert(deficit, a, b), b, a)
			if deficit < before {
				t.Fatalf("of %d units missing, %d a token, %d were missing after going over to %d a token and back", before, a, deficit, b)
			}
		}
	}
}

// Whatever limits take in turns from a bucket, together they admit no more than the largest capacity and the largest rate
// would, and a refused take is admitted after its wait, and not before.
func TestLimitsInTurns(t *testing.T) {
	r := newNumbers(t)
	refused := 0
	for range 300 {
		limits := make([]Scale, 2+r.IntN(2))
		capacity, rate := int64(0), new(big.Rat)
		for i := range limits {
			limits[i], _ = NewScale(r.from1To(60), r.from1To(100), 1e9*r.from1To(60))
			capacity = max(capacity, limits[i].Capacity)
			if perTick := big.NewRat(limits[i].PerTick, limits[i].Token); perTick.Cmp(rate) > 0 {
				rate = perTick
			}
		}
		deficit, by, last := int64(0), limits[0], int64(0)
		now, admitted := int64(0), int64(0)
		for range 300 {
			s := limits[r.IntN(len(limits))]
			now += r.upTo(s.UntilFull(s.Size()) / r.from1To(200))
			take := Change{N: r.from1To(s.Capacity)}
			at := func(tick int64) (left int64, kept Scale, allowed bool) {
				left, kept = s.TakeOver(deficit, by, tick-last)
				left, allowed = take.Of(0, &s, left-kept.Size()+s.Size(), 0)
				return left, kept, allowed
			}
			left, kept, allowed := at(now)
			if !allowed {
				refused++
				wait := take.Retry(&s, left)
				if _, _, early := at(now + wait - 1); early && now+wait-1-last < by.UntilFull(deficit) {
					t.Fatalf("%+v: admitted before its wait of %d was over", s, wait)
				}
				if _, _, late := at(now + wait); !late {
					t.Fatalf("%+v: refused after its wait of %d", s, wait)
				}
				continue
			}
			deficit, by, last = left+kept.Size()-s.Size(), kept, now
			admitted += take.N
			bound := new(big.Rat).Mul(rate, new(big.Rat).SetInt64(now))
			if bound.Add(bound, new(big.Rat).SetInt64(capacity)).Cmp(new(big.Rat).SetInt64(admitted)) < 0 {
				t.Fatalf("%+v admitted %d in %d ticks, which is more than %v", limits, admitted, now, bound)
			}
		}
	}
	if refused < 1000 {
		t.Errorf("only %d refusals", refused)
	}
}

func TestMulDivUp(t *testing.T) {
	r := newNumbers(t)
	for range bucketRounds {
		c := r.from1To(MaxUnits)
		a, b := r.Int64N(c), r.from1To(MaxUnits) // as in convert, a is a part of c
		same(t, "MulDivUp", MulDivUp(a, b, c), ceilDiv(mul(a, b), bigInt(c)), a, b, c)
	}
}

func TestBounds(t *testing.T) {
	// The largest values that a bucket can hold, and that can be added to it, fit an int64 and a double.
	if MaxUnits != 1<<52 || MaxDeficit != 1<<53-1 || bits.Len64(MaxDeficit+MaxDeficit) > 63 {
		t.Errorf("MaxUnits %d, MaxDeficit %d", int64(MaxUnits), int64(MaxDeficit))
	}
	for _, n := range []int64{MaxUnits, MaxDeficit, MaxDeficit - 1} {
		if int64(float64(n)) != n {
			t.Errorf("%d is not exact in a double", n)
		}
	}
}

// A refused take is admitted after its RetryAfter, and refused a tick earlier.
func FuzzRetryAfter(f *testing.F) {
	f.Add(int64(10), int64(10), int64(1e9), int64(1_000_000), int64(1))
	f.Add(int64(5000), int64(1), int64(86400e6), int64(0), int64(5000))
	f.Add(int64(7), int64(7), int64(3e9), int64(20_999_996), int64(3))
	f.Add(int64(1), int64(1), int64(10*365*86400e9), int64(1), int64(1))
	f.Add(int64(1e9), int64(1e9), int64(1e9), int64(MaxDeficit), int64(1e9))
	f.Fuzz(func(t *testing.T, capacity, tokens, nanoseconds, deficit, n int64) {
		if capacity < 1 || tokens < 1 || nanoseconds < 1 || deficit < 0 || deficit > MaxDeficit || n < 0 {
			t.Skip()
		}
		s, maxCapacity := NewScale(capacity, tokens, nanoseconds)
		if capacity > maxCapacity || n > capacity {
			t.Skip()
		}
		c := Change{N: n}
		if _, allowed := c.Of(0, &s, deficit, 0); allowed {
			if wait := c.Retry(&s, deficit); wait != 0 {
				t.Fatalf("allowed, after %d ticks", wait)
			}
			return
		}
		wait := c.Retry(&s, deficit)
		if _, allowed := c.Of(0, &s, s.Refill(deficit, wait), 0); !allowed {
			t.Errorf("refused after the %d ticks that it was told", wait)
		}
		if _, allowed := c.Of(0, &s, s.Refill(deficit, wait-1), 0); allowed {
			t.Errorf("told %d ticks, and admitted after one less", wait)
		}
	})
}

// A rate whose sum over a year is off by one, which no other unit test would find.
func TestRatesAreExactOverYears(t *testing.T) {
	r := newNumbers(t)
	for range 200 {
		s := r.scale()
		s.Capacity = max(2, min(s.Capacity, 1000))
		if s.Capacity > MaxUnits/s.Token || s.PerTick > s.Token {
			continue // More than a token comes back in a tick, so the bucket is full in between.
		}
		one := Change{N: 1}
		deficit, now := s.Size(), int64(0)
		total := int64(r.IntN(300) + 1)
		for range total {
			wait := one.Retry(&s, deficit)
			now += wait
			deficit = s.Refill(deficit, wait)
			var allowed bool
			if deficit, allowed = one.Of(0, &s, deficit, 0); !allowed {
				t.Fatalf("%+v: refused after its wait", s)
			}
		}
		same(t, "the time of so many tokens", now, ceilDiv(mul(total, s.Token), bigInt(s.PerTick)), s, total)
	}
}
