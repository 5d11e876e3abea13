package tune

import (
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/gin-ratelimit/ratelimit"
)

// even has so many clients that ask alike, over the time.
func even(clients int, span time.Duration) *Trace {
	t := &Trace{Routes: []string{"/"}, Plans: []string{""}, Resolution: time.Millisecond, Lines: 4 * clients, Agents: make([]uint16, clients)}
	step := (span - t.Resolution).Microseconds() / int64(4*clients-1)
	for i := range 4 * clients {
		if i < clients {
			t.Clients = append(t.Clients, "192.0.2."+strconv.Itoa(i))
		}
		t.Requests = append(t.Requests, Request{Client: int32(i % clients), Tick: int64(i) * step, Cost: 1, Status: 200})
	}
	t.Requests[4*clients-1].Tick = (span - t.Resolution).Microseconds()
	return t
}

func TestSuspicionsAndConfidence(t *testing.T) {
	for _, test := range []struct {
		name       string
		trace      func() *Trace
		kinds      string
		text       string
		confidence Confidence
	}{
		{"fine", func() *Trace { return even(1000, week) }, "", "", Good},
		{"less than 1,000 clients", func() *Trace { return even(999, week) }, "", "", Fair},
		{"less than a week", func() *Trace { return even(1000, week-time.Second) }, "short", "The log spans 167h59m59s, less than a week", Fair},
		{"12 hours", func() *Trace { return even(1000, 12*time.Hour) }, "short", "", Fair},
		{"less than 12 hours", func() *Trace { return even(1000, 12*time.Hour-time.Second) }, "short", "", Low},
		{"50 clients", func() *Trace { return even(50, week) }, "", "", Fair},
		{"less than 50 clients", func() *Trace { return even(49, week) }, "few", "There are 49 clients, fewer than 50", Low},
		{"1 % missed", func() *Trace {
			trace := even(1000, week)
			trace.Misses = 40
			return trace
		}, "", "", Good},
		{"more than 1 % missed", func() *Trace {
			trace := even(1000, week)
			trace.Misses = 41
			return trace
		}, "missed", "41 of 4000 lines could not be read.", Fair},
		{"partial", func() *Trace {
			trace := even(1000, week)
			trace.Partial = true
			return trace
		}, "partial", "", Low},
		{"beyond", func() *Trace {
			trace := even(1000, week)
			trace.Beyond.Requests = 7
			return trace
		}, "partial", "7 requests of clients after the first 1000 are left out.", Low},
		{"limited", func() *Trace {
			trace := even(1000, week)
			trace.Requests[7].Status = 429
			return trace
		}, "limited", "The log has answers of 429 (1): a limiter refused them already", Low},
		{"three make 90 %", func() *Trace {
			trace := even(1000, week)
			for i := range trace.Requests {
				if i >= 400 {
					trace.Requests[i].Client = int32(i % 3)
				}
			}
			trace.Agents[0], trace.Agents[1], trace.Agents[2] = 40, 40, 40
			return trace
		}, "proxy", " % of all requests come from there, so it is probably a proxy's address", Low},
		{"a private address", func() *Trace {
			trace := even(1000, week)
			trace.Clients[5] = "10.0.0.7"
			for i := range 400 {
				trace.Requests[i*10].Client = 5
			}
			return trace
		}, "proxy", "10.0.0.7 is a private address and makes 10 % of all requests", Low},
	} {
		t.Run(test.name, func(t *testing.T) {
			trace := test.trace()
			suspicions := trace.Suspicions()
			kinds := make([]string, len(suspicions))
			texts := make([]string, len(suspicions))
			for i, s := range suspicions {
				kinds[i], texts[i] = s.Kind, s.Text
			}
			assert.Equal(t, test.kinds, strings.Join(kinds, " "))
			assert.Contains(t, strings.Join(texts, " "), test.text)
			s := &Suggestion{Limit: ratelimit.PerSecond(1).Burst(20), Usual: 2}
			assert.Equal(t, test.confidence, trace.Confidence(s, suspicions))
		})
	}
}

func TestConfidenceIsLowWhereTheLogCannotTell(t *testing.T) {
	trace := even(1000, week)
	trace.Resolution = time.Second
	confidence := func(l ratelimit.Limit, usual int64) Confidence {
		return trace.Confidence(&Suggestion{Limit: l, Usual: usual}, nil)
	}
	assert.Equal(t, Good, confidence(ratelimit.PerSecond(1).Burst(10), 1))
	assert.Equal(t, Low, confidence(ratelimit.PerSecond(2).Burst(10), 1), "faster than the stamps")
	assert.Equal(t, Low, confidence(ratelimit.PerSecond(1).Burst(11), 1), "ten times what is usual")
}

