package ratelimit

import (
	"math"
	"math/big"
	"time"

	"github.com/gin-ratelimit/ratelimit/internal/bucket"
)

// share is a part of limits: a fraction of them.
type share struct {
	fraction *big.Rat // nil is all
	parts    limitsMemo[[]Limit]
}

// set sets the fraction that a float in (0, 1] stands for. The float 1.0/3 is a little less than a third, and 1.0/49
// taken 49 times is less than 1; so it is the fraction with the smallest denominator that divides to this float,
// and where there is none with a small one, the float itself.
func (s *share) set(share float64) {
	const denominators = 10_000 // as many replicas, or four decimals
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

// ofOne returns the share of one limit. One that is not valid stays as it is, so that the store says what is wrong.
func (s *share) ofOne(l Limit) Limit {
	if l.Validate() != nil {
		return l
	}
	p, q := s.fraction.Num(), s.fraction.Denom()
	capacity := new(big.Int).Mul(big.NewInt(int64(l.Capacity)), p)
	capacity = bigMax(capacity.Quo(capacity, q), big.NewInt(1))

	// Exactly, with the period longer, as in "10/3s" for a third of "10/s".
	tokens := new(big.Int).Mul(big.NewInt(int64(l.Refill.Tokens)), p)
	per := new(big.Int).Mul(big.NewInt(int64(l.Refill.Per)), q)
	if tokens.IsInt64() && int64(int(tokens.Int64())) == tokens.Int64() && per.IsInt64() {
		exact := Limit{int(capacity.Int64()), Rate{int(tokens.Int64()), time.Duration(per.Int64())}}
		if exact.Validate() == nil {
			return exact
		}
	}

	// Or the rate next below that can be counted for this capacity: as many tokens in a whole number of microseconds
	// as make the rounding small. Those microseconds are the units of a token, of which a bucket has bucket.MaxUnits.
	const maxTokens = min(bucket.MaxUnits/1000, math.MaxInt)
	most := big.NewInt(bucket.MaxUnits)
	perToken := new(big.Rat).SetFrac(per, tokens.Mul(tokens, big.NewInt(int64(time.Microsecond))))
	units := new(big.Rat).SetInt(new(big.Int).Quo(most, capacity))
	tokens = bigMin(bigMax(floor(units.Quo(units, perToken)), big.NewInt(1)), big.NewInt(maxTokens))
	ticks := bigMin(ceil(perToken.Mul(perToken, new(big.Rat).SetInt(tokens))), most)
	capacity = bigMin(capacity, new(big.Int).Quo(most, ticks))
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
