package redistest

import (
	"bytes"
	_ "embed"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// Clock is the wall clock of one server, to the microsecond: TIME, in scripts too, and the expiry of keys follow it
// at once. It starts as the real one. While it is frozen, so is all that Redis measures in wall time, such as CLIENT PAUSE
// and the time-outs between nodes. The event loop runs on the monotonic clock, which is not changed.
//
// A Clock is safe for concurrent use until the test ends.
type Clock struct {
	page *clockPage
	file string
	shim string
}

// clockPage is memory shared with the server; preload/clock.c has the same layout. One word holds both the mode and its
// value, so that the server cannot see one without the other.
type clockPage struct {
	word   atomic.Int64 // µs<<1|1: the clock is frozen at µs; µs<<1: it runs µs ahead of the real one
	loaded atomic.Int64 // set by the server
}

// Freeze stops the clock at t, rounded down to the microsecond.
func (c *Clock) Freeze(t time.Time) { c.page.word.Store(t.UnixMicro()<<1 | 1) }

// Advance moves the clock by d in whole microseconds, back if d is negative, whether it is frozen or runs.
func (c *Clock) Advance(d time.Duration) { c.page.word.Add(d.Microseconds() << 1) }

// Shift lets the clock run d ahead of the real one, or behind if d is negative. Shift(0) makes it right again.
func (c *Clock) Shift(d time.Duration) { c.page.word.Store(d.Microseconds() << 1) }

// Now returns the clock's time.
func (c *Clock) Now() time.Time {
	word := c.page.word.Load()
	us := word >> 1
	if word&1 == 0 {
		us += time.Now().UnixMicro()
	}
	return time.UnixMicro(us)
}

func (c *Clock) loaded() bool { return c.page.loaded.Load() == 1 }

func (c *Clock) env() []string {
	return []string{"LD_PRELOAD=" + c.shim, "REDISTEST_CLOCK=" + c.file}
}

// newClock makes the clock of a server that keeps its files in dir.
func newClock(tb testing.TB, dir string) *Clock {
	tb.Helper()
	c := &Clock{file: filepath.Join(dir, "clock"), shim: filepath.Join(dir, "clock.so")}
	page, unmap, err := mapClock(c.file)
	if errors.Is(err, errors.ErrUnsupported) {
		unavailable(tb, err.Error())
	}
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(unmap)
	c.page = page
	need(tb, "cc", "gcc")
	shim, err := compileShim()
	if err != nil {
		tb.Fatal(err)
	}
	if err := os.WriteFile(c.shim, shim, 0o700); err != nil {
		tb.Fatal(err)
	}
	return c
}

//go:embed preload/clock.c
var shimSource []byte

// compileShim keeps the library in memory, because no test's directory lives as long as the test binary.
var compileShim = sync.OnceValues(func() ([]byte, error) {
	dir, err := os.MkdirTemp("", "redistest")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	library := filepath.Join(dir, "clock.so")
	cc := exec.Command("cc", "-O2", "-shared", "-fPIC", "-o", library, "-x", "c", "-")
	cc.Stdin = bytes.NewReader(shimSource)
	if out, err := cc.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("%s: %w\n%s", cc, err, out)
	}
	return os.ReadFile(library)
})
