package tune

import (
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/gin-ratelimit/ratelimit"
	"github.com/gin-ratelimit/ratelimit/extra/ratelimit-tune/internal/traffic"
)

func TestSuggestKeepsToTheShareAndIsSmallest(t *testing.T) {
	trace := written(t, "nginx", traffic.Day(2, time.Date(2024, 2, 29, 0, 0, 0, 0, time.UTC), 100))
	curves, err := Frontier(trace, []ratelimit.Rate{ratelimit.PerSecond(1), ratelimit.PerMinute(6)})
	require.NoError(t, err)
	for _, most := range []Share{{}, {0.001, 0.001}, {0.05, 0.0001}, {0.0005, 1}} {
		suggestions, err := Suggest(trace, curves, most)
		require.NoError(t, err)
		require.Len(t, suggestions, len(curves))
		keeps := func(r Refused) bool {
			return float64(r.Clients) <= most.Clients*float64(len(trace.Clients)) && float64(r.Requests) <= most.Requests*float64(len(trace.Requests))
		}
		for _, s := range suggestions {
			assert.True(t, keeps(s.Refused), "%v: %+v", most, s)
			smaller, err := Replay(trace, Together(s.Limit.Refill.Burst(s.Limit.Capacity-1)), AtOnce, nil)
			require.NoError(t, err)
			assert.False(t, keeps(smaller), "%v: %+v", most, s)
		}
	}
}
