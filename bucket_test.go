package ratelimit

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

// upTo returns a number from 0 to most, each order of magnitude as likely as the next, and both ends often.
func (r numbers) upTo(most int64) int64 {
	switch r.IntN(16) {
	case 0:
		return 0
	case 1:
		return most
	}
	return min(most, r.Int64N(1<<r.IntN(63)))
}

func (r numbers) from1To(most int64) int64 { return max(1, r.upTo(most)) }

// scale returns one that is valid.
func (r numbers) scale() scale {
	for {
		capacity, tokens, nanoseconds := r.from1To(maxUnits), r.from1To(math.MaxInt64), r.from1To(math.MaxInt64)
		if r.IntN(2) == 0 {
			tokens, nanoseconds = r.from1To(1e9), 1e9*r.from1To(86400)
		}
		if s, most := newScale(capacity, tokens, nanoseconds); most > 0 {
			s.capacity = min(s.capacity, most)
			return s
		}
	}
}

func bigInt(n int64) *big.Int { return big.NewInt(n) }

func mul(a, b int64) *big.Int { return new(big.Int).Mul(bigInt(a), bigInt(b)) }

func add(a, b *big.Int) *big.Int { return new(big.Int).Add(a, b) }

func sub(a, b *big.Int) *big.Int { return new(big.Int).Sub(a, b) }

func least(a, b *big.Int) *big.Int {
	if a.Cmp(b) < 0 {
		return a
	}
	return b
}

func most(a, b *big.Int) *big.Int {
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
		s, limit := newScale(capacity, tokens, nanoseconds)
		perTick := big.NewRat(tokens, nanoseconds)
		perTick.Mul(perTick, big.NewRat(1000, 1)) // tokens a microsecond, in lowest terms
		if perTick.Num().Cmp(bigInt(maxUnits)) > 0 {
			if limit >= 0 {
				t.Fatalf("%d tokens in %d ns: %+v, of up to %d tokens, but %v units come back each tick", tokens, nanoseconds, s, limit, perTick.Num())
			}
			continue
		}
		valid++
		if !perTick.Denom().IsInt64() || s.token != perTick.Denom().Int64() || s.perTick != perTick.Num().Int64() || s.capacity != capacity {
			t.Fatalf("%d of %d tokens in %d ns: got %+v, want %v", capacity, tokens, nanoseconds, s, perTick)
		}
		same(t, "most", limit, new(big.Int).Div(bigInt(maxUnits), bigInt(s.token)), tokens, nanoseconds)
	}
	if valid < bucketRounds/10 {
		t.Errorf("only %d of %d rates were valid", valid, bucketRounds)
	}
}

func TestRefill(t *testing.T) {
	r := newNumbers(t)
	for range bucketRounds {
		s, deficit, ticks := r.scale(), r.upTo(maxDeficit), r.upTo(maxDeficit)
		if r.IntN(2) == 0 {
			ticks = s.untilFull(deficit) - r.Int64N(3) + 1 // around the moment of fullness
		}
		want := deficit
		if ticks > 0 {
			left := most(zero, sub(bigInt(deficit), mul(ticks, s.perTick)))
			want = left.Int64()
		}
		same(t, "refill", s.refill(deficit, ticks), bigInt(want), s, deficit, ticks)
		same(t, "untilFull", s.untilFull(deficit), ceilDiv(bigInt(deficit), bigInt(s.perTick)), s, deficit)
		same(t, "remaining", s.remaining(deficit),
			new(big.Int).Div(most(zero, sub(mul(s.capacity, s.token), bigInt(deficit))), bigInt(s.token)), s, deficit)
	}
	s := scale{10, 100, 3}
	for _, ticks := range []int64{0, -1, math.MinInt64} {
		if got := s.refill(700, ticks); got != 700 {
			t.Errorf("after %d ticks %d of 700 are missing: time that goes backwards minted", ticks, got)
		}
	}
}

func TestTakes(t *testing.T) {
	r := newNumbers(t)
	for range bucketRounds {
		s, deficit := r.scale(), r.upTo(maxDeficit)
		n := r.upTo(math.MaxInt64)
		if r.IntN(2) == 0 {
			n = r.upTo(s.capacity + 1)
		}
		if r.IntN(2) == 0 {
			deficit = max(0, min(maxDeficit, (s.capacity-min(n, s.capacity))*s.token+r.Int64N(3)-1)) // around what admits n
		}
		c := change{n: n}
		after := add(bigInt(deficit), mul(n, s.token))
		fits := after.Cmp(mul(s.capacity, s.token)) <= 0
		want := after
		if !fits {
			want = bigInt(deficit)
		}
		got, allowed := c.of(&s, deficit)
		same(t, "take", got, want, s, deficit, n)
		if allowed != fits {
			t.Fatalf("take of %d from %+v with %d missing: allowed is %v", n, s, deficit, allowed)
		}
		if n <= s.capacity {
			lack := most(zero, sub(after, mul(s.capacity, s.token)))
			same(t, "retry", c.retry(&s, deficit), ceilDiv(lack, bigInt(s.perTick)), s, deficit, n)
		}
	}
}

