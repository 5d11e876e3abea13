// Package ratelimitotel exports what rate limiters do to OpenTelemetry, as metrics and on the request's span.
//
//	observer, err := ratelimitotel.New()
//	…
//	router.Use(otelgin.Middleware("shop"))
//	router.Use(ratelimit.New(…, ratelimit.WithObserver(observer.Observe)))
//
// The instruments are
//
//	gin.ratelimit.requests            counter, {request}    requests, by how they were decided
//	gin.ratelimit.store.duration      histogram, s          how long stores took
//	gin.ratelimit.store.errors        counter, {error}      requests that stores could not decide
//	gin.ratelimit.gone                counter, {request}    requests given up while held back: their clients left
//	gin.ratelimit.give_back.errors    counter, {error}      times that tokens could not be given back
//	gin.ratelimit.store.degraded      gauge, {store}        1 while a store's breaker is not closed; see WithFallbackStore
//	gin.ratelimit.store.keys          gauge, {key}          keys in memory; see WithMemoryStore
//	gin.ratelimit.wait.duration       histogram, s          how long held-back requests waited
//	gin.ratelimit.waiting_requests    gauge, {request}      requests held back as of the policy's last event
//
// and their attributes
//
//	ratelimit.policy      the limiter's name
//	ratelimit.decision    allowed, refused, shadow (let through, but would have been refused), failed (no decision)
//	ratelimit.reason      why, in the words of ratelimit.Reason
//	ratelimit.source      which store decided, in the words of ratelimit.Source
//	ratelimit.store       the name given to WithMemoryStore or WithFallbackStore
//	http.route            the route's pattern; absent outside of routes, "other" beyond a bound
//	error.type            what went wrong, in the words of ratelimit.ErrorKind
//
// A span that records gets an event "ratelimit.decision" with policy, decision, reason and source, and in addition
// ratelimit.cost, ratelimit.limit ("5/m"), ratelimit.remaining (whole tokens) and ratelimit.retry_after (seconds; only of
// refusals where waiting helps). If limiters stack, each adds its own event.
//
// No attribute ever holds a key.
//
// Names differ from those of extra/ratelimitprom, so that both can be exported to one Prometheus. The alerts and the
// dashboard of extra/ratelimitprom are for its own metrics: exported through OpenTelemetry, requests are
// gin_ratelimit_requests_total, with labels ratelimit_policy, http_route, ratelimit_decision, ratelimit_reason and
// ratelimit_source.
package ratelimitotel

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/gin-ratelimit/ratelimit"
	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
	"go.opentelemetry.io/otel/trace"
)

const (
	policyKey   = attribute.Key("ratelimit.policy")
	decisionKey = attribute.Key("ratelimit.decision")
	reasonKey   = attribute.Key("ratelimit.reason")
	sourceKey   = attribute.Key("ratelimit.source")
	storeKey    = attribute.Key("ratelimit.store")
	routeKey    = attribute.Key("http.route") // semantic conventions
	errorKey    = attribute.Key("error.type") // semantic conventions
)

// Observer records events. One Observer serves any number of limiters; those of one name are one policy. Observers
// on one MeterProvider share their instruments. It is safe for concurrent use, and owns no goroutine.
type Observer struct {
	requests metric.Int64Counter
	duration metric.Float64Histogram
	errors   metric.Int64Counter
	gone     metric.Int64Counter
	backs    metric.Int64Counter
	waits    metric.Float64Histogram
	waiting  metric.Int64Gauge

	mu     sync.Mutex // held to replace known
	known  atomic.Pointer[map[fate]*measurements]
	routes map[pair]bool // guarded by mu: the pairs with a route of their own, not "other"

	registration metric.Registration
}

// Option configures [New].
type Option func(*config)

type config struct {
	provider metric.MeterProvider
	memory   map[string]*ratelimit.MemoryStore
	fallback map[string]Degrader
	leases   map[string]Leaser
}

