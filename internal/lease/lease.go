// Package lease withdraws tokens from a shared bucket in blocks, and spends them in this process. It knows buckets and
// their units, and nothing of Redis, limits or requests: a function withdraws the blocks.
//
// # Why no token is spent too many
//
// To withdraw before spending is not enough. The shared bucket refills what was withdrawn as if it had been spent, so a
// process that keeps a block over a pause adds it to a bucket that is full again. What makes a lease exact is this rule:
// a token on lease is void as soon as the shared bucket has refilled over it.
//
// Read the shared bucket as a tape. Time passes over it at PerTick units a tick, and the bucket's deficit is how far
// ahead of time the tape has been given out:
//
//	            r·t                         r·t + D              r·t + C
//	─────────────┼───────────────────────────────┼──────────────────┼────▶ units
//	 refilled    │  given out, not yet refilled  │  in the bucket   │
//	             │            ┌─────┬────────────┤
//	             │            │spent│  on lease  │  a segment: start ≤ pos ≤ end
//	             │            └─────┴────────────┤
//
// A grant is the piece that ends at r·t + D, with D the deficit after it. Pieces are disjoint, because r·t + D only
// rises. A unit at x is granted only where x ≤ r·t + C, and spent only while x ≥ r·t. So each unit that is spent between
// s and s + W has a place of its own between r·s and r·(s+W) + C, where there are C + r·W places. It does not matter how
// many processes there are, whether they crash, and whether replies are lost.
//
// This process measures the time since a grant from before its call, so that it is never less than what has passed at the
// bucket. It adds 1/1024, because clock rates differ.
//
// Unspent tokens are not returned: they come back by themselves as time passes over them, and returning them would hand
// out the same places twice.
package lease

import (
	"context"
	"fmt"
	"hash/maphash"
	"slices"
	"sync"
	"time"

	"github.com/gin-ratelimit/ratelimit/internal/bucket"
)

// Config configures a Book. T is a limit, as takes name it.
type Config[T comparable] struct {
	Period time.Duration // how long a block lasts at the rate at which this process spends
	Budget time.Duration // how long a take waits
	Scales func(limits []T) ([]bucket.Scale, error)
	// Lend withdraws tokens from the shared buckets of a key.
	Lend func(key string, limits []T, asks []bucket.Ask) (o bucket.Outcome, grants []int64, err error)
}

// Book keeps the leases of the keys that are hot in this process: those with at least [hot] takes a second. It is safe
// for concurrent use.
type Book[T comparable] struct {
	config Config[T]
	base   time.Time
	seed   maphash.Seed
	sets   [sets]set[T]
	audit  auditor // nil but in tests
}

const (
	sets = 256
	ways = 4
	// hot is how many takes a second a key needs to be leased. With fewer, a block would be a token or two, and void
	// before it is spent.
	hot = 200
	// maxAge is how old a segment may get, so that a Reset or a changed limit in another process takes effect by then.
	maxAge = time.Second
	// Shortest is how many periods a bucket must take to refill in order to be leased. Of a smaller bucket, a few
	// processes would hold so much that others starve.
	Shortest = 32
	// dryPause is how long, on average, an empty bucket is not asked again, unless calls take longer.
	dryPause = 10 * time.Millisecond
	// maxPartOfBucket bounds what one process may hold: one part in so many of the bucket.
	maxPartOfBucket = 16
)

// New returns a book without leases. It takes about 0.4 MB.
func New[T comparable](config Config[T]) *Book[T] {
	return &Book[T]{config: config, base: time.Now(), seed: maphash.MakeSeed()}
}

// Period is how long a block should last.
func (b *Book[T]) Period() time.Duration { return b.config.Period }

// Answer is what came of a take.
type Answer struct {
	Allowed bool
	Asked   bool  // the shared bucket has decided, and not the lease
	Void    int64 // how many ticks a refusal lasts at least
	At      int64 // tick of the shared bucket from which places count
	Scales  []bucket.Scale
}

// Spend takes n tokens from the lease of a key with one limit, if that needs no lock. Otherwise it returns no scale, and
// the caller has to call Take. The numbers are those of Take's Answer, places and deficits.
func (b *Book[T]) Spend(key string, limits []T, n int64) (s *bucket.Scale, at, place, deficit int64) {
	hash := maphash.String(b.seed, key) | 1
	if e := b.sets[hash>>1%sets].find(hash); e != nil {
		if o := e.open.Load(); o != nil && o.key == key && slices.Equal(o.limits, limits) {
			if place, deficit, ok := o.spend(int64(time.Since(b.base)), n); ok {
				return &o.scales[0], o.at, place, deficit
			}
		}
	}
	return nil, 0, 0, 0
}

