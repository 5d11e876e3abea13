package script

import (
	"context"
	"slices"
	"strings"
	"sync"

	"github.com/redis/go-redis/v9"
)

// EvictionPolicies are those of the servers that answer within ctx, sorted, each once.
func (r *Runner) EvictionPolicies(ctx context.Context) []string {
	var mu sync.Mutex
	var policies []string
	ask := func(ctx context.Context, server *redis.Client) error {
		info, err := server.Info(ctx, "memory").Result()
		if err != nil {
			return err
		}
		for line := range strings.Lines(info) {
			if policy, ok := strings.CutPrefix(strings.TrimSpace(line), "maxmemory_policy:"); ok {
				mu.Lock()
				policies = append(policies, policy)
				mu.Unlock()
			}
		}
		return nil
	}
	// Errors are not of interest: who may not ask, or cannot, is told nothing.
	switch client := r.client.(type) {
	case *redis.Client:
		_ = ask(ctx, client)
	case *redis.ClusterClient:
		_ = client.ForEachMaster(ctx, ask)
	case *redis.Ring:
		_ = client.ForEachShard(ctx, ask)
	}
	slices.Sort(policies)
	return slices.Compact(policies)
}
