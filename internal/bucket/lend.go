package bucket

// Ask is what a lease asks of one limit's bucket. Need and Want of 0 leave the bucket alone.
type Ask struct {
	Need  int64 // tokens: if there are fewer, nothing is granted of any limit
	Want  int64 // tokens: as many as there are, up to this
	Floor int64 // units: the grant is raised until the bucket lacks so many, because a fuller bucket's tokens are soon void
}

// Grant returns how many whole tokens a bucket that lacks deficit grants, and whether it has those that are needed.
func (a *Ask) Grant(s *Scale, deficit int64) (tokens int64, ok bool) {
	available := s.Remaining(deficit)
	switch {
	case available < a.Need:
		return 0, false
	case a.Need == 0 && a.Want == 0:
		return 0, true
	}
	raised := (max(0, a.Floor-deficit) + s.Token - 1) / s.Token
	return max(a.Need, min(max(a.Want, raised), available)), true
}

// Lend withdraws what is asked for at the tick now, from the buckets of all scales or from none, and returns how many
// tokens each limit has granted. It is the Go twin of the Redis script's "lease".
func (s *State) Lend(now int64, asks []Ask, scales []Scale) (o Outcome, grants []int64) {
	next := s.taken(now, scales, nil)
	o = Outcome{Allowed: true, Deficits: make([]int64, len(scales)), At: now}
	grants = make([]int64, len(scales))
	for i := range scales {
		o.Deficits[i] = next.Levels[i].Deficit - next.Levels[i].surplus(&scales[i])
		granted, ok := asks[i].Grant(&scales[i], o.Deficits[i])
		grants[i], o.Allowed = granted, o.Allowed && ok
	}
	if !o.Allowed {
		clear(grants)
		return o, grants
	}
	changed := false
	for i := range scales {
		o.Deficits[i] += grants[i] * scales[i].Token
		next.Levels[i].Deficit = o.Deficits[i] + next.Levels[i].surplus(&scales[i])
		changed = changed || grants[i] > 0
	}
	if changed {
		*s = next
	}
	return o, grants
}
