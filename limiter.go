// Package ratelimit is token-bucket rate limiting for Gin.
//
// A limiter is a gin.HandlerFunc: put it on an engine, a group or one route.
//
//	limiter := ratelimit.New(
//		ratelimit.WithCapacity(20),
//		ratelimit.WithRefillRate(ratelimit.PerSecond(10)),
//	)
//	router.Use(limiter)
//
// Each client then has a bucket of 20 tokens that refills by 10 a second. A request takes one. Where the
// bucket is empty the answer is 429 Too Many Requests, with a Retry-After that is true.
//
// One call to [New] is one set of buckets: register its value twice to share them, call New twice to keep
// them apart. Call it at start-up and never inside a handler, where each request would get buckets of its
// own and nothing would be limited.
//
// Buckets live in a [Store]: a [MemoryStore] in this process, or a [RedisStore] shared by all instances.
// Both decide alike, bit for bit, because a bucket is counted in integers and never rounded.
//
// The default key is the client's address as Gin tells it. Until engine.SetTrustedProxies is called, Gin
// believes X-Forwarded-For from everybody, and then a client that makes up addresses is not limited.
package ratelimit

import (
	"context"
	"crypto/sha256"
	"errors"
	"sync/atomic"
	"time"

	"github.com/gin-gonic/gin"
)

// New returns a middleware that limits requests. It panics on invalid options, with all of them in the
// message: registration is start-up. [NewLimiter] returns them as an error.
func New(opts ...Option) gin.HandlerFunc {
	l, err := NewLimiter(opts...)
	if err != nil {
		panic(err)
	}
	return l.Handle
}

// Limiter is a set of buckets, and what to do with requests that find theirs empty. It is safe for
// concurrent use and needs no closing.
type Limiter struct {
	name        string
	store       Store
	namespace   string // before each key in a store that others may use too
	limits      []Limit
	limitFunc   func(*gin.Context) []Limit
	key         KeyFunc
	cost        func(*gin.Context) int
	chargeIf    func(*gin.Context) bool
	options     *TakeOptions // nil: none
	optionStore OptionStore  // the store, where there are options
	headers     []HeaderFunc // nil: XHeaders, in the room that the decision has for it
	denied      func(*gin.Context, Result)
	failed      func(*gin.Context, error)
	observers   []func(context.Context, Event)
	debugSecret *[sha256.Size]byte // nil: no debug header

	mode    atomic.Int32
	waiting atomic.Int64 // requests that are held back
}

// NewLimiter returns a limiter whose Handle is the middleware, for those who also want [Limiter.Take] and
// [Limiter.Reset], or errors instead of panics. The error joins every mistake in the options.
func NewLimiter(opts ...Option) (*Limiter, error) {
	var c config
	Options(opts...)(&c)
	if err := c.validate(); err != nil {
		return nil, err
	}
	l := &Limiter{
		name:      "default",
		store:     c.store,
		limits:    append([]Limit{c.limit()}, c.further...),
		limitFunc: c.limitFunc,
		key:       c.key,
		cost:      c.cost,
		headers:   c.headers,
		denied:    c.denied,
		failed:    c.failed,
		observers: c.observers,
		chargeIf:  c.chargeIf,
	}
	l.SetMode(c.mode)
	if c.debugSecret != "" {
		digest := sha256.Sum256([]byte(c.debugSecret))
		l.debugSecret = &digest
	}
	if len(c.names) == 1 {
		l.name = c.names[0]
	}
	if l.store == nil {
		l.store = NewMemoryStore()
	} else {
		l.namespace = l.name + ":"
	}
	if options := (TakeOptions{MaxWait: c.maxWait, Ban: c.ban}); options != (TakeOptions{}) {
		l.options = &options
		l.optionStore, _ = l.store.(OptionStore) // validate has seen that it is one.
	}
	if l.key == nil {
		l.key = ByClientIP
	}
	if l.denied == nil {
		l.denied = DenyJSON
	}
	if l.failed == nil {
		l.failed = FailOpen
	}
	return l, nil
}

