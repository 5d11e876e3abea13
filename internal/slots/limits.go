package slots

import (
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/gin-ratelimit/ratelimit/internal/bucket"
)

// Spec identifies a limit: two limits are the same if their specs are equal.
type Spec struct {
	Capacity, Tokens int
	Per              time.Duration
}

// Limit is a limit that is in Limits.
type Limit struct {
	Spec    Spec
	Scale   bucket.Scale
	id      int
	horizon int64 // the last tick at which a slot of this limit can hold both the tick and an instant
}

// Is reports whether l is the limit of a spec. It compares field by field, because == would call a function for three words.
func (l *Limit) Is(spec *Spec) bool {
	return l.Spec.Capacity == spec.Capacity && l.Spec.Tokens == spec.Tokens && l.Spec.Per == spec.Per
}

// Holds reports whether a slot can hold a bucket of l at the tick now.
func (l *Limit) Holds(now int64) bool { return now <= l.horizon }

// Owns reports whether a slot's limit is l.
func (l *Limit) Owns(s *Slot) bool { return s.LimitID() == l.id }

// Limits numbers the limits that a store has seen, so that a slot can name its limit in a few bits, and so that a limit is
// converted to units once and not on each take. Limits are never forgotten: they come from a program's configuration, not
// from its clients. The zero value is ready for use.
type Limits struct {
	known atomic.Pointer[knownLimits] // replaced under mu, read without
	mu    sync.Mutex
}

type knownLimits struct {
	bySpec map[Spec]*Limit
	byID   []*Limit
}

// maxInstant is so small that an int64 can hold the sum of an instant and a deficit.
const maxInstant = 1 << 62

// At returns the limit of a slot's id.
func (t *Limits) At(id int) *Limit { return t.known.Load().byID[id] }

// Find returns the limit of a spec, nil if it was never added.
func (t *Limits) Find(spec Spec) *Limit {
	if known := t.known.Load(); known != nil {
		return known.bySpec[spec]
	}
	return nil
}

// Add adds a limit, unless it is there already, and returns it. It returns nil if there are too many.
func (t *Limits) Add(spec Spec, scale bucket.Scale) *Limit {
	t.mu.Lock()
	defer t.mu.Unlock()
	next := knownLimits{bySpec: map[Spec]*Limit{}}
	if known := t.known.Load(); known != nil {
		if l := known.bySpec[spec]; l != nil {
			return l
		}
		next = knownLimits{maps.Clone(known.bySpec), slices.Clone(known.byID)}
	}
	if len(next.byID) == 1<<limitBits {
		return nil
	}
	l := &Limit{Spec: spec, Scale: scale, id: len(next.byID), horizon: min(maxTick, maxInstant/scale.PerTick)}
	next.bySpec[spec] = l
	next.byID = append(next.byID, l)
	t.known.Store(&next)
	return l
}
