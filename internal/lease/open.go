package lease

import (
	"math"
	"slices"
	"sync/atomic"
	"time"

	"github.com/gin-ratelimit/ratelimit/internal/bucket"
)

// open is a segment that takes spend from without a lock: the first segment with units left, of a key with one limit. All
// but pos is only to be read. Locking the entry closes the open segment, so that pos no longer moves, and unlocking opens
// one again.
//
// A lock and its counters make a take a third slower on one core, and several times slower where callers meet.
type open[T comparable] struct {
	key     string
	limits  []T
	scales  []bucket.Scale
	maxTake int64 // tokens that a take may ask for
	rest    int64 // units on lease when it was opened, of this segment and the next
	until   int64 // from then on, a take has to lock the entry, because the lease may need renewal
	began   int64 // pos when it was opened
	end     int64 // where the lease needs renewal, at most the segment's end; takes beyond it have to lock the entry
	audit   auditor

	at, sent      int64 // of the segment
	deficit, seen int64 // of the tape

	pos atomic.Int64
}

// closed is a pos from which nothing can be taken.
const closed = math.MaxInt64

// spend takes n tokens, if that needs no lock. It returns where the piece ends, and what the shared bucket lacks, less
// what is on lease here.
func (o *open[T]) spend(now, n int64) (place, deficit int64, ok bool) {
	s := &o.scales[0]
	// If the clock was read before the segment came, the take was already under way then, and counts as one at the
	// moment of the grant.
	elapsed := max(0, now-o.sent)
	if elapsed >= int64(maxAge) || now >= o.until || n <= 0 || n > o.maxTake {
		return 0, 0, false
	}
	refilled, cost := refilledAfter(s, elapsed), n*s.Token
	for {
		pos := o.pos.Load()
		if pos < refilled || pos > o.end-cost {
			return 0, 0, false
		}
		if !o.pos.CompareAndSwap(pos, pos+cost) {
			continue
		}
		pos += cost
		if o.audit != nil {
			o.audit(0, o.at, pos-cost, pos, false)
		}
		return pos, max(0, s.Refill(o.deficit, (now-o.seen)/1000)-(o.rest-(pos-o.began))), true
	}
}

// lock locks an entry, and closes its segment. It returns the time.
func (e *entry[T]) lock(now int64) int64 {
	e.mu.Lock()
	if o := e.open.Swap(nil); o != nil {
		pos := o.pos.Swap(closed)
		t := &e.tapes[0]
		for i := range t.segments[:t.count] {
			if g := &t.segments[i]; g.sent == o.sent && g.at == o.at {
				g.pos = pos
			}
		}
		tokens := (pos - o.began) / e.scales[0].Token
		e.takes[0] += tokens
		e.spent[0] += tokens
		e.stats.Spent += tokens
		if tokens > 0 {
			e.used = e.latest
		}
	}
	return e.advance(now)
}

// unlock opens a segment, if there is one to spend from without a lock, and unlocks the entry.
func (e *entry[T]) unlock() {
	defer e.mu.Unlock()
	if len(e.tapes) != 1 || e.maxTake == 0 || len(e.waiting) > 0 || !e.isHot() {
		return
	}
	t, s := &e.tapes[0], &e.scales[0]
	t.left(s, e.latest, notFresh)
	i := slices.IndexFunc(t.segments[:t.count], func(g segment) bool { return g.pos < g.end })
	if i < 0 {
		return
	}
	g := &t.segments[i]
	// Where the bucket refills faster than takes spend, each take would find void units, and lock the entry. So units that
	// will be void in a moment are made void now.
	t.void += g.advance(refilledAfter(s, e.latest-g.sent+int64(e.period)/8))
	rest := t.left(s, e.latest, notFresh)
	end, until := g.end, int64(math.MaxInt64)
	switch {
	case e.calling:
	case e.latest < e.dry.until:
		until = e.dry.until
	default:
		until = t.stale
		end = min(end, g.end-max(0, t.enough-(rest-(g.end-g.pos))))
	}
	if end-g.pos < s.Token {
		return
	}
	o := &open[T]{
		key: e.key, limits: e.limits, scales: e.scales, maxTake: e.maxTake, audit: e.audit,
		rest: rest, until: until, began: g.pos, end: end,
		at: g.at, sent: g.sent, deficit: t.deficit, seen: t.seen,
	}
	o.pos.Store(g.pos)
	e.open.Store(o)
}

// isLeased reports whether takes may be spending from an entry, which another key must not get.
func (e *entry[T]) isLeased(now time.Duration) bool {
	o := e.open.Load()
	return o != nil && now-time.Duration(o.sent) < maxAge
}
