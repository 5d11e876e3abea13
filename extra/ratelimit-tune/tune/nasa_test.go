package tune

import (
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/gin-ratelimit/ratelimit"
)

func nasa(t *testing.T) *Trace {
	t.Helper()
	trace, err := Read(t.Context(), Options{}, "testdata/nasa_19950801.log.gz")
	require.NoError(t, err)
	return trace
}

// The figures were found by another program.
func TestFrontierOfNASA(t *testing.T) {
	trace := nasa(t)
	assert.Len(t, trace.Requests, 30_969)
	assert.Len(t, trace.Clients, 2_365)
	assert.Zero(t, trace.Misses)
	for _, test := range []struct {
		rate   string
		bursts [5]int64
	}{
		{rate: "1/10s", bursts: [5]int64{8, 10, 16, 24, 28}},
		{rate: "1/2s", bursts: [5]int64{5, 5, 8, 14, 15}},
		{rate: "1/s", bursts: [5]int64{4, 4, 6, 10, 13}},
	} {
		t.Run(test.rate, func(t *testing.T) {
			var rate ratelimit.Rate
			require.NoError(t, rate.UnmarshalText([]byte(test.rate)))
			curves, err := Frontier(trace, []ratelimit.Rate{rate})
			require.NoError(t, err)
			var got [5]int64
			for i, perMille := range []int{900, 950, 990, 999, 1000} {
				got[i] = curves[0].Quantile(perMille)
			}
			assert.Equal(t, test.bursts, got)
		})
	}
}

func TestReplayOfNASA(t *testing.T) {
	trace := nasa(t)
	require.True(t, trace.WholeSeconds())
	for _, test := range []struct {
		limit  string
		trace  *Trace
		refuse Refused
	}{
		{limit: "1/10s burst 10", trace: trace, refuse: Refused{434, 90}},
		{limit: "1/s burst 3", trace: trace, refuse: Refused{790, 306}},
		{limit: "10/s burst 3", trace: trace, refuse: Refused{493, 253}},
		{limit: "10/s burst 3", trace: trace.Spread(), refuse: Refused{0, 0}},
	} {
		limit, err := ratelimit.ParseLimit(test.limit)
		require.NoError(t, err)
		got, err := Replay(test.trace, []ratelimit.Limit{limit}, nil)
		require.NoError(t, err)
		assert.Equal(t, test.refuse, got, test.limit)
	}
}
