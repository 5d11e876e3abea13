package ratelimit

import (
	"math"
	"time"

	"github.com/gin-ratelimit/ratelimit/internal/bucket"
)

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

// resultOf describes an outcome: of an adjustment, the look afterwards.
func resultOf(c *bucket.Change, source Source, limits []Limit, scales []bucket.Scale, o bucket.Outcome) (r Result) {
	if c.Adjust {
		c, o = looked(o, scales)
	}
	decider, most := 0, int64(math.MinInt64)
	for i := range scales {
		// What makes a limit decide: the longest wait, or else the fewest tokens.
		weight := weightOf(c, &scales[i], o.Deficits[i], o.Allowed)
		if weight > most {
			decider, most = i, weight
		}
	}
	r.describe(c, o.Allowed, &limits[decider], &scales[decider], o.Deficits[decider], o.Late)
	r.Source = source
	if o.Banned > 0 {
		r.Banned, r.Remaining = true, 0
		r.RetryAfter = max(r.RetryAfter, ticksToDuration(o.Banned))
	}
	return r
}

func weightOf(c *bucket.Change, s *bucket.Scale, deficit int64, allowed bool) int64 {
	switch {
	case !allowed && c.N > s.Capacity:
		return math.MaxInt64
	case !allowed:
		return c.Retry(s, deficit)
	case deficit > s.Size():
		return s.UntilSolvent(deficit)
	default:
		return -s.Remaining(deficit)
	}
}

// describe is resultOf for one limit. It writes to r, because a Result is large to be passed around.
func (r *Result) describe(c *bucket.Change, allowed bool, limit *Limit, s *bucket.Scale, deficit, late int64) {
	r.Allowed = allowed
	r.Limit = *limit
	r.Remaining = int(s.Remaining(deficit))
	if deficit > 0 {
		r.ResetAfter = ticksToDuration(s.UntilFull(deficit) + late)
	}
	switch {
	case !allowed && c.N > s.Capacity:
		r.RetryAfter = Never
	case !allowed:
		r.RetryAfter = ticksToDuration(c.Retry(s, deficit) + late)
	case deficit > s.Size():
		r.Wait = ticksToDuration(s.UntilSolvent(deficit) + late)
	}
}

// looked is an outcome as a look sees it, which is what follows an adjustment.
func looked(o bucket.Outcome, scales []bucket.Scale) (*bucket.Change, bucket.Outcome) {
	look := &bucket.Change{}
	for i := range scales {
		_, admitted := look.Of(&scales[i], o.Deficits[i])
		o.Allowed = o.Allowed && admitted
	}
	return look, o
}

// ticksToDuration cannot overflow: 2^53 µs are 285 years, and a Duration holds 292.
func ticksToDuration(ticks int64) time.Duration {
	return time.Duration(ticks) * time.Microsecond
}
