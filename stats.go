package ratelimit

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/gin-ratelimit/ratelimit/internal/notify"
)

// Stats counts decisions by limiter, for a page of numbers, and for a first alert where there is no monitoring system.
// Its [Stats.Observe] is an observer. One Stats may serve any number of limiters; limiters of one name are counted
// together:
//
//	stats := ratelimit.NewStats()
//	router.Use(ratelimit.New(…, ratelimit.WithObserver(stats.Observe)))
//	router.GET("/stats", func(c *gin.Context) { c.JSON(http.StatusOK, stats.Snapshot()) })
//
// It counts the current second and the 59 before it as "the last minute"; totals are since [NewStats]. It
// remembers up to 1,000 names and counts further ones under "other". It owns no goroutine and no timer, and is
// safe for concurrent use.
type Stats struct {
	base    time.Time
	minimum uint64
	names   atomic.Pointer[map[string]*tally] // copied on write, so that events need no lock

	mu    sync.Mutex // guards rules, and replacing names
	rules []alertRule
}

const (
	statsWindow   = 60 // seconds
	maxStatsNames = 1000
	otherName     = "other"
)

// NameStats is what [Stats] has counted for one limiter. Requests that could not be decided are in Failed alone.
type NameStats struct {
	Name     string  `json:"name"`
	Accepted uint64  `json:"accepted"`             // since NewStats, as are the next five
	Refused  uint64  `json:"refused"`              // for any reason
	Shadow   uint64  `json:"shadow_refused"`       // let through by WithShadow, but would have been refused
	Failed   uint64  `json:"failed"`               // the store could not decide, whatever the error handler did then
	Gone     uint64  `json:"gone"`                 // given up while held back, because the client left; not among requests
	GiveBack uint64  `json:"give_back_failed"`     // times that tokens could not be given back; not among requests
	Requests uint64  `json:"minute_requests"`      // decided in the last minute: accepted, refused or shadow-refused
	Refusals uint64  `json:"minute_refusals"`      // refused in the last minute
	Ratio    float64 `json:"minute_refusal_ratio"` // Refusals / Requests, from 0 to 1; 0 without requests
}

// Alert is what [Stats.Alert] passes to its function.
type Alert struct {
	Name      string  `json:"name"`      // the limiter's
	Firing    bool    `json:"firing"`    // true when the ratio has passed the threshold, false when it has fallen back
	Ratio     float64 `json:"ratio"`     // of refusals in the last minute, from 0 to 1
	Threshold float64 `json:"threshold"` // the ratio that was given to Stats.Alert
	Requests  uint64  `json:"requests"`  // decided in the last minute
	Refusals  uint64  `json:"refusals"`  // refused in the last minute
}

// StatsOption configures [NewStats].
type StatsOption func(*Stats)

// WithAlertMinimum sets how many requests the last minute must hold before an alert fires, so that 1 refusal of
// 2 requests is not 50 %. It panics if requests is below 1. Default: 100.
func WithAlertMinimum(requests int) StatsOption {
	if requests < 1 {
		panic(fmt.Sprintf("ratelimit: WithAlertMinimum(%d): must be at least 1, for example 100", requests))
	}
	return func(s *Stats) { s.minimum = uint64(requests) }
}

// NewStats returns Stats that have counted nothing yet.
func NewStats(opts ...StatsOption) *Stats {
	s := &Stats{base: time.Now(), minimum: 100}
	s.names.Store(&map[string]*tally{})
	for _, opt := range opts {
		opt(s)
	}
	return s
}

// Observe counts an event; give it to [WithObserver], once per limiter. It allocates only on the first event of
// a name, and locks only on the first event of a name in a second.
func (s *Stats) Observe(_ context.Context, e Event) {
	t := s.tally(e.Name)
	now := t.now()
	switch {
	case e.Reason == ReasonShadow:
		t.shadow.Add(1)
	case e.Reason == ReasonGone:
		t.gone.Add(1)
	case e.Reason == ReasonGiveBack:
		t.giveBack.Add(1)
	case e.Err != nil:
		t.failed.Add(1)
	case e.Result.Allowed:
		t.accepted.Add(1)
	default:
		t.refused.Add(1)
	}
	t.watch(now)
}

