package script

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"
)

// node is one server as this process sees it: the takes that wait for it, the flights that are under way, and the
// connections that are known to be good.
//
// A flight is a batch of takes on one connection, which spares Redis and this process most of the cost of a take:
// reading and writing sockets. It is carried by a goroutine of its own that lives as long as the flight, so that each
// take keeps its own deadline: one that gives up leaves the connection alone, and the reply that comes late is read
// and thrown away. go-redis' AutoPipeline batches with goroutines that have to be closed, is slower for a single
// caller, and splits batches of commands that must not be sent twice.
//
// A flight leaves only when a connection is known to be set up. Setting one up is done beside the takes, see setup.go.
type node struct {
	client *redis.Client
	config Config
	merger

	conns    int           // connections that the pool may have
	patience time.Duration // how long a reply is waited for before the connection is given up

	mu         sync.Mutex
	queue      []*take // in the order in which they came, with some that have given up among them
	left       int     // those that have given up, in queue
	flights    []*flight
	lastLaunch time.Time
	ready      int // connections that are set up, those of flights included
	roundTrip  minimum
	slow       time.Time // when a flight took long, or was lost, last
	broke      time.Time // when a connection broke or could not be set up, last
	waking     bool      // whether advance will be called by a timer
	setups     setups
	used       time.Time // when a take came last
}

const (
	// fewFlights may be under way however near Redis is, so that it has work while this process reads replies, and so
	// that one bad connection does not hold everybody up. On loopback, with two, 16 callers get a fifth less than with
	// four; with eight, batches are so small that 128 callers get less.
	fewFlights = 4
	// mostFlights is how many there may be to a server that is far away: takes then leave a sixteenth of a round trip
	// after each other. Where the budget has little more than a round trip, there are as many as keep a take's wait for
	// its flight below an eighth of what is left.
	mostFlights  = 16
	partOfBudget = 8
	// worthwhile is how long waiting for company pays: on loopback, it makes fewFlights of a round trip.
	worthwhile = 50 * time.Microsecond
	// mostWork bounds what one flight has Redis do without a break, in evaluations of a limit, of which 256 take one
	// or two milliseconds.
	mostWork = 256
	// worthATimer is what timers can tell apart. Takes that come within it are sent together even if few are under way,
	// because far away one flight with a single take each would leave no connection to the others.
	worthATimer = time.Millisecond
	// windowOfRoundTrip is how soon a round trip that has become longer is believed.
	windowOfRoundTrip = 10 * time.Second
)

// take is a run of the script for one key, and what came of it.
type take struct {
	ctx      context.Context // its values are those of a flight that it has for itself
	key      string
	args     []any
	deadline time.Time
	asking   bool // the key's slot is moving to this node
	alone    bool // not to be merged with others, because its slot is moving

	state takeState // guarded by the node's mu
	done  chan struct{}
	reply []int64 // once done
	err   error
}

type takeState uint8

const (
	waiting  takeState = iota // in the queue
	hopeless                  // out of it, because a reply would be late
	sent
	gaveUp
)

// work is the number of limits that are evaluated: each has four arguments, and a ban as much as two limits.
func (t *take) work() int { return (len(t.args) + 3) / 4 }

func (t *take) finish(reply []int64, err error) {
	t.reply, t.err = reply, err
	close(t.done)
}

// flight is a batch of takes on its way.
type flight struct {
	takes []*take
	began time.Time
	few   [4]*take // room for a small batch
}

// lateError is the error of a take whose time was up.
type lateError struct {
	sent   bool
	budget time.Duration
	cause  error // of the latest connection that could not be set up, nil if it was not for want of one
}

func (e *lateError) Error() string {
	switch {
	case e.sent:
		return fmt.Sprintf("no reply within %v", e.budget)
	case e.cause != nil:
		return fmt.Sprintf("no connection within %v: %v", e.budget, e.cause)
	default:
		return fmt.Sprintf("not sent within %v", e.budget)
	}
}

func (e *lateError) Unwrap() []error {
	if e.cause == nil {
		return []error{context.DeadlineExceeded}
	}
	return []error{context.DeadlineExceeded, e.cause}
}

func newNode(client *redis.Client, config Config, sameSlot bool) *node {
	options := client.Options()
	n := &node{client: client, config: config, conns: options.PoolSize, used: time.Now()}
	if most := options.MaxActiveConns; most > 0 {
		n.conns = min(n.conns, most)
	}
	n.merger = merger{client: client, prefix: config.Prefix, sameSlot: sameSlot, tagged: hasHashTag(config.Prefix)}
	// A connection that is silent for ten budgets is not a good one any more.
	n.patience = max(10*config.Budget, 500*time.Millisecond)
	if read := options.ReadTimeout; read > 0 {
		n.patience = min(n.patience, read)
	}
	n.patience = max(min(n.patience, longestSetup), config.Budget)
	n.setups.patience = setupPatience(options)
	return n
}

