package ratelimit

import (
	"hash/maphash"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/gin-ratelimit/ratelimit/internal/bucket"
)

// denyCache remembers refusals. Tokens come back only with time, so a take that was refused stays refused
// until its retry time, and so does one of the same or a larger cost: that need not be asked again. A client
// that hammers a drained key then costs Redis about one call a second.
//
// It is as wide as it is long: a key's hash is its place, and a newer refusal takes the place of an older one.
// An entry is forgotten after a second, so that a Reset or Adjust on another instance is seen by then.
type denyCache struct {
	base   time.Time
	seed   maphash.Seed
	places []denyPlace // a power of two
}

// denyPlace is where the refusals of some keys go. What was asked for before the latest Reset or Adjust of one of them is
// not believed: it may have been decided before, and come in after.
type denyPlace struct {
	denial  atomic.Pointer[denial]
	changes atomic.Uint64 // Resets and Adjusts
}

// denial is one refusal: what was asked, what came of it, and from when until when it holds, since base.
type denial struct {
	key     string
	take    Take // with limits of its own
	scales  []bucket.Scale
	outcome bucket.Outcome
	changes uint64 // the place's, when it was asked for
	from    time.Duration
	until   time.Duration
	asked   atomic.Bool // whether somebody is asking Redis again already
}

const (
	denialAge = time.Second
	// denialStale is the age at which one caller, and only one, asks Redis again while the others still get
	// the remembered answer. Without it, all would ask at once when it ends.
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

// changes is to be called before a take is sent whose refusal may be added.
func (c *denyCache) changes(key string) uint64 {
	if c == nil {
		return 0
	}
	return c.place(key).changes.Load()
}

// add remembers a refusal that was asked for at sent, after so many changes of its place, has just come, and lasts so
// long. Redis decided in between, so it ends counted from sent, in order never to refuse what Redis would admit, and the
// wait counts from now, in order to be true.
func (c *denyCache) add(key string, d *denial, sent time.Time, lasts time.Duration) {
	if c == nil || d.take.N == 0 {
		return
	}
	d.key, d.take.Limits = strings.Clone(key), slices.Clone(d.take.Limits)
	d.outcome.Deficits = slices.Clone(d.outcome.Deficits) // They are a piece of the reply, which may be of many keys.
	d.from = time.Since(c.base)
	d.until = d.from + denialAge
	if lasts < denialAge {
		d.until = min(d.until, sent.Sub(c.base)+lasts)
	}
	c.place(key).denial.Store(d)
}

// forget drops what is known about key, and what is on its way.
func (c *denyCache) forget(key string) {
	if c != nil {
		c.place(key).changes.Add(1)
	}
}
