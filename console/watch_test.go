package console

import (
	"context"
	"fmt"
	"math"
	"math/rand/v2"
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

// Of keys that are counted in turn, each is within its bounds, however often they take each other's places.
func TestTopBoundsWhenPlacesChangeHands(t *testing.T) {
	for _, keys := range []int{topPlaces - 1, topPlaces, topPlaces + 1, 5 * topPlaces} {
		w := newTestWatch()
		counts := map[string]uint64{}
		random := rand.New(rand.NewPCG(1, uint64(keys)))
		for range 20_000 {
			key := fmt.Sprint(min(random.IntN(keys), random.IntN(keys), random.IntN(keys)))
			counts[key]++
			w.observe(context.Background(), refusal(key))
		}
		for _, k := range w.top.last(topMinutes, true) {
			assert.LessOrEqual(t, k.Low, counts[k.Raw], "%d keys: %s", keys, k.Raw)
			assert.GreaterOrEqual(t, k.High, counts[k.Raw], "%d keys: %s", keys, k.Raw)
		}
		var sum, smallest uint64 = 0, math.MaxUint64
		s := &w.top.minutes[1]
		for _, c := range s.counts[:s.used] {
			sum += c
			smallest = min(smallest, c)
		}
		assert.Equal(t, uint64(20_000), sum, "Space-Saving keeps the sum of its counts, %d keys", keys)
		assert.LessOrEqual(t, s.least, smallest)
	}
}

func TestClients(t *testing.T) {
	for _, distinct := range []int{0, 1, keptHashes - 1, 5_000, 200_000} {
		w := newTestWatch()
		for range 2 {
			for i := range distinct {
				w.observe(context.Background(), ratelimit.Event{Key: ratelimit.KeyOf(fmt.Sprint(i)), Reason: ratelimit.ReasonShadow})
			}
		}
		w.observe(context.Background(), refusal("refused, not shadow"))
		n, relative := w.top.shadowClients()
		if distinct < keptHashes {
			assert.Equal(t, uint64(distinct), n)
			assert.Zero(t, relative)
			continue
		}
		assert.InDelta(t, 0.044, relative, 0.001)
		assert.InEpsilon(t, distinct, n, 6*relative)
	}
}

func TestObserveAllocatesNothing(t *testing.T) {
	w := newTestWatch()
	for name, e := range map[string]ratelimit.Event{"accepted": {Reason: ratelimit.ReasonAllowed}, "refused": refusal("203.0.113.9"),
		"shadow": {Reason: ratelimit.ReasonShadow, Key: ratelimit.KeyOf("203.0.113.9")}} {
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
