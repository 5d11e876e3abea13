package bucket

// Change is what is to be done to a key's buckets: a take of N tokens, a give-back of N tokens, or a debt of N tokens,
// which are taken without being asked for.
type Change struct {
	N       int64 // never negative
	Back    *Back // only of a give-back
	Debt    bool
	MaxWait int64 // ticks that a take may wait for tokens: it may leave a debt that refills within them
	Ban     *Ban  // nil: a refusal has no consequences
}

// Units returns a take or a debt in units: the largest deficit that admits it, -1 for none, and what it adds to a
// deficit.
func (c *Change) Units(s *Scale) (ceiling, cost int64) {
	switch {
	case c.Debt:
		return MaxDeficit, s.Units(c.N)
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

// Of returns the deficit of limit i's bucket after the change at the tick now, and whether it is allowed; if not, the
// deficit is as before. A give-back never leaves more than a full bucket.
func (c *Change) Of(i int, s *Scale, deficit, now int64) (int64, bool) {
	if c.Back != nil {
		return Charged(deficit, -c.Back.worth(i, s, c.N, deficit, now)), true
	}
	ceiling, cost := c.Units(s)
	if deficit > ceiling {
		return deficit, false
	}
	return Charged(deficit, cost), true
}

// Charged adds a cost to a deficit.
func Charged(deficit, cost int64) int64 { return min(max(0, deficit+cost), MaxDeficit) }

// Retry is the number of ticks, rounded up, until a take is allowed. Only for N up to the capacity.
func (c *Change) Retry(s *Scale, deficit int64) int64 {
	ceiling, _ := c.Units(s)
	return s.UntilFull(max(0, deficit-ceiling))
}
