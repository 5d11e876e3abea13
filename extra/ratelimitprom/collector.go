// Package ratelimitprom exports what rate limiters do to Prometheus.
//
//	metrics, err := ratelimitprom.Register(prometheus.DefaultRegisterer)
//	…
//	router.Use(ratelimit.New(…, ratelimit.WithObserver(metrics.Observe)))
//	router.GET("/metrics", gin.WrapH(promhttp.Handler()))
//
// It exports
//
//	ratelimit_requests_total{policy,route,decision,reason,source}  requests, by how they were decided
//	ratelimit_store_duration_seconds{policy,source}                how long stores took; a classic and a native histogram
//	ratelimit_store_errors_total{policy,kind}                      requests that stores could not decide
//	ratelimit_gone_total{policy}                                   requests given up while held back: their clients left
//	ratelimit_give_back_errors_total{policy}                       times that tokens could not be given back
//	ratelimit_store_degraded{store}                                1 while a store's breaker is not closed; see WithFallbackStore
//	ratelimit_store_keys{store}                                    keys in memory; see WithMemoryStore
//	ratelimit_lease_calls_total{store}                             calls to Redis for leases; see WithLeases
//	ratelimit_lease_tokens_total{store,fate}                       tokens of leases, by what became of them
//	ratelimit_wait_duration_seconds{policy}                        how long held-back requests waited; classic and native
//	ratelimit_waiting_requests{policy}                             requests held back as of the policy's last event
//
// policy is the limiter's name. route is the route's pattern, "none" outside of routes, "other" beyond
// [WithMaxRoutes]. decision is allowed, refused, shadow (let through, but would have been refused) or failed (no
// decision; the error handler decides what happens then), and reason is why, in the words of ratelimit.Reason.
// source is which store decided, in the words of ratelimit.Source: source="overflow" is a MemoryStore that is full.
// A request that was given up while it was held back is counted in ratelimit_gone_total alone.
// kind is a word of ratelimit.ErrorKind; mistakes in arguments are not the store's, and count in requests_total alone.
// No label ever holds a key.
//
// The package's directory has alerting rules, alerts.yml, and a Grafana dashboard to import, dashboard.json.
package ratelimitprom

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"sync"
	"sync/atomic"
	"time"

	"github.com/gin-ratelimit/ratelimit"
	"github.com/prometheus/client_golang/prometheus"
)

// Collector is a prometheus.Collector that is fed by [Collector.Observe]. One Collector serves any number of
// limiters; those of one name are one policy. It may be registered with several registries. It is safe for
// concurrent use, and owns no goroutine.
type Collector struct {
	known  atomic.Pointer[index] // replaced under mu, so that events need no lock
	errors *prometheus.CounterVec
	gone   *prometheus.CounterVec
	backs  *prometheus.CounterVec
	waits  *prometheus.HistogramVec

	mu       sync.Mutex
	memory   map[string]*ratelimit.MemoryStore
	fallback map[string]Degrader
	leases   map[string]Leaser
}

var (
	requestsDesc = prometheus.NewDesc("ratelimit_requests_total",
		"Requests by limiter, route pattern, decision, its reason, and who decided.",
		[]string{"policy", "route", "decision", "reason", "source"}, nil)
	latencyDesc = prometheus.NewDesc("ratelimit_store_duration_seconds",
		"How long the store took to decide, or to fail.",
		[]string{"policy", "source"}, nil)
	degradedDesc = prometheus.NewDesc("ratelimit_store_degraded",
		"1 while the store's breaker is not closed and its fallback decides, else 0.",
		[]string{"store"}, nil)
	keysDesc = prometheus.NewDesc("ratelimit_store_keys",
		"Keys that the store holds in memory.",
		[]string{"store"}, nil)
	waitingDesc = prometheus.NewDesc("ratelimit_waiting_requests",
		"Requests that the limiter was holding back at its last event.",
		[]string{"policy"}, nil)
)

// Option configures [New] and [Register].
type Option func(*Collector)

// WithMemoryStore exports how many keys store holds, under its name. The store is counted at each scrape.
// Repeatable; a further store of the same name replaces the one before. It panics if name is "" or store is nil.
func WithMemoryStore(name string, store *ratelimit.MemoryStore) Option {
	checkStore("WithMemoryStore", name, store == nil, "a *ratelimit.MemoryStore, for example ratelimit.NewMemoryStore()")
	return func(c *Collector) { c.memory[validUTF8(name)] = store }
}

// Degrader is a store that has a breaker, such as ratelimit.FallbackStore.
type Degrader interface {
	// Degraded reports whether the breaker is not closed.
	Degraded() bool
}

// WithFallbackStore exports whether store is degraded, under its name. It is asked at each scrape. Repeatable; a
// further store of the same name replaces the one before. It panics if name is "" or store is nil.
func WithFallbackStore(name string, store Degrader) Option {
	checkStore("WithFallbackStore", name, store == nil, "a store with a breaker, for example a *ratelimit.FallbackStore")
	return func(c *Collector) { c.fallback[validUTF8(name)] = store }
}

func checkStore(option, name string, isNil bool, example string) {
	switch {
	case name == "":
		panic(fmt.Sprintf("ratelimitprom: %s(%q, …): needs a name, for example \"main\"", option, name))
	case isNil:
		panic(fmt.Sprintf("ratelimitprom: %s(%q, nil): needs %s", option, name, example))
	}
}