// Snapshot returns what has been counted, sorted by name. It does not stop the counting, so numbers of one name
// may be a request apart. Alerts are evaluated first.
func (s *Stats) Snapshot() []NameStats {
	names := *s.names.Load()
	snapshot := make([]NameStats, 0, len(names))
	for _, t := range names {
		t.watch(t.now())
		n := NameStats{
			Name:     t.name,
			Accepted: t.accepted.Load(),
			Refused:  t.refused.Load(),
			Shadow:   t.shadow.Load(),
			Failed:   t.failed.Load(),
			Gone:     t.gone.Load(),
			GiveBack: t.giveBack.Load(),
		}
		n.Requests, n.Refusals = t.minute()
		n.Ratio = ratioOf(n.Refusals, n.Requests)
		snapshot = append(snapshot, n)
	}
	slices.SortFunc(snapshot, func(a, b NameStats) int { return strings.Compare(a.Name, b.Name) })
	return snapshot
}

// Alert calls notify for each name: once when more than ratio of the last minute's requests were refused, out of at least
// [WithAlertMinimum], and once when no more than ratio are. An alert fires at once. It falls back in the next second at
// the earliest, so that a ratio around the threshold makes at most one pair of calls a second.
//
// There is no timer: the ratio is checked on each event of the name, and by [Stats.Snapshot]. If traffic may stop
// altogether, call Snapshot now and then, so that the end of an alert is noticed.
//
// notify runs on the goroutine of the request, or of Snapshot, with no lock held: hand slow work to a goroutine of
// your own. Calls for one name come one after the other and in order; those for different names may overlap.
//
// Alert may be called several times, and at any time. It panics if ratio is not in [0, 1) or notify is nil.
func (s *Stats) Alert(ratio float64, notify func(Alert)) {
	if !(ratio >= 0 && ratio < 1) { // Written so that NaN is refused too.
		panic(fmt.Sprintf("ratelimit: Stats.Alert(%v): the ratio must be at least 0 and below 1, for example 0.05 for 5 %%", ratio))
	}
	if notify == nil {
		panic("ratelimit: Stats.Alert: needs a function, for example func(a ratelimit.Alert) { log.Println(a) }")
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.rules = append(s.rules, alertRule{ratio, s.minimum, notify})
	for _, t := range *s.names.Load() {
		t.setRules(s.rules)
	}
}

// tally returns the counters of a name.
func (s *Stats) tally(name string) *tally {
	names := *s.names.Load()
	t := names[name]
	if t == nil && len(names) >= maxStatsNames {
		name = otherName
		t = names[name]
	}
	if t == nil {
		t = s.addTally(name)
	}
	return t
}

func (s *Stats) addTally(name string) *tally {
	s.mu.Lock()
	defer s.mu.Unlock()
	names := *s.names.Load()
	if t := names[name]; t != nil {
		return t
	}
	if len(names) >= maxStatsNames {
		name = otherName // Other goroutines have added the last names meanwhile.
		if t := names[name]; t != nil {
			return t
		}
	}
	t := &tally{name: strings.Clone(name), base: s.base}
	t.setRules(s.rules)
	names = maps.Clone(names)
	names[t.name] = t
	s.names.Store(&names)
	return t
}

// tally is what is counted for one name. The totals only grow. The last minute is the difference between the totals now
// and those when the minute began, so that an event adds to one number, and updates no window.
type tally struct {
	name string
	base time.Time

	accepted, refused, shadow, failed, gone, giveBack atomic.Uint64

	second        atomic.Int64  // the newest that has begun, counted from base
	passedBefore  atomic.Uint64 // accepted and shadow, when the minute began
	refusedBefore atomic.Uint64 // refused, when the minute began
	watches       atomic.Pointer[[]*alertWatch]

	mu     sync.Mutex                                    // guards begins, and writing the three above
	begins [statsWindow]struct{ passed, refused uint64 } // the totals when a second began, by second modulo window
}

func secondsSince(base time.Time) int64 { return int64(time.Since(base) / time.Second) }

// now returns the current second, and begins it if no event has.
func (t *tally) now() int64 {
	now := secondsSince(t.base)
	if t.second.Load() < now {
		t.begin(now)
	}
	return now
}

// begin begins a second, and those before it that had no events.
func (t *tally) begin(now int64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	last := t.second.Load()
	if last >= now {
		return
	}
	passed, refused := t.accepted.Load()+t.shadow.Load(), t.refused.Load()
	for second := max(last, now-statsWindow) + 1; second <= now; second++ {
		begin := &t.begins[second%statsWindow]
		begin.passed, begin.refused = passed, refused
	}
	first := t.begins[(now+1)%statsWindow]
	t.passedBefore.Store(first.passed)
	t.refusedBefore.Store(first.refused)
	t.second.Store(now) // Last, so that a reader of it sees the others.
}

// minute returns the decisions of the last minute. The totals from before the minute are read first, so that no difference
// is negative.
func (t *tally) minute() (requests, refused uint64) {
	passedBefore, refusedBefore := t.passedBefore.Load(), t.refusedBefore.Load()
	refused = t.refused.Load() - refusedBefore
	return t.accepted.Load() + t.shadow.Load() - passedBefore + refused, refused
}

func ratioOf(refused, requests uint64) float64 {
	if requests == 0 {
		return 0
	}
	return float64(refused) / float64(requests)
}

// alertRule is one call of Stats.Alert.
type alertRule struct {
	ratio   float64
	minimum uint64
	notify  func(Alert)
}

// alertWatch is one rule on one name.
type alertWatch struct {
	alertRule
	tally *tally
	fired atomic.Int64 // the second, plus 1, in which it fired; 0 while it does not

	mu    sync.Mutex // guards calls, and writing fired
	calls notify.Serial
}

// setRules watches the rules that are not watched yet. The caller holds Stats.mu.
func (t *tally) setRules(rules []alertRule) {
	var watches []*alertWatch
	if old := t.watches.Load(); old != nil {
		watches = slices.Clone(*old)
	}
	for _, rule := range rules[len(watches):] {
		watches = append(watches, &alertWatch{alertRule: rule, tally: t})
	}
	t.watches.Store(&watches)
}

// watch reports the alerts that have changed.
func (t *tally) watch(now int64) {
	for _, w := range *t.watches.Load() {
		if on, _, _ := w.look(now); on != (w.fired.Load() != 0) {
			w.callNotify()
		}
	}
}

// look reports whether the alert should fire, and the last minute's counts.
func (w *alertWatch) look(now int64) (on bool, requests, refused uint64) {
	requests, refused = w.tally.minute()
	on = float64(refused) > w.ratio*float64(requests)
	switch w.fired.Load() {
	case 0:
		on = on && requests >= w.minimum
	case now + 1:
		on = true
	}
	return on, requests, refused
}

// callNotify calls notify until it has been called with the latest change.
func (w *alertWatch) callNotify() {
	w.calls.Run(&w.mu, func() func() {
		now := w.tally.now()
		on, requests, refused := w.look(now)
		switch {
		case on == (w.fired.Load() != 0):
			return nil
		case on:
			w.fired.Store(now + 1)
		default:
			w.fired.Store(0)
		}
		return func() {
			w.notify(Alert{
				Name:      w.tally.name,
				Firing:    on,
				Ratio:     ratioOf(refused, requests),
				Threshold: w.ratio,
				Requests:  requests,
				Refusals:  refused,
			})
		}
	})
}
