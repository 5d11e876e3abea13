package storetest

import (
	"errors"
	"fmt"
	"math"
	"time"

	"github.com/gin-ratelimit/ratelimit"
)

// rules are the sentences of Store's documentation, one per case.
var rules = []testCase{
	{"a refusal changes nothing", refusalChangesNothing},
	{"a refusal deducts from no limit", refusalDeductsFromNone},
	{"a look changes nothing", lookChangesNothing},
	{"retry after is true", retryAfterIsTrue},
	{"nothing drifts", nothingDrifts},
	{"years idle", yearsIdle},
	{"wrong arguments", wrongArguments},
	{"reset", resetFills},
	{"tokens given back", tokensGivenBack},
	{"nothing comes back twice", nothingComesBackTwice},
	{"what was used is the oldest part", usedIsOldest},
	{"given back in several steps", givenBackInSteps},
	{"given back by the limits of the take", givenBackByLimitsOfTake},
	{"given back without a right", givenBackWithoutRight},
	{"places in the queue", placesInQueue},
	{"a queue that others wait in", queueOfOthers},
	{"usage", usage},
	{"as many limits as there may be", manyLimits},
	{"debt", debt},
	{"adjust without bounds", adjustWithoutBounds},
	{"adjust of several limits", adjustOfSeveral},
	{"capacity changed", capacityChanged},
	{"capacities in turns", capacitiesInTurns},
	{"rate changed", rateChanged},
	{"parts of a token are rounded up", partsRoundedUp},
	{"full by the old limit", fullByOldLimit},
	{"positions not named", positionsNotNamed},
	{"giving back to a full bucket", givingBackToFull},
}

var (
	tenPerSecond = limit(10, ratelimit.PerSecond(10))
	onePerSecond = limit(5, ratelimit.PerSecond(1))
)

// allowedBy and refusedBy are what a call is expected to answer.
func allowedBy(l ratelimit.Limit, remaining int, full time.Duration) ratelimit.Result {
	return ratelimit.Result{Allowed: true, Limit: l, Remaining: remaining, ResetAfter: full}
}

func refusedBy(l ratelimit.Limit, remaining int, retry, full time.Duration) ratelimit.Result {
	return ratelimit.Result{Limit: l, Remaining: remaining, RetryAfter: retry, ResetAfter: full}
}

func (s *session) want(what string, got, want ratelimit.Result) {
	s.t.Helper()
	if got != want {
		s.t.Fatalf("at %v: %s:\ngot  %s\nwant %s", s.now(), what, resultText(got), resultText(want))
	}
}

// A client that hammers at an empty bucket is admitted at the same time as one that waits.
func refusalChangesNothing(s *session) {
	s.take("hammered", 5, onePerSecond)
	s.take("waiting", 5, onePerSecond)
	for i := range 200 {
		s.take("hammered", 1+i%7, onePerSecond)
		if i%2 == 1 {
			s.wait(9999 * us)
		}
	}
	s.wait(sec - s.now() - us)
	s.want("the last microsecond", s.take("hammered", 1, onePerSecond), refusedBy(onePerSecond, 0, us, 4*sec+us))
	s.wait(us)
	s.want("hammered", s.take("hammered", 1, onePerSecond), allowedBy(onePerSecond, 0, 5*sec))
	s.want("waiting", s.take("waiting", 1, onePerSecond), allowedBy(onePerSecond, 0, 5*sec))
}

func refusalDeductsFromNone(s *session) {
	hour := limit(8, ratelimit.PerHour(8))
	s.take("key", 6, tenPerSecond, hour)
	for range 50 {
		s.take("key", 3, tenPerSecond, hour) // the second has two
	}
	s.want("the first limit", s.look("key", tenPerSecond), allowedBy(tenPerSecond, 4, 600*ms))
	for range 50 {
		s.take("key", 5, tenPerSecond, hour) // neither has five
	}
	s.want("the second limit", s.look("key", tenPerSecond, hour), allowedBy(hour, 2, 45*time.Minute))
	s.want("what is left", s.take("key", 2, tenPerSecond, hour), allowedBy(hour, 0, time.Hour))
}

