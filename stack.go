package ratelimit

import (
	"fmt"

	"github.com/gin-gonic/gin"
)

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
