package tune

import (
	"math/rand/v2"
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
			for reading, refused := range map[Reading]Refused{AtOnce: s.Refused, Spread: s.Spread} {
				whole, err := Replay(trace, Together(s.Limit), reading, nil)
				require.NoError(t, err)
				assert.Equal(t, whole, refused, "only the clients that are hit were replayed")
			}
			smaller, err := Replay(trace, Together(s.Limit.Refill.Burst(s.Limit.Capacity-1)), AtOnce, nil)
			require.NoError(t, err)
			assert.False(t, keeps(smaller), "%v: %+v", most, s)
		}
	}
}

// A costly request that comes later within its second may find less than it would have at once.
func TestSuggestWithCosts(t *testing.T) {
	later := 0
	for seed := range uint64(100) {
		trace := randomTrace(rand.New(rand.NewPCG(seed, 3)), 20, 400, time.Unix(1e9, 0))
		trace.Resolution = time.Second
		for i := range trace.Requests {
			trace.Requests[i].Tick -= trace.Requests[i].Tick % second
			trace.Requests[i].Cost *= 5
		}
		curves, err := Frontier(trace, []ratelimit.Rate{ratelimit.PerSecond(2), ratelimit.PerSecond(9)})
		require.NoError(t, err)
		suggestions, err := Suggest(trace, curves, Share{0.1, 0.1})
		require.NoError(t, err)
		for _, s := range suggestions {
			spread, err := Replay(trace, Together(s.Limit), Spread, nil)
			require.NoError(t, err)
			assert.Equal(t, spread, s.Spread, "seed %d", seed)
			if spread.Requests > s.Refused.Requests {
				later++
			}
		}
	}
	assert.Positive(t, later)
}

func TestPickAdmitsTheLeastInAMinute(t *testing.T) {
	all := []Suggestion{{Limit: ratelimit.PerMinute(1).Burst(70)}, {Limit: ratelimit.PerMinute(6).Burst(30)}, {Limit: ratelimit.PerMinute(30).Burst(6)}}
	assert.Equal(t, 1, Pick(all), "36 in a minute, as the next, and slower")
	assert.Equal(t, -1, Pick(nil))
}
