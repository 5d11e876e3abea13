package script

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"
)

// router knows which node a key lives on.
type router interface {
	route(key string, deadline time.Time) (*node, error)
	// redirect repeats a take at the node that its error redirects it to, and returns the error of that.
	redirect(t *take, err error) error
	// failed is called with every error.
	failed(err error)
}

func newRouter(client redis.UniversalClient, config Config) router {
	switch client := client.(type) {
	case *redis.ClusterClient:
		return &cluster{
			client: client, nodes: nodes{config: config, sameSlot: true}, reloader: slotReloader{cluster: client},
			following: make(chan struct{}, maxFollowing),
		}
	case *redis.Ring:
		return &ring{client: client, nodes: nodes{config: config}}
	case *redis.Client:
		return single{newNode(client, config, false)}
	default:
		panic(fmt.Sprintf("script.New: %T", client))
	}
}

// single is one server, or what looks like one.
type single struct{ node *node }

func (s single) route(string, time.Time) (*node, error) { return s.node, nil }
func (s single) redirect(_ *take, err error) error      { return err }
func (s single) failed(error)                           {}

// ring is a Ring. Takes go to its shards' clients directly, so the hooks that see them are those of the shards.
type ring struct {
	client *redis.Ring
	nodes  nodes
}

func (r *ring) route(key string, _ time.Time) (*node, error) {
	client, err := r.client.GetShardClientForKey(key)
	if err != nil {
		return nil, err
	}
	return r.nodes.of(client), nil
}

func (r *ring) redirect(_ *take, err error) error { return err }
func (r *ring) failed(error)                      {}

// cluster is a cluster. Takes go to its nodes' clients directly, because the pipelines of the cluster client hold up all
// takes when some are redirected.
type cluster struct {
	client   *redis.ClusterClient
	nodes    nodes
	reloader slotReloader

	mu      sync.Mutex // guards the rest
	known   bool       // whether the client knows the slots
	loading chan struct{}
	loadErr error // of the latest attempt

	following chan struct{} // a semaphore of the takes that the cluster client redirects itself
}

const (
	// maxRedirects is how often one take is redirected, while slots move.
	maxRedirects = 3
	// maxFollowing is how many takes the cluster client redirects itself at a time; the others wait for their turn.
	maxFollowing = 16
)

func (c *cluster) route(key string, deadline time.Time) (*node, error) {
	if err := c.waitForSlots(key, deadline); err != nil {
		return nil, err
	}
	client, err := c.client.MasterForKey(context.Background(), key) // Sends nothing, because the slots are known.
	if err != nil {
		return nil, err
	}
	return c.nodes.of(client), nil
}

// waitForSlots returns when the client knows where the slots are. The client finds out on another goroutine, so that it
// may take longer than a take's budget.
func (c *cluster) waitForSlots(key string, deadline time.Time) error {
	c.mu.Lock()
	if c.known {
		c.mu.Unlock()
		return nil
	}
	if c.loading == nil {
		c.loading = make(chan struct{})
		go c.load(key)
	}
	loading, before := c.loading, c.loadErr
	c.mu.Unlock()

	timer := time.NewTimer(time.Until(deadline))
	defer timer.Stop()
	select {
	case <-loading:
	case <-timer.C:
		return &lateError{budget: c.nodes.config.Budget, cause: before}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.known {
		return nil
	}
	return c.loadErr
}

func (c *cluster) load(key string) {
	ctx, cancel := context.WithTimeout(context.Background(), maxSetupTime)
	defer cancel()
	_, err := c.client.MasterForKey(ctx, key)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.known, c.loadErr = err == nil, err
	close(c.loading)
	c.loading = nil
}

func (c *cluster) redirect(t *take, err error) error {
	for range maxRedirects {
		var reply redis.Error
		if !errors.As(err, &reply) {
			return err
		}
		kind, rest, _ := strings.Cut(reply.Error(), " ")
		if kind != "MOVED" && kind != "ASK" {
			return err
		}
		if kind == "MOVED" {
			c.reloader.reload()
		}
		_, addr, _ := strings.Cut(rest, " ") // after the slot
		*t = take{ctx: t.ctx, key: t.key, args: t.args, deadline: t.deadline, asking: kind == "ASK"}
		n := c.nodes.at(addr)
		if n == nil {
			return c.follow(t, err)
		}
		err = n.do(t)
	}
	return err
}

// follow has the cluster client redirect a take to a node that no take has gone to so far. That concerns few takes,
// until the slots are known anew.
func (c *cluster) follow(t *take, err error) error {
	timer := time.NewTimer(time.Until(t.deadline))
	defer timer.Stop()
	select {
	case c.following <- struct{}{}:
	case <-timer.C:
		return &lateError{budget: c.nodes.config.Budget, cause: err}
	}
	t.done = make(chan struct{})
	ctx, cancel := context.WithTimeout(context.WithoutCancel(t.ctx), max(time.Second, time.Until(t.deadline)))
	go func() {
		defer func() { <-c.following }()
		defer cancel()
		cmd := newOnceCmd(ctx, call{"eval", text, []string{t.key}, t.args})
		pipe := c.client.Pipeline() // Process would first ask a node for the kind of this command.
		_ = pipe.Process(ctx, cmd)  // Only queues it.
		_, _ = pipe.Exec(ctx)
		t.finish(cmd.Result())
	}()
	select {
	case <-t.done:
		return t.err
	case <-timer.C:
		return &lateError{sent: true, budget: c.nodes.config.Budget}
	}
}

func (c *cluster) failed(err error) {
	if isDialError(err) || errors.Is(err, context.DeadlineExceeded) {
		c.reloader.reload()
	}
}

// nodes are those of a cluster or of a Ring.
type nodes struct {
	config   Config
	sameSlot bool

	known sync.Map // from *redis.Client to *node
}

func (n *nodes) of(client *redis.Client) *node {
	if known, ok := n.known.Load(client); ok {
		return known.(*node) //nolint:errcheck // Nothing else is in there.
	}
	n.forget()
	known, _ := n.known.LoadOrStore(client, newNode(client, n.config, n.sameSlot))
	return known.(*node) //nolint:errcheck // See above.
}

// at returns the node of an address, nil if it is not known.
func (n *nodes) at(addr string) (found *node) {
	n.known.Range(func(key, value any) bool {
		if key.(*redis.Client).Options().Addr == addr { //nolint:errcheck // Nothing else is in there.
			found = value.(*node) //nolint:errcheck // See above.
		}
		return found == nil
	})
	return found
}

// forget drops the nodes to which no take has gone for a minute. They may not exist any more.
func (n *nodes) forget() {
	n.known.Range(func(key, value any) bool {
		node := value.(*node) //nolint:errcheck // See of.
		node.mu.Lock()
		defer node.mu.Unlock()
		if time.Since(node.lastUsed) > time.Minute {
			n.known.Delete(key)
		}
		return true
	})
}
