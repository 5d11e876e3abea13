package ratelimit

import (
	"context"
	"crypto/sha256"
	"errors"
	"net/http"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/gin-gonic/gin"
)

// New returns a middleware that limits requests. It panics on invalid options, with all of them in the message, because
// middleware is registered at start-up. [NewLimiter] returns them as an error.
func New(opts ...Option) gin.HandlerFunc {
	l, err := NewLimiter(opts...)
	if err != nil {
		panic(err)
	}
	return l.Handle
}

// Limiter is a set of buckets, and what to do with requests that find theirs empty. [NewLimiter] makes one. There are
// three ways to use it:
//
//   - [Limiter.Handle] is the middleware: it limits the requests of the routes that it is registered on.
//   - [Limiter.Take] decides at once on work that is not a request, such as a message from a queue, and returns a
//     [Result].
//   - [Limiter.Wait] reserves tokens and blocks until they are there, such as before a call to an API that has a limit
//     of its own.
//
// All three share the limiter's buckets. [Limiter.Usage] and [Limiter.Peek] look without taking, [Limiter.Reset] fills
// a key's buckets, and [Limiter.SetMode] switches the limiter off while the program runs.
//
// A Limiter is safe for concurrent use and needs no closing.
type Limiter struct {
	settings

	name        string
	namespace   string // before each key in a store that others may use too
	limits      []Limit
	capacity    string             // of the first limit, as text
	debugSecret *[sha256.Size]byte // nil: no debug header

	warned    seldom
	observers atomic.Pointer[[]func(context.Context, Event)] // nil: none
	mode      atomic.Int32
	waiting   atomic.Int64 // requests that are held back
}

