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
	places []atomic.Pointer[denial] // a power of two
}

// denial is one refusal: what was asked, what came of it, and from when until when it holds, since base.
type denial struct {
	key     string
	change  bucket.Change
	options TakeOptions
	limits  []Limit
	scales  []bucket.Scale
	outcome bucket.Outcome
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
	return &denyCache{base: time.Now(), seed: maphash.MakeSeed(), places: make([]atomic.Pointer[denial], places)}
}

func (c *denyCache) place(key string) *atomic.Pointer[denial] {
	return &c.places[maphash.String(c.seed, key)&uint64(len(c.places)-1)]
}

// find returns the refusal that a take would get, if it is known.
func (c *denyCache) find(key string, take bucket.Change, options TakeOptions, limits []Limit) (Result, bool) {
	if c == nil {
		return Result{}, false
	}
	d := c.place(key).Load()
	if d == nil || d.key != key || take.N < d.change.N || options != d.options || !slices.Equal(d.limits, limits) {
		return Result{}, false
	}
	now := time.Since(c.base)
	if now >= d.until || now >= d.from+denialStale && d.asked.CompareAndSwap(false, true) {
		return Result{}, false
	}
	elapsed := int64((now - d.from) / time.Microsecond)
	// While the server's clock is behind the state, time goes into catching up first.
	caughtUp := min(elapsed, d.outcome.Late)
	var room [4]int64
	o := bucket.Outcome{Deficits: room[:0], Late: d.outcome.Late - caughtUp, Banned: max(0, d.outcome.Banned-elapsed)}
	for i, s := range d.scales {
		o.Deficits = append(o.Deficits, s.Refill(d.outcome.Deficits[i], elapsed-caughtUp))
	}
	return resultOf(&take, SourceDenyCache, d.limits, d.scales, o), true
}

// add remembers a refusal that was asked for at sent, has just come, and lasts so long. Redis decided in between,
// so it ends counted from sent, in order never to refuse what Redis would admit, and the wait counts from now, in
// order to be true.
func (c *denyCache) add(key string, d *denial, sent time.Time, lasts time.Duration) {
	if c == nil || d.change.N == 0 {
		return
	}
	d.key, d.limits = strings.Clone(key), slices.Clone(d.limits)
	d.from = time.Since(c.base)
	d.until = d.from + denialAge
	if lasts < denialAge {
		d.until = min(d.until, sent.Sub(c.base)+lasts)
	}
	c.place(key).Store(d)
}

// forget drops what is known about key.
func (c *denyCache) forget(key string) {
	if c == nil {
		return
	}
	place := c.place(key)
	if d := place.Load(); d != nil && d.key == key {
		place.CompareAndSwap(d, nil)
	}
}
