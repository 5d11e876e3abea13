package ratelimitprom_test

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/gin-ratelimit/ratelimit"
	"github.com/gin-ratelimit/ratelimit/extra/ratelimitprom"
)

// eventOf is an event as a limiter on memory makes it.
func eventOf(name, route string, reason ratelimit.Reason) ratelimit.Event {
	e := ratelimit.Event{
		Name:    name,
		Route:   route,
		Cost:    1,
		Reason:  reason,
		Result:  ratelimit.Result{Source: ratelimit.SourceMemory, Allowed: reason == ratelimit.ReasonAllowed},
		Elapsed: 350 * time.Nanosecond,
	}
	if reason == ratelimit.ReasonStore {
		e.Err, e.Result = errors.New("down"), ratelimit.Result{}
	}
	return e
}

func TestObserveDoesNotAllocate(t *testing.T) {
	c := ratelimitprom.New()
	for _, reason := range []ratelimit.Reason{ratelimit.ReasonAllowed, ratelimit.ReasonRefused, ratelimit.ReasonShadow} {
		e := eventOf("api", "/users/:id", reason)
		c.Observe(t.Context(), e)
		if allocs := testing.AllocsPerRun(1000, func() { c.Observe(t.Context(), e) }); allocs != 0 {
			t.Errorf("%s: %v allocations", reason, allocs)
		}
	}
}

func BenchmarkObserve(b *testing.B) {
	observe := func(c *ratelimitprom.Collector, e ratelimit.Event) func(*testing.B) {
		return func(b *testing.B) {
			b.ReportAllocs()
			ctx := b.Context()
			for b.Loop() {
				c.Observe(ctx, e)
			}
		}
	}
	full := ratelimitprom.New(ratelimitprom.WithMaxRoutes(500))
	for i := range 500 {
		full.Observe(b.Context(), eventOf("api", fmt.Sprintf("/v1/things/%d/:id", i), ratelimit.ReasonAllowed))
	}
	b.Run("one of 1 route", observe(ratelimitprom.New(), eventOf("api", "/v1/things/7/:id", ratelimit.ReasonAllowed)))
	b.Run("one of 500 routes", observe(full, eventOf("api", "/v1/things/7/:id", ratelimit.ReasonAllowed)))
	b.Run("beyond the 500", observe(full, eventOf("api", "/v1/others/7/:id", ratelimit.ReasonAllowed)))
	b.Run("failed", observe(full, eventOf("api", "/v1/things/7/:id", ratelimit.ReasonStore)))
	b.Run("parallel", func(b *testing.B) {
		b.ReportAllocs()
		ctx, e := b.Context(), eventOf("api", "/v1/things/7/:id", ratelimit.ReasonAllowed)
		b.RunParallel(func(pb *testing.PB) {
			for pb.Next() {
				full.Observe(ctx, e)
			}
		})
	})
}
