package ratelimit

import (
	"context"
	"fmt"
	"hash/maphash"
	"strings"
	"sync"
	"time"
)

// MemoryStore keeps buckets in this process.
type MemoryStore struct {
	base   time.Time
	seed   maphash.Seed
	shards []memoryShard
}

type memoryShard struct {
	mu       sync.Mutex
	entries  map[string]*memoryEntry
	overflow map[string]*memoryEntry
	most     int
}

type memoryEntry struct {
	last   int64 // tick of the deficits
	levels []level
}

type level struct {
	scale   scale
	deficit int64
}

// MemoryOption configures [NewMemoryStore].
type MemoryOption func(*memoryConfig)

type memoryConfig struct{ maxKeys int }

// WithMaxKeys bounds how many keys the store holds.
func WithMaxKeys(keys int) MemoryOption { return func(c *memoryConfig) { c.maxKeys = keys } }

// NewMemoryStore returns an empty store.
func NewMemoryStore(opts ...MemoryOption) *MemoryStore {
	config := memoryConfig{maxKeys: 1 << 20}
	for _, opt := range opts {
		opt(&config)
	}
	if config.maxKeys < 1 {
		panic(fmt.Sprintf("ratelimit: WithMaxKeys(%d): must be at least 1", config.maxKeys))
	}
	shards := 1
	for shards < 64 && config.maxKeys/shards >= 512 {
		shards *= 2
	}
	m := &MemoryStore{base: time.Now(), seed: maphash.MakeSeed(), shards: make([]memoryShard, shards)}
	for i := range m.shards {
		m.shards[i] = memoryShard{entries: map[string]*memoryEntry{}, overflow: map[string]*memoryEntry{}, most: config.maxKeys / shards}
	}
	return m
}

// Take implements [Store].
func (m *MemoryStore) Take(_ context.Context, key string, n int, limits []Limit) (Result, error) {
	if err := checkTake(n); err != nil {
		return Result{}, err
	}
	return m.do(key, int64(n), limits, false)
}

// Adjust implements [Store].
func (m *MemoryStore) Adjust(_ context.Context, key string, n int, limits []Limit) (Result, error) {
	return m.do(key, int64(n), limits, true)
}

// Reset implements [Store].
func (m *MemoryStore) Reset(_ context.Context, key string) error {
	s := m.shard(key)
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.entries, key)
	return nil
}

// Len returns the number of keys held.
func (m *MemoryStore) Len() int {
	n := 0
	for i := range m.shards {
		s := &m.shards[i]
		s.mu.Lock()
		n += len(s.entries)
		s.mu.Unlock()
	}
	return n
}

func (m *MemoryStore) shard(key string) *memoryShard {
	return &m.shards[maphash.String(m.seed, key)&uint64(len(m.shards)-1)]
}

func (m *MemoryStore) do(key string, n int64, limits []Limit, adjust bool) (Result, error) {
	var scaleRoom [4]scale
	scales, err := appendScales(scaleRoom[:0], limits)
	if err != nil {
		return Result{}, err
	}
	var deficitRoom [4]int64
	deficits := deficitRoom[:0]

	s := m.shard(key)
	s.mu.Lock()
	defer s.mu.Unlock()
	now := int64(time.Since(m.base) / time.Microsecond)
	source := SourceMemory
	e := s.entries[key]
	if e == nil && len(s.entries) >= s.most {
		s.evict(now, 16)
		if len(s.entries) >= s.most {
			source = SourceOverflow
			key = fmt.Sprint(limits)
			e = s.overflow[key]
		}
	}
	allowed := true
	for i, scale := range scales {
		var d int64
		if e != nil && i < len(e.levels) {
			d = scale.refill(scale.carry(e.levels[i].deficit, e.levels[i].scale), now-e.last)
		}
		deficits = append(deficits, d)
		allowed = allowed && (adjust || scale.admits(d, n))
	}
	if allowed && n != 0 {
		for i, scale := range scales {
			if adjust {
				deficits[i] = scale.adjust(deficits[i], n)
			} else {
				deficits[i] = scale.adjust(deficits[i], -n)
			}
		}
		if e == nil {
			e = &memoryEntry{}
			if source == SourceOverflow {
				s.overflow[key] = e
			} else {
				s.evict(now, 2)
				s.entries[strings.Clone(key)] = e
			}
		}
		for i := range e.levels {
			e.levels[i].deficit = e.levels[i].scale.refill(e.levels[i].deficit, now-e.last)
		}
		for i, scale := range scales {
			l := level{scale, deficits[i]}
			if i < len(e.levels) {
				e.levels[i] = l
			} else {
				e.levels = append(e.levels, l)
			}
		}
		e.last = now
	}
	if adjust {
		return lookOf(source, limits, scales, deficits, 0), nil
	}
	return resultOf(source, allowed, n, limits, scales, deficits, 0), nil
}

func (s *memoryShard) evict(now int64, most int) {
	for key, e := range s.entries {
		full := true
		for _, l := range e.levels {
			full = full && l.scale.refill(l.deficit, now-e.last) == 0
		}
		if full {
			delete(s.entries, key)
		}
		if most--; most == 0 {
			return
		}
	}
}
