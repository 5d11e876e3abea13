package ratelimit_test

import (
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/gin-ratelimit/ratelimit"
	"github.com/gin-ratelimit/ratelimit/internal/redistest"
)

// plenty is a limit that is large and fast enough to be leased.
var plenty = ratelimit.PerSecond(10_000).Burst(100_000)

// leasing opens a store with leases of this period.
func leasing(t testing.TB, addr string, period time.Duration, opts ...ratelimit.RedisOption) *ratelimit.RedisStore {
	t.Helper()
	client := redis.NewClient(&redis.Options{Addr: addr, ContextTimeoutEnabled: true})
	t.Cleanup(func() { client.Close() })
	store, err := ratelimit.NewRedisStore(client, append([]ratelimit.RedisOption{patient(), ratelimit.WithLease(period)}, opts...)...)
	require.NoError(t, err)
	return store
}

// hot takes from a key until it is leased, and returns the first result from a lease, and how many tokens were taken.
func hot(t testing.TB, store ratelimit.Store, key string, limits ...ratelimit.Limit) (r ratelimit.Result, taken int) {
	t.Helper()
	for taken = 1; taken < 10_000; taken++ {
		r, err := store.Take(ctx, key, ratelimit.Take{N: 1, Limits: limits})
		require.NoError(t, err)
		require.True(t, r.Allowed)
		if r.Source == ratelimit.SourceLease {
			return r, taken
		}
	}
	require.Fail(t, "never leased")
	return r, taken
}

func TestWithLeaseMistakes(t *testing.T) {
	client := redis.NewClient(&redis.Options{ContextTimeoutEnabled: true})
	defer client.Close()
	for _, period := range []time.Duration{-time.Second, 0, time.Microsecond, 2 * time.Second} {
		_, err := ratelimit.NewRedisStore(client, ratelimit.WithLease(period))
		require.EqualError(t, err, fmt.Sprintf("ratelimit: WithLease(%v): must be from 1ms to 1s, for example 10ms", period))
	}
}

// Looks through this store count unspent tokens on lease as available. Other processes cannot see them.
func TestLeaseLooks(t *testing.T) {
	server, _ := frozenRedis(t)
	store, other := leasing(t, server.Addr, time.Second), redisStore(t, server.Client())
	slow := ratelimit.Limit{Capacity: 100_000, Refill: ratelimit.PerMinute(1)}
	r, taken := hot(t, store, "key", slow)
	left := slow.Capacity - taken
	require.Equal(t, left, r.Remaining)

	look := mustTake(t, store, "key", 0, slow)
	require.Equal(t, left, look.Remaining)
	for _, limits := range [][]ratelimit.Limit{{slow}, nil} {
		usage, err := store.Look(ctx, "key", limits)
		require.NoError(t, err)
		require.Equal(t, left, usage.Limits[0].Remaining)
	}
	stats := store.LeaseStats()
	require.Positive(t, stats.Leased-stats.Spent)
	require.Zero(t, stats.Void)
	require.Equal(t, left-int(stats.Leased-stats.Spent), mustTake(t, other, "key", 0, slow).Remaining)
	require.Zero(t, redisStore(t, server.Client()).LeaseStats())
}

// A take from a lease can be given back, or charged more: in the lease while that exists, else in Redis.
func TestLeaseAdjust(t *testing.T) {
	server, _ := frozenRedis(t)
	store := leasing(t, server.Addr, time.Second)
	slow := ratelimit.Limit{Capacity: 100_000, Refill: ratelimit.PerMinute(1)}
	r, taken := hot(t, store, "key", slow)
	limits := []ratelimit.Limit{slow}

	back, err := store.Adjust(ctx, "key", ratelimit.Adjustment{N: 1, Limits: limits, Receipt: r.Receipt})
	require.NoError(t, err)
	require.Equal(t, slow.Capacity-taken+1, back.Remaining)
	again, err := store.Adjust(ctx, "key", ratelimit.Adjustment{N: -5, Limits: limits, Receipt: back.Receipt})
	require.NoError(t, err)
	require.Equal(t, slow.Capacity-taken-4, again.Remaining)

	more, err := store.Adjust(ctx, "key", ratelimit.Adjustment{N: -50_000, Limits: limits, Receipt: again.Receipt})
	require.NoError(t, err)
	require.Equal(t, slow.Capacity-taken-50_004, more.Remaining, "some from the lease, the rest a debt in Redis")
	require.Equal(t, ratelimit.SourceRedis, more.Source)

	found, err := store.Reset(ctx, "key")
	require.NoError(t, err)
	require.True(t, found)
	require.Equal(t, slow.Capacity, mustTake(t, store, "key", 0, slow).Remaining)
}

