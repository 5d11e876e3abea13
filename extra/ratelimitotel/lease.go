package ratelimitotel

import (
	"errors"
	"fmt"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"

	"github.com/gin-ratelimit/ratelimit"
)

// Leaser is a store that keeps leases, such as ratelimit.RedisStore.
type Leaser interface {
	// LeaseStats returns what the leases have done so far.
	LeaseStats() ratelimit.LeaseStats
}

// WithLeases records what the leases of store do, under its name, each time metrics are read: gin.ratelimit.lease.calls, and
// gin.ratelimit.lease.tokens by ratelimit.fate, which is leased, spent, given_back or void. Repeatable. It panics if name is ""
// or store is nil.
func WithLeases(name string, store Leaser) Option {
	if name == "" || store == nil {
		panic(fmt.Sprintf("ratelimitotel: WithLeases(%q, %v): needs a name and a store, for example \"main\" and a *ratelimit.RedisStore that was made WithLease", name, store))
	}
	return func(c *config) { c.leases[validUTF8(name)] = store }
}

const fateKey = attribute.Key("ratelimit.fate")

func leaseInstruments(meter metric.Meter) (calls, tokens metric.Int64ObservableCounter, err error) {
	calls, callsErr := meter.Int64ObservableCounter("gin.ratelimit.lease.calls", metric.WithUnit("{call}"),
		metric.WithDescription("Calls to Redis for leases."))
	tokens, tokensErr := meter.Int64ObservableCounter("gin.ratelimit.lease.tokens", metric.WithUnit("{token}"),
		metric.WithDescription("Tokens of leases, by fate: leased, spent, given_back or void."))
	return calls, tokens, errors.Join(callsErr, tokensErr)
}

func observeLeases(to metric.Observer, calls, tokens metric.Int64Observable, name string, stats ratelimit.LeaseStats) {
	to.ObserveInt64(calls, stats.Calls, metric.WithAttributes(storeKey.String(name)))
	for fate, n := range map[string]int64{
		"leased": stats.Leased, "spent": stats.Spent, "given_back": stats.GivenBack, "void": stats.Void,
	} {
		to.ObserveInt64(tokens, n, metric.WithAttributes(storeKey.String(name), fateKey.String(fate)))
	}
}
