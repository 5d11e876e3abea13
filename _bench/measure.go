package main

import (
	"fmt"
	"math/bits"
	"math/rand/v2"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// keyset is n different keys of one length, which look like IPv4 addresses. They are stored one after the other without
// pointers, so that reading the next key costs no cache miss, and the garbage collector only scans what the contestant
// keeps.
type keyset struct {
	text string
	n    int
}

const keyLength = len("010.000.000.000")

func appendKey(b []byte, i int) []byte {
	return fmt.Appendf(b, "010.%03d.%03d.%03d", i>>16, i>>8&255, i&255)
}

// newKeys returns the keys in order, or shuffled. Keys that were added in order must be read in another order, or memory that
// was allocated in a row is read in a row.
func newKeys(n int, shuffled bool) keyset {
	text := make([]byte, 0, n*keyLength)
	order := func(i int) int { return i }
	if shuffled {
		permutation := rand.New(rand.NewPCG(1, 2)).Perm(n)
		order = func(i int) int { return permutation[i] }
	}
	for i := range n {
		text = appendKey(text, order(i))
	}
	return keyset{string(text), n}
}

func (k keyset) at(i int) string { return k.text[i*keyLength : (i+1)*keyLength] }

// part is the i-th of so many equal parts.
func (k keyset) part(i, parts int) keyset {
	from, to := k.n*i/parts, k.n*(i+1)/parts
	return keyset{k.text[from*keyLength : to*keyLength], to - from}
}

// tally counts verdicts.
type tally [3]int

func (t *tally) add(other tally) {
	for v, n := range other {
		t[v] += n
	}
}

func (t tally) sum() int { return t[refused] + t[allowed] + t[failed] }

// load is callers that take without pauses.
type load struct {
	callers []*caller
	batch   int // takes between two looks at the clock
}

// caller takes from its keys in turn.
type caller struct {
	take taker
	keys keyset
	next int
	tally
}

func newLoad(callers, batch int, keys keyset, take func(caller int) taker) *load {
	l := &load{batch: batch}
	for i := range callers {
		own := keys
		if keys.n >= callers {
			own = keys.part(i, callers)
		}
		l.callers = append(l.callers, &caller{take: take(i), keys: own})
	}
	return l
}

// run lets all callers begin at once. It returns the nanoseconds per take, and the share of the time in which all of them
// ran: on a busy machine they may run in turns.
func (l *load) run(call func(c *caller)) (perTake, together float64) {
	var ready atomic.Int64
	var done sync.WaitGroup
	base := time.Now()
	begins, ends := make([]time.Duration, len(l.callers)), make([]time.Duration, len(l.callers))
	before := l.count()
	for i, c := range l.callers {
		done.Go(func() {
			for ready.Add(1); int(ready.Load()) < len(l.callers); {
				runtime.Gosched()
			}
			begins[i] = time.Since(base)
			call(c)
			ends[i] = time.Since(base)
		})
	}
	done.Wait()
	took := float64(slices.Max(ends) - slices.Min(begins))
	return took / float64(l.count()-before), float64(slices.Min(ends)-slices.Max(begins)) / took
}

func (l *load) count() (takes int) {
	for _, c := range l.callers {
		takes += c.sum()
	}
	return takes
}

// each takes every key once.
func (l *load) each() (perTake, together float64) {
	return l.run(func(c *caller) {
		for i := range c.keys.n {
			c.tally[c.take(c.keys.at(i))]++
		}
	})
}

// lasting takes for so long.
func (l *load) lasting(d time.Duration) (perTake, together float64) {
	return l.run(func(c *caller) {
		for start := time.Now(); time.Since(start) < d; {
			for range l.batch {
				c.tally[c.take(c.keys.at(c.next))]++
				if c.next++; c.next == c.keys.n {
					c.next = 0
				}
			}
		}
	})
}

// quietly takes in slices of time, and leaves out those in which the kernel gave a core to another process, or let callers
// wait for one. It takes for at least d, and longer if nearly all slices are disturbed; in the end it uses disturbed slices
// rather than none, and noisy is true. The result is the mean of the middle half: a median would hide the garbage collector,
// which does not run in every slice.
func (l *load) quietly(d time.Duration) (perTake float64, noisy bool) {
	const (
		slice    = 2 * time.Millisecond
		enough   = 12
		overlap  = .95
		maxTimes = 5 // times d
	)
	var all, quiet []float64
	for start := time.Now(); time.Since(start) < d || len(quiet) < enough && time.Since(start) < maxTimes*d; {
		before := usage()
		perTake, together := l.lasting(slice)
		all = append(all, perTake)
		if usage().Nivcsw == before.Nivcsw && together >= overlap { // Nivcsw: involuntary context switches
			quiet = append(quiet, perTake)
		}
	}
	if len(quiet) >= enough {
		all = quiet
	}
	slices.Sort(all)
	middle := all[len(all)/4 : len(all)-len(all)/4]
	sum := 0.0
	for _, perTake := range middle {
		sum += perTake
	}
	return sum / float64(len(middle)), len(quiet) < enough
}

func usage() (u syscall.Rusage) {
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		panic(err)
	}
	return u
}

// verdicts returns the verdicts of all callers since it was last called.
func (l *load) verdicts() (sum tally) {
	for _, c := range l.callers {
		sum.add(c.tally)
		c.tally = tally{}
	}
	return sum
}

// same is the same taker for all callers.
func same(take taker) func(int) taker { return func(int) taker { return take } }

// histogram counts durations, to within 3 %.
type histogram struct {
	count   [64 << histogramBits]int
	longest time.Duration
}

const histogramBits = 5

func (h *histogram) add(d time.Duration) {
	h.longest = max(h.longest, d)
	shift := max(0, bits.Len64(uint64(d))-histogramBits-1)
	h.count[shift<<histogramBits+int(d>>shift)]++
}

func (h *histogram) merge(other *histogram) {
	h.longest = max(h.longest, other.longest)
	for i, n := range other.count {
		h.count[i] += n
	}
}

// quantile returns a duration that a share q of the durations is not above.
func (h *histogram) quantile(q float64) time.Duration {
	total := 0
	for _, n := range h.count {
		total += n
	}
	rest := int(q * float64(total))
	for i, n := range h.count {
		if rest -= n; rest < 0 {
			shift := max(0, i>>histogramBits-1)
			return min(h.longest, time.Duration(i-shift<<histogramBits+1)<<shift-1)
		}
	}
	return h.longest
}

// timed records how long every take took, including one reading of the clock.
func (h *histogram) timed(take taker) taker {
	base := time.Now()
	return func(key string) verdict {
		start := time.Since(base)
		v := take(key)
		h.add(time.Since(base) - start)
		return v
	}
}

func microseconds(d time.Duration) float64 { return float64(d) / float64(time.Microsecond) }

// allocated returns the bytes and objects that f allocates.
func allocated(f func()) (bytes, objects float64) {
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	f()
	runtime.ReadMemStats(&after)
	return float64(after.TotalAlloc - before.TotalAlloc), float64(after.Mallocs - before.Mallocs)
}

// withProcs runs f on so many processors.
func withProcs(procs int, f func()) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(procs))
	f()
}
