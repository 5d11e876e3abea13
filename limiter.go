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
	"errors"
	"fmt"
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
	name      string
	store     Store
	namespace string // before each key in a store that others may use too
	limits    []Limit
	limitFunc func(*gin.Context) []Limit
	key       KeyFunc
	cost      func(*gin.Context) int
	headers   []HeaderFunc // nil: XHeaders, in the room that the decision has for it
	denied    func(*gin.Context, Result)
	failed    func(*gin.Context, error)
	observers []func(context.Context, Event)
}

// NewLimiter returns a limiter whose Handle is the middleware, for those who also want [Limiter.Take] and
// [Limiter.Reset], or errors instead of panics. The error joins every mistake in the options.
func NewLimiter(opts ...Option) (*Limiter, error) {
	var c config
	for i, opt := range opts {
		if opt == nil {
			return nil, fmt.Errorf("ratelimit: option %d is nil", i)
		}
		opt(&c)
	}
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
	}
	if len(c.names) == 1 {
		l.name = c.names[0]
	}
	if l.store == nil {
		l.store = NewMemoryStore()
	} else {
		l.namespace = l.name + ":"
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

// Handle is the middleware. It returns, or aborts c; it does not call c.Next, so it composes:
//
//	router.Use(func(c *gin.Context) {
//		if !internal(c) {
//			limiter.Handle(c)
//		}
//	})
//
// A request whose client has gone by the time of the decision is aborted with 499, since nobody would read
// the answer.
func (l *Limiter) Handle(c *gin.Context) {
	ctx := c.Request.Context() // Never c itself: Gin reuses it.
	key, cost, limits := l.key(c), 1, l.limits
	if l.cost != nil {
		cost = l.cost(c)
	}
	if l.limitFunc != nil {
		if own := l.limitFunc(c); len(own) > 0 {
			limits = own
		}
	}
	result, err := l.take(ctx, c, key, cost, limits)
	if errors.Is(ctx.Err(), context.Canceled) {
		const clientClosedRequest = 499 // nginx's
		c.AbortWithStatus(clientClosedRequest)
		return
	}
	if err != nil {
		l.failed(c, err)
		return
	}
	d := &decision{limiter: l, result: result, earlier: lastDecision(c)}
	c.Set(decisionKey{}, d)
	h := c.Writer.Header()
	if l.headers == nil {
		writeXHeaders(h, result, &d.xHeaders)
	}
	for _, write := range l.headers {
		write(h, l.name, result)
	}
	if !result.Allowed {
		setRefusalHeaders(h, result)
		l.denied(c, result)
		c.Abort()
	}
}

// Take withdraws n tokens from the buckets of key, as a request would, or none if any holds too few. n == 0
// looks and changes nothing. The limits are the static ones; see [WithLimitFunc] for the others. It is for
// work that does not come as a request: messages, jobs, admin pages.
//
// A refusal is a Result. The error is the store's, or about a negative n; no error handler is asked.
func (l *Limiter) Take(ctx context.Context, key string, n int) (Result, error) {
	return l.take(ctx, nil, key, n, l.limits)
}

// Reset forgets key, which fills its buckets.
func (l *Limiter) Reset(ctx context.Context, key string) error {
	return l.store.Reset(ctx, l.storeKey(key))
}

// take asks the store and tells the observers. c is nil outside of a request.
func (l *Limiter) take(ctx context.Context, c *gin.Context, key string, n int, limits []Limit) (Result, error) {
	if len(l.observers) == 0 {
		return l.store.Take(ctx, l.storeKey(key), n, limits)
	}
	start := time.Now()
	result, err := l.store.Take(ctx, l.storeKey(key), n, limits)
	event := Event{
		Name:    l.name,
		Key:     Key{key},
		Cost:    n,
		Result:  result,
		Err:     err,
		Reason:  reasonOf(key, result, err),
		Elapsed: time.Since(start),
	}
	if c != nil {
		event.Route = c.FullPath()
	}
	for _, observe := range l.observers {
		observe(ctx, event)
	}
	return result, err
}

func (l *Limiter) storeKey(key string) string {
	key = boundKey(key)
	if l.namespace == "" {
		return key
	}
	return l.namespace + key
}

// Get returns the decision on this request: the refusal, or, where limiters stack, the one with the fewest
// tokens left. It is false where no limiter has decided: none has run, or its store could not.
func Get(c *gin.Context) (Result, bool) {
	d := lastDecision(c)
	if d == nil {
		return Result{}, false
	}
	tightest := d.result
	for ; d != nil; d = d.earlier {
		if tightest.Allowed && (!d.result.Allowed || d.result.Remaining < tightest.Remaining) {
			tightest = d.result
		}
	}
	return tightest, true
}

// decision is what one limiter did to one request.
type decision struct {
	limiter  *Limiter
	result   Result
	earlier  *decision // of the limiter before on the same request
	xHeaders xHeaderValues
}

type decisionKey struct{}

func lastDecision(c *gin.Context) *decision {
	value, _ := c.Get(decisionKey{})
	d, _ := value.(*decision)
	return d
}
