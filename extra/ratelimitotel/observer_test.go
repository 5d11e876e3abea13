package ratelimitotel_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
	"unicode/utf8"

	"github.com/gin-gonic/gin"
	"github.com/gin-ratelimit/ratelimit"
	"github.com/gin-ratelimit/ratelimit/extra/ratelimitotel"
	"go.opentelemetry.io/contrib/instrumentation/github.com/gin-gonic/gin/otelgin"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
	"go.opentelemetry.io/otel/metric/noop"
	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
)

func TestMain(m *testing.M) {
	gin.SetMode(gin.ReleaseMode)
	m.Run()
}

// breaker is a store with a breaker, which is open if true.
type breaker bool

func (b breaker) Degraded() bool { return bool(b) }

// newObserver returns an Observer, and a function that reads what it has recorded: by instrument, a line for each
// set of attributes, with the value or a histogram's count and sum.
func newObserver(t *testing.T, opts ...ratelimitotel.Option) (*ratelimitotel.Observer, func() map[string][]string) {
	t.Helper()
	reader := sdkmetric.NewManualReader()
	provider := sdkmetric.NewMeterProvider(sdkmetric.WithReader(reader))
	observer, err := ratelimitotel.New(append(opts, ratelimitotel.WithMeterProvider(provider))...)
	if err != nil {
		t.Fatal(err)
	}
	return observer, func() map[string][]string {
		t.Helper()
		var read metricdata.ResourceMetrics
		if err := reader.Collect(context.Background(), &read); err != nil {
			t.Fatal(err)
		}
		lines := map[string][]string{}
		for _, scope := range read.ScopeMetrics {
			for _, m := range scope.Metrics {
				lines[m.Name+" "+m.Unit] = linesOf(m.Data)
			}
		}
		return lines
	}
}

func linesOf(data metricdata.Aggregation) (lines []string) {
	add := func(attributes attribute.Set, value ...any) {
		lines = append(lines, attributes.Encoded(attribute.DefaultEncoder())+" "+strings.TrimSpace(fmt.Sprintln(value...)))
	}
	switch data := data.(type) {
	case metricdata.Sum[int64]:
		for _, p := range data.DataPoints {
			if p.Value == 0 {
				continue // TestSeriesBeginAtZero tests these.
			}
			add(p.Attributes, p.Value)
		}
	case metricdata.Gauge[int64]:
		for _, p := range data.DataPoints {
			add(p.Attributes, p.Value)
		}
	case metricdata.Histogram[float64]:
		for _, p := range data.DataPoints {
			add(p.Attributes, p.Count, p.Sum)
		}
	}
	slices.Sort(lines)
	return lines
}

func expectLines(t *testing.T, got map[string][]string, want map[string][]string) {
	t.Helper()
	for name, lines := range got {
		if !slices.Equal(lines, want[name]) {
			t.Errorf("%s:\n\t%s\nwant\n\t%s", name, strings.Join(lines, "\n\t"), strings.Join(want[name], "\n\t"))
		}
	}
	for name := range want {
		if got[name] == nil {
			t.Errorf("%s is missing", name)
		}
	}
}

func eventOf(name, route string, reason ratelimit.Reason) ratelimit.Event {
	return ratelimit.Event{
		Name:    name,
		Route:   route,
		Key:     ratelimit.KeyOf("203.0.113.7"),
		Cost:    1,
		Reason:  reason,
		Result:  ratelimit.Result{Source: ratelimit.SourceMemory, Allowed: reason == ratelimit.ReasonAllowed},
		Elapsed: 250 * time.Millisecond,
	}
}

type leaser ratelimit.LeaseStats

func (l leaser) LeaseStats() ratelimit.LeaseStats { return ratelimit.LeaseStats(l) }

