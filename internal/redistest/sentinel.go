package redistest

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
)

// SentinelServers are a master and its two replicas, and the three sentinels that watch them.
type SentinelServers struct {
	// MasterName is what the sentinels call the master.
	MasterName string

	tb        testing.TB
	servers   []*Server
	sentinels []*Server
}

// Sentinel runs a master, two replicas and three sentinels until the end of the test, and returns when the sentinels
// know all of them. The master counts as down when two sentinels have missed it for 1000 ms. The options go to the
// master and the replicas.
func Sentinel(tb testing.TB, opts ...Option) *SentinelServers {
	tb.Helper()
	s := &SentinelServers{MasterName: "mymaster", tb: tb}

	opts = append([]Option{
		WithConfig("repl-diskless-sync-delay", "0"), // by default a master waits 5 s for more replicas
	}, opts...)
	master := Start(tb, opts...)
	address := loopback + " " + master.port
	replicas := startAll(tb, 2, append(opts, WithConfig("replicaof", address))...)
	s.servers = append([]*Server{master}, replicas...)

	watch := func(setting, value string) Option {
		return WithConfig("sentinel "+setting, s.MasterName+" "+value)
	}
	s.sentinels = startAll(tb, 3,
		asSentinel,
		watch("monitor", address+" 2"),
		watch("down-after-milliseconds", "1000"),
		watch("failover-timeout", "2000"), // after a failover the next one waits for twice as long
		watch("parallel-syncs", "2"),
	)
	for _, sentinel := range s.sentinels {
		// By default they need 20 s to turn a restarted master into a good replica, and a first ping after 1 s makes them
		// take a new master for dead.
		pace := []any{"sentinel", "debug", "ping-period", 200, "info-period", 1000, "publish-period", 500}
		if err := sentinel.do(pace...).Err(); err != nil {
			tb.Fatal(err)
		}
	}
	s.WaitOK(groupTimeout)
	return s
}

// Servers returns the master and the replicas, in the order they were started in, dead ones too.
func (s *SentinelServers) Servers() []*Server { return slices.Clone(s.servers) }

// Sentinels returns the sentinels, dead ones too. One that restarts is slower: its pace is not in its configuration.
func (s *SentinelServers) Sentinels() []*Server { return slices.Clone(s.sentinels) }

// Addrs returns the addresses of the sentinels.
func (s *SentinelServers) Addrs() []string { return addrs(s.sentinels) }

// Client returns a client that asks the sentinels for the master. It honours a context's deadline and is otherwise a
// default one, closed with the test.
func (s *SentinelServers) Client() *redis.Client {
	client := redis.NewFailoverClient(&redis.FailoverOptions{
		MasterName:            s.MasterName,
		SentinelAddrs:         s.Addrs(),
		ContextTimeoutEnabled: true,
	})
	s.tb.Cleanup(func() { _ = client.Close() })
	return client
}

// Master returns the master as the first sentinel that is awake knows it, dead or alive.
func (s *SentinelServers) Master() *Server {
	s.tb.Helper()
	up := awake(s.sentinels)
	if len(up) == 0 {
		s.tb.Fatal("no sentinel is running")
	}
	view, err := s.view(up[0])
	if err != nil {
		s.tb.Fatal(err)
	}
	return byAddr(s.servers, view.addr())
}

// Failover promotes a replica although the master works, and returns when all sentinels know the new master. The old one
// becomes its replica some seconds later: see WaitOK.
func (s *SentinelServers) Failover() {
	s.tb.Helper()
	old := s.Master()
	leader := awake(s.sentinels)[0]
	err := poll(groupTimeout, groupInterval, func() error {
		master, err := s.agreed()
		if err != nil || master != old {
			return err
		}
		if err := leader.do("sentinel", "failover", s.MasterName).Err(); err != nil {
			return err
		}
		return errors.New("under way")
	})
	if err != nil {
		s.tb.Fatalf("failover: %v", err)
	}
}

// WaitOK waits until the sentinels that run agree on a master that runs, the other servers that run follow it, and the
// sentinels have seen that and each other. Paused ones are left out.
func (s *SentinelServers) WaitOK(timeout time.Duration) {
	s.tb.Helper()
	if err := poll(timeout, groupInterval, s.ok); err != nil {
		s.tb.Fatalf("sentinels are not settled: %v", err)
	}
}

func (s *SentinelServers) ok() error {
	master, err := s.agreed()
	if err != nil {
		return err
	}
	for _, server := range awake(s.servers) {
		followed, err := server.following()
		if err != nil {
			return err
		}
		if server != master && followed != master.Addr {
			return fmt.Errorf("%s does not follow %s", server.Addr, master.Addr)
		}
	}
	for _, sentinel := range awake(s.sentinels) {
		if err := s.knowsAll(sentinel, master); err != nil {
			return fmt.Errorf("sentinel %s: %w", sentinel.Addr, err)
		}
	}
	return nil
}

// agreed returns the master if all sentinels that run name the same, it runs, and no failover is under way.
func (s *SentinelServers) agreed() (*Server, error) {
	var master *Server
	for _, sentinel := range awake(s.sentinels) {
		view, err := s.view(sentinel)
		if err != nil {
			return nil, err
		}
		server := byAddr(awake(s.servers), view.addr())
		if server == nil || view["flags"] != "master" {
			return nil, fmt.Errorf("sentinel %s: master %s is %s", sentinel.Addr, view.addr(), view["flags"])
		}
		if master != nil && master != server {
			return nil, fmt.Errorf("sentinels name %s and %s", master.Addr, server.Addr)
		}
		master = server
	}
	if master == nil {
		return nil, errors.New("no sentinel is running")
	}
	followed, err := master.following()
	if err != nil {
		return nil, err
	}
	if followed != "" {
		return nil, fmt.Errorf("%s is not a master yet", master.Addr)
	}
	return master, nil
}

// knowsAll returns nil if a sentinel knows the other sentinels, and the replicas that run as good for a failover.
func (s *SentinelServers) knowsAll(sentinel, master *Server) error {
	view, err := s.view(sentinel)
	if err != nil {
		return err
	}
	if others := strconv.Itoa(len(s.sentinels) - 1); view["num-other-sentinels"] != others {
		return fmt.Errorf("knows %s of %s other sentinels", view["num-other-sentinels"], others)
	}
	cmd := redis.NewMapStringStringSliceCmd(context.Background(), "sentinel", "replicas", s.MasterName)
	sentinel.process(cmd)
	replicas, err := cmd.Result()
	if err != nil {
		return err
	}
	linked := map[string]bool{master.Addr: true}
	for _, r := range replicas {
		r := instance(r)
		linked[r.addr()] = r["flags"] == "slave" && r["master-link-status"] == "ok"
	}
	for _, addr := range addrs(awake(s.servers)) {
		if !linked[addr] {
			return fmt.Errorf("does not see %s as a good replica", addr)
		}
	}
	return nil
}

// instance is what a sentinel reports about a server.
type instance map[string]string

func (i instance) addr() string { return net.JoinHostPort(i["ip"], i["port"]) }

// view returns what a sentinel reports about the master.
func (s *SentinelServers) view(sentinel *Server) (instance, error) {
	cmd := redis.NewMapStringStringCmd(context.Background(), "sentinel", "master", s.MasterName)
	sentinel.process(cmd)
	return cmd.Result()
}