// WithMaxRoutes sets how many pairs of policy and route get series of their own. Further routes of a policy are
// counted under route "other", and further policies under policy "other". It panics if pairs is below 1.
// Default: 500.
func WithMaxRoutes(pairs int) Option {
	if pairs < 1 {
		panic(fmt.Sprintf("ratelimitprom: WithMaxRoutes(%d): must be at least 1, for example 500", pairs))
	}
	return func(c *Collector) {
		known := c.known.Load().clone()
		known.maxPairs = pairs
		c.known.Store(known)
	}
}

// New returns a Collector, to be registered once per registry; [Register] does both, and as often as you like.
func New(opts ...Option) *Collector {
	c := &Collector{
		errors: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "ratelimit_store_errors_total",
			Help: "Requests that the store could not decide, by kind of error.",
		}, []string{"policy", "kind"}),
		gone: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "ratelimit_gone_total",
			Help: "Requests that were given up while they were held back, because their clients left.",
		}, []string{"policy"}),
		backs: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "ratelimit_give_back_errors_total",
			Help: "Times that the store could not give tokens back.",
		}, []string{"policy"}),
		waits: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name:                            "ratelimit_wait_duration_seconds",
			Help:                            "How long requests were held back, of those that were.",
			Buckets:                         []float64{.001, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30},
			NativeHistogramBucketFactor:     nativeFactor,
			NativeHistogramMaxBucketNumber:  160,
			NativeHistogramMinResetDuration: time.Hour,
		}, []string{"policy"}),
		memory:   map[string]*ratelimit.MemoryStore{},
		fallback: map[string]Degrader{},
		leases:   map[string]Leaser{},
	}
	c.known.Store(&index{maxPairs: 500, series: map[pair]*series{}, policies: map[string]*policy{}})
	c.apply(opts)
	return c
}

// Register returns the Collector of r: a new one, or the one that an earlier call has registered there, to which opts are
// then applied too. So an application may set itself up again in one process, and counting goes on.
//
// The error is r's, if something else has registered the names.
func Register(r prometheus.Registerer, opts ...Option) (*Collector, error) {
	c := New(opts...)
	err := r.Register(c)
	if already, ok := errors.AsType[prometheus.AlreadyRegisteredError](err); ok {
		if existing, ok := already.ExistingCollector.(*Collector); ok {
			existing.apply(opts)
			return existing, nil
		}
	}
	if err != nil {
		return nil, fmt.Errorf("ratelimitprom: %w", err)
	}
	return c, nil
}

func (c *Collector) apply(opts []Option) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, opt := range opts {
		opt(c)
	}
}

// Observe counts an event; give it to ratelimit.WithObserver, once per limiter.
func (c *Collector) Observe(_ context.Context, e ratelimit.Event) {
	s, source := c.series(e.Name, e.Route), sourceOf(e.Result.Source)
	p := s.policy
	switch e.Reason {
	case ratelimit.ReasonGiveBack:
		c.backs.WithLabelValues(p.name).Inc()
		return
	case ratelimit.ReasonGone:
		c.gone.WithLabelValues(p.name).Inc()
	default:
		s.counts[reasonOf(e.Reason)][source].Add(1)
	}
	if e.Elapsed > 0 { // If it is 0, the store was not asked.
		p.latency(source).observe(e.Elapsed)
	}
	if e.Waited > 0 {
		c.waits.WithLabelValues(p.name).Observe(e.Waited.Seconds())
	}
	if waiting := int64(e.Waiting); p.waiting.Load() != waiting {
		p.waiting.Store(waiting)
	}
	if e.Err != nil && !errors.Is(e.Err, ratelimit.ErrArgument) {
		c.errors.WithLabelValues(p.name, ratelimit.ErrorKind(e.Err)).Inc()
	}
}

// Describe implements prometheus.Collector.
func (c *Collector) Describe(ch chan<- *prometheus.Desc) {
	for _, desc := range []*prometheus.Desc{requestsDesc, latencyDesc, degradedDesc, keysDesc, waitingDesc, leaseCallsDesc, leaseTokensDesc} {
		ch <- desc
	}
	c.errors.Describe(ch)
	c.gone.Describe(ch)
	c.backs.Describe(ch)
	c.waits.Describe(ch)
}

// Collect implements prometheus.Collector.
func (c *Collector) Collect(ch chan<- prometheus.Metric) {
	c.errors.Collect(ch)
	c.gone.Collect(ch)
	c.backs.Collect(ch)
	c.waits.Collect(ch)
	c.known.Load().collect(ch)

	c.mu.Lock()
	memory, fallback, leases := maps.Clone(c.memory), maps.Clone(c.fallback), maps.Clone(c.leases)
	c.mu.Unlock()
	collectLeases(ch, leases)
	gauge := func(desc *prometheus.Desc, value float64, store string) {
		ch <- prometheus.MustNewConstMetric(desc, prometheus.GaugeValue, value, store)
	}
	for name, store := range memory {
		gauge(keysDesc, float64(store.Len()), name)
	}
	for name, store := range fallback {
		degraded := 0.0
		if store.Degraded() {
			degraded = 1
		}
		gauge(degradedDesc, degraded, name)
	}
}
