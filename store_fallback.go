package ratelimit

import (
	"context"
	"errors"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sony/gobreaker/v2"

	"github.com/gin-ratelimit/ratelimit/internal/notify"
)

// FallbackStore is a Store around two. The primary decides; while it cannot, the fallback does, at a share of
// the limits. Mostly they are Redis and this process:
//
//	store, err := ratelimit.NewFallbackStore(redisStore, ratelimit.NewMemoryStore(),
//		ratelimit.WithShare(1.0/replicas))
//
// What the fallback decides has [SourceFallback], and its Limit is the share. A take that costs more than the
// share holds is refused, with a RetryAfter of one cool-off and not of [Never].
//
// # The breaker
//
// If the primary fails a call, the fallback decides it. After several failures in a row ([WithTripAfter]) the primary is
// no longer asked, so that an outage does not slow requests down. Of calls that fail together only the first counts: a
// broken connection is one failure, however many takes were on it, and so is one late reply. After a cool-off
// ([WithCoolOff]) one call asks the primary again, while the others still go to the fallback. If it succeeds, the primary
// is back; if it fails, another cool-off begins. There is no goroutine and no timer.
//
//	           failures in a row
//	+--------+ >= WithTripAfter   +------+  cool-off is over  +-----------+
//	| closed | -----------------> | open | -----------------> | half-open |
//	+--------+                    +------+                    +-----------+
//	the primary     the fallback     ^                        one call asks the primary,
//	is asked        decides          |  that call fails       the fallback decides the others
//	    ^                            +------------------------------|
//	    +-----------------------------------------------------------+
//	                          that call succeeds
//
// Errors about the call or its key ([ErrArgument], [ErrForeignState]) are returned as they are, and so is any error once
// the caller's context has ended. They do not count as failures, and neither does [context.Canceled], so clients that hang
// up cannot open the breaker. What a [RedisStore] decides from memory ([SourceDenyCache], [SourceLease]) does not count as
// a success, because Redis was not asked. A panic passes through, and counts as a failure.
//
// # The bound
//
// For each key, the primary admits at most C + r·W tokens in W seconds, as it does alone: C is the limit's
// capacity and r its rate. During an outage of T seconds, M processes with a fallback each admit, in addition,
// at most
//
//	M · (C' + r'·T)
//
// where C' and r' are the share of C and r, but C' is at least 1. With WithShare(1.0/M) and C ≥ M that is at
// most C + r·T: an outage costs no more than a second bucket would. T is counted from a fallback's first
// decision to its last, up to one and a half cool-offs and a probe after the primary is back. Outages do not
// add up beyond M · (C' + r'·W) in any W seconds, however often the stores take turns, because the fallback's
// buckets refill in between at their own rate.
//
// The bound leaves out what the fallback does not admit. A primary that comes back without its state has full buckets, C
// more. Tokens that are given back ([Store.Adjust]) may be taken again; they go to the store that took them, and a debt
// goes to the store that decides at that time.
//
// The fallback is not charged while the primary works: that would double the work of every request, to save at most C'
// in an outage.
type FallbackStore struct {
	primary, fallback Store
	share             share
	coolOff           time.Duration
	onSwitch          func(degraded bool, cause error)
	base              time.Time

	breaker  *gobreaker.TwoStepCircuitBreaker[struct{}]
	outage   atomic.Pointer[outage] // nil while the breaker is closed
	failures atomic.Uint64          // how many were counted so far
	failing  atomic.Bool            // whether the breaker may have counted failures, which a success would reset

	mu       sync.Mutex // guards the rest; held while a call is reported to the breaker
	cause    error      // how that call failed
	switches []storeSwitch
	calls    notify.Serial // of onSwitch
}

// outage is a cool-off, and what follows it until the breaker changes again.
type outage struct {
	until time.Duration // since base
	err   error         // why the primary is not asked
}

type storeSwitch struct {
	degraded bool
	cause    error
}

// askStore makes a call to either store, by its limits.
type askStore func(store Store, limits []Limit) (Result, error)

// FallbackOption configures [NewFallbackStore].
type FallbackOption func(*fallbackConfig)

