package ratelimit

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/gin-gonic/gin"
)

// charge is what one limiter has taken for one request. It is the only owner of those tokens: each way in which a
// request can end is one of its methods, or leaves the tokens where they are.
//
//	served, aborted by another handler, panicked      nothing to do: the tokens stay
//	its cost turns out to be another                  settle
//	WithChargeIf's function returns false             settle(0)
//	refused by this limiter                           nothing was taken
//	refused or given up by a later limiter            settle(0), of each earlier one by release
//	given up while it was held back                   leave
//
// Settle may be called on copies of the context, so a charge has a lock. The last call counts, and once.
type charge struct {
	mu     sync.Mutex // guards the rest, and decision.result once the decision is attached
	tokens int        // taken, and not given back
}

// settle changes what the request has cost to n tokens. A give-back whose fate is unknown is not repeated, because the
// tokens might come back twice. A debt may be repeated, because the caller asks for it.
func (d *decision) settle(ctx context.Context, route string, n int) error {
	d.charge.mu.Lock()
	defer d.charge.mu.Unlock()
	back := d.charge.tokens - n
	switch {
	case back == 0:
		return nil
	case back > 0 && d.stuck:
		return errNotRepeated
	}
	return d.adjust(ctx, route, Adjustment{N: back, Limits: d.limits, Receipt: d.result.Receipt})
}

var errNotRepeated = errorf("an earlier give-back failed and is not repeated, because its tokens might come back twice; they refill by themselves")

// leave gives up the request's place in the queue.
func (d *decision) leave(ctx context.Context, route string) {
	d.charge.mu.Lock()
	defer d.charge.mu.Unlock()
	if n := d.charge.tokens; n > 0 {
		// If it fails, the place is lost until its tokens have refilled. The observers are called with the error.
		_ = d.adjust(ctx, route, Adjustment{N: n, Limits: d.limits, Receipt: d.result.Receipt, Leave: true})
	}
}

// adjust corrects the charge in the store that took. The tokens are owed whether or not the client still waits for the
// answer.
func (d *decision) adjust(ctx context.Context, route string, change Adjustment) error {
	l := d.limiter
	ctx = context.WithoutCancel(ctx)
	start := time.Now()
	r, err := l.store.Adjust(ctx, l.storeKey(d.key), change)
	if err != nil {
		if change.N > 0 {
			d.stuck = true
			l.report(ctx, Event{
				Name: l.name, Route: route, Key: Key{d.key}, Cost: change.N,
				Err: err, Reason: ReasonGiveBack, Elapsed: time.Since(start), Waiting: int(l.waiting.Load()),
			})
		}
		return err
	}
	d.charge.tokens -= change.N
	if change.N > 0 && !change.Leave {
		// After a give-back only: a debt is not part of the decision that the client was told.
		d.result.Limit, d.result.Remaining, d.result.ResetAfter = r.Limit, r.Remaining, r.ResetAfter
	}
	d.result.Receipt = r.Receipt
	return nil
}

// release gives back what d and the decisions before it have taken: a refused request is charged to none of them.
func (d *decision) release(c *gin.Context) {
	for ; d != nil; d = d.earlier {
		_ = d.settle(c.Request.Context(), c.FullPath(), 0) // The observers are called with an error.
	}
}

// chargeByOutcome runs the handlers, and then asks the decisions from d back to the given one, exclusive, whether they
// charge for the outcome. If none of them has to be asked, Gin runs the handlers. A panic passes through, and is charged.
func (d *decision) chargeByOutcome(c *gin.Context, until *decision) {
	asks := false
	for e := d; e != until; e = e.earlier {
		asks = asks || e.limiter.chargeIf != nil
	}
	if !asks {
		return
	}
	c.Next()
	for e := d; e != until; e = e.earlier {
		if e.limiter.chargeIf != nil && !e.limiter.chargeIf(c) && e.settle(c.Request.Context(), c.FullPath(), 0) == nil {
			refreshHeaders(c)
		}
	}
}

// report sends an event to the observers. Without any, it logs a failure.
func (l *Limiter) report(ctx context.Context, e Event) {
	observers := l.observing()
	for _, observe := range observers {
		observe(ctx, e)
	}
	if len(observers) == 0 && e.Err != nil && l.warned.due() {
		slog.WarnContext(ctx, "rate limit failed, and no observer is set: see WithObserver",
			"name", e.Name, "reason", string(e.Reason), "kind", ErrorKind(e.Err), "error", withoutKey(e.Err))
	}
}

// withoutKey returns an error that may be logged. The error about a foreign state names the key, so it is cut short.
func withoutKey(err error) error {
	if errors.Is(err, ErrForeignState) {
		return ErrForeignState
	}
	return err
}

// seldom is due at most once per warnEvery.
type seldom struct{ next atomic.Int64 } // Unix time in nanoseconds

const warnEvery = 10 * time.Second

func (s *seldom) due() bool {
	now, next := time.Now().UnixNano(), s.next.Load()
	return now >= next && s.next.CompareAndSwap(next, now+int64(warnEvery))
}

// ErrNotCharged is returned by [Settle] where there is nothing to correct.
var ErrNotCharged = errorf("no limiter with WithCost has taken tokens for this request")

// Settle corrects the cost of a request once the real cost is known: tokens of a language model, bytes, rows. If the
// limiter with [WithCost] on this request has reserved more, the rest comes back, as far as the bucket has not refilled it
// meanwhile (see [Adjustment]), and never above the capacity. If it has reserved less, the difference is taken, which may
// leave a debt that has to refill before the next request of this key is admitted. Limiters without WithCost count
// requests, and are not corrected. If Settle is called several times, the last call counts.
//
// A request whose handler never calls Settle, because it returns early or panics, has cost what was reserved. If the client
// hangs up, the correction is made all the same. c may be a copy, for work that goes on when the request is over.
//
// The error is ErrNotCharged, or about a negative cost, or the store's. After a store's error the charge is as before, and a
// give-back is not tried again. If several limiters with WithCost are on the request, Settle returns an error and corrects
// nothing: they count different things, so settle each by [Limiter.Settle].
func Settle(c *gin.Context, actual int) error {
	var last *decision
	var names []string
	for d := lastDecision(c); d != nil; d = d.earlier {
		if d.limiter.cost != nil {
			last = d
			names = append([]string{fmt.Sprintf("%q", d.limiter.name)}, names...)
		}
	}
	if len(names) > 1 {
		return errorf("Settle(%d): the limiters %s on this request all have WithCost; "+
			"settle each by its own Limiter.Settle", actual, strings.Join(names, " and "))
	}
	return last.settleOn(c, actual)
}

// Settle is the package's [Settle] for this limiter alone, where several limiters with [WithCost] count different
// things on one request. On a limiter without WithCost it corrects the cost of 1, but not in a copy of the context.
func (l *Limiter) Settle(c *gin.Context, actual int) error {
	d := lastDecision(c)
	for d != nil && d.limiter != l {
		d = d.earlier
	}
	return d.settleOn(c, actual)
}

// settleOn settles d, which is nil where there is no decision, on behalf of a caller that has c.
func (d *decision) settleOn(c *gin.Context, actual int) error {
	if actual < 0 {
		return errorf("Settle(%d): the cost must not be negative", actual)
	}
	if d == nil || !d.admitted {
		return ErrNotCharged
	}
	if err := d.settle(c.Request.Context(), c.FullPath(), actual); err != nil {
		return err
	}
	if actual < d.cost {
		refreshHeaders(c)
	}
	return nil
}
