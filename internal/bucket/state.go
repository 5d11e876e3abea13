package bucket

// State is the buckets of one key, and the Go twin of what the Redis script decides: both change alike, to the unit.
// It has no lock and no clock. The zero State is full.
type State struct {
	Last   int64   // tick of the deficits
	Levels []Level // one per limit, by position
	Ban    *Bans   // nil if there never was one
}

// Level is one bucket: what it holds at most, and what is missing.
type Level struct {
	Scale
	Deficit int64
}

// Bans are the two buckets of a Ban.
type Bans struct{ Strikes, Memory Level }

// Outcome is what a change did.
type Outcome struct {
	Allowed     bool
	Deficits    []int64 // what is missing afterwards, one per limit
	At          int64   // tick at which the deficits are so
	ClockBehind int64   // ticks that the clock is behind At; until it has caught up, nothing refills
	Banned      int64   // ticks until the key is no longer shut out
}

// Full reports whether every bucket is full, so that the state equals one that does not exist.
func (s *State) Full(now int64) bool {
	full := func(l *Level) bool { return l.Refill(l.Deficit, now-s.Last) == 0 }
	for i := range s.Levels {
		if !full(&s.Levels[i]) {
			return false
		}
	}
	return s.Ban == nil || full(&s.Ban.Strikes) && full(&s.Ban.Memory)
}

// Apply makes a change at the tick now to the buckets of all scales or to none, and reports whether anything has
// changed.
func (s *State) Apply(now int64, c *Change, scales []Scale) (o Outcome, changed bool) {
	next := s.taken(now, scales, c.Ban)
	o = Outcome{Allowed: true, Deficits: make([]int64, len(scales)), At: now}
	if c.Ban != nil {
		o.Banned = c.Ban.Left(next.Ban.Strikes.Deficit)
		o.Allowed = o.Banned == 0
	}
	for i := range scales {
		o.Deficits[i] = next.Levels[i].Deficit - next.Levels[i].surplus(&scales[i])
		_, ok := c.Of(i, &scales[i], o.Deficits[i], now)
		o.Allowed = o.Allowed && ok
	}
	switch {
	case o.Allowed:
		for i := range scales {
			deficit, _ := c.Of(i, &scales[i], o.Deficits[i], now)
			changed = changed || deficit != o.Deficits[i]
			o.Deficits[i] = deficit
			next.Levels[i].Deficit = min(deficit+next.Levels[i].surplus(&scales[i]), MaxDeficit)
		}
	case o.Banned == 0 && c.N > 0 && c.Ban != nil: // A take of nothing is no strike.
		ban := next.Ban
		ban.Strikes.Deficit, ban.Memory.Deficit = c.Ban.Strike(ban.Strikes.Deficit, ban.Memory.Deficit)
		o.Banned = c.Ban.Left(ban.Strikes.Deficit)
		changed = true
	}
	if changed {
		*s = next
	}
	return o, changed
}

// At returns the state at the tick now: by the limits that are asked for, or, without any, by the state's own. A bucket
// of the limits that are asked for is no larger than their capacity.
func (s *State) At(now int64, scales []Scale) State {
	next := s.taken(now, scales, nil)
	if len(scales) > 0 {
		next.Levels = next.Levels[:len(scales)]
	}
	for i := range scales {
		l := &next.Levels[i]
		*l = Level{scales[i], l.Deficit - l.surplus(&scales[i])}
	}
	return next
}

// taken returns the state at the tick now, taken over by the limits and the ban that are asked for. Other buckets only
// refill.
func (s *State) taken(now int64, scales []Scale, ban *Ban) State {
	elapsed := now - s.Last
	next := State{Last: now, Levels: make([]Level, max(len(scales), len(s.Levels)))}
	for i := range next.Levels {
		switch {
		case i < len(scales) && i < len(s.Levels):
			next.Levels[i] = s.Levels[i].takenOver(&scales[i], elapsed)
		case i < len(scales):
			next.Levels[i].Scale = scales[i]
		default:
			next.Levels[i] = s.Levels[i].after(elapsed)
		}
	}
	switch {
	case ban == nil && s.Ban != nil:
		next.Ban = &Bans{s.Ban.Strikes.after(elapsed), s.Ban.Memory.after(elapsed)}
	case ban != nil && s.Ban != nil:
		next.Ban = &Bans{s.Ban.Strikes.rescaled(&ban.Strikes, elapsed), s.Ban.Memory.rescaled(&ban.Memory, elapsed)}
	case ban != nil:
		next.Ban = &Bans{Level{Scale: ban.Strikes}, Level{Scale: ban.Memory}}
	}
	return next
}

// after is the bucket so many ticks later.
func (l Level) after(ticks int64) Level {
	l.Deficit = l.Refill(l.Deficit, ticks)
	return l
}

// takenOver is the bucket so many ticks later, taken over by a limit.
func (l Level) takenOver(s *Scale, ticks int64) Level {
	deficit, kept := s.TakeOver(l.Deficit, l.Scale, ticks)
	return Level{kept, deficit}
}

// rescaled is takenOver for the buckets of a ban. If the ban's options have changed, a debt that they would not count is
// forgiven: the debt of a ban is time, and at another rate it would be another time.
func (l Level) rescaled(s *Scale, ticks int64) Level {
	if l.Scale == *s {
		return l.after(ticks)
	}
	t := l.takenOver(s, ticks)
	return Level{*s, min(t.Deficit-t.surplus(s), s.Size())}
}

// surplus is how many units larger the bucket is than the limit that took it over.
func (l *Level) surplus(s *Scale) int64 { return l.Size() - s.Size() }