// Take takes n tokens of every limit from the lease of a key, and is not ok if the key has none, because it is not hot or
// its limits are too small. It writes to deficits what each limit's shared bucket lacks, less what is on lease here, and, if
// it is allowed, to places the ends of the pieces that were taken, in units after PerTick times At.
//
// The error is that of the call that the take has waited for.
func (b *Book[T]) Take(key string, limits []T, n int64, deficits, places []int64) (a Answer, ok bool, err error) {
	hash := maphash.String(b.seed, key) | 1 // 0 is no key's.
	set := &b.sets[hash>>1%sets]
	now := int64(time.Since(b.base))
	e := set.find(hash)
	if e == nil {
		set.notice(hash, now)
		return a, false, nil
	}
	now = e.lock(now)
	switch {
	case !e.countTake(b, hash, key, limits, n, now):
		e.unlock()
		return a, false, nil
	case e.spend(now, n, notFresh):
		a = Answer{Allowed: true, At: e.places(places)}
		if !e.calling && now >= e.dry.until && e.isShort(now) {
			b.renew(e)
		}
	case e.isDry(now, n):
		a.Void = e.dryTicks(now)
	default:
		w := &waiter{n: n, done: make(chan struct{}), deficits: make([]int64, len(limits)), places: make([]int64, len(limits))}
		e.waiting = append(e.waiting, w)
		if !e.calling {
			b.renew(e)
		}
		e.unlock()
		if err := b.wait(e, w); err != nil {
			return a, true, err
		}
		copy(deficits, w.deficits)
		copy(places, w.places)
		return w.answer, true, w.err
	}
	a.Scales = e.scales
	e.writeDeficits(now, deficits)
	e.unlock()
	return a, true, nil
}

// wait returns when the waiter has its answer, or its time is up.
func (b *Book[T]) wait(e *entry[T], w *waiter) error {
	timer := time.NewTimer(b.config.Budget)
	defer timer.Stop()
	select {
	case <-w.done:
		return nil
	case <-timer.C:
	}
	e.lock(0)
	defer e.unlock()
	select {
	case <-w.done:
		return nil
	default:
	}
	w.gaveUp = true
	if i := slices.Index(e.waiting, w); i >= 0 {
		e.waiting = slices.Delete(e.waiting, i, i+1)
	}
	return fmt.Errorf("the lease of the key could not be renewed within %v: %w", b.config.Budget, context.DeadlineExceeded)
}

// GiveBack gives n tokens of a take back to the lease that they came from. It reports whether the lease still has the
// segments of all of them. at and places are those of the take's answer. As in package bucket, what time has passed over is
// void.
func (b *Book[T]) GiveBack(key string, limits []T, n, at int64, places, deficits []int64) bool {
	e, now := b.lock(key)
	if e == nil {
		return false
	}
	defer e.unlock()
	if !e.is(key, limits) || len(places) != len(e.tapes) {
		return false
	}
	for i := range e.tapes {
		if g, _ := e.tapes[i].of(&e.scales[i], now, at, places[i], n); g == nil {
			return false
		}
	}
	for i := range e.tapes {
		s, t := &e.scales[i], &e.tapes[i]
		g, place := t.of(s, now, at, places[i], n)
		t.void += g.expire(s, now)
		worth := max(0, min(n*s.Token, place-g.refilled(s, now)))
		g.pos -= worth
		if i == 0 {
			e.stats.GivenBack += worth / s.Token
		}
		t.left(s, now, notFresh)
	}
	e.writeDeficits(now, deficits)
	return true
}

// Charge takes up to n tokens from the lease of a key, without being asked for them, and returns how many it had. It
// writes to deficits as Take does.
func (b *Book[T]) Charge(key string, limits []T, n int64, deficits []int64) (taken int64) {
	e, now := b.lock(key)
	if e == nil {
		return 0
	}
	defer e.unlock()
	if !e.is(key, limits) {
		return 0
	}
	taken = n
	for i := range e.tapes {
		taken = min(taken, e.tapes[i].left(&e.scales[i], now, notFresh)/e.scales[i].Token)
	}
	if taken > 0 {
		e.spend(now, taken, notFresh)
	}
	e.writeDeficits(now, deficits)
	return taken
}

// Held writes to held what is on lease here unspent, in units of each scale. Limits by which the key is not leased hold
// nothing.
func (b *Book[T]) Held(key string, scales []bucket.Scale, held []int64) {
	clear(held)
	e, now := b.lock(key)
	if e == nil {
		return
	}
	defer e.unlock()
	if e.key != key || !slices.Equal(e.scales, scales) {
		return
	}
	for i := range e.tapes {
		held[i] = e.tapes[i].left(&e.scales[i], now, notFresh)
	}
}

