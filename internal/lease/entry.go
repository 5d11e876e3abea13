package lease

import (
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/gin-ratelimit/ratelimit/internal/bucket"
)

// entry is what is known of one key: first only how often it is taken from; once that is often, also its lease.
type entry[T comparable] struct {
	hash atomic.Uint64           // of the key; 0 for none
	open atomic.Pointer[open[T]] // nil while the entry is locked, or has nothing to spend without a lock

	mu     sync.Mutex
	latest int64    // the latest time, in nanoseconds on the clock of the book; never goes back
	second int64    // latest, in whole seconds
	takes  [2]int64 // in this second and in the one before
	spent  [2]int64 // tokens in this second and in the one before
	used   int64    // when the lease was last spent from

	key     string // "" while it is not leased
	limits  []T
	scales  []bucket.Scale
	maxTake int64 // tokens that a take may ask for
	period  time.Duration
	tapes   []tape
	one     [1]tape // the memory of tapes if there is one limit

	calling   bool                        // whether a call is under way
	waiting   []*waiter                   // takes that wait for the next call
	roundTrip int64                       // of the latest call, in nanoseconds
	resets    uint64                      // how often the shared bucket was reset
	changes   uint64                      // how often the shared bucket got tokens back
	dry       struct{ until, need int64 } // takes of need tokens or more are refused until then

	stats Stats // all but Void
	audit auditor
}

// auditor is called with each piece of the tape that is spent: the limit; where the piece begins and ends, in units after
// PerTick times at; and whether the shared bucket decided about the take, rather than the lease.
type auditor func(limit int, at, from, to int64, asked bool)

// waiter is a take that waits for a call.
type waiter struct {
	n                int64
	deficits, places []int64
	gaveUp           bool

	done   chan struct{}
	answer Answer // once done
	err    error
}

// advance sets the time of an entry, and returns it.
func (e *entry[T]) advance(now int64) int64 {
	now = max(now, e.latest) // The clock was read before the lock was held, so another caller may be ahead.
	e.latest = now
	if second := now / int64(time.Second); second != e.second {
		before, spentBefore := int64(0), int64(0)
		if second == e.second+1 {
			before, spentBefore = e.takes[0], e.spent[0]
		}
		e.second, e.takes, e.spent = second, [2]int64{0, before}, [2]int64{0, spentBefore}
	}
	return now
}

// is reports whether the entry is the lease of a key by these limits.
func (e *entry[T]) is(key string, limits []T) bool {
	return e.key == key && slices.Equal(e.limits, limits)
}

// countTake counts a take, and reports whether the lease may serve it. A key that has just become hot gets its lease here.
func (e *entry[T]) countTake(b *Book[T], hash uint64, key string, limits []T, n, now int64) bool {
	if e.hash.Load() != hash {
		return false // The place has meanwhile been given to another key.
	}
	e.takes[0]++
	if !e.isHot() || n <= 0 {
		return false
	}
	if !e.is(key, limits) {
		if e.key != "" && (e.calling || now-e.used < int64(maxAge)) {
			return false
		}
		e.begin(b, key, limits, now)
	}
	return n <= e.maxTake
}

func (e *entry[T]) isHot() bool { return e.takes[0] >= hot || e.takes[1] >= hot }

// begin makes an entry the lease of a key, or notes that its limits are too small.
func (e *entry[T]) begin(b *Book[T], key string, limits []T, now int64) {
	e.drop()
	scales, err := b.config.Scales(limits)
	e.key, e.limits, e.scales, e.used, e.audit = strings.Clone(key), slices.Clone(limits), scales, now, b.audit
	e.maxTake, e.period = 0, b.config.Period
	if err != nil || len(scales) == 0 {
		return // The take goes to the shared bucket, which returns the same error.
	}
	e.tapes = e.one[:]
	if len(scales) > 1 {
		e.tapes = make([]tape, len(scales))
	}
	maxTake := scales[0].Capacity
	for i := range scales {
		if !LongEnough(&scales[i], b.config.Period) {
			return
		}
		maxTake = min(maxTake, scales[i].Capacity)
	}
	e.maxTake = maxTake
	e.spent = e.takes // Nothing was spent from the lease so far; the takes that came are the best estimate.
}

