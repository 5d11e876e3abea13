package ratelimit

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"unsafe"

	"github.com/gin-ratelimit/ratelimit/internal/bucket"
	"github.com/gin-ratelimit/ratelimit/internal/slots"
)

// MemoryStore keeps buckets in this process. It is exact per key, scales with cores, and needs no closing: it
// owns no goroutine and no timer. A bucket that is full again equals one that does not exist, so its place can be given
// to another key without losing anything.
//
// A key costs 50 to 100 bytes, whatever its length, once there are many; up to 5,000 keys take 256 KiB, which keeps them
// out of each other's cache lines. See [WithMaxKeys] for how many there can be. A process that restarts has full buckets,
// and each process counts alone: for several, use [RedisStore].
type MemoryStore struct {
	clock  slots.Clock
	seeds  slots.Seeds
	shards []memoryShard                 // a power of two
	tables []atomic.Pointer[slots.Table] // of the shards, but not in them, so that all tables' pointers fit the fastest cache
	limits slots.Limits

	maxKeys  int64
	keys     atomic.Int64  // in all shards; reserved before a key is added, so never above maxKeys
	neighbor atomic.Uint32 // the shard that was last searched for room by another, modulo their number
}

// memoryShard is one part of the keys, padded so that no two of them share a cache line.
type memoryShard struct {
	lockedShard
	_ [cacheLine - unsafe.Sizeof(lockedShard{})%cacheLine]byte
}

const cacheLine = 64

type lockedShard struct {
	mu     sync.Mutex                   // guards all but the slots of table
	table  *atomic.Pointer[slots.Table] // keys under one limit; in MemoryStore.tables; replaced under mu, read without
	wide   map[string]*bucket.State     // keys that no slot can hold, nil until there is one
	shared map[string]*bucket.State     // overflow buckets, by the text of their limits
}

// MemoryOption configures [NewMemoryStore].
type MemoryOption func(*memoryConfig)

type memoryConfig struct{ maxKeys int }

// WithMaxKeys bounds how many keys the store holds. Default: 1<<20, which is about 64 MiB when full.
//
// Keys whose buckets are full again give way to new ones, without losing anything. Once all buckets in the store are in
// use, new keys share overflow buckets, one per set of limits and shard (there are up to 256), and the Result has
// [SourceOverflow]. So a flood of keys throttles new keys together, and never resets a drained one.
func WithMaxKeys(keys int) MemoryOption { return func(c *memoryConfig) { c.maxKeys = keys } }

// NewMemoryStore returns an empty store. It panics if WithMaxKeys is given less than 1.
func NewMemoryStore(opts ...MemoryOption) *MemoryStore {
	config := memoryConfig{maxKeys: 1 << 20}
	for _, opt := range opts {
		opt(&config)
	}
	if config.maxKeys < 1 {
		panic(fmt.Sprintf("ratelimit: WithMaxKeys(%d): must be at least 1", config.maxKeys))
	}
	// Shards bound how long a growing table holds up takes: with 256 shards, some 100 µs at a million keys. Small stores
	// have fewer, because in shards of few keys chance would spread the keys unevenly.
	const (
		maxShards      = 256
		keysWorthShard = 1024
	)
	shards := 1
	for shards < maxShards && config.maxKeys/(2*shards) >= keysWorthShard {
		shards *= 2
	}
	m := &MemoryStore{
		clock:   slots.NewClock(),
		seeds:   slots.NewSeeds(),
		shards:  make([]memoryShard, shards),
		tables:  make([]atomic.Pointer[slots.Table], shards),
		maxKeys: int64(config.maxKeys),
	}
	for i := range m.shards {
		m.shards[i].table = &m.tables[i]
	}
	return m
}

// Take implements [Store].
func (m *MemoryStore) Take(_ context.Context, key string, take Take) (r Result, err error) {
	c := bucket.Change{N: int64(take.N)}
	if !take.plain() {
		if c, err = take.change(); err != nil {
			return r, err
		}
	}
	err = m.apply(&r, key, &c, take.Limits)
	return r, err
}

