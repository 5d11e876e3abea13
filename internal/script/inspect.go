package script

import (
	"context"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"
)

// Server is what one server reports about itself.
type Server struct {
	Addr      string
	Eviction  string        // its maxmemory-policy; "" if not reported
	Replica   bool          // it is a replica, which takes no writes
	RoundTrip time.Duration // how long one question took, on a connection that was set up
}

// Inspect asks all servers for their state, and returns those that answer within ctx, sorted by address. A server that
// cannot be reached, or does not permit INFO, is left out.
func (r *Runner) Inspect(ctx context.Context) []Server {
	var mu sync.Mutex
	var servers []Server
	ask := func(ctx context.Context, client *redis.Client) error {
		server := Server{Addr: client.Options().Addr}
		// The first question may have to set a connection up. The second one shows how far away the server is.
		memory, err := client.Info(ctx, "memory").Result()
		if err != nil {
			return err
		}
		began := time.Now()
		replication, err := client.Info(ctx, "replication").Result()
		if err != nil {
			return err
		}
		server.RoundTrip = time.Since(began)
		server.Eviction = field(memory, "maxmemory_policy")
		role := field(replication, "role")
		server.Replica = role == "slave" || role == "replica"
		mu.Lock()
		defer mu.Unlock()
		servers = append(servers, server)
		return nil
	}
	switch client := r.client.(type) {
	case *redis.Client:
		_ = ask(ctx, client)
	case *redis.ClusterClient:
		_ = client.ForEachMaster(ctx, ask)
	case *redis.Ring:
		_ = client.ForEachShard(ctx, ask)
	}
	slices.SortFunc(servers, func(a, b Server) int { return strings.Compare(a.Addr, b.Addr) })
	return servers
}

// field reads a field of an answer to INFO.
func field(info, name string) string {
	for line := range strings.Lines(info) {
		if value, ok := strings.CutPrefix(strings.TrimSpace(line), name+":"); ok {
			return value
		}
	}
	return ""
}

// FewestConnections is how many connections to each server the client's pool needs, so that takes do not hold each other
// up where Redis is near. Further away more are used.
const FewestConnections = fewFlights
