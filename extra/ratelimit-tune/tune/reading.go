package tune

import "iter"

// Reading is how stamps are understood that are coarser than the time between requests. A log cannot tell which is
// right.
type Reading int

const (
	// AtOnce takes stamps as they are: what a client asked for within one step came at once.
	AtOnce Reading = iota
	// Spread takes what a client asked for within one step to have come evenly over it.
	Spread
)

// read returns the requests by a reading. Those of one client are in the order of their time. Of different clients they
// are, too, but for the step of the stamps.
func (t *Trace) read(reading Reading) iter.Seq[Request] {
	if reading == Spread {
		return t.spread
	}
	return func(yield func(Request) bool) {
		for i := range t.Requests {
			if !yield(t.Requests[i]) {
				return
			}
		}
	}
}

func (t *Trace) spread(yield func(Request) bool) {
	step := t.Resolution.Microseconds()
	type group struct{ tick, count, next int64 }
	groups := make([]group, len(t.Clients))
	latest := make([]int64, len(t.Clients))
	for rest := t.Requests; len(rest) > 0; {
		end := 1
		for end < len(rest) && rest[end].Tick == rest[0].Tick {
			end++
		}
		for _, r := range rest[:end] {
			if g := &groups[r.Client]; g.count == 0 || g.tick != r.Tick {
				*g = group{tick: r.Tick}
			}
			groups[r.Client].count++
		}
		for _, r := range rest[:end] {
			g := &groups[r.Client]
			// Of two files, one may have stamps within the step of the other.
			r.Tick = max(latest[r.Client], r.Tick+g.next*step/g.count)
			latest[r.Client] = r.Tick
			g.next++
			if !yield(r) {
				return
			}
		}
		rest = rest[end:]
	}
}
