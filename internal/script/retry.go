package script

import (
	"context"
	"errors"
	"net"
	"slices"
	"sync/atomic"
	"time"

	"github.com/redis/go-redis/v9"
)

// A take whose fate is unknown (its connection broke, its time was up) is never sent again, because a second
// run charges twice. These did not run, and say so: sending them again is safe.
var didNotRun = []string{
	"LOADING", "CLUSTERDOWN", "TRYAGAIN", "READONLY", "MASTERDOWN", "NOREPLICAS", "max number of clients reached",
}

// retryDelays are the pauses before a take that did not run is sent again: short, because what they bridge, a
// connection to a server that has just changed its role, is short too, and because the budget is.
var retryDelays = [...]time.Duration{2 * time.Millisecond, 8 * time.Millisecond}

// mayRetry reports whether the failed take certainly did not run.
func mayRetry(err error) bool {
	return isDialError(err) || errors.Is(err, redis.ErrPoolTimeout) ||
		slices.ContainsFunc(didNotRun, func(prefix string) bool { return redis.HasErrorPrefix(err, prefix) })
}

func isDialError(err error) bool {
	var op *net.OpError
	return errors.As(err, &op) && op.Op == "dial"
}

// pause sleeps, unless the budget would be over by then.
func pause(ctx context.Context, d time.Duration) bool {
	if deadline, ok := ctx.Deadline(); ok && time.Until(deadline) <= d {
		return false
	}
	time.Sleep(d)
	return true
}

// slotReloader has a cluster client look where the slots are now when a node cannot be reached. go-redis does so
// by itself only once a minute (redis/go-redis#3979), which is how long a failover would last.
type slotReloader struct {
	cluster *redis.ClusterClient
	last    atomic.Int64 // Unix time in nanoseconds
}

const reloadEvery = 200 * time.Millisecond

func (r *slotReloader) failed(err error) {
	if r == nil || !isDialError(err) && !errors.Is(err, context.DeadlineExceeded) {
		return
	}
	now, last := time.Now().UnixNano(), r.last.Load()
	if now-last >= int64(reloadEvery) && r.last.CompareAndSwap(last, now) {
		r.cluster.ReloadState(context.Background()) // Returns at once, and works in the background.
	}
}