// do has the take sent, and returns when it has its reply or its time is up. A take that has given up before it was
// sent never will be.
func (n *node) do(t *take) error {
	n.mu.Lock()
	n.used = time.Now()
	if f := n.alone(t); f != nil {
		n.mu.Unlock()
		return n.flyAlone(f, t)
	}
	t.done = make(chan struct{})
	n.queue = append(n.queue, t)
	n.advance()
	n.mu.Unlock()
	return n.await(t)
}

// await returns when a take in the queue has its reply or its time is up.
func (n *node) await(t *take) error {
	timer := time.NewTimer(time.Until(t.deadline))
	defer timer.Stop()
	select {
	case <-t.done:
		return t.err
	case <-timer.C:
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	select {
	case <-t.done:
		return t.err
	default:
	}
	late := &lateError{sent: t.state == sent, budget: n.config.Budget}
	if t.state == waiting {
		n.left++
		if n.ready == 0 {
			late.cause = n.setups.err
		}
	}
	t.state = gaveUp
	if 2*n.left > len(n.queue) {
		n.queue = slices.DeleteFunc(n.queue, func(t *take) bool { return t.state == gaveUp })
		n.left = 0
	}
	return late
}

// alone returns a flight for a take that need not be carried, nil if it must be, with n.mu held: where Redis is next
// door, a goroutine to carry a take costs a tenth of it. If the reply is late after all, it costs the connection, and
// takes are carried for a while.
func (n *node) alone(t *take) *flight {
	const nextDoor, calm = time.Millisecond, time.Second
	rtt := n.roundTrip.value()
	if rtt == 0 || rtt > min(nextDoor, n.config.Budget/20) || len(n.queue) > n.left || t.asking ||
		len(n.flights) >= min(fewFlights, n.ready) || n.used.Sub(n.slow) < calm {
		return nil
	}
	f := &flight{began: n.used}
	n.flights = append(n.flights, f)
	return f
}

// flyAlone sends a take within its own deadline.
func (n *node) flyAlone(f *flight, t *take) error {
	ctx, cancel := context.WithDeadline(context.WithoutCancel(t.ctx), t.deadline)
	defer cancel()
	cmd := newOnceCmd(ctx, call{"evalsha", sha, []string{t.key}, t.args})
	broken := breaks(n.client.Process(ctx, cmd))
	n.mu.Lock()
	n.land(f, 1, broken)
	n.advance()
	n.mu.Unlock()
	if t.reply, t.err = cmd.Result(); t.err == nil {
		return nil
	}
	switch {
	case redis.HasErrorPrefix(t.err, "NOSCRIPT"): // Nothing ran.
		t.done = make(chan struct{})
		n.mu.Lock()
		n.queue = append(n.queue, t)
		n.advance()
		n.mu.Unlock()
		return n.await(t)
	case ctx.Err() != nil && broken != nil:
		return &lateError{sent: true, budget: n.config.Budget}
	}
	return t.err
}

// advance launches the flights that can leave, with n.mu held.
func (n *node) advance() {
	for f := n.next(); f != nil; f = n.next() {
		go n.fly(f)
	}
}

// next returns a flight that is to leave now, nil for none, with n.mu held. Where takes wait for a connection, it sees
// to that.
func (n *node) next() *flight {
	if len(n.queue) == n.left {
		clear(n.queue)
		n.queue, n.left = n.queue[:0], 0
		return nil
	}
	now := time.Now()
	most, apart := n.schedule()
	flying := len(n.flights)
	if flying >= most {
		flying -= n.lateFlights(now)
	}
	switch since := now.Sub(n.lastLaunch); {
	case flying >= most, len(n.flights) >= 2*most:
		return nil // One that lands goes on.
	case flying > 0 && since < apart && (flying >= fewFlights || apart >= worthATimer):
		n.wake(apart - since)
		return nil
	case len(n.flights) >= n.ready && !n.foundIdle(now):
		n.wantConnection(now)
		return nil
	}
	f := &flight{began: now}
	if f.takes = f.few[:0]; !n.board(f) {
		return nil
	}
	n.flights = append(n.flights, f)
	n.lastLaunch = now
	return f
}

// foundIdle reports whether the pool has connections that others have set up, with n.mu held, while all that this node
// knows of are in the air. After one has broken, those that are idle are no better until they are set up anew.
func (n *node) foundIdle(now time.Time) bool {
	if now.Sub(n.broke) < longestSetup {
		return false
	}
	n.ready = min(len(n.flights)+int(n.client.PoolStats().IdleConns), n.conns)
	return len(n.flights) < n.ready
}

// schedule is how many flights may be under way, and how far apart they leave. Near Redis, takes that have to wait do
// so for a landing; far away that would cost a round trip, so there are more flights, and a take waits for a part of
// one.
func (n *node) schedule() (most int, apart time.Duration) {
	rtt := n.roundTrip.value()
	most = min(max(int(rtt/worthwhile), fewFlights), mostFlights, n.conns)
	if left := n.config.Budget - rtt; left > 0 && left < rtt {
		most = min(max(most, int(partOfBudget*rtt/max(left, worthATimer))), n.conns)
	}
	if most <= fewFlights {
		return most, 0
	}
	have := max(n.ready, 1)
	if rtt+rtt/time.Duration(have) > n.config.Budget*3/4 {
		have += 1 + have/4 // They follow each other faster than those can, so that more will be set up.
	}
	return most, rtt / time.Duration(min(have, most))
}

// lateFlights is how many flights nobody waits for any more, or not for long. They keep their connections, and others
// may fly.
func (n *node) lateFlights(now time.Time) int {
	late := 0
	for _, f := range n.flights {
		if now.Sub(f.began) > max(n.config.Budget, 2*n.roundTrip.value()) {
			late++
		}
	}
	return late
}

// board fills a flight from the queue, and reports whether anybody flies.
func (n *node) board(f *flight) bool {
	work, i := 0, 0
	for ; i < len(n.queue); i++ {
		t := n.queue[i]
		if t.state == gaveUp {
			n.left--
		} else if n.canBeInTime(t, f.began) {
			work += t.work()
			if work > mostWork && len(f.takes) > 0 {
				break
			}
			t.state = sent
			f.takes = append(f.takes, t)
		} else {
			t.state = hopeless
		}
	}
	n.queue = slices.Delete(n.queue, 0, i)
	return len(f.takes) > 0
}

// canBeInTime reports whether a reply can come before the take's deadline. A take that has just come is always sent:
// if Redis were thought to be too far away for it, nothing would ever show the contrary.
func (n *node) canBeInTime(t *take, now time.Time) bool {
	left := t.deadline.Sub(now)
	return left >= n.roundTrip.value() || left >= n.config.Budget*3/4
}

// fly carries a flight, and then those that can leave when it has landed.
func (n *node) fly(f *flight) {
	for f != nil {
		legs, err := n.carry(f)
		n.mu.Lock()
		n.land(f, legs, err)
		f = n.next()
		n.advance()
		n.mu.Unlock()
	}
}

// carry sends the takes of a flight down one connection, and gives each its reply or error.
func (n *node) carry(f *flight) (legs int, err error) {
	parent := context.Background() // What takes share has none of their values.
	if len(f.takes) == 1 {
		parent = context.WithoutCancel(f.takes[0].ctx)
	}
	ctx, cancel := context.WithTimeout(parent, n.patience)
	defer cancel()
	return n.send(ctx, f.takes, n.stillWaits)
}

// stillWaits reports whether somebody waits for a take that was sent and did not run.
func (n *node) stillWaits(t *take) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return t.state != gaveUp
}