// Adjust implements [Store].
func (m *MemoryStore) Adjust(_ context.Context, key string, change Adjustment) (r Result, err error) {
	c, err := change.change(SourceMemory)
	if err != nil {
		return r, err
	}
	if err = m.apply(&r, key, &c, change.Limits); err != nil {
		return Result{}, err
	}
	if change.Receipt.took() {
		var buf [4]bucket.Scale
		scales, _, _ := m.scalesOf(buf[:0], change.Limits) // No error: apply had none.
		r.Receipt = change.Receipt.after(&c, scales)
	}
	return r, nil
}

// Look implements [Store].
func (m *MemoryStore) Look(_ context.Context, key string, limits []Limit) (Usage, error) {
	var buf [4]bucket.Scale
	scales := buf[:0]
	if len(limits) > 0 {
		var err error
		if scales, _, err = m.scalesOf(scales, limits); err != nil {
			return Usage{}, err
		}
	}
	id := m.seeds.Key(key)
	shard := &m.shards[id.Shard(len(m.shards))]
	shard.mu.Lock()
	defer shard.mu.Unlock()
	now := m.clock.Now()
	if b := shard.wide[key]; b != nil {
		return usageOf(SourceMemory, b.At(now, scales), limits, 0), nil
	}
	var state bucket.State
	if s := shard.slot(&id); s != nil {
		state = *s.State(&m.limits)
	}
	return usageOf(SourceMemory, state.At(now, scales), limits, 0), nil
}

// Reset implements [Store].
func (m *MemoryStore) Reset(_ context.Context, key string) (found bool, err error) {
	id := m.seeds.Key(key)
	shard := &m.shards[id.Shard(len(m.shards))]
	shard.mu.Lock()
	defer shard.mu.Unlock()
	now := m.clock.Now()
	if s := shard.slot(&id); s != nil {
		found = !shard.table.Load().Kill(s, &m.limits).Full(now)
		m.keys.Add(-1)
	}
	if b, ok := shard.wide[key]; ok {
		found = found || !b.Full(now)
		delete(shard.wide, key)
		m.keys.Add(-1)
	}
	return found, nil
}

// Len returns how many keys the store holds. Some of them may be full again.
func (m *MemoryStore) Len() int { return int(m.keys.Load()) }

// apply changes key's buckets: without a lock if the key has a slot, as all keys under one limit do after their first
// take; else under the shard's lock.
func (m *MemoryStore) apply(r *Result, key string, c *bucket.Change, limits []Limit) error {
	id := m.seeds.Key(key)
	if len(limits) == 1 {
		// The clock is read before the slot, because it takes as long as all the rest, and meanwhile others would change
		// what was read from the slot. Slot.Apply explains why an earlier time does no harm.
		now := m.clock.Now()
		if t := m.tables[id.Shard(len(m.tables))].Load(); t != nil {
			if s := t.Find(&id); s != nil {
				spec := specOf(&limits[0])
				if l := m.limits.At(s.LimitID()); l.Is(&spec) {
					if a, ok := s.Apply(&m.clock, l, c, now); ok {
						r.describeSlot(c, &limits[0], &l.Scale, &a)
						return nil
					}
				}
			}
		}
	}
	return m.applyLocked(r, &id, key, c, limits)
}

func specOf(l *Limit) slots.Spec {
	return slots.Spec{Capacity: l.Capacity, Tokens: l.Refill.Tokens, Per: l.Refill.Per}
}

// describeSlot describes what a change did to a slot.
func (r *Result) describeSlot(c *bucket.Change, limit *Limit, s *bucket.Scale, a *slots.Applied) {
	r.Source = SourceMemory
	if a.Allowed && c.N > 0 && c.Back == nil {
		r.Receipt.sign(SourceMemory, a.At, c.MaxWait > 0)
		r.Receipt.words[0] |= uint64(a.Deficit) | 1<<limitsShift
	}
	allowed := a.Allowed
	if c.Back != nil || c.Debt {
		c = &bucket.Change{} // the look afterwards
		_, allowed = c.Of(0, s, a.Deficit, a.At)
	}
	r.describe(c, allowed, limit, s, a.Deficit, 0)
}