type fallbackConfig struct {
	share     float64
	tripAfter int
	coolOff   time.Duration
	onSwitch  func(bool, error)
	mistakes  []error
}

// WithShare sets the share of the limits by which the fallback decides, above 0 and up to 1. With a fallback in each of
// three processes it is 1.0/3, which counts as exactly a third, although the float is a little less. Default: 1.
//
// Capacity and rate are multiplied by it and rounded down, the capacity to no less than 1, the rate to no less than one
// token in 142 years. The share of a limit is always a valid limit.
func WithShare(share float64) FallbackOption {
	return func(c *fallbackConfig) { c.share = share }
}

// WithTripAfter sets after how many failures in a row the primary is no longer asked. Default: 5.
func WithTripAfter(failures int) FallbackOption {
	return func(c *fallbackConfig) { c.tripAfter = failures }
}

// WithCoolOff sets how long the primary is not asked after that. Up to half as much is added at random each time, so that
// processes that lost the primary together do not return to it together. The call that asks again waits for the primary,
// up to [WithTimeout] if that is Redis. Default: 1 s.
func WithCoolOff(shortest time.Duration) FallbackOption {
	return func(c *fallbackConfig) { c.coolOff = shortest }
}

// WithOnSwitch calls onSwitch when the fallback takes over, with the failure that caused it, and when the primary is back,
// with nil. It is called on the goroutine of a request, with no locks held, for one switch after the other, in order. Hand
// slow work to a goroutine of your own. Default: no call.
func WithOnSwitch(onSwitch func(degraded bool, cause error)) FallbackOption {
	return func(c *fallbackConfig) {
		if onSwitch == nil {
			c.mistakes = append(c.mistakes, errorf("WithOnSwitch(nil): needs a function"))
		}
		c.onSwitch = onSwitch
	}
}

// NewFallbackStore returns a store that decides by primary, and by fallback while that cannot. The error joins
// every mistake in the arguments.
func NewFallbackStore(primary, fallback Store, opts ...FallbackOption) (*FallbackStore, error) {
	c := fallbackConfig{share: 1, tripAfter: 5, coolOff: time.Second}
	for i, opt := range opts {
		if opt == nil {
			return nil, errorf("option %d is nil", i)
		}
		opt(&c)
	}
	if isNil(primary) {
		c.mistake("NewFallbackStore: the primary is nil: needs a Store, for example a RedisStore")
	}
	if isNil(fallback) {
		c.mistake("NewFallbackStore: the fallback is nil: needs a Store, for example NewMemoryStore()")
	}
	if !(c.share > 0 && c.share <= 1) { // Written so that NaN is refused too.
		c.mistake("WithShare(%v): must be above 0 and at most 1, for example 1.0/3; note that 1/3 is 0 in integers", c.share)
	}
	if c.tripAfter < 1 {
		c.mistake("WithTripAfter(%d): must be at least 1, for example 5", c.tripAfter)
	}
	if c.coolOff <= 0 || c.coolOff > day {
		c.mistake("WithCoolOff(%v): must be positive and at most 24h, for example time.Second", c.coolOff)
	}
	if err := errors.Join(c.mistakes...); err != nil {
		return nil, err
	}
	s := &FallbackStore{
		primary:  primary,
		fallback: fallback,
		coolOff:  c.coolOff,
		onSwitch: c.onSwitch,
		base:     time.Now(),
	}
	s.share.set(c.share)
	s.breaker = gobreaker.NewTwoStepCircuitBreaker[struct{}](gobreaker.Settings{
		Timeout: c.coolOff, // No longer than the outage, so the breaker lets the probe through.
		ReadyToTrip: func(counts gobreaker.Counts) bool {
			return int64(counts.ConsecutiveFailures) >= int64(c.tripAfter)
		},
		IsExcluded:    func(err error) bool { return errors.Is(err, errNoVerdict) },
		OnStateChange: s.onStateChange,
	})
	return s, nil
}

func (c *fallbackConfig) mistake(format string, args ...any) {
	c.mistakes = append(c.mistakes, errorf(format, args...))
}