func lookChangesNothing(s *session) {
	s.want("of an unknown key", s.look("key", tenPerSecond), allowedBy(tenPerSecond, 10, 0))
	s.take("key", 10, tenPerSecond)
	for range 99 {
		s.look("key", tenPerSecond)
		s.look("key", onePerSecond) // by another limit
		s.look("key", tenPerSecond, onePerSecond)
		s.wait(ms)
	}
	s.want("look", s.look("key", tenPerSecond), allowedBy(tenPerSecond, 0, 901*ms))
	s.wait(ms)
	s.want("take", s.take("key", 1, tenPerSecond), allowedBy(tenPerSecond, 0, sec))
}

// A client that waits for RetryAfter is admitted; one that waits a microsecond less is refused.
func retryAfterIsTrue(s *session) {
	seed := newSeed(s.t)
	d := newDice(seedBytes(seed, 1<<15))
	s.note = seedNote(s.t, seed)
	for left := 90 * year; !d.spent; {
		limits, key := d.limits(), d.key()
		s.reset(key)
		var r ratelimit.Result
		var n int
		for range 4 {
			n = d.int(int64(limits[0].Capacity))
			if r = s.take(key, n, limits...); !r.Allowed {
				break
			}
		}
		if r.Allowed || r.RetryAfter == ratelimit.Never || r.RetryAfter > left {
			continue
		}
		s.wait(r.RetryAfter - us)
		if early := s.take(key, n, limits...); early.Allowed || early.RetryAfter != us {
			s.t.Fatalf("refused for %v, and a microsecond earlier it was %s", r.RetryAfter, resultText(early))
		}
		s.wait(us)
		if then := s.take(key, n, limits...); !then.Allowed {
			s.t.Fatalf("refused for %v, and then it was %s", r.RetryAfter, resultText(then))
		}
		left -= r.RetryAfter
	}
}

// A client that takes each token as soon as it is there gets exactly the rate, whatever its fractions.
func nothingDrifts(s *session) {
	for _, l := range []ratelimit.Limit{
		limit(7, ratelimit.Rate{Tokens: 7, Per: 3 * sec}),
		limit(3, ratelimit.PerSecond(3)),
		limit(5000, ratelimit.Every(slow)),
		limit(2, ratelimit.Rate{Tokens: 999_983, Per: 7 * sec}),
	} {
		key, start := l.String(), s.now()
		s.take(key, l.Capacity, l)
		const tokens = 300
		for i := range tokens {
			r := s.take(key, 1, l)
			if r.Allowed {
				s.t.Fatalf("%v: %d tokens came back before the time", l, i+1)
			}
			s.wait(r.RetryAfter)
			s.take(key, 1, l)
		}
		// ⌈300·P/N⌉ in integers of microseconds.
		per, n := l.Refill.Per.Microseconds(), int64(l.Refill.Tokens)
		want := time.Duration((tokens*per+n-1)/n) * us
		if took := s.now() - start; took != want {
			s.t.Fatalf("%v: %d tokens took %v, want %v", l, tokens, took, want)
		}
	}
}

func yearsIdle(s *session) {
	s.take("a", 10, tenPerSecond)
	s.take("b", 5, onePerSecond, tenPerSecond)
	s.wait(40 * year)
	s.want("a", s.look("a", tenPerSecond), allowedBy(tenPerSecond, 10, 0))
	s.want("a", s.take("a", 10, tenPerSecond), allowedBy(tenPerSecond, 0, sec))
	s.want("a", s.take("a", 1, tenPerSecond), refusedBy(tenPerSecond, 0, 100*ms, sec))
	s.want("b", s.take("b", 6, onePerSecond, tenPerSecond), refusedBy(onePerSecond, 5, never, 0))
	s.wait(50 * year)
	s.want("b", s.take("b", 5, onePerSecond, tenPerSecond), allowedBy(onePerSecond, 0, 5*sec))
}