func TestInstruments(t *testing.T) {
	store := ratelimit.NewMemoryStore()
	if _, err := store.Take(t.Context(), "key", ratelimit.Take{N: 1, Limits: []ratelimit.Limit{{Capacity: 5, Refill: ratelimit.PerHour(5)}}}); err != nil {
		t.Fatal(err)
	}
	observer, read := newObserver(t,
		ratelimitotel.WithMemoryStore("main", store),
		ratelimitotel.WithFallbackStore("open", breaker(true)),
		ratelimitotel.WithFallbackStore("closed", breaker(false)),
		ratelimitotel.WithLeases("main", leaser{Calls: 1, Leased: 9, Spent: 5, GivenBack: 2, Void: 3}))
	observe := func(e ratelimit.Event) { observer.Observe(t.Context(), e) }

	observe(eventOf("login", "/login", ratelimit.ReasonAllowed))
	observe(eventOf("login", "/login", ratelimit.ReasonAllowed))
	observe(eventOf("login", "/login", ratelimit.ReasonRefused))
	observe(eventOf("login", "", ratelimit.ReasonAllowed))
	observe(eventOf("login", "/login", ratelimit.ReasonShadow))
	failed := eventOf("api", "/", ratelimit.ReasonStore)
	failed.Err, failed.Result = fmt.Errorf("redis: %w", context.DeadlineExceeded), ratelimit.Result{}
	observe(failed)
	failed.Err, failed.Reason = ratelimit.ErrArgument, ratelimit.ReasonArgument
	failed.Elapsed = 0
	observe(failed)
	held := eventOf("queue", "/", ratelimit.ReasonAllowed)
	held.Waited, held.Waiting = time.Second, 3
	observe(held)
	held.Waited, held.Waiting = 2*time.Second, 0
	observe(held)

	expectLines(t, read(), map[string][]string{
		"gin.ratelimit.requests {request}": {
			"http.route=/,ratelimit.decision=allowed,ratelimit.policy=queue,ratelimit.reason=allowed,ratelimit.source=memory 2",
			"http.route=/,ratelimit.decision=failed,ratelimit.policy=api,ratelimit.reason=argument,ratelimit.source=unknown 1",
			"http.route=/,ratelimit.decision=failed,ratelimit.policy=api,ratelimit.reason=store,ratelimit.source=unknown 1",
			"http.route=/login,ratelimit.decision=allowed,ratelimit.policy=login,ratelimit.reason=allowed,ratelimit.source=memory 2",
			"http.route=/login,ratelimit.decision=refused,ratelimit.policy=login,ratelimit.reason=refused,ratelimit.source=memory 1",
			"http.route=/login,ratelimit.decision=shadow,ratelimit.policy=login,ratelimit.reason=shadow,ratelimit.source=memory 1",
			"ratelimit.decision=allowed,ratelimit.policy=login,ratelimit.reason=allowed,ratelimit.source=memory 1",
		},
		"gin.ratelimit.store.duration s": {
			"ratelimit.policy=api,ratelimit.source=unknown 1 0.25",
			"ratelimit.policy=login,ratelimit.source=memory 5 1.25",
			"ratelimit.policy=queue,ratelimit.source=memory 2 0.5",
		},
		"gin.ratelimit.store.errors {error}":   {"error.type=timeout,ratelimit.policy=api 1"},
		"gin.ratelimit.store.degraded {store}": {"ratelimit.store=closed 0", "ratelimit.store=open 1"},
		"gin.ratelimit.store.keys {key}":       {"ratelimit.store=main 1"},
		"gin.ratelimit.lease.calls {call}":     {"ratelimit.store=main 1"},
		"gin.ratelimit.lease.tokens {token}": {
			"ratelimit.fate=given_back,ratelimit.store=main 2", "ratelimit.fate=leased,ratelimit.store=main 9",
			"ratelimit.fate=spent,ratelimit.store=main 5", "ratelimit.fate=void,ratelimit.store=main 3",
		},
		"gin.ratelimit.wait.duration s":            {"ratelimit.policy=queue 2 3"},
		"gin.ratelimit.waiting_requests {request}": {"ratelimit.policy=queue 0"},
	})
}

// Two Observers on one provider share instruments, and the values of their stores are not added up. A closed one no longer
// watches.
func TestObserversOnOneProvider(t *testing.T) {
	reader := sdkmetric.NewManualReader()
	provider := ratelimitotel.WithMeterProvider(sdkmetric.NewMeterProvider(sdkmetric.WithReader(reader)))
	store := ratelimitotel.WithFallbackStore("main", breaker(true))
	var observers []*ratelimitotel.Observer
	for range 2 {
		o, err := ratelimitotel.New(provider, store)
		if err != nil {
			t.Fatal(err)
		}
		o.Observe(t.Context(), eventOf("api", "/", ratelimit.ReasonAllowed))
		observers = append(observers, o)
	}
	read := func(name string) []string {
		t.Helper()
		var read metricdata.ResourceMetrics
		if err := reader.Collect(t.Context(), &read); err != nil {
			t.Fatal(err)
		}
		for _, m := range read.ScopeMetrics[0].Metrics {
			if m.Name == name {
				return linesOf(m.Data)
			}
		}
		return nil
	}
	if got := read("gin.ratelimit.requests"); len(got) != 1 || !strings.HasSuffix(got[0], " 2") {
		t.Errorf("requests %v, want 2", got)
	}
	if got := read("gin.ratelimit.store.degraded"); !slices.Equal(got, []string{"ratelimit.store=main 1"}) {
		t.Errorf("degraded %v, want 1", got)
	}
	for _, o := range observers {
		if err := o.Close(); err != nil {
			t.Error(err)
		}
	}
	if got := read("gin.ratelimit.store.degraded"); got != nil {
		t.Errorf("degraded %v after Close", got)
	}
}

