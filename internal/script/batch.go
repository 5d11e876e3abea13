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
// A flight is a batch of takes on one connection. Sharing the connection saves Redis and this process most of what a
// take costs: reading and writing sockets. Each flight has a goroutine of its own, so that each take keeps its own
// deadline: a take that gives up leaves the connection alone, and the flight reads its late reply and drops it.
//
// go-redis' AutoPipeline was not taken: it batches with goroutines that have to be closed, is slower for a single
// caller, and splits batches of commands that must not be sent twice.
//
// A flight leaves only when a connection is known to be set up. Connections are set up beside the takes, see setup.go.
type node struct {
	client *redis.Client
	config Config
	merger

	conns    int           // connections that the pool may have
	patience time.Duration // how long a flight waits for its replies before it gives the connection up

	mu         sync.Mutex
	queue      []*take // in order of arrival; includes takes that have given up
	abandoned  int     // takes in queue that have given up
	flights    []*flight
	lastLaunch time.Time
	ready      int // connections that are set up, those of flights included
	roundTrip  minimum
	lastSlow   time.Time // when a flight last took long or was lost
	lastBreak  time.Time // when a connection last broke or could not be set up
	waking     bool      // whether a timer will call advance
	setups     setups
	lastUsed   time.Time // when the latest take came
}

const (
	// fewFlights may be under way however near Redis is, so that Redis has work while this process reads replies, and
	// so that one bad connection does not hold up all takes. On loopback, with two flights, 16 callers get a fifth less
	// than with four; with eight, batches are so small that 128 callers get less.
	fewFlights = 4
	// maxFlights may be under way to a server that is far away: flights then leave a sixteenth of a round trip after
	// each other. Where the budget is little more than a round trip there may be more, as many as keep a take's wait
	// for its flight below an eighth of the rest of the budget.
	maxFlights   = 16
	partOfBudget = 8
	// worthwhile is how long it pays to wait for more takes to share a flight. A round trip has at most one flight for
	// each; on loopback that is no more than fewFlights.
	worthwhile = 50 * time.Microsecond
	// maxWork bounds what one flight has Redis do without a break, in evaluations of a limit. 256 of them take one or
	// two milliseconds.
	maxWork = 256
	// worthATimer is the shortest wait that a timer is set for. Takes that come within it share a flight even if few
	// flights are under way: far from Redis, flights of a single take each would use up the connections.
	worthATimer = time.Millisecond
	// windowOfRoundTrip bounds how long a shorter round trip is remembered, so that a longer one is noticed.
	windowOfRoundTrip = 10 * time.Second
)

// take is a run of the script for one key, and what came of it.
type take struct {
	ctx      context.Context // a flight with this take alone passes its values on to the client
	key      string
	args     []any
	deadline time.Time
	asking   bool // the key's slot is moving to this node
	unmerged bool // not to be merged with others, because its slot is moving

	state takeState // guarded by the node's mu
	done  chan struct{}
	reply []int64 // once done
	err   error
}

type takeState uint8

const (
	waiting takeState = iota // in the queue
	tooLate                  // taken out of the queue, because the reply would come after the deadline
	sent
	gaveUp
)

// work is the number of limits that are evaluated: each has four arguments. A ban counts as up to two limits.
func (t *take) work() int { return (len(t.args) + 3) / 4 }

func (t *take) finish(reply []int64, err error) {
	t.reply, t.err = reply, err
	close(t.done)
}

// flight is a batch of takes on its way.
type flight struct {
	takes []*take
	began time.Time
	few   [4]*take // the memory of takes while there are few, to allocate once
}

// lateError is the error of a take whose time was up.
type lateError struct {
	sent   bool
	budget time.Duration
	cause  error // why the latest set-up failed, if the take had no connection; else nil
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
	n := &node{client: client, config: config, conns: options.PoolSize, lastUsed: time.Now()}
	if most := options.MaxActiveConns; most > 0 {
		n.conns = min(n.conns, most)
	}
	n.merger = merger{client: client, prefix: config.Prefix, sameSlot: sameSlot, tagged: hasHashTag(config.Prefix)}
	// A connection that is silent for ten budgets is taken to be broken.
	n.patience = max(10*config.Budget, 500*time.Millisecond)
	if read := options.ReadTimeout; read > 0 {
		n.patience = min(n.patience, read)
	}
	n.patience = max(min(n.patience, maxSetupTime), config.Budget)
	n.setups.patience = setupPatience(options)
	return n
}

// do sends the take, and returns when it has its reply or its time is up. A take that gives up before it is sent is
// never sent.
func (n *node) do(t *take) error {
	n.mu.Lock()
	n.lastUsed = time.Now()
	if f := n.direct(t); f != nil {
		n.mu.Unlock()
		return n.flyDirect(f, t)
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
		n.abandoned++
		if n.ready == 0 {
			late.cause = n.setups.err
		}
	}
	t.state = gaveUp
	if 2*n.abandoned > len(n.queue) {
		n.queue = slices.DeleteFunc(n.queue, func(t *take) bool { return t.state == gaveUp })
		n.abandoned = 0
	}
	return late
}

// direct returns a flight for a take that the caller may send itself, or nil if the take must queue, with n.mu held.
// Where Redis is next door, a goroutine for a flight adds a tenth to the cost of a take. If a direct take's reply is
// late after all, that costs the connection, and all takes queue for a while.
func (n *node) direct(t *take) *flight {
	const nextDoor, calm = time.Millisecond, time.Second
	rtt := n.roundTrip.value()
	if rtt == 0 || rtt > min(nextDoor, n.config.Budget/20) || len(n.queue) > n.abandoned || t.asking ||
		len(n.flights) >= min(fewFlights, n.ready) || n.lastUsed.Sub(n.lastSlow) < calm {
		return nil
	}
	f := &flight{began: n.lastUsed}
	n.flights = append(n.flights, f)
	return f
}

