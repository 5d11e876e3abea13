package storetest

import (
	"math"
	"time"

	"github.com/gin-ratelimit/ratelimit"
)

// line is one take of a transcript: so long after the beginning, of so many tokens; and the answer.
type line struct {
	at        time.Duration
	n         int
	allowed   bool
	remaining int
	retry     time.Duration
	full      time.Duration // ResetAfter
	by        int           // the limit that decides, by position
}

const (
	yes, no = true, false
	never   = ratelimit.Never

	us   = time.Microsecond
	ms   = time.Millisecond
	sec  = time.Second
	day  = 24 * time.Hour
	year = 365 * day
)

func limit(capacity int, refill ratelimit.Rate) ratelimit.Limit {
	return ratelimit.Limit{Capacity: capacity, Refill: refill}
}

// transcripts are worked out by hand, so that the oracle is not the only judge.
func transcripts() []testCase {
	var cases []testCase
	for _, t := range transcriptTable {
		cases = append(cases, testCase{t.name, func(s *session) {
			for _, l := range t.lines {
				s.waitUntil(l.at)
				got := s.take("key", l.n, t.limits...)
				want := ratelimit.Result{
					Allowed: l.allowed, Limit: t.limits[l.by], Remaining: l.remaining,
					RetryAfter: l.retry, ResetAfter: l.full,
				}
				if got != want {
					s.t.Fatalf("at %v: take of %d\ngot  %s\nwant %s", l.at, l.n, resultText(got), resultText(want))
				}
			}
		}})
	}
	return cases
}

const slow = 86400 * ms // for a token, where there are 1000 a day

