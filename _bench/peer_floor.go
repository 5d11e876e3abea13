package main

import (
	"context"
	"hash/maphash"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/gin-gonic/gin"
	"github.com/redis/go-redis/v9"
)

var (
	// floorByArray is a seeded hash, an array, a compare-and-swap and the monotonic clock, which any limiter needs, and nothing
	// more. Keys of the same hash share a bucket.
	floorByArray = peer{
		name: "floor: hash, array, CAS, clock",
		kind: floor,
		note: "strangers share buckets",
		memory: func(l limit) taker {
			base, seed := time.Now(), maphash.MakeSeed()
			full := make([]atomic.Int64, 1<<21) // for twice the largest number of keys, each with the time when its bucket is full again
			for i := range full {
				full[i].Store(0) // So that the kernel does not provide the memory while takes are measured.
			}
			return func(key string) verdict {
				at := &full[maphash.String(seed, key)%uint64(len(full))]
				for {
					old := at.Load()
					next, ok := l.next(old, time.Since(base))
					if !ok {
						return refused
					}
					if at.CompareAndSwap(old, next) {
						return allowed
					}
				}
			}
		},
	}

	// mutexAndMap is the simplest exact limiter that scales at all.
	mutexAndMap = peer{
		name: "sharded mutex and map",
		kind: aid,
		note: "nothing ever expires",
		memory: func(l limit) taker {
			type shard struct {
				sync.Mutex
				full map[string]int64
				_    [48]byte // so that each has a cache line of its own
			}
			base, seed := time.Now(), maphash.MakeSeed()
			shards := make([]shard, 64)
			for i := range shards {
				shards[i].full = map[string]int64{}
			}
			return func(key string) verdict {
				s := &shards[maphash.String(seed, key)%uint64(len(shards))]
				s.Lock()
				defer s.Unlock()
				old, found := s.full[key]
				next, ok := l.next(old, time.Since(base))
				switch {
				case !ok:
					return refused
				case !found:
					key = strings.Clone(key)
				}
				s.full[key] = next
				return allowed
			}
		},
	}

	// gateway is everything around a limiter: Gin or a Redis client, with nothing in between.
	gateway = peer{
		name: "floor: bare handler, PING",
		kind: floor,
		web:  func(limit, address) http.Handler { return app() },
		redis: func(client *redis.Client, _ limit) taker {
			return func(string) verdict {
				return verdictOf(true, client.Ping(context.Background()).Err())
			}
		},
		sends: []string{"ping"},
	}
)

// next is when a bucket is full after one more take, and whether there is a token to take.
func (l limit) next(full int64, now time.Duration) (int64, bool) {
	next := max(full, int64(now)) + int64(l.per)
	return next, next-int64(now) <= int64(l.window())
}

// app is an engine with one route behind the middleware.
func app(use ...gin.HandlerFunc) http.Handler {
	gin.SetMode(gin.ReleaseMode)
	engine := gin.New()
	engine.Use(use...)
	engine.GET("/", func(*gin.Context) {})
	return engine
}

// addressOf is the request's address by Gin's own functions.
func (by address) addressOf(c *gin.Context) string {
	if by == peerAddress {
		return c.RemoteIP()
	}
	return c.ClientIP()
}