// flyDirect sends a take on the caller's goroutine, within the take's own deadline.
func (n *node) flyDirect(f *flight, t *take) error {
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

// next returns a flight that is to leave now, or nil, with n.mu held. Where takes wait for a connection, it has one set
// up.
func (n *node) next() *flight {
	if len(n.queue) == n.abandoned {
		clear(n.queue)
		n.queue, n.abandoned = n.queue[:0], 0
		return nil
	}
	now := time.Now()
	atOnce, apart := n.schedule()
	flying := len(n.flights)
	if flying >= atOnce {
		flying -= n.lateFlights(now)
	}
	switch since := now.Sub(n.lastLaunch); {
	case flying >= atOnce, len(n.flights) >= 2*atOnce:
		return nil // The next flight to land calls next again.
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

// foundIdle reports whether the pool has connections that others have set up, with n.mu held, while flights use all that
// this node knows of. After a connection has broken, idle ones are not trusted until they are set up anew.
func (n *node) foundIdle(now time.Time) bool {
	if now.Sub(n.lastBreak) < maxSetupTime {
		return false
	}
	n.ready = min(len(n.flights)+int(n.client.PoolStats().IdleConns), n.conns)
	return len(n.flights) < n.ready
}

// schedule is how many flights may be under way at once, and how far apart they leave. Near Redis, a take that has to
// wait does so until a flight lands. Far away that would cost a round trip, so more flights are under way, and a take
// waits for a part of a round trip.
func (n *node) schedule() (atOnce int, apart time.Duration) {
	rtt := n.roundTrip.value()
	atOnce = min(max(int(rtt/worthwhile), fewFlights), maxFlights, n.conns)
	if rest := n.config.Budget - rtt; rest > 0 && rest < rtt {
		atOnce = min(max(atOnce, int(partOfBudget*rtt/max(rest, worthATimer))), n.conns)
	}
	if atOnce <= fewFlights {
		return atOnce, 0
	}
	have := max(n.ready, 1)
	if rtt+rtt/time.Duration(have) > n.config.Budget*3/4 {
		have += 1 + have/4 // Flights then want to leave sooner than a connection is free, so that more are set up.
	}
	return atOnce, rtt / time.Duration(min(have, atOnce))
}

// lateFlights is how many flights are so late that their takes have given up, or soon will. They keep their
// connections, but do not count against the number of flights at once.
func (n *node) lateFlights(now time.Time) int {
	late := 0
	for _, f := range n.flights {
		if now.Sub(f.began) > max(n.config.Budget, 2*n.roundTrip.value()) {
			late++
		}
	}
	return late
}

// board moves takes from the queue to a flight, and reports whether there were any to move.
func (n *node) board(f *flight) bool {
	work, i := 0, 0
	for ; i < len(n.queue); i++ {
		t := n.queue[i]
		if t.state == gaveUp {
			n.abandoned--
		} else if n.canBeInTime(t, f.began) {
			work += t.work()
			if work > maxWork && len(f.takes) > 0 {
				break
			}
			t.state = sent
			f.takes = append(f.takes, t)
		} else {
			t.state = tooLate
		}
	}
	n.queue = slices.Delete(n.queue, 0, i)
	return len(f.takes) > 0
}

// canBeInTime reports whether a reply can come before the take's deadline. A take that has just come is always sent:
// if it were not because Redis seems too far away, no reply would ever show that Redis is near again.
func (n *node) canBeInTime(t *take, now time.Time) bool {
	left := t.deadline.Sub(now)
	return left >= n.roundTrip.value() || left >= n.config.Budget*3/4
}

// fly carries a flight, and then the flights that can leave once it has landed.
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
	parent := context.Background() // A flight of several takes carries none of their values.
	if len(f.takes) == 1 {
		parent = context.WithoutCancel(f.takes[0].ctx)
	}
	ctx, cancel := context.WithTimeout(parent, n.patience)
	defer cancel()
	return n.send(ctx, f.takes, n.stillWaits)
}

// stillWaits reports whether the caller still waits for a take that was sent and did not run.
func (n *node) stillWaits(t *take) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return t.state != gaveUp
}

// land removes a flight that has ended with err, and updates what is known about connections, with n.mu held.
func (n *node) land(f *flight, legs int, err error) {
	now := time.Now()
	flying := len(n.flights)
	if err != nil || now.Sub(f.began) > n.config.Budget/4 {
		n.lastSlow = now
	}
	if err != nil && !isFull(err) {
		n.lastBreak = now
	}
	if i := slices.Index(n.flights, f); i >= 0 {
		n.flights = slices.Delete(n.flights, i, i+1)
	}
	switch {
	case err == nil:
		if legs == 1 {
			n.roundTrip.add(now, now.Sub(f.began))
		}
		n.ready = min(max(n.ready, flying), n.conns) // Each flight has a connection.
		n.doubtOneServer(now, len(f.takes))
	case isFull(err):
	case errors.Is(err, context.DeadlineExceeded):
		n.ready = max(n.ready-1, 0)
	default: // One connection broke, so idle ones are not trusted; those of the other flights will soon be known.
		n.ready = flying - 1
	}
}

// doubtOneServer has the merger find out whether there is one server, beside the takes, with n.mu held.
func (n *node) doubtOneServer(now time.Time, takes int) {
	if takes < 2 || len(n.flights) >= n.ready || !n.merger.due(now) {
		return
	}
	probe := &flight{began: now} // Counts as a flight, because it uses a connection.
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

// wake calls advance later, with n.mu held.
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

// minimum is the shortest duration that was added in the last one or two windows. The shortest round trip is one that
// did not wait in a queue.
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
