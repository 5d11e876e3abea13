package ratelimit

import (
	"context"
	"errors"
	"fmt"

	"github.com/gin-gonic/gin"
)

// ErrNotCharged is returned by [Settle] where there is nothing to correct.
var ErrNotCharged = errors.New("ratelimit: no limiter with WithCost has taken tokens for this request")

// Settle corrects the cost of a request, once it is known, to what it really was: tokens of a language model,
// bytes, rows. What the limiters with [WithCost] on this request have reserved beyond it comes back, never above
// the capacity, and what is missing is taken, which may leave a debt that has to refill before the next request
// of this key is admitted. Limiters without WithCost count requests, and are left alone. Call it again, and the
// last call holds.
//
// A handler that never comes to Settle, because it returns early or panics, has cost what was reserved.
// A client that hangs up changes nothing: the correction is made all the same. c may be a copy, for work that goes on
// when the request is over.
//
// The error is ErrNotCharged, or about a negative cost, or the store's, in which case the reservation stands.
func Settle(c *gin.Context, actual int) error {
	if actual < 0 {
		return fmt.Errorf("ratelimit: Settle(%d): the cost must not be negative", actual)
	}
	var errs []error
	found := false
	for d := lastDecision(c); d != nil; d = d.earlier {
		if d.limiter.cost != nil && d.result.Allowed {
			found = true
			errs = append(errs, d.charge(c, actual))
		}
	}
	if !found {
		return ErrNotCharged
	}
	return errors.Join(errs...)
}

// charge makes the decision have cost n tokens.
func (d *decision) charge(c *gin.Context, n int) error {
	if n == d.charged {
		return nil
	}
	// The tokens are owed whether or not the client still waits for the answer.
	ctx := context.WithoutCancel(c.Request.Context())
	if _, err := d.limiter.store.Adjust(ctx, d.limiter.storeKey(d.key), d.charged-n, d.limits); err != nil {
		return err
	}
	d.charged = n
	return nil
}

// chargeByOutcome runs the handlers and then asks whether they are charged for, if that is to be asked.
func (d *decision) chargeByOutcome(c *gin.Context) {
	if d.limiter.chargeIf == nil {
		return
	}
	c.Next()
	if d.limiter.chargeIf(c) {
		return
	}
	if err := d.charge(c, 0); err != nil {
		_ = c.Error(err)
	}
}

// refund gives back what a decision and those before it have taken: a request that is refused costs nothing
// anywhere.
func (d *decision) refund(c *gin.Context) {
	for ; d != nil; d = d.earlier {
		if err := d.charge(c, 0); err != nil {
			_ = c.Error(err)
		}
	}
}
