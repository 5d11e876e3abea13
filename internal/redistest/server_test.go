package redistest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
)

func TestStart(t *testing.T) {
	s := Start(t)
	client := s.Client()
	if got, err := client.Ping(t.Context()).Result(); got != "PONG" {
		t.Fatal(got, err)
	}
	if host, _, err := net.SplitHostPort(s.Addr); host != "127.0.0.1" {
		t.Fatal(s.Addr, err)
	}
	if got, err := s.info("default"); got["process_id"] != fmt.Sprint(s.Pid()) {
		t.Fatal(got["process_id"], s.Pid(), err)
	}
	if got, err := client.ConfigGet(t.Context(), "save").Result(); got["save"] != "" {
		t.Fatal(got, err)
	}
}

func TestWithConfig(t *testing.T) {
	s := Start(t, WithConfig("maxmemory", "8mb"), WithConfig("maxmemory-policy", "allkeys-lru"))
	got, err := s.Client().ConfigGet(t.Context(), "maxmemory*").Result()
	if got["maxmemory"] != "8388608" || got["maxmemory-policy"] != "allkeys-lru" {
		t.Fatal(got, err)
	}
}

func TestConfigMistakeFailsWithTheLog(t *testing.T) {
	tb := run(t, func(tb testing.TB) { Start(tb, WithConfig("maxmemory", "much")) })
	if !strings.Contains(tb.fatal, "FATAL CONFIG FILE ERROR") {
		t.Fatalf("%q", tb.fatal)
	}
}

func TestManyServersSideBySide(t *testing.T) {
	seen := make(map[string]bool)
	for _, s := range startAll(t, 20) {
		if seen[s.Addr] {
			t.Fatalf("%s is there twice", s.Addr)
		}
		seen[s.Addr] = true
		set(t, s.Client(), "addr", s.Addr)
		get(t, s.Client(), "addr", s.Addr)
	}
}

func TestKillAndRestart(t *testing.T) {
	s := Start(t)
	client := s.Client()
	set(t, client, "k", "v")
	pid := s.Pid()

	s.Kill()
	s.Kill()
	if s.Pid() != 0 {
		t.Fatal(s.Pid())
	}
	if !down(s.Addr) {
		t.Fatal("a killed server takes connections")
	}

	s.Restart()
	if s.Pid() == pid {
		t.Fatal("the same process")
	}
	get(t, s.Client(), "k", "")
}

func TestAppendOnlyFileOutlivesKill(t *testing.T) {
	s := Start(t, WithConfig("appendonly", "yes"), WithConfig("appendfsync", "always"))
	set(t, s.Client(), "k", "v")
	s.Kill()
	s.Restart()
	get(t, s.Client(), "k", "v")
}

func TestStop(t *testing.T) {
	s := Start(t)
	s.Pause()
	s.Stop()
	s.Stop()
	if !down(s.Addr) {
		t.Fatal("a stopped server takes connections")
	}
	if log := s.Log(); !strings.Contains(log, "ready to exit") {
		t.Fatalf("no orderly end:\n%s", log)
	}
	s.Restart()
	set(t, s.Client(), "k", "v")
}

func TestRestartOfARunningServer(t *testing.T) {
	s := Start(t)
	pid := s.Pid()
	s.Restart()
	if s.Pid() == pid {
		t.Fatal("the same process")
	}
	if n := strings.Count(s.Log(), "Ready to accept connections"); n != 2 {
		t.Fatalf("%d starts in the log", n)
	}
}

func TestPauseAndResume(t *testing.T) {
	s := Start(t)
	client := s.Client()
	set(t, client, "k", "v")

	s.Pause()
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if err := client.Get(ctx, "k").Err(); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("a paused server answered, or the client did not wait: %v", err)
	}

	s.Resume()
	get(t, client, "k", "v")
}

func TestServersEndWithTheTest(t *testing.T) {
	var up, paused, stopped *Server
	t.Run("inner", func(t *testing.T) {
		up, paused, stopped = Start(t), Start(t), Start(t)
		paused.Pause()
		stopped.Stop()
	})
	for _, s := range []*Server{up, paused, stopped} {
		if !down(s.Addr) {
			t.Fatalf("%s is still there", s.Addr)
		}
	}
}

