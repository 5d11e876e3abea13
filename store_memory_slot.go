package ratelimit

import (
	"encoding/binary"
	"hash/maphash"
	"math/bits"
	"math/rand/v2"
	"sync/atomic"
	"unsafe"

	"github.com/gin-ratelimit/ratelimit/internal/bucket"
)

// The table that a MemoryStore finds buckets in: open addressing over slots of half a cache line, without
// pointers, so that the garbage collector has nothing to scan. A Go map of pointers costs three times the
// memory and two more cache misses a take; sync.Map costs five.
//
// A slot is written under the shard's lock only when it is made and when it dies. In between, takes change it
// without a lock, by compare-and-swap on one word. A slot never comes back to life, nor for another key, so
// who holds one cannot mistake it: dead slots go when the table is rebuilt.

// slot is the bucket of one key under one limit.
//
// The bucket is one word, the instant at which it will be full. With the limit unchanged that says the same
// as a deficit and its tick, and refilling does not change it. The tick is needed when the limit changes.
type slot struct {
	// key0 and key1 are the key. Written once, key1 last; 0 in key1 is a free slot.
	key0, key1 atomic.Uint64
	// full is that instant in units since the store's base, tick·perTick + deficit, or dead. Takes swap it.
	full atomic.Int64
	// meta is the tick of the last take and the limit's id. The tick is advanced before full is swapped, so
	// that it is never older than full; the id never changes.
	meta atomic.Uint64
}

const (
	// dead marks a slot whose bucket is elsewhere or gone. Whoever still holds the slot fails to swap.
	dead = -1
	// limitBits is how much of meta names the limit. 4,096 limits in slots are more than programs have, and
	// the 52 bits left count microseconds for 71 years.
	limitBits = 12
	maxTick   = 1<<(63-limitBits) - 1
)

func metaOf(tick int64, limit int) uint64 { return uint64(tick)<<limitBits | uint64(limit) }

func (s *slot) limit() int { return int(s.meta.Load() & (1<<limitBits - 1)) }

func (s *slot) tick() int64 { return tickOf(s.meta.Load()) }

// tickOf keeps the sign: in a synctest bubble it is long before the base of a store made outside.
func tickOf(meta uint64) int64 { return int64(meta) >> limitBits }

// apply changes the bucket at the tick now, which was read before the slot was, and writes what came of it to r. It is
// not ok where a slot cannot: it is dead, time is too far for the word, or a refusal has to be counted.
func (s *slot) apply(m *MemoryStore, r *Result, l *internedLimit, c *bucket.Change, now int64) (ok bool) {
	ceiling, cost := c.Units(&l.scale)
	for {
		full := s.full.Load()
		meta := s.meta.Load() // After full, so its tick is no older.
		if last := tickOf(meta); last > now {
			// Another take was later, while this goroutine was held up. Seen from an earlier time, tokens would be
			// missing that have refilled since. Between a synctest bubble and the world outside time may also go
			// back; then it stands still.
			now = max(m.now(), last)
			continue
		}
		if full == dead || now > l.horizon {
			return false
		}
		start := l.scale.RefillIn(now)
		before := max(0, full-start)
		if before > ceiling && c.Back == nil {
			if c.Ban != nil {
				return false
			}
			r.describeSlot(c, false, l, before, now) // A refusal writes nothing.
			return true
		}
		deficit := bucket.Charged(before, cost)
		if c.Back != nil { // Worth less the later it comes.
			deficit, _ = c.Of(0, &l.scale, before, now)
		}
		if deficit != before && !s.swap(full, start+deficit, meta, l, now) {
			continue
		}
		r.describeSlot(c, true, l, deficit, now)
		return true
	}
}

// swap writes a new instant of fullness, unless another take was first.
func (s *slot) swap(full, next int64, meta uint64, l *internedLimit, now int64) bool {
	if tickOf(meta) < now && !s.meta.CompareAndSwap(meta, metaOf(now, l.id)) {
		return false
	}
	return s.full.CompareAndSwap(full, next)
}

// slotKey is a key as slots hold it: up to 15 bytes as they are, longer ones as 120 bits of two hashes with
// random seeds, which nobody outside can aim at.
type slotKey struct {
	key0, key1 uint64
	hash       uint64
}

const (
	inlineKey = 15   // the longest key that a slot holds as it is
	hashedKey = 0xff // the mark of a longer one, where the length would be
)

// keySeeds make a store's hashes its own.
type keySeeds struct {
	words      [3]uint64
	long, more maphash.Seed
}

func newKeySeeds() keySeeds {
	return keySeeds{[3]uint64{rand.Uint64(), rand.Uint64(), rand.Uint64()}, maphash.MakeSeed(), maphash.MakeSeed()}
}

