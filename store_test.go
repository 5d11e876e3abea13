package ratelimit_test

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"os/exec"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/gin-ratelimit/ratelimit"
	"github.com/gin-ratelimit/ratelimit/internal/redistest"
	"github.com/redis/go-redis/v9"
)

func TestSourceText(t *testing.T) {
	for source, want := range map[ratelimit.Source]string{
		ratelimit.SourceUnknown:   "unknown",
		ratelimit.SourceMemory:    "memory",
		ratelimit.SourceOverflow:  "overflow",
		ratelimit.SourceRedis:     "redis",
		ratelimit.SourceDenyCache: "deny_cache",
		ratelimit.SourceFallback:  "fallback",
		255:                       "unknown",
	} {
		if got := source.String(); got != want {
			t.Errorf("source %d is %q, want %q", source, got, want)
		}
	}
}

// All stores report wrong arguments in the same words, and without a round trip.
func TestArgumentErrors(t *testing.T) {
	down := redis.NewClient(&redis.Options{Addr: "127.0.0.1:1"})
	defer down.Close()
	redisStore, err := ratelimit.NewRedisStore(down)
	if err != nil {
		t.Fatal(err)
	}
	good := ratelimit.Limit{Capacity: 10, Refill: ratelimit.PerSecond(10)}
	for name, store := range map[string]ratelimit.Store{"memory": ratelimit.NewMemoryStore(), "redis": redisStore} {
		for _, c := range []struct {
			n      int
			limits []ratelimit.Limit
			want   string
		}{
			{-1, []ratelimit.Limit{good}, "ratelimit: cost -1: must not be negative; Adjust gives tokens back"},
			{1, nil, "at least one is needed"},
			{1, []ratelimit.Limit{{}}, "tokens must be at least 1"},
			{1, []ratelimit.Limit{good, {Refill: ratelimit.PerSecond(10)}}, `ratelimit: capacity 0 of limit "10/s burst 0": must be at least 1`},
			{1, []ratelimit.Limit{{Capacity: 10, Refill: ratelimit.Every(-1)}}, "the period must be positive"},
		} {
			_, err := store.Take(ctx, "key", ratelimit.Take{N: c.n, Limits: c.limits})
			if !errors.Is(err, ratelimit.ErrArgument) || !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), "ratelimit: ") {
				t.Errorf("%s: Take(%d, %v): error %v, want %q", name, c.n, c.limits, err, c.want)
			}
			if c.n < 0 {
				continue
			}
			if _, err = store.Adjust(ctx, "key", ratelimit.Adjustment{N: c.n, Limits: c.limits}); !errors.Is(err, ratelimit.ErrArgument) || !strings.Contains(err.Error(), c.want) {
				t.Errorf("%s: Adjust(%d, %v): error %v, want %q", name, c.n, c.limits, err, c.want)
			}
		}
	}
}

const hammerVariable = "RATELIMIT_HAMMER"

var hammered = ratelimit.Limit{Capacity: 100, Refill: ratelimit.PerSecond(1000)}

// TestHammer is one of the processes of TestRedisManyProcesses: it waits for its input to end, takes for a second, and prints
// how many tokens it got.
func TestHammer(t *testing.T) {
	addr := os.Getenv(hammerVariable)
	if addr == "" {
		t.Skip("TestRedisManyProcesses runs it in processes of their own")
	}
	client := redis.NewClient(&redis.Options{Addr: addr})
	defer client.Close()
	store, err := ratelimit.NewRedisStore(client, patient(), ratelimit.WithDenyCache(0))
	if err != nil {
		t.Fatal(err)
	}
	mustTake(t, store, "warm", 1, still...)
	fmt.Println("ready")
	if _, err := io.Copy(io.Discard, os.Stdin); err != nil {
		t.Fatal(err)
	}
	var admitted, calls atomic.Int64
	var taking sync.WaitGroup
	for range 4 {
		taking.Go(func() {
			for start := time.Now(); time.Since(start) < time.Second; {
				r, err := store.Take(ctx, "key", ratelimit.Take{N: 1, Limits: []ratelimit.Limit{hammered}})
				if err != nil {
					t.Error(err)
					return
				}
				calls.Add(1)
				if r.Allowed {
					admitted.Add(1)
				}
			}
		})
	}
	taking.Wait()
	fmt.Printf("admitted %d of %d\n", admitted.Load(), calls.Load())
}

func TestRedisManyProcesses(t *testing.T) {
	const processes = 8
	server := redistest.Start(t)
	client := server.Client()
	type process struct {
		cmd   *exec.Cmd
		start io.Closer
		out   *bufio.Reader
	}
	var all []process
	for range processes {
		cmd := exec.Command(os.Args[0], "-test.run=^TestHammer$")
		cmd.Env = append(os.Environ(), hammerVariable+"="+server.Addr)
		in, err := cmd.StdinPipe()
		if err != nil {
			t.Fatal(err)
		}
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		all = append(all, process{cmd, in, bufio.NewReader(out)})
	}
	for _, p := range all {
		if line, err := p.out.ReadString('\n'); line != "ready\n" {
			t.Fatalf("%q, %v", line, err)
		}
	}
	start := client.Time(ctx).Val()
	for _, p := range all {
		_ = p.start.Close()
	}
	admitted, calls := 0, 0
	for _, p := range all {
		var a, c int
		if _, err := fmt.Fscanf(p.out, "admitted %d of %d\n", &a, &c); err != nil {
			t.Errorf("%v", err)
		}
		_, _ = io.Copy(io.Discard, p.out)
		if err := p.cmd.Wait(); err != nil {
			t.Error(err)
		}
		admitted, calls = admitted+a, calls+c
	}
	took := client.Time(ctx).Val().Sub(start)
	bound := hammered.Capacity + int(math.Floor(float64(hammered.Refill.Tokens)*took.Seconds()))
	t.Logf("%d processes: %d of %d takes admitted in %v; bound %d, slack %d", processes, admitted, calls, took, bound, bound-admitted)
	if admitted > bound {
		t.Errorf("%d were admitted in %v, and no more than %d may be", admitted, took, bound)
	}
	if admitted < hammered.Capacity+hammered.Refill.Tokens/2 {
		t.Errorf("only %d of %d were admitted: the test tests little", admitted, calls)
	}
}
