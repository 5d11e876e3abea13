package ratelimit

import (
	"net/http"

	"github.com/gin-gonic/gin"
)

// Get returns the decision on this request: the refusal, or, where limiters stack, the first of those with the
// fewest tokens left. What was given back since is in it. Limiters in [Shadow] do not count. It is false where no
// limiter has decided: none has run, or its store could not.
//
// A copy of the context, made by c.Copy, knows no decision but those of limiters with [WithCost], and of the ones before
// them: call Get before you copy.
func Get(c *gin.Context) (tightest Result, ok bool) {
	for d := lastDecision(c); d != nil; d = d.earlier {
		if d.mode == Shadow {
			continue
		}
		if r := d.snapshot(); !ok || !tighter(&tightest, &r) {
			tightest, ok = r, true
		}
	}
	return tightest, ok
}

// tighter reports whether a later decision has left fewer tokens than an earlier one, or refuses.
func tighter(later, earlier *Result) bool {
	return !later.Allowed || earlier.Allowed && later.Remaining < earlier.Remaining
}

// decision is what one limiter does to one request.
//
// Get, Settle and the limiters that follow find it by its writer, which it puts into c.Writer. Gin's own place for
// such things, c.Set, costs a map: two allocations, more bytes than all the rest, and a third of a request's
// time. A value in the request's context would cost a copy of the request, and net/http would no longer delete the
// temporary files of an upload.
type decision struct {
	writer   decisionWriter // by value, so that both are one allocation
	limiter  *Limiter
	earlier  *decision // of the limiter before on the same request
	key      string
	limits   []Limit
	result   Result // charge.mu guards it once handlers run that may settle
	charge   charge
	cost     int
	mode     Mode
	admitted bool // it has taken tokens, or could have
	gone     bool // the client left while the request was held back
	debug    bool // the request knows the limiter's debug secret
	stuck    bool // a give-back has failed, and is not repeated; guarded by charge.mu
	xHeaders xHeaderValues
}

// snapshot returns the decision's result as it is now.
func (d *decision) snapshot() Result {
	d.charge.mu.Lock()
	defer d.charge.mu.Unlock()
	return d.result
}

type decisionKey struct{}

// attach lets lastDecision find d.
func (d *decision) attach(c *gin.Context) {
	d.writer = decisionWriter{c.Writer, d}
	c.Writer = &d.writer
	if d.limiter.cost != nil {
		c.Set(decisionKey{}, d) // For Settle in a copy of the context, which has no writer.
	}
}

// lastDecision is the latest on the request, nil if there is none.
func lastDecision(c *gin.Context) *decision {
	if d := writtenDecision(c); d != nil {
		return d
	}
	if c.Keys == nil {
		return nil // True of most requests before the first limiter, and saves the lock that Get takes.
	}
	value, _ := c.Get(decisionKey{})
	d, _ := value.(*decision)
	return d
}

// writtenDecision is the latest on a request that still has its writer, and nil in a copy of a context.
func writtenDecision(c *gin.Context) *decision {
	switch w := c.Writer.(type) {
	case nil: // A context that was made by hand.
		return nil
	case *decisionWriter:
		return w.decision
	default:
		// Other middleware may have put its own writer in front. Of the methods that all of those pass on, only this
		// one can return something of ours, and does nothing.
		if w, ok := w.Pusher().(*decisionWriter); ok {
			return w.decision
		}
		return nil
	}
}

// decisionWriter is the c.Writer of a request after a decision. It passes everything on.
type decisionWriter struct {
	gin.ResponseWriter // c.Writer before the decision
	decision           *decision
}

// Pusher is w itself, for lastDecision.
func (w *decisionWriter) Pusher() http.Pusher { return w }

// Push implements http.Pusher by the writer before. Where that cannot push, as in HTTP/1.1, it returns
// [http.ErrNotSupported].
func (w *decisionWriter) Push(target string, options *http.PushOptions) error {
	if pusher := w.ResponseWriter.Pusher(); pusher != nil {
		return pusher.Push(target, options)
	}
	return http.ErrNotSupported
}

// Unwrap is for http.ResponseController.
func (w *decisionWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }
