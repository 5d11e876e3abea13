package ratelimit_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gin-ratelimit/ratelimit"
)

var (
	allowedEvent = ratelimit.Event{Name: "api", Reason: ratelimit.ReasonAllowed, Result: ratelimit.Result{Allowed: true}}
	refusedEvent = ratelimit.Event{Name: "api", Reason: ratelimit.ReasonRefused}
	shadowEvent  = ratelimit.Event{Name: "api", Reason: ratelimit.ReasonShadow, Result: ratelimit.Result{Allowed: true}}
	failedEvent  = ratelimit.Event{Name: "api", Reason: ratelimit.ReasonStore, Err: errors.New("down")}
)

func named(name string, e ratelimit.Event) ratelimit.Event {
	e.Name = name
	return e
}

// observe passes the same event to stats n times.
func observe(stats *ratelimit.Stats, n int, e ratelimit.Event) {
	for range n {
		stats.Observe(context.Background(), e)
	}
}

func ExampleStats() {
	stats := ratelimit.NewStats()
	stats.Alert(0.05, func(a ratelimit.Alert) {
		fmt.Printf("%s: alert %t, %d of %d refused\n", a.Name, a.Firing, a.Refusals, a.Requests)
	})
	login, err := ratelimit.NewLimiter(
		ratelimit.WithName("login"),
		ratelimit.WithRefillRate(ratelimit.PerHour(90)),
		ratelimit.WithObserver(stats.Observe),
	)
	if err != nil {
		panic(err)
	}
	for range 120 {
		_, _ = login.Take(context.Background(), "ann", 1)
	}
	fmt.Printf("%+v\n", stats.Snapshot())
	// Output:
	// login: alert true, 10 of 100 refused
	// [{Name:login Accepted:90 Refused:30 Shadow:0 Failed:0 Gone:0 GiveBack:0 Requests:120 Refusals:30 Ratio:0.25}]
}

func TestStatsCountsByNameAndFate(t *testing.T) {
	stats := ratelimit.NewStats()
	observe(stats, 6, allowedEvent)
	observe(stats, 3, refusedEvent)
	observe(stats, 1, shadowEvent)
	observe(stats, 5, failedEvent)
	shadow := shadowEvent
	shadow.Result.Allowed = false // A shadow refusal was let through, whatever its result.
	observe(stats, 2, shadow)
	observe(stats, 1, named("a", refusedEvent))
	observe(stats, 2, ratelimit.Event{Name: allowedEvent.Name, Reason: ratelimit.ReasonGone})
	observe(stats, 1, ratelimit.Event{Name: allowedEvent.Name, Reason: ratelimit.ReasonGiveBack, Err: errDown})

	text, err := json.Marshal(stats.Snapshot())
	if err != nil {
		t.Fatal(err)
	}
	want := `[{"name":"a","accepted":0,"refused":1,"shadow_refused":0,"failed":0,"gone":0,"give_back_failed":0,` +
		`"minute_requests":1,"minute_refusals":1,"minute_refusal_ratio":1},` +
		`{"name":"api","accepted":6,"refused":3,"shadow_refused":3,"failed":5,"gone":2,"give_back_failed":1,` +
		`"minute_requests":12,"minute_refusals":3,"minute_refusal_ratio":0.25}]`
	if string(text) != want {
		t.Errorf("got  %s\nwant %s", text, want)
	}
}

func TestStatsMinuteSlides(t *testing.T) {
	steps := []struct {
		at                 time.Duration // since NewStats
		allowed, refused   int           // observed then
		requests, refusals uint64        // in the minute then
	}{
		{at: 0, allowed: 10, refused: 5, requests: 15, refusals: 5},
		{at: 900 * time.Millisecond, refused: 1, requests: 16, refusals: 6},
		{at: 1 * time.Second, allowed: 1, requests: 17, refusals: 6},
		{at: 30 * time.Second, refused: 4, requests: 21, refusals: 10},
		{at: 59*time.Second + 999*time.Millisecond, requests: 21, refusals: 10}, // second 0 is the 59th before
		{at: 60 * time.Second, requests: 5, refusals: 4},
		{at: 61 * time.Second, requests: 4, refusals: 4},
		{at: 89 * time.Second, allowed: 2, requests: 6, refusals: 4},
		{at: 90 * time.Second, requests: 2, refusals: 0},
		{at: 10 * time.Minute, requests: 0, refusals: 0}, // many times the window
		{at: 10*time.Minute + 59*time.Second, allowed: 1, refused: 1, requests: 2, refusals: 1},
		{at: 24 * 365 * time.Hour, allowed: 3, requests: 3, refusals: 0},
	}
	synctest.Test(t, func(t *testing.T) {
		stats, start := ratelimit.NewStats(), time.Now()
		for _, step := range steps {
			time.Sleep(step.at - time.Since(start))
			observe(stats, step.allowed, allowedEvent)
			observe(stats, step.refused, refusedEvent)
			got := stats.Snapshot()[0]
			if got.Requests != step.requests || got.Refusals != step.refusals {
				t.Errorf("after %v: %d refused of %d, want %d of %d", step.at, got.Refusals, got.Requests, step.refusals, step.requests)
			}
		}
	})
}

