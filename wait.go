package ratelimit

import (
	"context"
	"errors"
	"time"
)

// longestWait is how long a request may be held back: no longer than it can wait, so that one that cannot is refused
// at once and reserves nothing. It is never 0, which would be a take without a queue.
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

// wait holds a request back until its tokens are there. They are reserved already, so requests go on in the
// order in which they came, and nobody polls. A request whose context ends before that is refused, and gives its
// place back. It returns how long that took.
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
