package verify

import (
	"testing"
	"time"

	"github.com/gin-ratelimit/ratelimit"
	"github.com/gin-ratelimit/ratelimit/internal/redistest"
)

// Versions of a program with different limits run side by side on the same keys, as in a deployment.
func TestB05ChangedLimits(t *testing.T) {
	c := try(t, "B5")
	old := ratelimit.Limit{Capacity: 20, Refill: ratelimit.PerSecond(20)}
	for _, next := range []ratelimit.Limit{
		{Capacity: 60, Refill: ratelimit.PerSecond(20)},
		{Capacity: 5, Refill: ratelimit.Rate{Tokens: 100, Per: 3 * time.Second}},
		{Capacity: 20, Refill: ratelimit.PerSecond(60)},
		{Capacity: 20, Refill: ratelimit.Rate{Tokens: 7, Per: 3 * time.Second}},
	}[:pick(4, 2)] {
		server := redistest.Start(t)
		spec := defaultSpec(server.Addr)
		spec.Limit = old
		before := startLoad(t, 2, spec)
		before.run(200 * time.Millisecond)
		spec.Limit = next
		after := startLoad(t, 2, spec)
		began := monotonic()
		after.run(time.Duration(pick(3000, 1500)) * time.Millisecond)
		ended := monotonic()
		log := append(before.stop(), after.stop()...)
		for _, version := range []ratelimit.Limit{old, next} {
			if log.between(began, ended).count(admitted) == 0 {
				t.Errorf("under %v nobody was admitted", version)
			}
		}
		largest := fastest(old, next)
		c.times(1)
		c.exceeds(worstExcess(log.admissions(), largest), 0)
	}
}

// fastest is the larger capacity and the larger rate.
func fastest(a, b ratelimit.Limit) ratelimit.Limit {
	largest := ratelimit.Limit{Capacity: max(a.Capacity, b.Capacity), Refill: a.Refill}
	if float64(b.Refill.Tokens)/b.Refill.Per.Seconds() > float64(a.Refill.Tokens)/a.Refill.Per.Seconds() {
		largest.Refill = b.Refill
	}
	return largest
}