func TestRoutesAreBounded(t *testing.T) {
	observer, read := newObserver(t)
	for i := range 5000 { // The SDK keeps 2,000 sets apart.
		observer.Observe(t.Context(), eventOf("api", fmt.Sprint("/", i), ratelimit.ReasonAllowed))
	}
	lines := read()["gin.ratelimit.requests {request}"]
	if last := lines[len(lines)-1]; len(lines) != 201 || !strings.HasPrefix(last, "http.route=other,") || !strings.HasSuffix(last, " 4800") {
		t.Errorf("%d series, the last is %s", len(lines), last)
	}
	if got := read()["gin.ratelimit.store.duration s"]; !slices.Equal(got, []string{"ratelimit.policy=api,ratelimit.source=memory 5000 1250"}) {
		t.Errorf("durations %v", got)
	}
}

// A route is recorded for all fates of its requests, or for none.
func TestRoutesAreNamedWhole(t *testing.T) {
	observer, read := newObserver(t)
	for _, reason := range []ratelimit.Reason{ratelimit.ReasonAllowed, ratelimit.ReasonRefused} {
		for i := range 1000 {
			observer.Observe(t.Context(), eventOf("api", fmt.Sprint("/", i), reason))
		}
	}
	fates := map[string]int{}
	for _, line := range read()["gin.ratelimit.requests {request}"] {
		route, rest, _ := strings.Cut(line, ",")
		fates[route]++
		if route == "http.route=other" && !strings.HasSuffix(rest, " 800") {
			t.Errorf("of other routes: %s", line)
		}
	}
	for route, n := range fates {
		if n != 2 {
			t.Errorf("%s has %d fates", route, n)
		}
	}
	if len(fates) != 201 {
		t.Errorf("%d routes", len(fates))
	}
}

// The first refusal and the first error of a policy are increases of series that began at 0.
func TestSeriesBeginAtZero(t *testing.T) {
	reader := sdkmetric.NewManualReader()
	observer, err := ratelimitotel.New(ratelimitotel.WithMeterProvider(sdkmetric.NewMeterProvider(sdkmetric.WithReader(reader))))
	if err != nil {
		t.Fatal(err)
	}
	observer.Observe(t.Context(), eventOf("api", "/", ratelimit.ReasonAllowed))
	var metrics metricdata.ResourceMetrics
	if err := reader.Collect(t.Context(), &metrics); err != nil {
		t.Fatal(err)
	}
	zeros := 0
	for _, m := range metrics.ScopeMetrics[0].Metrics {
		if sum, ok := m.Data.(metricdata.Sum[int64]); ok {
			for _, p := range sum.DataPoints {
				if p.Value == 0 {
					zeros++
				}
			}
		}
	}
	if zeros != 2+3 {
		t.Errorf("%d series begin at 0, want those of 2 reasons and 3 kinds of errors", zeros)
	}
}

// Text that is not UTF-8 would make the whole export fail.
func TestNamesAreUTF8(t *testing.T) {
	observer, read := newObserver(t, ratelimitotel.WithMemoryStore("m\xe9", ratelimit.NewMemoryStore()))
	e := eventOf("caf\xe9", "/caf\xe9", ratelimit.ReasonStore)
	e.Err = context.DeadlineExceeded
	observer.Observe(t.Context(), e)
	for name, lines := range read() {
		for _, line := range lines {
			if !utf8.ValidString(line) {
				t.Errorf("%s: %q", name, line)
			}
		}
	}
}

func TestConcurrently(t *testing.T) {
	observer, read := newObserver(t)
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			for i := range 500 {
				observer.Observe(t.Context(), eventOf("api", fmt.Sprint("/", i%7), ratelimit.ReasonAllowed))
			}
		})
	}
	all.Wait()
	if got := read()["gin.ratelimit.store.duration s"]; len(got) != 1 || !strings.Contains(got[0], " 4000 ") {
		t.Errorf("got %v", got)
	}
}

