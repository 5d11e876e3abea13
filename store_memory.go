package ratelimit

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/gin-ratelimit/ratelimit/internal/bucket"
)

// MemoryStore keeps buckets in this process. It is exact per key, scales with cores, and needs no closing: it
// owns no goroutine and no timer. A bucket that is full again equals one that does not exist, so its place is
// given to others as they come, and nothing is lost by it.
//
// A key costs 50 to 100 bytes, whatever its length, once there are many: up to 5,000 take 256 KiB, which keeps them
// out of each other's cache lines. See [WithMaxKeys] for how many there can be. A process that restarts starts with
// full buckets, and each process counts alone: for several, use [RedisStore].
type MemoryStore struct {
	base   time.Time // tick 0, by the monotonic clock
	seeds  keySeeds
	shards []memoryShard               // a power of two
	tables []atomic.Pointer[slotTable] // of the shards; apart from what is locked, so that all fit the fastest cache
	limits limitTable

	maxKeys  int64
	keys     atomic.Int64  // in all shards; reserved before a key is added, so never above maxKeys
	neighbor atomic.Uint32 // whose turn it is to be searched for room
}

// memoryShard is one part of the keys, padded to its own cache line.
type memoryShard struct {
	mu     sync.Mutex                 // guards all but the slots of table
	table  *atomic.Pointer[slotTable] // keys under one limit; in MemoryStore.tables; replaced under mu, read without
	wide   map[string]*bucket.State   // keys that no slot can hold, nil until there is one
	shared map[string]*bucket.State   // overflow buckets, by the text of their limits
	_      [64 - 32]byte
}

// MemoryOption configures [NewMemoryStore].
type MemoryOption func(*memoryConfig)

type memoryConfig struct{ maxKeys int }

// WithMaxKeys bounds how many keys the store holds. Default: 1<<20, which is about 64 MiB when full.
//
// Keys whose buckets are full again give way to new ones, losing nothing. Once the store holds nothing else
// than buckets in use, new keys share overflow buckets, one per set of limits and shard (there are up to 256),
// and the Result says so by [SourceOverflow]: a flood of keys throttles new keys together, and never resets
// one that is drained.
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
	// Shards bound how long an insert may hold others up, which is while a table grows: 256 make that some
	// 100 µs at a million keys. Small stores need no more than keeps a shard's luck in the hash small.
	const (
		mostShards     = 256
		keysWorthShard = 1024
	)
	shards := 1
	for shards < mostShards && config.maxKeys/(2*shards) >= keysWorthShard {
		shards *= 2
	}
	m := &MemoryStore{
		base:    time.Now(),
		seeds:   newKeySeeds(),
		shards:  make([]memoryShard, shards),
		tables:  make([]atomic.Pointer[slotTable], shards),
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
	id := m.seeds.identify(key)
	shard := &m.shards[m.shardOf(&id)]
	shard.mu.Lock()
	defer shard.mu.Unlock()
	now := m.now()
	if b := shard.wide[key]; b != nil {
		return usageOf(SourceMemory, b.At(now, scales), limits, 0), nil
	}
	var state bucket.State
	if t := shard.table.Load(); t != nil {
		if s := t.find(&id); s != nil {
			full := s.full.Load()
			state = *m.widen(lastState{s.limit(), s.tick(), full}) // The tick is read after full, so it is no older.
		}
	}
	return usageOf(SourceMemory, state.At(now, scales), limits, 0), nil
}

