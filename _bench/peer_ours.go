package main

import (
	"context"
	"net/http"
	"time"

	"github.com/gin-ratelimit/ratelimit"
	"github.com/redis/go-redis/v9"
)

// This library is measured with its defaults.
var (
	oursByStore = peer{
		name: "this library",
		kind: ours,
		memory: func(l limit) taker {
			return takeFrom(ratelimit.NewMemoryStore(), l)
		},
		web: func(l limit, by address) http.Handler {
			key := ratelimit.ByClientIP
			if by == peerAddress {
				key = ratelimit.ByRemoteIP
			}
			return app(ratelimit.New(append(optionsOf(l), ratelimit.WithKeyFunc(key))...))
		},
		redis: func(client *redis.Client, l limit) taker {
			return takeFrom(must(ratelimit.NewRedisStore(client)), l)
		},
		sends: []string{"evalsha", "eval"},
	}
	// Leases are not on by default. On many keys this shows what leases cost takes of keys that are not leased.
	oursByLease = peer{
		name: "this library, WithLease(10ms)",
		kind: ours,
		redis: func(client *redis.Client, l limit) taker {
			return takeFrom(must(ratelimit.NewRedisStore(client, ratelimit.WithLease(10*time.Millisecond))), l)
		},
		sends: []string{"evalsha", "eval"},
	}
	oursByLimiter = peer{
		name: "this library, by Limiter.Take",
		kind: ours,
		memory: func(l limit) taker {
			limiter := must(ratelimit.NewLimiter(optionsOf(l)...))
			return func(key string) verdict {
				result, err := limiter.Take(context.Background(), key, 1)
				return verdictOf(result.Allowed, err)
			}
		},
	}
)

func takeFrom(store ratelimit.Store, l limit) taker {
	limits := []ratelimit.Limit{{Capacity: l.capacity, Refill: ratelimit.Every(l.per)}}
	return func(key string) verdict {
		result, err := store.Take(context.Background(), key, ratelimit.Take{N: 1, Limits: limits})
		return verdictOf(result.Allowed, err)
	}
}

func optionsOf(l limit) []ratelimit.Option {
	return []ratelimit.Option{ratelimit.WithCapacity(l.capacity), ratelimit.WithRefillRate(ratelimit.Every(l.per))}
}
