package verify

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// trial is the result of one case. Tests of the same case add to the same trial.
type trial struct {
	t *testing.T
	*outcome

	where string // begins its notes
	here  struct{ recovery, p99 time.Duration }
}

type outcome struct {
	mu       sync.Mutex
	tried    int
	failed   bool
	excess   measure[float64]
	recovery measure[time.Duration]
	p99, max time.Duration
	budget   time.Duration
	notes    []string
}

// measure is the worst that was seen, and what is allowed.
type measure[T float64 | time.Duration] struct {
	seen           bool
	worst, allowed T
}

func (m *measure[T]) add(worst, allowed T) {
	if !m.seen || worst > m.worst || worst == m.worst && allowed > m.allowed {
		*m = measure[T]{true, worst, allowed}
	}
}

var outcomes struct {
	mu sync.Mutex
	of map[string]*outcome
}

// try begins a case. It is passed if this test, and every other test of the case, passes.
func try(t *testing.T, id string) *trial {
	t.Helper()
	if !slices.ContainsFunc(cases, func(c struct{ id, what, expected string }) bool { return c.id == id }) {
		t.Fatalf("there is no case %s", id)
	}
	outcomes.mu.Lock()
	defer outcomes.mu.Unlock()
	if outcomes.of == nil {
		outcomes.of = map[string]*outcome{}
	}
	o := outcomes.of[id]
	if o == nil {
		o = &outcome{}
		outcomes.of[id] = o
	}
	t.Cleanup(func() {
		o.mu.Lock()
		defer o.mu.Unlock()
		o.failed = o.failed || t.Failed() || t.Skipped()
	})
	return &trial{t: t, outcome: o}
}

// times counts how often the fault was made.
func (c *trial) times(n int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.tried += n
}

// clockGrain is the tokens by which two clocks may disagree: the log's is in nanoseconds, Redis' in microseconds.
const clockGrain = 0.01

// exceeds records the worst excess over the invariant, in tokens, which may be up to the allowance.
func (c *trial) exceeds(tokens, allowance float64) {
	c.t.Helper()
	tokens = max(0, tokens)
	c.mu.Lock()
	c.excess.add(tokens, allowance)
	c.mu.Unlock()
	if tokens > allowance+clockGrain {
		c.t.Errorf("%.3f tokens more than the invariant allows were admitted; %.3f are accepted here", tokens, allowance)
	}
}

// recovers records how long it took from the end of the fault to a decision in the slowest process.
func (c *trial) recovers(took, allowed time.Duration) {
	c.t.Helper()
	took = max(0, took)
	c.mu.Lock()
	c.recovery.add(took, allowed)
	c.here.recovery = max(c.here.recovery, took)
	c.mu.Unlock()
	if took > allowed {
		c.t.Errorf("recovered after %v, want at most %v", took, allowed)
	}
}

// takes records how long decisions took. They should take no more than budget + 10 ms. A test only fails at more, because the
// load of other processes on this machine is not the library's fault. The table has the exact figures.
func (c *trial) takes(latencies []time.Duration, budget time.Duration) {
	c.t.Helper()
	if len(latencies) == 0 {
		c.t.Error("no decision was made")
		return
	}
	p99, worst := percentile(latencies, 99), percentile(latencies, 100)
	c.mu.Lock()
	if c.max == 0 || p99-budget > c.p99-c.budget {
		c.p99, c.budget = p99, budget
	}
	c.max = max(c.max, worst)
	c.here.p99 = max(c.here.p99, p99)
	c.mu.Unlock()
	gross := grossDelay()
	if p99 > budget+gross {
		c.t.Errorf("the 99th percentile of decisions is %v, the budget %v", p99, budget)
	}
	if worst > budget+10*gross {
		c.t.Errorf("a decision took %v, the budget is %v", worst, budget)
	}
}

// note adds a figure to the table.
func (c *trial) note(format string, args ...any) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if text := c.where + fmt.Sprintf(format, args...); !slices.Contains(c.notes, text) {
		c.notes = append(c.notes, text)
		c.t.Log(text)
	}
}

// compare adds the figures of a run from far away to the table.
func (c *trial) compare(rtt time.Duration) {
	var figures []string
	if c.here.recovery > 0 {
		figures = append(figures, fmt.Sprintf("recovery %.2f s", c.here.recovery.Seconds()))
	}
	if c.here.p99 > 0 {
		figures = append(figures, fmt.Sprintf("99th percentile %.0f ms", c.here.p99.Seconds()*1e3))
	}
	if len(figures) > 0 {
		c.where = ""
		c.note("RTT %v: %s", rtt, strings.Join(figures, ", "))
	}
}

// grossDelay is a delay that other processes cannot be the cause of. With -short, which mostly runs under the race detector and
// beside other tests, it is longer.
func grossDelay() time.Duration { return time.Duration(pick(100, 1000)) * time.Millisecond }

func percentile(durations []time.Duration, p int) time.Duration {
	sorted := slices.Sorted(slices.Values(durations))
	return sorted[(len(sorted)-1)*p/100]
}

// pick returns the full number of repetitions, or the one for -short.
func pick(full, short int) int {
	if testing.Short() {
		return short
	}
	return full
}

// eventually polls a condition, and fails the test where it does not come true.
func eventually(t *testing.T, within time.Duration, what string, done func() bool) {
	t.Helper()
	deadline := time.Now().Add(within)
	for !done() {
		if time.Now().After(deadline) {
			t.Fatalf("not within %v: %s", within, what)
		}
		time.Sleep(2 * time.Millisecond)
	}
}
