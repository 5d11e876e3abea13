package ratelimit

import (
	"math"
	"math/big"
	"time"

	"github.com/gin-ratelimit/ratelimit/internal/bucket"
)

// share is a fraction of limits.
type share struct {
	fraction *big.Rat // nil is the whole
	parts    limitsMemo[[]Limit]
}

// set sets the fraction that a float in (0, 1] means. The float 1.0/3 is a little less than a third, and 49 times the
// float 1.0/49 is less than 1. So set looks for the fraction with the smallest denominator whose quotient is this float,
// and takes the float as it is only if there is none with a small denominator.
func (s *share) set(share float64) {
	const denominators = 10_000 // enough for as many replicas, and for four decimals
	if share == 1 {
		return
	}
	for q := int64(1); q <= denominators; q++ {
		if p := math.Round(share * float64(q)); p/float64(q) == share {
			s.fraction = big.NewRat(int64(p), q)
			return
		}
	}
	s.fraction = new(big.Rat).SetFloat64(share)
}

// of returns the share of limits, which is only to be read.
func (s *share) of(limits []Limit) []Limit {
	if s.fraction == nil {
		return limits
	}
	part, _ := s.parts.of(limits, func(limits []Limit) ([]Limit, error) {
		part := make([]Limit, 0, len(limits))
		for _, limit := range limits {
			part = append(part, s.ofOne(limit))
		}
		return part, nil
	})
	return part
}

// ofOne returns the share of one limit. An invalid limit stays as it is, so that the store's error names it.
func (s *share) ofOne(l Limit) Limit {
	if l.Validate() != nil {
		return l
	}
	p, q := s.fraction.Num(), s.fraction.Denom()
	capacity := new(big.Int).Mul(big.NewInt(int64(l.Capacity)), p)
	capacity = bigMax(capacity.Quo(capacity, q), big.NewInt(1))

	// The exact share, by a longer period, as in "10/3s" for a third of "10/s".
	tokens := new(big.Int).Mul(big.NewInt(int64(l.Refill.Tokens)), p)
	per := new(big.Int).Mul(big.NewInt(int64(l.Refill.Per)), q)
	if tokens.IsInt64() && int64(int(tokens.Int64())) == tokens.Int64() && per.IsInt64() {
		exact := Limit{int(capacity.Int64()), Rate{int(tokens.Int64()), time.Duration(per.Int64())}}
		if exact.Validate() == nil {
			return exact
		}
	}

	// If that cannot be counted, a rate just below it that can be for this capacity: tokens in a whole number of
	// microseconds, of both as many as possible, so that the rounding is small. The microseconds are the units of a token,
	// of which a bucket has at most bucket.MaxUnits.
	const maxTokens = min(bucket.MaxUnits/1000, math.MaxInt)
	maxUnits := big.NewInt(bucket.MaxUnits)
	perToken := new(big.Rat).SetFrac(per, tokens.Mul(tokens, big.NewInt(int64(time.Microsecond))))
	units := new(big.Rat).SetInt(new(big.Int).Quo(maxUnits, capacity))
	tokens = bigMin(bigMax(floor(units.Quo(units, perToken)), big.NewInt(1)), big.NewInt(maxTokens))
	ticks := bigMin(ceil(perToken.Mul(perToken, new(big.Rat).SetInt(tokens))), maxUnits)
	capacity = bigMin(capacity, new(big.Int).Quo(maxUnits, ticks))
	return Limit{int(capacity.Int64()), Rate{int(tokens.Int64()), time.Duration(ticks.Int64()) * time.Microsecond}}
}

func floor(r *big.Rat) *big.Int { return new(big.Int).Quo(r.Num(), r.Denom()) }

func ceil(r *big.Rat) *big.Int {
	q, m := new(big.Int).QuoRem(r.Num(), r.Denom(), new(big.Int))
	if m.Sign() > 0 {
		q.Add(q, big.NewInt(1))
	}
	return q
}

func bigMin(a, b *big.Int) *big.Int {
	if a.Cmp(b) <= 0 {
		return a
	}
	return b
}

func bigMax(a, b *big.Int) *big.Int {
	if a.Cmp(b) >= 0 {
		return a
	}
	return b
}