// Handle is the middleware. It returns, or aborts c, so it composes:
//
//	router.Use(func(c *gin.Context) {
//		if !internal(c) {
//			limiter.Handle(c)
//		}
//	})
//
// It calls c.Next only for [WithChargeIf]. Where limiters stack and a later one refuses, or cannot decide and
// aborts, the tokens that the earlier ones have taken for this request come back.
//
// A request whose client has gone by the time of the decision is aborted with 499, since nobody would read
// the answer.
//
// Behind it c.Writer is one of this package's, by which [Get] finds the decision. It passes everything on.
func (l *Limiter) Handle(c *gin.Context) {
	if p, ok := c.Writer.(*probe); ok {
		p.found = append(p.found, l)
		return
	}
	mode := l.Mode()
	if mode == Off || c.IsAborted() { // Aborted: by another limiter, in a function that calls several.
		return
	}
	d := &decision{limiter: l, mode: mode, key: l.key(c), cost: 1, limits: l.limits, earlier: lastDecision(c)}
	if l.cost != nil {
		d.cost = l.cost(c)
	}
	if l.limitFunc != nil {
		if limits := l.limitFunc(c); len(limits) > 0 {
			d.limits = limits
		}
	}
	ctx := c.Request.Context() // Never c itself: Gin reuses it.
	err := l.decide(ctx, c, d)
	switch {
	case mode == Shadow && err != nil:
		return
	case mode == Shadow:
		d.attach(c)
		d.chargeByOutcome(c)
		return
	case errors.Is(ctx.Err(), context.Canceled):
		const clientClosedRequest = 499 // nginx's
		c.AbortWithStatus(clientClosedRequest)
		return
	case err != nil:
		l.failed(c, err)
		if c.IsAborted() {
			d.earlier.refund(c)
		}
		return
	}
	d.attach(c)
	h := c.Writer.Header()
	if l.headers == nil && !(d.earlier != nil && tighterXHeaders(h, &d.result)) {
		writeXHeaders(h, &d.result, &d.xHeaders)
	}
	for _, write := range l.headers {
		write(h, l.name, d.result)
	}
	if l.debugSecret != nil {
		l.debug(h, c, d)
	}
	if !d.result.Allowed {
		d.earlier.refund(c)
		setRefusalHeaders(h, d.result)
		l.denied(c, d.result)
		c.Abort()
		return
	}
	d.chargeByOutcome(c)
}

// Take withdraws n tokens from the buckets of key, as a request would, or none if any holds too few. n == 0
// looks and changes nothing. The key is as for [Limiter.Reset]. The limits are the static ones; see [WithLimitFunc]
// for the others. It is for work that does not come as a request: messages, jobs, admin pages. The mode does not
// matter to it, and with [WithMaxWait] it is the caller's to wait for Result.Wait.
//
// A refusal is a Result. The error is the store's, or about a negative n; no error handler is asked.
func (l *Limiter) Take(ctx context.Context, key string, n int) (Result, error) {
	if len(l.observers) == 0 && l.options == nil {
		return l.store.Take(ctx, l.storeKey(key), n, l.limits)
	}
	d := decision{limiter: l, key: key, cost: n, limits: l.limits}
	start := time.Now()
	var err error
	d.result, err = l.ask(ctx, key, n, l.limits)
	if len(l.observers) > 0 {
		l.observe(ctx, "", &d, err, time.Since(start))
	}
	return d.result, err
}

// Reset forgets key, which fills its buckets and lifts its ban. The key is what the limiter's [KeyFunc] returns;
// [AddressKey], [HeaderKey], [BearerKey] and [JoinKeys] make those of this package's. The error is the store's.
func (l *Limiter) Reset(ctx context.Context, key string) error {
	return l.store.Reset(ctx, l.storeKey(key))
}

// decide asks the store about a request, waits if it is to wait, and tells the observers.
func (l *Limiter) decide(ctx context.Context, c *gin.Context, d *decision) error {
	var start time.Time
	if len(l.observers) > 0 {
		start = time.Now()
	}
	var err error
	d.result, err = l.ask(ctx, d.key, d.cost, d.limits)
	if d.result.Allowed {
		d.charged = d.cost
	}
	var elapsed time.Duration
	if len(l.observers) > 0 {
		elapsed = time.Since(start)
	}
	if d.result.Wait > 0 && d.mode != Shadow {
		l.wait(ctx, d)
	}
	if len(l.observers) > 0 {
		l.observe(ctx, c.FullPath(), d, err, elapsed)
	}
	return err
}

func (l *Limiter) ask(ctx context.Context, key string, n int, limits []Limit) (Result, error) {
	if l.options == nil {
		return l.store.Take(ctx, l.storeKey(key), n, limits)
	}
	return l.optionStore.TakeWith(ctx, l.storeKey(key), n, limits, *l.options)
}

func (l *Limiter) observe(ctx context.Context, route string, d *decision, err error, elapsed time.Duration) {
	event := Event{
		Name:    l.name,
		Route:   route,
		Key:     Key{d.key},
		Cost:    d.cost,
		Result:  d.result,
		Err:     err,
		Reason:  reasonOf(d, err),
		Elapsed: elapsed,
		Waited:  d.waited,
		Waiting: int(l.waiting.Load()),
	}
	for _, observe := range l.observers {
		observe(ctx, event)
	}
}

func (l *Limiter) storeKey(key string) string {
	key = boundKey(key)
	if l.namespace == "" {
		return key
	}
	return l.namespace + key
}
