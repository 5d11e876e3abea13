package lease

import (
	"math"

	"github.com/gin-ratelimit/ratelimit/internal/bucket"
)

// tape is what is on lease of one limit of a key, and what is known of its shared bucket.
type tape struct {
	segments [2]segment // the first count, oldest first
	count    int
	rest     int64 // units that were left when that was last asked for
	enough   int64 // units below which the lease is renewed
	stale    int64 // when it is renewed anyway, before the bucket has refilled over it
	void     int64 // units that have come to nothing

	lastAt, lastPos int64 // the latest piece that was taken: where it ends, after PerTick times lastAt

	// The shared bucket lacked deficit when that was heard, at seen on the clock of the book.
	deficit, seen int64
}

// segment is one grant: units from start to end, of which those from pos on are there to be spent. They count from
// PerTick times at, the shared bucket's tick of the grant.
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
	elapsed += elapsed >> 10 // Clocks differ, in what they call a second, by much less than 1/1024.
	return s.RefillIn(elapsed/1000 + 1)
}

// expire makes void what the shared bucket has refilled over, and returns how many units that were.
func (g *segment) expire(s *bucket.Scale, now int64) int64 {
	if now-g.sent >= int64(oldest) {
		return g.advance(g.end)
	}
	return g.advance(g.refilled(s, now))
}

// advance makes void what is unspent up to a position, and returns how many units that were.
func (g *segment) advance(to int64) int64 {
	void := min(to, g.end) - g.pos
	if void <= 0 {
		return 0
	}
	g.pos += void
	return void
}

// notFresh stands for no segment in place of the time at which one was sent.
const notFresh = -1

// left returns how many units there are to be spent. Those of the segment that was sent at fresh do not expire.
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

// spend takes units, of which there are enough left, the oldest first, and tells which.
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

// add adds a grant, in the place of the one that has the least to spend if there is no other.
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

// goesStale notes when the newest grant is to be renewed, so that the next is there in time.
func (t *tape) goesStale(s *bucket.Scale, ahead int64) {
	t.stale = math.MaxInt64
	if t.count > 0 {
		g := &t.segments[t.count-1]
		lasts := min(g.end/s.PerTick, int64(oldest)/1000) * 1000
		t.stale = g.sent + lasts - lasts>>10 - ahead
	}
}

// drop drops all there is.
func (t *tape) drop() {
	for _, g := range t.segments[:t.count] {
		t.void += g.end - g.pos
	}
	t.count, t.rest = 0, 0
}

// within is how many ticks two grants may be apart for one to be told in the places of the other.
const within = 2 * int64(oldest) / 1000

// of returns the segment that n tokens are of which ended at a place after PerTick times at, and that place in it; nil
// if it is not there any more.
func (t *tape) of(s *bucket.Scale, now, at, place, n int64) (*segment, int64) {
	for i := range t.segments[:t.count] {
		g := &t.segments[i]
		if apart := at - g.at; apart >= -within && apart <= within && now-g.sent < int64(oldest) {
			if p := place + s.RefillIn(apart); g.start <= p-n*s.Token && p <= g.pos {
				return g, p
			}
		}
	}
	return nil, 0
}