func TestAdjustments(t *testing.T) {
	r := newNumbers(t)
	for range bucketRounds {
		s, deficit, n := r.scale(), r.upTo(maxDeficit), r.upTo(math.MaxInt64)
		if r.IntN(2) == 0 {
			n = -n
		}
		if r.IntN(100) == 0 {
			n = math.MinInt64
		}
		c := change{n: n, adjust: true}
		got, allowed := c.of(&s, deficit)
		want := least(bigInt(maxDeficit), most(zero, sub(bigInt(deficit), mul(n, s.token))))
		same(t, "adjust", got, want, s, deficit, n)
		if !allowed {
			t.Fatalf("adjust by %d of %+v with %d missing was refused", n, s, deficit)
		}
	}
}

func TestTakeOver(t *testing.T) {
	r := newNumbers(t)
	larger, forgotten := 0, 0
	for range bucketRounds {
		from, to, deficit := r.scale(), r.scale(), r.upTo(maxDeficit)
		switch r.IntN(4) {
		case 0: // in debt or not, by the same token
			to.token = from.token
			to.capacity = r.from1To(maxUnits / to.token)
		case 1:
			to.token, to.capacity = from.token, from.capacity
		}
		missing := bigInt(deficit)
		if from.token != to.token {
			whole, part := new(big.Int).DivMod(missing, bigInt(from.token), new(big.Int))
			missing = add(new(big.Int).Mul(whole, bigInt(to.token)), ceilDiv(new(big.Int).Mul(part, bigInt(to.token)), bigInt(from.token)))
			missing = least(missing, bigInt(maxDeficit))
		}
		same(t, "convert", convert(deficit, from.token, to.token), missing, from, to, deficit)

		kept := to
		if from.capacity > to.capacity {
			if mul(from.capacity, to.token).Cmp(bigInt(maxUnits)) <= 0 {
				kept.capacity = from.capacity
				larger++
			} else {
				missing = least(missing, mul(to.capacity, to.token))
				forgotten++
			}
		}
		ticks := r.upTo(maxDeficit)
		if r.IntN(2) == 0 {
			ticks = max(0, from.untilFull(deficit)+r.Int64N(3)-1) // around the moment of fullness by the old limit
		}
		// No more tokens than the new limit can hold, of a bucket of the size that is kept.
		want := most(sub(missing, mul(ticks, to.perTick)), mul(kept.capacity-to.capacity, to.token))
		if mul(ticks, from.perTick).Cmp(bigInt(deficit)) >= 0 {
			want, kept = zero, to
		}
		got, scale := to.takeOver(deficit, from, ticks)
		same(t, "takeOver", got, want, from, to, deficit, ticks)
		if scale != kept {
			t.Fatalf("%+v took over from %+v: counts on by %+v, want %+v", to, from, scale, kept)
		}
	}
	if larger < bucketRounds/20 || forgotten < bucketRounds/200 {
		t.Errorf("a larger capacity was kept %d times and forgotten %d times", larger, forgotten)
	}
}

// To and fro between two sizes of token mints nothing: what is missing is never less than before.
func TestConvertMintsNothing(t *testing.T) {
	r := newNumbers(t)
	for range bucketRounds / 10 {
		a, b := r.from1To(maxUnits), r.from1To(maxUnits)
		deficit := r.upTo(min(maxDeficit, maxDeficit/b*a))
		before := deficit
		for range 4 {
			deficit = convert(convert(deficit, a, b), b, a)
			if deficit < before {
				t.Fatalf("of %d units missing, %d a token, %d were missing after going over to %d a token and back", before, a, deficit, b)
			}
		}
	}
}

