package verify

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// mutant is one way to break the library.
type mutant struct{ file, why, before, after string }

// quickTests are the tests of the root package that check decisions and stored states. The others check other things, or are
// slow.
const (
	quickTests = `^Test(Redis|Merg|Memory|Ban|Refusals|Hammer|Wrong|Argument|Charge|Stack|Wait|Shadow|DenyCache|FallbackStoreAdjust)`
	slowTests  = `Budget|Pause|Cluster|Processes|IsReturned|DownAtFirst|Flood`
)

// likelyTests are the tests that probably notice a mutant of a file. They run first.
var likelyTests = map[string]string{
	"result.go":                  `^TestMemoryStore$`,
	"store_fallback.go":          `^TestFallbackStoreAdjust`,
	"store_memory.go":            `^TestMemory`,
	"charge.go":                  `^TestCharge`,
	"limiter.go":                 `^Test(Charge|Shadow|Wait)`,
	"internal/script/fast.lua":   `^TestRedisStore$`,
	"internal/script/decide.lua": `^TestRedis(Store|Takes)`,
	"internal/script/script.go":  `^TestRedisLostReply`,
	"internal/slots/slot.go":     `^TestMemoryStore`,
	"internal/slots/table.go":    `^TestMemoryStore`,
}

// Every mutant of the library is noticed by the library's own tests.
func TestMutants(t *testing.T) {
	mutants := readMutants(t, "testdata/mutants.txt")
	tried := 0
	var survivors []string
	proves(t, "Mutants of the arithmetic, the script, the stores and the life of a charge are noticed by the library's tests", func() string {
		return figure("%d of %d noticed; survivors: %s", tried-len(survivors), tried, or(strings.Join(survivors, "; "), "none"))()
	})
	root := t.TempDir()
	copyLibrary(t, root)
	if !testing.Short() {
		if out, err := quick(t, root, quickTests, "."); err != nil {
			t.Fatalf("the library's tests fail without a mutant: %v\n%s", err, tail(out))
		}
	}
	for _, m := range mutants {
		tried++
		began := time.Now()
		file := filepath.Join(root, m.file)
		whole, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if n := strings.Count(string(whole), m.before); n != 1 {
			t.Errorf("%s: %s: the file has the lines %d times, want once", m.file, m.why, n)
			continue
		}
		if testing.Short() {
			continue // To try them takes minutes.
		}
		write(t, file, []byte(strings.Replace(string(whole), m.before, m.after, 1)))
		out, err := "", error(nil)
		if dir := filepath.Dir(m.file); dir == "internal/bucket" || dir == "internal/slots" || dir == "internal/lease" || m.file == "internal/script/merge.go" {
			out, err = quick(t, root, ".", "./"+dir)
		} else {
			out, err = quick(t, root, likelyTests[m.file], ".")
		}
		if err == nil {
			out, err = quick(t, root, quickTests, ".")
		}
		write(t, file, whole)
		t.Logf("%v: %s: %s: noticed: %v", time.Since(began).Round(time.Second), m.file, m.why, err != nil)
		switch {
		case err == nil:
			survivors = append(survivors, m.file+": "+m.why)
		case strings.Contains(out, "[build failed]"):
			t.Errorf("%s: %s: does not compile:\n%s", m.file, m.why, tail(out))
		}
	}
	for _, s := range survivors {
		t.Errorf("survived: %s", s)
	}
}

func or(text, otherwise string) string {
	if text == "" {
		return otherwise
	}
	return text
}

// readMutants reads blocks of "file: why", lines with "-" and lines with "+".
func readMutants(t *testing.T, name string) []mutant {
	t.Helper()
	text, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	var mutants []mutant
	for block := range strings.SplitSeq(string(text), "\n\n") {
		if strings.HasPrefix(block, "#") {
			continue
		}
		var m mutant
		for line := range strings.Lines(block + "\n") {
			switch rest := line[1:]; line[0] {
			case '-':
				m.before += rest
			case '+':
				m.after += rest
			case '\n':
			default:
				m.file, m.why, _ = strings.Cut(strings.TrimSpace(line), ": ")
			}
		}
		if m.file == "" || m.before == "" {
			t.Fatalf("not a mutant:\n%s", block)
		}
		mutants = append(mutants, m)
	}
	return mutants
}

// copyLibrary copies the root module, without the modules below it.
func copyLibrary(t *testing.T, to string) {
	t.Helper()
	for _, pattern := range []string{"*.go", "go.mod", "go.sum"} {
		files, err := filepath.Glob(filepath.Join("..", pattern))
		if err != nil {
			t.Fatal(err)
		}
		for _, file := range files {
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			write(t, filepath.Join(to, filepath.Base(file)), text)
		}
	}
	for _, dir := range []string{"internal", "storetest", "testdata"} {
		err := os.CopyFS(filepath.Join(to, dir), os.DirFS(filepath.Join("..", dir)))
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			t.Fatal(err)
		}
	}
}

func write(t *testing.T, file string, text []byte) {
	t.Helper()
	if err := os.WriteFile(file, text, 0o600); err != nil {
		t.Fatal(err)
	}
}

// quick runs tests of a package on a mutant. A test that hangs counts as one that has noticed it.
func quick(t *testing.T, root, tests, pkg string) (string, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, "go", "test", "-short", "-failfast", "-count=1", "-vet=off", "-ldflags=-s -w", "-timeout=90s",
		"-run", tests, "-skip", slowTests, pkg)
	cmd.Dir = root
	cmd.WaitDelay = 5 * time.Second
	out, err := cmd.CombinedOutput()
	return string(out), err
}

func tail(text string) string { return text[max(0, len(text)-2000):] }
