package verify

import (
	"context"
	"fmt"
	"os/exec"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/gin-ratelimit/ratelimit"
	"github.com/gin-ratelimit/ratelimit/internal/redistest"
)

// leasingSpec is client processes with leases, and one busy key.
func leasingSpec(addrs ...string) clientSpec {
	spec := defaultSpec(addrs...)
	spec.Limit = ratelimit.PerSecond(1000).Burst(1000)
	spec.Lease = 10 * time.Millisecond
	spec.Keys, spec.Every = 1, 4*time.Millisecond
	return spec
}

// leased is how many decisions came from leases.
func (r record) leased() int {
	n := 0
	for _, d := range r {
		if d.Source == ratelimit.SourceLease {
			n++
		}
	}
	return n
}

func TestK01RandomHistories(t *testing.T) {
	c := try(t, "K1")
	histories := pick(10_000, 300)
	cmd := exec.CommandContext(t.Context(), "go", "test", "-count=1", "-run", "^TestHistories$", "-v", "-timeout", "20m",
		"./internal/lease", "-histories", fmt.Sprint(histories))
	cmd.Dir = ".."
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, tail(string(out)))
	}
	c.times(histories)
}

// TestScale has the aims of each load, and fails if one is missed.
func TestScaleOfLeases(t *testing.T) {
	seconds := pick(10, 2)
	proves(t, "Leases at scale, simulated: 50 processes, skewed and moving loads, another region",
		figure("7 loads of %d s; docs/scale.md has the table", seconds))
	cmd := exec.CommandContext(t.Context(), "go", "test", "-count=1", "-run", "^TestScale$", "-timeout", "20m",
		"./internal/lease", "-scale.seconds", fmt.Sprint(seconds))
	cmd.Dir = ".."
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, tail(string(out)))
	}
}

// members is several processes simulated in this one: each has a client, a store and a log of its own.
type members struct {
	stores []*ratelimit.RedisStore
	mu     sync.Mutex
	log    []admission
	leased atomic.Int64
	failed atomic.Int64
}

// run has callers take from all stores for a time, without pauses except after refusals.
func (m *members) run(callers int, lasts time.Duration, limit ratelimit.Limit) {
	end := time.Now().Add(lasts)
	var all sync.WaitGroup
	for _, store := range m.stores {
		for range callers {
			all.Go(func() {
				var log []admission
				for time.Now().Before(end) {
					start := monotonic()
					r, err := store.Take(context.Background(), "key", ratelimit.Take{N: 1, Limits: []ratelimit.Limit{limit}})
					switch {
					case err != nil:
						m.failed.Add(1)
						time.Sleep(time.Millisecond)
					case r.Allowed:
						log = append(log, admission{"key", 1, start, monotonic()})
					default:
						time.Sleep(time.Millisecond)
					}
					if r.Source == ratelimit.SourceLease {
						m.leased.Add(1)
					}
				}
				m.mu.Lock()
				defer m.mu.Unlock()
				m.log = append(m.log, log...)
			})
		}
	}
	all.Wait()
}

func TestK02Links(t *testing.T) {
	c := try(t, "K2")
	for _, far := range []struct {
		rtt, period time.Duration
		limit       ratelimit.Limit
		callers     int // of each process; over a long round trip a few callers cannot make a key hot
	}{
		{rtt: 0, period: 10 * time.Millisecond, limit: ratelimit.PerSecond(2000).Burst(10_000), callers: 4},
		{rtt: 5 * time.Millisecond, period: 20 * time.Millisecond, limit: ratelimit.PerSecond(2000).Burst(10_000), callers: 4},
		{rtt: 80 * time.Millisecond, period: 400 * time.Millisecond, limit: ratelimit.PerSecond(1000).Burst(15_000), callers: 64},
	} {
		server := redistest.Start(t)
		addr := server.Addr
		if far.rtt > 0 {
			addr = redistest.NewLink(t, server.Addr, far.rtt).Addr
		}
		var m members
		open := func(opts ...ratelimit.RedisOption) {
			client := openClient(t, &redis.Options{Addr: addr, ContextTimeoutEnabled: true})
			m.stores = append(m.stores, storeOn(t, client, append(opts, ratelimit.WithTimeout(2*time.Second))...))
		}
		open()
		for range 3 {
			open(ratelimit.WithLease(far.period))
		}
		for _, store := range m.stores { // To set up connections. The bucket is full, and gains nothing meanwhile.
			take(t, store, "another", 1, far.limit)
		}
		lasts := time.Duration(pick(5, 2)) * time.Second
		began := time.Now()
		m.run(far.callers, lasts, far.limit)
		// Tokens that were not taken yet are in the bucket or on lease.
		exact := float64(far.limit.Capacity) + time.Since(began).Seconds()*float64(far.limit.Refill.Tokens)
		left := float64(take(t, m.stores[0], "key", 0, far.limit).Remaining)
		onLease := 0.0
		for _, store := range m.stores {
			stats := store.LeaseStats()
			onLease += float64(stats.Leased + stats.GivenBack - stats.Spent - stats.Void)
		}
		admitted := float64(len(m.log)) / exact
		c.times(1)
		c.exceeds(worstExcess(m.log, far.limit), 0)
		c.note("RTT %v: %.3f of exact admitted, %.3f on lease and %.3f in the bucket at the end", far.rtt, admitted, onLease/exact, left/exact)
		if found := admitted + (onLease+left)/exact; m.failed.Load() > 0 || m.leased.Load() == 0 || found < float64(pick(99, 95))/100 || admitted < 0.9 {
			t.Errorf("RTT %v: %.4f of exact admitted, %.4f found; %d decisions from leases, %d failed", far.rtt, admitted, found, m.leased.Load(), m.failed.Load())
		}
	}
}

