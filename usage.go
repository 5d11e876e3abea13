package ratelimit

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/gin-gonic/gin"
)

// Usage returns what the buckets of this request's key hold, by all limits that apply to the request: how much is left,
// for a page of usage or a header of your own. It takes nothing, counts no strike and is not observed. The Usage of a
// request that is not limited ([Unlimited]) has no limits. The error is the store's.
func (l *Limiter) Usage(c *gin.Context) (Usage, error) {
	limits := l.limitsOf(c)
	if isUnlimited(limits) {
		return Usage{}, nil
	}
	return l.store.Look(c.Request.Context(), l.storeKey(l.key(c)), limits)
}

// Peek returns what the buckets of key hold, for admin pages. It charges nothing, counts no strike and is not observed.
// The key is as for [Limiter.Reset]. Without limits it goes by those of the key's last request, such as its plan's, as
// the store remembers them; if the store remembers none, by the limiter's own, and [Usage].Static is true. Name the limits
// if they have changed since, or use [Limiter.Usage] in a request. The error is the store's, or about a limit.
//
//	usage, err := limiter.Peek(ctx, ratelimit.ValueKey("user_id", 42)) // usage.Limits[0].Remaining: 193
func (l *Limiter) Peek(ctx context.Context, key string, limits ...Limit) (Usage, error) {
	key = l.storeKey(key)
	if len(limits) > 0 {
		return l.store.Look(ctx, key, withCapacities(limits))
	}
	usage, err := l.store.Look(ctx, key, nil)
	if err != nil {
		return usage, err
	}
	if len(usage.Limits) == 0 {
		own, err := l.store.Look(ctx, key, l.limits)
		own.Static = true
		own.BannedFor, own.Strikes = max(own.BannedFor, usage.BannedFor), max(own.Strikes, usage.Strikes)
		return own, err
	}
	for i := range min(len(usage.Limits), len(l.limits)) {
		held, _ := scaleOf(usage.Limits[i].Limit)
		if own, err := scaleOf(l.limits[i]); err == nil && own == held {
			usage.Limits[i].Limit = l.limits[i] // The same limit as it was configured: "60/m", not "1/s".
		}
	}
	return usage, nil
}

// Take withdraws n tokens from the buckets of key, as a request would, or none if any holds too few. The key is as for
// [Limiter.Reset]. The limits are the static ones, not those of [WithLimitFunc]. Take is for work that does not come as a
// request: messages, jobs. With [WithMaxWait] the caller has to wait for Result.Wait, or can use [Limiter.Wait]. In [Off]
// it allows, and changes nothing; in [Shadow] it answers as in [Enforce]. n == 0 looks, and is not observed;
// [Limiter.Peek] returns more.
//
// A refusal is a Result. The error is the store's, or about a negative n; no error handler is asked.
func (l *Limiter) Take(ctx context.Context, key string, n int) (Result, error) {
	var d decision
	err := l.take(ctx, &d, key, Take{N: n, Limits: l.limits, MaxWait: l.maxWait, Ban: l.ban})
	return d.result, err
}

// Wait takes n tokens from the buckets of key, and returns when it is their turn: takes go on at the refill rate, in order
// of arrival. It waits up to ctx's deadline, or 24 hours without one. If the tokens cannot be there in time, it takes
// nothing, and at once returns a Result that is not Allowed. Otherwise it is as [Limiter.Take].
//
// The error is the store's, or ctx's if that ends while Wait waits. Then the place in the queue is given up.
func (l *Limiter) Wait(ctx context.Context, key string, n int) (Result, error) {
	if err := ctx.Err(); err != nil {
		return Result{}, err
	}
	maxWait := day
	if deadline, ok := ctx.Deadline(); ok {
		maxWait = max(time.Microsecond, min(maxWait, time.Until(deadline)))
	}
	var d decision
	err := l.take(ctx, &d, key, Take{N: n, Limits: l.limits, MaxWait: maxWait, Ban: l.ban})
	if err != nil || d.result.Wait == 0 {
		return d.result, err
	}
	l.wait(ctx, "", &d)
	if !d.result.Allowed {
		return d.result, ctx.Err()
	}
	d.result.Wait = 0 // It is over.
	return d.result, nil
}

// take is Take and Wait, up to the wait. It writes to d.
func (l *Limiter) take(ctx context.Context, d *decision, key string, take Take) error {
	if l.Mode() == Off && take.N >= 0 {
		first := l.limits[0]
		d.result = Result{Allowed: true, Name: l.name, Limit: first, Remaining: first.Capacity}
		return nil
	}
	d.limiter, d.key, d.cost, d.limits = l, key, take.N, take.Limits
	elapsed, err := l.ask(ctx, d, &take)
	if take.N != 0 {
		for _, observe := range l.observing() {
			observe(ctx, l.event("", d, err, elapsed, 0))
		}
	}
	return err
}

// Name returns the limiter's name, "default" unless [WithName] was given.
func (l *Limiter) Name() string { return l.name }

// Limits returns the limiter's own limits: those of its options, and not those of [WithLimitFunc].
func (l *Limiter) Limits() []Limit { return slices.Clone(l.limits) }

// Ban returns what [WithBan] was given, with Max filled in: {After: 50, Within: time.Minute, For: time.Hour, Max: time.Hour}.
// The zero Ban is none. After is how many [Usage].Strikes start a ban.
func (l *Limiter) Ban() Ban { return l.ban.withDefaults() }

// Store returns where the limiter's buckets live.
func (l *Limiter) Store() Store { return l.store }

// AddObserver is [WithObserver] for a limiter that is already in use: observe is called with the decisions from now on.
func (l *Limiter) AddObserver(observe func(context.Context, Event)) {
	if observe == nil {
		panic("ratelimit: AddObserver(nil): needs a function, for example NewStats().Observe")
	}
	for {
		old := l.observers.Load()
		next := []func(context.Context, Event){observe}
		if old != nil {
			next = append(slices.Clone(*old), observe)
		}
		if l.observers.CompareAndSwap(old, &next) {
			return
		}
	}
}

// observing returns the observers.
func (l *Limiter) observing() []func(context.Context, Event) {
	if observers := l.observers.Load(); observers != nil {
		return *observers
	}
	return nil
}

// Must returns l, or panics with err: for limiters that are made at start-up.
//
//	var login = ratelimit.Must(ratelimit.NewLimiter(ratelimit.WithLimit(ratelimit.PerMinute(5).Burst(5))))
func Must(l *Limiter, err error) *Limiter {
	if err != nil {
		panic(err)
	}
	if l == nil {
		panic(fmt.Sprintf("ratelimit: Must(%v, nil): needs a limiter, as NewLimiter makes it", l))
	}
	return l
}
