package redistest

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

func TestClusterOfMasters(t *testing.T) {
	t.Parallel()
	c := Cluster(t, 3)
	client := c.Client()
	owned := make(map[*Server]int)
	for i := range 100 {
		key := fmt.Sprint("key", i)
		set(t, client, key, key)
		get(t, client, key, key)
		owned[c.MasterOf(key)]++
	}
	for _, node := range c.Nodes() {
		if got := int(node.CommandCalls("set")); got != owned[node] || got == 0 {
			t.Fatalf("%s has run SET %d times, and owns %d keys", node.Addr, got, owned[node])
		}
	}
}

func TestClusterFailover(t *testing.T) {
	t.Parallel()
	c := Cluster(t, 6)
	client := c.Client()
	for _, replica := range c.Nodes()[3:] {
		if master, err := replica.following(); master == "" || err != nil {
			t.Fatalf("%s follows %q: %v", replica.Addr, master, err)
		}
	}
	set(t, client, "k", "v")
	old := c.MasterOf("k")
	if n, err := old.Client().Wait(t.Context(), 1, 5*time.Second).Result(); n != 1 {
		t.Fatal(n, err)
	}

	old.Kill()
	c.WaitOK(30 * time.Second)
	promoted := c.MasterOf("k")
	if promoted == old {
		t.Fatal("a dead master serves")
	}
	get(t, promoted.Client(), "k", "v")

	old.Restart()
	c.WaitOK(30 * time.Second)
	if got := c.MasterOf("k"); got != promoted {
		t.Fatalf("%s serves, not %s", got.Addr, promoted.Addr)
	}
	if master, err := old.following(); master != promoted.Addr {
		t.Fatalf("%s follows %q: %v", old.Addr, master, err)
	}
}

func TestClusterOptionsGoToEveryNode(t *testing.T) {
	t.Parallel()
	c := Cluster(t, 3, WithClock(), WithConfig("cluster-node-timeout", "700"))
	for i, node := range c.Nodes() {
		got, err := node.Client().ConfigGet(t.Context(), "cluster-node-timeout").Result()
		if got["cluster-node-timeout"] != "700" {
			t.Fatal(got, err)
		}
		shift := time.Duration(i) * time.Hour
		node.Clock().Shift(shift)
		if ahead := time.Until(serverTime(t, node.Client())); (ahead - shift).Abs() > time.Minute {
			t.Fatalf("%v ahead, not %v", ahead, shift)
		}
	}
}

func TestMigration(t *testing.T) {
	t.Parallel()
	c := Cluster(t, 3)
	client := c.Client()
	from := c.MasterOf("{user}")
	to := c.Nodes()[0]
	if to == from {
		to = c.Nodes()[1]
	}

	// Counters in one slot are in use all the time, and no increment fails or is lost.
	var (
		hammering sync.WaitGroup
		done      = make(chan struct{})
		counted   [4]atomic.Int64
	)
	for i := range counted {
		hammering.Go(func() {
			for {
				select {
				case <-done:
					return
				default:
				}
				if err := client.Incr(context.Background(), fmt.Sprint("{user}", i)).Err(); err != nil {
					t.Error(err)
					return
				}
				counted[i].Add(1)
			}
		})
	}
	stopHammering := sync.OnceFunc(func() { close(done); hammering.Wait() })
	defer stopHammering()
	more := func() {
		t.Helper()
		before := counted[0].Load()
		err := poll(10*time.Second, time.Millisecond, func() error {
			if got := counted[0].Load() - before; got < 20 {
				return fmt.Errorf("%d increments", got)
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}

	more()
	m := c.BeginMigration("{user}", to)
	if to.CommandCalls("asking") != 0 {
		t.Fatal("redirected before there was a reason to")
	}
	set(t, client, "{user}new", "v")
	if to.CommandCalls("asking") == 0 {
		t.Fatal("a new key was not sent to the new master")
	}
	more()
	m.MoveKeys()
	if c.MasterOf("{user}") != from {
		t.Fatal("the slot has moved before Finish")
	}
	asked := to.CommandCalls("asking")
	more()
	if to.CommandCalls("asking")-asked < 20 {
		t.Fatal("moved keys are not asked for at the new master")
	}
	m.Finish()
	if c.MasterOf("{user}") != to {
		t.Fatal("the slot has not moved")
	}
	more()

	stopHammering()
	for i := range counted {
		get(t, client, fmt.Sprint("{user}", i), fmt.Sprint(counted[i].Load()))
	}
	get(t, client, "{user}new", "v")
}

func TestMigrateSlot(t *testing.T) {
	t.Parallel()
	c := Cluster(t, 6)
	client := c.Client()
	from := c.MasterOf("{user}")
	to := c.Nodes()[0]
	if to == from {
		to = c.Nodes()[1]
	}
	const keys = 250 // more than go in one MIGRATE
	for i := range keys {
		set(t, client, fmt.Sprint("{user}", i), fmt.Sprint(i))
	}
	c.MigrateSlot("{user}", to)
	if got := c.MasterOf("{user}"); got != to {
		t.Fatalf("%s serves, not %s", got.Addr, to.Addr)
	}
	for i := range keys {
		get(t, client, fmt.Sprint("{user}", i), fmt.Sprint(i))
	}
	c.MigrateSlot("{user}", from)
	for i := range keys {
		get(t, client, fmt.Sprint("{user}", i), fmt.Sprint(i))
	}
}

func TestClusterWithoutMajority(t *testing.T) {
	t.Parallel()
	c := Cluster(t, 3)
	nodes := c.Nodes()
	nodes[0].Kill()
	nodes[1].Pause()
	err := poll(30*time.Second, groupInterval, func() error {
		text, err := nodes[2].do("cluster", "info").Text()
		if err != nil {
			return err
		}
		if fields(text)["cluster_state"] != "fail" {
			return fmt.Errorf("still available:\n%s", text)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	nodes[0].Restart()
	nodes[1].Resume()
	c.WaitOK(30 * time.Second)
}

func TestClusterOfTwo(t *testing.T) {
	if tb := run(t, func(tb testing.TB) { Cluster(tb, 2) }); tb.fatal == "" {
		t.Fatal("a cluster of two")
	}
}