// Reset implements [Store].
func (m *MemoryStore) Reset(_ context.Context, key string) (found bool, err error) {
	id := m.seeds.identify(key)
	shard := &m.shards[m.shardOf(&id)]
	shard.mu.Lock()
	defer shard.mu.Unlock()
	now := m.now()
	if t := shard.table.Load(); t != nil {
		if s := t.find(&id); s != nil {
			found = !m.isFull(s, t.kill(s).full, now)
			m.keys.Add(-1)
		}
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

// describeSlot describes what a change at the tick at did to a slot.
func (r *Result) describeSlot(c *bucket.Change, allowed bool, l *internedLimit, deficit, at int64) {
	r.Source = SourceMemory
	if allowed && c.N > 0 && c.Back == nil {
		r.Receipt.sign(SourceMemory, at, c.MaxWait > 0)
		r.Receipt.words[0] |= uint64(deficit) | 1<<limitsShift
	}
	if c.Back != nil || c.Debt {
		c = &bucket.Change{} // the look afterwards
		_, allowed = c.Of(0, &l.scale, deficit, at)
	}
	r.describe(c, allowed, &l.Limit, &l.scale, deficit, 0)
}

// apply changes key's buckets: without a lock where the key has a slot, as all keys under one limit do after
// their first take, or under the shard's.
func (m *MemoryStore) apply(r *Result, key string, c *bucket.Change, limits []Limit) error {
	id := m.seeds.identify(key)
	if len(limits) == 1 {
		// Before the slot, because reading the clock takes as long as all the rest, and meanwhile others would change
		// what was read. See slot.apply for why an earlier time does no harm.
		now := m.now()
		if t := m.tables[m.shardOf(&id)].Load(); t != nil {
			if s := t.find(&id); s != nil {
				if l := m.limits.at(s.limit()); l.is(&limits[0]) && s.apply(m, r, l, c, now) {
					return nil
				}
			}
		}
	}
	return m.applyLocked(r, &id, key, c, limits)
}

// scalesOf appends limits in units, and returns a single one interned, nil if there are too many.
func (m *MemoryStore) scalesOf(scales []bucket.Scale, limits []Limit) ([]bucket.Scale, *internedLimit, error) {
	if len(limits) == 1 {
		single, err := m.limits.intern(limits[0])
		if err != nil {
			return nil, nil, argumentError(err)
		}
		if single != nil {
			return append(scales, single.scale), single, nil
		}
	}
	scales, err := appendScales(scales, limits)
	return scales, nil, err
}

func (m *MemoryStore) applyLocked(r *Result, id *slotKey, key string, c *bucket.Change, limits []Limit) error {
	var buf [4]bucket.Scale
	scales, single, err := m.scalesOf(buf[:0], limits)
	if err != nil {
		return err
	}
	shard := &m.shards[m.shardOf(id)]
	shard.mu.Lock()
	defer shard.mu.Unlock()
	now := m.now() // Read under the lock, so that time does not go backwards within a bucket.

	var s *slot
	t := shard.table.Load()
	if t != nil {
		s = t.find(id)
	}
	b := shard.wide[key]
	switch {
	case s != nil || b != nil:
	case c.Back != nil:
		// The key's bucket is full. But an overflow bucket took for it, if it is the one that the receipt is of.
		if c.Back.Shared {
			*r = shard.applyShared(now, *c, limits, scales)
		} else {
			*r, _ = applyState(&bucket.State{}, SourceMemory, now, c, limits, scales)
		}
		return nil
	case !m.reserve(shard, now):
		*r = shard.applyShared(now, *c, limits, scales)
		return nil
	}
	if b == nil && single != nil && now <= single.horizon {
		if s == nil {
			if deficit, allowed := c.Of(0, &single.scale, 0, now); allowed || c.Ban == nil {
				shard.insert(m, id, now, deficit, single)
				r.describeSlot(c, allowed, single, deficit, now)
				return nil
			}
		} else if s.limit() == single.id && s.apply(m, r, single, c, now) {
			return nil
		}
	}
	if s != nil {
		// Another limit, or several, or a ban: the bucket moves to where it can have all that.
		b = m.widen(t.kill(s))
		shard.addWide(key, b)
	}
	if b != nil {
		*r, _ = applyState(b, SourceMemory, now, c, limits, scales)
		return nil
	}
	b = &bucket.State{}
	var changed bool
	*r, changed = applyState(b, SourceMemory, now, c, limits, scales)
	if !changed || b.Full(now) {
		m.keys.Add(-1)
		return nil
	}
	shard.evict(m, now, evictPerInsert)
	shard.addWide(key, b)
	return nil
}

// applyState makes a change to a state, and describes it.
func applyState(b *bucket.State, source Source, now int64, c *bucket.Change, limits []Limit, scales []bucket.Scale) (Result, bool) {
	o, changed := b.Apply(now, c, scales)
	return resultOf(c, source, limits, scales, &o), changed
}

// widen makes of what was in a slot a state that can have several limits, another limit or a ban.
func (m *MemoryStore) widen(s lastState) *bucket.State {
	scale := m.limits.at(s.limit).scale
	deficit := max(0, s.full-scale.RefillIn(s.tick))
	return &bucket.State{Last: s.tick, Levels: []bucket.Level{{Scale: scale, Deficit: deficit}}}
}

func (shard *memoryShard) addWide(key string, b *bucket.State) {
	if shard.wide == nil {
		shard.wide = map[string]*bucket.State{}
	}
	shard.wide[strings.Clone(key)] = b // key may be a piece of something larger, or reused.
}

// reserve makes sure that there is room for another key, and takes it. Where the shard has none to give, others
// are asked in turn, if they are not busy.
func (m *MemoryStore) reserve(shard *memoryShard, now int64) bool {
	const othersAsked = 4
	for i := 0; ; i++ {
		if m.keys.Add(1) <= m.maxKeys {
			return true
		}
		m.keys.Add(-1)
		switch {
		case i == 0:
			shard.evict(m, now, evictAtCap)
		case i <= othersAsked:
			other := &m.shards[m.neighbor.Add(1)&uint32(len(m.shards)-1)]
			if other != shard && other.mu.TryLock() { // Never Lock: two shards could wait for each other.
				other.evict(m, now, evictAtCap)
				other.mu.Unlock()
			}
		default:
			return false
		}
	}
}

// insert gives a key that is not there a slot, if there is anything to keep, or else its reserved room back.
func (shard *memoryShard) insert(m *MemoryStore, id *slotKey, now, deficit int64, l *internedLimit) {
	if deficit == 0 {
		m.keys.Add(-1)
		return
	}
	shard.evict(m, now, evictPerInsert)
	t := shard.table.Load()
	if t == nil || t.crowded() {
		t = t.rebuilt(m, now)
		shard.table.Store(t)
	}
	t.insert(id, l.scale.RefillIn(now)+deficit, metaOf(now, l.id))
}

// applyShared changes the overflow bucket of these limits. It is kept even when full: there are few.
func (shard *memoryShard) applyShared(now int64, c bucket.Change, limits []Limit, scales []bucket.Scale) Result {
	text := fmt.Sprint(limits)
	b := shard.shared[text]
	if b == nil {
		if shard.shared == nil {
			shard.shared = map[string]*bucket.State{}
		}
		b = &bucket.State{}
		shard.shared[text] = b
	}
	c.Ban = nil // It would shut out everybody who shares the bucket.
	r, _ := applyState(b, SourceOverflow, now, &c, limits, scales)
	return r
}

const (
	// evictPerInsert is how many places each insert looks at for buckets that are full again: more than one,
	// so that they are found faster than they are made.
	evictPerInsert = 2
	// evictAtCap is how many are looked at in a shard before a key is sent to an overflow bucket.
	evictAtCap = 64
)

// evict drops buckets that are full among the next few places.
func (shard *memoryShard) evict(m *MemoryStore, now int64, places int) {
	if t := shard.table.Load(); t != nil {
		t.evict(m, now, places)
	}
	for key, b := range shard.wide { // From a random place on.
		if b.Full(now) {
			delete(shard.wide, key)
			m.keys.Add(-1)
		}
		if places--; places == 0 {
			return
		}
	}
}

// shardOf is the index of a key's shard.
func (m *MemoryStore) shardOf(id *slotKey) int {
	// The slots are chosen by the low bits.
	return int(id.hash >> 32 & uint64(len(m.shards)-1))
}

// now is the tick. time.Since is half as dear as time.Now, for it reads only the monotonic clock.
func (m *MemoryStore) now() int64 { return int64(time.Since(m.base) / time.Microsecond) }
