package ratelimit

import (
	"hash/maphash"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/gin-ratelimit/ratelimit/internal/bucket"
)

// denyCache remembers refusals. Tokens come back only with time, so a take that was refused would be refused again until
// its retry time, and so would any take of the same or a larger cost. Redis need not be asked for those: a client that
// hammers a drained key costs Redis about one call a second.
//
// A key's hash is the index of its place, which holds one refusal: a newer one replaces an older one. A refusal is
// forgotten after a second, so that a Reset or Adjust by another process is seen by then.
type denyCache struct {
	base   time.Time
	seed   maphash.Seed
	places []denyPlace // a power of two
}

// denyPlace holds the latest refusal of the keys of one hash. A refusal that was asked for before the latest Reset or
// Adjust of one of these keys does not count: it may have been decided before that, and have come in after.
type denyPlace struct {
	denial  atomic.Pointer[denial]
	changes atomic.Uint64 // Resets and Adjusts
}

// denial is one refusal: the take, its outcome, and from when until when it holds, since base.
type denial struct {
	key     string
	take    Take // with limits of its own
	scales  []bucket.Scale
	outcome bucket.Outcome
	changes uint64 // the place's, when the take was sent
	from    time.Duration
	until   time.Duration
	asked   atomic.Bool // whether a take has been sent to ask Redis again
}

const (
	denialAge = time.Second
	// denialStale is the age at which one caller, and only one, asks Redis again, while the others are still refused from
	// memory. Without it, all would ask at once when the refusal ends.
	denialStale = 800 * time.Millisecond
)

// newDenyCache returns a cache, nil for no entries; nil knows nothing and remembers nothing.
func newDenyCache(entries int) *denyCache {
	if entries == 0 {
		return nil
	}
	places := 1
	for places < entries {
		places *= 2
	}
	return &denyCache{base: time.Now(), seed: maphash.MakeSeed(), places: make([]denyPlace, places)}
}

func (c *denyCache) place(key string) *denyPlace {
	return &c.places[maphash.String(c.seed, key)&uint64(len(c.places)-1)]
}

// find returns the refusal that a take would get, if it is known.
func (c *denyCache) find(key string, take *Take, asked *bucket.Change) (Result, bool) {
	if c == nil {
		return Result{}, false
	}
	place := c.place(key)
	d := place.denial.Load()
	if d == nil || d.changes != place.changes.Load() || d.key != key || take.N < d.take.N || take.MaxWait != d.take.MaxWait || take.Ban != d.take.Ban ||
		!slices.Equal(take.Limits, d.take.Limits) {
		return Result{}, false
	}
	now := time.Since(c.base)
	if now >= d.until || now >= d.from+denialStale && d.asked.CompareAndSwap(false, true) {
		return Result{}, false
	}
	elapsed := int64((now - d.from) / time.Microsecond)
	// While the server's clock is behind the state, time goes into catching up first.
	caughtUp := min(elapsed, d.outcome.ClockBehind)
	var buf [4]int64
	o := bucket.Outcome{Deficits: buf[:0], ClockBehind: d.outcome.ClockBehind - caughtUp, Banned: max(0, d.outcome.Banned-elapsed)}
	for i, s := range d.scales {
		o.Deficits = append(o.Deficits, s.Refill(d.outcome.Deficits[i], elapsed-caughtUp))
	}
	return resultOf(asked, SourceDenyCache, d.take.Limits, d.scales, &o), true
}

// changes returns the count of the key's place. Call it before a take is sent, for the denial that may come of it.
func (c *denyCache) changes(key string) uint64 {
	if c == nil {
		return 0
	}
	return c.place(key).changes.Load()
}

// add remembers a refusal that lasts so long. Its take was sent at sent, and the reply has just come; Redis decided in
// between. So the end of the refusal counts from sent, in order never to refuse what Redis would admit, and the client's
// wait counts from now, in order never to be too short.
func (c *denyCache) add(key string, d *denial, sent time.Time, lasts time.Duration) {
	if c == nil || d.take.N == 0 {
		return
	}
	d.key, d.take.Limits = strings.Clone(key), slices.Clone(d.take.Limits)
	d.outcome.Deficits = slices.Clone(d.outcome.Deficits) // A clone, or the cache would keep the whole reply alive.
	d.from = time.Since(c.base)
	d.until = d.from + denialAge
	if lasts < denialAge {
		d.until = min(d.until, sent.Sub(c.base)+lasts)
	}
	c.place(key).denial.Store(d)
}

// forget drops a refusal of key, and one that is on its way.
func (c *denyCache) forget(key string) {
	if c != nil {
		c.place(key).changes.Add(1)
	}
}