func (k *keySeeds) identify(key string) slotKey {
	if len(key) > inlineKey {
		return k.hashed(maphash.String(k.long, key), maphash.String(k.more, key)>>8|hashedKey<<56)
	}
	key0, key1 := uint64(0), uint64(len(key)+1)<<56 // Plus 1, so that the key "" is not a free slot.
	// Two loads that may overlap: copying to a room of 16 bytes first costs as much as a hash.
	bytes := unsafe.Slice(unsafe.StringData(key), len(key))
	if len(bytes) >= 8 {
		key0 = binary.LittleEndian.Uint64(bytes)
		key1 |= binary.LittleEndian.Uint64(bytes[len(bytes)-8:]) >> (8 * (16 - len(bytes)))
	} else {
		for i, b := range bytes {
			key0 |= uint64(b) << (8 * i)
		}
	}
	return k.hashed(key0, key1)
}

// hashed mixes the words of a key as the runtime does for maps where the processor has no AES (wyhash). maphash
// takes twice as long for so little.
func (k *keySeeds) hashed(key0, key1 uint64) slotKey {
	return slotKey{key0, key1, mix(k.words[2], mix(key0^k.words[0], key1^k.words[1]))}
}

func mix(a, b uint64) uint64 {
	high, low := bits.Mul64(a, b)
	return high ^ low
}

// slotTable is the slots of one shard. All but the slots is guarded by the shard's lock.
type slotTable struct {
	slots  []slot // a power of two
	used   int    // slots that are not free
	live   int    // slots that are not dead
	cursor int    // where evict goes on
}

// minSlots is the smallest table, 1 KiB: four times the slots that 1,000 keys need. Two keys in one cache line are
// two cores that wait for each other, and memory is cheap as long as keys are few.
const minSlots = 32

func newSlotTable(slots int) *slotTable {
	t := &slotTable{slots: make([]slot, slots)}
	// A page of fresh memory that is read before it is written costs two faults, and for the second the kernel
	// interrupts all other cores. Inserts read first, so the pages are written here.
	const slotsPerPage = 4096 / unsafe.Sizeof(slot{})
	for i := 0; i < slots; i += int(slotsPerPage) {
		t.slots[i].key1.Store(0)
	}
	return t
}

// find returns the key's slot that is not dead, or nil. It needs no lock. Probing is linear, because the next
// slot is in the same cache line or the one that the processor fetches next.
func (t *slotTable) find(id *slotKey) *slot {
	mask := uint64(len(t.slots) - 1)
	for i := id.hash & mask; ; i = (i + 1) & mask {
		s := &t.slots[i]
		switch s.key1.Load() {
		case id.key1:
			if s.key0.Load() == id.key0 && s.full.Load() != dead {
				return s
			}
		case 0:
			return nil
		}
	}
}

// insert adds a key that is not there.
func (t *slotTable) insert(id *slotKey, full int64, meta uint64) {
	mask := uint64(len(t.slots) - 1)
	i := id.hash & mask
	for t.slots[i].key1.Load() != 0 {
		i = (i + 1) & mask
	}
	s := &t.slots[i]
	s.meta.Store(meta)
	s.full.Store(full)
	s.key0.Store(id.key0)
	s.key1.Store(id.key1) // Last: from here on find sees it.
	t.used++
	t.live++
}

// lastState is what a slot held when it died.
type lastState struct {
	limit      int
	tick, full int64
}

// kill takes the bucket out of a slot that is not dead.
func (t *slotTable) kill(s *slot) lastState {
	t.live--
	full := s.full.Swap(dead)
	return lastState{s.limit(), s.tick(), full} // The tick is read after the swap, so it is no older than full.
}

// evict kills those of the next places whose buckets are full again. A take that comes in between wins.
func (t *slotTable) evict(m *MemoryStore, now int64, places int) {
	for range min(places, len(t.slots)) {
		s := &t.slots[t.cursor]
		t.cursor = (t.cursor + 1) & (len(t.slots) - 1)
		if s.key1.Load() == 0 {
			continue
		}
		if full := s.full.Load(); full != dead && m.isFull(s, full, now) && s.full.CompareAndSwap(full, dead) {
			t.live--
			m.keys.Add(-1)
		}
	}
}

func (m *MemoryStore) isFull(s *slot, full, now int64) bool {
	return m.limits.at(s.limit()).scale.UntilFull(full) <= now
}

// crowded reports whether the table should be rebuilt before another insert. At 13/16 a lookup of a key that is
// not there sees 15 slots on average, and after doubling a key takes 79 bytes.
func (t *slotTable) crowded() bool { return t.used >= len(t.slots)*13/16 }

// rebuilt returns a table of what is in use, with room to grow. Takes that hold one of the old slots find it
// dead, and wait for the shard's lock to look again.
func (t *slotTable) rebuilt(m *MemoryStore, now int64) *slotTable {
	if t == nil {
		return newSlotTable(minSlots)
	}
	t.evict(m, now, len(t.slots))
	// Up to 5/8 the same size will do: it leaves room for a fifth more, which pays for the rebuild.
	size := minSlots
	for t.live > size*5/8 {
		size *= 2
	}
	next := newSlotTable(size)
	for i := range t.slots {
		s := &t.slots[i]
		if s.key1.Load() == 0 {
			continue
		}
		if full := s.full.Swap(dead); full != dead {
			id := m.seeds.hashed(s.key0.Load(), s.key1.Load())
			next.insert(&id, full, s.meta.Load())
		}
	}
	return next
}
