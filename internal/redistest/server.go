// Package redistest runs real redis-server processes for tests: one server, a cluster, or a master under Sentinel.
//
// Every server listens on a free loopback port, keeps its files in the test's temporary directory, and is gone when
// the test ends; on Linux also when the test binary is killed. It takes Redis 7 or newer. Where redis-server is not
// installed the test is skipped, unless REQUIRE_REDIS=1 is in the environment, which makes that a failure.
//
// A call that fails ends the test, so it must be made on the test's own goroutine. Clients and clocks may be used on any.
package redistest

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
)

const (
	loopback     = "127.0.0.1"
	readyTimeout = 20 * time.Second // far above the usual 20 ms, so that a machine under load is no failure
	exitTimeout  = 20 * time.Second // a master waits up to 10 s for its replicas before it stops
)

// Option changes how servers are started.
type Option func(*config)

type config struct {
	lines    []string // of redis.conf
	clock    bool
	sentinel bool
}

// WithConfig adds a line to redis.conf, after the defaults: WithConfig("maxmemory", "2mb"). Repeatable.
// Nothing is persisted by default; WithConfig("appendonly", "yes") lets data outlive Kill and Restart.
func WithConfig(name, value string) Option {
	return func(c *config) { c.lines = append(c.lines, name+" "+value) }
}

// WithClock gives the server a wall clock that the test sets, see [Clock]. It needs Linux and a C compiler; without
// them the test is skipped or fails, as without redis-server.
func WithClock() Option {
	return func(c *config) { c.clock = true }
}

func asSentinel(c *config) { c.sentinel = true }

// Server is one redis-server process and its successors: after Kill or Stop, Restart brings it back.
type Server struct {
	// Addr is the host:port it listens on, the same for life.
	Addr string

	tb     testing.TB
	config config
	binary string
	dir    string
	port   string
	clock  *Clock
	proc   *process // nil while down
	paused bool
}

type process struct {
	cmd    *exec.Cmd
	exited chan struct{}
}

// Start runs a server until the end of the test, and returns when it answers.
func Start(tb testing.TB, opts ...Option) *Server {
	tb.Helper()
	return startAll(tb, 1, opts...)[0]
}

// startAll starts n servers side by side, and ends the test if one of them does not come up.
func startAll(tb testing.TB, n int, opts ...Option) []*Server {
	tb.Helper()
	binary := need(tb, serverProgram(), "redis-server")
	var config config
	for _, opt := range opts {
		opt(&config)
	}

	servers := make([]*Server, n)
	for i := range servers {
		s := &Server{tb: tb, config: config, binary: binary, dir: tb.TempDir()}
		if config.clock {
			s.clock = newClock(tb, s.dir)
		}
		tb.Cleanup(s.cleanup)
		servers[i] = s
	}
	errs := make([]error, n)
	var starting sync.WaitGroup
	for i, s := range servers {
		starting.Go(func() { errs[i] = s.start() })
	}
	starting.Wait()
	if err := errors.Join(errs...); err != nil {
		tb.Fatal(err)
	}
	return servers
}

// need returns the path of a program, or skips the test with the way to get it.
// serverProgram is redis-server, or another server that REDISTEST_SERVER names, by its path or on the PATH.
func serverProgram() string {
	if program := os.Getenv("REDISTEST_SERVER"); program != "" {
		return program
	}
	return "redis-server"
}

func need(tb testing.TB, program, debian string) string {
	tb.Helper()
	path, err := exec.LookPath(program)
	if err != nil {
		unavailable(tb, fmt.Sprintf("%s is not installed; on Debian: apt-get install %s", program, debian))
	}
	return path
}

// unavailable ends a test that this machine cannot run.
func unavailable(tb testing.TB, why string) {
	tb.Helper()
	if os.Getenv("REQUIRE_REDIS") == "1" {
		tb.Fatal(why)
	}
	tb.Skip(why)
}

var errPortTaken = errors.New("port taken")

// start runs the server on a free port. Another process may take that port first, so it tries several.
func (s *Server) start() error {
	var err error
	for range 10 {
		if s.port, err = freePort(); err != nil {
			return err
		}
		s.Addr = net.JoinHostPort(loopback, s.port)
		if err = s.writeConfig(); err != nil {
			return err
		}
		if err = s.run(); !errors.Is(err, errPortTaken) {
			return err
		}
	}
	return err
}

// freePort picks a port below the range of outgoing connections: a port in that range could be taken by a client's
// connection while its server is down for a moment. A cluster node also listens on the port 10000 higher.
func freePort() (string, error) {
	var err error
	for range 100 {
		port := 10000 + rand.IntN(10000)
		if err = errors.Join(bindable(port), bindable(port+10000)); err == nil {
			return strconv.Itoa(port), nil
		}
	}
	return "", fmt.Errorf("no free port: %w", err)
}

func bindable(port int) error {
	l, err := net.Listen("tcp", net.JoinHostPort(loopback, strconv.Itoa(port)))
	if err != nil {
		return err
	}
	return l.Close()
}

// writeConfig writes a file, so that CONFIG REWRITE works, by which Sentinel and the server itself remember a changed role
// across Restart. Arguments could not be rewritten.
func (s *Server) writeConfig() error {
	lines := append([]string{
		"bind " + loopback,
		"port " + s.port,
		`save ""`,
		"appendonly no",
		"user " + admin + " on nopass ~* +@all",
	}, s.config.lines...)
	return os.WriteFile(filepath.Join(s.dir, "redis.conf"), []byte(strings.Join(lines, "\n")+"\n"), 0o600)
}

