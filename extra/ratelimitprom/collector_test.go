package ratelimitprom_test

import (
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"maps"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gin-gonic/gin"
	"github.com/gin-ratelimit/ratelimit"
	"github.com/gin-ratelimit/ratelimit/extra/ratelimitprom"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	dto "github.com/prometheus/client_model/go"
)

// gather returns what a registry exports, by family.
func gather(t *testing.T, registry prometheus.Gatherer) map[string]*dto.MetricFamily {
	t.Helper()
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	byName := map[string]*dto.MetricFamily{}
	for _, family := range families {
		byName[family.GetName()] = family
	}
	return byName
}

// registered returns a Collector, and a registry that checks it.
func registered(t *testing.T, opts ...ratelimitprom.Option) (*ratelimitprom.Collector, *prometheus.Registry) {
	t.Helper()
	registry := prometheus.NewPedanticRegistry()
	c, err := ratelimitprom.Register(registry, opts...)
	if err != nil {
		t.Fatal(err)
	}
	return c, registry
}

func TestRegisterAgain(t *testing.T) {
	before, after := ratelimit.NewMemoryStore(), ratelimit.NewMemoryStore()
	first, registry := registered(t, ratelimitprom.WithMemoryStore("main", before))
	first.Observe(t.Context(), eventOf("api", "/", ratelimit.ReasonAllowed))

	limits := []ratelimit.Limit{{Capacity: 5, Refill: ratelimit.PerHour(5)}}
	if _, err := after.Take(t.Context(), "key", ratelimit.Take{N: 1, Limits: limits}); err != nil {
		t.Fatal(err)
	}
	second, err := ratelimitprom.Register(registry,
		ratelimitprom.WithMemoryStore("main", after), ratelimitprom.WithFallbackStore("main", breaker(false)))
	if err != nil || second != first {
		t.Fatalf("got %p and %v, want the first, %p", second, err, first)
	}
	second.Observe(t.Context(), eventOf("api", "/", ratelimit.ReasonAllowed))

	families := gather(t, registry)
	expectValues(t, families["ratelimit_requests_total"],
		"decision=allowed policy=api reason=allowed route=/ source=memory 2")
	expectValues(t, families["ratelimit_store_keys"], "store=main 1")
	expectValues(t, families["ratelimit_store_degraded"], "store=main 0")
}

func TestRegisterWrapped(t *testing.T) {
	registry := prometheus.NewPedanticRegistry()
	var collectors []*ratelimitprom.Collector
	for range 2 {
		wrapped := prometheus.WrapRegistererWithPrefix("shop_", prometheus.WrapRegistererWith(prometheus.Labels{"zone": "a"}, registry))
		c, err := ratelimitprom.Register(wrapped)
		if err != nil {
			t.Fatal(err)
		}
		collectors = append(collectors, c)
	}
	if collectors[0] != collectors[1] {
		t.Error("the second Register made a Collector of its own")
	}
	collectors[0].Observe(t.Context(), eventOf("api", "/", ratelimit.ReasonRefused))
	if got := values(gather(t, registry)["shop_ratelimit_requests_total"]); !slices.Contains(got, "decision=refused policy=api reason=refused route=/ source=memory zone=a 1") {
		t.Errorf("got %v", got)
	}
}

func TestRegisterWhereNamesAreTaken(t *testing.T) {
	registry := prometheus.NewRegistry()
	registry.MustRegister(prometheus.NewGauge(prometheus.GaugeOpts{Name: "ratelimit_store_keys", Help: "Someone else's."}))
	if c, err := ratelimitprom.Register(registry); err == nil || c != nil || !strings.HasPrefix(err.Error(), "ratelimitprom: ") {
		t.Errorf("got %v and %v", c, err)
	}
}

// A Collector of New goes into a registry by hand, and into several.
func TestTwoRegistries(t *testing.T) {
	c := ratelimitprom.New()
	c.Observe(t.Context(), eventOf("api", "/", ratelimit.ReasonAllowed))
	for range 2 {
		registry := prometheus.NewPedanticRegistry()
		registry.MustRegister(c)
		if got := len(values(gather(t, registry)["ratelimit_requests_total"])); got != 1 {
			t.Errorf("%d series, want 2", got)
		}
	}
}

