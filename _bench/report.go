package main

import (
	"cmp"
	"fmt"
	"maps"
	"math"
	"os"
	"os/exec"
	"runtime"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"time"
)

// report collects what was measured and prints it.
type report struct {
	options
	redis    string // version
	load     string
	passes   int
	took     time.Duration
	values   map[string]map[string][]float64 // by contestant and metric, one for each pass
	failures map[string]string               // by contestant
}

func newReport(o options) *report {
	return &report{options: o, load: loadAverage(), values: map[string]map[string][]float64{}, failures: map[string]string{}}
}

func (r *report) add(p peer, m metrics, err error) {
	if err != nil {
		r.failures[p.name] = err.Error()
		return
	}
	if r.values[p.name] == nil {
		r.values[p.name] = map[string][]float64{}
	}
	for metric, value := range m {
		r.values[p.name][metric] = append(r.values[p.name][metric], value)
	}
}

// median is over the passes, NaN if there are none.
func (r *report) median(p peer, metric string) float64 {
	values := slices.Sorted(slices.Values(r.values[p.name][metric]))
	if len(values) == 0 {
		return math.NaN()
	}
	return (values[(len(values)-1)/2] + values[len(values)/2]) / 2
}

// best returns the contestant of that kind with the best median. It is false if none has one.
func (r *report) best(k kind, metric string, more bool) (best peer, found bool) {
	for _, p := range peers {
		value := r.median(p, metric)
		if p.kind != k || math.IsNaN(value) {
			continue
		}
		if reference := r.median(best, metric); !found || more && value > reference || !more && value < reference {
			best, found = p, true
		}
	}
	return best, found
}