func TestOutliers(t *testing.T) {
	trace := even(200, week)
	for range 150 {
		trace.Requests = append(trace.Requests, Request{Client: 7, Tick: week.Microseconds(), Cost: 1})
	}
	curves, err := Frontier(trace, []ratelimit.Rate{ratelimit.PerSecond(1), ratelimit.PerSecond(1000)})
	require.NoError(t, err)
	outliers := trace.Outliers(&curves[0])
	require.NotNil(t, outliers)
	assert.Equal(t, SuspectOutlier, outliers.Kind)
	assert.Contains(t, outliers.Text, "192.0.2.7: a burst of up to 150 is needed at 1/s, where 1 suffices for 99 % of the clients.")
	assert.Equal(t, Low, trace.Confidence(&Suggestion{Limit: ratelimit.PerSecond(1).Burst(1), Usual: 1}, []Suspicion{*outliers}))

	rest, unknown := trace.Without([]string{"192.0.2.7", "192.0.2.999"})
	assert.Equal(t, []string{"192.0.2.999"}, unknown)
	assert.Len(t, rest.Clients, 199)
	assert.NotContains(t, rest.Clients, "192.0.2.7")
	curves, err = Frontier(rest, []ratelimit.Rate{ratelimit.PerSecond(1)})
	require.NoError(t, err)
	assert.Nil(t, rest.Outliers(&curves[0]))
}

func TestTally(t *testing.T) {
	trace := handful(t)
	tally := NewTally(trace)
	limit := Together(ratelimit.PerSecond(1).Burst(3)) // By hand, see TestReplayByHand: 5 are refused, 2 at 0, 2 at 1 and 1 at 2 seconds.
	_, err := Replay(trace, limit, AtOnce, tally.Add)
	require.NoError(t, err)
	start := trace.Requests[0].Tick
	assert.Equal(t, 5, tally.Refused)
	assert.Equal(t, start, tally.First)
	assert.Equal(t, start+2*second, tally.Last)
	assert.Equal(t, start-30*second, tally.Busiest, "the minute begins 30 seconds earlier")
	assert.Equal(t, 5, tally.InBusiest)
	assert.Equal(t, []int{5}, tally.ByRoute)
	assert.Equal(t, ClientTally{Requests: 10, Refused: 5, Succeeded: 10}, tally.ByClient[0])
	from, step := tally.Span()
	assert.Equal(t, start, from)
	assert.EqualValues(t, second, step)
	assert.Equal(t, []StepTally{{7, 2}, {1, 2}, {1, 1}}, tally.Steps[:3])
	assert.Len(t, tally.Steps, 62)
}

func TestTallyHasFewSteps(t *testing.T) {
	for _, span := range []time.Duration{time.Second, time.Minute, time.Hour, 30 * time.Hour, 10 * week, 30 * 365 * 24 * time.Hour} {
		trace := even(10, span)
		tally := NewTally(trace)
		_, err := Replay(trace, Together(ratelimit.PerSecond(1).Burst(1)), Spread, tally.Add)
		require.NoError(t, err)
		assert.LessOrEqual(t, len(tally.Steps), steps)
		count := 0
		for _, s := range tally.Steps {
			count += s.Admitted + s.Refused
		}
		assert.Equal(t, 40, count)
	}
}

func TestTypicalCost(t *testing.T) {
	for costs, want := range map[[3]int32]int64{{1, 1, 1}: 1, {0, 0, 0}: 1, {9, 10, 10}: 1, {10, 10, 10}: 10, {1, 1, 2998}: 1000} {
		trace := &Trace{Clients: []string{"a"}, Agents: []uint16{0}, Resolution: time.Second}
		for _, cost := range costs {
			trace.Requests = append(trace.Requests, Request{Cost: cost})
		}
		assert.Equal(t, want, trace.TypicalCost(), costs)
		rate := ratelimit.PerSecond(int(want))
		assert.False(t, trace.TooFast(rate))
		rate.Tokens++
		assert.True(t, trace.TooFast(rate))
	}
	assert.EqualValues(t, 1, new(Trace).TypicalCost())
	trace := &Trace{Clients: []string{"a"}, Agents: []uint16{0}, Requests: []Request{{Cost: 10}, {Cost: 1, Route: 1}}}
	assert.EqualValues(t, 1, trace.TypicalCost())
	assert.EqualValues(t, 10, trace.OnRoute(0).TypicalCost())
}
