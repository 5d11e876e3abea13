package ratelimit

import (
	"maps"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/gin-ratelimit/ratelimit/internal/bucket"
)

// limitTable gives the limits that a MemoryStore has seen small numbers, so that a slot can name its limit in a
// few bits, and so that a limit is put into units once and not on each take. Limits are never forgotten: they
// come from a program's configuration, not from its clients.
type limitTable struct {
	known atomic.Pointer[knownLimits] // replaced under mu, read without
	mu    sync.Mutex
}

type knownLimits struct {
	ids map[Limit]*internedLimit
	all []*internedLimit
}

type internedLimit struct {
	Limit
	id      int
	scale   bucket.Scale
	horizon int64 // the last tick at which a slot can hold both it and an instant of this limit
}

// is reports whether l is limit; == calls a function for three words.
func (l *internedLimit) is(limit *Limit) bool {
	return l.Capacity == limit.Capacity && l.Refill.Tokens == limit.Refill.Tokens && l.Refill.Per == limit.Refill.Per
}

// maxInstant leaves room in an int64 for a deficit on top.
const maxInstant = 1 << 62

// at returns the limit of an id that intern gave.
func (t *limitTable) at(id int) *internedLimit { return t.known.Load().all[id] }

// intern returns limit with its id, nil if there are too many. A limit that is not valid is an error.
func (t *limitTable) intern(limit Limit) (*internedLimit, error) {
	if known := t.known.Load(); known != nil {
		if l := known.ids[limit]; l != nil {
			return l, nil
		}
	}
	s, err := scaleOf(limit)
	if err != nil {
		return nil, err
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	var next knownLimits
	if known := t.known.Load(); known != nil {
		if l := known.ids[limit]; l != nil {
			return l, nil
		}
		next = knownLimits{maps.Clone(known.ids), slices.Clone(known.all)}
	} else {
		next.ids = map[Limit]*internedLimit{}
	}
	if len(next.all) == 1<<limitBits {
		return nil, nil
	}
	l := &internedLimit{limit, len(next.all), s, min(maxTick, maxInstant/s.PerTick)}
	next.ids[limit] = l
	next.all = append(next.all, l)
	t.known.Store(&next)
	return l, nil
}
