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

// session makes each call on a store and on the oracle.
type session struct {
	t       *testing.T
	ctx     context.Context
	store   ratelimit.Store
	oracle  *oracle
	advance func(d time.Duration)
	state   func(t *testing.T, key string) *State
	note    string // printed when a call fails
	log     []call // calls so far
	takes   []*taken
}

func newSession(t *testing.T, h Harness, advance func(d time.Duration)) *session {
	return &session{
		t: t, ctx: t.Context(), store: h.Open(t), oracle: newOracle(), advance: advance, state: h.State,
	}
}

// call is one call of a store, and when.
type call struct {
	at      time.Duration // since the store was opened
	op      op
	key     string
	n       int
	limits  []ratelimit.Limit
	maxWait time.Duration
	of      *taken // the take that is adjusted; nil for none
	leave   bool
}

// taken is a take that was allowed, with the receipts of the store and of the oracle.
type taken struct {
	key           string
	limits        []ratelimit.Limit
	store, oracle ratelimit.Receipt
}

type op string

const (
	take   op = "Take"
	adjust op = "Adjust"
	look   op = "Look"
	reset  op = "Reset"
)

func (c call) String() string {
	text := fmt.Sprintf("at %v: %s(%q", c.at, c.op, clip(c.key))
	switch c.op {
	case reset:
		return text + ")"
	case look:
		return text + ", " + limitsText(c.limits) + ")"
	}
	text += fmt.Sprintf(", %d, %s", c.n, limitsText(c.limits))
	switch {
	case c.maxWait > 0:
		text += fmt.Sprintf(", waiting up to %v", c.maxWait)
	case c.of != nil:
		text += fmt.Sprintf(", of a take at the store's %d µs", c.of.store.At())
	}
	if c.leave {
		text += ", leaving"
	}
	return text + ")"
}

func limitsText(limits []ratelimit.Limit) string {
	texts := make([]string, len(limits))
	for i, l := range limits {
		texts[i] = l.String()
	}
	return "[" + strings.Join(texts, ", ") + "]"
}

// answer is the result of a call.
type answer struct {
	result ratelimit.Result
	usage  ratelimit.Usage
	found  bool
}

// on makes the call on a store, with that store's receipt.
func (c call) on(ctx context.Context, store ratelimit.Store, receipt ratelimit.Receipt) (a answer, err error) {
	switch c.op {
	case take:
		a.result, err = store.Take(ctx, c.key, ratelimit.Take{N: c.n, Limits: c.limits, MaxWait: c.maxWait})
	case adjust:
		a.result, err = store.Adjust(ctx, c.key, ratelimit.Adjustment{N: c.n, Limits: c.limits, Receipt: receipt, Leave: c.leave})
	case look:
		a.usage, err = store.Look(ctx, c.key, c.limits)
	case reset:
		a.found, err = store.Reset(ctx, c.key)
	}
	return a, err
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
	return s.do(call{op: take, key: key, n: n, limits: limits}).result
}

// queue takes n tokens, and may wait for them up to a minute.
func (s *session) queue(key string, n int, limits ...ratelimit.Limit) ratelimit.Result {
	s.t.Helper()
	return s.do(call{op: take, key: key, n: n, limits: limits, maxWait: time.Minute}).result
}

func (s *session) look(key string, limits ...ratelimit.Limit) ratelimit.Result {
	s.t.Helper()
	return s.take(key, 0, limits...)
}

// usage looks at the buckets of limits, or, without any, at those that the store holds.
func (s *session) usage(key string, limits ...ratelimit.Limit) ratelimit.Usage {
	s.t.Helper()
	return s.do(call{op: look, key: key, limits: limits}).usage
}

// adjust adjusts without a receipt, as a debt may be.
func (s *session) adjust(key string, n int, limits ...ratelimit.Limit) ratelimit.Result {
	s.t.Helper()
	return s.do(call{op: adjust, key: key, n: n, limits: limits}).result
}

// giveBack gives n tokens of a take back, or takes more of it for a negative n.
func (s *session) giveBack(of *taken, n int) ratelimit.Result {
	s.t.Helper()
	return s.do(call{op: adjust, key: of.key, n: n, limits: of.limits, of: of}).result
}

// leave gives up the place of a take in the queue.
func (s *session) leave(of *taken, n int) {
	s.t.Helper()
	s.do(call{op: adjust, key: of.key, n: n, limits: of.limits, of: of, leave: true})
}

func (s *session) reset(key string) (found bool) {
	s.t.Helper()
	return s.do(call{op: reset, key: key}).found
}

// last returns the latest take that was allowed.
func (s *session) last() *taken { return s.takes[len(s.takes)-1] }

// do makes a call on the store and on the oracle, and ends the test if they differ.
func (s *session) do(c call) answer {
	s.t.Helper()
	c.at = s.now()
	before := s.oracle.state(c.key)
	var ofStore, ofOracle ratelimit.Receipt
	if c.of != nil {
		ofStore, ofOracle = c.of.store, c.of.oracle
	}
	want, wantErr := c.on(s.ctx, s.oracle, ofOracle)

	// The caller may change its limits after the call, as is done below: a store that kept them would go wrong.
	lent := c
	lent.limits = slices.Clone(c.limits)
	got, err := lent.on(s.ctx, s.store, ofStore)
	receipts := taken{c.key, c.limits, got.result.Receipt, want.result.Receipt}
	for _, a := range []*answer{&got, &want} {
		a.result.Source, a.result.Receipt = ratelimit.SourceUnknown, ratelimit.Receipt{}
		a.usage.Source = ratelimit.SourceUnknown
	}
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
	case got.result != want.result:
		s.fail(c, before, "got  %s\nwant %s", resultText(got.result), resultText(want.result))
	case !sameUsage(got.usage, want.usage):
		s.fail(c, before, "got  %+v\nwant %+v", got.usage, want.usage)
	case got.found != want.found:
		s.fail(c, before, "whether there was something to forget: got %v, want %v", got.found, want.found)
	case c.op == take && c.n > 0 && got.result.Allowed, c.op == adjust && c.n < 0 && c.of == nil:
		s.takes = append(s.takes, &receipts)
	case c.op == adjust && c.of != nil:
		c.of.store, c.of.oracle = receipts.store, receipts.oracle
	}
	s.checkState(c, before)
	s.log = append(s.log, c)
	return got
}

// sameUsage compares usages; full buckets at the end may be there or not.
func sameUsage(a, b ratelimit.Usage) bool {
	return a.BannedFor == b.BannedFor && a.Strikes == b.Strikes && slices.Equal(withoutFull(a.Limits), withoutFull(b.Limits))
}

func withoutFull(limits []ratelimit.LimitUsage) []ratelimit.LimitUsage {
	for len(limits) > 0 && limits[len(limits)-1].ResetAfter == 0 {
		limits = limits[:len(limits)-1]
	}
	return limits
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
	const maxLines = 12
	var lines []string
	for _, c := range slices.Backward(s.log) {
		if c.key == key && len(lines) < maxLines {
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
	return fmt.Sprintf("%s by %q, %d remaining, retry after %s, full after %v, waiting %v", verdict, r.Limit, r.Remaining, retry, r.ResetAfter, r.Wait)
}

// clip shortens a key for messages.
func clip(key string) string {
	const maxLength = 40
	if len(key) <= maxLength {
		return key
	}
	return key[:maxLength] + "…"
}