// memoryChange is a change that is made under a shard's lock.
type memoryChange struct {
	*bucket.Change
	id     *slots.Key
	key    string
	limits []Limit
	scales []bucket.Scale // of limits
	single *slots.Limit   // the only one of limits, nil if there are several or it has no place in slots
	now    int64
}

// applyLocked changes the key's buckets under its shard's lock, wherever they are: in a slot, among those that no slot can
// hold, or nowhere, because they are full.
func (m *MemoryStore) applyLocked(r *Result, id *slots.Key, key string, change *bucket.Change, limits []Limit) error {
	var buf [4]bucket.Scale
	scales, single, err := m.scalesOf(buf[:0], limits)
	if err != nil {
		return err
	}
	shard := &m.shards[id.Shard(len(m.shards))]
	shard.mu.Lock()
	defer shard.mu.Unlock()
	now := m.clock.Now() // Read under the lock, so that time does not go backwards within a bucket.
	c := &memoryChange{change, id, key, limits, scales, single, now}
	if s := shard.slot(c.id); s != nil {
		m.applySlot(r, shard, s, c)
	} else if state := shard.wide[c.key]; state != nil {
		*r = c.apply(state, SourceMemory)
	} else if c.Back != nil {
		*r = shard.giveBackFull(c)
	} else if m.reserve(shard, c.now) {
		m.applyNew(r, shard, c)
	} else {
		*r = shard.applyShared(c)
	}
	return nil
}

// applySlot changes the bucket of a key that has a slot. If the change has another limit, several, or a ban, the bucket
// moves out of the slot, which cannot hold them.
func (m *MemoryStore) applySlot(r *Result, shard *memoryShard, s *slots.Slot, c *memoryChange) {
	if c.single != nil && c.single.Owns(s) {
		if a, ok := s.Apply(&m.clock, c.single, c.Change, c.now); ok {
			r.describeSlot(c.Change, &c.limits[0], &c.single.Scale, &a)
			return
		}
	}
	state := shard.table.Load().Kill(s, &m.limits)
	shard.addWide(c.key, state)
	*r = c.apply(state, SourceMemory)
}

// giveBackFull gives back to a key whose bucket is full, or, if the receipt is of an overflow bucket, to that bucket.
func (shard *memoryShard) giveBackFull(c *memoryChange) Result {
	if c.Back.Shared {
		return shard.applyShared(c)
	}
	return c.apply(&bucket.State{}, SourceMemory)
}

// applyNew takes from the full bucket of a key for which there is room, and keeps the bucket unless it is still full.
func (m *MemoryStore) applyNew(r *Result, shard *memoryShard, c *memoryChange) {
	if c.single != nil && c.single.Holds(c.now) {
		if deficit, allowed := c.Of(0, &c.single.Scale, 0, c.now); allowed || c.Ban == nil {
			m.insert(shard, c, deficit)
			r.describeSlot(c.Change, &c.limits[0], &c.single.Scale, &slots.Applied{Deficit: deficit, At: c.now, Allowed: allowed})
			return
		}
	}
	state := &bucket.State{}
	*r = c.apply(state, SourceMemory)
	if state.Full(c.now) {
		m.keys.Add(-1)
		return
	}
	m.evict(shard, c.now, evictPerInsert)
	shard.addWide(c.key, state)
}

// insert gives a new key a slot, or, if its bucket is still full, releases the room that was reserved.
func (m *MemoryStore) insert(shard *memoryShard, c *memoryChange, deficit int64) {
	if deficit == 0 {
		m.keys.Add(-1)
		return
	}
	m.evict(shard, c.now, evictPerInsert)
	t := shard.table.Load()
	switch {
	case t == nil:
		t = slots.NewTable()
		shard.table.Store(t)
	case t.Crowded():
		next, evicted := t.Rebuilt(&m.seeds, &m.limits, c.now)
		m.keys.Add(int64(-evicted))
		t = next
		shard.table.Store(t)
	}
	t.Insert(c.id, c.single, deficit, c.now)
}

