package slots

import (
	"sync/atomic"
	"time"

	"github.com/gin-ratelimit/ratelimit/internal/bucket"
)

// Slot is the bucket of one key under one limit.
//
//	word    bits 63 … 12                       bits 11 … 0
//	key0    the key, or its hash: see Key
//	key1    the same; written last; 0 is a free slot
//	fullAt  the instant at which the bucket is full, in units since tick 0; -1 is a dead slot
//	meta    tick of the last take              the limit's id
//
// The bucket is one word, fullAt: tick·perTick + deficit. While the limit stays the same, this means the same as a deficit
// and its tick, and refilling does not change it:
//
//	units   ----|-----------------|-----------------------> time in units
//	            now·perTick       fullAt
//	            [---- deficit ----]        fullAt <= now·perTick: the bucket is full
//
// The tick is needed when the limit changes.
//
// key0, key1 and the id are written under the shard's lock when the slot is made, and never again. Takes change fullAt
// and the tick without a lock, by compare-and-swap; the tick is advanced before fullAt is swapped, so that it is never
// older than fullAt. A dead slot stays dead until the table is rebuilt without it. It is never reused, not even for another
// key, so a take that holds a slot cannot change another key's bucket.
type Slot struct {
	key0, key1 atomic.Uint64
	fullAt     atomic.Int64
	meta       atomic.Uint64
}

const (
	// dead marks a slot whose bucket is elsewhere or gone. A take that still holds the slot fails to swap.
	dead = -1
	// limitBits is how much of meta names the limit. 4,096 limits in slots are more than programs have, and
	// the 52 bits left count microseconds for 71 years.
	limitBits = 12
	maxTick   = 1<<(63-limitBits) - 1
)

func metaOf(tick int64, limit int) uint64 { return uint64(tick)<<limitBits | uint64(limit) }

// tickOf keeps the sign: for a store that was made outside of a synctest bubble, the time inside is long before tick 0.
func tickOf(meta uint64) int64 { return int64(meta) >> limitBits }

// LimitID is the id of the slot's limit.
func (s *Slot) LimitID() int { return int(s.meta.Load() & (1<<limitBits - 1)) }

// Clock counts ticks.
type Clock struct{ base time.Time }

// NewClock returns a clock that is at tick 0.
func NewClock() Clock { return Clock{time.Now()} }

// Now is the tick. time.Since costs half as much as time.Now, because it reads only the monotonic clock.
func (c *Clock) Now() int64 { return int64(time.Since(c.base) / time.Microsecond) }

// Applied is what Apply did: the deficit afterwards, and the tick at which it is so.
type Applied struct {
	Deficit, At int64
	Allowed     bool
}

// Apply changes the bucket at the tick now, which the caller read before it read the slot. It is not ok if the slot cannot
// make the change: the slot is dead, the tick does not fit the word, or a refusal has to be counted.
func (s *Slot) Apply(clock *Clock, l *Limit, c *bucket.Change, now int64) (a Applied, ok bool) {
	ceiling, cost := c.Units(&l.Scale)
	for {
		full := s.fullAt.Load()
		meta := s.meta.Load() // After fullAt, so its tick is no older.
		if last := tickOf(meta); last > now {
			// While this goroutine was held up, a later take has changed the slot. At the earlier time, tokens that have
			// refilled since would still be missing. Between a synctest bubble and the world outside, time may also go
			// back; then last is used as the time.
			now = max(clock.Now(), last)
			continue
		}
		if full == dead || now > l.horizon {
			return Applied{}, false
		}
		start := l.Scale.RefillIn(now)
		before := max(0, full-start)
		if before > ceiling && c.Back == nil {
			return Applied{before, now, false}, c.Ban == nil // A refusal writes nothing.
		}
		deficit := bucket.Charged(before, cost)
		if c.Back != nil { // Its worth depends on the time.
			deficit, _ = c.Of(0, &l.Scale, before, now)
		}
		if deficit != before && !s.swap(full, start+deficit, meta, l, now) {
			continue
		}
		return Applied{deficit, now, true}, true
	}
}

// swap writes a new instant of fullness, unless another take was first.
func (s *Slot) swap(full, next int64, meta uint64, l *Limit, now int64) bool {
	if tickOf(meta) < now && !s.meta.CompareAndSwap(meta, metaOf(now, l.id)) {
		return false
	}
	return s.fullAt.CompareAndSwap(full, next)
}

// State returns the bucket of a slot that is not dead.
func (s *Slot) State(limits *Limits) *bucket.State { return s.stateAt(limits, s.fullAt.Load()) }

// stateAt returns the bucket that is full at the instant full, which was read from the slot. The tick is read afterwards,
// so it is no older.
func (s *Slot) stateAt(limits *Limits, full int64) *bucket.State {
	meta := s.meta.Load()
	tick, scale := tickOf(meta), limits.At(s.LimitID()).Scale
	deficit := max(0, full-scale.RefillIn(tick))
	return &bucket.State{Last: tick, Levels: []bucket.Level{{Scale: scale, Deficit: deficit}}}
}

// isFull reports whether a bucket that is full at the instant full is so at the tick now.
func (s *Slot) isFull(limits *Limits, full, now int64) bool {
	return limits.At(s.LimitID()).Scale.UntilFull(full) <= now
}
