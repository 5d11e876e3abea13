package tune

import (
	"math/rand/v2"
	"strconv"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/gin-ratelimit/ratelimit"
)

// randomTrace has bursts and pauses, so that limits of some tokens a second refuse about half of it.
func randomTrace(r *rand.Rand, clients, requests int, start time.Time) *Trace {
	t := &Trace{Resolution: time.Microsecond}
	for c := range clients {
		t.Clients = append(t.Clients, "client-"+strconv.Itoa(c))
	}
	tick := start.UnixMicro()
	for range requests {
		if r.IntN(3) > 0 {
			tick += r.Int64N(300_000)
		}
		t.Requests = append(t.Requests, Request{Client: int32(r.IntN(clients)), Tick: tick, Cost: 1 + r.Int32N(3)})
	}
	return t
}

func randomLimits(r *rand.Rand) []ratelimit.Limit {
	limits := make([]ratelimit.Limit, 1+r.IntN(3))
	for i := range limits {
		limits[i] = ratelimit.Rate{Tokens: 1 + r.IntN(9), Per: time.Duration(1+r.IntN(9_999)) * time.Millisecond}.Burst(1 + r.IntN(9))
	}
	return limits
}

func TestReplayDecidesAsMemoryStore(t *testing.T) {
	refused, admitted := 0, 0
	for seed := range uint64(100) {
		synctest.Test(t, func(t *testing.T) {
			r := rand.New(rand.NewPCG(seed, 0))
			trace, limits := randomTrace(r, 3, 300, time.Now()), randomLimits(r)
			store := ratelimit.NewMemoryStore()
			_, err := Replay(trace, limits, func(request Request, allowed bool) {
				time.Sleep(time.Until(time.UnixMicro(request.Tick)))
				want, err := store.Take(t.Context(), trace.Clients[request.Client], ratelimit.Take{N: int(request.Cost), Limits: limits})
				require.NoError(t, err)
				require.Equal(t, want.Allowed, allowed, "seed %d, limits %v, at %d", seed, limits, request.Tick)
				if allowed {
					admitted++
				} else {
					refused++
				}
			})
			require.NoError(t, err)
		})
	}
	assert.Greater(t, refused, 1000)
	assert.Greater(t, admitted, 1000)
}

// The frontier needs no search, but one finds the same: the least burst with which a replay refuses nothing.
func TestFrontierEqualsSearchByReplay(t *testing.T) {
	for seed := range uint64(200) {
		r := rand.New(rand.NewPCG(seed, 1))
		trace, rate := randomTrace(r, 1, 100, time.Unix(1e9, 0)), randomLimits(r)[0].Refill
		curves, err := Frontier(trace, []ratelimit.Rate{rate})
		require.NoError(t, err)
		burst := 0
		for refused := 1; refused > 0; {
			burst++
			got, err := Replay(trace, []ratelimit.Limit{rate.Burst(burst)}, nil)
			require.NoError(t, err)
			refused = got.Requests
		}
		require.EqualValues(t, burst, curves[0].Quantile(1000), "seed %d, rate %v", seed, rate)
	}
}