// apply makes the change to a state, and describes it.
func (c *memoryChange) apply(state *bucket.State, source Source) Result {
	o, _ := state.Apply(c.now, c.Change, c.scales)
	return resultOf(c.Change, source, c.limits, c.scales, &o)
}

// scalesOf appends limits in units, and returns a single one as slots know it, nil if there are too many.
func (m *MemoryStore) scalesOf(scales []bucket.Scale, limits []Limit) ([]bucket.Scale, *slots.Limit, error) {
	if len(limits) != 1 {
		scales, err := appendScales(scales, limits)
		return scales, nil, err
	}
	spec := specOf(&limits[0])
	if single := m.limits.Find(spec); single != nil {
		return append(scales, single.Scale), single, nil
	}
	scales, err := appendScales(scales, limits)
	if err != nil {
		return nil, nil, err
	}
	return scales, m.limits.Add(spec, scales[0]), nil
}

// slot returns the key's slot, nil if it has none.
func (shard *memoryShard) slot(id *slots.Key) *slots.Slot {
	if t := shard.table.Load(); t != nil {
		return t.Find(id)
	}
	return nil
}

func (shard *memoryShard) addWide(key string, state *bucket.State) {
	if shard.wide == nil {
		shard.wide = map[string]*bucket.State{}
	}
	shard.wide[strings.Clone(key)] = state // The caller's string may share the memory of something larger, or be reused.
}

// reserve reserves room for another key, if there is any. It first evicts keys of the shard; if there are none to evict,
// it tries some other shards that are not locked, in turn.
func (m *MemoryStore) reserve(shard *memoryShard, now int64) bool {
	const othersAsked = 4
	for i := 0; ; i++ {
		if m.keys.Add(1) <= m.maxKeys {
			return true
		}
		m.keys.Add(-1)
		switch {
		case i == 0:
			m.evict(shard, now, evictAtCap)
		case i <= othersAsked:
			other := &m.shards[m.neighbor.Add(1)&uint32(len(m.shards)-1)]
			if other != shard && other.mu.TryLock() { // Never Lock: two shards could wait for each other.
				m.evict(other, now, evictAtCap)
				other.mu.Unlock()
			}
		default:
			return false
		}
	}
}

// applyShared changes the overflow bucket of these limits. Overflow buckets are kept even when full, because there are few.
func (shard *memoryShard) applyShared(c *memoryChange) Result {
	// A clone, because what is printed escapes to the heap: without it, c and all that it points to would, on every take.
	text := fmt.Sprint(slices.Clone(c.limits))
	state := shard.shared[text]
	if state == nil {
		if shard.shared == nil {
			shard.shared = map[string]*bucket.State{}
		}
		state = &bucket.State{}
		shard.shared[text] = state
	}
	unbanned, shared := *c.Change, *c
	unbanned.Ban = nil // A ban would shut out all keys that share the bucket.
	shared.Change = &unbanned
	return shared.apply(state, SourceOverflow)
}

const (
	// evictPerInsert is how many places each insert searches for buckets that are full again: more than one, so that
	// places are searched faster than they are filled.
	evictPerInsert = 2
	// evictAtCap is how many places of a shard are searched before a key is sent to an overflow bucket.
	evictAtCap = 64
)

// evict drops buckets that are full among the next few places.
func (m *MemoryStore) evict(shard *memoryShard, now int64, places int) {
	if t := shard.table.Load(); t != nil {
		m.keys.Add(int64(-t.Evict(&m.limits, now, places)))
	}
	for key, state := range shard.wide { // Begins at a random key.
		if state.Full(now) {
			delete(shard.wide, key)
			m.keys.Add(-1)
		}
		if places--; places == 0 {
			return
		}
	}
}
