package verify

import (
	"context"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/gin-ratelimit/ratelimit"
)

// hoard is a limit that does not refill within a test, so that what was charged can be counted.
var hoard = ratelimit.Limit{Capacity: 1_000_000, Refill: ratelimit.PerHour(1)}

// openStore returns a store on a client of its own.
func openStore(t *testing.T, addr string, opts ...ratelimit.RedisOption) *ratelimit.RedisStore {
	t.Helper()
	return storeOn(t, openClient(t, &redis.Options{Addr: addr}), opts...)
}

func openClient(t *testing.T, options *redis.Options) *redis.Client {
	if options.Dialer == nil && options.TLSConfig == nil && far != nil {
		options.Dialer = far
	}
	client := redis.NewClient(options)
	t.Cleanup(func() { _ = client.Close() })
	return client
}

func storeOn(t *testing.T, client redis.UniversalClient, opts ...ratelimit.RedisOption) *ratelimit.RedisStore {
	t.Helper()
	store, err := ratelimit.NewRedisStore(client, append([]ratelimit.RedisOption{ratelimit.WithDenyCache(0)}, opts...)...)
	if err != nil {
		t.Fatal(err)
	}
	return store
}

// take withdraws n tokens, and fails the test where the store cannot decide.
func take(t *testing.T, store ratelimit.Store, key string, n int, limits ...ratelimit.Limit) ratelimit.Result {
	t.Helper()
	r, err := store.Take(context.Background(), key, ratelimit.Take{N: n, Limits: limits})
	if err != nil {
		t.Fatalf("Take(%q, %d): %v", key, n, err)
	}
	return r
}

// reach looks until the store has its connections and its script, which may take longer than the budget of a take.
func reach(t *testing.T, store ratelimit.Store) {
	t.Helper()
	eventually(t, 5*time.Second, "the store reaches Redis", func() bool {
		_, err := store.Take(context.Background(), "reach", ratelimit.Take{Limits: []ratelimit.Limit{hoard}})
		return err == nil
	})
}

// charged returns how many tokens are missing from a hoard.
func charged(t *testing.T, store ratelimit.Store, key string) int {
	t.Helper()
	return hoard.Capacity - take(t, store, key, 0, hoard).Remaining
}

// patient is a budget that a busy machine does not exceed, for tests that are not about time.
var patient = ratelimit.WithTimeout(5 * time.Second)