func (r *report) markdown() string {
	var b strings.Builder
	fmt.Fprintf(&b, `# Benchmarks

This library beside its peers in one run of %s, %s. The machine is shared and noisy, so look at the ratios: every number is the median of the passes (for links, real sockets and one hot key on Redis, of `+fmt.Sprint(slowPasses)+` at most), in each of which all contestants of a table were measured one after the other, each in a process of its own, with the same limit and otherwise its defaults. Takes from memory and requests are timed in slices of 2 ms: slices in which the kernel gave a core to another process are left out, and of the others the mean of the middle half counts. A ~ says that in some pass too few slices were left.

A peer is *exact* if keys never share a bucket, and a bucket admits its capacity and what refills, no more and no less. The floor is no limiter: it does what every limiter has to do and nothing else. Ratios are to the fastest exact peer and to the floor.

`, "`"+command()+"`", plural(r.passes, "pass", "passes"))
	row(&b, "Machine", processor()+", "+plural(runtime.NumCPU(), "core", "cores")+", "+runtime.GOOS+"/"+runtime.GOARCH)
	rule(&b, 2)
	now, since := clocks()
	row(&b, "Clock", fmt.Sprintf("`time.Now` %.1f ns, `time.Since` %.1f ns", now, since))
	row(&b, "Load average before", r.load)
	row(&b, "Go, Redis", runtime.Version()+", "+r.redis)
	row(&b, "Commit", commit())
	row(&b, "Date, time taken", time.Now().UTC().Format(time.DateOnly)+", "+r.took.Round(time.Second).String())
	row(&b, "Time of one measurement", r.lasts.String())
	row(&b, "Peers", versions())

	if figures := r.figures(); len(figures) > 0 {
		b.WriteString("\n## What is aimed at\n\n")
		row(&b, "", "aim", "measured", "met")
		rule(&b, 4)
		for _, f := range figures {
			row(&b, f.what, f.aim(), f.tilde+fmt.Sprintf(f.format, f.value), map[bool]string{true: "yes", false: "**no**"}[f.met()])
		}
	}
	for _, tables := range [][]table{memoryTables(), webTables(), socketTables(), redisTables(), linkTables()} {
		for _, t := range tables {
			r.table(&b, t)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(r.failures)) {
		fmt.Fprintf(&b, "\nOf %s a measurement failed: %s\n", name, r.failures[name])
	}
	b.WriteString(behindTheFigures)
	b.WriteString(notInThisRun)
	return b.String()
}

// table prints the contestants that have any of its metrics: this library, the floor, aids, and then peers, best first.
func (r *report) table(b *strings.Builder, t table) {
	measured := slices.DeleteFunc(slices.Clone(peers), func(p peer) bool { return math.IsNaN(r.median(p, t.columns[0].metric)) })
	if len(measured) == 0 {
		return
	}
	first := t.columns[0]
	rank := map[kind]int{ours: 0, floor: 1, aid: 2, exact: 3, inexact: 3}
	slices.SortStableFunc(measured, func(p, q peer) int {
		order := cmp.Compare(r.median(p, first.metric), r.median(q, first.metric))
		if first.more {
			order = -order
		}
		return cmp.Or(cmp.Compare(rank[p.kind], rank[q.kind]), order)
	})

	n := strconv.Itoa(r.keys)
	for i := len(n) - 3; i > 0; i -= 3 {
		n = n[:i] + "," + n[i:]
	}
	fmt.Fprintf(b, "\n## %s\n\n%s\n\n", strings.ReplaceAll(t.title, "{keys}", n), t.text)
	head := []string{"", "exact"}
	for _, c := range t.columns {
		head = append(head, c.title)
		for _, k := range []kind{exact, floor} {
			if _, found := r.best(k, c.metric, c.more); found && c.ratio {
				head = append(head, map[kind]string{exact: "÷ exact", floor: "÷ floor"}[k])
			}
		}
	}
	row(b, head...)
	rule(b, len(head))
	for _, p := range measured {
		name := p.name
		if p.kind == ours {
			name = "**" + name + "**"
		}
		cells := []string{name, p.exactness()}
		for _, c := range t.columns {
			cells = append(cells, r.cell(p, c))
			for _, k := range []kind{exact, floor} {
				if reference, found := r.best(k, c.metric, c.more); found && c.ratio {
					cells = append(cells, number("%.2f", r.median(p, c.metric)/r.median(reference, c.metric)))
				}
			}
		}
		row(b, cells...)
	}
}

func (p peer) exactness() string {
	switch p.kind {
	case ours:
		return "yes"
	case exact:
		return strings.TrimSuffix("yes; "+p.note, "; ")
	case inexact:
		return "no: " + p.note
	default:
		return strings.TrimSuffix("–; "+p.note, "; ")
	}
}

func (r *report) cell(p peer, c column) string {
	text := []string{r.tilde(p, c.metric) + number(c.format, r.median(p, c.metric))}
	for _, suffix := range []string{wrongSuffix, failedSuffix} {
		if share := r.median(p, c.metric+suffix); share > 0 {
			text = append(text, fmt.Sprintf("(%.2g %% %s)", 100*share, suffix[1:]))
		}
	}
	return strings.Join(text, " ")
}

// tilde marks numbers that were measured on a machine that was too busy.
func (r *report) tilde(p peer, metric string) string {
	if len(r.values[p.name][metric+noisySuffix]) > 0 {
		return "~"
	}
	return ""
}

func number(format string, value float64) string {
	if math.IsNaN(value) {
		return ""
	}
	return fmt.Sprintf(format, value)
}

func row(b *strings.Builder, cells ...string) {
	b.WriteString("| " + strings.Join(cells, " | ") + " |\n")
}

func rule(b *strings.Builder, columns int) {
	b.WriteString("|" + strings.Repeat("---|", columns) + "\n")
}

func command() string {
	return strings.Join(append([]string{"go -C _bench run ."}, os.Args[1:]...), " ")
}

// processor is the name of the CPU's model.
func processor() string {
	info, _ := os.ReadFile("/proc/cpuinfo") // Only Linux has it.
	for line := range strings.Lines(string(info)) {
		if name, value, _ := strings.Cut(line, ":"); strings.TrimSpace(name) == "model name" {
			return strings.TrimSpace(value)
		}
	}
	return "unknown CPU"
}

// loadAverage is how busy the machine was, in the last 1, 5 and 15 minutes.
func loadAverage() string {
	average, _ := os.ReadFile("/proc/loadavg") // Only Linux has it.
	fields := strings.Fields(string(average))
	return strings.Join(fields[:min(3, len(fields))], " ")
}

func commit() string {
	out, err := exec.Command("git", "--no-optional-locks", "describe", "--always", "--dirty=, with changes").Output()
	if err != nil {
		return "unknown"
	}
	return strings.TrimSpace(string(out))
}

// versions names the peers that were built in.
func versions() string {
	info, _ := debug.ReadBuildInfo()
	var all []string
	for _, module := range info.Deps {
		if slices.ContainsFunc(peers, func(p peer) bool { return p.module == module.Path }) {
			all = append(all, module.Path+" "+module.Version)
		}
	}
	return strings.Join(all, ", ")
}

// clocks returns how many nanoseconds it takes to read the clock, with and without the time of day.
func clocks() (now, since float64) {
	const times = 1_000_000
	best := func(read func()) float64 {
		least := math.Inf(1)
		for range 5 {
			start := time.Now()
			for range times {
				read()
			}
			least = min(least, float64(time.Since(start))/times)
		}
		return least
	}
	base := time.Now()
	return best(func() { base = time.Now() }), best(func() { _ = time.Since(base) })
}

const behindTheFigures = `
## What stands behind the figures

- Of a request's allocations, one is the decision with its header values, and two are Gin's ClientIP, which takes 220 ns. Of the
  rest, a third is what any three headers cost: three entries of a map, three numbers to print, and the time of day.
- Reading the clock is half of a take from memory. The rest suffers more than the floor does when another tenant of the machine
  shares the core, so the ratio of the two moves from run to run. On a hot key and two cores the floor is not the least: it
  reads the clock between looking at a bucket and changing it, and here it is read before, so that callers lose fewer races.
- On Redis, takes that come together and ask the same about different keys are one run of the script: one of many costs the server
  half of one alone. With few callers there is little to put together.
`

const notInThisRun = `
## Not in this run

` + "`clipperhouse/rate`" + ` and ` + "`go-chi/httprate-redis`" + ` cannot be built: the module proxy does not serve them. In an earlier run on such a machine (2 cores of an AMD EPYC, medians of 5 passes), these were their numbers; do not compare them with the ratios above.

| | hot key | 1,000 keys | 1,000,000 keys | new keys | refused | heap of a key | collection |
|---|---|---|---|---|---|---|---|
| clipperhouse/rate, ns on 1 / 2 cores | 65 / 49 | 73 / 38 | 1026 / 478 | 997 / 442 | 65 / 52 | 170 bytes | 183 ms |
| x/time/rate in a sync.Map, the same run | 83 / 75 | 88 / 54 | 1132 / 541 | 999 / 485 | 87 / 87 | 218 bytes | 315 ms |

| | 1 caller | 16 | 128 | p99 at 128 | server CPU a take |
|---|---|---|---|---|---|
| httprate-redis, takes/s | 8,900 | 8,100 | 8,400 | 19.7 ms | 40 µs |
| redis_rate, the same run | 18,200 | 63,000 | 62,000 | 4.1 ms | 12.3 µs |
`

func plural(n int, one, many string) string {
	if n == 1 {
		return "1 " + one
	}
	return fmt.Sprint(n, " ", many)
}