func wrongArguments(s *session) {
	s.take("key", 4, tenPerSecond)
	for _, n := range []int{-1, -10, math.MinInt} {
		s.take("key", n, tenPerSecond)
		s.take("new", n, tenPerSecond)
	}
	hour, second := time.Hour, time.Second
	for _, bad := range [][]ratelimit.Limit{
		nil,
		{},
		{{}},
		{tenPerSecond, {}},
		{{Capacity: 10}},
		{{Refill: ratelimit.PerSecond(10)}},
		{{Capacity: -1, Refill: ratelimit.PerSecond(10)}},
		{{Capacity: math.MinInt, Refill: ratelimit.PerSecond(10)}},
		{{Capacity: 10, Refill: ratelimit.Rate{Tokens: 0, Per: second}}},
		{{Capacity: 10, Refill: ratelimit.Rate{Tokens: -10, Per: second}}},
		{{Capacity: 10, Refill: ratelimit.Rate{Tokens: 10, Per: 0}}},
		{{Capacity: 10, Refill: ratelimit.Rate{Tokens: 10, Per: -hour}}},
		{{Capacity: 10, Refill: ratelimit.Rate{Tokens: math.MinInt, Per: math.MinInt64}}},
		{{Capacity: math.MaxInt32, Refill: ratelimit.Every(math.MaxInt64)}}, // more than 2^52 units
	} {
		for _, n := range []int{0, 1, math.MaxInt} {
			s.take("key", n, bad...)
			s.take("new", n, bad...)
			s.adjust("key", n, bad...)
			s.adjust("key", -n, bad...)
		}
	}
	s.want("after wrong calls", s.look("key", tenPerSecond), allowedBy(tenPerSecond, 6, 400*ms))
	s.want("an unknown key after wrong calls", s.look("new", tenPerSecond), allowedBy(tenPerSecond, 10, 0))
}

func resetFills(s *session) {
	if s.reset("unknown") {
		s.t.Fatal("there was something to forget under an unknown key")
	}
	s.take("a", 10, tenPerSecond, onePerSecond)
	s.take("a", 5, tenPerSecond, onePerSecond)
	s.take("b", 10, tenPerSecond)
	if !s.reset("a") {
		s.t.Fatal("there was nothing to forget of buckets that were empty")
	}
	s.want("reset", s.look("a", tenPerSecond, onePerSecond), allowedBy(onePerSecond, 5, 0))
	s.want("another key", s.look("b", tenPerSecond), allowedBy(tenPerSecond, 0, sec))
	s.want("take after reset", s.take("a", 5, tenPerSecond, onePerSecond), allowedBy(onePerSecond, 0, 5*sec))
	s.reset("a")
	s.reset("a")
	s.wait(ms)
	s.want("a while after reset", s.take("a", 5, tenPerSecond, onePerSecond), allowedBy(onePerSecond, 0, 5*sec))
	s.adjust("b", -100, tenPerSecond)
	s.reset("b")
	s.want("reset of a debt", s.take("b", 1, tenPerSecond), allowedBy(tenPerSecond, 9, 100*ms))
}

func tokensGivenBack(s *session) {
	s.take("key", 8, tenPerSecond)
	eight := s.last()
	s.want("three back", s.giveBack(eight, 3), allowedBy(tenPerSecond, 5, 500*ms))
	s.want("none", s.giveBack(eight, 0), allowedBy(tenPerSecond, 5, 500*ms))
	s.wait(50 * ms)
	s.want("one back, half of one refilled", s.giveBack(eight, 1), allowedBy(tenPerSecond, 6, 350*ms))
	s.want("never above full", s.giveBack(eight, math.MaxInt), allowedBy(tenPerSecond, 10, 0))
	s.want("and none saved up", s.take("key", 11, tenPerSecond), refusedBy(tenPerSecond, 10, never, 0))
	s.want("take", s.take("key", 10, tenPerSecond), allowedBy(tenPerSecond, 0, sec))

	// Many takes, all given back in time, cost nothing.
	minute := limit(60, ratelimit.PerMinute(60))
	for range 5 {
		for range 12 {
			s.take("many", 5, minute)
		}
		s.wait(100 * ms)
		for _, t := range s.takes[len(s.takes)-12:] {
			s.giveBack(t, 5)
		}
		s.want("all back", s.look("many", minute), allowedBy(minute, 60, 0))
	}
}

// What the bucket has refilled cannot be given back.
func nothingComesBackTwice(s *session) {
	minute := limit(5, ratelimit.PerMinute(5)) // a token each 12 s
	s.take("late", 5, minute)
	late := s.last()
	s.wait(time.Minute)
	s.take("late", 5, minute)
	s.want("all has refilled since", s.giveBack(late, 5), allowedBy(minute, 0, time.Minute))

	s.take("middle", 5, minute)
	middle := s.last()
	s.wait(30 * sec) // half of it
	s.take("middle", 2, minute)
	s.want("half is left, and comes back", s.giveBack(middle, 5), allowedBy(minute, 3, 24*sec))
	s.want("and not once more", s.giveBack(middle, 5), allowedBy(minute, 3, 24*sec))

	// How much of a take has refilled depends on each limit's own rate.
	s.take("two", 5, tenPerSecond, minute)
	two := s.last()
	s.wait(sec)
	s.take("two", 5, tenPerSecond)
	s.want("the fast one has refilled, the slow one has not", s.giveBack(two, 5), allowedBy(tenPerSecond, 5, 500*ms))
	s.want("the slow one", s.look("two", limit(99, ratelimit.PerSecond(1)), minute), allowedBy(minute, 5, 0))

	// Requests that ran for minutes, and all end at once, give back only what is still worth something.
	for range 12 {
		for range 5 {
			s.take("parked", 1, minute)
		}
		s.wait(time.Minute)
	}
	parked := s.takes[len(s.takes)-60:]
	admitted := 0
	for _, t := range parked {
		for s.take("parked", 1, minute).Allowed {
			admitted++
		}
		s.giveBack(t, 1)
	}
	if admitted != 5 {
		s.t.Fatalf("in the instant in which 60 old requests gave back, %d were admitted, want 5", admitted)
	}
}

