package verify

import (
	"encoding/gob"
	"encoding/json"
	"io"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gin-ratelimit/ratelimit"
)

// load is client processes that run, and the log of all that they have seen so far.
type load struct {
	t       *testing.T
	spec    clientSpec
	clients []*client
}

type client struct {
	cmd   *exec.Cmd
	stdin io.Closer
	done  sync.WaitGroup

	mu  sync.Mutex // guards log
	log []decision
}

// defaultSpec is a demand far above the limit, so that each token too many is found and taken. Every take goes to Redis.
func defaultSpec(addrs ...string) clientSpec {
	return clientSpec{
		Addrs: addrs, Kind: "single", Prefix: "ratelimit:",
		Limit:  ratelimit.Limit{Capacity: 20, Refill: ratelimit.PerSecond(20)},
		Budget: 50 * time.Millisecond,
		Keys:   4, Callers: 4, Every: 8 * time.Millisecond,
	}
}

// startLoad starts n client processes, and returns when each has been answered.
func startLoad(t *testing.T, n int, spec clientSpec) *load {
	t.Helper()
	if far != nil {
		spec.RTT = farAway
	}
	text, err := json.Marshal(spec)
	if err != nil {
		t.Fatal(err)
	}
	l := &load{t: t, spec: spec}
	t.Cleanup(func() { l.stop() })
	for range n {
		c := &client{cmd: exec.Command(os.Args[0])}
		c.cmd.Env = append(c.cmd.Environ(), clientEnv+"="+string(text))
		c.cmd.Stderr = os.Stderr
		stdin, err := c.cmd.StdinPipe()
		if err != nil {
			t.Fatal(err)
		}
		stdout, err := c.cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := c.cmd.Start(); err != nil {
			t.Fatal(err)
		}
		c.stdin = stdin
		c.done.Go(func() { c.read(stdout) })
		l.clients = append(l.clients, c)
	}
	l.each("has been answered", 20*time.Second, func(log []decision) bool { return len(log) > 0 })
	return l
}

func (c *client) read(stdout io.Reader) {
	decoder := gob.NewDecoder(stdout)
	for {
		var d decision
		if decoder.Decode(&d) != nil {
			return
		}
		c.mu.Lock()
		c.log = append(c.log, d)
		c.mu.Unlock()
	}
}

func (c *client) so(far func(log []decision) bool) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return far(c.log)
}

// each waits until something is true of every client's log.
func (l *load) each(what string, within time.Duration, far func(log []decision) bool) {
	l.t.Helper()
	eventually(l.t, within, "each client "+what, func() bool {
		return !slices.ContainsFunc(l.clients, func(c *client) bool { return !c.so(far) })
	})
}

// run lets the clients work for a time. The time is a part of the load; it does not wait for a condition.
func (l *load) run(d time.Duration) { time.Sleep(d) }

// recovered waits until every client has a decision by Redis on a request that was sent after since, and returns how long the
// slowest client has waited for it.
func (l *load) recovered(since int64, within time.Duration) time.Duration {
	l.t.Helper()
	l.each("decides again", within, func(log []decision) bool { return firstDecided(log, since) >= 0 })
	var slowest int64
	for _, c := range l.clients {
		c.so(func(log []decision) bool { slowest = max(slowest, firstDecided(log, since)-since); return true })
	}
	return time.Duration(slowest)
}

// firstDecided returns when Redis decided the first request that was sent after since, -1 if it decided none.
func firstDecided(log []decision, since int64) int64 {
	first := int64(-1)
	for _, d := range log {
		if d.Start >= since && d.Source == ratelimit.SourceRedis && (first < 0 || d.End < first) {
			first = d.End
		}
	}
	return first
}

// failing waits until every client has met a fault that began at since: by a failure, or by a decision of its fallback.
func (l *load) failing(since int64, within time.Duration) {
	l.t.Helper()
	l.each("meets the fault", within, func(log []decision) bool {
		return slices.ContainsFunc(log, func(d decision) bool {
			return d.Start >= since && (d.Verdict == failed || d.Source == ratelimit.SourceFallback)
		})
	})
}

// told waits until every client has met an error with this text, on a request that was sent after since.
func (l *load) told(what string, since int64, within time.Duration) {
	l.t.Helper()
	l.each("is told "+what, within, func(log []decision) bool {
		return slices.ContainsFunc(log, func(d decision) bool {
			return d.Start >= since && d.Verdict == failed && strings.Contains(d.Text, what)
		})
	})
}

// stop ends the clients, and returns their logs.
func (l *load) stop() record {
	l.t.Helper()
	var all record
	for _, c := range l.clients {
		_ = c.stdin.Close()
	}
	for _, c := range l.clients {
		c.done.Wait()
		if c.cmd.ProcessState == nil {
			if err := c.cmd.Wait(); err != nil {
				l.t.Errorf("a client process died: %v", err)
			}
		}
		all = append(all, c.log...)
	}
	for _, d := range all {
		if d.Verdict == broken {
			l.t.Errorf("a wrong answer: %s", d.Text)
			break
		}
	}
	return all
}

// record is all decisions, by whichever store.
type record []decision

// admissions are those that count against the limit: those by a store, not those by the policy.
func (r record) admissions() []admission {
	var log []admission
	for _, d := range r {
		if d.Verdict == admitted {
			log = append(log, admission{d.Key, 1, d.Start, d.End})
		}
	}
	return log
}

func (r record) latencies() []time.Duration {
	all := make([]time.Duration, len(r))
	for i, d := range r {
		all[i] = d.took()
	}
	return all
}

func (r record) count(v verdict) int {
	n := 0
	for _, d := range r {
		if d.Verdict == v {
			n++
		}
	}
	return n
}

// between returns the requests that were sent and answered within a window.
func (r record) between(start, end int64) record {
	var some record
	for _, d := range r {
		if d.Start >= start && d.End <= end {
			some = append(some, d)
		}
	}
	return some
}

// errors returns the texts of the failures, and how often each came.
func (r record) errors() map[string]int {
	texts := map[string]int{}
	for _, d := range r {
		if d.Verdict == failed {
			texts[d.Text]++
		}
	}
	return texts
}