// Two limiters of one name are one policy, and after a limiter is made again, counting goes on.
func TestLimitersOfOneName(t *testing.T) {
	c, registry := registered(t)
	for range 3 {
		limiter, err := ratelimit.NewLimiter(ratelimit.WithName("api"), ratelimit.WithRefillRate(ratelimit.PerHour(2)),
			ratelimit.WithObserver(c.Observe))
		if err != nil {
			t.Fatal(err)
		}
		for range 3 {
			if _, err := limiter.Take(t.Context(), "key", 1); err != nil {
				t.Fatal(err)
			}
		}
	}
	expectValues(t, gather(t, registry)["ratelimit_requests_total"],
		"decision=allowed policy=api reason=allowed route=none source=memory 6",
		"decision=refused policy=api reason=refused route=none source=memory 3")
}

// A request that is held back is counted with the time that it waited.
func TestHeldBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, registry := registered(t)
		limiter := ratelimit.New(ratelimit.WithName("queue"), ratelimit.WithCapacity(1), ratelimit.WithRefillRate(ratelimit.PerMinute(1)),
			ratelimit.WithMaxWait(time.Hour), ratelimit.WithObserver(c.Observe))
		for range 3 { // The first goes on at once.
			request, _ := gin.CreateTestContext(httptest.NewRecorder())
			request.Request = httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/", nil)
			limiter(request)
		}
		h := gather(t, registry)["ratelimit_wait_duration_seconds"].Metric[0].Histogram
		if h.GetSampleCount() != 2 || h.GetSampleSum() != 120 {
			t.Errorf("%d waited %v s, want 2 and 120 s", h.GetSampleCount(), h.GetSampleSum())
		}
	})
}

func TestSeriesAreBounded(t *testing.T) {
	c, registry := registered(t, ratelimitprom.WithMaxRoutes(3))
	for i := range 5 {
		c.Observe(t.Context(), eventOf("api", fmt.Sprint("/", i), ratelimit.ReasonAllowed))
	}
	for i := range 100 {
		c.Observe(t.Context(), eventOf(fmt.Sprint("policy ", i), "/", ratelimit.ReasonAllowed))
	}
	c.Observe(t.Context(), eventOf("api", "other", ratelimit.ReasonAllowed))
	c.Observe(t.Context(), eventOf("api", "/0", ratelimit.ReasonAllowed))
	var got []string
	for _, line := range values(gather(t, registry)["ratelimit_requests_total"]) {
		if strings.Contains(line, "decision=allowed") {
			got = append(got, line)
		}
	}
	want := []string{
		"decision=allowed policy=api reason=allowed route=/0 source=memory 2",
		"decision=allowed policy=api reason=allowed route=/1 source=memory 1",
		"decision=allowed policy=api reason=allowed route=/2 source=memory 1",
		"decision=allowed policy=api reason=allowed route=other source=memory 3",
		"decision=allowed policy=other reason=allowed route=other source=memory 100",
	}
	if !slices.Equal(got, want) {
		t.Errorf("got\n\t%s\nwant\n\t%s", strings.Join(got, "\n\t"), strings.Join(want, "\n\t"))
	}
}

// A route is named for all its decisions or for none, so that ratios by route are true.
func TestRoutesAreNamedWhole(t *testing.T) {
	c, registry := registered(t, ratelimitprom.WithMaxRoutes(3))
	for _, reason := range []ratelimit.Reason{ratelimit.ReasonAllowed, ratelimit.ReasonRefused, ratelimit.ReasonBanned} {
		for i := range 5 {
			c.Observe(t.Context(), eventOf("api", fmt.Sprint("/", i), reason))
		}
	}
	fates := map[string]int{}
	for _, line := range values(gather(t, registry)["ratelimit_requests_total"]) {
		_, rest, _ := strings.Cut(line, " route=")
		route, _, _ := strings.Cut(rest, " ")
		if !strings.HasSuffix(line, " 0") {
			fates[route]++
		}
	}
	if want := map[string]int{"/0": 3, "/1": 3, "/2": 3, "other": 3}; !maps.Equal(fates, want) {
		t.Errorf("got %v, want %v", fates, want)
	}
}

