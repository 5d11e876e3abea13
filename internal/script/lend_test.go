package script

import (
	"context"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/gin-ratelimit/ratelimit/internal/bucket"
	"github.com/gin-ratelimit/ratelimit/internal/redistest"
)

// The script lends exactly what bucket.State lends, between takes, debts and give-backs of others.
func TestLendAsState(t *testing.T) {
	ctx := context.Background()
	server := redistest.Start(t, redistest.WithClock())
	clock := server.Clock()
	clock.Freeze(time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC))
	client := redis.NewClient(&redis.Options{Addr: server.Addr, ContextTimeoutEnabled: true})
	defer client.Close()
	runner := New(client, Config{Prefix: "lend:", Budget: 20 * time.Second})

	r := rand.New(rand.NewPCG(5, 7))
	var lent, refused int
	for key := range 60 {
		name := fmt.Sprint(key)
		var state bucket.State
		all := make([]bucket.Scale, 1+r.IntN(3))
		for i := range all {
			scale, maxCapacity := bucket.NewScale(1+r.Int64N(1<<r.IntN(20)), 1+r.Int64N(1<<r.IntN(10)), int64(1+r.IntN(1000))*int64(time.Millisecond))
			require.LessOrEqual(t, scale.Capacity, maxCapacity)
			all[i] = scale
		}
		for range 50 {
			clock.Advance(time.Duration(r.Int64N(1<<r.IntN(22))) * time.Microsecond)
			scales := all[:1+r.IntN(len(all))]
			limits := NewLimits(scales)
			now, err := client.Time(ctx).Result()
			require.NoError(t, err)
			if r.IntN(2) == 0 {
				change := bucket.Change{N: r.Int64N(all[0].Capacity + 1), Debt: r.IntN(4) == 0}
				want, _ := state.Apply(now.UnixMicro(), &change, scales)
				got, err := runner.Change(ctx, name, limits, &change)
				require.NoError(t, err)
				require.Equal(t, want, got)
				continue
			}
			asks := make([]bucket.Ask, len(scales))
			for i := range asks {
				if r.IntN(4) > 0 {
					s := &scales[i]
					asks[i] = bucket.Ask{Need: r.Int64N(1 + s.Capacity/2), Want: r.Int64N(s.Capacity + 1), Floor: r.Int64N(s.Size() + 1)}
				}
			}
			want, grants := state.Lend(now.UnixMicro(), asks, scales)
			got, gotGrants, err := runner.Lend(ctx, name, limits, asks)
			require.NoError(t, err)
			require.Equal(t, want, got, "%+v of %+v", asks, scales)
			require.Equal(t, grants, gotGrants, "%+v of %+v", asks, scales)
			if got.Allowed {
				lent++
			} else {
				refused++
			}
		}
		stored, _, err := runner.Look(ctx, name, NewLimits(all))
		require.NoError(t, err)
		now, err := client.Time(ctx).Result()
		require.NoError(t, err)
		require.Equal(t, state.At(now.UnixMicro(), all).Levels, stored.Levels)
	}
	require.Greater(t, lent, 300)
	require.Greater(t, refused, 100)
}
