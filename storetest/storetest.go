// Package storetest is the conformance suite for implementations of [ratelimit.Store].
//
// A store of your own is tested by one function. If it reads this process's clock, that is
//
//	func TestStore(t *testing.T) {
//		storetest.Run(t, storetest.Harness{
//			Open: func(t *testing.T) ratelimit.Store { return mystore.New() },
//		})
//	}
//
// and each case runs in a bubble of [synctest], where time passes when the suite says so and not before. A
// store on a server needs real connections, which a bubble cannot have, and a server whose clock the test
// can set:
//
//	func TestStore(t *testing.T) {
//		server := startServer(t) // its clock stands still
//		storetest.Run(t, storetest.Harness{
//			Open: func(t *testing.T) ratelimit.Store {
//				server.DeleteEverything(t)
//				return mystore.New(server.Addr)
//			},
//			Advance: server.AdvanceClock,
//		})
//	}
//
// Every call of the suite is also made to an oracle, a store written down in rational numbers without a
// thought for speed, and the answers must be equal to the microsecond. Random traces follow. When one fails,
// it says how to repeat it. With -short they are fewer.
package storetest

import (
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gin-ratelimit/ratelimit"
)

// Harness says how to test a store.
type Harness struct {
	// Open returns a store that holds nothing. It is called once for each case and each trace, and what it
	// returned before is not used any more. Inside of a bubble if Advance is nil.
	Open func(t *testing.T) ratelimit.Store

	// Advance moves the store's clock, which otherwise stands still. It is given whole microseconds, and at
	// most a century from one Open to the next. nil: the store reads this process's clock, and each case runs
	// in a synctest bubble, where Advance is time.Sleep.
	Advance func(d time.Duration)

	// State, if set, returns what the store holds under a key, nil if nothing, and the suite compares that too
	// after every call. For stores whose state can be read from outside.
	State func(t *testing.T, key string) *State
}

// State is what a store holds under a key.
type State struct {
	Age     time.Duration // since it was written
	Buckets []Bucket      // by position
}

// Bucket is the state of one bucket, in integers: where a limit's rate is N tokens in P microseconds, in
// lowest terms, a token is P units, and N units come back each microsecond.
type Bucket struct {
	Capacity int64 // tokens
	Token    int64 // units in a token
	PerTick  int64 // units that come back each microsecond
	Deficit  int64 // units missing from full when the state was written
}

// testCase is one case of the suite. Each has a store of its own.
type testCase struct {
	name string
	run  func(s *session)
}

// Run tests a store. Cases run one after the other, as subtests of t.
func Run(t *testing.T, h Harness) {
	runCases(t, h)
	t.Run("traces", func(t *testing.T) { runTraces(t, h) })
}

func runCases(t *testing.T, h Harness) {
	for _, c := range slices.Concat(transcripts(), rules, keyCases, races) {
		t.Run(c.name, func(t *testing.T) { h.open(t, c.run) })
	}
}

// Fuzz makes a trace of each of the fuzzer's inputs, and tests a store with it: Harness.Open is called
// once for each.
func Fuzz(f *testing.F, h Harness) {
	for seed := range uint64(8) {
		f.Add(seedBytes(seed, 512))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		h.open(t, func(s *session) { s.trace(newDice(data)) })
	})
}

// open runs f with a new session, in a bubble unless the harness has a clock.
func (h Harness) open(t *testing.T, f func(s *session)) {
	if h.Advance != nil {
		f(newSession(t, h, h.Advance))
		return
	}
	synctest.Test(t, func(t *testing.T) { f(newSession(t, h, time.Sleep)) })
}