// run starts the process and waits until it answers.
func (s *Server) run() error {
	log, err := os.OpenFile(s.logFile(), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer log.Close()

	cmd := exec.Command(s.binary, "redis.conf")
	if s.config.sentinel {
		cmd.Args = append(cmd.Args, "--sentinel")
	}
	cmd.Dir = s.dir
	cmd.Stdout, cmd.Stderr = log, log
	if s.clock != nil {
		cmd.Env = append(cmd.Environ(), s.clock.env()...)
	}
	endWithParent(cmd)
	before, err := log.Stat()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	p := &process{cmd: cmd, exited: make(chan struct{})}
	go func() {
		_ = cmd.Wait() // Only that it has ended matters. The log has the reason.
		close(p.exited)
	}()
	s.proc, s.paused = p, false

	err = poll(readyTimeout, 2*time.Millisecond, func() error {
		if !s.running() {
			return nil
		}
		return s.answers()
	})
	if err != nil {
		return fmt.Errorf("redis-server on %s: %w", s.Addr, err)
	}
	if !s.running() {
		s.proc = nil
		text, err := os.ReadFile(s.logFile())
		if err != nil {
			return err
		}
		text = text[before.Size():]
		if bytes.Contains(text, []byte("Address already in use")) {
			return fmt.Errorf("redis-server on %s: %w", s.Addr, errPortTaken)
		}
		return fmt.Errorf("redis-server on %s ended at once:\n%s", s.Addr, text)
	}
	if s.clock != nil && !s.clock.loaded() {
		return fmt.Errorf("redis-server on %s did not load the clock: is it statically linked?", s.Addr)
	}
	return nil
}

// answers returns nil when this process serves commands, and not another one that got the port.
func (s *Server) answers() error {
	info, err := s.info("default")
	if err != nil {
		return err
	}
	if pid := info["process_id"]; pid != strconv.Itoa(s.Pid()) {
		return fmt.Errorf("answered by process %s", pid)
	}
	if info["loading"] == "1" {
		return errors.New("loading its data")
	}
	return nil
}

// Pid returns the process id, 0 while the server is down.
func (s *Server) Pid() int {
	if s.proc == nil {
		return 0
	}
	return s.proc.cmd.Process.Pid
}

// Client returns a client that honours a context's deadline and is otherwise a default one, closed with the test.
func (s *Server) Client() *redis.Client {
	client := redis.NewClient(&redis.Options{Addr: s.Addr, ContextTimeoutEnabled: true})
	s.tb.Cleanup(func() { _ = client.Close() })
	return client
}

// Clock returns the server's wall clock. The server must have been started with [WithClock].
func (s *Server) Clock() *Clock {
	s.tb.Helper()
	if s.clock == nil {
		s.tb.Fatal("redistest: Clock needs WithClock")
	}
	return s.clock
}

// Kill ends the process as a crash does (SIGKILL) and returns when it is gone. Killing a dead server does nothing.
func (s *Server) Kill() {
	s.tb.Helper()
	s.end(os.Kill)
}

// Stop ends the process in good order (SIGTERM) and returns when it is gone. Stopping a dead server does nothing.
func (s *Server) Stop() {
	s.tb.Helper()
	s.Resume()
	s.end(syscall.SIGTERM)
}

// Restart starts the server again on the same port with the same files, and returns when it answers.
// It stops a server that is still running.
func (s *Server) Restart() {
	s.tb.Helper()
	s.Stop()
	if err := s.run(); err != nil {
		s.tb.Fatal(err)
	}
}

// Pause makes the process hang (SIGSTOP) until Resume: its connections stay open and nothing is answered.
func (s *Server) Pause() {
	s.tb.Helper()
	s.signal(sigStop)
	s.paused = true
}

// Resume lets a paused process go on.
func (s *Server) Resume() {
	s.tb.Helper()
	if s.paused {
		s.signal(sigCont)
		s.paused = false
	}
}

// Log returns what the server has logged so far, over all restarts.
func (s *Server) Log() string {
	s.tb.Helper()
	log, err := os.ReadFile(s.logFile())
	if err != nil {
		s.tb.Fatal(err)
	}
	return string(log)
}

func (s *Server) logFile() string { return filepath.Join(s.dir, "redis.log") }

// running reports whether the process lives, paused or not.
func (s *Server) running() bool {
	if s.proc == nil {
		return false
	}
	select {
	case <-s.proc.exited:
		return false
	default:
		return true
	}
}

func (s *Server) signal(sig os.Signal) {
	s.tb.Helper()
	if !s.running() {
		s.tb.Fatalf("redis-server on %s is not running", s.Addr)
	}
	if err := s.proc.cmd.Process.Signal(sig); err != nil {
		s.tb.Fatalf("redis-server on %s: %v: %v", s.Addr, sig, err)
	}
}

func (s *Server) end(sig os.Signal) {
	s.tb.Helper()
	if s.proc == nil {
		return
	}
	err := s.proc.cmd.Process.Signal(sig)
	if err != nil && !errors.Is(err, os.ErrProcessDone) {
		s.tb.Fatalf("redis-server on %s: %v: %v", s.Addr, sig, err)
	}
	select {
	case <-s.proc.exited:
		s.proc, s.paused = nil, false
	case <-time.After(exitTimeout):
		s.tb.Fatalf("redis-server on %s still runs %v after %v", s.Addr, exitTimeout, sig)
	}
}

func (s *Server) cleanup() {
	s.Kill() // It ends a paused process too.
	if s.tb.Failed() {
		s.tb.Logf("log of redis-server on %s:\n%s", s.Addr, strings.TrimSpace(s.Log()))
	}
}

// poll calls done until it returns nil. After the time-out it returns done's last error.
func poll(timeout, every time.Duration, done func() error) error {
	deadline := time.Now().Add(timeout)
	for {
		err := done()
		if err == nil {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("not within %v: %w", timeout, err)
		}
		time.Sleep(every)
	}
}
