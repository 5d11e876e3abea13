package ratelimit_test

import (
	"fmt"
	"testing"

	"github.com/gin-ratelimit/ratelimit"
)

// The cost of a take: on one key that all goroutines share, on keys that fit a cache, on keys that do not, and on a key that
// is refused.
func BenchmarkMemoryStore(b *testing.B) {
	plenty := ratelimit.Limit{Capacity: 1 << 30, Refill: ratelimit.PerSecond(1_000_000)}
	never := ratelimit.Limit{Capacity: 1, Refill: ratelimit.PerDay(1)}
	for _, bench := range []struct {
		name  string
		keys  int
		limit ratelimit.Limit
	}{
		{name: "hot key", keys: 1, limit: plenty},
		{name: "1000 keys", keys: 1000, limit: plenty},
		{name: "1M keys", keys: 1_000_000, limit: plenty},
		{name: "refused", keys: 1, limit: never},
	} {
		b.Run(bench.name, func(b *testing.B) {
			store := ratelimit.NewMemoryStore(ratelimit.WithMaxKeys(2 * max(bench.keys, 1024)))
			keys := make([]string, bench.keys)
			for i := range keys {
				keys[i] = fmt.Sprintf("client-%d", i*7919)
			}
			take := ratelimit.Take{N: 1, Limits: []ratelimit.Limit{bench.limit}}
			first := take
			first.N = (bench.limit.Capacity + 1) / 2 // A bucket that is full again would be evicted meanwhile.
			for _, key := range keys {
				if _, err := store.Take(b.Context(), key, first); err != nil {
					b.Fatal(err)
				}
			}
			ctx := b.Context()
			b.ReportAllocs()
			b.ResetTimer()
			b.RunParallel(func(pb *testing.PB) {
				for i := 0; pb.Next(); i++ {
					if i == len(keys) {
						i = 0
					}
					if _, err := store.Take(ctx, keys[i], take); err != nil {
						b.Error(err)
						return
					}
				}
			})
		})
	}
}
