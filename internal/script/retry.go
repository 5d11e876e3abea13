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

// didNotRun are the errors of takes that certainly did not run, so that sending them again is safe. A take whose fate is
// unknown (its connection broke, its time was up) is never sent again, because a second run would charge twice.
var didNotRun = []string{
	"LOADING", "CLUSTERDOWN", "TRYAGAIN", "READONLY", "MASTERDOWN", "NOREPLICAS", "max number of clients reached",
}

// retryDelays are the pauses before a take that did not run is sent again. They are short because the budget is, and
// because a server that has just changed its role soon serves again.
var retryDelays = [...]time.Duration{2 * time.Millisecond, 8 * time.Millisecond}

// mayRetry reports whether the failed take certainly did not run.
func mayRetry(err error) bool {
	if isDialError(err) || isFull(err) {
		return true
	}
	var reply redis.Error
	return errors.As(err, &reply) && slices.ContainsFunc(didNotRun, func(prefix string) bool {
		// Redis refuses only the first write of a script. Before version 7 it wraps the error of that write.
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

// pause sleeps, unless that would go beyond the deadline. It reports whether it has slept.
func pause(deadline time.Time, d time.Duration) bool {
	if time.Until(deadline) <= d {
		return false
	}
	time.Sleep(d)
	return true
}

// slotReloader makes a cluster client ask again where the slots are. When a node cannot be reached, go-redis does so by
// itself only once a minute (redis/go-redis#3979), so takes would fail for that long after a failover.
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
