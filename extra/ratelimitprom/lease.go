package ratelimitprom

import (
	"github.com/gin-ratelimit/ratelimit"
	"github.com/prometheus/client_golang/prometheus"
)

var (
	leaseCallsDesc = prometheus.NewDesc("ratelimit_lease_calls_total",
		"Calls to Redis for leases.",
		[]string{"store"}, nil)
	leaseTokensDesc = prometheus.NewDesc("ratelimit_lease_tokens_total",
		"Tokens of leases, by fate: leased, spent, given_back or void.",
		[]string{"store", "fate"}, nil)
)

// Leaser is a store that keeps leases, such as ratelimit.RedisStore.
type Leaser interface {
	// LeaseStats returns what the leases have done so far.
	LeaseStats() ratelimit.LeaseStats
}

// WithLeases exports what the leases of store do, under its name: calls to Redis, and the tokens that were leased, spent,
// given back to the lease, or void because they were not spent in time. The store is asked at each scrape. Repeatable; a
// further store of the same name replaces the one before. It panics if name is "" or store is nil.
func WithLeases(name string, store Leaser) Option {
	checkStore("WithLeases", name, store == nil, "a *ratelimit.RedisStore that was made WithLease")
	return func(c *Collector) { c.leases[validUTF8(name)] = store }
}

func collectLeases(ch chan<- prometheus.Metric, leases map[string]Leaser) {
	counter := func(desc *prometheus.Desc, value int64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(desc, prometheus.CounterValue, float64(value), labels...)
	}
	for name, store := range leases {
		stats := store.LeaseStats()
		counter(leaseCallsDesc, stats.Calls, name)
		counter(leaseTokensDesc, stats.Leased, name, "leased")
		counter(leaseTokensDesc, stats.Spent, name, "spent")
		counter(leaseTokensDesc, stats.GivenBack, name, "given_back")
		counter(leaseTokensDesc, stats.Void, name, "void")
	}
}
