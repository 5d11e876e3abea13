package main

import (
	"context"
	"net/http"

	"github.com/redis/go-redis/v9"
	"github.com/ulule/limiter/v3"
	ululegin "github.com/ulule/limiter/v3/drivers/middleware/gin"
	ululememory "github.com/ulule/limiter/v3/drivers/store/memory"
	ululeredis "github.com/ulule/limiter/v3/drivers/store/redis"
)

var ulule = peer{
	name:   "ulule/limiter",
	module: "github.com/ulule/limiter/v3",
	kind:   inexact,
	note:   "fixed windows",
	memory: func(l limit) taker { return ululeTaker(ululememory.NewStore(), l) },
	web: func(l limit, by address) http.Handler {
		return app(ululegin.NewMiddleware(ululeLimiter(ululememory.NewStore(), l), ululegin.WithKeyGetter(by.addressOf)))
	},
	redis: func(client *redis.Client, l limit) taker { return ululeTaker(must(ululeredis.NewStore(client)), l) },
	sends: []string{"evalsha", "eval"},
}

func ululeTaker(store limiter.Store, l limit) taker {
	limiter := ululeLimiter(store, l)
	return func(key string) verdict {
		state, err := limiter.Get(context.Background(), key)
		return verdictOf(!state.Reached, err)
	}
}

func ululeLimiter(store limiter.Store, l limit) *limiter.Limiter {
	return limiter.New(store, limiter.Rate{Limit: int64(l.capacity), Period: l.window()})
}
