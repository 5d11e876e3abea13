package verify

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/gin-ratelimit/ratelimit"
	"github.com/gin-ratelimit/ratelimit/internal/redistest"
)

func sentinelSpec(s *redistest.SentinelServers) clientSpec {
	spec := defaultSpec(s.Addrs()...)
	spec.Kind, spec.Master = "sentinel", s.MasterName
	return spec
}

func TestF22SentinelMasterKilled(t *testing.T) { nearAndFar(t, "F22", f22SentinelMasterKilled) }

func f22SentinelMasterKilled(t *testing.T, c *trial) {
	const downAfter = time.Second // redistest's
	s := redistest.Sentinel(t)
	spec := sentinelSpec(s)
	l := startLoad(t, processes, spec)
	l.run(500 * time.Millisecond)
	old := s.Master()
	killed := monotonic()
	old.Kill()
	l.failing(killed, 5*time.Second)
	c.recovers(l.recovered(killed+int64(100*time.Millisecond), 30*time.Second), downAfter+3*time.Second)
	old.Restart()
	s.WaitOK(30 * time.Second)
	l.run(500 * time.Millisecond)
	log := l.stop()
	c.times(1)
	c.takes(log.latencies(), spec.Budget)
	c.exceeds(worstExcess(log.admissions(), spec.Limit), float64(spec.Limit.Capacity))
}

// In a partition, a replica is promoted, and the old master goes on for its side: meanwhile there are two buckets.
func TestF23Partition(t *testing.T) { nearAndFar(t, "F23", f23Partition) }

func f23Partition(t *testing.T, c *trial) {
	old, promoted := redistest.Start(t), redistest.Start(t, redistest.WithConfig("repl-diskless-sync-delay", "0"))
	host, port, _ := strings.Cut(old.Addr, ":")
	if err := promoted.Client().ReplicaOf(t.Context(), host, port).Err(); err != nil {
		t.Fatal(err)
	}
	eventually(t, 20*time.Second, "the replica is in step", func() bool {
		info, err := promoted.Client().Info(t.Context(), "replication").Result()
		return err == nil && strings.Contains(info, "master_link_status:up")
	})
	p := startProxy(t, old.Addr) // The side that sees the failover connects through it.
	minority, majority := startLoad(t, 1, defaultSpec(old.Addr)), startLoad(t, processes, defaultSpec(p.addr))
	minority.run(500 * time.Millisecond)
	began := monotonic()
	if err := promoted.Client().ReplicaOf(t.Context(), "NO", "ONE").Err(); err != nil {
		t.Fatal(err)
	}
	p.lead(promoted.Addr)
	p.refuse(true)
	p.refuse(false)
	majority.recovered(began, 5*time.Second)
	minority.run(1500 * time.Millisecond)
	host, port, _ = strings.Cut(promoted.Addr, ":")
	if err := old.Client().ReplicaOf(t.Context(), host, port).Err(); err != nil {
		t.Fatal(err)
	}
	healed := monotonic()
	partition := time.Duration(healed - began)
	// On the old master's side takes are now refused, because it has become a replica with an empty bucket; takes that would
	// write fail.
	minority.run(time.Second)
	late := minority.stop()
	if n := late.between(healed, monotonic()).count(admitted); n > 0 {
		t.Errorf("a demoted master has admitted %d", n)
	}
	log := slices.Concat(late, majority.stop())
	c.times(1)
	c.takes(log.latencies(), minority.spec.Budget)
	limit := minority.spec.Limit
	c.exceeds(worstExcess(log.admissions(), limit), float64(limit.Capacity)+partition.Seconds()*float64(limit.Refill.Tokens))
	c.note("partition %.1f s", partition.Seconds())
}

func TestF23NoReplicas(t *testing.T) { nearAndFar(t, "F23", f23NoReplicas) }