// Processes with and without leases that share a bucket together admit no more than one would.
func TestLeaseSharedBucket(t *testing.T) {
	server := redistest.Start(t)
	limit := ratelimit.PerSecond(2000).Burst(1000)
	stores := []ratelimit.Store{
		leasing(t, server.Addr, 10*time.Millisecond), leasing(t, server.Addr, 20*time.Millisecond),
		leasing(t, server.Addr, 5*time.Millisecond), redisStore(t, server.Client()),
	}
	var admitted, leased atomic.Int64
	began := time.Now()
	var all sync.WaitGroup
	for _, store := range stores {
		for range 4 {
			all.Go(func() {
				for time.Since(began) < 1500*time.Millisecond {
					r, err := store.Take(ctx, "shared", ratelimit.Take{N: 1, Limits: []ratelimit.Limit{limit}})
					if err != nil {
						t.Error(err)
						return
					}
					if r.Allowed {
						admitted.Add(1)
					}
					if r.Source == ratelimit.SourceLease {
						leased.Add(1)
					}
				}
			})
		}
	}
	all.Wait()
	bound := float64(limit.Capacity) + time.Since(began).Seconds()*2000
	t.Logf("%d admitted of at most %.0f; %d decisions from leases", admitted.Load(), bound, leased.Load())
	require.LessOrEqual(t, float64(admitted.Load()), bound)
	require.Greater(t, float64(admitted.Load()), 0.95*bound)
	require.Positive(t, leased.Load())
}

// Takes with a wait or a ban go to Redis.
func TestLeaseLeavesOut(t *testing.T) {
	server := redistest.Start(t)
	store := leasing(t, server.Addr, 10*time.Millisecond)
	hot(t, store, "key", plenty)
	for _, take := range []ratelimit.Take{
		{N: 1, MaxWait: time.Second},
		{N: 1, Ban: ratelimit.Ban{After: 5, Within: time.Minute, For: time.Minute}},
		{N: 0},
	} {
		take.Limits = []ratelimit.Limit{plenty}
		r, err := store.Take(ctx, "key", take)
		require.NoError(t, err)
		require.Equal(t, ratelimit.SourceRedis, r.Source, "%+v", take)
	}
}

// Decisions from a lease do not show whether Redis works; those that waited for a call do.
func TestLeaseBehindFallback(t *testing.T) {
	server := redistest.Start(t)
	primary := leasing(t, server.Addr, 100*time.Millisecond, ratelimit.WithTimeout(100*time.Millisecond))
	store, err := ratelimit.NewFallbackStore(primary, ratelimit.NewMemoryStore(), ratelimit.WithTripAfter(3), ratelimit.WithCoolOff(50*time.Millisecond))
	require.NoError(t, err)
	hot(t, store, "key", plenty)
	server.Kill()
	require.Eventually(t, func() bool {
		_, err := store.Take(ctx, "key", ratelimit.Take{N: 1, Limits: []ratelimit.Limit{plenty}})
		return err == nil && store.Degraded()
	}, 20*time.Second, 100*time.Microsecond)
	server.Restart()
	require.Eventually(t, func() bool {
		_, err := store.Take(ctx, "key", ratelimit.Take{N: 1, Limits: []ratelimit.Limit{plenty}})
		return err == nil && !store.Degraded()
	}, 20*time.Second, 100*time.Microsecond)
	hot(t, store, "key", plenty)
}

// The cost of a take of a hot key from a lease, compared with a MemoryStore and a RedisStore without leases.
func BenchmarkRedisStoreLease(b *testing.B) {
	server := redistest.Start(b)
	limits := []ratelimit.Limit{ratelimit.PerSecond(100_000_000).Burst(1_000_000_000)}
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
							if r, err := s.store.Take(ctx, "hot", ratelimit.Take{N: 1, Limits: limits}); err != nil || !r.Allowed {
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
}