// traced serves requests on a route behind otelgin and a limiter, and returns the spans that end.
func traced(t *testing.T, requests int, opts ...ratelimit.Option) tracetest.SpanStubs {
	t.Helper()
	observer, _ := newObserver(t)
	exporter := tracetest.NewInMemoryExporter()
	router := gin.New()
	router.Use(otelgin.Middleware("shop", otelgin.WithTracerProvider(sdktrace.NewTracerProvider(sdktrace.WithSyncer(exporter))),
		otelgin.WithMeterProvider(noop.NewMeterProvider())))
	router.GET("/things/:id", ratelimit.New(append(opts, ratelimit.WithName("things"), ratelimit.WithObserver(observer.Observe))...))
	for range requests {
		router.ServeHTTP(httptest.NewRecorder(), httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/things/7", nil))
	}
	return exporter.GetSpans()
}

func TestSpanBesideOtelgin(t *testing.T) {
	synctest.Test(t, func(t *testing.T) { // In a bubble no time passes, so retry_after is exact.
		spans := traced(t, 2, ratelimit.WithRefillRate(ratelimit.PerMinute(1)))
		var got []string
		for _, span := range spans {
			if span.Name != "GET /things/:id" {
				t.Errorf("the span is %q", span.Name)
			}
			for _, event := range span.Events {
				set := attribute.NewSet(event.Attributes...)
				got = append(got, event.Name+" "+set.Encoded(attribute.DefaultEncoder()))
			}
		}
		want := []string{
			"ratelimit.decision ratelimit.cost=1,ratelimit.decision=allowed,ratelimit.limit=1/m,ratelimit.policy=things," +
				"ratelimit.reason=allowed,ratelimit.remaining=0,ratelimit.source=memory",
			"ratelimit.decision ratelimit.cost=1,ratelimit.decision=refused,ratelimit.limit=1/m,ratelimit.policy=things," +
				"ratelimit.reason=refused,ratelimit.remaining=0,ratelimit.retry_after=60,ratelimit.source=memory",
		}
		if !slices.Equal(got, want) {
			t.Errorf("got\n\t%s\nwant\n\t%s", strings.Join(got, "\n\t"), strings.Join(want, "\n\t"))
		}
	})
}

func TestSpanOfWhatCannotBeAdmitted(t *testing.T) {
	spans := traced(t, 1, ratelimit.WithRefillRate(ratelimit.PerMinute(1)), ratelimit.WithCost(func(*gin.Context) int { return 2 }))
	for _, a := range spans[0].Events[0].Attributes {
		if a.Key == "ratelimit.retry_after" {
			t.Errorf("it is told to retry after %v s", a.Value.AsFloat64())
		}
	}
}

func TestSpanOfAnError(t *testing.T) {
	spans := traced(t, 1, ratelimit.WithRefillRate(ratelimit.PerMinute(1)), ratelimit.WithCost(func(*gin.Context) int { return -1 }))
	set := attribute.NewSet(spans[0].Events[0].Attributes...)
	want := "error.type=argument,ratelimit.cost=-1,ratelimit.decision=failed,ratelimit.policy=things,ratelimit.reason=argument"
	if got := set.Encoded(attribute.DefaultEncoder()); got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
}

// A provider's mistake is an error of New.
type brokenProvider struct{ noop.MeterProvider }
type brokenMeter struct{ noop.Meter }

var errBroken = errors.New("no such instrument")

func (brokenProvider) Meter(string, ...metric.MeterOption) metric.Meter { return brokenMeter{} }
func (brokenMeter) Int64Counter(string, ...metric.Int64CounterOption) (metric.Int64Counter, error) {
	return nil, errBroken
}

func TestMistakes(t *testing.T) {
	if o, err := ratelimitotel.New(ratelimitotel.WithMeterProvider(brokenProvider{})); o != nil || !errors.Is(err, errBroken) {
		t.Errorf("got %v and %v", o, err)
	}
	for want, mistake := range map[string]func(){
		"ratelimitotel: WithMeterProvider(nil): needs a MeterProvider": func() { ratelimitotel.WithMeterProvider(nil) },
		`ratelimitotel: WithMemoryStore("", `:                          func() { ratelimitotel.WithMemoryStore("", ratelimit.NewMemoryStore()) },
		`ratelimitotel: WithMemoryStore("main", `:                      func() { ratelimitotel.WithMemoryStore("main", nil) },
		`ratelimitotel: WithFallbackStore("", `:                        func() { ratelimitotel.WithFallbackStore("", breaker(true)) },
		`ratelimitotel: WithFallbackStore("main", `:                    func() { ratelimitotel.WithFallbackStore("main", nil) },
	} {
		func() {
			defer func() {
				if got := fmt.Sprint(recover()); !strings.HasPrefix(got, want) || !strings.Contains(got, "for example") {
					t.Errorf("panicked with %v, want %v", got, want)
				}
			}()
			mistake()
		}()
	}
}

func BenchmarkObserve(b *testing.B) {
	observer, err := ratelimitotel.New(ratelimitotel.WithMeterProvider(
		sdkmetric.NewMeterProvider(sdkmetric.WithReader(sdkmetric.NewManualReader()))))
	if err != nil {
		b.Fatal(err)
	}
	e, ctx := eventOf("api", "/", ratelimit.ReasonAllowed), b.Context()
	b.ReportAllocs()
	for b.Loop() {
		observer.Observe(ctx, e)
	}
}
