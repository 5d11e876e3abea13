package tune

import (
	"bytes"
	"fmt"
	"testing"
	"time"

	"github.com/gin-ratelimit/ratelimit"
)

// BenchmarkFrontier reads lines of 100,000 clients and finds the frontier of 16 rates.
func BenchmarkFrontier(b *testing.B) {
	const lines = 1_000_000
	rates := make([]ratelimit.Rate, 16)
	for i := range rates {
		rates[i] = ratelimit.PerMinute(1 << i)
	}
	var log bytes.Buffer
	start := time.Unix(1e9, 0).UTC()
	for i := range lines {
		host := uint32(i) * 2654435761 % 100_000
		fmt.Fprintf(&log, "10.%d.%d.%d - - [%s] \"GET /a/%d HTTP/1.1\" 200 1713\n", host>>16, host>>8&255, host&255,
			start.Add(time.Duration(i)*time.Millisecond).Format("02/Jan/2006:15:04:05 -0700"), i%100)
	}
	b.SetBytes(int64(log.Len()))
	for b.Loop() {
		trace, err := readText(b.Context(), Options{}, log.String())
		if err != nil {
			b.Fatal(err)
		}
		if _, err := Frontier(trace, rates); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(lines*b.N)/b.Elapsed().Seconds(), "lines/s")
}
