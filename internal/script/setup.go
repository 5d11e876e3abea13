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

// setups are the connections of a node that are being set up. A dial and the handshakes (TLS, HELLO, AUTH, SELECT) need
// several round trips, which is longer than a take's budget where Redis is not next door. So goroutines of their own set
// connections up: takes wait for them within their budgets, and a set-up that no take waits for any more still ends, and
// leaves its connection in the client's pool.
type setups struct {
	patience time.Duration

	// The rest is guarded by the node's mu.
	underWay int
	began    time.Time // when the latest began
	failed   int       // how many have failed in a row
	notUntil time.Time // when the next may begin, after a failure
	err      error     // of the latest, nil if it has succeeded
}

const (
	maxSetups    = 2
	maxSetupTime = 10 * time.Second
	// After a failure the next set-up waits, twice as long each time, so that they do not overload a server in trouble.
	firstPause = 10 * time.Millisecond
	maxPause   = 500 * time.Millisecond
	// staysWanted is how long after the latest take set-ups are still tried. It is longer than the cool-off of a
	// breaker, so that the breaker's next probe finds a connection.
	staysWanted = 10 * time.Second
)

// setupPatience is how long a set-up may take: the client's own time limits for a dial and a reply.
func setupPatience(options *redis.Options) time.Duration {
	patience := maxSetupTime
	if options.DialTimeout > 0 && options.ReadTimeout > 0 {
		patience = min(patience, options.DialTimeout+options.ReadTimeout)
	}
	return patience
}

// wantConnection begins a set-up if one may begin, with n.mu held. Takes for which no set-up can be in time fail with the
// error of the latest one.
func (n *node) wantConnection(now time.Time) {
	s := &n.setups
	switch {
	case s.underWay >= maxSetups:
	case s.underWay == 1 && n.ready == 0 && now.Sub(s.began) < time.Second:
		// One connection is enough for all that wait, unless its set-up is stuck.
	case len(n.flights)+s.underWay >= n.conns:
	case now.Before(s.notUntil):
		if n.ready == 0 && s.underWay == 0 {
			n.failWaiting(s.notUntil)
		}
		n.wake(s.notUntil.Sub(now))
	default:
		s.underWay++
		s.began = now
		go n.setUp()
	}
}

// setUp makes the client set a connection up, which stays in its pool.
func (n *node) setUp() {
	ctx, cancel := context.WithTimeout(context.Background(), n.setups.patience)
	defer cancel()
	// All connections that are known to be good are in use, so this is a new one. TIME is among the rights that takes need.
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
	s.err, n.lastBreak = err, now
	closed := errors.Is(err, redis.ErrClosed)
	if !closed {
		s.notUntil = now.Add(min(firstPause<<min(s.failed, 10), maxPause))
		s.failed++
	}
	if n.ready == 0 && s.underWay == 0 {
		n.failWaiting(now.Add(n.config.Budget))
		if !closed {
			time.AfterFunc(s.notUntil.Sub(now), n.tryAgain)
		}
	}
}

// askTime runs a command on an idle or new connection. Idle connections may have died when another one broke: over TLS,
// go-redis notices that only when it uses them. So it tries them one after the other, without a pause.
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

// timeCmd is a command that go-redis does not repeat: setups has pauses of its own.
type timeCmd struct{ *redis.Cmd }

// NoRetry implements redis.Cmder.
func (timeCmd) NoRetry() bool { return true }

// hungUp explains the error of a server that closes a new connection without an answer.
func hungUp(err error) error {
	if !errors.Is(err, io.EOF) {
		return err
	}
	return fmt.Errorf("server closed a new connection, which begins with HELLO (a proxy without HELLO, such as twemproxy, cannot be used): %w", err)
}

// tryAgain begins a set-up after one that has failed, even if no take waits.
func (n *node) tryAgain() {
	n.mu.Lock()
	defer n.mu.Unlock()
	if now := time.Now(); n.ready == 0 && n.setups.underWay == 0 && now.Sub(n.lastUsed) < staysWanted {
		n.wantConnection(now)
	}
}

// failWaiting fails the takes in the queue whose deadline is not after by, with n.mu held.
func (n *node) failWaiting(by time.Time) {
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
	n.queue, n.abandoned = kept, 0
}

// isAnswer reports whether an error is a server's answer, which shows that the connection is set up.
func isAnswer(err error) bool {
	for _, prefix := range []string{"NOPERM", "NOAUTH", "LOADING", "BUSY", "MASTERDOWN", "CLUSTERDOWN"} {
		if redis.HasErrorPrefix(err, prefix) {
			return true
		}
	}
	var reply redis.Error
	return errors.As(err, &reply) && (strings.Contains(reply.Error(), "unknown command") || strings.Contains(reply.Error(), "unsupported command"))
}
