package verify

import (
	"context"
	"math/rand/v2"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/gin-ratelimit/ratelimit"
	"github.com/gin-ratelimit/ratelimit/internal/redistest"
)

// takers is how many goroutines take at the same time, each from a key of its own.
const takers = 8

// takeThrough takes one token so many times, by several goroutines, and returns how often each key was taken from, and how
// many of these takes were answered.
func takeThrough(store ratelimit.Store, times int) (asked, answered [takers]int) {
	var taking sync.WaitGroup
	for i := range takers {
		taking.Go(func() {
			for range times / takers {
				asked[i]++
				if _, err := store.Take(context.Background(), strconv.Itoa(i), ratelimit.Take{N: 1, Limits: []ratelimit.Limit{hoard}}); err == nil {
					answered[i]++
				}
			}
		})
	}
	taking.Wait()
	return asked, answered
}

// A reply that is lost after the take was executed: each take is charged once, answered or not.
func TestF06ReplyLost(t *testing.T) { nearAndFar(t, "F6", f06ReplyLost) }

func f06ReplyLost(t *testing.T, c *trial) {
	server := redistest.Start(t)
	direct := openStore(t, server.Addr, patient)
	for retries, times := range map[int]int{-1: pick(2_000, 200), 3: pick(10_000, 1_000)} {
		p := startProxy(t, server.Addr)
		store := storeOn(t, openClient(t, &redis.Options{Addr: p.addr, MaxRetries: retries}), patient)
		take(t, direct, "warm", 1, hoard) // So that no take finds the script unknown.
		p.with(func([]byte) action {
			if rand.IntN(4) == 0 {
				return action{cut: true}
			}
			return passOn
		})
		asked, answered := takeThrough(store, times)
		double, unanswered := 0, 0
		for i := range takers {
			got := charged(t, direct, strconv.Itoa(i))
			if got != asked[i] {
				t.Errorf("%d takes, %d of them answered, were charged %d times", asked[i], answered[i], got)
			}
			double += max(0, got-asked[i])
			unanswered += asked[i] - answered[i]
		}
		if unanswered == 0 {
			t.Error("no reply was lost")
		}
		c.times(times)
		c.exceeds(0, 0)
		c.note("MaxRetries %d: %d double charges in %d takes, of which %d lost their replies", retries, double, times, unanswered)
		for i := range takers {
			if _, err := direct.Reset(t.Context(), strconv.Itoa(i)); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// If replies to takes are lost, the policy decides, in every client process.
func TestF06Policy(t *testing.T) { nearAndFar(t, "F6", f06Policy) }

func f06Policy(t *testing.T, c *trial) {
	server := redistest.Start(t)
	p := startProxy(t, server.Addr)
	l := startLoad(t, processes, defaultSpec(p.addr))
	lose := monotonic()
	p.with(func([]byte) action { return action{cut: true} })
	l.failing(lose, 5*time.Second)
	l.run(500 * time.Millisecond)
	p.with(nil)
	c.recovers(l.recovered(monotonic(), 5*time.Second), time.Second)
	log := l.stop()
	c.times(1)
	c.takes(log.latencies(), l.spec.Budget)
	c.exceeds(worstExcess(log.admissions(), l.spec.Limit), 0)
}

// Replies come later than the budget. No take may get the reply to another, which would have another number.
func TestF07ReplyLate(t *testing.T) { nearAndFar(t, "F7", f07ReplyLate) }

func f07ReplyLate(t *testing.T, c *trial) {
	server := redistest.Start(t)
	direct := openStore(t, server.Addr, patient)
	p := startProxy(t, server.Addr)
	const budget = 50 * time.Millisecond
	store := openStore(t, p.addr, ratelimit.WithTimeout(budget))
	for i := range takers {
		take(t, direct, strconv.Itoa(i), 1000*(i+1), hoard)
	}
	p.with(func([]byte) action { return action{pass: -1, delay: rand.N(2 * budget)} })
	var mu sync.Mutex
	var latencies []time.Duration
	var taking sync.WaitGroup
	var asked, answered [takers]int
	for i := range takers {
		taking.Go(func() {
			for range pick(60, 15) {
				began := time.Now()
				asked[i]++
				r, err := store.Take(context.Background(), strconv.Itoa(i), ratelimit.Take{N: 1, Limits: []ratelimit.Limit{hoard}})
				took := time.Since(began)
				if err == nil {
					answered[i]++
					if missing := hoard.Capacity - r.Remaining; missing < 1000*(i+1)+answered[i] || missing > 1000*(i+1)+asked[i] {
						t.Errorf("key %d: %d tokens are missing after %d takes, %d answered: another key's reply", i, missing, asked[i], answered[i])
					}
				}
				mu.Lock()
				latencies = append(latencies, took)
				mu.Unlock()
			}
		})
	}
	taking.Wait()
	p.with(nil)
	late := 0
	for i := range takers {
		// Takes that gave up after they were sent are executed soon, if they were not yet.
		got := charged(t, direct, strconv.Itoa(i)) - 1000*(i+1)
		if got > asked[i] || got < answered[i] {
			t.Errorf("%d takes, %d of them answered, were charged %d times", asked[i], answered[i], got)
		}
		late += asked[i] - answered[i]
		c.times(asked[i])
	}
	c.exceeds(0, 0)
	c.takes(latencies, budget)
	c.note("%d replies came too late", late)
	if late == 0 {
		t.Error("no reply was late")
	}
}

func TestF08TornReply(t *testing.T) { nearAndFar(t, "F8", f08TornReply) }

func f08TornReply(t *testing.T, c *trial) {
	server := redistest.Start(t)
	direct := openStore(t, server.Addr, patient)
	take(t, direct, "warm", 1, hoard)
	p := startProxy(t, server.Addr)
	store := openStore(t, p.addr, patient)
	times := pick(100, 20)
	p.with(func([]byte) action { return action{pass: 3, cut: true} })
	for range times {
		if r, err := store.Take(t.Context(), "torn", ratelimit.Take{N: 1, Limits: []ratelimit.Limit{hoard}}); err == nil {
			t.Fatalf("a torn reply was taken for %+v", r)
		}
	}
	if got := charged(t, direct, "torn"); got != times {
		t.Errorf("%d takes were charged %d times", times, got)
	}
	// The same by toxiproxy, which tears all else on the connection, too.
	x := startToxic(t, server.Addr)
	store = openStore(t, x.addr, patient)
	take(t, store, "cut", 1, hoard)
	x.add("limit_data", map[string]any{"bytes": 3})
	if _, err := store.Take(t.Context(), "cut", ratelimit.Take{N: 1, Limits: []ratelimit.Limit{hoard}}); err == nil {
		t.Error("a cut reply was taken for one")
	}
	x.clean()
	eventually(t, 5*time.Second, "the store works again", func() bool {
		_, err := store.Take(t.Context(), "cut", ratelimit.Take{Limits: []ratelimit.Limit{hoard}})
		return err == nil
	})
	if got := charged(t, direct, "cut"); got != 2 {
		t.Errorf("2 takes were charged %d times", got)
	}
	c.times(times + 1)
	c.exceeds(0, 0)
}

func TestF08SlicedReplies(t *testing.T) { nearAndFar(t, "F8", f08SlicedReplies) }

func f08SlicedReplies(t *testing.T, c *trial) {
	server := redistest.Start(t)
	x := startToxic(t, server.Addr)
	x.add("slicer", map[string]any{"average_size": 1, "size_variation": 0, "delay": 10})
	store := openStore(t, x.addr, patient)
	times := pick(400, 80)
	asked, answered := takeThrough(store, times)
	if asked != answered {
		t.Errorf("asked %v, answered %v", asked, answered)
	}
	for i := range takers {
		if got := charged(t, store, strconv.Itoa(i)); got != asked[i] {
			t.Errorf("%d takes were charged %d times", asked[i], got)
		}
	}
	c.times(times)
	c.exceeds(0, 0)
}

func TestF09Latency(t *testing.T) { nearAndFar(t, "F9", f09Latency) }

func f09Latency(t *testing.T, c *trial) {
	const latency, jitter = 20 * time.Millisecond, 15 * time.Millisecond
	for _, callers := range []int{1, 16} {
		server := redistest.Start(t)
		x := startToxic(t, server.Addr)
		x.add("latency", map[string]any{"latency": latency.Milliseconds(), "jitter": jitter.Milliseconds()})
		spec := defaultSpec(x.addr)
		spec.Budget = 500 * time.Millisecond // Above the latency, so that all takes are decided.
		spec.Callers = callers
		spec.Keys = 1
		l := startLoad(t, processes, spec)
		l.run(300 * time.Millisecond) // Sets up connections.
		began := monotonic()
		l.run(time.Duration(pick(4000, 1500)) * time.Millisecond)
		ended := monotonic()
		log := l.stop()
		during := log.between(began, ended)
		c.times(len(during))
		c.exceeds(worstExcess(log.admissions(), spec.Limit), 0)
		p99 := percentile(during.latencies(), 99)
		c.note("%d callers a process: p99 %v, %d requests", callers, p99.Round(time.Millisecond), len(during))
		if callers == 1 {
			c.takes(during.latencies(), latency+jitter)
		} else if p99 > 2*(latency+jitter)+grossDelay() { // A take may have to wait for the batch before it.
			t.Errorf("with %d callers the 99th percentile is %v", callers, p99)
		}
		if n := log.count(failed); n > 0 {
			t.Errorf("%d of %d takes failed: %v", n, len(log), log.errors())
		}
		// No take is refused that should be admitted: all that has refilled is admitted, up to a small rest.
		want := 0.9 * time.Duration(ended-began).Seconds() * float64(spec.Limit.Refill.Tokens)
		if got := during.count(admitted); float64(got) < want {
			t.Errorf("%d takes were admitted in %v, want at least %.0f", got, time.Duration(ended-began), want)
		}
	}
}

func TestF10Slow(t *testing.T) { nearAndFar(t, "F10", f10Slow) }

func f10Slow(t *testing.T, c *trial) {
	for _, toxic := range []struct {
		kind       string
		attributes map[string]any
	}{
		{"bandwidth", map[string]any{"rate": 1}}, // KiB/s
		{"timeout", map[string]any{"timeout": 0}},
	} {
		server := redistest.Start(t)
		x := startToxic(t, server.Addr)
		spec := defaultSpec(x.addr).withFallback()
		spec.Callers = 8
		spec.Every = 4 * time.Millisecond
		l := startLoad(t, processes, spec)
		l.run(300 * time.Millisecond)
		began := monotonic()
		x.add(toxic.kind, toxic.attributes)
		l.failing(began, 5*time.Second)
		l.run(2 * time.Second)
		x.clean()
		ended := monotonic()
		c.recovers(l.recovered(ended, 10*time.Second), 2*time.Second+coolOff*3/2)
		log := l.stop()
		during := log.between(began, ended)
		c.times(1)
		c.takes(during.latencies(), spec.Budget)
		c.exceeds(worstExcess(log.admissions(), spec.Limit), spec.fallbackBound(time.Duration(log.lastFallback(began)-began)))
		c.note("%s: median %v", toxic.kind, percentile(during.latencies(), 50).Round(time.Microsecond))
		if n := log.count(failed); n > 0 {
			t.Errorf("%s: %d requests got no decision, although there is a fallback: %v", toxic.kind, n, log.errors())
		}
	}
}
