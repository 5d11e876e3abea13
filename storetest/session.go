package storetest

import (
	"context"
	"errors"
	"fmt"
	"math"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/gin-ratelimit/ratelimit"
)

// session is a store and the oracle, which are asked the same at the same time.
type session struct {
	t       *testing.T
	ctx     context.Context
	store   ratelimit.Store
	oracle  *oracle
	advance func(d time.Duration)
	state   func(t *testing.T, key string) *State
	note    string // said when a call fails
	log     []call // calls so far
}

func newSession(t *testing.T, h Harness, advance func(d time.Duration)) *session {
	return &session{
		t: t, ctx: t.Context(), store: h.Open(t), oracle: newOracle(), advance: advance, state: h.State,
	}
}

// call is one call of a store, and when.
type call struct {
	at     time.Duration // since the store was opened
	op     op
	key    string
	n      int
	limits []ratelimit.Limit
}

type op string

const (
	take   op = "Take"
	adjust op = "Adjust"
	reset  op = "Reset"
)

func (c call) String() string {
	if c.op == reset {
		return fmt.Sprintf("at %v: Reset(%q)", c.at, clip(c.key))
	}
	return fmt.Sprintf("at %v: %s(%q, %d, %s)", c.at, c.op, clip(c.key), c.n, limitsText(c.limits))
}

func limitsText(limits []ratelimit.Limit) string {
	texts := make([]string, len(limits))
	for i, l := range limits {
		texts[i] = l.String()
	}
	return "[" + strings.Join(texts, ", ") + "]"
}

// of makes a call on a store.
func (c call) of(ctx context.Context, store ratelimit.Store) (ratelimit.Result, error) {
	switch c.op {
	case take:
		return store.Take(ctx, c.key, c.n, c.limits)
	case adjust:
		return store.Adjust(ctx, c.key, c.n, c.limits)
	default:
		return ratelimit.Result{}, store.Reset(ctx, c.key)
	}
}

// now returns the time since the store was opened.
func (s *session) now() time.Duration { return time.Duration(s.oracle.now) * time.Microsecond }

// wait lets time pass.
func (s *session) wait(d time.Duration) {
	s.advance(d)
	s.oracle.now += d.Microseconds()
}

// waitUntil lets time pass until so much has since the store was opened.
func (s *session) waitUntil(at time.Duration) {
	s.t.Helper()
	if at < s.now() {
		s.t.Fatalf("storetest: the suite itself is wrong: %v has passed", at)
	}
	s.wait(at - s.now())
}

func (s *session) take(key string, n int, limits ...ratelimit.Limit) ratelimit.Result {
	s.t.Helper()
	return s.do(call{op: take, key: key, n: n, limits: limits})
}

func (s *session) look(key string, limits ...ratelimit.Limit) ratelimit.Result {
	s.t.Helper()
	return s.take(key, 0, limits...)
}

func (s *session) adjust(key string, n int, limits ...ratelimit.Limit) ratelimit.Result {
	s.t.Helper()
	return s.do(call{op: adjust, key: key, n: n, limits: limits})
}

func (s *session) reset(key string) {
	s.t.Helper()
	s.do(call{op: reset, key: key})
}

// do makes a call on the store and on the oracle, and ends the test if they differ.
func (s *session) do(c call) ratelimit.Result {
	s.t.Helper()
	c.at = s.now()
	before := s.oracle.state(c.key)
	want, wantErr := c.of(s.ctx, s.oracle)

	// The caller's limits are the caller's: a store that kept them would be misled from here on.
	lent := c
	lent.limits = slices.Clone(c.limits)
	got, err := lent.of(s.ctx, s.store)
	got.Source = ratelimit.SourceUnknown
	if !slices.Equal(lent.limits, c.limits) {
		s.fail(c, before, "it changed the caller's limits to %s", limitsText(lent.limits))
	}
	for i := range lent.limits {
		lent.limits[i] = ratelimit.Limit{Capacity: math.MaxInt}
	}

	switch {
	case wantErr != nil:
		if !errors.Is(err, ratelimit.ErrArgument) {
			s.fail(c, before, "got error %v, want one that wraps ErrArgument", err)
		}
	case err != nil:
		s.fail(c, before, "got error %v", err)
	case got != want:
		s.fail(c, before, "got  %s\nwant %s", resultText(got), resultText(want))
	}
	s.checkState(c, before)
	s.log = append(s.log, c)
	return got
}

// checkState compares what the store holds with what the oracle holds.
func (s *session) checkState(c call, before *State) {
	s.t.Helper()
	if s.state == nil {
		return
	}
	got := s.state(s.t, c.key)
	if got == nil && s.oracle.full(c.key) {
		delete(s.oracle.keys, c.key)
		return
	}
	want := s.oracle.state(c.key)
	if got, want := got.normal(), want.normal(); !reflect.DeepEqual(got, want) {
		s.fail(c, before, "the answer is right, but what is held is\n     %v\nwant %v", got, want)
	}
}

func (s *session) fail(c call, before *State, format string, args ...any) {
	s.t.Helper()
	var text strings.Builder
	fmt.Fprintf(&text, "%v\n", c)
	fmt.Fprintf(&text, format, args...)
	fmt.Fprintf(&text, "\nbefore the call the key held %v", before)
	if s.note != "" {
		fmt.Fprintf(&text, "\n%s", s.note)
	}
	if trail := s.trail(c.key); trail != "" {
		fmt.Fprintf(&text, "\nthe last calls with this key:\n%s", trail)
	}
	s.t.Fatal(text.String())
}

// trail returns the last calls with a key.
func (s *session) trail(key string) string {
	const most = 12
	var lines []string
	for _, c := range slices.Backward(s.log) {
		if c.key == key && len(lines) < most {
			lines = append(lines, "\t"+c.String())
		}
	}
	slices.Reverse(lines)
	return strings.Join(lines, "\n")
}

// normal leaves out what makes no difference: a full bucket equals one that does not exist.
func (s *State) normal() *State {
	if s == nil {
		return nil
	}
	last := len(s.Buckets)
	for last > 0 && s.Buckets[last-1].Deficit == 0 {
		last--
	}
	if last == 0 {
		return nil
	}
	return &State{Age: s.Age, Buckets: s.Buckets[:last]}
}

func (s *State) String() string {
	if s == nil {
		return "nothing"
	}
	var text strings.Builder
	fmt.Fprintf(&text, "since %v", s.Age)
	for _, b := range s.Buckets {
		fmt.Fprintf(&text, " (%d of %d units missing; a token is %d, %d come back each µs)",
			b.Deficit, b.Capacity*b.Token, b.Token, b.PerTick)
	}
	return text.String()
}

func resultText(r ratelimit.Result) string {
	verdict := "refused"
	if r.Allowed {
		verdict = "allowed"
	}
	retry := r.RetryAfter.String()
	if r.RetryAfter == ratelimit.Never {
		retry = "never"
	}
	return fmt.Sprintf("%s by %q, %d remaining, retry after %s, full after %v", verdict, r.Limit, r.Remaining, retry, r.ResetAfter)
}

// clip keeps a key printable.
func clip(key string) string {
	const most = 40
	if len(key) <= most {
		return key
	}
	return key[:most] + "…"
}
