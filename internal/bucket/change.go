package bucket

import "math"

// Change is what is to be done to a key's buckets: a take of N tokens, or an adjustment, which gives N tokens back.
type Change struct {
	N       int64
	Adjust  bool
	MaxWait int64 // ticks that a take may wait for tokens: it may leave a debt that refills within them
	Ban     *Ban  // nil: a refusal has no consequences
}

// Units returns the change in units: the largest deficit that admits it, -1 for none, and what it adds to a deficit.
func (c *Change) Units(s *Scale) (ceiling, cost int64) {
	switch {
	case c.Adjust:
		return MaxDeficit, s.Units(-max(c.N, -math.MaxInt64))
	case c.N > s.Capacity:
		return -1, MaxDeficit
	}
	cost = c.N * s.Token
	ceiling = s.Size() - cost
	if c.MaxWait > 0 {
		ceiling += s.RefillIn(min(c.MaxWait, (MaxDeficit-s.Size())/s.PerTick))
	}
	return ceiling, cost
}

// Of returns the deficit after the change, and whether it is allowed; if not, the deficit is as before. An
// adjustment never leaves more than a full bucket, but it may leave a debt.
func (c *Change) Of(s *Scale, deficit int64) (int64, bool) {
	ceiling, cost := c.Units(s)
	if deficit > ceiling {
		return deficit, false
	}
	return Charged(deficit, cost), true
}

// Charged adds a cost to a deficit.
func Charged(deficit, cost int64) int64 { return min(max(0, deficit+cost), MaxDeficit) }

// Retry is the number of ticks, rounded up, until the change is allowed. Only for N up to the capacity.
func (c *Change) Retry(s *Scale, deficit int64) int64 {
	ceiling, _ := c.Units(s)
	return s.UntilFull(max(0, deficit-ceiling))
}