func TestK03KilledUnderLeases(t *testing.T) {
	c := try(t, "K3")
	for range pick(3, 1) {
		server := redistest.Start(t)
		spec := leasingSpec(server.Addr)
		log, _ := killAndRestart(c, server, spec, time.Second)
		c.exceeds(worstExcess(log.admissions(), spec.Limit), float64(spec.Limit.Capacity))
		if log.count(failed) == 0 || log.leased() == 0 {
			t.Errorf("%d failed, %d from leases", log.count(failed), log.leased())
		}
	}
}

func TestK04FrozenUnderLeases(t *testing.T) {
	c := try(t, "K4")
	server := redistest.Start(t)
	spec := leasingSpec(server.Addr)
	l := startLoad(t, processes, spec)
	l.run(time.Second)
	server.Pause()
	frozen := monotonic()
	l.failing(frozen, 5*time.Second)
	l.run(time.Duration(pick(3000, 300)) * time.Millisecond)
	server.Resume()
	c.recovers(l.recovered(monotonic(), 10*time.Second), time.Second)
	l.run(time.Second)
	log := l.stop()
	c.times(1)
	c.takes(log.latencies(), spec.Budget)
	c.exceeds(worstExcess(log.admissions(), spec.Limit), 0)
	if log.leased() == 0 {
		t.Error("nothing was leased")
	}
}

func TestK05LostRepliesUnderLeases(t *testing.T) {
	c := try(t, "K5")
	server := redistest.Start(t)
	p := startProxy(t, server.Addr)
	var n atomic.Int64
	p.with(func([]byte) action {
		if n.Add(1)%20 == 0 {
			return action{cut: true}
		}
		return passOn
	})
	spec := leasingSpec(p.addr)
	l := startLoad(t, processes, spec)
	l.run(time.Duration(pick(5, 2)) * time.Second)
	log := l.stop()
	c.times(int(p.lost.Load()))
	c.exceeds(worstExcess(log.admissions(), spec.Limit), 0)
	if p.lost.Load() == 0 || log.leased() == 0 {
		t.Errorf("%d replies lost, %d from leases", p.lost.Load(), log.leased())
	}
}

func TestK06ResetUnderLeases(t *testing.T) {
	c := try(t, "K6")
	server := redistest.Start(t)
	limit := ratelimit.PerSecond(1000).Burst(2000)
	var m members
	for range 3 {
		m.stores = append(m.stores, storeOn(t, openClient(t, &redis.Options{Addr: server.Addr, ContextTimeoutEnabled: true}),
			ratelimit.WithLease(10*time.Millisecond), ratelimit.WithTimeout(2*time.Second)))
	}
	other := storeOn(t, openClient(t, &redis.Options{Addr: server.Addr, ContextTimeoutEnabled: true}))
	const resets = 3
	var resetting sync.WaitGroup
	resetting.Go(func() {
		for range resets {
			time.Sleep(600 * time.Millisecond)
			if _, err := other.Reset(context.Background(), "key"); err != nil {
				t.Error(err)
			}
		}
	})
	m.run(4, 2*time.Second, limit)
	resetting.Wait()
	c.times(resets)
	// Each process holds at most a sixteenth of the bucket.
	c.exceeds(worstExcess(m.log, limit), resets*float64(limit.Capacity)*(1+3.0/16))
	if m.leased.Load() == 0 {
		t.Error("nothing was leased")
	}
}

func TestK07SentinelUnderLeases(t *testing.T) {
	c := try(t, "K7")
	const downAfter = time.Second // redistest's
	s := redistest.Sentinel(t)
	spec := sentinelSpec(s)
	spec.Limit, spec.Lease, spec.Keys, spec.Every = ratelimit.PerSecond(1000).Burst(1000), 10*time.Millisecond, 1, 4*time.Millisecond
	l := startLoad(t, processes, spec)
	l.run(time.Second)
	master := s.Master()
	killed := monotonic()
	master.Kill()
	l.failing(killed, 5*time.Second)
	c.recovers(l.recovered(killed+int64(100*time.Millisecond), 30*time.Second), downAfter+3*time.Second)
	l.run(time.Second)
	log := l.stop()
	c.times(1)
	c.exceeds(worstExcess(log.admissions(), spec.Limit), float64(spec.Limit.Capacity))
	if log.leased() == 0 {
		t.Error("nothing was leased")
	}
}
