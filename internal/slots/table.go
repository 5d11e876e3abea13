// Package slots is the lock-free part of a store in memory: a table in which takes find the bucket of a key and change
// it by compare-and-swap.
//
// It is open addressing over slots of half a cache line, without pointers, so that the garbage collector has nothing to
// scan. A Go map of pointers costs three times the memory and two more cache misses a take; sync.Map costs five.
//
// Finding a slot and changing its bucket need no lock. All else needs the caller's lock, one per table.
package slots

import (
	"unsafe"

	"github.com/gin-ratelimit/ratelimit/internal/bucket"
)

// Table is the slots of one shard. All but the slots is guarded by the caller's lock.
type Table struct {
	slots  []Slot // a power of two
	used   int    // slots that are not free
	live   int    // slots that are not dead
	cursor int    // where Evict continues
}

// minSlots is the size of the smallest table, 1 KiB. Over all shards that is four times the slots that 1,000 keys need: two
// keys in one cache line make two cores wait for each other, and memory is cheap as long as keys are few.
const minSlots = 32

// NewTable returns the smallest table.
func NewTable() *Table { return newTable(minSlots) }

func newTable(slots int) *Table {
	t := &Table{slots: make([]Slot, slots)}
	// A page of fresh memory that is read before it is written causes two page faults, and on the second the kernel
	// interrupts all other cores. Inserts read first, so the pages are written here.
	const slotsPerPage = 4096 / unsafe.Sizeof(Slot{})
	for i := 0; i < slots; i += int(slotsPerPage) {
		t.slots[i].key1.Store(0)
	}
	return t
}

// Find returns the key's slot that is not dead, or nil. It needs no lock. Probing is linear, because the next
// slot is in the same cache line or the one that the processor fetches next.
func (t *Table) Find(key *Key) *Slot {
	mask := uint64(len(t.slots) - 1)
	for i := key.hash & mask; ; i = (i + 1) & mask {
		s := &t.slots[i]
		switch s.key1.Load() {
		case key.key1:
			if s.key0.Load() == key.key0 && s.fullAt.Load() != dead {
				return s
			}
		case 0:
			return nil
		}
	}
}

// Insert adds a key that is not there, whose bucket lacks deficit at the tick now, to a table that is not crowded.
func (t *Table) Insert(key *Key, l *Limit, deficit, now int64) {
	t.insert(key, l.Scale.RefillIn(now)+deficit, metaOf(now, l.id))
}

func (t *Table) insert(key *Key, full int64, meta uint64) {
	mask := uint64(len(t.slots) - 1)
	i := key.hash & mask
	for t.slots[i].key1.Load() != 0 {
		i = (i + 1) & mask
	}
	s := &t.slots[i]
	s.meta.Store(meta)
	s.fullAt.Store(full)
	s.key0.Store(key.key0)
	s.key1.Store(key.key1) // Last: from here on Find sees it.
	t.used++
	t.live++
}

// Kill takes the bucket out of a slot that is not dead, and returns it.
func (t *Table) Kill(s *Slot, limits *Limits) *bucket.State {
	t.live--
	return s.stateAt(limits, s.fullAt.Swap(dead))
}

// Evict kills those of the next slots whose buckets are full again, and returns how many it has killed. A bucket that is
// taken from meanwhile is kept.
func (t *Table) Evict(limits *Limits, now int64, places int) (evicted int) {
	for range min(places, len(t.slots)) {
		s := &t.slots[t.cursor]
		t.cursor = (t.cursor + 1) & (len(t.slots) - 1)
		if s.key1.Load() == 0 {
			continue
		}
		if full := s.fullAt.Load(); full != dead && s.isFull(limits, full, now) && s.fullAt.CompareAndSwap(full, dead) {
			evicted++
		}
	}
	t.live -= evicted
	return evicted
}

// Crowded reports whether the table should be rebuilt before another insert. At 13/16 full, a lookup of a key that is not
// there reads 15 slots on average, and after doubling a key takes 79 bytes.
func (t *Table) Crowded() bool { return t.used >= len(t.slots)*13/16 }

// Rebuilt returns a new table of the slots in use, with room to grow, and how many buckets were evicted because they were
// full again. A take that holds an old slot finds it dead, and goes on under the lock.
func (t *Table) Rebuilt(seeds *Seeds, limits *Limits, now int64) (next *Table, evicted int) {
	evicted = t.Evict(limits, now, len(t.slots))
	// Up to 5/8 full is small enough: it leaves room for a fifth more keys, which pays for the rebuild.
	size := minSlots
	for t.live > size*5/8 {
		size *= 2
	}
	next = newTable(size)
	for i := range t.slots {
		s := &t.slots[i]
		if s.key1.Load() == 0 {
			continue
		}
		if full := s.fullAt.Swap(dead); full != dead {
			key := seeds.hashed(s.key0.Load(), s.key1.Load())
			next.insert(&key, full, s.meta.Load())
		}
	}
	return next, evicted
}
