package ratelimit

import (
	"net/http"
	"time"

	"github.com/gin-gonic/gin"
)

// Get returns the decision on this request: the refusal, or, where limiters stack, the first of those with the
// fewest tokens left. Limiters in [Shadow] do not count. It is false where no limiter has decided: none has run, or its
// store could not.
//
// A copy of the context, made by c.Copy, knows no decision but those of limiters with [WithCost], and of the ones before
// them: call Get before you copy.
func Get(c *gin.Context) (tightest Result, ok bool) {
	for d := lastDecision(c); d != nil; d = d.earlier {
		switch {
		case d.mode == Shadow:
		case !ok, tightest.Allowed && (!d.result.Allowed || d.result.Remaining <= tightest.Remaining):
			tightest, ok = d.result, true
		}
	}
	return tightest, ok
}

// decision is what one limiter does to one request.
//
// It waits for Get, Settle and the limiters that follow as c.Writer, in front of the one before. Gin's own place for
// such things, c.Set, costs a map: two allocations, more bytes than all the rest, and a third of a request's
// time. A value in the request's context would cost a copy of the request, and net/http would no longer remove the
// temporary files of an upload.
type decision struct {
	gin.ResponseWriter // c.Writer until the decision

	limiter  *Limiter
	earlier  *decision // of the limiter before on the same request
	key      string
	limits   []Limit
	result   Result
	cost     int
	charged  int           // tokens that the request has taken and not given back
	waited   time.Duration // how long it was held back
	mode     Mode
	gone     bool // whether its context ended meanwhile
	xHeaders xHeaderValues
}

type decisionKey struct{}

// attach lets lastDecision find d.
func (d *decision) attach(c *gin.Context) {
	d.ResponseWriter = c.Writer
	c.Writer = d
	if d.limiter.cost != nil {
		c.Set(decisionKey{}, d) // For Settle in a copy of the context, which has no writer.
	}
}

// lastDecision is the latest on the request, nil if there is none.
func lastDecision(c *gin.Context) *decision {
	switch w := c.Writer.(type) {
	case nil: // A context that somebody made by hand.
	case *decision:
		return w
	default:
		// Other middleware may have put its own writer in front. Of the methods that all of those pass on, only this
		// one can return something of ours, and does nothing.
		if d, ok := w.Pusher().(*decision); ok {
			return d
		}
	}
	if c.Keys == nil {
		return nil // As for most requests before the first limiter; Get locks before it looks.
	}
	value, _ := c.Get(decisionKey{})
	d, _ := value.(*decision)
	return d
}

// Pusher is d itself, for lastDecision.
func (d *decision) Pusher() http.Pusher { return d }

// Push implements http.Pusher by the writer behind d. Where that cannot push, as in HTTP/1.1, it says so as net/http
// wants it.
func (d *decision) Push(target string, options *http.PushOptions) error {
	if pusher := d.ResponseWriter.Pusher(); pusher != nil {
		return pusher.Push(target, options)
	}
	return http.ErrNotSupported
}

// Unwrap is for http.ResponseController.
func (d *decision) Unwrap() http.ResponseWriter { return d.ResponseWriter }