// If 500 tokens of a reservation of 2,000 were used, those 500 are the first to refill.
func usedIsOldest(s *session) {
	hour := limit(2000, ratelimit.PerHour(2000)) // a token each 1.8 s
	s.take("key", 2000, hour)
	model := s.last()
	s.wait(900 * sec) // 500 of them
	s.want("the rest is there", s.giveBack(model, 1500), allowedBy(hour, 2000, 0))
	s.take("other", 2000, hour)
	model = s.last()
	s.wait(1800 * sec) // 1,000 of them
	s.take("other", 1000, hour)
	s.want("a part of the rest is", s.giveBack(model, 1500), allowedBy(hour, 1000, 1800*sec))
}

func givenBackInSteps(s *session) {
	hour := limit(100, ratelimit.PerHour(100)) // a token each 36 s
	s.take("key", 60, hour)
	t := s.last()
	s.want("ten", s.giveBack(t, 10), allowedBy(hour, 50, 1800*sec))
	s.wait(360 * sec) // ten tokens
	s.want("twenty", s.giveBack(t, 20), allowedBy(hour, 80, 720*sec))
	s.want("twenty more than was reserved", s.giveBack(t, -50), allowedBy(hour, 30, 2520*sec))
	s.want("and back", s.giveBack(t, 50), allowedBy(hour, 80, 720*sec))
	s.want("the rest", s.giveBack(t, 30), allowedBy(hour, 100, 0))
}

// If the limit has changed since the take, a give-back goes by the limit of the take.
func givenBackByLimitsOfTake(s *session) {
	slow, fast := limit(10, ratelimit.PerMinute(10)), limit(10, ratelimit.PerSecond(10))
	s.take("faster", 10, slow)
	t := s.last()
	s.wait(sec)
	s.take("faster", 1, fast) // It takes the bucket over, full by its own rate.
	s.want("a second is little by the limit of the take", s.giveBack(t, 5), allowedBy(slow, 10, 0))
	s.take("slower", 10, fast)
	t = s.last()
	s.wait(500 * ms)
	s.take("slower", 0, slow)
	s.want("and half by this", s.giveBack(t, 10), allowedBy(fast, 10, 0))
}

func givenBackWithoutRight(s *session) {
	s.take("key", 4, tenPerSecond)
	t := s.last()
	s.want("without a receipt", s.adjust("key", 3, tenPerSecond), allowedBy(tenPerSecond, 6, 400*ms))
	s.want("of an unknown key", s.adjust("new", 3, tenPerSecond), allowedBy(tenPerSecond, 10, 0))

	r, err := s.store.Take(s.ctx, "key", ratelimit.Take{N: 7, Limits: t.limits})
	if err != nil || r.Allowed {
		s.t.Fatalf("take of 7 where there are 6: %s, %v", resultText(r), err)
	}
	if _, err := s.store.Adjust(s.ctx, "key", ratelimit.Adjustment{N: 7, Limits: t.limits, Receipt: r.Receipt}); err != nil {
		s.t.Fatalf("giving back what was refused: %v", err)
	}
	s.want("what was refused does not come back", s.look("key", tenPerSecond), allowedBy(tenPerSecond, 6, 400*ms))

	two := []ratelimit.Limit{tenPerSecond, onePerSecond}
	if _, err := s.store.Adjust(s.ctx, "key", ratelimit.Adjustment{N: 1, Limits: two, Receipt: t.store}); !errors.Is(err, ratelimit.ErrArgument) {
		s.t.Fatalf("two limits, with the receipt of a take of one: got %v, want an error that wraps ErrArgument", err)
	}
	s.want("nothing has changed", s.look("key", tenPerSecond), allowedBy(tenPerSecond, 6, 400*ms))
}