// On a random day, the counts of the minute are those of a list of all events.
func TestStatsMinuteAgreesWithALog(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		stats, start := ratelimit.NewStats(), time.Now()
		var log []int64 // the second of each refusal
		for i := range 3000 {
			time.Sleep(time.Duration(i*i%4099) * time.Millisecond)
			if i%500 == 0 {
				time.Sleep(55 * time.Second)
			}
			observe(stats, 1, refusedEvent)
			now := int64(time.Since(start) / time.Second)
			log = append(log, now)
			var want uint64
			for _, second := range log {
				if second > now-60 {
					want++
				}
			}
			if got := stats.Snapshot()[0].Requests; got != want {
				t.Fatalf("event %d, second %d: %d in the minute, want %d", i, now, got, want)
			}
		}
	})
}

func TestStatsIsBounded(t *testing.T) {
	stats := ratelimit.NewStats()
	for i := range 3000 {
		observe(stats, 1, named(fmt.Sprint("limiter ", i), allowedEvent))
	}
	snapshot := stats.Snapshot()
	if len(snapshot) != 1001 {
		t.Fatalf("%d names, want 1000 and one for the others", len(snapshot))
	}
	for _, n := range snapshot {
		if n.Name == "other" && n.Accepted != 2000 {
			t.Errorf("%d accepted under other, want 2000", n.Accepted)
		}
	}
}

// told collects the calls of an alert, in order.
type told struct {
	mu     sync.Mutex
	alerts []ratelimit.Alert
}

func (x *told) add(a ratelimit.Alert) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.alerts = append(x.alerts, a)
}

func (x *told) String() string {
	x.mu.Lock()
	defer x.mu.Unlock()
	var words []string
	for _, a := range x.alerts {
		words = append(words, fmt.Sprintf("%s %t %d/%d", a.Name, a.Firing, a.Refusals, a.Requests))
	}
	return strings.Join(words, ", ")
}

func TestStatsAlert(t *testing.T) {
	type step struct {
		wait             time.Duration
		allowed, refused int
		told             string // in all, after the step
	}
	atLeast := func(n int) []ratelimit.StatsOption { return []ratelimit.StatsOption{ratelimit.WithAlertMinimum(n)} }
	cases := map[string]struct {
		ratio   float64
		options []ratelimit.StatsOption
		steps   []step
	}{
		"fires once and falls back once": {ratio: 0.05, steps: []step{
			{allowed: 95, refused: 5}, // 5 % is not above 5 %.
			{refused: 1, told: "api true 6/101"},
			{refused: 50, told: "api true 6/101"},
			{wait: time.Second, allowed: 968, told: "api true 6/101"},
			{allowed: 1, told: "api true 6/101, api false 56/1120"},
			{allowed: 100, told: "api true 6/101, api false 56/1120"},
		}},
		"needs 100 requests": {ratio: 0.05, steps: []step{
			{refused: 99},
			{refused: 1, told: "api true 100/100"},
		}},
		"needs as many requests as the option says": {ratio: 0.5, options: atLeast(2), steps: []step{
			{refused: 1},
			{refused: 1, told: "api true 2/2"},
		}},
		"does not fall back in the second in which it fired": {ratio: 0.5, options: atLeast(1), steps: []step{
			{refused: 1, told: "api true 1/1"},
			{allowed: 9, told: "api true 1/1"},
			{refused: 9, told: "api true 1/1"},
			{allowed: 9, told: "api true 1/1"},
			{wait: time.Second, allowed: 1, told: "api true 1/1, api false 10/29"},
		}},
		"stays on while most of a few are refused": {ratio: 0.5, options: atLeast(10), steps: []step{
			{refused: 10, told: "api true 10/10"},
			{wait: 59 * time.Second, refused: 1, told: "api true 10/10"},
			{wait: time.Second, refused: 1, told: "api true 10/10"}, // 2 of 2
			{allowed: 2, told: "api true 10/10, api false 2/4"},
		}},
		"falls back when the minute is over": {ratio: 0.5, steps: []step{
			{refused: 100, told: "api true 100/100"},
			{wait: 60 * time.Second, allowed: 1, told: "api true 100/100, api false 0/1"},
			{refused: 98, told: "api true 100/100, api false 0/1"},
			{refused: 1, told: "api true 100/100, api false 0/1, api true 99/100"},
		}},
		"fires on any refusal at ratio 0": {ratio: 0, options: atLeast(1), steps: []step{
			{allowed: 1000},
			{refused: 1, told: "api true 1/1001"},
		}},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				stats, told := ratelimit.NewStats(c.options...), &told{}
				stats.Alert(c.ratio, told.add)
				for i, s := range c.steps {
					time.Sleep(s.wait)
					observe(stats, s.allowed, allowedEvent)
					observe(stats, s.refused, refusedEvent)
					if got := told.String(); got != s.told {
						t.Errorf("step %d: told %q, want %q", i, got, s.told)
					}
				}
			})
		})
	}
}

