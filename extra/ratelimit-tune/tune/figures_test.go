package tune

import (
	"bytes"
	"os"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/gin-ratelimit/ratelimit"
	"github.com/gin-ratelimit/ratelimit/extra/ratelimit-tune/internal/traffic"
)

// written reads requests from a log in the format.
func written(t *testing.T, format string, requests []traffic.Request) *Trace {
	t.Helper()
	var log bytes.Buffer
	require.NoError(t, traffic.Write(&log, format, requests))
	trace, err := readText(t.Context(), Options{}, log.String())
	require.NoError(t, err)
	return trace
}

func handful(t *testing.T) *Trace {
	t.Helper()
	return written(t, "common", traffic.Handful(time.Date(2024, 2, 29, 23, 59, 30, 0, time.UTC)))
}

// nasa reads a day of NASA's web server, from the Internet Traffic Archive, if this machine has it.
func nasa(t *testing.T) *Trace {
	t.Helper()
	name := os.Getenv("TUNE_NASA_LOG")
	if name == "" {
		t.Skip("TUNE_NASA_LOG names no log of 1 August 1995")
	}
	trace, err := Read(t.Context(), Options{}, name)
	require.NoError(t, err)
	assert.Len(t, trace.Requests, 30_969)
	assert.Len(t, trace.Clients, 2_365)
	assert.Zero(t, trace.Misses)
	return trace
}

// By hand: at 1/s the first client lacks 5, then 4 + 3, then 6 + 2; at 2/s 5, 3 + 3, 4 + 2; at 1/10s 5, 4.9 + 3, 7.8 + 2.
func TestFrontierByHand(t *testing.T) {
	trace := handful(t)
	require.Len(t, trace.Requests, 16)
	for _, test := range []struct {
		rate   string
		bursts []int64
	}{
		{"1/s", []int64{1, 1, 3, 8}},
		{"2/s", []int64{1, 1, 3, 6}},
		{"1/10s", []int64{1, 1, 3, 10}},
		{"1/m", []int64{1, 1, 3, 10}},
		{"1/61s", []int64{1, 2, 3, 10}},
	} {
		var rate ratelimit.Rate
		require.NoError(t, rate.UnmarshalText([]byte(test.rate)))
		curves, err := Frontier(trace, []ratelimit.Rate{rate})
		require.NoError(t, err)
		assert.Equal(t, test.bursts, curves[0].Bursts, test.rate)
		for i, perMille := range []int{250, 500, 501, 751} { // of the first, the second, the third and the last client
			assert.Equal(t, test.bursts[i], curves[0].Quantile(perMille), "%s: %d per mille", test.rate, perMille)
		}
	}
}

// By hand: "1/s burst 3" admits of the first client 3, 1 and 1, and of the second all. Spread over their seconds, the
// requests of the first come every 200 ms, every 333 ms and every 500 ms: it admits 3, 1 and 1 again.
func TestReplayByHand(t *testing.T) {
	trace := handful(t)
	for _, test := range []struct {
		limit           string
		stamped, spread Refused
	}{
		{"1/s burst 3", Refused{5, 1}, Refused{5, 1}},
		{"1/s burst 2", Refused{7, 2}, Refused{7, 2}},
		{"10/s burst 3", Refused{2, 1}, Refused{0, 0}},
		{"1/s burst 8", Refused{0, 0}, Refused{0, 0}},
	} {
		limit, err := ratelimit.ParseLimit(test.limit)
		require.NoError(t, err)
		for _, reading := range []struct {
			by   Reading
			want Refused
		}{{AtOnce, test.stamped}, {Spread, test.spread}} {
			got, err := Replay(trace, Together(limit), reading.by, nil)
			require.NoError(t, err)
			assert.Equal(t, reading.want, got, test.limit)
		}
	}
}

// The figures were found by another program.
func TestFrontierOfNASA(t *testing.T) {
	trace := nasa(t)
	for _, test := range []struct {
		rate   string
		bursts [5]int64 // that suffice for 90, 95, 99, 99.9 and 100 % of the clients
	}{
		{rate: "1/10s", bursts: [5]int64{8, 10, 16, 24, 28}},
		{rate: "1/2s", bursts: [5]int64{5, 5, 8, 14, 15}},
		{rate: "1/s", bursts: [5]int64{4, 4, 6, 10, 13}},
	} {
		var rate ratelimit.Rate
		require.NoError(t, rate.UnmarshalText([]byte(test.rate)))
		curves, err := Frontier(trace, []ratelimit.Rate{rate})
		require.NoError(t, err)
		var got [5]int64
		for i, perMille := range []int{900, 950, 990, 999, 1000} {
			got[i] = curves[0].Quantile(perMille)
		}
		assert.Equal(t, test.bursts, got, test.rate)
	}
}

func TestReplayOfNASA(t *testing.T) {
	trace := nasa(t)
	require.Equal(t, time.Second, trace.Resolution)
	for _, test := range []struct {
		limit   string
		reading Reading
		refuse  Refused
	}{
		{limit: "1/10s burst 10", refuse: Refused{434, 90}},
		{limit: "1/s burst 3", refuse: Refused{790, 306}},
		{limit: "10/s burst 3", refuse: Refused{493, 253}},
		{limit: "10/s burst 3", reading: Spread, refuse: Refused{0, 0}},
	} {
		limit, err := ratelimit.ParseLimit(test.limit)
		require.NoError(t, err)
		got, err := Replay(trace, Together(limit), test.reading, nil)
		require.NoError(t, err)
		assert.Equal(t, test.refuse, got, test.limit)
	}
}
