package console

import (
	"cmp"
	"hash/maphash"
	"slices"
	"sync"
	"time"

	"github.com/gin-ratelimit/ratelimit"
)

const (
	topPlaces  = 32 // per minute
	topMinutes = 60
	longestKey = 64
	topShown   = 10
)

// top finds the keys that were refused most, per minute, by Space-Saving (Metwally and others, 2005): a key without a
// place takes over the smallest count, which is then its error. The memory is fixed, whatever the keys.
type top struct {
	base    time.Time
	seed    maphash.Seed
	mu      sync.Mutex
	minutes [topMinutes]sketch
	shadow  clients // of decisions that did not count, since base
}

type sketch struct {
	minute int64 // plus 1, since base; 0: never used
	used   int
	tags   [256]uint8        // how many hashes begin with this byte: mostly it tells at once that a key has no place
	hashes [topPlaces]uint64 // apart from the places, to be scanned fast
	counts [topPlaces]uint64
	places [topPlaces]place
	least  uint64 // no count is smaller
	next   int    // counts before it are larger than least, so that evictions do not scan them again
}

// place holds a copy of the key, because a key of a request may be a part of something large. Of a long key it holds
// the digest alone.
type place struct {
	err   uint64
	n     uint8
	long  bool
	bytes [longestKey]byte
}

func (t *top) add(key ratelimit.Key, second int64, isShadow bool) {
	raw := key.Reveal()
	hash := maphash.String(t.seed, raw)
	t.mu.Lock()
	defer t.mu.Unlock()
	if isShadow {
		t.shadow.add(hash)
	}
	minute := second/60 + 1
	s := &t.minutes[minute%topMinutes]
	if s.minute != minute {
		s.minute, s.used, s.tags, s.least, s.next = minute, 0, [256]uint8{}, 1, 0
	}
	tag := byte(hash >> 56)
	if s.tags[tag] > 0 {
		if i := slices.Index(s.hashes[:s.used], hash); i >= 0 {
			s.counts[i]++
			return
		}
	}
	i := s.used
	var count uint64
	if s.used < topPlaces {
		s.used++
	} else {
		i, count = s.evict()
	}
	s.tags[tag]++
	s.hashes[i], s.counts[i] = hash, count+1
	s.places[i].set(key, raw)
	s.places[i].err = count
}

// evict frees the place with the smallest count.
func (s *sketch) evict() (at int, count uint64) {
	for s.counts[s.next] > s.least {
		if s.next++; s.next == topPlaces {
			s.least, s.next = slices.Min(s.counts[:]), 0
		}
	}
	s.tags[byte(s.hashes[s.next]>>56)]--
	return s.next, s.least
}

func (p *place) set(key ratelimit.Key, raw string) {
	if p.long = len(raw) > longestKey; p.long {
		raw = key.String()
	}
	p.n = uint8(copy(p.bytes[:], raw))
}

// TopKey is a key with bounds: it was refused at least Low and at most High times.
type TopKey struct {
	Key  string `json:"key"`           // the digest
	Raw  string `json:"raw,omitempty"` // only for viewers who may see it
	Low  uint64 `json:"at_least"`
	High uint64 `json:"at_most"`
}

// shadowClients returns how many keys had shadow refusals, and the standard error of that as a part of it.
func (t *top) shadowClients() (n uint64, relativeError float64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.shadow.count()
}

// last returns the keys that were refused most in the last minutes, the current one included. A key without a place
// in a minute was refused there at most as often as the smallest that has one.
func (t *top) last(minutes int64, raw bool) []TopKey {
	type sum struct {
		place
		low, high uint64
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	now := int64(time.Since(t.base)/time.Minute) + 1
	sums := map[uint64]*sum{}
	var floor uint64
	for i := range t.minutes {
		s := &t.minutes[i]
		if s.minute == 0 || s.minute <= now-minutes {
			continue
		}
		var least uint64
		if s.used == topPlaces {
			least = slices.Min(s.counts[:])
		}
		floor += least
		for j := range s.used {
			k := sums[s.hashes[j]]
			if k == nil {
				k = &sum{place: s.places[j]}
				sums[s.hashes[j]] = k
			}
			k.low += s.counts[j] - s.places[j].err
			k.high += s.counts[j] - least // The floor of all minutes is added below.
		}
	}
	keys := make([]TopKey, 0, len(sums))
	for _, s := range sums {
		text := string(s.bytes[:s.n])
		k := TopKey{Key: text, Low: s.low, High: s.high + floor}
		if !s.long {
			k.Key = ratelimit.KeyOf(text).String()
			if raw {
				k.Raw = text
			}
		}
		keys = append(keys, k)
	}
	slices.SortFunc(keys, func(a, b TopKey) int {
		return cmp.Or(cmp.Compare(b.Low, a.Low), cmp.Compare(b.High, a.High), cmp.Compare(a.Key, b.Key))
	})
	return keys[:min(len(keys), topShown)]
}