// A scrape succeeds whatever is in an Event: labels that would be equal or invalid become one series.
func TestOddEvents(t *testing.T) {
	c, registry := registered(t)
	for _, e := range []ratelimit.Event{
		{},
		eventOf("", "", "a reason of tomorrow"),
		eventOf("", "none", ratelimit.ReasonAllowed),
		eventOf("other", "other", ratelimit.ReasonAllowed),
		eventOf("a\xff", "/\xff", ratelimit.ReasonAllowed),
		eventOf("a\xfe", "/\xfe", ratelimit.ReasonAllowed),
		{Name: "api", Result: ratelimit.Result{Source: 200}, Elapsed: -time.Second, Waited: -1, Waiting: -1},
	} {
		c.Observe(t.Context(), e)
	}
	expectValues(t, gather(t, registry)["ratelimit_requests_total"],
		"decision=allowed policy= reason=allowed route=none source=memory 1",
		"decision=allowed policy=a\uFFFD reason=allowed route=/\uFFFD source=memory 2",
		"decision=allowed policy=other reason=allowed route=other source=memory 1",
		"decision=other policy= reason=other route=none source=memory 1",
		"decision=other policy= reason=other route=none source=unknown 1",
		"decision=other policy=api reason=other route=none source=unknown 1")
}

func TestErrorsThatAreNotTheStores(t *testing.T) {
	c, registry := registered(t)
	argument := eventOf("api", "/", ratelimit.ReasonArgument)
	argument.Err = fmt.Errorf("cost -1: %w", ratelimit.ErrArgument)
	foreign := eventOf("api", "/", ratelimit.ReasonForeign)
	foreign.Err = ratelimit.ErrForeignState
	c.Observe(t.Context(), argument)
	c.Observe(t.Context(), foreign)
	other := eventOf("api", "/", ratelimit.ReasonStore)
	other.Err = errors.New("of an unknown kind, with the secret hunter2")
	c.Observe(t.Context(), other)
	expectValues(t, gather(t, registry)["ratelimit_store_errors_total"], "kind=foreign policy=api 1", "kind=other policy=api 1")
}

// Every reason and source of the library has a label of its own here, and every reason a decision.
func TestWordsAreComplete(t *testing.T) {
	c, registry := registered(t)
	reasons := reasonsOfLibrary(t)
	if len(reasons) < 10 {
		t.Fatalf("found only the reasons %v", reasons)
	}
	reasons = slices.DeleteFunc(reasons, func(reason string) bool {
		c.Observe(t.Context(), eventOf("api", "/", ratelimit.Reason(reason)))
		return reason == string(ratelimit.ReasonGone) || reason == string(ratelimit.ReasonGiveBack)
	})
	expectValues(t, gather(t, registry)["ratelimit_gone_total"], "policy=api 1")
	expectValues(t, gather(t, registry)["ratelimit_give_back_errors_total"], "policy=api 1")
	for source := ratelimit.SourceMemory; source.String() != "unknown"; source++ {
		e := eventOf("api", "/", ratelimit.ReasonAllowed)
		e.Result.Source = source
		c.Observe(t.Context(), e)
		reasons = append(reasons, source.String())
	}
	all := strings.Join(values(gather(t, registry)["ratelimit_requests_total"]), "\n")
	if strings.Contains(all, "=other ") {
		t.Errorf("something is counted as other:\n%s", all)
	}
	for _, word := range reasons {
		if !strings.Contains(all, "="+word+" ") {
			t.Errorf("no series has a label %q", word)
		}
	}
}

// reasonsOfLibrary reads the constants of type Reason from the library's source.
func reasonsOfLibrary(t *testing.T) (reasons []string) {
	t.Helper()
	files, err := filepath.Glob("../../*.go")
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		tree, err := parser.ParseFile(token.NewFileSet(), file, nil, parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		ast.Inspect(tree, func(n ast.Node) bool {
			if spec, ok := n.(*ast.ValueSpec); ok {
				if typ, ok := spec.Type.(*ast.Ident); ok && typ.Name == "Reason" {
					for _, value := range spec.Values {
						if literal, ok := value.(*ast.BasicLit); ok {
							reasons = append(reasons, strings.Trim(literal.Value, `"`))
						}
					}
				}
			}
			return true
		})
	}
	return reasons
}

