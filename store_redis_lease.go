package ratelimit

import (
	"context"
	"time"

	"github.com/gin-ratelimit/ratelimit/internal/bucket"
	"github.com/gin-ratelimit/ratelimit/internal/lease"
)

// WithLease lets this process withdraw tokens of busy keys from Redis in blocks, and spend them from memory: a take of a
// leased key costs about what it costs from a [MemoryStore]. A block is what this process spends in a period, and at most
// a sixteenth of the bucket. period is from 1 ms to 1 s, and at least four round trips to Redis: 10 ms where Redis is in
// the same zone, 500 ms for another region. Default: no leases.
//
// The bound is the same as without leases: in any time t, all processes together admit at most the capacity plus what
// refills in t. A token on lease is void as soon as the bucket in Redis has refilled over it, so crashes and lost replies
// change nothing, and processes with and without leases can share buckets. The exceptions are:
//
//   - tokens that requests give back (see [Settle]) within t or in the second before may be taken again in t;
//   - a Reset, an Adjust or a changed limit by another process takes effect within a second; one through this store at once;
//   - Redis that has lost its data has full buckets, as without leases;
//   - a machine that was suspended spends what it held, once.
//
// Keys with at least 200 takes a second in this process are leased, up to 1,024 of them, in about 0.5 MB. All other takes
// go to Redis: those of other keys, those with [WithMaxWait] or [WithBan], those of more than the capacity, and those by
// limits that refill in less than 32 periods. [Check] warns of limiters whose takes are never leased.
//
// A take that finds the lease used up waits for the call that renews it, up to [WithTimeout]. [Result].Source is
// [SourceLease] if no call was needed. RetryAfter may be longer than without leases, by up to one and a half periods.
func WithLease(period time.Duration) RedisOption {
	return func(c *redisConfig) { c.lease = &period }
}

// LeaseStats is what the leases of a store have done so far, in tokens of each key's first limit. What is on lease now is
// Leased + GivenBack - Spent - Void, up to parts of tokens.
type LeaseStats struct {
	Calls     int64 // to Redis
	Leased    int64 // withdrawn from Redis
	Spent     int64 // by takes
	GivenBack int64 // by takes, to the lease; what they give back to Redis is not counted here
	Void      int64 // came back to the bucket unspent
}

// LeaseStats returns what the leases of this store have done so far: nothing without [WithLease].
func (s *RedisStore) LeaseStats() LeaseStats {
	if s.lease == nil {
		return LeaseStats{}
	}
	return LeaseStats(s.lease.Stats())
}

// newLease returns the leases of a store, nil if period is nil.
func (s *RedisStore) newLease(period *time.Duration) *lease.Book[Limit] {
	if period == nil {
		return nil
	}
	return lease.New(lease.Config[Limit]{
		Period: *period,
		Budget: s.budget,
		Scales: func(limits []Limit) ([]bucket.Scale, error) { return appendScales(nil, limits) },
		Lend: func(key string, limits []Limit, asks []bucket.Ask) (bucket.Outcome, []int64, error) {
			l, err := s.limits.of(limits, newScriptLimits)
			if err != nil {
				return bucket.Outcome{}, nil, err
			}
			return s.script.Lend(context.Background(), key, l, asks) // No request's context: a call is for many takes.
		},
	})
}

func checkLease(period *time.Duration) error {
	if period != nil && (*period < time.Millisecond || *period > time.Second) {
		return errorf("WithLease(%v): must be from 1ms to 1s, for example 10ms", *period)
	}
	return nil
}

// takeLeased is Take from a lease. It is not ok if the key has none. It writes to r, because a Result is large to return.
func (s *RedisStore) takeLeased(r *Result, key string, take *Take) (ok bool, err error) {
	c := bucket.Change{N: int64(take.N)}
	if scale, at, place, deficit := s.lease.Spend(key, take.Limits, c.N); scale != nil {
		r.describe(&c, true, &take.Limits[0], scale, deficit, 0)
		r.Source = SourceLease
		r.Receipt.sign(SourceLease, at, false)
		r.Receipt.set([]int64{place})
		return true, nil
	}
	var buf [2 * inWords]int64
	n := len(take.Limits)
	deficits, places := buf[:], buf[inWords:]
	if n > inWords {
		deficits, places = make([]int64, n), make([]int64, n)
	}
	a, ok, err := s.lease.Take(key, take.Limits, int64(take.N), deficits, places)
	if !ok || err != nil {
		return ok, s.redisError(key, err)
	}
	source := SourceLease
	if a.Asked {
		source = SourceRedis
	}
	*r = resultOf(&c, source, take.Limits, a.Scales, &bucket.Outcome{Allowed: a.Allowed, Deficits: deficits[:n], At: a.At})
	if a.Allowed {
		r.Receipt.sign(SourceLease, a.At, false)
		r.Receipt.set(places[:n])
		return true, nil
	}
	// Until Redis is asked again, such takes are refused, even if its bucket has refilled.
	r.RetryAfter = max(r.RetryAfter, ticksToDuration(a.Void))
	r.ResetAfter = max(r.ResetAfter, r.RetryAfter)
	r.Remaining = min(r.Remaining, take.N-1)
	return true, nil
}

// adjustLease adjusts the lease of the key by as many tokens as it can, and returns how many are left for Redis.
func (s *RedisStore) adjustLease(key string, change *Adjustment, c *bucket.Change) (r Result, left int64, err error) {
	l, err := s.limits.of(change.Limits, newScriptLimits)
	if err != nil {
		return Result{}, c.N, err
	}
	left = c.N
	deficits := make([]int64, len(change.Limits))
	switch {
	case c.Debt:
		left -= s.lease.Charge(key, change.Limits, c.N, deficits)
	case change.Receipt.Source() == SourceLease && s.lease.GiveBack(key, change.Limits, c.N, c.Back.At, c.Back.Deficits, deficits):
		left = 0
	}
	if left > 0 {
		return Result{}, left, nil
	}
	r = resultOf(c, SourceLease, change.Limits, l.Scales, &bucket.Outcome{Allowed: true, Deficits: deficits})
	if change.Receipt.took() {
		r.Receipt = change.Receipt.after(c, l.Scales)
	}
	return r, 0, nil
}

// lessHeld subtracts from deficits what is on lease here, because it is withdrawn but not used.
func (s *RedisStore) lessHeld(key string, scales []bucket.Scale, deficits []int64) {
	if s.lease == nil {
		return
	}
	held := make([]int64, len(scales))
	s.lease.Held(key, scales, held)
	for i := range deficits {
		deficits[i] = max(0, deficits[i]-held[i])
	}
}

// lookThroughLease is lessHeld for a state.
func (s *RedisStore) lookThroughLease(key string, state *bucket.State) {
	if s.lease == nil {
		return
	}
	scales, deficits := make([]bucket.Scale, len(state.Levels)), make([]int64, len(state.Levels))
	for i, l := range state.Levels {
		scales[i], deficits[i] = l.Scale, l.Deficit
	}
	s.lessHeld(key, scales, deficits)
	for i := range state.Levels {
		state.Levels[i].Deficit = deficits[i]
	}
}

// leases implements leaser.
func (s *RedisStore) leases() (period time.Duration, ok bool) {
	if s.lease == nil {
		return 0, false
	}
	return s.lease.Period(), true
}