// WithMeterProvider sets where metrics go. It panics if provider is nil. Default: the global one.
func WithMeterProvider(provider metric.MeterProvider) Option {
	if provider == nil {
		panic("ratelimitotel: WithMeterProvider(nil): needs a MeterProvider, for example otel.GetMeterProvider()")
	}
	return func(c *config) { c.provider = provider }
}

// WithMemoryStore records how many keys store holds, under its name, each time metrics are read. Repeatable. It
// panics if name is "" or store is nil.
func WithMemoryStore(name string, store *ratelimit.MemoryStore) Option {
	if name == "" || store == nil {
		panic(fmt.Sprintf("ratelimitotel: WithMemoryStore(%q, %p): needs a name and a store, for example \"main\" and ratelimit.NewMemoryStore()", name, store))
	}
	return func(c *config) { c.memory[validUTF8(name)] = store }
}

// Degrader is a store that has a breaker, such as ratelimit.FallbackStore.
type Degrader interface {
	// Degraded reports whether the breaker is not closed.
	Degraded() bool
}

// WithFallbackStore records whether store is degraded, under its name, each time metrics are read. Repeatable. It
// panics if name is "" or store is nil.
func WithFallbackStore(name string, store Degrader) Option {
	if name == "" || store == nil {
		panic(fmt.Sprintf("ratelimitotel: WithFallbackStore(%q, %v): needs a name and a store, for example \"main\" and a *ratelimit.FallbackStore", name, store))
	}
	return func(c *config) { c.fallback[validUTF8(name)] = store }
}

// New returns an Observer. The error is the MeterProvider's, about an instrument.
func New(opts ...Option) (*Observer, error) {
	config := config{
		provider: otel.GetMeterProvider(),
		memory:   map[string]*ratelimit.MemoryStore{},
		fallback: map[string]Degrader{},
		leases:   map[string]Leaser{},
	}
	for _, opt := range opts {
		opt(&config)
	}
	o := &Observer{routes: map[pair]bool{}}
	o.known.Store(&map[fate]*measurements{})
	if err := o.instrument(config); err != nil {
		return nil, fmt.Errorf("ratelimitotel: %w", err)
	}
	return o, nil
}

// Close stops watching the stores of [WithMemoryStore], [WithFallbackStore] and [WithLeases]; counts stay as they are. An
// application that sets itself up again should call it on the earlier Observer.
func (o *Observer) Close() error { return o.registration.Unregister() }

