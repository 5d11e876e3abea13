package script

import (
	"context"
	"errors"
	"net"
	"slices"
	"strings"
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
	if isDialError(err) || isFull(err) {
		return true
	}
	var reply redis.Error
	return errors.As(err, &reply) && slices.ContainsFunc(didNotRun, func(prefix string) bool {
		// Before version 7, Redis wraps what the script's first write, the only one that it refuses, fails with.
		return redis.HasErrorPrefix(reply, prefix) ||
			redis.HasErrorPrefix(reply, "Error running script") && strings.Contains(reply.Error(), ": -"+prefix+" ")
	})
}

func isDialError(err error) bool {
	var op *net.OpError
	return errors.As(err, &op) && op.Op == "dial"
}

// isFull reports whether the client's pool has no connection to give.
func isFull(err error) bool {
	return errors.Is(err, redis.ErrPoolTimeout) || errors.Is(err, redis.ErrPoolExhausted)
}

// pause sleeps, unless the deadline would be over by then.
func pause(deadline time.Time, d time.Duration) bool {
	if time.Until(deadline) <= d {
		return false
	}
	time.Sleep(d)
	return true
}

// slotReloader has a cluster client look where the slots are now. When a node cannot be reached, go-redis does so by
// itself only once a minute (redis/go-redis#3979), which is how long a failover would last.
type slotReloader struct {
	cluster *redis.ClusterClient
	last    atomic.Int64 // Unix time in nanoseconds
}

const reloadEvery = 200 * time.Millisecond

func (r *slotReloader) reload() {
	now, last := time.Now().UnixNano(), r.last.Load()
	if now-last >= int64(reloadEvery) && r.last.CompareAndSwap(last, now) {
		r.cluster.ReloadState(context.Background()) // Returns at once, and works in the background.
	}
}
