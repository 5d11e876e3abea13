package ratelimit

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"

	"github.com/redis/go-redis/v9"
)

// check implements checker: what of the client and its servers can be seen, within ctx.
func (s *RedisStore) check(ctx context.Context) []Warning {
	var warnings []Warning
	subject := fmt.Sprintf("RedisStore %q", s.prefix)
	// RouteByLatency and RouteRandomly set ReadOnly.
	if cluster, ok := s.client.(*redis.ClusterClient); ok && cluster.Options().ReadOnly {
		warnings = append(warnings, Warning{
			Code:    WarnReplicaRouting,
			Subject: subject,
			Message: "the client is set up to read from replicas: takes write, so they go to the masters all the same, " +
				"and under the smallest ACL they fail, because the client then sends READONLY",
			Fix: "make the client without ReadOnly, RouteByLatency and RouteRandomly in redis.ClusterOptions",
		})
	}
	for _, policy := range s.evictionPolicies(ctx) {
		if policy == "noeviction" {
			continue
		}
		warnings = append(warnings, Warning{
			Code:    WarnEviction,
			Subject: subject,
			Message: "maxmemory-policy is " + policy + ": when memory is short Redis drops buckets, and a bucket that is dropped is full again",
			Fix:     "set maxmemory-policy noeviction, or keep the buckets in a Redis of their own",
		})
	}
	return warnings
}

// evictionPolicies are those of the servers that answer, sorted, each once.
func (s *RedisStore) evictionPolicies(ctx context.Context) []string {
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
	switch client := s.client.(type) {
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