// land notes that a flight has landed, and what that says about connections, with n.mu held.
func (n *node) land(f *flight, legs int, err error) {
	now := time.Now()
	flying := len(n.flights)
	if err != nil || now.Sub(f.began) > n.config.Budget/4 {
		n.slow = now
	}
	if err != nil && !isFull(err) {
		n.broke = now
	}
	if i := slices.Index(n.flights, f); i >= 0 {
		n.flights = slices.Delete(n.flights, i, i+1)
	}
	switch {
	case err == nil:
		if legs == 1 {
			n.roundTrip.add(now, now.Sub(f.began))
		}
		n.ready = min(max(n.ready, flying), n.conns) // Each of them has one.
		n.doubtOneServer(now, len(f.takes))
	case isFull(err):
	case errors.Is(err, context.DeadlineExceeded):
		n.ready = max(n.ready-1, 0)
	default: // Where one connection broke, the others are doubted; those that fly will tell.
		n.ready = flying - 1
	}
}

// doubtOneServer has the merger find out whether there is one server, beside the takes, with n.mu held.
func (n *node) doubtOneServer(now time.Time, takes int) {
	if takes < 2 || len(n.flights) >= n.ready || !n.merger.due(now) {
		return
	}
	probe := &flight{began: now} // It has a connection, too.
	n.flights = append(n.flights, probe)
	go func() {
		ctx, cancel := context.WithTimeout(context.Background(), n.patience)
		defer cancel()
		err := n.merger.ask(ctx)
		n.mu.Lock()
		defer n.mu.Unlock()
		n.land(probe, 0, err)
		n.advance()
	}()
}

// wake has advance called later, with n.mu held.
func (n *node) wake(after time.Duration) {
	if n.waking {
		return
	}
	n.waking = true
	time.AfterFunc(after, func() {
		n.mu.Lock()
		defer n.mu.Unlock()
		n.waking = false
		n.advance()
	})
}

// minimum is the least of what was added in the last one or two windows. The least round trip is the one without
// queues.
type minimum struct {
	current, previous time.Duration // 0 for none
	since             time.Time
}

func (m *minimum) add(now time.Time, d time.Duration) {
	if now.Sub(m.since) > windowOfRoundTrip {
		m.previous, m.current, m.since = m.current, 0, now
	}
	if m.current == 0 || d < m.current {
		m.current = max(d, 1)
	}
}

func (m *minimum) value() time.Duration {
	if m.previous > 0 && (m.previous < m.current || m.current == 0) {
		return m.previous
	}
	return m.current
}
