package redistest

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
)

const (
	masters   = 3 // the smallest number that can vote for a failover
	hashSlots = 16384
)

// ClusterServers are the nodes of a Redis Cluster.
type ClusterServers struct {
	tb    testing.TB
	nodes []*Server
}

// Cluster runs a cluster of n nodes until the end of the test and returns when all of it is available. The first
// three are masters and share the slots evenly; the others are their replicas, in turn. The options go to every node:
// WithConfig("cluster-node-timeout", "500") replaces the 2000 ms after which a node counts as lost.
func Cluster(tb testing.TB, n int, opts ...Option) *ClusterServers {
	tb.Helper()
	if n < masters {
		tb.Fatalf("redistest: a cluster of %d nodes: it takes %d or more", n, masters)
	}
	opts = append([]Option{
		WithConfig("cluster-enabled", "yes"),
		WithConfig("cluster-node-timeout", "2000"),
		WithConfig("repl-diskless-sync-delay", "0"), // by default a master waits 5 s for more replicas
		WithConfig("repl-ping-replica-period", "1"), // nodes list a replica from the first ping on
	}, opts...)
	c := &ClusterServers{tb: tb, nodes: startAll(tb, n, opts...)}
	if err := c.form(); err != nil {
		tb.Fatalf("form a cluster: %v", err)
	}
	c.WaitOK(groupTimeout)
	return c
}

func (c *ClusterServers) form() error {
	for i, master := range c.nodes[:masters] {
		// Different epochs from the start, because a tie takes seconds to settle.
		if err := master.do("cluster", "set-config-epoch", i+1).Err(); err != nil {
			return err
		}
		first, last := i*hashSlots/masters, (i+1)*hashSlots/masters-1
		if err := master.do("cluster", "addslotsrange", first, last).Err(); err != nil {
			return err
		}
	}
	// Every node is introduced to every other, because gossip takes seconds too.
	for i, node := range c.nodes {
		for _, other := range c.nodes[i+1:] {
			if err := node.do("cluster", "meet", loopback, other.port).Err(); err != nil {
				return err
			}
		}
	}
	for i, replica := range c.nodes[masters:] {
		id, err := c.nodes[i%masters].clusterID()
		if err != nil {
			return err
		}
		err = poll(groupTimeout, groupInterval, func() error {
			return replica.do("cluster", "replicate", id).Err() // fails until the two have met
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// Nodes returns all nodes, dead ones too.
func (c *ClusterServers) Nodes() []*Server { return slices.Clone(c.nodes) }

// Addrs returns the addresses of all nodes.
func (c *ClusterServers) Addrs() []string { return addrs(c.nodes) }

// Client returns a client that honours a context's deadline and is otherwise a default one, closed with the test.
func (c *ClusterServers) Client() *redis.ClusterClient {
	client := redis.NewClusterClient(&redis.ClusterOptions{Addrs: c.Addrs(), ContextTimeoutEnabled: true})
	c.tb.Cleanup(func() { _ = client.Close() })
	return client
}

// MasterOf returns the node that serves key. After a fault WaitOK comes first: until then the nodes may disagree.
func (c *ClusterServers) MasterOf(key string) *Server {
	c.tb.Helper()
	_, master := c.locate(key)
	return master
}

// locate asks the first node that is awake for a key's slot and for the master of it.
func (c *ClusterServers) locate(key string) (slot int, master *Server) {
	c.tb.Helper()
	up := awake(c.nodes)
	if len(up) == 0 {
		c.tb.Fatal("no node of the cluster is running")
	}
	slot, err := up[0].do("cluster", "keyslot", key).Int()
	if err != nil {
		c.tb.Fatal(err)
	}
	ranges, err := up[0].clusterSlots()
	if err != nil {
		c.tb.Fatal(err)
	}
	for _, r := range ranges {
		if r.Start <= slot && slot <= r.End {
			return slot, byAddr(c.nodes, r.Nodes[0].Addr)
		}
	}
	c.tb.Fatalf("no node serves slot %d, of key %q", slot, key)
	return 0, nil
}

// WaitOK waits until the nodes that run, paused ones left out, together serve all slots, agree on which node serves which,
// and have their replicas in sync.
func (c *ClusterServers) WaitOK(timeout time.Duration) {
	c.tb.Helper()
	if err := poll(timeout, groupInterval, c.ok); err != nil {
		c.tb.Fatalf("cluster is not available: %v", err)
	}
}

func (c *ClusterServers) ok() error {
	up := awake(c.nodes)
	if len(up) == 0 {
		return errors.New("no node is running")
	}
	var agreed string
	for i, node := range up {
		owners, err := node.owners(addrs(up))
		if err != nil {
			return fmt.Errorf("as %s sees it: %w", node.Addr, err)
		}
		if i == 0 {
			agreed = owners
		}
		if owners != agreed {
			return fmt.Errorf("%s and %s disagree on the slots:\n%s\n%s", up[0].Addr, node.Addr, agreed, owners)
		}
		if _, err := node.following(); err != nil {
			return err
		}
	}
	return nil
}

// owners returns which node serves which slots, as this node sees it. It is an error if it does not see all nodes of up,
// or if a slot has no owner among them.
func (s *Server) owners(up []string) (string, error) {
	info, err := s.do("cluster", "info").Text()
	if err != nil {
		return "", err
	}
	if state := fields(info)["cluster_state"]; state != "ok" {
		return "", fmt.Errorf("cluster_state is %s", state)
	}
	ranges, err := s.clusterSlots()
	if err != nil {
		return "", err
	}
	var owners strings.Builder
	var members []string
	for _, r := range ranges {
		for _, n := range r.Nodes {
			members = append(members, n.Addr)
		}
		owner := r.Nodes[0].Addr
		if !slices.Contains(up, owner) {
			return "", fmt.Errorf("the owner of slots %d-%d, %s, does not run", r.Start, r.End, owner)
		}
		fmt.Fprintf(&owners, "%d-%d %s\n", r.Start, r.End, owner)
	}
	for _, addr := range up {
		if !slices.Contains(members, addr) {
			return "", fmt.Errorf("%s is not in CLUSTER SLOTS", addr)
		}
	}
	return owners.String(), nil
}

func (s *Server) clusterSlots() ([]redis.ClusterSlot, error) {
	cmd := redis.NewClusterSlotsCmd(context.Background(), "cluster", "slots")
	s.process(cmd)
	return cmd.Result()
}

func (s *Server) clusterID() (string, error) {
	return s.do("cluster", "myid").Text()
}
