package verify

import (
	"cmp"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"time"
)

const reportFile = "../RELIABILITY.md"

// allProofs is how many tests call proves.
const allProofs = 6

// writeReport writes the table, if every case and every proof was run.
func writeReport(took time.Duration, leak error) error {
	for _, c := range cases {
		if outcomes.of[c.id] == nil {
			return nil
		}
	}
	if len(proofs.all) < allProofs {
		return nil
	}
	var b strings.Builder
	survived := 0
	for _, c := range cases {
		if !outcomes.of[c.id].failed {
			survived++
		}
	}
	fmt.Fprintf(&b, "# Reliability\n\nWritten by `make verify`, not by hand: %d of %d cases tried, %d survived.\n\n", len(cases), len(cases), survived)
	fmt.Fprintf(&b, "%s · %s · %d CPUs · %s · commit %s · `go test -count=1 -timeout 30m ./...` in `_verify`, %v\n\n",
		time.Now().UTC().Format("2006-01-02"), runtime.Version(), runtime.NumCPU(), strings.Join([]string{cpu(), redisVersion()}, " · "),
		commit(), took.Round(time.Second))
	b.WriteString(`The invariant, from the logs of all processes: for each key and any window [s, e], the tokens admitted are at most
C + r·(e−s). Excess is what was admitted beyond it, in tokens, at the worst; in brackets what the case allows. Recovery
runs from the end of the fault to the first decision in the slowest process; in brackets what is allowed. Latency is of whole
requests during the fault, 99th percentile and worst, and in brackets the budget: the machine has other work, and what it
holds up is in these figures. A dash: not measured in this case.

| case | what was done | what must happen | tried | survived | excess | recovery | latency | figures |
|---|---|---|---:|---|---:|---:|---:|---|
`)
	for _, c := range cases {
		o := outcomes.of[c.id]
		fmt.Fprintf(&b, "| %s | %s | %s | %d | %s | %s | %s | %s | %s |\n", c.id, c.what, c.expected, o.tried, yes(!o.failed),
			o.excessText(), o.recoveryText(), o.latencyText(), strings.Join(o.notes, "; "))
	}
	b.WriteString("\n## Beyond the cases\n\n| what | result | figures |\n|---|---|---|\n")
	for _, p := range proofs.all {
		fmt.Fprintf(&b, "| %s | %s | %s |\n", p.what, map[bool]string{true: "failed", false: "holds"}[p.failed], p.figures)
	}
	fmt.Fprintf(&b, "| No goroutine is left at the end | %s | |\n", map[bool]string{true: "holds", false: "failed"}[leak == nil])
	b.WriteString("\n## Not tried\n\nNot counted above.\n\n| what | why |\n|---|---|\n")
	for _, n := range notTried {
		fmt.Fprintf(&b, "| %s | %s |\n", n.what, n.why)
	}
	return os.WriteFile(reportFile, []byte(b.String()), 0o600)
}

func yes(b bool) string {
	if b {
		return "yes"
	}
	return "**no**"
}

func (o *outcome) excessText() string {
	if !o.excess.seen {
		return "—"
	}
	return fmt.Sprintf("%.2f (%.2f)", o.excess.worst, o.excess.allowed)
}

func (o *outcome) recoveryText() string {
	if !o.recovery.seen {
		return "—"
	}
	return fmt.Sprintf("%.2f s (%.2f s)", o.recovery.worst.Seconds(), o.recovery.allowed.Seconds())
}

func (o *outcome) latencyText() string {
	if o.max == 0 {
		return "—"
	}
	return fmt.Sprintf("%.0f / %.0f ms (%.0f ms)", o.p99.Seconds()*1e3, o.max.Seconds()*1e3, o.budget.Seconds()*1e3)
}

func commit() string {
	id, err := exec.Command("git", "rev-parse", "--short", "HEAD").Output()
	if err != nil {
		return "unknown"
	}
	text := strings.TrimSpace(string(id))
	if changed, err := exec.Command("git", "status", "--porcelain", "..", ":(exclude)"+reportFile).Output(); err != nil || len(changed) > 0 {
		text += " with changes"
	}
	return text
}

func redisVersion() string {
	out, err := exec.Command(cmp.Or(os.Getenv("REDISTEST_SERVER"), "redis-server"), "--version").Output()
	if _, version, ok := strings.Cut(string(out), "v="); err == nil && ok {
		return "Redis " + strings.Fields(version)[0]
	}
	return "Redis unknown"
}

func cpu() string {
	info, err := os.ReadFile("/proc/cpuinfo")
	if err == nil {
		for line := range strings.Lines(string(info)) {
			if name, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(name) == "model name" {
				return strings.TrimSpace(value)
			}
		}
	}
	return runtime.GOOS + "/" + runtime.GOARCH
}