func f23NoReplicas(t *testing.T, c *trial) {
	server := redistest.Start(t)
	admin := server.Client()
	store := openStore(t, server.Addr, patient)
	take(t, store, "key", 1, hoard)
	if err := admin.ConfigSet(t.Context(), "min-replicas-to-write", "1").Err(); err != nil {
		t.Fatal(err)
	}
	times := pick(50, 10)
	for range times {
		if _, err := store.Take(t.Context(), "key", ratelimit.Take{N: 1, Limits: []ratelimit.Limit{hoard}}); err == nil || !strings.Contains(err.Error(), "NOREPLICAS") {
			t.Fatalf("error %v", err)
		}
	}
	if err := admin.ConfigSet(t.Context(), "min-replicas-to-write", "0").Err(); err != nil {
		t.Fatal(err)
	}
	if r := take(t, store, "key", 1, hoard); r.Remaining != hoard.Capacity-2 {
		t.Errorf("takes that were not made were charged: %d remain", r.Remaining)
	}
	c.times(times)
}

func TestF24FailoverToAnotherClock(t *testing.T) { nearAndFar(t, "F24", f24FailoverToAnotherClock) }

func f24FailoverToAnotherClock(t *testing.T, c *trial) {
	for _, shift := range []time.Duration{20 * time.Second, -20 * time.Second}[:pick(2, 1)] {
		s := redistest.Sentinel(t, redistest.WithClock())
		master := s.Master()
		for _, server := range s.Servers() {
			if server != master {
				server.Clock().Shift(shift)
			}
		}
		spec := sentinelSpec(s)
		spec.Limit.Refill = ratelimit.PerSecond(5)
		l := startLoad(t, processes, spec)
		l.run(500 * time.Millisecond)
		s.Failover()
		l.recovered(monotonic(), 20*time.Second)
		l.run(500 * time.Millisecond)
		log := l.stop()
		c.times(1)
		// The takes that the new master does not know yet, and what has refilled by its clock.
		allowance := float64(spec.Limit.Capacity)
		if shift > 0 {
			allowance *= 2
		}
		c.exceeds(worstExcess(log.admissions(), spec.Limit), allowance)
	}
}

func TestF24ClockSteps(t *testing.T) { nearAndFar(t, "F24", f24ClockSteps) }

func f24ClockSteps(t *testing.T, c *trial) {
	for _, shift := range []time.Duration{time.Minute, -time.Minute} {
		server := redistest.Start(t, redistest.WithClock())
		spec := defaultSpec(server.Addr)
		l := startLoad(t, processes, spec)
		l.run(500 * time.Millisecond)
		server.Clock().Shift(shift)
		stepped := monotonic()
		l.run(time.Second)
		log := l.stop()
		c.times(1)
		c.takes(log.latencies(), spec.Budget)
		allowance := 0.0
		if shift > 0 {
			allowance = float64(spec.Limit.Capacity)
		}
		c.exceeds(worstExcess(log.admissions(), spec.Limit), allowance)
		// No key starves: the bucket goes on refilling.
		if n := log.between(stepped, monotonic()).count(admitted); n < spec.Keys*spec.Limit.Refill.Tokens/2 {
			t.Errorf("after a step by %v %d were admitted in a second", shift, n)
		}
	}
}

// Retry-After is exact to the microsecond when the clock has stepped back.
func TestF24RetryAfterStepBack(t *testing.T) { nearAndFar(t, "F24", f24RetryAfterStepBack) }

func f24RetryAfterStepBack(t *testing.T, c *trial) {
	server := redistest.Start(t, redistest.WithClock())
	clock := server.Clock()
	clock.Freeze(time.Now())
	store := openStore(t, server.Addr, patient)
	limit := ratelimit.Limit{Capacity: 5, Refill: ratelimit.Rate{Tokens: 7, Per: 3 * time.Second}}
	for _, back := range []time.Duration{time.Microsecond, 500 * time.Millisecond, time.Second, time.Second + time.Microsecond, 20 * time.Second, time.Minute} {
		key := back.String()
		take(t, store, key, 5, limit)
		clock.Advance(-back)
		r := take(t, store, key, 2, limit)
		if r.Allowed {
			t.Fatalf("a clock %v back minted tokens", back)
		}
		clock.Advance(r.RetryAfter - time.Microsecond)
		if take(t, store, key, 2, limit).Allowed {
			t.Errorf("%v back: admitted before Retry-After %v", back, r.RetryAfter)
		}
		clock.Advance(time.Microsecond)
		if !take(t, store, key, 2, limit).Allowed {
			t.Errorf("%v back: refused after Retry-After %v", back, r.RetryAfter)
		}
		c.times(1)
	}
	c.exceeds(0, 0)
}
