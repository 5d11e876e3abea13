package ratelimit_test

import (
	"fmt"
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/gin-ratelimit/ratelimit"
	"github.com/gin-ratelimit/ratelimit/internal/redistest"
)

// What a take of a hot key costs from a lease, beside a MemoryStore and a RedisStore without leases.
func BenchmarkRedisStoreLease(b *testing.B) {
	server := redistest.Start(b)
	plenty := []ratelimit.Limit{{Capacity: 1_000_000_000, Refill: ratelimit.PerSecond(100_000_000)}}
	open := func(opts ...ratelimit.RedisOption) ratelimit.Store {
		client := redis.NewClient(&redis.Options{Addr: server.Addr, ContextTimeoutEnabled: true, PoolSize: 64})
		b.Cleanup(func() { client.Close() })
		store, err := ratelimit.NewRedisStore(client, append(opts, ratelimit.WithTimeout(time.Second))...)
		if err != nil {
			b.Fatal(err)
		}
		return store
	}
	for _, callers := range []int{1, 128} {
		for _, s := range []struct {
			name  string
			store ratelimit.Store
		}{
			{"memory", ratelimit.NewMemoryStore()},
			{"leased", open(ratelimit.WithLease(10 * time.Millisecond))},
			{"redis", open()},
		} {
			b.Run(fmt.Sprintf("%s/%d", s.name, callers), func(b *testing.B) {
				b.ReportAllocs()
				var all sync.WaitGroup
				for i := range callers {
					all.Go(func() {
						for range (b.N + i) / callers {
							if r, err := s.store.Take(ctx, "hot", ratelimit.Take{N: 1, Limits: plenty}); err != nil || !r.Allowed {
								b.Error(r, err)
								return
							}
						}
					})
				}
				all.Wait()
				if r, ok := s.store.(*ratelimit.RedisStore); ok {
					b.ReportMetric(float64(r.LeaseStats().Calls)/b.Elapsed().Seconds(), "calls/s")
				}
			})
		}
	}
	_ = runtime.NumCPU
}
