package bucket

// Back is what a give-back has to know about its take.
//
// A token that has been taken is void as soon as the bucket has refilled over it. Read the bucket as a tape: a take
// occupies the piece that ends at perTick·At + deficit, and time passes over the tape at perTick a tick. What time has
// passed over has come back by itself, and would come back twice if it were given back. So a give-back is worth no
// more than what is left of the take's deficit. What was used of a take counts as its oldest part.
//
// Two bounds were tried and rejected. n - perTick·elapsed is exact too, but a request that has taken little from a
// full queue gets nothing back. Counting give-backs needs state that outlives a full bucket.
type Back struct {
	At       int64   // tick of the take
	Deficits []int64 // what was missing right after it, one per limit
	Leave    bool    // the give-back gives up a place in the queue before its turn
	Queued   bool    // the take could wait, so that others may be waiting behind it
	Shared   bool    // the take was from a bucket that keys share
}

// LateTolerance is how many ticks a clock may be behind a state or a take and still count as the same clock.
const LateTolerance = 1_000_000

// worth is how many units a give-back of n tokens is worth in limit i's bucket, which lacks deficit at the tick now.
func (b *Back) worth(i int, s *Scale, n, deficit, now int64) int64 {
	if b.At-now > LateTolerance {
		return 0 // The clock was set back, so what has refilled since is unknown.
	}
	left := s.Refill(b.Deficits[i], now-b.At)
	units := min(s.Units(n), left)
	switch {
	case b.Leave:
		// Reservations behind this place do not move up, as with CancelAt of x/time/rate. So a newcomer in this place
		// would get its turn together with one of them.
		units -= max(0, deficit-left)
	case b.Queued && deficit > s.Size():
		return 0 // The take had its turn, and others wait: a newcomer would share a place with the last of them.
	}
	return max(0, units)
}

// Left updates the deficits of a take after this change, for the next give-back of the same take: a give-back uses up the
// newest part of the take, and a debt is a new part of it.
func (c *Change) Left(scales []Scale, deficits []int64) {
	for i := range scales {
		units := scales[i].Units(c.N)
		if c.Back != nil {
			units = -units
		}
		deficits[i] = Charged(deficits[i], units)
	}
}