func TestStatsAlertOfShadowAndFailures(t *testing.T) {
	stats, told := ratelimit.NewStats(), &told{}
	stats.Alert(0.5, told.add)
	observe(stats, 1000, failedEvent) // Not decided, so not refused, and not among the requests.
	observe(stats, 99, shadowEvent)   // Let through.
	observe(stats, 99, refusedEvent)
	if told.String() != "" {
		t.Errorf("told %v of a ratio of a half", told)
	}
	observe(stats, 1, refusedEvent)
	if told.String() != "api true 100/199" {
		t.Errorf("told %v", told)
	}
}

// Rules and names may come in any order, and each pair of them has its own alert.
func TestStatsAlertsPerNameAndRule(t *testing.T) {
	stats, low, high := ratelimit.NewStats(ratelimit.WithAlertMinimum(10)), &told{}, &told{}
	observe(stats, 8, named("early", allowedEvent))
	stats.Alert(0.1, low.add)
	observe(stats, 8, named("late", allowedEvent))
	stats.Alert(0.5, high.add)
	observe(stats, 2, named("early", refusedEvent))
	observe(stats, 9, named("late", refusedEvent))
	if got, want := low.String(), "early true 2/10, late true 2/10"; got != want {
		t.Errorf("low told %q, want %q", got, want)
	}
	if got, want := high.String(), "late true 9/17"; got != want {
		t.Errorf("high told %q, want %q", got, want)
	}
	a := high.alerts[0]
	if a.Threshold != 0.5 || a.Ratio != 9.0/17 {
		t.Errorf("got %+v", a)
	}
}

func TestStatsSnapshotTellsWhenTrafficHasStopped(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		stats, told := ratelimit.NewStats(), &told{}
		stats.Alert(0.5, told.add)
		observe(stats, 100, refusedEvent)
		time.Sleep(time.Hour)
		if got := told.String(); got != "api true 100/100" {
			t.Errorf("told %q before the Snapshot", got)
		}
		stats.Snapshot()
		stats.Snapshot()
		if got := told.String(); got != "api true 100/100, api false 0/0" {
			t.Errorf("told %q", got)
		}
	})
}

// notify may use the Stats without a deadlock, and after a panic in it the alert still works.
func TestStatsNotifyHoldsNoLock(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		stats, told := ratelimit.NewStats(ratelimit.WithAlertMinimum(1)), &told{}
		stats.Alert(0.5, func(a ratelimit.Alert) {
			told.add(a)
			observe(stats, 1, refusedEvent)
			observe(stats, 1, named("another", allowedEvent))
			stats.Snapshot()
			stats.Alert(0.99, func(ratelimit.Alert) {})
			if a.Firing {
				panic("notify's")
			}
		})
		func() {
			defer func() {
				if r := recover(); r != "notify's" {
					t.Errorf("recovered %v", r)
				}
			}()
			observe(stats, 1, refusedEvent)
		}()
		time.Sleep(time.Minute)
		observe(stats, 1, allowedEvent)
		if got := told.String(); got != "api true 1/1, api false 0/1" {
			t.Errorf("told %q", got)
		}
	})
}

// If the state changes while notify runs, the same goroutine calls notify again afterwards.
func TestStatsNotifiesOneAfterTheOther(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		stats, told := ratelimit.NewStats(ratelimit.WithAlertMinimum(1)), &told{}
		var inside atomic.Int32
		stats.Alert(0.5, func(a ratelimit.Alert) {
			if inside.Add(1) != 1 {
				t.Error("notify runs twice at once for one name")
			}
			time.Sleep(2 * time.Second)
			told.add(a)
			inside.Add(-1)
		})
		go observe(stats, 1, refusedEvent) // notify runs until second 2
		time.Sleep(time.Second)
		for range 8 {
			go observe(stats, 1, allowedEvent) // does not wait for it
		}
		synctest.Wait()
		if time.Sleep(10 * time.Second); told.String() != "api true 1/1, api false 1/9" {
			t.Errorf("told %v", told)
		}
	})
}

