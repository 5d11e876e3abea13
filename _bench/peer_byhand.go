package main

import (
	"net/http"
	"strconv"
	"sync"
	"time"

	"github.com/gin-gonic/gin"
	"github.com/juju/ratelimit"
	"golang.org/x/time/rate"
)

// Limiters of one bucket, in a map as users write it around them.
var (
	xTime = peer{
		name:   "x/time/rate in a sync.Map",
		module: "golang.org/x/time",
		kind:   exact,
		note:   "written by hand; nothing ever expires",
		memory: func(l limit) taker {
			buckets := xTimeBuckets(l)
			return func(key string) verdict { return verdictOf(buckets.get(key).Allow(), nil) }
		},
		web: xTimeApp(true),
	}
	xTimeBare = peer{
		name:   "x/time/rate in a sync.Map, no headers",
		module: "golang.org/x/time",
		kind:   aid,
		note:   "written by hand; nothing ever expires",
		web:    xTimeApp(false),
	}
	juju = peer{
		name:   "juju/ratelimit in a sync.Map",
		module: "github.com/juju/ratelimit",
		kind:   exact,
		note:   "written by hand; nothing ever expires",
		memory: func(l limit) taker {
			buckets := keyed[*ratelimit.Bucket]{create: func() *ratelimit.Bucket {
				return ratelimit.NewBucket(l.per, int64(l.capacity))
			}}
			return func(key string) verdict { return verdictOf(buckets.get(key).TakeAvailable(1) == 1, nil) }
		},
	}
)

// keyed makes a T for each key.
type keyed[T any] struct {
	all    sync.Map
	create func() T
}

func (k *keyed[T]) get(key string) T {
	value, ok := k.all.Load(key)
	if !ok {
		value, _ = k.all.LoadOrStore(key, k.create())
	}
	bucket, _ := value.(T)
	return bucket
}

func xTimeBuckets(l limit) *keyed[*rate.Limiter] {
	return &keyed[*rate.Limiter]{create: func() *rate.Limiter {
		return rate.NewLimiter(rate.Every(l.per), l.capacity)
	}}
}

func xTimeApp(headers bool) func(limit, address) http.Handler {
	return func(l limit, by address) http.Handler {
		buckets := xTimeBuckets(l)
		return app(func(c *gin.Context) {
			bucket := buckets.get(by.addressOf(c))
			ok := bucket.Allow()
			if headers {
				tokens := bucket.Tokens()
				untilFull := time.Duration((float64(l.capacity) - tokens) * float64(l.per))
				c.Header("X-RateLimit-Limit", strconv.Itoa(l.capacity))
				c.Header("X-RateLimit-Remaining", strconv.Itoa(int(tokens)))
				c.Header("X-RateLimit-Reset", strconv.FormatInt(time.Now().Add(untilFull).Unix(), 10))
			}
			if !ok {
				c.AbortWithStatusJSON(http.StatusTooManyRequests, gin.H{"error": "rate limit exceeded"})
			}
		})
	}
}
