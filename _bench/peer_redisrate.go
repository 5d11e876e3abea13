package main

import (
	"context"

	"github.com/go-redis/redis_rate/v10"
	"github.com/redis/go-redis/v9"
)

var redisRate = peer{
	name:   "redis_rate",
	module: "github.com/go-redis/redis_rate/v10",
	kind:   exact,
	note:   "in floating point",
	redis: func(client *redis.Client, l limit) taker {
		limiter := redis_rate.NewLimiter(client)
		per := redis_rate.Limit{Rate: 1, Burst: l.capacity, Period: l.per}
		return func(key string) verdict {
			result, err := limiter.Allow(context.Background(), key, per)
			return verdictOf(err == nil && result.Allowed == 1, err)
		}
	},
	sends: []string{"evalsha", "eval"},
}
