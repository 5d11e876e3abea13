//go:build unix

package tune

import (
	"bufio"
	"fmt"
	"math/rand/v2"
	"os"
	"runtime"
	"syscall"
	"testing"
	"time"

	"github.com/gin-ratelimit/ratelimit"
)

// BenchmarkFrontier reads a file of 10,000,000 lines of 100,000 clients and finds the frontier of 16 rates. On a machine
// that has other work, lines per second of processor time are what to look at.
func BenchmarkFrontier(b *testing.B) {
	const lines, clients = 10_000_000, 100_000
	rates := make([]ratelimit.Rate, 16)
	for i := range rates {
		rates[i] = ratelimit.PerMinute(1 << i)
	}
	f, err := os.Create(b.TempDir() + "/access.log")
	if err != nil {
		b.Fatal(err)
	}
	out := bufio.NewWriter(f)
	r, start := rand.New(rand.NewPCG(1, 2)), time.Unix(1e9, 0).UTC()
	var stamp []byte
	for i := range lines {
		stamp = start.Add(time.Duration(i)*8*time.Millisecond).AppendFormat(stamp[:0], "02/Jan/2006:15:04:05 -0700")
		host := r.IntN(clients)
		_, _ = fmt.Fprintf(out, "10.%d.%d.%d - - [%s] \"GET /a/%d HTTP/1.1\" 200 1713\n", host>>16, host>>8&255, host&255, stamp, i%100) // Flush returns the error.
	}
	if err := out.Flush(); err != nil {
		b.Fatal(err)
	}
	busy := -processorTime(b)
	for b.Loop() {
		trace, err := Read(b.Context(), Options{}, f.Name())
		if err != nil || len(trace.Requests) != lines || len(trace.Clients) != clients {
			b.Fatal(err, len(trace.Requests), len(trace.Clients))
		}
		if _, err := Frontier(trace, rates); err != nil {
			b.Fatal(err)
		}
	}
	busy += processorTime(b)
	b.ReportMetric(float64(lines*b.N)/b.Elapsed().Seconds(), "lines/s")
	b.ReportMetric(float64(lines*b.N)/busy.Seconds(), "lines/cpu-s")
	var memory runtime.MemStats
	runtime.ReadMemStats(&memory)
	b.ReportMetric(float64(memory.Sys>>20), "MiB")
}

// processorTime is what this process has used so far, in the kernel, too.
func processorTime(b *testing.B) time.Duration {
	b.Helper()
	var usage syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &usage); err != nil {
		b.Fatal(err)
	}
	return time.Duration(usage.Utime.Nano() + usage.Stime.Nano())
}
