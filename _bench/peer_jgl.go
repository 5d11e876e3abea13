package main

import (
	"net/http"

	jglrate "github.com/JGLTechnologies/gin-rate-limit"
	"github.com/redis/go-redis/v9"
)

var jgl = peer{
	name:   "JGL gin-rate-limit",
	module: "github.com/JGLTechnologies/gin-rate-limit",
	kind:   inexact,
	note:   "reads, then writes: callers that meet are not all counted",
	memory: func(l limit) taker { return jglTaker(jglMemory(l)) },
	web: func(l limit, by address) http.Handler {
		return app(jglrate.RateLimiter(jglMemory(l), &jglrate.Options{KeyFunc: by.addressOf}))
	},
	redis: func(client *redis.Client, l limit) taker {
		return jglTaker(jglrate.RedisStore(&jglrate.RedisOptions{
			Rate: l.window(), Limit: uint(l.capacity), RedisClient: client, PanicOnErr: true,
		}))
	},
	sends: []string{"get"},
}

func jglMemory(l limit) jglrate.Store {
	return jglrate.InMemoryStore(&jglrate.InMemoryOptions{Rate: l.window(), Limit: uint(l.capacity)})
}

func jglTaker(store jglrate.Store) taker {
	return func(key string) verdict { return verdictOf(!store.Limit(key, nil).RateLimited, nil) }
}