// Ten takes wait for their turns, and the first five leave. Their places are lost, because those behind them do not move
// up. The last place is not lost.
func placesInQueue(s *session) {
	one := limit(1, ratelimit.PerSecond(1))
	s.take("key", 1, one)
	for i := range 10 {
		if r := s.queue("key", 1, one); r.Wait != time.Duration(i+1)*sec {
			s.t.Fatalf("place %d is in %v", i, r.Wait)
		}
	}
	queue := s.takes[len(s.takes)-10:]
	for _, t := range queue[:5] {
		s.leave(t, 1)
	}
	if r := s.queue("key", 1, one); r.Wait != 11*sec {
		s.t.Fatalf("a newcomer goes on in %v, want 11s: behind those who wait", r.Wait)
	}
	s.leave(s.last(), 1)
	s.leave(queue[9], 1)
	if r := s.queue("key", 1, one); r.Wait != 10*sec {
		s.t.Fatalf("after the last two have left, a newcomer goes on in %v, want 10s", r.Wait)
	}
	// A part of a place, and one that is a little late.
	s.queue("parts", 1, limit(4, ratelimit.PerSecond(1)))
	s.queue("parts", 4, limit(4, ratelimit.PerSecond(1)))
	four := s.last()
	s.queue("parts", 3, limit(4, ratelimit.PerSecond(1)))
	s.wait(500 * ms)
	s.leave(four, 4)
	s.leave(s.last(), 3)
}

// A request whose wait is over, and which then gives back, leaves the places of the takes that wait as they are.
func queueOfOthers(s *session) {
	one := limit(1, ratelimit.PerSecond(1))
	s.queue("key", 1, one)
	served := s.last()
	s.queue("key", 1, one)
	s.want("nothing for a newcomer", s.giveBack(served, 1), refusedBy(one, 0, sec, 2*sec))
	if r := s.queue("key", 1, one); r.Wait != 2*sec {
		s.t.Fatalf("a newcomer goes on in %v, want 2s", r.Wait)
	}
	s.queue("alone", 1, one)
	s.want("nobody waits", s.giveBack(s.last(), 1), allowedBy(one, 1, 0))
}

func usage(s *session) {
	hour := limit(100, ratelimit.PerHour(100))
	s.usage("unknown")
	s.usage("unknown", tenPerSecond, hour)
	s.take("key", 7, tenPerSecond, hour)
	s.wait(50 * ms)
	for _, limits := range [][]ratelimit.Limit{nil, {tenPerSecond}, {tenPerSecond, hour}, {tenPerSecond, hour, onePerSecond}, {onePerSecond, hour}} {
		s.usage("key", limits...)
	}
	got := s.usage("key", tenPerSecond, hour).Limits
	for i, want := range []ratelimit.LimitUsage{
		{Limit: tenPerSecond, Remaining: 3, NextToken: 50 * ms, ResetAfter: 650 * ms},
		{Limit: hour, Remaining: 93, NextToken: 36*sec - 50*ms, ResetAfter: 252*sec - 50*ms},
	} {
		if got[i] != want {
			s.t.Fatalf("usage of limit %d: got %+v, want %+v", i, got[i], want)
		}
	}
	s.adjust("key", -10, tenPerSecond)
	if got := s.usage("key").Limits[0]; got.Debt != 7 || got.Remaining != 0 || got.NextToken != 750*ms {
		s.t.Fatalf("6.5 tokens in debt: got %+v", got)
	}
	s.usage("key", tenPerSecond, hour)
	if _, err := s.store.Look(s.ctx, "key", []ratelimit.Limit{{}}); !errors.Is(err, ratelimit.ErrArgument) {
		s.t.Fatalf("a look by the zero limit: got %v, want an error that wraps ErrArgument", err)
	}
	s.wait(day)
	s.usage("key")
	s.usage("key", hour, tenPerSecond)
}

func manyLimits(s *session) {
	var limits []ratelimit.Limit
	for i := range 33 {
		limits = append(limits, limit(10+i, ratelimit.PerHour(10+i)))
	}
	for _, n := range []int{5, 32} {
		s.take("key", 9, limits[:n]...)
		t := s.last()
		s.wait(sec)
		s.usage("key", limits[:n]...)
		s.giveBack(t, 4)
		s.giveBack(t, -2)
		s.giveBack(t, 7)
		s.usage("key")
		s.reset("key")
	}
	s.take("key", 1, limits...)
	s.adjust("key", -1, limits...)
	s.usage("key")
}

