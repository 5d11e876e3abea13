package console

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/gin-ratelimit/ratelimit"
)

func newTestWatch() *watch {
	return newWatch("test", ratelimit.Must(ratelimit.NewLimiter(ratelimit.WithLimit(ratelimit.PerSecond(1).Burst(1)))), time.Now())
}

func refusal(key string) ratelimit.Event {
	return ratelimit.Event{Key: ratelimit.KeyOf(key), Reason: ratelimit.ReasonRefused}
}

// The true count of every key that is shown is within its bounds, and the keys that are refused most are shown.
func TestTopBoundsUnderAFloodOfKeys(t *testing.T) {
	w := newTestWatch()
	const flood = 1_000_000
	for i := range flood {
		w.observe(context.Background(), refusal(fmt.Sprint(i)))
		if i%10 == 0 {
			w.observe(context.Background(), refusal("attacker"))
		}
	}
	shown := w.top.last(topMinutes, true)
	require.NotEmpty(t, shown)
	assert.Equal(t, "attacker", shown[0].Raw)
	for _, k := range shown {
		count := uint64(1)
		if k.Raw == "attacker" {
			count = flood / 10
		}
		assert.LessOrEqual(t, k.Low, count, k.Raw)
		assert.GreaterOrEqual(t, k.High, count, k.Raw)
	}
}

func TestObserveAllocatesNothing(t *testing.T) {
	w := newTestWatch()
	for name, e := range map[string]ratelimit.Event{"accepted": {Reason: ratelimit.ReasonAllowed}, "refused": refusal("203.0.113.9")} {
		assert.Zero(t, testing.AllocsPerRun(1000, func() { w.observe(context.Background(), e) }), name)
	}
}

func BenchmarkObserve(b *testing.B) {
	for name, e := range map[string]ratelimit.Event{
		"accepted": {Reason: ratelimit.ReasonAllowed, Key: ratelimit.KeyOf("203.0.113.9")},
		"refused":  refusal("203.0.113.9"),
	} {
		b.Run(name, func(b *testing.B) {
			w := newTestWatch()
			b.ReportAllocs()
			for b.Loop() {
				w.observe(context.Background(), e)
			}
		})
	}
	for name, reason := range map[string]ratelimit.Reason{"refused/flood": ratelimit.ReasonRefused, "shadow/flood": ratelimit.ReasonShadow} {
		b.Run(name, func(b *testing.B) {
			w := newTestWatch()
			keys := make([]ratelimit.Key, 1<<12)
			for i := range keys {
				keys[i] = ratelimit.KeyOf(fmt.Sprintf("203.0.%d.%d", i>>8, i&255))
			}
			e := ratelimit.Event{Reason: reason}
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				e.Key = keys[i%len(keys)]
				w.observe(context.Background(), e)
			}
		})
	}
}
