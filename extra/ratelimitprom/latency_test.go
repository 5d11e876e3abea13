package ratelimitprom

import (
	"maps"
	"math"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
)

func clientHistogram() prometheus.Histogram {
	bounds := make([]float64, len(classic))
	for i, bound := range classic {
		bounds[i] = bound.Seconds()
	}
	return prometheus.NewHistogram(prometheus.HistogramOpts{
		Name:                         "reference",
		Buckets:                      bounds,
		NativeHistogramBucketFactor:  nativeFactor,
		NativeHistogramZeroThreshold: math.Exp2(lowest / (1 << nativeSchema)),
	})
}

func written(t *testing.T, m prometheus.Metric) *dto.Histogram {
	t.Helper()
	var out dto.Metric
	if err := m.Write(&out); err != nil {
		t.Fatal(err)
	}
	return out.Histogram
}

// nativeBuckets returns the counts of native buckets by their number.
func nativeBuckets(h *dto.Histogram) map[int32]int64 {
	counts := map[int32]int64{}
	number, count, delta := int32(0), int64(0), 0
	for _, span := range h.PositiveSpan {
		number += span.GetOffset()
		for range span.GetLength() {
			count += h.PositiveDelta[delta]
			delta++
			if count != 0 {
				counts[number] = count
			}
			number++
		}
	}
	return counts
}

// The histogram exports the same as client_golang's does for the same durations.
func TestLatencyAgreesWithClientGolang(t *testing.T) {
	l, reference := newLatency(), clientHistogram()
	var durations []time.Duration
	for _, end := range ends[:len(ends)-1] {
		durations = append(durations, end-1, end, end+1)
	}
	random := rand.New(rand.NewPCG(1, 2))
	for range 20_000 {
		durations = append(durations, 1+time.Duration(math.Exp2(37*random.Float64()))) // up to 137 s
	}
	for _, d := range durations {
		l.observe(d)
		reference.Observe(d.Seconds())
	}
	got, want := written(t, l.metric("policy", "source")), written(t, reference)
	if got.GetSampleCount() != want.GetSampleCount() || math.Abs(got.GetSampleSum()-want.GetSampleSum()) > 1e-6*want.GetSampleSum() {
		t.Errorf("%d and %v s, want %d and %v s", got.GetSampleCount(), got.GetSampleSum(), want.GetSampleCount(), want.GetSampleSum())
	}
	if got.GetSchema() != want.GetSchema() || got.GetZeroThreshold() != want.GetZeroThreshold() || got.GetZeroCount() != want.GetZeroCount() {
		t.Errorf("schema %d, %d below %v; want schema %d, %d below %v", got.GetSchema(), got.GetZeroCount(), got.GetZeroThreshold(),
			want.GetSchema(), want.GetZeroCount(), want.GetZeroThreshold())
	}
	if len(got.Bucket) != len(want.Bucket) {
		t.Fatalf("%d classic buckets, want %d", len(got.Bucket), len(want.Bucket))
	}
	for i, bucket := range want.Bucket {
		if got := got.Bucket[i]; got.GetUpperBound() != bucket.GetUpperBound() || got.GetCumulativeCount() != bucket.GetCumulativeCount() {
			t.Errorf("classic bucket %v, want %v", got, bucket)
		}
	}
	if got, want := nativeBuckets(got), nativeBuckets(want); !maps.Equal(got, want) {
		t.Errorf("native buckets %v\nwant %v", got, want)
	}
}

func TestLatencyBeyondItsRange(t *testing.T) {
	l := newLatency()
	for _, d := range []time.Duration{1, 129 * time.Second, time.Hour, math.MaxInt64 / 2} {
		l.observe(d)
	}
	h := written(t, l.metric("policy", "source"))
	if h.GetSampleCount() != 4 || h.GetZeroCount() != 1 || nativeBuckets(h)[highest+1] != 3 {
		t.Errorf("got %v", h)
	}
}

func BenchmarkLatency(b *testing.B) {
	b.Run("ours", func(b *testing.B) {
		l, d := newLatency(), time.Duration(0)
		for b.Loop() {
			d = (d + 997) % (1 << 20)
			l.observe(d + 1)
		}
	})
	b.Run("client_golang", func(b *testing.B) {
		h, d := clientHistogram(), time.Duration(0)
		for b.Loop() {
			d = (d + 997) % (1 << 20)
			h.Observe((d + 1).Seconds())
		}
	})
}
