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

func TestCarry(t *testing.T) {
	r := newNumbers(t)
	for range bucketRounds {
		from, to, deficit := r.scale(), r.scale(), r.upTo(maxDeficit)
		switch r.IntN(4) {
		case 0: // in debt or not, by the same token
			to.token = from.token
			to.capacity = r.from1To(maxUnits / to.token)
		case 1:
			to.token, to.capacity = from.token, from.capacity
		}
		want := bigInt(deficit)
		if from.token != to.token {
			whole, part := new(big.Int).DivMod(want, bigInt(from.token), new(big.Int))
			want = add(new(big.Int).Mul(whole, bigInt(to.token)), ceilDiv(new(big.Int).Mul(part, bigInt(to.token)), bigInt(from.token)))
		}
		if from.token != to.token || from.capacity != to.capacity {
			want = least(want, mul(to.capacity, to.token))
		}
		same(t, "carry", to.carry(deficit, from), want, from, to, deficit)

		ticks := r.upTo(maxDeficit)
		if r.IntN(2) == 0 {
			ticks = max(0, from.untilFull(deficit)+r.Int64N(3)-1) // around the moment of fullness by the old limit
		}
		want = most(zero, sub(want, mul(ticks, to.perTick)))
		if mul(ticks, from.perTick).Cmp(bigInt(deficit)) >= 0 {
			want = zero
		}
		same(t, "takeOver", to.takeOver(deficit, from, ticks), want, from, to, deficit, ticks)
	}
}

// To and fro between two limits mints nothing: what is missing, in tokens, is never less than before.
func TestCarryMintsNothing(t *testing.T) {
	r := newNumbers(t)
	for range bucketRounds / 10 {
		a, b := r.scale(), r.scale()
		b.capacity = min(a.capacity, maxUnits/b.token)
		a.capacity = b.capacity
		deficit := r.upTo(a.size())
		before := deficit
		for range 4 {
			deficit = a.carry(b.carry(deficit, a), b)
			if deficit < before || deficit > a.size() {
				t.Fatalf("of %d units missing from %+v there were %d after going over to %+v and back", before, a, deficit, b)
			}
		}
	}
}

func TestMulDivUp(t *testing.T) {
	r := newNumbers(t)
	for range bucketRounds {
		c := r.from1To(maxUnits)
		a, b := r.Int64N(c), r.from1To(maxUnits) // as carry has it: a part of c
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
