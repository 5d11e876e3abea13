package ratelimit

import (
	"fmt"

	"github.com/gin-gonic/gin"
)

// When runs h for the requests that cond picks, and lets the others pass:
//
//	router.Use(ratelimit.When(isWrite, limiter.Handle))
//
// It is better than an if around a limiter, because [Check] and [Routes] see through it. To exempt requests from one
// limiter, [WithSkip] says the same the other way round. It panics if either is nil.
func When(cond func(*gin.Context) bool, h gin.HandlerFunc) gin.HandlerFunc {
	if cond == nil || h == nil {
		panic("ratelimit: When: needs a condition and a handler, for example a limiter's Handle")
	}
	return when{cond, h}.handle
}

type when struct {
	cond    func(*gin.Context) bool
	handler gin.HandlerFunc
}

func (w when) handle(c *gin.Context) {
	if p, ok := c.Writer.(*probe); ok {
		p.look(w.handler)
		return
	}
	if w.cond(c) {
		w.handler(c)
	}
}

// WithSkip lets requests pass that skip picks, as if there were no limiter: they take nothing, have no headers and are
// not observed. [Check] and [Routes] still see the limiter. skip must be safe for concurrent use. Repeatable: a request
// that any of them picks is skipped.
//
//	ratelimit.WithSkip(func(c *gin.Context) bool { return c.Request.Method == http.MethodOptions })
func WithSkip(skip func(*gin.Context) bool) Option {
	return func(c *config) {
		c.notNil(skip == nil, "WithSkip", "a function")
		c.skips = append(c.skips, skip)
	}
}

func (l *Limiter) skipped(c *gin.Context) bool {
	for _, skip := range l.skips {
		if skip(c) {
			return true
		}
	}
	return false
}

// Stack is one middleware of several limiters. It decides them all, in their order, before the handlers run, and stops
// at the first that refuses: what the ones before have taken comes back. After the handlers, those with [WithChargeIf]
// are asked, each once:
//
//	router.POST("/login", ratelimit.Stack(byAddress, byAccount), login)
//
// It is the way to call several limiters in one place. A handler that calls one limiter's Handle after another's is
// not, if an earlier one has WithChargeIf: the rest of the chain then runs inside of the first, and the second refuses
// when the answer has been written. Registering them one behind the other is as good.
//
// It panics without limiters, and if one is nil.
func Stack(limiters ...*Limiter) gin.HandlerFunc {
	if len(limiters) == 0 {
		panic("ratelimit: Stack(): needs limiters, as NewLimiter makes them")
	}
	for i, l := range limiters {
		if l == nil {
			panic(fmt.Sprintf("ratelimit: Stack: limiter %d is nil", i))
		}
	}
	return stack(append([]*Limiter(nil), limiters...)).handle
}

type stack []*Limiter

func (s stack) handle(c *gin.Context) {
	if p, ok := c.Writer.(*probe); ok {
		p.found = append(p.found, s...)
		return
	}
	before := lastDecision(c)
	last := before
	for _, l := range s {
		if d := l.admit(c); d != nil {
			last = d
		}
		if c.IsAborted() {
			return
		}
	}
	last.chargeByOutcome(c, before)
}
