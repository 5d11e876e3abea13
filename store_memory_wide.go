package ratelimit

import "strings"

// wideBucket is what no slot can hold: buckets under several limits, which one lock makes atomic, and those
// whose limit has changed. It is guarded by the shard's lock. A key that is here stays until it is full.
type wideBucket struct {
	last   int64 // tick of the deficits
	levels []level
	ban    *[2]level // strikes and memory of a Ban; nil if there never was one
}

// level is one limit's bucket.
type level struct {
	scale   scale
	deficit int64
}

// widen makes a wide bucket of what was in a slot.
func widen(m *MemoryStore, s lastState) *wideBucket {
	l := m.limits.at(s.limit)
	return &wideBucket{last: s.tick, levels: []level{{l.scale, max(0, s.full-l.scale.refillIn(s.tick))}}}
}

func (shard *memoryShard) addWide(key string, b *wideBucket) {
	if shard.wide == nil {
		shard.wide = map[string]*wideBucket{}
	}
	shard.wide[strings.Clone(key)] = b // key may be a piece of something larger, or reused.
}

func (b *wideBucket) isFull(now int64) bool {
	full := func(l level) bool { return l.after(now-b.last).deficit == 0 }
	for _, l := range b.levels {
		if !full(l) {
			return false
		}
	}
	return b.ban == nil || full(b.ban[0]) && full(b.ban[1])
}

// after is the bucket so many ticks later.
func (l level) after(ticks int64) level {
	l.deficit = l.scale.refill(l.deficit, ticks)
	return l
}

// under is the bucket so many ticks later, taken over by a limit.
func (l level) under(s scale, ticks int64) level {
	deficit, kept := s.takeOver(l.deficit, l.scale, ticks)
	return level{kept, deficit}
}

// renewed is under, for the buckets of a ban. Other options for it forgive what they would not count, for the debt
// of a ban is time, and at another rate would be another time.
func (l level) renewed(s scale, ticks int64) level {
	if l.scale == s {
		return l.after(ticks)
	}
	u := l.under(s, ticks)
	return level{s, min(u.deficit-u.beyond(s), s.size())}
}

// beyond is by how many units the bucket is larger than it is for a limit that took it over.
func (l level) beyond(s scale) int64 { return l.scale.size() - s.size() }

// apply makes a change to all the limits' buckets or to none, and reports whether anything has changed.
func (b *wideBucket) apply(source Source, now int64, c *change, limits []Limit, scales []scale) (r Result, changed bool) {
	elapsed := now - b.last
	next := wideBucket{last: now, levels: make([]level, max(len(scales), len(b.levels)))}
	for i := range next.levels {
		switch {
		case i < len(scales) && i < len(b.levels):
			next.levels[i] = b.levels[i].under(scales[i], elapsed)
		case i < len(scales):
			next.levels[i].scale = scales[i]
		default:
			next.levels[i] = b.levels[i].after(elapsed)
		}
	}
	if b.ban != nil {
		next.ban = &[2]level{b.ban[0].after(elapsed), b.ban[1].after(elapsed)}
	}
	if c.ban != nil {
		carried := [2]level{{scale: c.ban.strikes}, {scale: c.ban.memory}}
		if b.ban != nil {
			carried = [2]level{b.ban[0].renewed(c.ban.strikes, elapsed), b.ban[1].renewed(c.ban.memory, elapsed)}
		}
		next.ban = &carried
	}

	o := outcome{allowed: true, deficits: make([]int64, len(scales))}
	ban := banState{}
	if c.ban != nil {
		ban = banState{next.ban[0].deficit, next.ban[1].deficit}
		o.banned = c.ban.left(ban)
		o.allowed = o.banned == 0
	}
	for i := range scales {
		o.deficits[i] = next.levels[i].deficit - next.levels[i].beyond(scales[i])
		_, ok := c.of(&scales[i], o.deficits[i])
		o.allowed = o.allowed && ok
	}
	switch {
	case o.allowed:
		for i := range scales {
			o.deficits[i], _ = c.of(&scales[i], o.deficits[i])
			next.levels[i].deficit = min(o.deficits[i]+next.levels[i].beyond(scales[i]), maxDeficit)
		}
		changed = c.n != 0
	case c.ban != nil && o.banned == 0 && c.n > 0: // A look is no offence.
		ban = c.ban.strike(ban)
		o.banned = c.ban.left(ban)
		next.ban[0].deficit, next.ban[1].deficit = ban.strikes, ban.memory
		changed = true
	}
	if changed {
		*b = next
	}
	if c.adjust {
		c, o = o.looked(scales)
	}
	return c.result(source, limits, scales, o), changed
}