func TestServerEndsWithTheTestBinary(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("only Linux ends a process with its parent")
	}
	if os.Getenv("REDISTEST_CHILD") == "1" {
		fmt.Fprintln(os.Stderr, Start(t).Addr)
		select {}
	}
	Start(t) // skips here, where a skip is seen

	binary, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	child := exec.Command(binary, "-test.run=^"+t.Name()+"$")
	// A killed process leaves its temporary folders behind: have them in this test's.
	child.Env = append(os.Environ(), "REDISTEST_CHILD=1", "TMPDIR="+t.TempDir())
	stderr, err := child.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	var addr string
	_, scanErr := fmt.Fscanln(stderr, &addr)
	if err := child.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	rest, _ := io.ReadAll(stderr)
	_ = child.Wait() // killed
	if scanErr != nil {
		t.Fatalf("%v: %s%s", scanErr, addr, rest)
	}
	err = poll(10*time.Second, time.Millisecond, func() error {
		if !down(addr) {
			return errors.New("still there")
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// The other server answers on the port before the one that could not bind it has ended.
func TestPortOfAnotherServer(t *testing.T) {
	other := Start(t)
	set(t, other.Client(), "k", "other")

	s := Start(t)
	s.Kill()
	own := s.Addr
	s.Addr, s.port = other.Addr, other.port
	if err := s.writeConfig(); err != nil {
		t.Fatal(err)
	}
	if err := s.run(); !errors.Is(err, errPortTaken) {
		t.Fatal(err)
	}
	if err := s.start(); err != nil {
		t.Fatal(err)
	}
	if s.Addr == own || s.Addr == other.Addr {
		t.Fatal(s.Addr)
	}
	get(t, s.Client(), "k", "")
	get(t, other.Client(), "k", "other")
}

func TestWithoutRedisServer(t *testing.T) {
	t.Setenv("PATH", "")
	const hint = "redis-server is not installed; on Debian: apt-get install redis-server"

	t.Setenv("REQUIRE_REDIS", "")
	if tb := run(t, func(tb testing.TB) { Start(tb) }); tb.skip != hint || tb.fatal != "" {
		t.Fatalf("%+v", tb)
	}
	t.Setenv("REQUIRE_REDIS", "1")
	if tb := run(t, func(tb testing.TB) { Start(tb) }); tb.fatal != hint || tb.skip != "" {
		t.Fatalf("%+v", tb)
	}
}

func TestFailedTestPrintsTheLog(t *testing.T) {
	passed := run(t, func(tb testing.TB) { Start(tb) })
	if passed.log != "" {
		t.Fatalf("%q", passed.log)
	}
	failed := run(t, func(tb testing.TB) {
		s := Start(tb)
		s.Restart()
		tb.Fatal("because")
	})
	if n := strings.Count(failed.log, "Ready to accept connections"); n != 2 {
		t.Fatalf("%d starts in %q", n, failed.log)
	}
}

func TestWithoutCompiler(t *testing.T) {
	Start(t)
	server, err := exec.LookPath("redis-server")
	if err != nil {
		t.Fatal(err)
	}
	path := t.TempDir()
	if err := os.Symlink(server, filepath.Join(path, "redis-server")); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", path)
	t.Setenv("REQUIRE_REDIS", "1")
	tb := run(t, func(tb testing.TB) { Start(tb, WithClock()) })
	if tb.fatal != "cc is not installed; on Debian: apt-get install gcc" {
		t.Fatalf("%q", tb.fatal)
	}
}

// recorder is a test that may fail or skip without t doing so.
type recorder struct {
	testing.TB
	skip, fatal, log string
}

// run runs f as a subtest with clean-up of its own.
func run(t *testing.T, f func(testing.TB)) *recorder {
	t.Helper()
	r := &recorder{}
	t.Run("recorded", func(t *testing.T) {
		r.TB = t
		done := make(chan struct{})
		go func() {
			defer close(done)
			f(r)
		}()
		<-done
	})
	return r
}

func (r *recorder) Skip(args ...any) {
	r.skip = fmt.Sprint(args...)
	runtime.Goexit()
}

func (r *recorder) Fatal(args ...any) {
	r.fatal = fmt.Sprint(args...)
	runtime.Goexit()
}

func (r *recorder) Fatalf(format string, args ...any) { r.Fatal(fmt.Sprintf(format, args...)) }

func (r *recorder) Failed() bool { return r.fatal != "" }

func (r *recorder) Logf(format string, args ...any) { r.log += fmt.Sprintf(format, args...) }

func down(addr string) bool {
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		return true
	}
	conn.Close()
	return false
}

func set(t *testing.T, client redis.Cmdable, key, value string) {
	t.Helper()
	if err := client.Set(t.Context(), key, value, 0).Err(); err != nil {
		t.Fatal(err)
	}
}

// get fails the test unless key holds want; "" is no value.
func get(t *testing.T, client redis.Cmdable, key, want string) {
	t.Helper()
	got, err := client.Get(t.Context(), key).Result()
	if err != nil && !errors.Is(err, redis.Nil) {
		t.Fatal(err)
	}
	if got != want {
		t.Fatalf("%s is %q, not %q", key, got, want)
	}
}