func (o *Observer) instrument(config config) error {
	meter := config.provider.Meter("github.com/gin-ratelimit/ratelimit/extra/ratelimitotel")
	var errs [11]error
	o.requests, errs[0] = meter.Int64Counter("gin.ratelimit.requests", metric.WithUnit("{request}"),
		metric.WithDescription("Requests by limiter, route, decision, its reason, and who decided."))
	o.duration, errs[1] = meter.Float64Histogram("gin.ratelimit.store.duration", metric.WithUnit("s"),
		metric.WithDescription("How long the store took to decide, or to fail."),
		metric.WithExplicitBucketBoundaries(1e-6, 1e-5, 1e-4, 2.5e-4, 5e-4, .001, .0025, .005, .01, .025, .05, .1, .25, 1, 2.5, 5, 10))
	o.errors, errs[2] = meter.Int64Counter("gin.ratelimit.store.errors", metric.WithUnit("{error}"),
		metric.WithDescription("Requests that the store could not decide, by kind of error."))
	o.waits, errs[3] = meter.Float64Histogram("gin.ratelimit.wait.duration", metric.WithUnit("s"),
		metric.WithDescription("How long requests were held back, of those that were."),
		metric.WithExplicitBucketBoundaries(.001, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30))
	o.waiting, errs[4] = meter.Int64Gauge("gin.ratelimit.waiting_requests", metric.WithUnit("{request}"),
		metric.WithDescription("Requests that the limiter was holding back at its last event."))
	o.gone, errs[8] = meter.Int64Counter("gin.ratelimit.gone", metric.WithUnit("{request}"),
		metric.WithDescription("Requests that were given up while they were held back, because their clients left."))
	o.backs, errs[9] = meter.Int64Counter("gin.ratelimit.give_back.errors", metric.WithUnit("{error}"),
		metric.WithDescription("Times that the store could not give tokens back."))
	// A gauge rather than an up-down counter, because the values of two Observers on one store must not be added up.
	keys, err := meter.Int64ObservableGauge("gin.ratelimit.store.keys", metric.WithUnit("{key}"),
		metric.WithDescription("Keys that the store holds in memory."))
	errs[5] = err
	degraded, err := meter.Int64ObservableGauge("gin.ratelimit.store.degraded", metric.WithUnit("{store}"),
		metric.WithDescription("1 while the store's breaker is not closed and its fallback decides, else 0."))
	errs[6] = err
	calls, tokens, err := leaseInstruments(meter)
	errs[10] = err
	o.registration, errs[7] = meter.RegisterCallback(func(_ context.Context, to metric.Observer) error {
		for name, store := range config.memory {
			to.ObserveInt64(keys, int64(store.Len()), metric.WithAttributes(storeKey.String(name)))
		}
		for name, store := range config.fallback {
			value := int64(0)
			if store.Degraded() {
				value = 1
			}
			to.ObserveInt64(degraded, value, metric.WithAttributes(storeKey.String(name)))
		}
		for name, store := range config.leases {
			observeLeases(to, calls, tokens, name, store.LeaseStats())
		}
		return nil
	}, keys, degraded, calls, tokens)
	return errors.Join(errs[:]...)
}

// Observe records an event; give it to ratelimit.WithObserver, once per limiter.
func (o *Observer) Observe(ctx context.Context, e ratelimit.Event) {
	m := o.measurements(ctx, e)
	switch e.Reason {
	case ratelimit.ReasonGiveBack:
		o.backs.Add(ctx, 1, m.alone...)
		return
	case ratelimit.ReasonGone:
		o.gone.Add(ctx, 1, m.alone...)
	default:
		o.requests.Add(ctx, 1, m.request...)
	}
	if e.Elapsed > 0 { // If it is 0, the store was not asked.
		o.duration.Record(ctx, e.Elapsed.Seconds(), m.store...)
	}
	if e.Waited > 0 {
		o.waits.Record(ctx, e.Waited.Seconds(), m.policy...)
	}
	if e.Waited > 0 || e.Waiting > 0 { // When the last request has waited, it records 0.
		o.waiting.Record(ctx, int64(e.Waiting), m.policy...)
	}
	if e.Err != nil && !errors.Is(e.Err, ratelimit.ErrArgument) {
		o.errors.Add(ctx, 1, errorAttributes(e.Name, ratelimit.ErrorKind(e.Err)))
	}
	if span := trace.SpanFromContext(ctx); span.IsRecording() {
		span.AddEvent("ratelimit.decision", trace.WithAttributes(spanAttributes(e)...))
	}
}

// spanAttributes returns the attributes of an event on a span.
func spanAttributes(e ratelimit.Event) []attribute.KeyValue {
	attributes := append(make([]attribute.KeyValue, 0, 8),
		policyKey.String(validUTF8(e.Name)),
		decisionKey.String(decisionOf(e)),
		reasonKey.String(string(e.Reason)),
		attribute.Int("ratelimit.cost", e.Cost))
	if e.Err != nil {
		return append(attributes, errorKey.String(ratelimit.ErrorKind(e.Err)))
	}
	attributes = append(attributes,
		sourceKey.String(e.Result.Source.String()),
		attribute.String("ratelimit.limit", e.Result.Limit.String()),
		attribute.Int("ratelimit.remaining", e.Result.Remaining))
	if !e.Result.Allowed && e.Result.RetryAfter != ratelimit.Never {
		attributes = append(attributes, attribute.Float64("ratelimit.retry_after", e.Result.RetryAfter.Seconds()))
	}
	return attributes
}