// LongEnough reports whether a bucket refills slowly enough to be leased for a period.
func LongEnough(s *bucket.Scale, period time.Duration) bool {
	return s.UntilFull(s.Size()) >= Shortest*int64(period/time.Microsecond)
}

// clear empties the entry for another key.
func (e *entry[T]) clear() {
	e.key, e.limits, e.scales, e.tapes, e.one, e.maxTake = "", nil, nil, nil, [1]tape{}, 0
	e.takes, e.spent, e.used, e.stats = [2]int64{}, [2]int64{}, 0, Stats{}
	e.dry.until = 0
}

// drop drops what is on lease, and a refusal that is remembered.
func (e *entry[T]) drop() {
	for i := range e.tapes {
		e.tapes[i].drop()
	}
	e.dry.until = 0
}

// total returns the stats of the entry, with Void.
func (e *entry[T]) total() Stats {
	t := e.stats
	if len(e.tapes) > 0 {
		e.tapes[0].left(&e.scales[0], e.latest, notFresh)
		t.Void = e.tapes[0].void / e.scales[0].Token
	}
	return t
}

// spend takes n tokens of every limit, or of none if one has too few. Units of the grant whose call was sent at fresh do
// not expire: the shared bucket itself has decided about the takes of that call.
func (e *entry[T]) spend(now, n, fresh int64) bool {
	enough := true
	for i := range e.tapes {
		s := &e.scales[i]
		enough = e.tapes[i].left(s, now, fresh) >= n*s.Token && enough
	}
	if !enough {
		return false
	}
	for i := range e.tapes {
		var audit func(at, from, to int64, asked bool)
		if e.audit != nil {
			audit = func(at, from, to int64, asked bool) { e.audit(i, at, from, to, asked) }
		}
		e.tapes[i].spend(n*e.scales[i].Token, fresh, audit)
	}
	e.spent[0] += n
	e.stats.Spent += n
	e.used = now
	return true
}

// isShort reports whether the lease should be renewed.
func (e *entry[T]) isShort(now int64) bool {
	for i := range e.tapes {
		if t := &e.tapes[i]; t.rest < t.enough || now >= t.stale {
			return true
		}
	}
	return false
}

func (e *entry[T]) isDry(now, n int64) bool { return now < e.dry.until && n >= e.dry.need }

// writeDeficits writes what each shared bucket lacks, less what is on lease here. It counts refilling only from when the
// reply came, so that a client that waits until the deficit is gone does not come early.
func (e *entry[T]) writeDeficits(now int64, deficits []int64) {
	for i := range e.tapes {
		t := &e.tapes[i]
		deficits[i] = max(0, e.scales[i].Refill(t.deficit, (now-t.seen)/1000)-t.rest)
	}
}

// places writes where the pieces that were taken last end, in units after PerTick times at, which it returns.
func (e *entry[T]) places(places []int64) (at int64) {
	at = e.tapes[0].lastAt
	for i := range e.tapes[1:] {
		at = max(at, e.tapes[1+i].lastAt)
	}
	for i := range e.tapes {
		t := &e.tapes[i]
		places[i] = e.scales[i].Refill(t.lastPos, at-t.lastAt)
	}
	return at
}

// call is a call under way.
type call struct {
	sent            int64
	early           int64 // how many nanoseconds before the tokens of this call are void the next should be sent
	wants           []bucket.Ask
	waiters         []*waiter // the takes that waited when it was sent
	resets, changes uint64
}

// asks reports whether the call asks for any token.
func (c *call) asks() bool {
	return slices.ContainsFunc(c.wants, func(a bucket.Ask) bool { return a != bucket.Ask{} })
}