func debt(s *session) {
	s.want("an unknown key", s.adjust("new", -3, tenPerSecond), allowedBy(tenPerSecond, 7, 300*ms))
	s.take("key", 4, tenPerSecond)
	s.want("six more", s.adjust("key", -6, tenPerSecond), allowedBy(tenPerSecond, 0, sec))
	s.want("half as much again", s.adjust("key", -5, tenPerSecond), refusedBy(tenPerSecond, 0, 500*ms, 1500*ms))
	s.want("look", s.look("key", tenPerSecond), refusedBy(tenPerSecond, 0, 500*ms, 1500*ms))
	s.want("take", s.take("key", 1, tenPerSecond), refusedBy(tenPerSecond, 0, 600*ms, 1500*ms))
	s.want("take more than fits", s.take("key", 11, tenPerSecond), refusedBy(tenPerSecond, 0, never, 1500*ms))
	s.wait(500*ms - us)
	s.want("nearly paid", s.look("key", tenPerSecond), refusedBy(tenPerSecond, 0, us, sec+us))
	s.wait(us)
	s.want("paid", s.look("key", tenPerSecond), allowedBy(tenPerSecond, 0, sec))
	s.want("take too early", s.take("key", 1, tenPerSecond), refusedBy(tenPerSecond, 0, 100*ms, sec))
	s.wait(100 * ms)
	s.want("take", s.take("key", 1, tenPerSecond), allowedBy(tenPerSecond, 0, sec))

	s.giveBack(s.last(), -20)
	s.want("given back", s.giveBack(s.last(), 15), refusedBy(tenPerSecond, 0, 500*ms, 1500*ms))
	twice, larger := limit(10, ratelimit.PerSecond(20)), limit(12, ratelimit.PerSecond(10))
	s.want("the debt at another rate", s.look("key", twice), refusedBy(twice, 0, 250*ms, 750*ms))
	s.want("the debt in a larger bucket", s.look("key", larger), refusedBy(larger, 0, 300*ms, 1500*ms))
	smaller := limit(4, ratelimit.PerSecond(10))
	s.want("the debt in a smaller bucket", s.look("key", smaller), refusedBy(smaller, 0, 500*ms, 900*ms))
	s.want("the debt", s.look("key", tenPerSecond), refusedBy(tenPerSecond, 0, 500*ms, 1500*ms))
}

func adjustWithoutBounds(s *session) {
	s.take("key", 5, tenPerSecond)
	s.want("all back", s.giveBack(s.last(), math.MaxInt), allowedBy(tenPerSecond, 10, 0))

	// 2^53-1 units, where a token has a million.
	const longest = (1<<53 - 1) * us
	one := limit(1, ratelimit.PerSecond(1))
	for range 4 {
		for range 5 {
			s.adjust("debtor", math.MinInt, one)
			s.adjust("debtor", -math.MaxInt, one)
			s.adjust("debtor", math.MinInt32, one)
		}
		s.want("all the debt there is", s.look("debtor", one), refusedBy(one, 0, longest-sec, longest))
		s.want("a take in debt", s.take("debtor", 1, one), refusedBy(one, 0, longest, longest))
		s.wait(ms)
	}
	s.reset("debtor")
	s.adjust("debtor", math.MinInt, one)
	s.reset("debtor")
	s.take("debtor", 1, one)
	s.giveBack(s.last(), math.MinInt)
	s.wait(year)
	s.giveBack(s.last(), math.MaxInt32)
	s.giveBack(s.last(), math.MaxInt)
}

func adjustOfSeveral(s *session) {
	s.take("key", 3, tenPerSecond, onePerSecond)
	s.want("both back", s.giveBack(s.last(), 2), allowedBy(onePerSecond, 4, sec))
	s.want("the first", s.look("key", tenPerSecond), allowedBy(tenPerSecond, 9, 100*ms))
	s.want("both in use", s.adjust("key", -7, tenPerSecond, onePerSecond), refusedBy(onePerSecond, 0, 3*sec, 8*sec))
	s.want("the first is in no debt", s.look("key", tenPerSecond), allowedBy(tenPerSecond, 2, 800*ms))
	s.want("one debt refuses for both", s.take("key", 1, tenPerSecond, onePerSecond), refusedBy(onePerSecond, 0, 4*sec, 8*sec))
	s.wait(4 * sec)
	s.want("paid", s.take("key", 1, tenPerSecond, onePerSecond), allowedBy(onePerSecond, 0, 5*sec))
}

