package storetest

import (
	"math"
	"time"

	"github.com/gin-ratelimit/ratelimit"
)

// line is one take of a transcript, and its answer.
type line struct {
	at        time.Duration // since the beginning
	n         int
	allowed   bool
	remaining int
	retry     time.Duration // RetryAfter
	full      time.Duration // ResetAfter
	by        int           // the limit that decides, by position
}

const (
	never = ratelimit.Never

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
	{name: "ten a second", limits: []ratelimit.Limit{limit(20, ratelimit.PerSecond(10))}, lines: []line{
		{at: 0, n: 0, allowed: true, remaining: 20},
		{at: 0, n: 1, allowed: true, remaining: 19, full: 100 * ms},
		{at: 0, n: 19, allowed: true, remaining: 0, full: 2 * sec},
		{at: 0, n: 1, remaining: 0, retry: 100 * ms, full: 2 * sec},
		{at: 100*ms - us, n: 1, remaining: 0, retry: us, full: 1900*ms + us},
		{at: 100 * ms, n: 1, allowed: true, remaining: 0, full: 2 * sec},
		{at: 250 * ms, n: 2, remaining: 1, retry: 50 * ms, full: 1850 * ms},
		{at: 250 * ms, n: 1, allowed: true, remaining: 0, full: 1950 * ms},
		{at: 300 * ms, n: 1, allowed: true, remaining: 0, full: 2 * sec},
		{at: 2300 * ms, n: 20, allowed: true, remaining: 0, full: 2 * sec},
		{at: 2300 * ms, n: 20, remaining: 0, retry: 2 * sec, full: 2 * sec},
		{at: 2300 * ms, n: 21, remaining: 0, retry: never, full: 2 * sec},
		{at: time.Hour, n: 21, remaining: 20, retry: never},
		{at: time.Hour, n: 0, allowed: true, remaining: 20},
	}},
	{name: "a thousand a day", limits: []ratelimit.Limit{limit(5000, ratelimit.Every(slow))}, lines: []line{
		{at: 0, n: 5000, allowed: true, remaining: 0, full: 120 * time.Hour},
		{at: 0, n: 1, remaining: 0, retry: slow, full: 120 * time.Hour},
		{at: slow - us, n: 1, remaining: 0, retry: us, full: 120*time.Hour - slow + us},
		{at: slow, n: 1, allowed: true, remaining: 0, full: 120 * time.Hour},
		{at: slow, n: 1, remaining: 0, retry: slow, full: 120 * time.Hour},
		{at: 2*slow - us, n: 1, remaining: 0, retry: us, full: 120*time.Hour - slow + us},
		{at: slow + day - us, n: 1000, remaining: 999, retry: us, full: 96*time.Hour + us},
		{at: slow + day, n: 1000, allowed: true, remaining: 0, full: 120 * time.Hour},
		{at: slow + day, n: 1, remaining: 0, retry: slow, full: 120 * time.Hour},
		{at: slow + 6*day - us, n: 5000, remaining: 4999, retry: us, full: us},
		{at: slow + 6*day, n: 5000, allowed: true, remaining: 0, full: 120 * time.Hour},
		{at: slow + 6*day, n: 5001, remaining: 0, retry: never, full: 120 * time.Hour},
	}},
	{name: "seven in three seconds", limits: []ratelimit.Limit{limit(7, ratelimit.Rate{Tokens: 7, Per: 3 * sec})}, lines: []line{
		{at: 0, n: 7, allowed: true, remaining: 0, full: 3 * sec},
		{at: 0, n: 1, remaining: 0, retry: 428572 * us, full: 3 * sec},
		{at: 428571 * us, n: 1, remaining: 0, retry: us, full: 2571429 * us},
		{at: 428572 * us, n: 1, allowed: true, remaining: 0, full: 3 * sec},
		{at: 3*sec - us, n: 6, remaining: 5, retry: us, full: 428573 * us},
		{at: 3 * sec, n: 6, allowed: true, remaining: 0, full: 3 * sec},
		{at: 3 * sec, n: 1, remaining: 0, retry: 428572 * us, full: 3 * sec},
	}},
	{name: "three a second", limits: []ratelimit.Limit{limit(3, ratelimit.PerSecond(3))}, lines: []line{
		// Thirds of a microsecond are neither lost nor gained: exactly three tokens come back in a second.
		{at: 0, n: 3, allowed: true, remaining: 0, full: sec},
		{at: 333333 * us, n: 1, remaining: 0, retry: us, full: 666667 * us},
		{at: 333334 * us, n: 1, allowed: true, remaining: 0, full: sec},
		{at: 666666 * us, n: 1, remaining: 0, retry: us, full: 666668 * us},
		{at: 666667 * us, n: 1, allowed: true, remaining: 0, full: sec},
		{at: sec - us, n: 1, remaining: 0, retry: us, full: 666668 * us},
		{at: sec, n: 1, allowed: true, remaining: 0, full: sec},
		{at: sec, n: 1, remaining: 0, retry: 333334 * us, full: sec},
	}},
	{name: "one at a time", limits: []ratelimit.Limit{limit(1, ratelimit.PerSecond(1))}, lines: []line{
		{at: 0, n: 1, allowed: true, remaining: 0, full: sec},
		{at: 0, n: 1, remaining: 0, retry: sec, full: sec},
		{at: sec - us, n: 1, remaining: 0, retry: us, full: us},
		{at: sec, n: 1, allowed: true, remaining: 0, full: sec},
		{at: sec, n: 2, remaining: 0, retry: never, full: sec},
		{at: time.Hour, n: 2, remaining: 1, retry: never},
		{at: time.Hour, n: 1, allowed: true, remaining: 0, full: sec},
	}},
	{name: "one in ten years", limits: []ratelimit.Limit{limit(1, ratelimit.Every(10*year))}, lines: []line{
		{at: 0, n: 1, allowed: true, remaining: 0, full: 10 * year},
		{at: 0, n: 1, remaining: 0, retry: 10 * year, full: 10 * year},
		{at: 10*year - us, n: 1, remaining: 0, retry: us, full: us},
		{at: 10 * year, n: 1, allowed: true, remaining: 0, full: 10 * year},
		{at: 20 * year, n: 1, allowed: true, remaining: 0, full: 10 * year},
	}},
	{name: "a century to refill", limits: []ratelimit.Limit{limit(10, ratelimit.Every(10*year))}, lines: []line{
		{at: 0, n: 10, allowed: true, remaining: 0, full: 100 * year},
		{at: 0, n: 10, remaining: 0, retry: 100 * year, full: 100 * year},
		{at: 30*year - us, n: 3, remaining: 2, retry: us, full: 70*year + us},
		{at: 30 * year, n: 3, allowed: true, remaining: 0, full: 100 * year},
	}},
	{name: "a billion a second", limits: []ratelimit.Limit{limit(1e9, ratelimit.PerSecond(1e9))}, lines: []line{
		{at: 0, n: 1e9, allowed: true, remaining: 0, full: sec},
		{at: 0, n: 1, remaining: 0, retry: us, full: sec},
		{at: us, n: 1001, remaining: 1000, retry: us, full: sec - us},
		{at: us, n: 1000, allowed: true, remaining: 0, full: sec},
		{at: 500*ms + us, n: 5e8, allowed: true, remaining: 0, full: sec},
		{at: 500*ms + us, n: 1e9, remaining: 0, retry: sec, full: sec},
		{at: 500*ms + us, n: 1e9 + 1, remaining: 0, retry: never, full: sec},
	}},
	{name: "a billion at once", limits: []ratelimit.Limit{limit(1e9, ratelimit.PerSecond(1))}, lines: []line{
		{at: 0, n: 1e9, allowed: true, remaining: 0, full: 1e9 * sec},
		{at: 0, n: 1, remaining: 0, retry: sec, full: 1e9 * sec},
		{at: sec, n: 1, allowed: true, remaining: 0, full: 1e9 * sec},
		{at: sec, n: 1e9, remaining: 0, retry: 1e9 * sec, full: 1e9 * sec},
		{at: 1e6*sec + us, n: 1e6 - 1, allowed: true, remaining: 0, full: 1e9*sec - us},
		{at: 1e6*sec + us, n: 1, remaining: 0, retry: sec - us, full: 1e9*sec - us},
	}},
	{name: "faster than the clock", limits: []ratelimit.Limit{limit(1, ratelimit.Every(time.Nanosecond))}, lines: []line{
		{at: 0, n: 1, allowed: true, remaining: 0, full: us},
		{at: 0, n: 1, remaining: 0, retry: us, full: us},
		{at: us, n: 1, allowed: true, remaining: 0, full: us},
	}},
	{name: "between two ticks", limits: []ratelimit.Limit{limit(2, ratelimit.Every(1500*time.Nanosecond))}, lines: []line{
		{at: 0, n: 2, allowed: true, remaining: 0, full: 3 * us},
		{at: us, n: 1, remaining: 0, retry: us, full: 2 * us},
		{at: 2 * us, n: 1, allowed: true, remaining: 0, full: 3 * us},
		{at: 3 * us, n: 1, allowed: true, remaining: 0, full: 3 * us},
		{at: 4 * us, n: 1, remaining: 0, retry: us, full: 2 * us},
	}},
	{name: "two limits", limits: []ratelimit.Limit{limit(10, ratelimit.PerSecond(10)), limit(15, ratelimit.PerMinute(15))}, lines: []line{
		{at: 0, n: 0, allowed: true, remaining: 10},
		{at: 0, n: 10, allowed: true, remaining: 0, full: sec},
		{at: 0, n: 1, remaining: 0, retry: 100 * ms, full: sec},
		{at: sec, n: 6, remaining: 5, retry: 3 * sec, full: 39 * sec, by: 1}, // refused by one,
		{at: sec, n: 5, allowed: true, remaining: 0, full: 59 * sec, by: 1},  // and the other still had ten
		{at: sec, n: 0, allowed: true, remaining: 0, full: 59 * sec, by: 1},
		{at: sec, n: 6, remaining: 0, retry: 23 * sec, full: 59 * sec, by: 1},
		{at: sec, n: 11, remaining: 5, retry: never, full: 500 * ms},
		{at: 4 * sec, n: 1, allowed: true, remaining: 0, full: 60 * sec, by: 1},
	}},
	{name: "equal limits", limits: []ratelimit.Limit{limit(10, ratelimit.PerSecond(10)), limit(10, ratelimit.PerSecond(5))}, lines: []line{
		{at: 0, n: 0, allowed: true, remaining: 10},
		{at: 0, n: 11, remaining: 10, retry: never},
		{at: 0, n: 10, allowed: true, remaining: 0, full: sec},
		{at: 0, n: 1, remaining: 0, retry: 200 * ms, full: 2 * sec, by: 1},
		{at: 0, n: 10, remaining: 0, retry: 2 * sec, full: 2 * sec, by: 1},
		{at: 2 * sec, n: 10, allowed: true, remaining: 0, full: sec},
	}},
	{name: "costs beyond reason", limits: []ratelimit.Limit{limit(3, ratelimit.PerSecond(1)), limit(5, ratelimit.PerSecond(1))}, lines: []line{
		{at: 0, n: math.MaxInt, remaining: 3, retry: never},
		{at: 0, n: 4, remaining: 3, retry: never},
		{at: 0, n: 3, allowed: true, remaining: 0, full: 3 * sec},
		{at: 0, n: math.MaxInt, remaining: 0, retry: never, full: 3 * sec},
		{at: 0, n: math.MaxInt32, remaining: 0, retry: never, full: 3 * sec},
		{at: 3 * sec, n: 3, allowed: true, remaining: 0, full: 3 * sec},
	}},
}