// Degraded reports whether the fallback decides. It is true until the primary has answered again.
func (s *FallbackStore) Degraded() bool { return s.outage.Load() != nil }

// Take implements [Store].
func (s *FallbackStore) Take(ctx context.Context, key string, take Take) (Result, error) {
	return s.decide(ctx, take.N, take.Limits, func(store Store, limits []Limit) (Result, error) {
		take := take
		take.Limits = limits
		return store.Take(ctx, key, take)
	})
}

// Adjust implements [Store]. A give-back goes to the store that took. If that is the primary, and it is not asked now, the
// give-back is dropped, which is an error. A debt goes to the store that decides now.
func (s *FallbackStore) Adjust(ctx context.Context, key string, change Adjustment) (Result, error) {
	adjust := func(store Store, limits []Limit) (Result, error) {
		change := change
		change.Limits = limits
		return store.Adjust(ctx, key, change)
	}
	if change.N <= 0 || !change.Receipt.took() {
		return s.decide(ctx, 0, change.Limits, adjust)
	}
	var result Result
	var err error
	if change.Receipt.popSide() == fallbackSide {
		result, err = adjust(s.fallback, s.share.of(change.Limits))
		result.Source = SourceFallback
		result.Receipt.pushSide(fallbackSide)
	} else {
		result, _, err = s.try(ctx, change.Limits, adjust)
		result.Receipt.pushSide(primarySide)
	}
	if err != nil {
		return Result{}, err
	}
	return result, nil
}

// Look implements [Store]. It returns what the store that decides now holds.
func (s *FallbackStore) Look(ctx context.Context, key string, limits []Limit) (Usage, error) {
	var usage Usage
	look := func(store Store, limits []Limit) (_ Result, err error) {
		usage, err = store.Look(ctx, key, limits)
		return Result{Source: usage.Source}, err
	}
	_, decided, cause := s.try(ctx, limits, look)
	if decided {
		return usage, cause
	}
	if _, err := look(s.fallback, s.share.of(limits)); err != nil {
		return Usage{}, s.bothFailed(cause, err)
	}
	usage.Source = SourceFallback
	return usage, nil
}

// Reset implements [Store]. It resets key in both stores, and fails if either does: during an outage, always.
func (s *FallbackStore) Reset(ctx context.Context, key string) (found bool, err error) {
	_, _, err = s.try(ctx, nil, func(primary Store, _ []Limit) (_ Result, err error) {
		found, err = primary.Reset(ctx, key)
		return Result{}, err
	})
	foundHere, errHere := s.fallback.Reset(ctx, key)
	return found || foundHere, errors.Join(err, errHere)
}

// check implements checker. It returns the warnings of both stores.
func (s *FallbackStore) check(ctx context.Context) []Warning {
	var warnings []Warning
	for _, store := range []Store{s.primary, s.fallback} {
		if c, ok := store.(checker); ok {
			warnings = append(warnings, c.check(ctx)...)
		}
	}
	return warnings
}

// leases implements leaser. The leases are those of the primary.
func (s *FallbackStore) leases() (period time.Duration, ok bool) {
	if l, ok := s.primary.(leaser); ok {
		return l.leases()
	}
	return 0, false
}

// decide makes a call about n tokens to the primary, and, if that cannot decide, to the fallback.
func (s *FallbackStore) decide(ctx context.Context, n int, limits []Limit, ask askStore) (Result, error) {
	result, decided, cause := s.try(ctx, limits, ask)
	if decided {
		result.Receipt.pushSide(primarySide)
		return result, cause
	}
	result, err := ask(s.fallback, s.share.of(limits))
	if err != nil {
		return Result{}, s.bothFailed(cause, err)
	}
	result.Source = SourceFallback
	result.Receipt.pushSide(fallbackSide)
	if result.RetryAfter == Never && fits(n, limits) {
		result.RetryAfter = s.coolOff
	}
	return result, nil
}

// bothFailed is the error of a call that neither store could decide.
func (s *FallbackStore) bothFailed(cause, err error) error {
	if errors.Is(err, ErrArgument) {
		return err // The primary would have returned the same.
	}
	return errorf("%w; and the fallback: %w", cause, err)
}

