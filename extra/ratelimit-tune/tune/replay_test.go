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
		t.Requests = append(t.Requests, Request{Client: int32(r.IntN(clients)), Tick: tick, Cost: r.Int32N(4)})
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

// asMemoryStore replays random traces by a policy, and asks a store the same.
func asMemoryStore(t *testing.T, policyOf func(r *rand.Rand, trace *Trace) Policy) {
	t.Helper()
	refused, admitted, givenBack := 0, 0, 0
	for seed := range uint64(100) {
		synctest.Test(t, func(t *testing.T) {
			r := rand.New(rand.NewPCG(seed, 0))
			trace := randomTrace(r, 3, 300, time.Now())
			policy := policyOf(r, trace)
			store := ratelimit.NewMemoryStore()
			_, err := Replay(trace, policy, AtOnce, func(request Request, allowed bool) {
				time.Sleep(time.Until(time.UnixMicro(request.Tick)))
				client := trace.Clients[request.Client]
				limits, key := policy.everybody, ""
				if policy.Limits != nil {
					limits, key = policy.Limits(trace.Routes[request.Route], trace.Plans[request.Plan], client)
				}
				take := ratelimit.Take{N: int(request.Cost), Limits: limits}
				want, err := store.Take(t.Context(), client+key, take)
				require.NoError(t, err)
				require.Equal(t, want.Allowed, allowed, "seed %d, limits %v, at %d", seed, limits, request.Tick)
				switch {
				case !allowed:
					refused++
				case policy.ChargeIf != nil && !policy.ChargeIf(int(request.Status)):
					givenBack++
					_, err = store.Adjust(t.Context(), client+key, ratelimit.Adjustment{N: take.N, Limits: limits, Receipt: want.Receipt})
					require.NoError(t, err)
				default:
					admitted++
				}
			})
			require.NoError(t, err)
		})
	}
	assert.Greater(t, refused, 1000)
	assert.Greater(t, admitted, 1000)
	assert.True(t, givenBack == 0 || givenBack > 1000, givenBack)
}

func TestReplayDecidesAsMemoryStore(t *testing.T) {
	asMemoryStore(t, func(r *rand.Rand, _ *Trace) Policy { return Together(randomLimits(r)...) })
}

// Routes have buckets of their own, plans have other limits for the same buckets, and a client changes its plan.
func TestReplayOfRoutesAndPlansDecidesAsMemoryStore(t *testing.T) {
	asMemoryStore(t, func(r *rand.Rand, trace *Trace) Policy {
		trace.Routes, trace.Plans = []string{"", "GET /a", "GET /b"}, []string{"", "pro"}
		limits := make(map[string][]ratelimit.Limit)
		for _, route := range trace.Routes {
			for _, plan := range trace.Plans {
				limits[route+plan] = randomLimits(r)
			}
		}
		for i := range trace.Requests {
			q := &trace.Requests[i]
			q.Route, q.Plan, q.Status = r.Int32N(3), uint16(max(0, r.IntN(9)-7)), 200+200*int16(r.IntN(2))
		}
		return Policy{
			Limits: func(route, plan, _ string) ([]ratelimit.Limit, string) {
				buckets := route
				if route == "GET /a" {
					buckets = "" // It shares those of no route.
				}
				return limits[route+plan], buckets
			},
			ChargeIf: func(status int) bool { return status == 400 },
		}
	})
}

// One file has whole seconds, and another has a stamp within the second.
func TestSpreadKeepsTheOrderOfAClient(t *testing.T) {
	trace := &Trace{Clients: []string{"a", "b"}, Resolution: time.Second}
	for _, r := range []Request{{Tick: 0, Client: 1}, {Tick: 0}, {Tick: 0}, {Tick: 0}, {Tick: 200_000}, {Tick: second}} {
		r.Cost = 1
		trace.Requests = append(trace.Requests, r)
	}
	var ticks [2][]int64
	_, err := Replay(trace, Together(ratelimit.PerSecond(1).Burst(1)), Spread, func(r Request, _ bool) { ticks[r.Client] = append(ticks[r.Client], r.Tick) })
	require.NoError(t, err)
	assert.Equal(t, [2][]int64{{0, 333_333, 666_666, 666_666, second}, {0}}, ticks)
}

func TestUnlimitedIsNotRefused(t *testing.T) {
	trace := randomTrace(rand.New(rand.NewPCG(1, 1)), 2, 100, time.Unix(1e9, 0))
	refused, err := Replay(trace, Together(ratelimit.Unlimited...), AtOnce, nil)
	require.NoError(t, err)
	assert.Zero(t, refused)
}

func TestReplayNamesABadLimit(t *testing.T) {
	for limits, want := range map[*ratelimit.Limit]string{
		nil:                              "ratelimit-tune: no limits to replay: give at least one, as in \"10/s burst 20\"",
		{Refill: ratelimit.PerSecond(1)}: "ratelimit-tune: limit 1/s burst 0: ",
	} {
		p := Policy{}
		if limits != nil {
			p = Together(*limits)
		}
		_, err := Replay(&Trace{}, p, AtOnce, nil)
		require.ErrorContains(t, err, want)
	}
}

// The clients' decisions follow from each other, so a comparison is of two replays and not of one.
func TestCompareIsOfTwoReplays(t *testing.T) {
	changed := 0
	for seed := range uint64(50) {
		r := rand.New(rand.NewPCG(seed, 2))
		trace := randomTrace(r, 5, 300, time.Unix(1e9, 0))
		trace.Routes = []string{"GET /a", "GET /b"}
		for i := range trace.Requests {
			trace.Requests[i].Route = r.Int32N(2)
		}
		newer, older := Together(randomLimits(r)...), Together(randomLimits(r)...)
		decisions := func(p Policy) (allowed []bool, refusedClients map[int32]bool, refused Refused) {
			refusedClients = make(map[int32]bool)
			refused, err := Replay(trace, p, Spread, func(r Request, ok bool) {
				allowed = append(allowed, ok)
				if !ok {
					refusedClients[r.Client] = true
				}
			})
			require.NoError(t, err)
			return allowed, refusedClients, refused
		}
		after, hitAfter, refusedAfter := decisions(newer)
		before, hitBefore, refusedBefore := decisions(older)
		got, err := Compare(trace, newer, older, Spread)
		require.NoError(t, err)
		var want Comparison
		for i := range after {
			if before[i] && !after[i] {
				want.Refused.Requests++
			} else if after[i] && !before[i] {
				want.Admitted.Requests++
			}
		}
		for client := range int32(5) {
			if hitAfter[client] && !hitBefore[client] {
				want.Refused.Clients++
			} else if hitBefore[client] && !hitAfter[client] {
				want.Admitted.Clients++
			}
		}
		assert.Equal(t, want.Refused, got.Refused)
		assert.Equal(t, want.Admitted, got.Admitted)
		assert.Equal(t, refusedAfter.Requests-refusedBefore.Requests, got.Refused.Requests-got.Admitted.Requests)
		assert.Equal(t, got.Refused.Requests, got.ByRoute[0].Refused+got.ByRoute[1].Refused)
		assert.Equal(t, got.Admitted.Requests, got.ByRoute[0].Admitted+got.ByRoute[1].Admitted)
		changed += got.Refused.Requests + got.Admitted.Requests
	}
	assert.Greater(t, changed, 1000)
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
			got, err := Replay(trace, Together(rate.Burst(burst)), AtOnce, nil)
			require.NoError(t, err)
			refused = got.Requests
		}
		require.EqualValues(t, burst, curves[0].Quantile(1000), "seed %d, rate %v", seed, rate)
	}
}