var transcriptTable = []struct {
	name   string
	limits []ratelimit.Limit
	lines  []line
}{
	{"ten a second", []ratelimit.Limit{limit(20, ratelimit.PerSecond(10))}, []line{
		{0, 0, yes, 20, 0, 0, 0},
		{0, 1, yes, 19, 0, 100 * ms, 0},
		{0, 19, yes, 0, 0, 2 * sec, 0},
		{0, 1, no, 0, 100 * ms, 2 * sec, 0},
		{100*ms - us, 1, no, 0, us, 1900*ms + us, 0},
		{100 * ms, 1, yes, 0, 0, 2 * sec, 0},
		{250 * ms, 2, no, 1, 50 * ms, 1850 * ms, 0},
		{250 * ms, 1, yes, 0, 0, 1950 * ms, 0},
		{300 * ms, 1, yes, 0, 0, 2 * sec, 0},
		{2300 * ms, 20, yes, 0, 0, 2 * sec, 0},
		{2300 * ms, 20, no, 0, 2 * sec, 2 * sec, 0},
		{2300 * ms, 21, no, 0, never, 2 * sec, 0},
		{time.Hour, 21, no, 20, never, 0, 0},
		{time.Hour, 0, yes, 20, 0, 0, 0},
	}},
	{"a thousand a day", []ratelimit.Limit{limit(5000, ratelimit.Every(slow))}, []line{
		{0, 5000, yes, 0, 0, 120 * time.Hour, 0},
		{0, 1, no, 0, slow, 120 * time.Hour, 0},
		{slow - us, 1, no, 0, us, 120*time.Hour - slow + us, 0},
		{slow, 1, yes, 0, 0, 120 * time.Hour, 0},
		{slow, 1, no, 0, slow, 120 * time.Hour, 0},
		{2*slow - us, 1, no, 0, us, 120*time.Hour - slow + us, 0},
		{slow + day - us, 1000, no, 999, us, 96*time.Hour + us, 0},
		{slow + day, 1000, yes, 0, 0, 120 * time.Hour, 0},
		{slow + day, 1, no, 0, slow, 120 * time.Hour, 0},
		{slow + 6*day - us, 5000, no, 4999, us, us, 0},
		{slow + 6*day, 5000, yes, 0, 0, 120 * time.Hour, 0},
		{slow + 6*day, 5001, no, 0, never, 120 * time.Hour, 0},
	}},
	{"seven in three seconds", []ratelimit.Limit{limit(7, ratelimit.Rate{Tokens: 7, Per: 3 * sec})}, []line{
		{0, 7, yes, 0, 0, 3 * sec, 0},
		{0, 1, no, 0, 428572 * us, 3 * sec, 0},
		{428571 * us, 1, no, 0, us, 2571429 * us, 0},
		{428572 * us, 1, yes, 0, 0, 3 * sec, 0},
		{3*sec - us, 6, no, 5, us, 428573 * us, 0},
		{3 * sec, 6, yes, 0, 0, 3 * sec, 0},
		{3 * sec, 1, no, 0, 428572 * us, 3 * sec, 0},
	}},
	{"three a second", []ratelimit.Limit{limit(3, ratelimit.PerSecond(3))}, []line{
		// Thirds of a microsecond are neither lost nor won: three come back in the second.
		{0, 3, yes, 0, 0, sec, 0},
		{333333 * us, 1, no, 0, us, 666667 * us, 0},
		{333334 * us, 1, yes, 0, 0, sec, 0},
		{666666 * us, 1, no, 0, us, 666668 * us, 0},
		{666667 * us, 1, yes, 0, 0, sec, 0},
		{sec - us, 1, no, 0, us, 666668 * us, 0},
		{sec, 1, yes, 0, 0, sec, 0},
		{sec, 1, no, 0, 333334 * us, sec, 0},
	}},
	{"one at a time", []ratelimit.Limit{limit(1, ratelimit.PerSecond(1))}, []line{
		{0, 1, yes, 0, 0, sec, 0},
		{0, 1, no, 0, sec, sec, 0},
		{sec - us, 1, no, 0, us, us, 0},
		{sec, 1, yes, 0, 0, sec, 0},
		{sec, 2, no, 0, never, sec, 0},
		{time.Hour, 2, no, 1, never, 0, 0},
		{time.Hour, 1, yes, 0, 0, sec, 0},
	}},
	{"one in ten years", []ratelimit.Limit{limit(1, ratelimit.Every(10*year))}, []line{
		{0, 1, yes, 0, 0, 10 * year, 0},
		{0, 1, no, 0, 10 * year, 10 * year, 0},
		{10*year - us, 1, no, 0, us, us, 0},
		{10 * year, 1, yes, 0, 0, 10 * year, 0},
		{20 * year, 1, yes, 0, 0, 10 * year, 0},
	}},
	{"a century to refill", []ratelimit.Limit{limit(10, ratelimit.Every(10*year))}, []line{
		{0, 10, yes, 0, 0, 100 * year, 0},
		{0, 10, no, 0, 100 * year, 100 * year, 0},
		{30*year - us, 3, no, 2, us, 70*year + us, 0},
		{30 * year, 3, yes, 0, 0, 100 * year, 0},
	}},
	{"a billion a second", []ratelimit.Limit{limit(1e9, ratelimit.PerSecond(1e9))}, []line{
		{0, 1e9, yes, 0, 0, sec, 0},
		{0, 1, no, 0, us, sec, 0},
		{us, 1001, no, 1000, us, sec - us, 0},
		{us, 1000, yes, 0, 0, sec, 0},
		{500*ms + us, 5e8, yes, 0, 0, sec, 0},
		{500*ms + us, 1e9, no, 0, sec, sec, 0},
		{500*ms + us, 1e9 + 1, no, 0, never, sec, 0},
	}},
	{"a billion at once", []ratelimit.Limit{limit(1e9, ratelimit.PerSecond(1))}, []line{
		{0, 1e9, yes, 0, 0, 1e9 * sec, 0},
		{0, 1, no, 0, sec, 1e9 * sec, 0},
		{sec, 1, yes, 0, 0, 1e9 * sec, 0},
		{sec, 1e9, no, 0, 1e9 * sec, 1e9 * sec, 0},
		{1e6*sec + us, 1e6 - 1, yes, 0, 0, 1e9*sec - us, 0},
		{1e6*sec + us, 1, no, 0, sec - us, 1e9*sec - us, 0},
	}},
	{"faster than the clock", []ratelimit.Limit{limit(1, ratelimit.Every(time.Nanosecond))}, []line{
		{0, 1, yes, 0, 0, us, 0},
		{0, 1, no, 0, us, us, 0},
		{us, 1, yes, 0, 0, us, 0},
	}},
	{"between two ticks", []ratelimit.Limit{limit(2, ratelimit.Every(1500*time.Nanosecond))}, []line{
		{0, 2, yes, 0, 0, 3 * us, 0},
		{us, 1, no, 0, us, 2 * us, 0},
		{2 * us, 1, yes, 0, 0, 3 * us, 0},
		{3 * us, 1, yes, 0, 0, 3 * us, 0},
		{4 * us, 1, no, 0, us, 2 * us, 0},
	}},
	{"two limits", []ratelimit.Limit{limit(10, ratelimit.PerSecond(10)), limit(15, ratelimit.PerMinute(15))}, []line{
		{0, 0, yes, 10, 0, 0, 0},
		{0, 10, yes, 0, 0, sec, 0},
		{0, 1, no, 0, 100 * ms, sec, 0},
		{sec, 6, no, 5, 3 * sec, 39 * sec, 1}, // refused by one,
		{sec, 5, yes, 0, 0, 59 * sec, 1},      // and the other still had ten
		{sec, 0, yes, 0, 0, 59 * sec, 1},
		{sec, 6, no, 0, 23 * sec, 59 * sec, 1},
		{sec, 11, no, 5, never, 500 * ms, 0},
		{4 * sec, 1, yes, 0, 0, 60 * sec, 1},
	}},
	{"equal limits", []ratelimit.Limit{limit(10, ratelimit.PerSecond(10)), limit(10, ratelimit.PerSecond(5))}, []line{
		{0, 0, yes, 10, 0, 0, 0},
		{0, 11, no, 10, never, 0, 0},
		{0, 10, yes, 0, 0, sec, 0},
		{0, 1, no, 0, 200 * ms, 2 * sec, 1},
		{0, 10, no, 0, 2 * sec, 2 * sec, 1},
		{2 * sec, 10, yes, 0, 0, sec, 0},
	}},
	{"costs beyond reason", []ratelimit.Limit{limit(3, ratelimit.PerSecond(1)), limit(5, ratelimit.PerSecond(1))}, []line{
		{0, math.MaxInt, no, 3, never, 0, 0},
		{0, 4, no, 3, never, 0, 0},
		{0, 3, yes, 0, 0, 3 * sec, 0},
		{0, math.MaxInt, no, 0, never, 3 * sec, 0},
		{0, math.MaxInt32, no, 0, never, 3 * sec, 0},
		{3 * sec, 3, yes, 0, 0, 3 * sec, 0},
	}},
}