// ask returns the next call: for the takes that wait, and for what this process will spend in a period.
func (e *entry[T]) ask(period time.Duration, now int64) call {
	c := call{sent: now, wants: make([]bucket.Ask, len(e.tapes)), waiters: e.waiting, resets: e.resets, changes: e.changes}
	e.waiting = nil
	first, all := int64(0), int64(0)
	for i, w := range c.waiters {
		if i == 0 {
			first = w.n
		}
		all += w.n
	}
	// The rate over the last second: all that was spent in the current second, and the part of the one before that is
	// less than a second ago.
	rate := float64(e.spent[0]) + float64(e.spent[1])*(1-float64(now%int64(time.Second))/float64(time.Second))
	block := int64(rate*period.Seconds()) + 1
	between := float64(time.Second) / (rate + 1)
	c.early = max(e.roundTrip*3/2, int64(period)/4, int64(3*between/2))
	bridge := int64(rate * 1.5 * float64(e.roundTrip) / float64(time.Second))
	for i := range c.wants {
		s, t, ask := &e.scales[i], &e.tapes[i], &c.wants[i]
		left := t.left(s, now, notFresh)
		block := min(block, s.Capacity/maxPartOfBucket)
		enough := max(block/4, bridge)
		t.enough = enough * s.Token
		ask.Need = max(0, (first*s.Token-left+s.Token-1)/s.Token)
		if whole := left / s.Token; ask.Need > 0 || whole < all+enough || now >= t.stale {
			ask.Want = min(s.Capacity, max(1, ask.Need, all+block-whole))
			ask.Floor = min(2*s.RefillIn(int64(period/time.Microsecond)), s.Size()/maxPartOfBucket)
		}
	}
	return c
}

// settle records the reply to a call, and decides about the takes that wait.
func (e *entry[T]) settle(period time.Duration, now int64, c *call, o *bucket.Outcome, grants []int64, err error) {
	e.stats.Calls++
	if err != nil { // If the call has withdrawn tokens, they come back by themselves.
		for _, w := range c.waiters {
			if !w.gaveUp {
				w.err = err
				close(w.done)
			}
		}
		return
	}
	e.roundTrip = now - c.sent
	need := bucket.Change{N: 1} // the least take that is refused until the next call
	if !o.Allowed && len(c.waiters) > 0 {
		need.N = c.waiters[0].n
	}
	dry, retry := !o.Allowed, int64(0)
	for i := range e.tapes {
		s, t := &e.scales[i], &e.tapes[i]
		t.deficit, t.seen = o.Deficits[i], now
		if units := grants[i] * s.Token; units > 0 {
			t.add(segment{at: o.At, sent: c.sent, start: t.deficit - units, pos: t.deficit - units, end: t.deficit})
		}
		t.setStale(s, c.early)
		dry = dry || grants[i] < c.wants[i].Want
		short := bucket.Change{N: max(1, c.wants[i].Need)}
		if c.wants[i].Want > 0 {
			retry = max(retry, short.Retry(s, t.deficit))
		}
	}
	e.stats.Leased += grants[0]
	if dry && e.changes == c.changes {
		// The pause is random: if two processes asked in turns, the later one would never find a token. Tokens that
		// refill during the pause reach no client, so it is no longer than needed to spare the bucket.
		pause := min(int64(period), max(int64(dryPause), e.roundTrip))
		pause = pause/2 + rand.Int64N(pause)
		e.dry.until = now + min(int64(maxAge), min(retry, int64(maxAge)/1000)*1000+pause)
		e.dry.need = need.N
	}
	joined := e.waiting
	e.waiting = e.serve(now, c.waiters, c.sent)
	if e.resets != c.resets {
		e.drop() // The takes of this call came before the reset. After it, nothing of the grant may be spent.
	}
	e.waiting = append(e.waiting, e.serve(now, joined, notFresh)...)
}

// serve decides about takes in order of arrival, and returns those that need another call.
func (e *entry[T]) serve(now int64, takes []*waiter, fresh int64) (left []*waiter) {
	for _, w := range takes {
		if w.gaveUp {
			continue
		}
		switch {
		case e.spend(now, w.n, fresh):
			w.answer.Allowed = true
			w.answer.At = e.places(w.places)
		case e.isDry(now, w.n):
			w.answer.Void = e.dryTicks(now)
		default:
			left = append(left, w)
			continue
		}
		e.writeDeficits(now, w.deficits)
		w.answer.Asked, w.answer.Scales = fresh != notFresh, e.scales
		close(w.done)
	}
	return left
}

// dryTicks is how many ticks a refusal lasts.
func (e *entry[T]) dryTicks(now int64) int64 { return (e.dry.until - now + 999) / 1000 }
