package ratelimit

import (
	"context"
	"errors"
	"fmt"
	"math"
	"reflect"
	"time"
)

// Store is where buckets live. [MemoryStore] keeps them in this process, [RedisStore] in Redis, and both
// decide alike, bit for bit. A Store holds no configuration: limits come with every call, so one Store
// serves any number of limiters. Package storetest has the conformance suite for other implementations.
//
// A changed limit keeps its bucket. A new rate counts from the last take on. A larger capacity is there at once; a
// smaller one keeps of the tokens in the bucket what it can hold, and the store remembers the larger until
// the bucket is full by that. So versions of a program with different limits, side by side on one key, admit
// together no more than one with the largest capacity and rate.
//
// A key has one bucket per limit, matched by position. The buckets of positions that a call does not name
// are left alone. Implementations are safe for concurrent use, and copy key if they keep it: the caller
// may reuse its bytes.
type Store interface {
	// Take withdraws n tokens from each of key's buckets, one per limit, or, if any holds fewer, from
	// none. A bucket that does not exist is full. n == 0 looks and changes nothing.
	//
	// A refusal is a Result and changes nothing. An error means that the store could not decide: it is
	// unreachable, its state is not ours ([ErrForeignState]), or the arguments are wrong ([ErrArgument]).
	Take(ctx context.Context, key string, n int, limits []Limit) (Result, error)

	// Adjust corrects earlier takes once the real cost is known: n > 0 gives tokens back to each of key's
	// buckets, never above the capacity; n < 0 takes tokens that were already spent, without refusing,
	// which may leave a debt that has to refill before anything is admitted. n == 0 changes nothing.
	// A debt is at most 2^53 units (see [Limit]).
	//
	// The Result is the look afterwards.
	Adjust(ctx context.Context, key string, n int, limits []Limit) (Result, error)

	// Reset forgets key, which fills its buckets.
	Reset(ctx context.Context, key string) error
}

// OptionStore is a Store that can take with options. [MemoryStore], [RedisStore] and [FallbackStore] can.
type OptionStore interface {
	Store

	// TakeWith is Take with options, decided as atomically. Without any it is Take.
	TakeWith(ctx context.Context, key string, n int, limits []Limit, options TakeOptions) (Result, error)
}

// TakeOptions is what a take can ask for beyond its limits.
type TakeOptions struct {
	// MaxWait lets a take have tokens that refill within it. The bucket is left in debt, and Result.Wait says
	// when it is out of it, which is when to go on. Rounded down to microseconds.
	MaxWait time.Duration

	// Ban shuts the key out when it is refused too often. A refusal then changes the key's state.
	Ban Ban
}

// Never is the RetryAfter of a request that can never be admitted, because it costs more than the capacity.
const Never time.Duration = math.MaxInt64

// Result is one decision, and what the bucket looked like right after it. Times count from then, are exact
// to the microsecond, and are rounded up: who waits RetryAfter is admitted, absent competitors.
type Result struct {
	Allowed    bool
	Banned     bool          // refused because of TakeOptions.Ban, whatever is in the bucket; Remaining is 0
	Source     Source        // who decided
	Limit      Limit         // the limit that decided: the refusing one with the longest wait, else the one with the fewest tokens left
	Remaining  int           // whole tokens left in that limit's bucket, rounded down, never negative
	RetryAfter time.Duration // until the same take is admitted; 0 if Allowed, Never if it costs more than the capacity
	ResetAfter time.Duration // until that bucket is full; 0 if it is
	Wait       time.Duration // how long to wait before going on, if TakeOptions.MaxWait allowed any; 0 if refused
}

// Source says who decided. The zero Source is a Store that does not say.
type Source uint8

// The sources of a decision.
const (
	SourceUnknown   Source = iota
	SourceMemory           // a MemoryStore, on the key's own bucket
	SourceOverflow         // a MemoryStore that had no room for the key, on a bucket shared with others; see WithMaxKeys
	SourceRedis            // Redis
	SourceDenyCache        // a RedisStore, from what Redis had said before; see WithDenyCache
	SourceFallback         // the fallback of a FallbackStore
)

// String returns a word fit for a label: "memory", "overflow", "redis", "deny_cache", "fallback" or "unknown".
func (s Source) String() string {
	switch s {
	case SourceMemory:
		return "memory"
	case SourceOverflow:
		return "overflow"
	case SourceRedis:
		return "redis"
	case SourceDenyCache:
		return "deny_cache"
	case SourceFallback:
		return "fallback"
	default:
		return "unknown"
	}
}

