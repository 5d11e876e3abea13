package ratelimit

import "strings"

// wideBucket is what no slot can hold: buckets under several limits, which one lock makes atomic, and those
// whose limit has changed. It is guarded by the shard's lock. A key that is here stays until it is full.
type wideBucket struct {
	last   int64 // tick of the deficits
	levels []level
}

// level is one limit's bucket.
type level struct {
	scale   scale
	deficit int64
}

// widen makes a wide bucket of what was in a slot.
func widen(m *MemoryStore, s lastState) *wideBucket {
	l := m.limits.at(s.limit)
	return &wideBucket{s.tick, []level{{l.scale, max(0, s.full-s.tick*l.scale.perTick)}}}
}

func (shard *memoryShard) addWide(key string, b *wideBucket) {
	if shard.wide == nil {
		shard.wide = map[string]*wideBucket{}
	}
	shard.wide[strings.Clone(key)] = b // key may be a piece of something larger, or reused.
}

func (b *wideBucket) isFull(now int64) bool {
	for _, l := range b.levels {
		if l.scale.refill(l.deficit, now-b.last) > 0 {
			return false
		}
	}
	return true
}

// apply changes all the limits' buckets or none, and reports whether it did.
func (b *wideBucket) apply(source Source, now int64, c change, limits []Limit, scales []scale) (Result, bool) {
	var room [4]int64
	before, after, allowed, changed := room[:0], make([]int64, 0, 4), true, false
	for i, s := range scales {
		deficit := int64(0)
		if i < len(b.levels) {
			deficit = s.refill(s.carry(b.levels[i].deficit, b.levels[i].scale), now-b.last)
		}
		next, ok := c.of(s, deficit)
		before, after = append(before, deficit), append(after, next)
		allowed = allowed && ok
		changed = changed || next != deficit
	}
	if !allowed {
		after, changed = before, false
	}
	if changed {
		for i := range b.levels {
			b.levels[i].deficit = b.levels[i].scale.refill(b.levels[i].deficit, now-b.last)
		}
		for i, s := range scales {
			if i == len(b.levels) {
				b.levels = append(b.levels, level{})
			}
			b.levels[i] = level{s, after[i]}
		}
		b.last = now
	}
	if c.adjust {
		return lookOf(source, limits, scales, after, 0), changed
	}
	return resultOf(source, allowed, c.n, limits, scales, after, 0), changed
}
