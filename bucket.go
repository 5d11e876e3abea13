package ratelimit

import (
	"math"
	"math/bits"
)

// The token bucket, in integers.
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

const (
	// maxUnits bounds a bucket's size, so that sums of two sizes stay exact in a double.
	maxUnits = 1 << 52
	// maxDeficit bounds a debt: what is more is forgiven.
	maxDeficit = 1<<53 - 1
)

// scale is a Limit in units. Limits that refill alike and differ in capacity share token and perTick.
type scale struct {
	capacity int64 // tokens
	token    int64 // units in a token: P
	perTick  int64 // units that come back each tick: N
}

// newScale returns a capacity and a rate, tokens per so many nanoseconds, in units, and the largest capacity that
// can be counted at that rate: 0 for none, because it is too slow, and -1 because it is too fast. The scale is only
// good if its capacity is no larger. All arguments are positive.
func newScale(capacity, tokens, nanoseconds int64) (s scale, most int64) {
	// N tokens in D nanoseconds are 1000·N in D microseconds. The thousand is reduced first, to stay in 64 bits.
	thousand, token, perTick := int64(1000), nanoseconds, tokens
	d := gcd(thousand, token)
	thousand, token = thousand/d, token/d
	d = gcd(perTick, token)
	perTick, token = perTick/d, token/d
	if perTick > maxUnits/thousand {
		return scale{}, -1
	}
	return scale{capacity: capacity, token: token, perTick: perTick * thousand}, maxUnits / token
}

func gcd(a, b int64) int64 {
	for b != 0 {
		a, b = b, a%b
	}
	return a
}

// size is the deficit of an empty bucket.
func (s *scale) size() int64 { return s.capacity * s.token }

// refill returns what is left of a deficit after so many ticks. Negative time mints nothing.
func (s *scale) refill(deficit, ticks int64) int64 {
	switch {
	case ticks <= 0:
		return deficit
	case ticks >= s.untilFull(deficit):
		return 0
	default:
		return deficit - s.refillIn(ticks)
	}
}

// untilFull is the number of ticks, rounded up, in which a deficit refills.
func (s *scale) untilFull(deficit int64) int64 {
	if s.perTick == 1 {
		return deficit // Most rates, and a division is a tenth of a take.
	}
	return (deficit + s.perTick - 1) / s.perTick
}

// refillIn is what comes back in so many ticks.
func (s *scale) refillIn(ticks int64) int64 { return ticks * s.perTick }

// untilSolvent is the number of ticks, rounded up, until a bucket is out of debt: 0 if it is not in one.
func (s *scale) untilSolvent(deficit int64) int64 {
	return s.untilFull(max(0, deficit-s.size()))
}

// remaining is the number of whole tokens in the bucket.
func (s *scale) remaining(deficit int64) int64 {
	left := s.size() - deficit
	if left < s.token {
		return 0 // Refusals, mostly: they need no division.
	}
	return left / s.token
}

// change is what is to be done to a bucket: a take of n tokens, or an adjustment, which gives n back.
type change struct {
	n      int64
	adjust bool
	ahead  int64      // ticks that a take may wait for tokens: it may leave a debt that they refill
	ban    *banScales // nil: refusals have no consequences
}

// units is the change in units: the largest deficit that admits it, -1 for none, and what it adds to that.
func (c *change) units(s *scale) (room, cost int64) {
	switch {
	case c.adjust:
		return maxDeficit, s.units(-max(c.n, -math.MaxInt64))
	case c.n > s.capacity:
		return -1, maxDeficit
	}
	cost = c.n * s.token
	room = s.size() - cost
	if c.ahead > 0 {
		room += s.refillIn(min(c.ahead, (maxDeficit-s.size())/s.perTick))
	}
	return room, cost
}

// of returns the deficit after the change, and whether it is allowed; if not, the deficit is as before. An
// adjustment never leaves more than a full bucket, but it may leave a debt.
func (c *change) of(s *scale, deficit int64) (int64, bool) {
	room, cost := c.units(s)
	if deficit > room {
		return deficit, false
	}
	return charged(deficit, cost), true
}

// charged adds a cost to a deficit.
func charged(deficit, cost int64) int64 { return min(max(0, deficit+cost), maxDeficit) }

// retry is the number of ticks, rounded up, until the change is allowed. Only for n up to the capacity.
func (c *change) retry(s *scale, deficit int64) int64 {
	room, _ := c.units(s)
	return s.untilFull(max(0, deficit-room))
}

// units is n tokens in units, saturated.
func (s *scale) units(n int64) int64 {
	if most := maxDeficit / s.token; n > most {
		return maxDeficit
	} else if n < -most {
		return -maxDeficit
	}
	return n * s.token
}

// takeOver returns what becomes, so many ticks later, of a deficit that was counted by another limit, and the scale
// to go on counting it by. It refills at s's rate from where it was last counted. But if it is full by the old
// limit it is full: it may have been evicted as such, and eviction must not change a decision.
//
// A larger capacity than before is there at once. A smaller one keeps of the tokens in the bucket what it can hold,
// but goes on counting by the larger until the bucket is full by that: versions of a program with different limits,
// side by side on one key, then admit together what the largest capacity and rate would. If the smaller one
// counted by its own capacity, the larger would find tokens again that it has already given out.
func (s *scale) takeOver(deficit int64, from scale, ticks int64) (int64, scale) {
	if from.refill(deficit, ticks) == 0 {
		return 0, *s
	}
	deficit = convert(deficit, from.token, s.token)
	kept := *s
	switch {
	case from.capacity <= s.capacity:
	case from.capacity <= maxUnits/s.token:
		kept.capacity = from.capacity
	default: // Too large to be counted at this rate: forgotten, with what a bucket of s cannot lack.
		deficit = min(deficit, s.size())
	}
	return max(s.refill(deficit, ticks), kept.size()-s.size()), kept
}

// convert puts a deficit into units of another size. Parts of a token are rounded up, so that going to and fro
// mints nothing.
func convert(deficit, from, to int64) int64 {
	if from == to {
		return deficit
	}
	whole, part := deficit/from, deficit%from
	if whole > maxDeficit/to {
		return maxDeficit
	}
	return min(whole*to+mulDivUp(part, to, from), maxDeficit)
}

// mulDivUp is ⌈a·b/c⌉, exact through 128 bits. The quotient must fit an int64.
func mulDivUp(a, b, c int64) int64 {
	hi, lo := bits.Mul64(uint64(a), uint64(b))
	q, r := bits.Div64(hi, lo, uint64(c))
	if r > 0 {
		q++
	}
	return int64(q)
}
