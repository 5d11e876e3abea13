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
	Source     Source        // which store decided
	Name       string        // the limiter's; "" from a Store
	Limit      Limit         // the limit that decided: the refusing one with the longest wait, else the one with the fewest tokens left
	Remaining  int           // whole tokens left in that limit's bucket, rounded down, never negative
	RetryAfter time.Duration // until the same take is admitted; 0 if Allowed, Never if it costs more than the capacity
	ResetAfter time.Duration // until that bucket is full, and no ban holds; 0 if it is
	Wait       time.Duration // how long to wait before going on, if Take.MaxWait allowed any; 0 if refused
	Receipt    Receipt       // for Store.Adjust
}

// RetryAfterSeconds is RetryAfter as the Retry-After header has it: whole seconds, rounded up, at least 1. It is not ok if
// the take was allowed, or waiting does not help.
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

// limitText is the text of a limit, "" for the zero Limit of a Result without a decision.
func limitText(l Limit) string {
	if l == (Limit{}) {
		return ""
	}
	return l.String()
}

// Source is which store decided, and how. The zero Source is of a Store that does not set it.
type Source uint8

// The sources of a decision.
const (
	SourceUnknown   Source = iota
	SourceMemory           // a MemoryStore, on the key's own bucket
	SourceOverflow         // a MemoryStore that had no room for the key, on a bucket shared with others; see WithMaxKeys
	SourceRedis            // Redis
	SourceDenyCache        // a RedisStore, from an earlier refusal by Redis; see WithDenyCache
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

// resultOf describes the outcome of a take, and the state after an adjustment.
func resultOf(c *bucket.Change, source Source, limits []Limit, scales []bucket.Scale, o *bucket.Outcome) (r Result) {
	take, allowed := c, o.Allowed
	if c.Back != nil || c.Debt {
		take = &bucket.Change{}
		for i := range scales {
			_, admitted := take.Of(i, &scales[i], o.Deficits[i], o.At)
			allowed = allowed && admitted
		}
	}
	decider, heaviest := 0, int64(math.MinInt64)
	for i := range scales {
		if weight := weightOf(take, &scales[i], o.Deficits[i], allowed); weight > heaviest {
			decider, heaviest = i, weight
		}
	}
	r.describe(take, allowed, &limits[decider], &scales[decider], o.Deficits[decider], o.ClockBehind)
	r.Source = source
	if o.Allowed && c.N > 0 && c.Back == nil {
		r.Receipt.sign(source, o.At, c.MaxWait > 0)
		r.Receipt.set(o.Deficits)
	} else if len(scales) > 1 {
		r.Receipt.set(o.Deficits) // For Explanation.Buckets. A single limit is described by the result itself.
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

// weightOf is what makes a limit decide: the longest wait, or else the fewest tokens.
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

// describe is resultOf for one limit. It writes to r, because a Result is large to return.
func (r *Result) describe(c *bucket.Change, allowed bool, limit *Limit, s *bucket.Scale, deficit, clockBehind int64) {
	r.Allowed = allowed
	r.Limit = *limit
	r.Remaining = int(s.Remaining(deficit))
	if deficit > 0 {
		r.ResetAfter = ticksToDuration(s.UntilFull(deficit) + clockBehind)
	}
	switch {
	case !allowed && c.N > s.Capacity:
		r.RetryAfter = Never
	case !allowed:
		r.RetryAfter = ticksToDuration(c.Retry(s, deficit) + clockBehind)
	case deficit > s.Size():
		r.Wait = ticksToDuration(s.UntilSolvent(deficit) + clockBehind)
	}
}

// usageOf describes a state by limits, or, without any, by the state's own. clockBehind is how many ticks the clock is
// behind the state.
func usageOf(source Source, s bucket.State, limits []Limit, clockBehind int64) Usage {
	u := Usage{Source: source, Limits: make([]LimitUsage, len(s.Levels))}
	for i := range s.Levels {
		l := &s.Levels[i]
		limit := limitOf(&l.Scale)
		if i < len(limits) {
			limit = limits[i]
		}
		u.Limits[i] = limitUsageOf(limit, &l.Scale, l.Deficit, clockBehind)
	}
	if s.Ban != nil {
		strikes := &s.Ban.Strikes
		u.BannedFor = ticksToDuration(strikes.UntilSolvent(strikes.Deficit))
		u.Strikes = int(min(strikes.Capacity, (strikes.Deficit+strikes.Token-1)/strikes.Token))
	}
	return u
}

// limitUsageOf describes a bucket that lacks so much.
func limitUsageOf(limit Limit, s *bucket.Scale, deficit, clockBehind int64) LimitUsage {
	u := LimitUsage{Limit: limit, Remaining: int(s.Remaining(deficit))}
	if deficit == 0 {
		return u
	}
	debt := max(0, deficit-s.Size())
	u.Debt = int((debt + s.Token - 1) / s.Token)
	next := deficit - s.Size() + int64(u.Remaining+1)*s.Token // what has to come back for one more whole token
	u.NextToken = ticksToDuration(s.UntilFull(next) + clockBehind)
	u.ResetAfter = ticksToDuration(s.UntilFull(deficit) + clockBehind)
	return u
}

// ticksToDuration cannot overflow: 2^53 µs are 285 years, and a Duration holds 292.
func ticksToDuration(ticks int64) time.Duration {
	return time.Duration(ticks) * time.Microsecond
}

// Receipt is what a [Store] has to know about a take in order to correct it later; see [Adjustment]. It comes with the
// [Result] of the take, contains no secrets, and has a meaning only for the store that took. The zero Receipt is of no
// take.
//
// Up to 4 limits it does not allocate.
type Receipt struct {
	at    int64           // µs on the store's own clock
	words [inWords]uint64 // the deficits of the first limits, and above them the fields of the shifts below
	more  *[inMore]int64  // the deficits of the other limits
}

const (
	inWords = 4
	inMore  = MaxLimits - inWords
)

// A deficit has 53 bits, so 11 more of each word are free. Separate fields for what they hold would make a Result 8 bytes
// larger, and a take from memory a tenth slower.
const (
	deficitMask = bucket.MaxDeficit

	limitsShift, limitsMask = 53, 1<<6 - 1 // of word 0: how many limits
	sourceShift, sourceMask = 59, 1<<3 - 1 // of word 0: which store took
	tookBit                 = 1 << 62      // of word 0: the take was allowed
	queuedBit               = 1 << 63      // of word 0: the take could wait
	sidesShift              = 53           // of word 1: the sides of nested FallbackStores, the outermost lowest
)

// NewReceipt returns a receipt, for implementations of [Store]. source is the store's own; at is the time of the take, in
// microseconds on the store's clock; deficits is what each limit's bucket lacked right after the take, in units; and queued
// is whether the take could wait. At a rate of N tokens in P microseconds, in lowest terms, a token is P units. NewReceipt
// panics if there are more deficits than [MaxLimits].
func NewReceipt(source Source, at int64, deficits []int64, queued bool) Receipt {
	var r Receipt
	r.sign(source, at, queued)
	r.set(deficits)
	return r
}

// At returns the time of the take, in microseconds on the clock of the store that took.
func (r *Receipt) At() int64 { return r.at }

// Len returns how many limits the take had.
func (r *Receipt) Len() int { return int(r.words[0] >> limitsShift & limitsMask) }

// Deficit returns what the bucket of limit i lacked right after the take, in units. What was given back since has been
// subtracted.
func (r *Receipt) Deficit(i int) int64 {
	if i < inWords {
		return int64(r.words[i] & deficitMask)
	}
	return r.more[i-inWords]
}

// Source returns which kind of store took.
func (r *Receipt) Source() Source { return Source(r.words[0] >> sourceShift & sourceMask) }

func (r *Receipt) took() bool { return r.words[0]&tookBit != 0 }

func (r *Receipt) queued() bool { return r.words[0]&queuedBit != 0 }

// set writes the deficits, and leaves the rest as it is.
func (r *Receipt) set(deficits []int64) {
	for i := range min(len(deficits), inWords) {
		r.words[i] = r.words[i]&^deficitMask | uint64(deficits[i])
	}
	r.words[0] = r.words[0]&^(limitsMask<<limitsShift) | uint64(len(deficits))<<limitsShift
	if len(deficits) > inWords {
		r.more = new([inMore]int64)
		if rest := deficits[inWords:]; copy(r.more[:], rest) < len(rest) {
			panic("ratelimit: NewReceipt: more deficits than MaxLimits")
		}
	}
}

// sign makes r the receipt of a take that was allowed: by source, at a tick, and queued if it could wait.
func (r *Receipt) sign(source Source, at int64, queued bool) {
	r.at = at
	r.words[0] = tookBit | uint64(source)<<sourceShift
	if queued {
		r.words[0] |= queuedBit
	}
}

func (r *Receipt) deficits() []int64 {
	deficits := make([]int64, r.Len())
	for i := range deficits {
		deficits[i] = r.Deficit(i)
	}
	return deficits
}

// after returns what is left of the receipt after an adjustment.
func (r *Receipt) after(c *bucket.Change, scales []bucket.Scale) Receipt {
	left := *r
	if left.Len() != len(scales) {
		return left // The adjustment was a debt by other limits, which leaves the take's as they are.
	}
	deficits := r.deficits()
	c.Left(scales, deficits)
	left.set(deficits)
	return left
}

// The sides of a FallbackStore. FallbackStores may be nested, so a receipt has the side that took at each of them, the
// outermost last. The store's identity would not do, because a side may be wrapped in stores that the FallbackStore does
// not know.
const (
	primarySide  = 0
	fallbackSide = 1
)

func (r *Receipt) pushSide(side uint64) {
	sides := r.words[1] >> sidesShift
	r.words[1] = r.words[1]&deficitMask | (sides<<1|side)<<sidesShift
}

func (r *Receipt) popSide() (side uint64) {
	sides := r.words[1] >> sidesShift
	r.words[1] = r.words[1]&deficitMask | sides>>1<<sidesShift
	return sides & 1
}
