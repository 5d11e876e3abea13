package ratelimit

import (
	"context"
	"errors"
	"fmt"
	"math"
	"time"
)

// Store is where buckets live. [MemoryStore] keeps them in this process, [RedisStore] in Redis, and both
// decide alike, bit for bit. A Store holds no configuration: limits come with every call, so one Store
// serves any number of limiters, and a changed limit keeps its bucket. Package storetest has the
// conformance suite for other implementations.
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
	// A debt is at most 2^53 units (see [Limit]), and is forgiven where the limit changes.
	//
	// The Result is the look afterwards.
	Adjust(ctx context.Context, key string, n int, limits []Limit) (Result, error)

	// Reset forgets key, which fills its buckets.
	Reset(ctx context.Context, key string) error
}

// Never is the RetryAfter of a request that can never be admitted, because it costs more than the capacity.
const Never time.Duration = math.MaxInt64

// Result is one decision, and what the bucket looked like right after it. Times count from then, are exact
// to the microsecond, and are rounded up: who waits RetryAfter is admitted, absent competitors.
type Result struct {
	Allowed    bool
	Source     Source        // who decided
	Limit      Limit         // the limit that decided: the refusing one with the longest wait, else the one with the fewest tokens left
	Remaining  int           // whole tokens left in that limit's bucket, rounded down, never negative
	RetryAfter time.Duration // until the same take is admitted; 0 if Allowed, Never if it costs more than the capacity
	ResetAfter time.Duration // until that bucket is full; 0 if it is
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

// checkTake returns what is wrong with the arguments of Store.Take.
func checkTake(n int) error {
	if n < 0 {
		return fmt.Errorf("ratelimit: cost %d: %w: must not be negative; Adjust gives tokens back", n, ErrArgument)
	}
	return nil
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

// resultOf describes a decision about n tokens by the deficits it left behind. late is how far, in ticks,
// the store's clock is behind the state: nothing refills until it has caught up.
func resultOf(source Source, allowed bool, n int64, limits []Limit, scales []scale, deficits []int64, late int64) Result {
	decider, most := 0, int64(-1)
	for i, s := range scales {
		// What makes a limit decide: the longest wait, or the fewest tokens, counted so that more is stronger.
		weight := int64(math.MaxInt64)
		switch {
		case allowed:
			weight -= s.remaining(deficits[i])
		case n <= s.capacity:
			weight = s.wait(deficits[i], n)
		}
		if weight > most {
			decider, most = i, weight
		}
	}
	return describe(source, allowed, n, limits[decider], scales[decider], deficits[decider], late)
}

// describe is resultOf for one limit.
func describe(source Source, allowed bool, n int64, limit Limit, s scale, deficit, late int64) Result {
	result := Result{
		Allowed:   allowed,
		Source:    source,
		Limit:     limit,
		Remaining: int(s.remaining(deficit)),
	}
	if deficit > 0 {
		result.ResetAfter = ticksToDuration(s.untilFull(deficit) + late)
	}
	switch {
	case allowed:
	case n > s.capacity:
		result.RetryAfter = Never
	default:
		result.RetryAfter = ticksToDuration(s.wait(deficit, n) + late)
	}
	return result
}

// lookOf describes what is in the buckets, as a take of nothing does.
func lookOf(source Source, limits []Limit, scales []scale, deficits []int64, late int64) Result {
	allowed := true
	for i, s := range scales {
		allowed = allowed && s.admits(deficits[i], 0)
	}
	return resultOf(source, allowed, 0, limits, scales, deficits, late)
}

// ticksToDuration cannot overflow: 2^53 µs are 285 years, and a Duration holds 292.
func ticksToDuration(ticks int64) time.Duration {
	return time.Duration(ticks) * time.Microsecond
}