func capacityChanged(s *session) {
	half, twice := limit(5, ratelimit.PerSecond(10)), limit(20, ratelimit.PerSecond(10))
	s.take("key", 3, tenPerSecond)
	s.want("twice the capacity", s.look("key", twice), allowedBy(twice, 17, 300*ms))
	s.want("half the capacity", s.look("key", half), allowedBy(half, 5, 0))
	s.want("refused by half", s.take("key", 6, half), refusedBy(half, 5, never, 0))
	s.want("as it was, for nothing was written", s.look("key", tenPerSecond), allowedBy(tenPerSecond, 7, 300*ms))
	// Half holds five of the seven tokens. The other two are lost, for twice as well.
	s.want("taken from half", s.take("key", 1, half), allowedBy(half, 4, 100*ms))
	s.want("back to the whole", s.look("key", tenPerSecond), allowedBy(tenPerSecond, 4, 600*ms))
	s.want("twice, as if it had always been", s.take("key", 14, twice), allowedBy(twice, 0, 2*sec))
	s.want("the whole", s.take("key", 1, tenPerSecond), refusedBy(tenPerSecond, 0, 100*ms, sec))
	s.wait(300 * ms)
	s.want("half fills by the rate", s.take("key", 1, half), allowedBy(half, 2, 300*ms))
	s.wait(sec)
	s.want("half is full", s.take("key", 5, half), allowedBy(half, 0, 500*ms))
	s.want("and twice has no more", s.take("key", 1, twice), refusedBy(twice, 0, 100*ms, 2*sec))
	s.wait(2 * sec)
	s.want("all are full", s.take("key", 20, twice), allowedBy(twice, 0, 2*sec))
}

// Versions of a program that differ in capacity take in turns, without a pause, and together get what one version would.
func capacitiesInTurns(s *session) {
	large, small := limit(60, ratelimit.PerSecond(10)), limit(5, ratelimit.PerSecond(10))
	taken := map[ratelimit.Limit]int{}
	for s.now() < 10*sec {
		for _, l := range []ratelimit.Limit{large, small, small, large} {
			if s.take("key", 1, l).Allowed {
				taken[l]++
			}
			s.wait(25 * ms)
		}
	}
	if all := taken[large] + taken[small]; all > 60+10*10 || all < 10*10 || taken[small] == 0 || taken[large] == 0 {
		s.t.Fatalf("in %v the larger capacity gave %d and the smaller %d: want 60 at once and 10 a second", s.now(), taken[large], taken[small])
	}
	s.want("later, the smaller", s.take("alone", 5, small), allowedBy(small, 0, 500*ms))
	s.want("the larger has what is missing", s.take("alone", 55, large), allowedBy(large, 0, 6*sec))
	s.wait(500 * ms)
	s.want("the smaller is full", s.take("alone", 5, small), allowedBy(small, 0, 500*ms))
	s.wait(2 * sec)
	s.want("the larger is not", s.take("alone", 6, large), allowedBy(large, 14, 4600*ms))
}

func rateChanged(s *session) {
	slower := limit(10, ratelimit.PerSecond(1))
	faster := limit(10, ratelimit.PerSecond(1000))
	odd := limit(10, ratelimit.Rate{Tokens: 7, Per: 3 * sec})
	s.take("key", 10, tenPerSecond)
	s.wait(150 * ms)
	s.take("key", 1, tenPerSecond) // half a token is left
	s.want("odd", s.look("key", odd), allowedBy(odd, 0, 4071429*us))
	s.want("a token at the odd rate", s.take("key", 1, odd), refusedBy(odd, 0, 214286*us, 4071429*us))
	s.want("slower", s.take("key", 1, slower), refusedBy(slower, 0, 500*ms, 9500*ms))
	s.want("faster", s.take("key", 1, faster), refusedBy(faster, 0, 500*us, 9500*us))
	s.wait(50 * ms)
	s.want("not slower yet", s.look("key", tenPerSecond), allowedBy(tenPerSecond, 1, 900*ms))
	s.want("slower since the last take", s.take("key", 1, slower), refusedBy(slower, 0, 450*ms, 9450*ms))
	s.want("faster since the last take", s.take("key", 10, faster), allowedBy(faster, 0, 10*ms))
	s.want("slower", s.take("key", 1, slower), refusedBy(slower, 0, sec, 10*sec))

	// Two rates with tokens of the same size: what is missing stays the same, debts too.
	third, seven := limit(9, ratelimit.Every(3*sec)), limit(9, ratelimit.Rate{Tokens: 7, Per: 3 * sec})
	s.adjust("debtor", -12, third)
	s.want("one in three seconds", s.look("debtor", third), refusedBy(third, 0, 9*sec, 36*sec))
	s.want("seven in three seconds", s.look("debtor", seven), refusedBy(seven, 0, 1285715*us, 5142858*us))
}

