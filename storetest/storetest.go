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
// and each case runs in a bubble of [synctest], where the suite decides when time passes. A store on a server needs real
// connections, which a bubble cannot have, and a server whose clock the test can set:
//
//	func TestStore(t *testing.T) {
//		server := startServer(t) // with a frozen clock
//		storetest.Run(t, storetest.Harness{
//			Open: func(t *testing.T) ratelimit.Store {
//				server.DeleteEverything(t)
//				return mystore.New(server.Addr)
//			},
//			Advance: server.AdvanceClock,
//		})
//	}
//
// Every call of the suite is also made to an oracle, a slow store in rational numbers, and the answers must be equal to the
// microsecond. After the cases come random traces, fewer with -short. A trace that fails prints how to repeat it.
package storetest

import (
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gin-ratelimit/ratelimit"
)

// Harness is what the suite needs to test a store.
type Harness struct {
	// Open returns a store that holds nothing. It is called once for each case and each trace, and the store that it
	// returned before is no longer used. If Advance is nil, it is called inside a bubble.
	Open func(t *testing.T) ratelimit.Store

	// Advance moves the store's clock, which otherwise must not move. It is given whole microseconds, and in all at most a
	// century from one Open to the next. nil: the store reads this process's clock, and each case runs in a synctest
	// bubble, where Advance is time.Sleep.
	Advance func(d time.Duration)

	// State, if set, returns what the store holds under a key, nil if nothing. The suite then compares that too after every
	// call. It is for stores whose state can be read from outside.
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

// Fuzz tests a store by fuzzing: each input is made into a trace, for which Harness.Open is called once.
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