var (
	// ErrArgument is wrapped by the errors of stores about what they were asked: a negative cost, no
	// limits, or an invalid limit. The store is well.
	ErrArgument = errors.New("invalid argument")

	// ErrForeignState is wrapped by the errors of stores that found something under a key that is not
	// theirs. They leave it untouched.
	ErrForeignState = errors.New("state is not a rate limit's")
)

func negativeCost(n int) error {
	return argumentError(fmt.Errorf("ratelimit: cost %d: must not be negative; Adjust gives tokens back", n))
}

// change is a take of n tokens with the options.
func (o TakeOptions) change(n int) (change, error) {
	c := change{n: int64(n)}
	if n < 0 {
		return c, negativeCost(n)
	}
	if o.MaxWait < 0 {
		return c, argumentError(fmt.Errorf("ratelimit: MaxWait %v: must not be negative", o.MaxWait))
	}
	c.ahead = int64(o.MaxWait / time.Microsecond)
	if o.Ban == (Ban{}) {
		return c, nil
	}
	var err error
	if c.ban, err = o.Ban.scales(); err != nil {
		return c, argumentError(err)
	}
	return c, nil
}

// isNil reports whether there is no store, also where it is a nil *RedisStore, from a constructor whose error nobody
// has looked at.
func isNil(store Store) bool {
	v := reflect.ValueOf(store)
	return !v.IsValid() || v.Kind() == reflect.Pointer && v.IsNil()
}

// appendScales returns limits in units.
func appendScales(scales []scale, limits []Limit) ([]scale, error) {
	if len(limits) == 0 {
		return nil, fmt.Errorf("ratelimit: limits: %w: at least one is needed", ErrArgument)
	}
	for _, limit := range limits {
		s, err := scaleOf(limit)
		if err != nil {
			return nil, argumentError(err)
		}
		scales = append(scales, s)
	}
	return scales, nil
}

// argumentError marks an error about a limit.
func argumentError(err error) error { return fmt.Errorf("%w: %w", err, ErrArgument) }

// outcome is what a change did: the deficits it left, one per limit.
type outcome struct {
	allowed  bool
	deficits []int64
	late     int64 // ticks that the store's clock is behind the state; nothing refills until it has caught up
	banned   int64 // ticks until the key is no longer shut out
}

// result describes an outcome.
func (c *change) result(source Source, limits []Limit, scales []scale, o outcome) (r Result) {
	decider, most := 0, int64(math.MinInt64)
	for i := range scales {
		// What makes a limit decide: the longest wait, or else the fewest tokens.
		weight := c.weight(&scales[i], o.deficits[i], o.allowed)
		if weight > most {
			decider, most = i, weight
		}
	}
	r.describe(c, o.allowed, &limits[decider], &scales[decider], o.deficits[decider], o.late)
	r.Source = source
	if o.banned > 0 {
		r.Banned, r.Remaining = true, 0
		r.RetryAfter = max(r.RetryAfter, ticksToDuration(o.banned))
	}
	return r
}

func (c *change) weight(s *scale, deficit int64, allowed bool) int64 {
	switch {
	case !allowed && c.n > s.capacity:
		return math.MaxInt64
	case !allowed:
		return c.retry(s, deficit)
	case deficit > s.size():
		return s.untilSolvent(deficit)
	default:
		return -s.remaining(deficit)
	}
}

// describe is result for one limit. It writes to r, because a Result is large to be passed around.
func (r *Result) describe(c *change, allowed bool, limit *Limit, s *scale, deficit, late int64) {
	r.Allowed = allowed
	r.Limit = *limit
	r.Remaining = int(s.remaining(deficit))
	if deficit > 0 {
		r.ResetAfter = ticksToDuration(s.untilFull(deficit) + late)
	}
	switch {
	case !allowed && c.n > s.capacity:
		r.RetryAfter = Never
	case !allowed:
		r.RetryAfter = ticksToDuration(c.retry(s, deficit) + late)
	case deficit > s.size():
		r.Wait = ticksToDuration(s.untilSolvent(deficit) + late)
	}
}

// looked is the outcome as a look sees it, which is what follows an adjustment.
func (o outcome) looked(scales []scale) (*change, outcome) {
	look := &change{}
	for i := range scales {
		_, admitted := look.of(&scales[i], o.deficits[i])
		o.allowed = o.allowed && admitted
	}
	return look, o
}

// ticksToDuration cannot overflow: 2^53 µs are 285 years, and a Duration holds 292.
func ticksToDuration(ticks int64) time.Duration {
	return time.Duration(ticks) * time.Microsecond
}
