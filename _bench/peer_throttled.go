package main

import (
	"context"
	"net/http"

	"github.com/redis/go-redis/v9"
	"github.com/throttled/throttled/v2"
	throttledredis "github.com/throttled/throttled/v2/store/goredisstore.v9"
	"github.com/throttled/throttled/v2/store/memstore"
)

var throttledGCRA = peer{
	name:   "throttled",
	module: "github.com/throttled/throttled/v2",
	kind:   exact,
	note:   "fails after 10 attempts where callers meet on a key",
	memory: func(l limit) taker { return throttledTaker(must(memstore.NewCtx(0)), l) },
	web: func(l limit, _ address) http.Handler {
		middleware := throttled.HTTPRateLimiterCtx{
			RateLimiter: throttledLimiter(must(memstore.NewCtx(0)), l),
			VaryBy:      &throttled.VaryBy{RemoteAddr: true},
		}
		return middleware.RateLimit(app())
	},
	direct: true,
	redis: func(client *redis.Client, l limit) taker {
		return throttledTaker(must(throttledredis.NewCtx(client, "throttled:")), l)
	},
	sends: []string{"time", "get"},
}

func throttledTaker(store throttled.GCRAStoreCtx, l limit) taker {
	limiter := throttledLimiter(store, l)
	return func(key string) verdict {
		limited, _, err := limiter.RateLimitCtx(context.Background(), key, 1)
		return verdictOf(!limited, err)
	}
}

func throttledLimiter(store throttled.GCRAStoreCtx, l limit) *throttled.GCRARateLimiterCtx {
	return must(throttled.NewGCRARateLimiterCtx(store, throttled.RateQuota{
		MaxRate:  throttled.PerDuration(1, l.per),
		MaxBurst: l.capacity - 1,
	}))
}
