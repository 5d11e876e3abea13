package script

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"
)

// setups are the connections of a node that are being set up. To dial and to shake hands (TLS, HELLO, AUTH, SELECT)
// takes several round trips, which is more than one take's budget where Redis is not next door. So it is not done under
// a take: takes wait for it within their budgets, and what was begun is finished, and kept in the client's pool.
type setups struct {
	patience time.Duration

	// The rest is guarded by the node's mu.
	underWay int
	began    time.Time // the latest
	failed   int       // in a row
	notUntil time.Time // after a failure
	err      error     // of the latest, nil if it has succeeded
}

const (
	mostSetups   = 2
	longestSetup = 10 * time.Second
	// After a failure the next one waits, twice as long each time, so that a server that refuses is not stormed.
	firstPause   = 10 * time.Millisecond
	longestPause = 500 * time.Millisecond
	// staysWanted is how long after the latest take connections are still tried for. It is longer than the cool-off of
	// a breaker, so that its next probe finds one.
	staysWanted = 10 * time.Second
)

// setupPatience is the client's own time for a dial and a reply.
func setupPatience(options *redis.Options) time.Duration {
	patience := longestSetup
	if options.DialTimeout > 0 && options.ReadTimeout > 0 {
		patience = min(patience, options.DialTimeout+options.ReadTimeout)
	}
	return patience
}

// wantConnection begins a set-up if one may begin, with n.mu held. Takes for which none can be in time fail with what
// the latest failed with.
func (n *node) wantConnection(now time.Time) {
	s := &n.setups
	switch {
	case s.underWay >= mostSetups:
	case s.underWay == 1 && n.ready == 0 && now.Sub(s.began) < time.Second:
		// It will do for all that wait, unless it is stuck.
	case len(n.flights)+s.underWay >= n.conns:
	case now.Before(s.notUntil):
		if n.ready == 0 && s.underWay == 0 {
			n.refuse(s.notUntil)
		}
		n.wake(s.notUntil.Sub(now))
	default:
		s.underWay++
		s.began = now
		go n.setUp()
	}
}

// setUp has the client set a connection up, and leave it in its pool.
func (n *node) setUp() {
	ctx, cancel := context.WithTimeout(context.Background(), n.setups.patience)
	defer cancel()
	// All good connections that are known of are taken, so this is a new one. TIME is among the rights that takes need.
	err := n.askTime(ctx)
	n.mu.Lock()
	defer n.mu.Unlock()
	s := &n.setups
	s.underWay--
	now := time.Now()
	if err == nil || isAnswer(err) {
		s.failed, s.err = 0, nil
		n.ready = min(max(n.ready, len(n.flights)+1), n.conns)
		n.advance()
		return
	}
	s.err, n.broke = err, now
	closed := errors.Is(err, redis.ErrClosed)
	if !closed {
		s.notUntil = now.Add(min(firstPause<<min(s.failed, 10), longestPause))
		s.failed++
	}
	if n.ready == 0 && s.underWay == 0 {
		n.refuse(now.Add(n.config.Budget))
		if !closed {
			time.AfterFunc(s.notUntil.Sub(now), n.tryAgain)
		}
	}
}

// askTime runs a command on a connection that nobody uses. Those that are idle in the pool may have died with others:
// over TLS, go-redis does not see that before it uses them. They are tried one after the other, without a pause.
func (n *node) askTime(ctx context.Context) (err error) {
	for range n.conns {
		idle := n.client.PoolStats().IdleConns
		err = n.client.Process(ctx, timeCmd{redis.NewCmd(ctx, "time")})
		if idle == 0 || breaks(err) == nil || isDialError(err) || ctx.Err() != nil {
			break
		}
	}
	return hungUp(err)
}

// timeCmd is not sent again by the client, whose pauses are not those of setups.
type timeCmd struct{ *redis.Cmd }

// NoRetry implements redis.Cmder.
func (timeCmd) NoRetry() bool { return true }

// hungUp says what is wrong where a server closes a new connection without a word.
func hungUp(err error) error {
	if !errors.Is(err, io.EOF) {
		return err
	}
	return fmt.Errorf("hung up on a new connection, which begins with HELLO (a proxy that does not know it, such as twemproxy, cannot be used): %w", err)
}

// tryAgain begins a set-up after one that has failed, though no take may wait.
func (n *node) tryAgain() {
	n.mu.Lock()
	defer n.mu.Unlock()
	if now := time.Now(); n.ready == 0 && n.setups.underWay == 0 && now.Sub(n.used) < staysWanted {
		n.wantConnection(now)
	}
}

// refuse fails the takes that wait and whose time is up by then, with n.mu held.
func (n *node) refuse(by time.Time) {
	kept := n.queue[:0]
	for _, t := range n.queue {
		switch {
		case t.state == waiting && !t.deadline.After(by):
			t.finish(nil, n.setups.err)
		case t.state == waiting:
			kept = append(kept, t)
		}
	}
	clear(n.queue[len(kept):])
	n.queue, n.left = kept, 0
}

// isAnswer reports whether an error is what a server has to say on a connection that is set up.
func isAnswer(err error) bool {
	for _, prefix := range []string{"NOPERM", "NOAUTH", "LOADING", "BUSY", "MASTERDOWN", "CLUSTERDOWN"} {
		if redis.HasErrorPrefix(err, prefix) {
			return true
		}
	}
	var reply redis.Error
	return errors.As(err, &reply) && (strings.Contains(reply.Error(), "unknown command") || strings.Contains(reply.Error(), "unsupported command"))
}
