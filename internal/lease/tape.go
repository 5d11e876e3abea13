package lease

import (
	"math"

	"github.com/gin-ratelimit/ratelimit/internal/bucket"
)

// tape is what is on lease of one limit of a key, and what is known about its shared bucket.
type tape struct {
	segments [2]segment // the first count of them are in use, oldest first
	count    int
	rest     int64 // units that were left when left was last called
	enough   int64 // with fewer units, the lease is renewed
	stale    int64 // when the lease is renewed in any case, before the bucket has refilled over it
	void     int64 // units that became void

	lastAt, lastPos int64 // where the latest piece that was taken ends: lastPos, after PerTick times lastAt

	// The shared bucket lacked deficit by a reply that came at seen, on the clock of the book.
	deficit, seen int64
}

// segment is one grant: units from start to end, of which those from pos on can be spent. Positions count from PerTick
// times at, the shared bucket's tick of the grant.
type segment struct {
	at              int64
	sent            int64 // when the call was sent, in nanoseconds on the clock of the book
	start, pos, end int64
}

// refilled is how far the shared bucket may have refilled over a segment.
func (g *segment) refilled(s *bucket.Scale, now int64) int64 {
	return refilledAfter(s, now-g.sent)
}

// refilledAfter is the most that refills in so many nanoseconds by this process's clock.
func refilledAfter(s *bucket.Scale, elapsed int64) int64 {
	elapsed += elapsed >> 10 // The rates of clocks differ by much less than 1/1024.
	return s.RefillIn(elapsed/1000 + 1)
}

// expire makes void what the shared bucket has refilled over, and returns how many units that is.
func (g *segment) expire(s *bucket.Scale, now int64) int64 {
	if now-g.sent >= int64(maxAge) {
		return g.advance(g.end)
	}
	return g.advance(g.refilled(s, now))
}

// advance makes void what is unspent up to a position, and returns how many units that is.
func (g *segment) advance(to int64) int64 {
	void := min(to, g.end) - g.pos
	if void <= 0 {
		return 0
	}
	g.pos += void
	return void
}

// notFresh is a value of fresh that is no segment's time.
const notFresh = -1

// left returns how many units can be spent. Units of the segment whose call was sent at fresh do not expire.
func (t *tape) left(s *bucket.Scale, now, fresh int64) int64 {
	t.rest = 0
	for i := range t.segments[:t.count] {
		g := &t.segments[i]
		if g.sent != fresh {
			t.void += g.expire(s, now)
		}
		t.rest += g.end - g.pos
	}
	return t.rest
}

// spend takes units, the oldest first, and reports them to audit. There must be enough left.
func (t *tape) spend(units, fresh int64, audit func(at, from, to int64, asked bool)) {
	t.rest -= units
	for i := range t.segments[:t.count] {
		g := &t.segments[i]
		part := min(units, g.end-g.pos)
		if part == 0 {
			continue
		}
		if audit != nil {
			audit(g.at, g.pos, g.pos+part, g.sent == fresh)
		}
		g.pos += part
		units -= part
		t.lastAt, t.lastPos = g.at, g.pos
	}
}

// add adds a grant. If there is no free segment, it replaces the one with the least to spend.
func (t *tape) add(g segment) {
	if t.count == len(t.segments) {
		if first, second := &t.segments[0], &t.segments[1]; second.end-second.pos < first.end-first.pos {
			*second = *first
		}
		t.void += t.segments[0].end - t.segments[0].pos
		t.segments[0] = t.segments[1]
		t.count--
	}
	t.segments[t.count] = g
	t.count++
}

// setStale sets when the newest grant is to be renewed, so that the next one is there in time.
func (t *tape) setStale(s *bucket.Scale, early int64) {
	t.stale = math.MaxInt64
	if t.count > 0 {
		g := &t.segments[t.count-1]
		lasts := min(g.end/s.PerTick, int64(maxAge)/1000) * 1000
		t.stale = g.sent + lasts - lasts>>10 - early
	}
}

// drop makes void all that is on lease.
func (t *tape) drop() {
	for _, g := range t.segments[:t.count] {
		t.void += g.end - g.pos
	}
	t.count, t.rest = 0, 0
}

// maxApart is how many ticks two grants may be apart, so that a position in one can be converted to a position in the
// other.
const maxApart = 2 * int64(maxAge) / 1000

// of returns the segment of n tokens that end at a place, in units after PerTick times at, and that place as a position in
// the segment. It returns nil if there is no such segment any more.
func (t *tape) of(s *bucket.Scale, now, at, place, n int64) (*segment, int64) {
	for i := range t.segments[:t.count] {
		g := &t.segments[i]
		if apart := at - g.at; apart >= -maxApart && apart <= maxApart && now-g.sent < int64(maxAge) {
			if p := place + s.RefillIn(apart); g.start <= p-n*s.Token && p <= g.pos {
				return g, p
			}
		}
	}
	return nil, 0
}