// NewLimiter returns a limiter, whose Handle is the middleware. It is for programs that also call [Limiter.Take] or
// [Limiter.Reset], or want an error instead of a panic. The error joins every mistake in the options.
func NewLimiter(opts ...Option) (*Limiter, error) {
	var c config
	Options(opts...)(&c)
	if err := c.validate(); err != nil {
		return nil, err
	}
	l := &Limiter{settings: c.settings.withDefaults(), name: "default", limits: c.limits()}
	l.capacity = strconv.Itoa(l.limits[0].Capacity)
	l.SetMode(c.mode)
	if len(c.names) == 1 {
		l.name = c.names[0]
	}
	if c.store != nil {
		l.namespace = l.name + ":"
	}
	if len(c.observers) > 0 {
		l.observers.Store(&c.observers)
	}
	if c.debugSecret != "" {
		digest := sha256.Sum256([]byte(c.debugSecret))
		l.debugSecret = &digest
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
// If the client hangs up, nothing changes for a request that is admitted: the handlers run as without a limiter. A request
// that is held back ([WithMaxWait]) is given up, with 499, and gives its place back.
//
// A request that goes through engine.HandleContext again counts as another request, because Gin drops what is known about
// the first.
//
// Afterwards c.Writer is one of this package's, by which [Get] finds the decision. It passes everything on.
func (l *Limiter) Handle(c *gin.Context) {
	if p, ok := c.Writer.(*probe); ok {
		p.found = append(p.found, l)
		return
	}
	if d := l.admit(c); d != nil {
		d.chargeByOutcome(c, d.earlier)
	}
}

// admit decides on a request, and answers one that is not admitted, which aborts it. It returns the decision on one
// that is, and nil if the limiter has nothing more to do with it.
func (l *Limiter) admit(c *gin.Context) *decision {
	mode := l.Mode()
	if mode == Off || c.IsAborted() || l.skipped(c) { // A function that calls several limiters may go on after one aborts.
		return nil
	}
	limits := l.limitsOf(c)
	if isUnlimited(limits) {
		return nil
	}
	d := &decision{limiter: l, mode: mode, key: l.key(c), cost: 1, limits: limits, earlier: lastDecision(c)}
	if l.cost != nil {
		d.cost = l.cost(c)
	}
	ctx := c.Request.Context() // Never c itself: Gin reuses it.
	err := l.decide(ctx, c, d)
	switch {
	case errors.Is(err, context.Canceled) && ctx.Err() != nil:
		return nil // The client has hung up, and so the store has given up. It has not failed, so the handlers run as without a limiter.
	case err != nil:
		l.fail(c, d, err)
		return nil
	case d.gone:
		d.earlier.release(c)
		const clientClosedRequest = 499 // nginx's
		c.AbortWithStatus(clientClosedRequest)
		return nil
	}
	d.attach(c)
	d.debug = l.debugSecret != nil && l.knowsSecret(c)
	if !d.result.Allowed && mode != Shadow {
		l.refuse(c, d)
		return nil
	}
	d.writeHeaders(c.Writer.Header())
	return d
}

// refuse answers a request that was refused. What earlier limiters have taken comes back first, so that the headers
// include it.
func (l *Limiter) refuse(c *gin.Context, d *decision) {
	h := c.Writer.Header()
	if d.earlier != nil {
		d.earlier.release(c)
		d.earlier.rewriteHeaders(h)
	}
	d.writeHeaders(h)
	setRefusalHeaders(h, d.result)
	c.Status(http.StatusTooManyRequests) // In case that the denied handler sets no status.
	l.denied(c, d.result)
	c.Abort()
}

// fail lets the error handler answer a request that could not be decided.
func (l *Limiter) fail(c *gin.Context, d *decision, err error) {
	if d.mode == Shadow {
		return
	}
	l.failed(c, err)
	if !c.IsAborted() {
		return
	}
	d.earlier.release(c)
	if !c.Writer.Written() && c.Writer.Status() == http.StatusOK {
		c.Status(http.StatusServiceUnavailable) // The handler has aborted and set no status. The default, 200, would be wrong.
	}
}

// Reset forgets key, which fills its buckets and lifts its ban. The key is what the limiter's [KeyFunc] returns;
// [AddressKey], [HeaderKey], [BearerKey] and [JoinKeys] make the keys of this package's KeyFuncs. It reports whether there
// was anything to forget; if not, the key may be the wrong one. The error is the store's.
func (l *Limiter) Reset(ctx context.Context, key string) (found bool, err error) {
	return l.store.Reset(ctx, l.storeKey(key))
}

// decide asks the store about a request, waits if it has to, and notifies the observers.
func (l *Limiter) decide(ctx context.Context, c *gin.Context, d *decision) error {
	take := Take{N: d.cost, Limits: d.limits}
	if d.mode != Shadow {
		take.MaxWait, take.Ban = l.longestWait(ctx), l.ban
	}
	elapsed, err := l.ask(ctx, d, &take)
	var waited time.Duration
	switch {
	case d.mode != Shadow:
		if d.result.Wait > 0 {
			waited = l.wait(ctx, c.FullPath(), d)
		}
	case err == nil && !d.result.Allowed && d.result.RetryAfter <= l.maxWait:
		// Enforce would hold the request back, and then let it go on.
		d.result.Allowed, d.result.Wait, d.result.RetryAfter = true, d.result.RetryAfter, 0
	}
	if len(l.observing()) > 0 || err != nil && d.mode != Shadow {
		l.report(ctx, l.event(c.FullPath(), d, err, elapsed, waited))
	}
	return err
}

// ask has the store decide, and returns how long that took, if there are observers.
func (l *Limiter) ask(ctx context.Context, d *decision, take *Take) (elapsed time.Duration, err error) {
	var start time.Time
	if len(l.observing()) > 0 {
		start = time.Now()
	}
	d.result, err = l.store.Take(ctx, l.storeKey(d.key), *take)
	if len(l.observing()) > 0 {
		elapsed = time.Since(start)
	}
	if err == nil {
		d.result.Name = l.name
	}
	if d.result.Allowed {
		d.admitted, d.charge.tokens = true, d.cost
	}
	return elapsed, err
}

// limitsOf returns the limits that hold for a request.
func (l *Limiter) limitsOf(c *gin.Context) []Limit {
	if l.limitFunc != nil {
		if limits := l.limitFunc(c); len(limits) > 0 {
			return withCapacities(limits)
		}
	}
	return l.limits
}

func (l *Limiter) event(route string, d *decision, err error, elapsed, waited time.Duration) Event {
	return Event{
		Name:    l.name,
		Route:   route,
		Key:     Key{d.key},
		Cost:    d.cost,
		Result:  d.result,
		Err:     err,
		Reason:  reasonOf(d, err),
		Elapsed: elapsed,
		Waited:  waited,
		Waiting: int(l.waiting.Load()),
	}
}

func (l *Limiter) storeKey(key string) string {
	key = boundKey(key)
	if l.namespace == "" {
		return key
	}
	return l.namespace + key
}

// longestWait is how long a request may be held back. It ends with the request's deadline, so that a request that cannot
// wait for its turn is refused at once and reserves nothing. It is never 0, which would be a take without a queue.
func (l *Limiter) longestWait(ctx context.Context) time.Duration {
	if l.maxWait == 0 {
		return 0
	}
	deadline, ok := ctx.Deadline()
	if !ok {
		return l.maxWait
	}
	return max(time.Microsecond, min(l.maxWait, time.Until(deadline)))
}

// wait holds a request back until its tokens are there. They are reserved already, so requests go on in order of arrival,
// without polling. A request whose context ends before that is refused, and gives its place back. It returns how long the
// request was held back.
func (l *Limiter) wait(ctx context.Context, route string, d *decision) (waited time.Duration) {
	l.waiting.Add(1)
	defer l.waiting.Add(-1)
	start := time.Now()
	if deadline, ok := ctx.Deadline(); !ok || !deadline.Before(start.Add(d.result.Wait)) {
		timer := time.NewTimer(d.result.Wait)
		defer timer.Stop()
		select {
		case <-timer.C:
			waited = time.Since(start)
			d.result.ResetAfter = max(0, d.result.ResetAfter-waited)
			return waited
		case <-ctx.Done():
		}
		waited = time.Since(start)
		d.gone = errors.Is(ctx.Err(), context.Canceled)
	}
	d.result.Allowed = false
	d.result.RetryAfter = max(0, d.result.Wait-waited)
	d.result.Wait = 0
	d.leave(ctx, route)
	d.charge.tokens = 0
	return waited
}

// Mode is whether a limiter's decisions count. It can be changed while requests run; see [Limiter.SetMode].
type Mode int32

// The modes of a limiter.
const (
	// Enforce refuses what the limits refuse.
	Enforce Mode = iota
	// Shadow decides, charges and calls the observers as Enforce does, and lets every request through at once: it is for
	// trying limits on real traffic before they refuse anything. It leaves no strikes, no bans and no places in a queue,
	// and takes nothing where it would refuse. Its headers appear only on requests with the secret of [WithDebugHeader].
	Shadow
	// Off lets every request through, and asks no store.
	Off
)

// String returns "enforce", "shadow" or "off".
func (m Mode) String() string {
	switch m {
	case Enforce:
		return "enforce"
	case Shadow:
		return "shadow"
	case Off:
		return "off"
	default:
		return "unknown"
	}
}

// SetMode changes the mode for the requests that come from now on. It is the kill switch: SetMode(Off) needs no
// deployment. It changes this process only: behind a load balancer, call it in each instance. A mode other than Shadow and
// Off enforces.
func (l *Limiter) SetMode(mode Mode) { l.mode.Store(int32(mode)) }

// Mode returns the mode.
func (l *Limiter) Mode() Mode { return Mode(l.mode.Load()) }
