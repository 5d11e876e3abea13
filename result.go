package ratelimit

import (
	"encoding/json"
	"math"
	"time"

	"github.com/gin-ratelimit/ratelimit/internal/bucket"
)

// Never is the RetryAfter of a request that can never be admitted, because it costs more than the capacity.
const Never time.Duration = math.MaxInt64

// Result is one decision, and what the bucket looked like right after it. Times count from then, are exact
// to the microsecond, and are rounded up: a client that waits RetryAfter is admitted, absent competitors.
type Result struct {
	Allowed    bool
	Banned     bool          // refused because of Take.Ban, whatever is in the bucket; Remaining is 0
	Source     Source        // who decided
	Name       string        // the limiter's; "" from a Store
	Limit      Limit         // the limit that decided: the refusing one with the longest wait, else the one with the fewest tokens left
	Remaining  int           // whole tokens left in that limit's bucket, rounded down, never negative
	RetryAfter time.Duration // until the same take is admitted; 0 if Allowed, Never if it costs more than the capacity
	ResetAfter time.Duration // until that bucket is full, and no ban holds; 0 if it is
	Wait       time.Duration // how long to wait before going on, if Take.MaxWait allowed any; 0 if refused
	Receipt    Receipt       // for Store.Adjust
}

// RetryAfterSeconds is RetryAfter as the Retry-After header has it: whole seconds, rounded up, at least 1. It is not ok
// where there is none: the take was allowed, or waiting does not help.
func (r Result) RetryAfterSeconds() (seconds int, ok bool) {
	if r.Allowed || r.RetryAfter == Never {
		return 0, false
	}
	return int(retrySeconds(r)), true
}

// MarshalJSON returns allowed, name, limit (in the text form), remaining, retry_after, reset_after, wait, banned and
// source. Times are in seconds. retry_after is null where waiting does not help.
func (r Result) MarshalJSON() ([]byte, error) {
	retry := new(r.RetryAfter.Seconds())
	if r.RetryAfter == Never {
		retry = nil
	}
	return json.Marshal(struct {
		Allowed    bool     `json:"allowed"`
		Name       string   `json:"name"`
		Limit      string   `json:"limit"`
		Remaining  int      `json:"remaining"`
		RetryAfter *float64 `json:"retry_after"`
		ResetAfter float64  `json:"reset_after"`
		Wait       float64  `json:"wait"`
		Banned     bool     `json:"banned"`
		Source     string   `json:"source"`
	}{r.Allowed, r.Name, limitText(r.Limit), r.Remaining, retry, r.ResetAfter.Seconds(), r.Wait.Seconds(), r.Banned, r.Source.String()})
}

// MarshalJSON returns limits, banned_for, strikes, static and source. Times are in seconds.
func (u Usage) MarshalJSON() ([]byte, error) {
	return json.Marshal(struct {
		Limits    []LimitUsage `json:"limits"`
		BannedFor float64      `json:"banned_for"`
		Strikes   int          `json:"strikes"`
		Static    bool         `json:"static"`
		Source    string       `json:"source"`
	}{append([]LimitUsage{}, u.Limits...), u.BannedFor.Seconds(), u.Strikes, u.Static, u.Source.String()})
}

// MarshalJSON returns limit (in the text form), remaining, debt, next_token and reset_after. Times are in seconds.
func (u LimitUsage) MarshalJSON() ([]byte, error) {
	return json.Marshal(struct {
		Limit      string  `json:"limit"`
		Remaining  int     `json:"remaining"`
		Debt       int     `json:"debt"`
		NextToken  float64 `json:"next_token"`
		ResetAfter float64 `json:"reset_after"`
	}{limitText(u.Limit), u.Remaining, u.Debt, u.NextToken.Seconds(), u.ResetAfter.Seconds()})
}

// limitText is the text of a limit, "" for the zero Limit of a Result that is of no decision.
func limitText(l Limit) string {
	if l == (Limit{}) {
		return ""
	}
	return l.String()
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
	SourceLease            // a RedisStore, from tokens that it had withdrawn before; see WithLease
)

// String returns a word fit for a label: "memory", "overflow", "redis", "deny_cache", "lease", "fallback" or "unknown".
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
	case SourceLease:
		return "lease"
	default:
		return "unknown"
	}
}

// resultOf describes an outcome: of an adjustment, the look afterwards.
func resultOf(c *bucket.Change, source Source, limits []Limit, scales []bucket.Scale, o *bucket.Outcome) (r Result) {
	take, allowed := c, o.Allowed
	if c.Back != nil || c.Debt {
		take = &bucket.Change{}
		for i := range scales {
			_, admitted := take.Of(i, &scales[i], o.Deficits[i], o.At)
			allowed = allowed && admitted
		}
	}
	decider, most := 0, int64(math.MinInt64)
	for i := range scales {
		// What makes a limit decide: the longest wait, or else the fewest tokens.
		weight := weightOf(take, &scales[i], o.Deficits[i], allowed)
		if weight > most {
			decider, most = i, weight
		}
	}
	r.describe(take, allowed, &limits[decider], &scales[decider], o.Deficits[decider], o.Late)
	r.Source = source
	if o.Allowed && c.N > 0 && c.Back == nil {
		r.Receipt.sign(source, o.At, c.MaxWait > 0)
		r.Receipt.set(o.Deficits)
	} else if len(scales) > 1 {
		r.Receipt.set(o.Deficits) // For Explanation.Buckets. Of one limit the result tells all.
	}
	if o.Banned > 0 {
		r.Banned, r.Remaining = true, 0
		r.RetryAfter = max(r.RetryAfter, ticksToDuration(o.Banned))
		if r.RetryAfter != Never {
			r.ResetAfter = max(r.ResetAfter, r.RetryAfter)
		}
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

// usageOf describes a state, seen by limits, or by its own where there are none. late is by how many ticks the clock is
// behind it.
func usageOf(source Source, s bucket.State, limits []Limit, late int64) Usage {
	u := Usage{Source: source, Limits: make([]LimitUsage, len(s.Levels))}
	for i := range s.Levels {
		l := &s.Levels[i]
		limit := limitOf(&l.Scale)
		if i < len(limits) {
			limit = limits[i]
		}
		u.Limits[i] = limitUsageOf(limit, &l.Scale, l.Deficit, late)
	}
	if s.Ban != nil {
		strikes := &s.Ban.Strikes
		u.BannedFor = ticksToDuration(strikes.UntilSolvent(strikes.Deficit))
		u.Strikes = int(min(strikes.Capacity, (strikes.Deficit+strikes.Token-1)/strikes.Token))
	}
	return u
}

// limitUsageOf describes a bucket that lacks so much.
func limitUsageOf(limit Limit, s *bucket.Scale, deficit, late int64) LimitUsage {
	u := LimitUsage{Limit: limit, Remaining: int(s.Remaining(deficit))}
	if deficit == 0 {
		return u
	}
	debt := max(0, deficit-s.Size())
	u.Debt = int((debt + s.Token - 1) / s.Token)
	next := deficit - s.Size() + int64(u.Remaining+1)*s.Token // what has to come back for one more whole token
	u.NextToken = ticksToDuration(s.UntilFull(next) + late)
	u.ResetAfter = ticksToDuration(s.UntilFull(deficit) + late)
	return u
}

// ticksToDuration cannot overflow: 2^53 µs are 285 years, and a Duration holds 292.
func ticksToDuration(ticks int64) time.Duration {
	return time.Duration(ticks) * time.Microsecond
}