func TestConcurrently(t *testing.T) {
	const goroutines, rounds = 8, 1000
	c, registry := registered(t, ratelimitprom.WithMaxRoutes(20))
	var all sync.WaitGroup
	for g := range goroutines {
		all.Go(func() {
			for i := range rounds {
				e := eventOf(fmt.Sprint("policy ", i%5), fmt.Sprint("/", i%7), ratelimit.ReasonAllowed)
				e.Result.Source = ratelimit.Source(i % 3)
				c.Observe(t.Context(), e)
				if g == 0 && i%100 == 0 {
					gather(t, registry)
				}
			}
		})
	}
	all.Wait()
	families, requests, latencies := gather(t, registry), 0.0, uint64(0)
	for _, m := range families["ratelimit_requests_total"].Metric {
		requests += m.Counter.GetValue()
	}
	for _, m := range families["ratelimit_store_duration_seconds"].Metric {
		latencies += m.Histogram.GetSampleCount()
	}
	if requests != goroutines*rounds || latencies != goroutines*rounds {
		t.Errorf("%v requests and %d latencies, want %d", requests, latencies, goroutines*rounds)
	}
}

func TestLint(t *testing.T) {
	c, registry := registered(t, ratelimitprom.WithMemoryStore("main", ratelimit.NewMemoryStore()),
		ratelimitprom.WithFallbackStore("main", breaker(false)))
	c.Observe(t.Context(), eventOf("api", "/", ratelimit.ReasonStore))
	problems, err := testutil.GatherAndLint(registry)
	if err != nil || len(problems) > 0 {
		t.Errorf("%v %v", problems, err)
	}
}

func TestMistakes(t *testing.T) {
	for want, mistake := range map[string]func(){
		`ratelimitprom: WithMaxRoutes(0): must be at least 1, for example 500`:                                                func() { ratelimitprom.WithMaxRoutes(0) },
		`ratelimitprom: WithMemoryStore("", …): needs a name, for example "main"`:                                             func() { ratelimitprom.WithMemoryStore("", ratelimit.NewMemoryStore()) },
		`ratelimitprom: WithFallbackStore("", …): needs a name, for example "main"`:                                           func() { ratelimitprom.WithFallbackStore("", breaker(true)) },
		`ratelimitprom: WithMemoryStore("main", nil): needs a *ratelimit.MemoryStore, for example ratelimit.NewMemoryStore()`: func() { ratelimitprom.WithMemoryStore("main", nil) },
		`ratelimitprom: WithFallbackStore("main", nil): needs a store with a breaker, for example a *ratelimit.FallbackStore`: func() { ratelimitprom.WithFallbackStore("main", nil) },
		`ratelimitprom: WithLeases("", …): needs a name, for example "main"`:                                                  func() { ratelimitprom.WithLeases("", leaser{}) },
		`ratelimitprom: WithLeases("main", nil): needs a *ratelimit.RedisStore that was made WithLease`:                       func() { ratelimitprom.WithLeases("main", nil) },
	} {
		func() {
			defer func() {
				if got := recover(); got != want {
					t.Errorf("panicked with %v, want %v", got, want)
				}
			}()
			mistake()
		}()
	}
}

// Series that alerts read begin at 0 when a policy, and a route of it, is first seen, so that the first burst is an increase.
func TestSeriesBeginAtZero(t *testing.T) {
	c, registry := registered(t)
	c.Observe(t.Context(), eventOf("api", "/", ratelimit.ReasonAllowed))
	onRedis := eventOf("shared", "/", ratelimit.ReasonAllowed)
	onRedis.Result.Source = ratelimit.SourceRedis
	c.Observe(t.Context(), onRedis)
	metrics := gather(t, registry)
	var zeros []string
	for _, name := range fromZero {
		for _, m := range metrics[name].GetMetric() {
			if m.GetCounter().GetValue() == 0 {
				var labels []string
				for _, l := range m.GetLabel() {
					if n := l.GetName(); n != "route" && n != "decision" {
						labels = append(labels, l.GetValue())
					}
				}
				zeros = append(zeros, strings.Join(labels, " "))
			}
		}
	}
	slices.Sort(zeros)
	want := []string{
		"api allowed overflow", "api banned memory", "api cost memory", "api no_key memory", "api overflow overflow", "api refused memory",
		"shared allowed fallback", "shared banned redis", "shared cost redis", "shared no_key redis", "shared refused fallback", "shared refused redis",
	}
	for _, kind := range []string{"canceled", "foreign", "network", "other", "reply", "timeout"} {
		want = append(want, kind+" api", kind+" shared")
	}
	slices.Sort(want)
	if !slices.Equal(zeros, want) {
		t.Errorf("zeros:\n\t%s\nwant\n\t%s", strings.Join(zeros, "\n\t"), strings.Join(want, "\n\t"))
	}
}
