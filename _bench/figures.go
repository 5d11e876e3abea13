package main

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"strings"
)

// figure is a number with an aim.
type figure struct {
	what    string
	value   float64
	bound   float64
	atLeast bool // otherwise at most
	format  string
	tilde   string
}

func (f figure) met() bool {
	if f.atLeast {
		return f.value >= f.bound
	}
	return f.value <= f.bound
}

func (f figure) aim() string {
	if f.atLeast {
		return "≥ " + fmt.Sprintf(f.format, f.bound)
	}
	return "≤ " + fmt.Sprintf(f.format, f.bound)
}

// figures are the numbers both of whose sides were measured.
func (r *report) figures() (all []figure) {
	add := func(f figure) {
		if !math.IsNaN(f.value) {
			all = append(all, f)
		}
	}
	ratio := func(what, metric string, to peer, bound float64, atLeast bool) {
		value := r.median(oursByStore, metric) / r.median(to, metric)
		tilde := cmp.Or(r.tilde(oursByStore, metric), r.tilde(to, metric))
		add(figure{what + " ÷ " + to.name, value, bound, atLeast, "%.2f", tilde})
	}
	atMost := func(what, metric string, bound float64, format string) {
		add(figure{what, r.median(oursByStore, metric), bound, false, format, r.tilde(oursByStore, metric)})
	}

	for _, scenario := range []struct {
		name, title string
		floor       float64 // 0: no aim
	}{{"hot", "hot key", 1.6}, {"some", "1,000 keys", 0}, {"many", "many keys", 0}, {"new", "new keys", 0}, {"refused", "refused", 1.6}} {
		for _, n := range procs {
			metric := fmt.Sprint(scenario.name, "/", n)
			what := fmt.Sprintf("Memory, %s, %s: time", scenario.title, plural(n, "core", "cores"))
			if peer, found := r.best(exact, metric, false); found {
				ratio(what, metric, peer, .75, false)
			}
			if scenario.floor > 0 {
				ratio(what, metric, floorByArray, scenario.floor, false)
			}
		}
	}
	atMost("Memory: heap of a key, bytes", "heap", 80, "%.0f")
	if peer, found := r.best(exact, "heap", false); found {
		ratio("Memory: heap of a key", "heap", peer, 1, false)
	}
	atMost("Memory: forced collection with many keys, ms", "gc", 2, "%.2f")

	ratio("Gin by ClientIP: time", "gin/client/allowed", ulule, .55, false)
	atMost("Gin by ClientIP: allocations", "gin/client/allowed/objects", 4, "%.1f")
	ratio("Gin by the peer's address: time", "gin/peer/allowed", ulule, .3, false)
	atMost("Gin by the peer's address: allocations", "gin/peer/allowed/objects", 2, "%.1f")

	ratio("Redis, 128 callers: takes/s", "redis/128", ulule, 1.6, true)
	ratio("Redis, 128 callers: takes/s", "redis/128", redisRate, 2, true)
	ratio("Redis, 128 callers: server CPU a take", "redis/128/cpu", ulule, .6, false)
	if shares := r.values[oursByStore.name][failedOf("redis/128")]; len(shares) > 0 {
		add(figure{"Redis, 128 callers: share of takes failed, worst pass", slices.Max(shares), 0, false, "%.2g", ""})
	}
	ratio("Redis, 16 callers: takes/s", "redis/16", ulule, 1, true)
	ratio("Redis, 1 caller: takes/s", "redis/1", redisRate, 1, true)
	for _, rtt := range linkRTTs {
		ratio(fmt.Sprintf("Redis over a link of %v, 128 callers: takes/s", rtt), linkName(rtt, 128), redisRate, 1, true)
	}
	leased := func(what, metric string, to peer, bound float64) {
		add(figure{what, r.median(oursByLease, metric) / r.median(to, metric), bound, true, "%.0f", ""})
	}
	leased("Leases, hot key, 1 caller: takes/s ÷ without", "redis/hot/1", oursByStore, 150)
	leased("Leases, hot key, 128 callers: takes/s ÷ without", "redis/hot/128", oursByStore, 40)
	if calls := r.median(oursByLease, "redis/hot/128/calls"); !math.IsNaN(calls) {
		add(figure{"Leases, hot key, 128 callers: commands sent/s", calls, 300, false, "%.0f", ""})
	}
	ratio("Redis, refused: refusals/s", "redis/refused", redisRate, 20, true)
	atMost("Redis, refused: commands sent/s", "redis/refused/calls", 2, "%.1f")

	for _, suffix := range []string{wrongSuffix, failedSuffix} {
		worst := 0.0
		for metric, values := range r.values[oursByStore.name] {
			// If there are nearly as many keys as a store can hold, a few share an overflow bucket. The table has their number.
			if strings.HasSuffix(metric, suffix) && !strings.HasPrefix(metric, "heap") {
				worst = max(worst, slices.Max(values))
			}
		}
		add(figure{"Share of takes " + suffix[1:] + ", worst measurement", worst, 0, false, "%.2g", ""})
	}
	return all
}
