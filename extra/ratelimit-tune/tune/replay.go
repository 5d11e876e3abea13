package tune

// Refused is what limits would have refused.
type Refused struct{ Requests, Clients int }

// Replay decides every request of the trace by the policy, as a store does: all limits have room, or none is charged.
// It calls decided, if not nil, with each decision, in the order of the requests.
func Replay(t *Trace, p Policy, reading Reading, decided func(r Request, allowed bool)) (Refused, error) {
	places, err := newPlaces(t, p)
	if err != nil {
		return Refused{}, err
	}
	hit := make([]bool, len(t.Clients))
	var refused Refused
	for r := range t.read(reading) {
		place, err := places.of(r)
		if err != nil {
			return refused, err
		}
		allowed := place.decide(r.Tick, int64(r.Cost), p.ChargeIf == nil || p.ChargeIf(int(r.Status)))
		if !allowed {
			refused.Requests++
			if !hit[r.Client] {
				hit[r.Client] = true
				refused.Clients++
			}
		}
		if decided != nil {
			decided(r, allowed)
		}
	}
	return refused, nil
}
