package verify

import (
	"context"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/gin-ratelimit/ratelimit/internal/redistest"
)

// clusterSpec has all keys in one slot, which the braces in the prefix choose.
func clusterSpec(nodes *redistest.ClusterServers, tag string) clientSpec {
	spec := defaultSpec(nodes.Addrs()...)
	spec.Kind = "cluster"
	spec.Prefix = "{" + tag + "}:"
	return spec
}

func TestF19ClusterOwnerKilled(t *testing.T) { nearAndFar(t, "F19", f19ClusterOwnerKilled) }

func f19ClusterOwnerKilled(t *testing.T, c *trial) {
	const nodeTimeout = 2 * time.Second // redistest's
	nodes := redistest.Cluster(t, 6)
	for range pick(2, 1) {
		spec := clusterSpec(nodes, "f19")
		l := startLoad(t, processes, spec)
		l.run(500 * time.Millisecond)
		owner := nodes.MasterOf(spec.Prefix)
		killed := monotonic()
		owner.Kill()
		l.failing(killed, 5*time.Second)
		eventually(t, 30*time.Second, "the replica has taken over", func() bool { return nodes.MasterOf(spec.Prefix) != owner })
		takeover := time.Duration(monotonic() - killed)
		c.note("of which the cluster itself took %.2f s", takeover.Seconds())
		// A machine under load can delay the election, which the library has no part in.
		c.recovers(l.recovered(killed+int64(100*time.Millisecond), 30*time.Second), max(nodeTimeout+2*time.Second, takeover+500*time.Millisecond))
		owner.Restart() // As a replica.
		nodes.WaitOK(30 * time.Second)
		l.run(300 * time.Millisecond)
		log := l.stop()
		c.times(1)
		c.takes(log.latencies(), spec.Budget)
		c.exceeds(worstExcess(log.admissions(), spec.Limit), float64(spec.Limit.Capacity))
	}
}

func TestF20SlotMigration(t *testing.T) { nearAndFar(t, "F20", f20SlotMigration) }

func f20SlotMigration(t *testing.T, c *trial) {
	nodes := redistest.Cluster(t, 3)
	spec := clusterSpec(nodes, "f20")
	spec.Budget = time.Second // What counts is whether there are errors, not how busy this machine is.
	spec.Keys = 64
	l := startLoad(t, processes, spec)
	times := pick(6, 2)
	for i := range times {
		l.run(200 * time.Millisecond)
		to := nodes.Nodes()[i%3]
		if to == nodes.MasterOf(spec.Prefix) {
			to = nodes.Nodes()[(i+1)%3]
		}
		m := nodes.BeginMigration(spec.Prefix, to)
		l.run(200 * time.Millisecond) // New keys already go to the new owner, old ones are still at the old one.
		m.MoveKeys()
		l.run(200 * time.Millisecond)
		m.Finish()
		c.times(1)
	}
	l.run(200 * time.Millisecond)
	log := l.stop()
	c.takes(log.latencies(), 50*time.Millisecond)
	c.exceeds(worstExcess(log.admissions(), spec.Limit), 0)
	c.note("%d errors of %d requests in %d migrations", log.count(failed), len(log), times)
	if n := log.count(failed); n > 0 {
		t.Errorf("%d of %d requests failed: %v", n, len(log), log.errors())
	}
}

func TestF21ClusterMajorityLost(t *testing.T) { nearAndFar(t, "F21", f21ClusterMajorityLost) }

func f21ClusterMajorityLost(t *testing.T, c *trial) {
	nodes := redistest.Cluster(t, 6)
	// The owner of the keys stays, and the other two masters and their replicas go down.
	tag := 0
	for nodes.MasterOf("{"+strconv.Itoa(tag)+"}:") != nodes.Nodes()[0] {
		tag++
	}
	lost := []*redistest.Server{nodes.Nodes()[1], nodes.Nodes()[2], nodes.Nodes()[4], nodes.Nodes()[5]}
	spec := clusterSpec(nodes, strconv.Itoa(tag))
	spec.Keys = 1
	l := startLoad(t, processes, spec)
	l.run(300 * time.Millisecond)
	for _, node := range lost {
		node.Pause()
	}
	began := monotonic()
	l.told("CLUSTERDOWN", began, 20*time.Second)
	l.run(300 * time.Millisecond)
	resumed := monotonic()
	for _, node := range lost {
		node.Resume()
	}
	eventually(t, 30*time.Second, "the cluster is whole", func() bool {
		info, err := nodes.Nodes()[0].Client().ClusterInfo(context.Background()).Result()
		return err == nil && strings.Contains(info, "cluster_state:ok")
	})
	healed := monotonic()
	c.recovers(l.recovered(healed, 10*time.Second), 2*time.Second)
	c.note("the cluster itself took %.1f s", time.Duration(healed-resumed).Seconds())
	nodes.WaitOK(30 * time.Second)
	log := l.stop()
	c.times(1)
	c.takes(log.latencies(), spec.Budget)
	c.exceeds(worstExcess(log.admissions(), spec.Limit), 0)
}
