package main

import (
	"fmt"
	"runtime"
	"strings"
	"time"
)

const (
	memoryBatch = 128 // takes of some 30 ns
	someKeys    = 1000
)

var procs = []int{1, 2}

func hasMemory(p peer) bool { return p.memory != nil }

func memoryScenarios() []scenario {
	all := []scenario{
		{"memory/hot", hasMemory, func(p peer, o options) metrics {
			return steady("hot", p.memory(roomy), newKeys(1, false), allowed, o)
		}},
		{"memory/some", hasMemory, func(p peer, o options) metrics {
			return steady("some", p.memory(roomy), newKeys(someKeys, false), allowed, o)
		}},
		{"memory/refused", hasMemory, func(p peer, o options) metrics {
			keys := newKeys(1, false)
			take := p.memory(tight)
			take(keys.at(0))
			return steady("refused", take, keys, refused, o)
		}},
	}
	for _, n := range procs {
		all = append(all, scenario{fmt.Sprint("memory/many/", n), hasMemory, func(p peer, o options) metrics {
			return many(n, p.memory(roomy), o)
		}})
	}
	return append(all,
		scenario{"memory/heap", func(p peer) bool { return hasMemory(p) && p.kind != floor }, heap},
		scenario{"memory/growth", func(p peer) bool { return hasMemory(p) && (p.kind == ours || p.kind == aid) }, growth},
	)
}

// steady measures takes of keys that exist already.
func steady(name string, take taker, keys keyset, want verdict, o options) metrics {
	m := metrics{}
	for _, n := range procs {
		withProcs(n, func() { m.perTake(fmt.Sprint(name, "/", n), n, take, keys, want, o) })
	}
	return m
}

func (m metrics) perTake(name string, callers int, take taker, keys keyset, want verdict, o options) {
	l := newLoad(callers, memoryBatch, keys, same(take))
	l.lasting(o.warmUp())
	l.verdicts()
	runtime.GC()
	m.quietly(name, l, o)
	m.check(name, l.verdicts(), want)
}

// many measures the first takes of many keys, and then takes of all of them in another order.
func many(n int, take taker, o options) metrics {
	m := metrics{}
	keys := newKeys(o.keys, false)
	withProcs(n, func() {
		l, name := newLoad(n, memoryBatch, keys, same(take)), fmt.Sprint("new/", n)
		runtime.GC()
		bytes, objects := allocated(func() { m[name], _ = l.each() })
		m.check(name, l.verdicts(), allowed)
		if n == 1 {
			m["new/bytes"], m["new/objects"] = bytes/float64(o.keys), objects/float64(o.keys)
		}
		m.perTake(fmt.Sprint("many/", n), n, take, newKeys(o.keys, true), allowed, o)
	})
	return m
}

// heap measures the memory of keys that arrive as from a network: each is a string of its own that only the contestant keeps.
func heap(p peer, o options) metrics {
	var room []byte
	takes := func(take taker, every int) (t tally) {
		for i := 0; i < o.keys; i += every {
			room = appendKey(room[:0], i)
			t[take(string(room))]++
		}
		return t
	}
	before, _ := collect()
	take := p.memory(tight)
	m := metrics{}
	m.check("heap", takes(take, 1), allowed)
	after, shortest := collect()
	m["heap"] = (after - before) / float64(o.keys)
	m["gc"] = microseconds(shortest) / 1000
	m.check("heap/kept", takes(take, 101), refused) // A key that was kept is refused.
	return m
}

// collect returns the bytes in use after a few collections, and the shortest time of one.
func collect() (bytes float64, shortest time.Duration) {
	for i := range 3 {
		start := time.Now()
		runtime.GC()
		if took := time.Since(start); i == 0 || took < shortest {
			shortest = took
		}
	}
	var stats runtime.MemStats
	runtime.ReadMemStats(&stats)
	return float64(stats.HeapAlloc), shortest
}

// growth measures takes of some keys while many others are added.
func growth(p peer, o options) metrics {
	take := p.memory(roomy)
	some, others := newKeys(someKeys, true), newKeys(o.keys, false)
	some.text = strings.ReplaceAll(some.text, "010.", "192.")
	newLoad(1, memoryBatch, some, same(take)).each()
	var adding, taking histogram
	adder := newLoad(1, memoryBatch, others, same(adding.timed(take)))
	beside := newLoad(1, memoryBatch, some, same(taking.timed(take)))
	added := make(chan struct{})
	go func() {
		adder.each()
		close(added)
	}()
	for !closed(added) {
		beside.each()
	}
	m := metrics{}
	m.check("growth/take/p50", beside.verdicts(), allowed)
	m.check("growth/add/p50", adder.verdicts(), allowed)
	for name, h := range map[string]*histogram{"growth/take": &taking, "growth/add": &adding} {
		m[name+"/p50"] = microseconds(h.quantile(.5))
		m[name+"/p99"] = microseconds(h.quantile(.99))
		m[name+"/p999"] = microseconds(h.quantile(.999))
		m[name+"/most"] = microseconds(h.longest)
	}
	return m
}

func closed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

func memoryTables() []table {
	nanoseconds := func(name string) (columns []column) {
		for _, n := range procs {
			columns = append(columns, column{title: "ns, " + plural(n, "core", "cores"), metric: fmt.Sprint(name, "/", n), format: "%.1f", ratio: true})
		}
		return columns
	}
	quantiles := func(title, name string) []column {
		return []column{
			{title: title + " p50, µs", metric: name + "/p50", format: "%.2f"},
			{title: "p99", metric: name + "/p99", format: "%.2f"},
			{title: "p99.9", metric: name + "/p999", format: "%.2f"},
			{title: "longest", metric: name + "/most", format: "%.0f"},
		}
	}
	return []table{
		{"Memory: one hot key", "All callers take of the same key and are admitted.", nanoseconds("hot")},
		{"Memory: 1,000 keys", "In turn, each caller its own part of them, admitted.", nanoseconds("some")},
		{"Memory: {keys} keys", "The same, in an order that is not the one in which they came.", nanoseconds("many")},
		{"Memory: {keys} new keys", "The first take of each, into an empty store, growth and garbage collection included.", append(nanoseconds("new"),
			column{title: "bytes a key", metric: "new/bytes", format: "%.0f"},
			column{title: "allocations", metric: "new/objects", format: "%.1f"})},
		{"Memory: refused", "All callers take of the same empty bucket.", nanoseconds("refused")},
		{"Memory: heap of {keys} keys", "Keys of 15 bytes, each a string of its own that only the store keeps. The collection is a forced one, the shortest of 3. Every key has one token and is new, so a wrong decision is a refusal: the key shares a bucket.", []column{
			{title: "bytes a key", metric: "heap", format: "%.0f", ratio: true},
			{title: "collection, ms", metric: "gc", format: "%.2f"},
		}},
		{"Memory: takes while {keys} keys are added", "One caller adds keys as fast as it can; another takes of 1,000 keys beside it. Reading the clock is included, and in the longest also what the kernel gave to others.",
			append(quantiles("take", "growth/take"), quantiles("add", "growth/add")...)},
	}
}