func decisionOf(e ratelimit.Event) string {
	switch {
	case e.Reason == ratelimit.ReasonShadow:
		return "shadow"
	case e.Reason == ratelimit.ReasonGone:
		return "gone"
	case e.Err != nil:
		return "failed"
	case e.Result.Allowed:
		return "allowed"
	default:
		return "refused"
	}
}

// fate is the part of an event that attributes are made from.
type fate struct {
	policy, route    string
	decision, reason string
	source           ratelimit.Source
}

// measurements are the attributes of one fate, in the form that instruments take without allocating.
type measurements struct {
	request, alone []metric.AddOption // alone: by the policy alone
	store, policy  []metric.RecordOption
}

// pair is a policy and a route.
type pair struct{ policy, route string }

const (
	// maxRoutes is how many pairs of policy and route are recorded by their route. With a handful of fates each, they are
	// half of the series that an SDK keeps by default. A route is recorded for all its fates or for none, or its ratios
	// would be wrong.
	maxRoutes = 200
	maxFates  = 20 * maxRoutes // how many fates are remembered
)

// measurements returns the attributes of an event. Beyond a bound they are made anew each time.
func (o *Observer) measurements(ctx context.Context, e ratelimit.Event) *measurements {
	f := fate{e.Name, e.Route, decisionOf(e), string(e.Reason), e.Result.Source}
	if m := (*o.known.Load())[f]; m != nil {
		return m
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	known := *o.known.Load()
	named := f
	if p := (pair{f.policy, f.route}); !o.routes[p] {
		if len(o.routes) >= maxRoutes {
			named.route = "other"
		} else {
			o.routes[p] = true
			o.begin(ctx, f)
		}
	}
	m := known[named]
	if m == nil {
		m = named.measurements()
	}
	if len(known) < maxFates {
		known = maps.Clone(known)
		known[f], known[named] = m, m
		o.known.Store(&known)
	}
	return m
}

// begin adds 0 to the series of a pair that is seen for the first time, because a rate does not see the first increase of
// a series that begins with it.
func (o *Observer) begin(ctx context.Context, f fate) {
	if f.source != ratelimit.SourceUnknown {
		f.decision = "refused"
		for _, reason := range []ratelimit.Reason{ratelimit.ReasonRefused, ratelimit.ReasonBanned} {
			f.reason = string(reason)
			o.requests.Add(ctx, 0, f.measurements().request...)
		}
	}
	for _, kind := range []string{"timeout", "network", "reply"} {
		o.errors.Add(ctx, 0, errorAttributes(f.policy, kind))
	}
}

func errorAttributes(policy, kind string) metric.MeasurementOption {
	return metric.WithAttributes(policyKey.String(validUTF8(policy)), errorKey.String(kind))
}

// validUTF8 returns text as an attribute's value, which must be UTF-8: if one is not, an exporter fails for all metrics.
func validUTF8(text string) string { return strings.ToValidUTF8(text, "\uFFFD") }

func (f fate) measurements() *measurements {
	policy, source := policyKey.String(validUTF8(f.policy)), sourceKey.String(f.source.String())
	request := []attribute.KeyValue{policy, source, decisionKey.String(f.decision), reasonKey.String(f.reason)}
	if f.route != "" {
		request = append(request, routeKey.String(validUTF8(f.route)))
	}
	set := func(attributes ...attribute.KeyValue) metric.MeasurementOption {
		return metric.WithAttributeSet(attribute.NewSet(attributes...))
	}
	return &measurements{
		request: []metric.AddOption{set(request...)},
		alone:   []metric.AddOption{set(policy)},
		store:   []metric.RecordOption{set(policy, source)},
		policy:  []metric.RecordOption{set(policy)},
	}
}