// Whatever limits take turns on a bucket, together they admit no more than the largest capacity and the largest rate
// do, and what is refused is admitted after its wait and not before.
func TestLimitsInTurns(t *testing.T) {
	r := newNumbers(t)
	refused := 0
	for range 300 {
		limits := make([]scale, 2+r.IntN(2))
		capacity, rate := int64(0), new(big.Rat)
		for i := range limits {
			limits[i], _ = newScale(r.from1To(60), r.from1To(100), 1e9*r.from1To(60))
			capacity = max(capacity, limits[i].capacity)
			if perTick := big.NewRat(limits[i].perTick, limits[i].token); perTick.Cmp(rate) > 0 {
				rate = perTick
			}
		}
		deficit, by, last := int64(0), limits[0], int64(0)
		now, admitted := int64(0), int64(0)
		for range 300 {
			s := limits[r.IntN(len(limits))]
			now += r.upTo(s.untilFull(s.size()) / r.from1To(200))
			take := change{n: r.from1To(s.capacity)}
			at := func(tick int64) (left int64, kept scale, allowed bool) {
				left, kept = s.takeOver(deficit, by, tick-last)
				left, allowed = take.of(&s, left-kept.size()+s.size())
				return left, kept, allowed
			}
			left, kept, allowed := at(now)
			if !allowed {
				refused++
				wait := take.retry(&s, left)
				if _, _, early := at(now + wait - 1); early && now+wait-1-last < by.untilFull(deficit) {
					t.Fatalf("%+v: admitted before its wait of %d was over", s, wait)
				}
				if _, _, late := at(now + wait); !late {
					t.Fatalf("%+v: refused after its wait of %d", s, wait)
				}
				continue
			}
			deficit, by, last = left+kept.size()-s.size(), kept, now
			admitted += take.n
			most := new(big.Rat).Mul(rate, new(big.Rat).SetInt64(now))
			if most.Add(most, new(big.Rat).SetInt64(capacity)).Cmp(new(big.Rat).SetInt64(admitted)) < 0 {
				t.Fatalf("%+v admitted %d in %d ticks, which is more than %v", limits, admitted, now, most)
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
		c := r.from1To(maxUnits)
		a, b := r.Int64N(c), r.from1To(maxUnits) // as convert has it: a part of c
		same(t, "mulDivUp", mulDivUp(a, b, c), ceilDiv(mul(a, b), bigInt(c)), a, b, c)
	}
}

func TestBounds(t *testing.T) {
	// Whatever can be in a bucket and be added to it fits an int64, and a double.
	if maxUnits != 1<<52 || maxDeficit != 1<<53-1 || bits.Len64(maxDeficit+maxDeficit) > 63 {
		t.Errorf("maxUnits %d, maxDeficit %d", int64(maxUnits), int64(maxDeficit))
	}
	for _, n := range []int64{maxUnits, maxDeficit, maxDeficit - 1} {
		if int64(float64(n)) != n {
			t.Errorf("%d is not exact in a double", n)
		}
	}
	if d := ticksToDuration(maxDeficit + 1e6); d <= 0 || d.Microseconds() != maxDeficit+1e6 {
		t.Errorf("the longest wait is %v", d)
	}
}

// A take that was refused is admitted after the wait that it was told, and refused a tick earlier.
func FuzzRetryAfter(f *testing.F) {
	f.Add(int64(10), int64(10), int64(1e9), int64(1_000_000), int64(1))
	f.Add(int64(5000), int64(1), int64(86400e6), int64(0), int64(5000))
	f.Add(int64(7), int64(7), int64(3e9), int64(20_999_996), int64(3))
	f.Add(int64(1), int64(1), int64(10*365*86400e9), int64(1), int64(1))
	f.Add(int64(1e9), int64(1e9), int64(1e9), int64(maxDeficit), int64(1e9))
	f.Fuzz(func(t *testing.T, capacity, tokens, nanoseconds, deficit, n int64) {
		if capacity < 1 || tokens < 1 || nanoseconds < 1 || deficit < 0 || deficit > maxDeficit || n < 0 {
			t.Skip()
		}
		s, most := newScale(capacity, tokens, nanoseconds)
		if capacity > most || n > capacity {
			t.Skip()
		}
		c := change{n: n}
		if _, allowed := c.of(&s, deficit); allowed {
			if wait := c.retry(&s, deficit); wait != 0 {
				t.Fatalf("allowed, after %d ticks", wait)
			}
			return
		}
		wait := c.retry(&s, deficit)
		if _, allowed := c.of(&s, s.refill(deficit, wait)); !allowed {
			t.Errorf("refused after the %d ticks that it was told", wait)
		}
		if _, allowed := c.of(&s, s.refill(deficit, wait-1)); allowed {
			t.Errorf("told %d ticks, and admitted after one less", wait)
		}
	})
}

// What no unit test would find: a rate whose sum over a year is off by one.
func TestRatesAreExactOverYears(t *testing.T) {
	r := newNumbers(t)
	for range 200 {
		s := r.scale()
		s.capacity = max(2, min(s.capacity, 1000))
		if s.capacity > maxUnits/s.token || s.perTick > s.token {
			continue // where more than a token comes back in a tick, the bucket is full in between
		}
		one := change{n: 1}
		deficit, now := s.size(), int64(0)
		total := int64(r.IntN(300) + 1)
		for range total {
			wait := one.retry(&s, deficit)
			now += wait
			deficit = s.refill(deficit, wait)
			var allowed bool
			if deficit, allowed = one.of(&s, deficit); !allowed {
				t.Fatalf("%+v: refused after its wait", s)
			}
		}
		same(t, "the time of so many tokens", now, ceilDiv(mul(total, s.token), bigInt(s.perTick)), s, total)
	}
}
