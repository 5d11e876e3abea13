package main

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

// options are how much is measured.
type options struct {
	lasts time.Duration // of one measurement
	keys  int           // "many"
	redis string        // address
}

func (o options) warmUp() time.Duration { return o.lasts / 6 }

// metrics are the results of one measurement, by names that are unique among all scenarios.
type metrics map[string]float64

// wrongOf and failedOf are the metrics of how often a contestant decided otherwise than the metric called name expects, and
// how often it did not decide at all.
func wrongOf(name string) string  { return name + wrongSuffix }
func failedOf(name string) string { return name + failedSuffix }

const (
	wrongSuffix  = "/wrong"
	failedSuffix = "/failed"
)

// noisySuffix ends the name of a metric that is not 0 if the machine was too busy to measure.
const noisySuffix = "/noisy"

// quietly measures a load by itself.
func (m metrics) quietly(name string, l *load, o options) {
	perTake, noisy := l.quietly(o.lasts)
	m[name] = perTake
	if noisy {
		m[name+noisySuffix] = 1
	}
}

// check records how many of the verdicts are not the expected one.
func (m metrics) check(name string, t tally, want verdict) {
	sum := float64(t.sum())
	m[failedOf(name)] = float64(t[failed]) / sum
	m[wrongOf(name)] = 1 - float64(t[failed]+t[want])/sum
}

// scenario is one measurement of one contestant, in a process of its own, so that no contestant's garbage, goroutines or heap
// disturb another one.
type scenario struct {
	name string
	has  func(peer) bool
	run  func(peer, options) metrics
}

var scenarios = func() (all []scenario) {
	for _, group := range [][]scenario{memoryScenarios(), webScenarios(), socketScenarios(), redisScenarios(), linkScenarios()} {
		all = append(all, group...)
	}
	return all
}()

// find returns the scenario and the contestant of these names.
func find(scenarioName, peerName string) (scenario, peer, error) {
	for _, s := range scenarios {
		for _, p := range peers {
			if s.name == scenarioName && p.name == peerName {
				return s, p, nil
			}
		}
	}
	return scenario{}, peer{}, fmt.Errorf("no scenario %q with %q", scenarioName, peerName)
}

// table is a table of the report, with the metrics that it shows.
type table struct {
	title   string
	text    string
	columns []column
}

type column struct {
	title  string
	metric string
	format string // of the number
	ratio  bool   // also show it in relation to the fastest exact peer and to the floor
	more   bool   // more is better
}

// slowPasses is how many passes the slow scenarios take part in. Together they take as long as all other scenarios.
const slowPasses = 3

func (s scenario) isSlow() bool {
	return slices.ContainsFunc([]string{"link/", "socket/", "redis/hot/"}, func(prefix string) bool { return strings.HasPrefix(s.name, prefix) })
}

func (s scenario) needsRedis() bool {
	return strings.HasPrefix(s.name, "redis/") || strings.HasPrefix(s.name, "link/")
}
