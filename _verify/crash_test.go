package verify

import (
	"testing"
	"time"

	"github.com/gin-ratelimit/ratelimit"
	"github.com/gin-ratelimit/ratelimit/internal/redistest"
)

const (
	coolOff   = 300 * time.Millisecond
	processes = 3
)

// withFallback is a spec whose processes fall back to memory, each with its share.
func (s clientSpec) withFallback() clientSpec {
	s.Fallback, s.Share, s.CoolOff = true, 1.0/processes, coolOff
	return s
}

// fallbackBound is how much the fallbacks of all processes may admit of one key in an outage of this length: M · (C' + r'·T).
func (s clientSpec) fallbackBound(outage time.Duration) float64 {
	share := max(1, float64(s.Limit.Capacity/processes))
	perSecond := float64(s.Limit.Refill.Tokens) / s.Limit.Refill.Per.Seconds() / processes
	return processes * (share + perSecond*outage.Seconds())
}

func TestF01NotRunningAtStart(t *testing.T) { nearAndFar(t, "F1", f01NotRunningAtStart) }

func f01NotRunningAtStart(t *testing.T, c *trial) {
	for _, open := range []bool{false, true} {
		server := redistest.Start(t)
		server.Kill()
		spec := defaultSpec(server.Addr)
		spec.Open = open
		l := startLoad(t, processes, spec)
		l.run(500 * time.Millisecond)
		server.Restart()
		c.recovers(l.recovered(monotonic(), 10*time.Second), time.Second)
		l.run(200 * time.Millisecond)
		log := l.stop()
		c.times(1)
		c.takes(log.latencies(), spec.Budget)
		c.exceeds(worstExcess(log.admissions(), spec.Limit), 0)
	}
}

func TestF02KilledAndRestartedEmpty(t *testing.T) { nearAndFar(t, "F2", f02KilledAndRestartedEmpty) }

func f02KilledAndRestartedEmpty(t *testing.T, c *trial) {
	for range pick(3, 1) {
		server := redistest.Start(t)
		spec := defaultSpec(server.Addr)
		log, _ := killAndRestart(c, server, spec, time.Second)
		c.exceeds(worstExcess(log.admissions(), spec.Limit), float64(spec.Limit.Capacity))
		if log.count(failed) == 0 {
			t.Error("nobody noticed the crash")
		}
	}
}

func TestF02WithFallback(t *testing.T) { nearAndFar(t, "F2", f02WithFallback) }

func f02WithFallback(t *testing.T, c *trial) {
	server := redistest.Start(t)
	spec := defaultSpec(server.Addr).withFallback()
	log, outage := killAndRestart(c, server, spec, time.Second+coolOff*3/2)
	c.exceeds(worstExcess(log.admissions(), spec.Limit), float64(spec.Limit.Capacity)+spec.fallbackBound(outage))
	if n := log.count(failed); n > 0 {
		t.Errorf("%d requests got no decision, although there is a fallback: %v", n, log.errors())
	}
}

func TestF03KilledAndRestartedWithAOF(t *testing.T) {
	nearAndFar(t, "F3", f03KilledAndRestartedWithAOF)
}

func f03KilledAndRestartedWithAOF(t *testing.T, c *trial) {
	for _, fsync := range []string{"everysec", "always"}[:pick(2, 1)] {
		server := redistest.Start(t, redistest.WithConfig("appendonly", "yes"), redistest.WithConfig("appendfsync", fsync))
		spec := defaultSpec(server.Addr)
		log, _ := killAndRestart(c, server, spec, time.Second)
		// The gap is a second of takes, or the one that was under way.
		gap := 1.0
		if fsync == "everysec" {
			gap += float64(spec.Limit.Refill.Tokens)
		}
		c.exceeds(worstExcess(log.admissions(), spec.Limit), gap)
	}
}

// killAndRestart kills Redis under the load of processes, for half a second. It returns the outage as they saw it.
func killAndRestart(c *trial, server *redistest.Server, spec clientSpec, recovery time.Duration) (log record, outage time.Duration) {
	c.t.Helper()
	l := startLoad(c.t, processes, spec)
	l.run(500 * time.Millisecond)
	killed := monotonic()
	server.Kill()
	l.failing(killed, 5*time.Second)
	l.run(500 * time.Millisecond)
	server.Restart()
	restarted := monotonic()
	c.recovers(l.recovered(restarted, 10*time.Second), recovery)
	l.run(time.Second)
	log = l.stop()
	c.times(1)
	c.takes(log.latencies(), spec.Budget)
	return log, time.Duration(log.lastFallback(killed) - killed)
}

// lastFallback is when a fallback last decided, or since if none did.
func (r record) lastFallback(since int64) int64 {
	last := since
	for _, d := range r {
		if d.Source == ratelimit.SourceFallback {
			last = max(last, d.End)
		}
	}
	return last
}