// Forget drops the lease of a key, because its shared bucket is being reset, and will grant the same tokens again. It also
// drops the surplus of a call under way, once the takes that wait for the call are served. Call it before the reset and
// after.
func (b *Book[T]) Forget(key string) {
	if e, _ := b.lock(key); e != nil {
		defer e.unlock()
		if e.key == key {
			e.resets++
			e.drop()
		}
	}
}

// Doubt drops a refusal that is remembered for a key, or on its way, because the shared bucket has got tokens back.
func (b *Book[T]) Doubt(key string) {
	if e, _ := b.lock(key); e != nil {
		defer e.unlock()
		e.changes++
		e.dry.until = 0
	}
}

// lock returns the entry of a key, locked, and the time, or nil.
func (b *Book[T]) lock(key string) (*entry[T], int64) {
	hash := maphash.String(b.seed, key) | 1
	e := b.sets[hash>>1%sets].find(hash)
	if e == nil {
		return nil, 0
	}
	return e, e.lock(int64(time.Since(b.base)))
}

// renew withdraws tokens for an entry on a goroutine that ends with the call, with e.mu held. Without a goroutine, the
// take that finds the lease short would wait a round trip for the sake of later takes.
func (b *Book[T]) renew(e *entry[T]) {
	e.calling = true
	go func() {
		now := e.lock(int64(time.Since(b.base)))
		defer e.unlock()
		for again := true; again; again = len(e.waiting) > 0 {
			c := e.ask(b.config.Period, now)
			if !c.asks() {
				e.waiting = e.serve(c.sent, c.waiters, notFresh)
				continue // Meanwhile enough tokens were given back.
			}
			key, limits := e.key, e.limits
			e.unlock()
			o, grants, err := b.config.Lend(key, limits, c.wants)
			now = e.lock(int64(time.Since(b.base)))
			e.settle(b.config.Period, now, &c, &o, grants, err)
		}
		e.calling = false
	}()
}

// set is the entries among which a key may have its own.
type set[T comparable] struct {
	mu      sync.Mutex // held while an entry is given to another key
	entries [ways]entry[T]
	past    Stats // of keys that have lost their entries
}

func (s *set[T]) find(hash uint64) *entry[T] {
	for i := range s.entries {
		if e := &s.entries[i]; e.hash.Load() == hash {
			return e
		}
	}
	return nil
}

// notice counts a take of a key that has no entry, and gives it the entry of a key that has had no takes for long. If
// there is none, it subtracts a take from the least busy key (Misra and Gries, "Finding repeated elements", 1982), so that
// a flood of keys cannot keep a hot one out. Leased keys keep their entries.
func (s *set[T]) notice(hash uint64, now int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var least *entry[T] // locked
	for i := range s.entries {
		e := &s.entries[i]
		if e.hash.Load() == hash {
			break // Another take has just added the key.
		}
		if e.isLeased(time.Duration(now)) {
			continue
		}
		e.lock(now)
		if e.calling || e.isHot() || least != nil && least.takes[0]+least.takes[1] <= e.takes[0]+e.takes[1] {
			e.unlock()
			continue
		}
		if least != nil {
			least.unlock()
		}
		least = e
	}
	if least == nil {
		return
	}
	defer least.unlock()
	switch {
	case least.takes[1] > 0:
		least.takes[1]--
	case least.takes[0] > 0:
		least.takes[0]--
	default:
		least.drop()
		s.past.add(least.total())
		least.clear()
		least.takes[0] = 1
		least.hash.Store(hash)
	}
}

// Stats is what a book has done so far, in tokens of each key's first limit.
type Stats struct {
	Calls     int64 // to the shared buckets
	Leased    int64 // withdrawn
	Spent     int64 // by takes
	GivenBack int64 // by takes, to the lease
	Void      int64 // came back to the bucket unspent, because time has passed over them or a Reset has dropped them
}

// Stats returns what the book has done.
func (b *Book[T]) Stats() Stats {
	var sum Stats
	for i := range b.sets {
		s := &b.sets[i]
		s.mu.Lock()
		sum.add(s.past)
		for j := range s.entries {
			e := &s.entries[j]
			e.lock(int64(time.Since(b.base)))
			sum.add(e.total())
			e.unlock()
		}
		s.mu.Unlock()
	}
	return sum
}

func (s *Stats) add(t Stats) {
	s.Calls += t.Calls
	s.Leased += t.Leased
	s.Spent += t.Spent
	s.GivenBack += t.GivenBack
	s.Void += t.Void
}