// fits reports whether n tokens are within every capacity.
func fits(n int, limits []Limit) bool {
	for _, limit := range limits {
		if n > limit.Capacity {
			return false
		}
	}
	return true
}

var (
	errNoVerdict = errors.New("neither a success nor a failure of the store")
	errPanicked  = errorf("the primary store panicked")
)

// try asks the primary, if the breaker lets it. If the primary does not decide, err is the reason, and the fallback should
// decide.
func (s *FallbackStore) try(ctx context.Context, limits []Limit, ask askStore) (result Result, decided bool, err error) {
	var probe func(error)
	began := s.failures.Load()
	if o := s.outage.Load(); o != nil {
		if time.Since(s.base) < o.until {
			return Result{}, false, o.err
		}
		if probe, err = s.breaker.Allow(); err != nil {
			return Result{}, false, o.err // Another call is the probe.
		}
	}
	verdict := errPanicked
	defer func() { s.report(probe, began, verdict) }()
	result, err = ask(s.primary, limits)
	switch {
	case err == nil && (result.Source == SourceDenyCache || result.Source == SourceLease): // Redis was not asked, and may be down.
		verdict = errNoVerdict
		return result, true, nil
	case err == nil:
		verdict = nil
		return result, true, nil
	case errors.Is(err, ErrArgument), errors.Is(err, ErrForeignState), ctx.Err() != nil:
		verdict = errNoVerdict
		return Result{}, true, err
	case errors.Is(err, context.Canceled):
		verdict = errNoVerdict
		return Result{}, false, err
	default:
		verdict = err
		return Result{}, false, err
	}
}

// report reports to the breaker how a call ended: nil, a failure, or errNoVerdict. probe is the breaker's callback, if the
// breaker let the call through; else nil. began is the count of failures when the call began.
//
// While the breaker is closed, calls do not ask it. It gets reports only of failures, and of the success after one. That
// saves its lock and its clock, which cost more than a take in memory.
func (s *FallbackStore) report(probe func(error), began uint64, verdict error) {
	if probe == nil {
		if verdict == nil && !s.failing.Load() || errors.Is(verdict, errNoVerdict) {
			return
		}
		if verdict != nil && !s.failures.CompareAndSwap(began, began+1) {
			return // Another call that was under way has failed first, and only that counts.
		}
		if s.outage.Load() != nil {
			return // The call began before the outage, which only a probe may end or prolong.
		}
		var err error
		if probe, err = s.breaker.Allow(); err != nil {
			return
		}
	}
	// failing is cleared before a success is reported, and set after a failure is, so that it is never false while the
	// breaker's count is above 0.
	if verdict == nil {
		s.failing.Store(false)
	}
	s.mu.Lock()
	s.cause = verdict
	probe(verdict)
	s.mu.Unlock()
	if verdict != nil {
		s.failing.Store(true)
	}
	s.callOnSwitch()
}

// onStateChange records a change of the breaker's state. The breaker calls it with its own lock held, and, unless the new
// state is half-open, with s.mu held. Half-open still counts as the outage.
func (s *FallbackStore) onStateChange(_ string, from, to gobreaker.State) {
	switch to {
	case gobreaker.StateOpen:
		s.outage.Store(&outage{
			until: time.Since(s.base) + s.coolOff + rand.N(s.coolOff/2+1),
			err:   errorf("circuit open, primary store not asked: %w", s.cause),
		})
	case gobreaker.StateClosed:
		s.outage.Store(nil)
	case gobreaker.StateHalfOpen:
		return
	}
	if s.onSwitch != nil && (from == gobreaker.StateClosed || to == gobreaker.StateClosed) {
		s.switches = append(s.switches, storeSwitch{to == gobreaker.StateOpen, s.cause})
	}
}

// callOnSwitch calls onSwitch for the switches that it was not called for so far.
func (s *FallbackStore) callOnSwitch() {
	s.calls.Run(&s.mu, func() func() {
		if len(s.switches) == 0 {
			return nil
		}
		next := s.switches[0]
		s.switches = s.switches[1:]
		return func() { s.onSwitch(next.degraded, next.cause) }
	})
}