// Under many goroutines no count is lost, and alerts alternate.
func TestStatsConcurrently(t *testing.T) {
	const goroutines, rounds = 8, 2000
	stats := ratelimit.NewStats(ratelimit.WithAlertMinimum(1))
	var firing, wrong sync.Map
	stats.Alert(0.5, func(a ratelimit.Alert) {
		if was, _ := firing.Swap(a.Name, a.Firing); (was == true) == a.Firing {
			wrong.Store(a, true)
		}
	})
	var all sync.WaitGroup
	for g := range goroutines {
		all.Go(func() {
			for i := range rounds {
				name := fmt.Sprint("limiter ", i%3)
				event := allowedEvent
				if (i/100+g)%2 == 0 {
					event = refusedEvent
				}
				observe(stats, 1, named(name, event))
				if i%500 == 0 {
					stats.Snapshot()
				}
			}
		})
	}
	all.Wait()
	var total uint64
	for _, n := range stats.Snapshot() {
		total += n.Accepted + n.Refused
	}
	if total != goroutines*rounds {
		t.Errorf("%d counted, want %d", total, goroutines*rounds)
	}
	wrong.Range(func(a, _ any) bool {
		t.Errorf("%+v came out of order", a)
		return true
	})
}

func TestStatsMistakes(t *testing.T) {
	notify := func(ratelimit.Alert) {}
	for want, mistake := range map[string]func(){
		"ratelimit: WithAlertMinimum(0): must be at least 1, for example 100":                              func() { ratelimit.WithAlertMinimum(0) },
		"ratelimit: Stats.Alert(1): the ratio must be at least 0 and below 1, for example 0.05 for 5 %":    func() { ratelimit.NewStats().Alert(1, notify) },
		"ratelimit: Stats.Alert(5): the ratio must be at least 0 and below 1, for example 0.05 for 5 %":    func() { ratelimit.NewStats().Alert(5, notify) },
		"ratelimit: Stats.Alert(-0.1): the ratio must be at least 0 and below 1, for example 0.05 for 5 %": func() { ratelimit.NewStats().Alert(-0.1, notify) },
		"ratelimit: Stats.Alert(NaN): the ratio must be at least 0 and below 1, for example 0.05 for 5 %":  func() { ratelimit.NewStats().Alert(math.NaN(), notify) },
		"ratelimit: Stats.Alert: needs a function, for example func(a ratelimit.Alert) { log.Println(a) }": func() { ratelimit.NewStats().Alert(0.05, nil) },
	} {
		expectPanic(t, want, mistake)
	}
}

func expectPanic(t *testing.T, want string, f func()) {
	t.Helper()
	defer func() {
		t.Helper()
		if got := recover(); got != want {
			t.Errorf("panicked with %v, want %v", got, want)
		}
	}()
	f()
}

func TestStatsObserveDoesNotAllocate(t *testing.T) {
	stats, ctx := ratelimit.NewStats(), context.Background()
	stats.Alert(0.5, func(ratelimit.Alert) {})
	for _, e := range []ratelimit.Event{allowedEvent, refusedEvent, shadowEvent, failedEvent} {
		stats.Observe(ctx, e)
		if allocs := testing.AllocsPerRun(1000, func() { stats.Observe(ctx, e) }); allocs != 0 {
			t.Errorf("%s: %v allocations", e.Reason, allocs)
		}
	}
}

func BenchmarkStatsObserve(b *testing.B) {
	run := func(name string, stats *ratelimit.Stats, e ratelimit.Event) {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			ctx := b.Context()
			for b.Loop() {
				stats.Observe(ctx, e)
			}
		})
	}
	alerting := ratelimit.NewStats()
	alerting.Alert(0.05, func(ratelimit.Alert) {})
	run("allowed", ratelimit.NewStats(), allowedEvent)
	run("refused", ratelimit.NewStats(), refusedEvent)
	run("refused with an alert", alerting, refusedEvent)
	b.Run("parallel", func(b *testing.B) {
		b.ReportAllocs()
		stats, ctx := ratelimit.NewStats(), b.Context()
		b.RunParallel(func(pb *testing.PB) {
			for pb.Next() {
				stats.Observe(ctx, allowedEvent)
			}
		})
	})
}
