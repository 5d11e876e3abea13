// Package bucket is the arithmetic of token buckets, in integers: no clock, no lock, no I/O.
//
// Time is counted in ticks of one microsecond. A rate of N tokens per P ticks is reduced by the common
// divisor, and then a token is made of P units, of which N come back each tick. The state of a bucket is
// its deficit, the units missing from full, and the tick at which that was so. Nothing is ever rounded,
// so nothing drifts: Go's int64 and the doubles of Redis' Lua, which are exact below 2^53, agree on every
// decision and on every stored state.
//
// Floats were not taken: at one token per 86.4 s a float level loses microseconds, at 10^9 per second
// tokens. The instant of fullness ("GCRA") says the same as a deficit and its tick, but cannot be carried
// over to another rate.
package bucket

import "math/bits"

const (
	// MaxUnits bounds a bucket's size, so that sums of two sizes stay exact in a double.
	MaxUnits = 1 << 52
	// MaxDeficit bounds a debt; more than that is forgiven.
	MaxDeficit = 1<<53 - 1
)

// Scale is a Limit in units. Limits that refill alike and differ in capacity share Token and PerTick.
type Scale struct {
	Capacity int64 // tokens
	Token    int64 // units in a token: P
	PerTick  int64 // units that come back each tick: N
}

// NewScale returns a capacity, and a rate of tokens per so many nanoseconds, in units. It also returns the largest
// capacity that can be counted at that rate: 0 if the rate is too slow for any, -1 if it is too fast. The scale may only
// be used if its capacity is no larger. All arguments are positive.
func NewScale(capacity, tokens, nanoseconds int64) (s Scale, maxCapacity int64) {
	// N tokens in D nanoseconds are 1000·N in D microseconds. The thousand is reduced first, to stay in 64 bits.
	thousand, token, perTick := int64(1000), nanoseconds, tokens
	d := GCD(thousand, token)
	thousand, token = thousand/d, token/d
	d = GCD(perTick, token)
	perTick, token = perTick/d, token/d
	if perTick > MaxUnits/thousand {
		return Scale{}, -1
	}
	return Scale{Capacity: capacity, Token: token, PerTick: perTick * thousand}, MaxUnits / token
}

// GCD is the greatest common divisor of two positive numbers.
func GCD(a, b int64) int64 {
	for b != 0 {
		a, b = b, a%b
	}
	return a
}

// Size is the deficit of an empty bucket.
func (s *Scale) Size() int64 { return s.Capacity * s.Token }

// Refill returns what is left of a deficit after the given ticks. Negative time mints nothing.
func (s *Scale) Refill(deficit, ticks int64) int64 {
	switch {
	case ticks <= 0:
		return deficit
	case ticks >= s.UntilFull(deficit):
		return 0
	default:
		return deficit - s.RefillIn(ticks)
	}
}

// UntilFull is the number of ticks, rounded up, in which a deficit refills.
func (s *Scale) UntilFull(deficit int64) int64 {
	if s.PerTick == 1 {
		return deficit // True of most rates, and a division is a tenth of a take.
	}
	return (deficit + s.PerTick - 1) / s.PerTick
}

// RefillIn is what comes back in the given ticks.
func (s *Scale) RefillIn(ticks int64) int64 { return ticks * s.PerTick }

// UntilSolvent is the number of ticks, rounded up, until a bucket is out of debt: 0 if it is not in one.
func (s *Scale) UntilSolvent(deficit int64) int64 {
	return s.UntilFull(max(0, deficit-s.Size()))
}

// Remaining is the number of whole tokens in the bucket.
func (s *Scale) Remaining(deficit int64) int64 {
	left := s.Size() - deficit
	if left < s.Token {
		return 0 // Mostly after a refusal, which so needs no division.
	}
	return left / s.Token
}

// Units is n tokens in units, saturated.
func (s *Scale) Units(n int64) int64 {
	if maxTokens := MaxDeficit / s.Token; n > maxTokens {
		return MaxDeficit
	} else if n < -maxTokens {
		return -MaxDeficit
	}
	return n * s.Token
}

// TakeOver returns what a deficit that was counted by another limit has become the given ticks later, and the scale to
// go on counting it by. It refills at s's rate from where it was last counted. But a bucket that is full by the old
// limit is full: it may have been evicted, and eviction must not change a decision.
//
// A larger capacity than before is there at once. A smaller one keeps as many of the bucket's tokens as it can hold,
// but goes on counting by the larger capacity until the bucket is full by that. Then versions of a program with different
// limits, side by side on one key, together admit what the largest capacity and rate would. If the smaller limit counted
// by its own capacity, the larger one would find tokens again that it has already given out.
func (s *Scale) TakeOver(deficit int64, from Scale, ticks int64) (int64, Scale) {
	if from.Refill(deficit, ticks) == 0 {
		return 0, *s
	}
	deficit = convert(deficit, from.Token, s.Token)
	kept := *s
	switch {
	case from.Capacity <= s.Capacity:
	case from.Capacity <= MaxUnits/s.Token:
		kept.Capacity = from.Capacity
	default: // Too large to be counted at this rate. So it is forgotten, with any deficit beyond s's own size.
		deficit = min(deficit, s.Size())
	}
	return max(s.Refill(deficit, ticks), kept.Size()-s.Size()), kept
}

// convert puts a deficit into units of another size. Parts of a token are rounded up, so that going to and fro
// mints nothing.
func convert(deficit, from, to int64) int64 {
	if from == to {
		return deficit
	}
	whole, part := deficit/from, deficit%from
	if whole > MaxDeficit/to {
		return MaxDeficit
	}
	return min(whole*to+MulDivUp(part, to, from), MaxDeficit)
}

// MulDivUp is ⌈a·b/c⌉, exact through 128 bits. The quotient must fit an int64.
func MulDivUp(a, b, c int64) int64 {
	hi, lo := bits.Mul64(uint64(a), uint64(b))
	q, r := bits.Div64(hi, lo, uint64(c))
	if r > 0 {
		q++
	}
	return int64(q)
}
