package ratelimit

import (
	"context"
	"time"
)

// wait holds a request back until its tokens are there. They are reserved already, so requests go on in the
// order in which they came, and nobody polls. A request whose context ends before that is refused, and gives its
// place back.
func (l *Limiter) wait(ctx context.Context, d *decision) {
	l.waiting.Add(1)
	defer l.waiting.Add(-1)
	start := time.Now()
	timer := time.NewTimer(d.result.Wait)
	defer timer.Stop()
	select {
	case <-timer.C:
		d.waited = time.Since(start)
		d.result.ResetAfter = max(0, d.result.ResetAfter-d.waited)
		return
	case <-ctx.Done():
	}
	d.gone = true
	d.waited = time.Since(start)
	d.result.Allowed = false
	d.result.RetryAfter = max(0, d.result.Wait-d.waited)
	d.result.Wait = 0
	// Should this fail, the place is lost: it refills.
	if _, err := l.store.Adjust(context.WithoutCancel(ctx), l.storeKey(d.key), d.charged, d.limits); err == nil {
		d.charged = 0
	}
}