// A token is 3 units by one limit and 1 by the other, so that 5 units missing are 2 tokens missing.
func partsRoundedUp(s *session) {
	fine, coarse := limit(2, ratelimit.Every(3*us)), limit(2, ratelimit.Every(us))
	s.take("key", 2, fine)
	s.wait(4 * us)
	s.want("fine", s.take("key", 1, fine), allowedBy(fine, 0, 5*us))
	s.want("coarse", s.take("key", 1, coarse), refusedBy(coarse, 0, us, 2*us))
	s.wait(us)
	s.want("coarse", s.take("key", 1, coarse), allowedBy(coarse, 0, 2*us))
	s.want("fine", s.look("key", fine), allowedBy(fine, 0, 6*us))
}

// A full bucket equals one that does not exist, whatever is asked for next. Whether a store has already dropped it must make
// no difference.
func fullByOldLimit(s *session) {
	slower := limit(10, ratelimit.PerHour(10))
	larger := limit(100, ratelimit.PerHour(10))
	for i, wait := range []time.Duration{sec - us, sec, 2 * sec, 4 * sec, day} {
		key := fmt.Sprint(i)
		s.take(key, 10, tenPerSecond)
		s.wait(wait)
		if wait < sec {
			s.want("not quite full", s.look(key, slower), allowedBy(slower, 0, time.Hour-wait))
			continue
		}
		s.want("by a slower limit", s.look(key, slower), allowedBy(slower, 10, 0))
		s.want("by a larger one", s.look(key, larger), allowedBy(larger, 100, 0))
		s.want("taken by a larger one", s.take(key, 100, larger), allowedBy(larger, 0, 10*time.Hour))
	}
	// Each position counts for itself.
	s.take("two", 10, tenPerSecond, limit(20, ratelimit.PerMinute(20)))
	s.wait(sec)
	s.want("the first", s.look("two", slower), allowedBy(slower, 10, 0))
	s.want("the second", s.look("two", larger, limit(20, ratelimit.PerHour(20))),
		allowedBy(limit(20, ratelimit.PerHour(20)), 10, 1799*sec))
}

func positionsNotNamed(s *session) {
	a, b, c := tenPerSecond, limit(20, ratelimit.PerSecond(1)), limit(30, ratelimit.PerMinute(1))
	s.take("key", 5, a, b, c)
	s.wait(ms)
	s.want("one alone", s.take("key", 5, a), allowedBy(a, 0, 999*ms))
	s.wait(ms)
	s.want("two", s.take("key", 1, a, b), refusedBy(a, 0, 98*ms, 998*ms))
	s.wait(998 * ms)
	s.want("two", s.take("key", 10, a, b), allowedBy(a, 0, sec))
	s.wait(sec)
	// The second: 5 missing, refilled for 1 s, 10 more, refilled for 1 s. The third: 5, refilled for 2 s.
	s.want("the second", s.look("key", a, b, c), allowedBy(b, 7, 13*sec))
	s.want("the third", s.look("key", limit(99, a.Refill), limit(99, b.Refill), c), allowedBy(c, 25, 298*sec))
	s.want("a fourth is full", s.look("key", limit(99, a.Refill), limit(99, b.Refill), limit(99, c.Refill), a),
		allowedBy(a, 10, 0))
}

// A give-back that is worth nothing changes nothing. It must not count the refill of another bucket by its old rate either.
func givingBackToFull(s *session) {
	b, twice := onePerSecond, limit(5, ratelimit.PerSecond(2))
	s.take("key", 5, tenPerSecond)
	five := s.last()
	s.take("key", 5, tenPerSecond, b)
	s.wait(sec)
	s.want("the first is full", s.giveBack(five, 1), allowedBy(tenPerSecond, 10, 0))
	s.want("the second, twice as fast since its take", s.look("key", tenPerSecond, twice), allowedBy(twice, 2, 1500*ms))
}
