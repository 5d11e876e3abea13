package verify

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/gin-gonic/gin"
	"github.com/redis/go-redis/v9"

	"github.com/gin-ratelimit/ratelimit"
	"github.com/gin-ratelimit/ratelimit/internal/redistest"
)

// A reset of one connection does not open the breaker, however many takes are on it.
func TestN05OneConnectionReset(t *testing.T) {
	c := try(t, "N5")
	server := redistest.Start(t)
	for _, callers := range []int{16, 256} {
		link := redistest.NewLink(t, server.Addr, 5*time.Millisecond)
		var switches, failed atomic.Int64
		primary := &failing{storeOn(t, openClient(t, &redis.Options{Addr: link.Addr, ContextTimeoutEnabled: true}), patient), &failed}
		store, err := ratelimit.NewFallbackStore(primary, ratelimit.NewMemoryStore(),
			ratelimit.WithOnSwitch(func(degraded bool, cause error) {
				switches.Add(1)
				t.Logf("degraded %v: %v", degraded, cause)
			}))
		if err != nil {
			t.Fatal(err)
		}
		press(callers, time.Second, takeOne(store))
		var pressing sync.WaitGroup
		resets := pick(10, 3)
		pressing.Go(func() { press(callers, time.Duration(resets)*300*time.Millisecond, takeOne(store)) })
		for range resets {
			link.CutOne()
			time.Sleep(250 * time.Millisecond)
		}
		pressing.Wait()
		c.times(resets)
		c.note("%d callers: %d resets failed %d takes, the breaker opened %d times", callers, resets, failed.Load(), switches.Load())
		if switches.Load() > 0 {
			t.Errorf("%d callers: one reset at a time, and the store fell back", callers)
		}
		if failed.Load() == 0 {
			t.Errorf("%d callers: no take was on a connection that was reset", callers)
		}
	}
}

// failing counts the failures of a store.
type failing struct {
	ratelimit.Store
	failed *atomic.Int64
}

func (s *failing) Take(ctx context.Context, key string, take ratelimit.Take) (ratelimit.Result, error) {
	r, err := s.Store.Take(ctx, key, take)
	if err != nil {
		s.failed.Add(1)
	}
	return r, err
}

// A refusal that was on its way when Reset or Adjust returned is not remembered.
func TestN06RefusalOvertakenByReset(t *testing.T) {
	c := try(t, "N6")
	server := redistest.Start(t)
	limits := []ratelimit.Limit{{Capacity: 1, Refill: ratelimit.PerHour(1)}}
	times := pick(10, 2)
	for i := range times {
		link := redistest.NewLink(t, server.Addr, 2*time.Millisecond)
		store := storeOn(t, openClient(t, &redis.Options{Addr: link.Addr, ContextTimeoutEnabled: true}), patient, ratelimit.WithDenyCache(4096))
		key := fmt.Sprint("key", i)
		taken := take(t, store, key, 1, limits...)
		press(8, 300*time.Millisecond, takeOne(store)) // Sets up connections for both.
		link.SetRTT(200 * time.Millisecond)
		var refused sync.WaitGroup
		var late ratelimit.Result
		refused.Go(func() { late, _ = store.Take(context.Background(), key, ratelimit.Take{N: 1, Limits: limits}) })
		time.Sleep(150 * time.Millisecond) // Until the take has run, and its refusal is on its way.
		link.SetRTT(2 * time.Millisecond)
		var err error
		if i%2 == 0 {
			_, err = store.Reset(t.Context(), key)
		} else {
			_, err = store.Adjust(t.Context(), key, ratelimit.Adjustment{N: 1, Limits: limits, Receipt: taken.Receipt})
		}
		if err != nil {
			t.Fatal(err)
		}
		returned := time.Now()
		refused.Wait()
		if late.Allowed || late.Source != ratelimit.SourceRedis {
			t.Errorf("the take before: %+v", late)
		}
		if time.Since(returned) < 5*time.Millisecond {
			continue // The machine was busy, so the refusal came first.
		}
		c.times(1)
		if r := take(t, store, key, 1, limits...); !r.Allowed {
			t.Errorf("refused by %v after Reset or Adjust had returned", r.Source)
		}
	}
	c.exceeds(0, 0)
}

// A remembered refusal does not keep the whole reply in memory, which is of many takes.
func TestN07MemoryOfRefusals(t *testing.T) {
	c := try(t, "N7")
	server := redistest.Start(t)
	const callers, keys = 256, 16384
	limits := []ratelimit.Limit{{Capacity: 1, Refill: ratelimit.PerHour(1)}}
	var store *ratelimit.RedisStore
	all := func() {
		var taking sync.WaitGroup
		for caller := range callers {
			taking.Go(func() {
				for k := caller; k < keys; k += callers {
					if _, err := store.Take(context.Background(), fmt.Sprint(k), ratelimit.Take{N: 1, Limits: limits}); err != nil {
						t.Error(err)
					}
				}
			})
		}
		taking.Wait()
	}
	heap := func() int64 {
		runtime.GC()
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return int64(m.HeapAlloc)
	}
	store = storeOn(t, openClient(t, &redis.Options{Addr: server.Addr}), patient, ratelimit.WithDenyCache(4096))
	all() // Admitted, so that nothing is remembered yet.
	before, ran := heap(), server.CommandCalls("evalsha")
	all()
	grown, runs := heap()-before, server.CommandCalls("evalsha")-ran
	runtime.KeepAlive(store)
	c.times(keys)
	c.note("%d refusals, %.0f keys a run, 4096 remembered: %.2f MB", keys, float64(keys)/float64(runs), float64(grown)/1e6)
	if grown > 2e6 {
		t.Errorf("4096 remembered refusals take %d bytes", grown)
	}
	if runs > keys/4 {
		t.Errorf("%d refusals came in %d replies: they were not merged", keys, runs)
	}
}

func TestN08NewerLua(t *testing.T) {
	c := try(t, "N8")
	const test = "TestRepliesAreIntegersUnderNewerLua"
	cmd := exec.Command("go", "test", "-count=1", "-v", "-run", "^"+test+"$", "./internal/script")
	cmd.Dir = ".."
	cmd.Env = append(os.Environ(), "CI=1") // It must not be skipped.
	out, err := cmd.CombinedOutput()
	if err != nil || !strings.Contains(string(out), "--- PASS: "+test) {
		t.Errorf("%v: %s", err, out)
	}
	c.times(1)
}

// work is a hook that records how much Redis has to do for a run of the script, and whose context the run has.
type work struct {
	limits    int
	maxRun    atomic.Int64 // evaluations of a limit in one run
	runs, all atomic.Int64 // runs, and keys of all runs
	shared    atomic.Int64 // runs of several keys
	own, lent atomic.Int64 // runs with a request's context, of one key and of several
}

type requestKey struct{}

func (*work) DialHook(next redis.DialHook) redis.DialHook { return next }

func (w *work) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error {
		w.see(ctx, cmd)
		return next(ctx, cmd)
	}
}

func (w *work) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return func(ctx context.Context, cmds []redis.Cmder) error {
		for _, cmd := range cmds {
			w.see(ctx, cmd)
		}
		return next(ctx, cmds)
	}
}

func (w *work) see(ctx context.Context, cmd redis.Cmder) {
	if cmd.Name() != "evalsha" {
		return
	}
	keys, _ := cmd.Args()[2].(int)
	w.runs.Add(1)
	w.all.Add(int64(keys))
	own := ctx.Value(requestKey{}) != nil
	if keys > 1 {
		w.shared.Add(1)
	}
	switch {
	case own && keys > 1:
		w.lent.Add(1)
	case own:
		w.own.Add(1)
	}
	for {
		old, now := w.maxRun.Load(), int64(keys*w.limits)
		if now <= old || w.maxRun.CompareAndSwap(old, now) {
			return
		}
	}
}

// A run of the script does not hold Redis up for long, however many limits its takes have.
func TestN09WorkOfARun(t *testing.T) {
	c := try(t, "N9")
	for _, limits := range []int{1, 20} {
		server := redistest.Start(t, redistest.WithConfig("slowlog-log-slower-than", "500"), redistest.WithConfig("slowlog-max-len", "10000"))
		client := openClient(t, &redis.Options{Addr: server.Addr, ContextTimeoutEnabled: true})
		hook := &work{limits: limits}
		client.AddHook(hook)
		store := storeOn(t, client, patient)
		list := make([]ratelimit.Limit, limits)
		for i := range list {
			list[i] = ratelimit.Limit{Capacity: 1000 + i, Refill: ratelimit.PerHour(1000 + i)}
		}
		press(512, 2*time.Second, func(key string) error {
			_, err := store.Take(context.Background(), key, ratelimit.Take{N: 1, Limits: list})
			if err != nil {
				t.Error(err)
			}
			return err
		})
		slow, err := server.Client().SlowLogGet(t.Context(), 10000).Result()
		if err != nil {
			t.Fatal(err)
		}
		longest := time.Duration(0)
		for _, entry := range slow {
			if strings.HasPrefix(strings.ToLower(entry.Args[0]), "eval") {
				longest = max(longest, entry.Duration)
			}
		}
		stats, err := server.Client().InfoMap(t.Context(), "commandstats").Result()
		if err != nil {
			t.Fatal(err)
		}
		var calls, total int64
		if _, err := fmt.Sscanf(stats["Commandstats"]["cmdstat_evalsha"], "calls=%d,usec=%d", &calls, &total); err != nil {
			t.Fatal(err)
		}
		mean := time.Duration(total/calls) * time.Microsecond
		c.times(int(calls))
		c.note("%d limits a take, 512 callers: at most %d evaluations of a limit in one run, which takes Redis %v on average, and %v at the longest, on a machine that has other work",
			limits, hook.maxRun.Load(), mean, longest)
		if hook.maxRun.Load() > 256 {
			t.Errorf("%d evaluations of a limit in one run", hook.maxRun.Load())
		}
		if mean > 2*time.Millisecond {
			t.Errorf("a run blocks Redis for %v", mean)
		}
		if hook.all.Load() < 2*hook.runs.Load() {
			t.Errorf("%d takes in %d runs: they were not merged", hook.all.Load(), hook.runs.Load())
		}
	}
}

func TestN10CheckNamesAReplica(t *testing.T) {
	c := try(t, "N10")
	master, replica := redistest.Start(t, redistest.WithConfig("repl-diskless-sync-delay", "0")), redistest.Start(t)
	host, port, _ := strings.Cut(master.Addr, ":")
	if err := replica.Client().ReplicaOf(t.Context(), host, port).Err(); err != nil {
		t.Fatal(err)
	}
	for addr, want := range map[string]bool{master.Addr: false, replica.Addr: true} {
		limiter, err := ratelimit.NewLimiter(ratelimit.WithName("n10"), ratelimit.WithStore(openStore(t, addr)), ratelimit.WithRefillRate(ratelimit.PerSecond(1)))
		if err != nil {
			t.Fatal(err)
		}
		engine := routed(limiter.Handle)
		engine.GET("/other", func(c *gin.Context) { c.Status(http.StatusOK) })
		found := false
		for _, warning := range ratelimit.Check(engine) {
			found = found || warning.Code == ratelimit.WarnReplica && strings.Contains(warning.Message, addr)
		}
		if found != want {
			t.Errorf("%s: warned %v, want %v", addr, found, want)
		}
		c.times(1)
	}
}

// A single take has its request's context; takes that are sent together have the store's.
func TestN12WhoseContextHooksSee(t *testing.T) {
	c := try(t, "N12")
	server := redistest.Start(t)
	for _, callers := range []int{1, 64} {
		client := openClient(t, &redis.Options{Addr: server.Addr, ContextTimeoutEnabled: true})
		hook := &work{}
		client.AddHook(hook)
		store := storeOn(t, client, patient)
		ctx := context.WithValue(context.Background(), requestKey{}, true)
		press(callers, 500*time.Millisecond, func(key string) error {
			_, err := store.Take(ctx, key, ratelimit.Take{N: 1, Limits: []ratelimit.Limit{hoard}})
			if err != nil {
				t.Error(err)
			}
			return err
		})
		c.times(int(hook.all.Load()))
		c.note("%d callers: %d takes in %d commands, of which a hook saw %d with a request's context", callers, hook.all.Load(), hook.runs.Load(), hook.own.Load())
		if callers == 1 && hook.own.Load() != hook.runs.Load() {
			t.Errorf("alone: %d of %d commands had the request's context", hook.own.Load(), hook.runs.Load())
		}
		if callers > 1 && (hook.lent.Load() > 0 || hook.shared.Load() == 0) {
			t.Errorf("%d of %d commands with several takes had one request's context", hook.lent.Load(), hook.shared.Load())
		}
	}
}

// A proxy that closes the connection on HELLO, as twemproxy does, cannot be used, and the error names the cause.
func TestN13HangsUpOnHello(t *testing.T) {
	c := try(t, "N13")
	addr := redistest.Pretend(t, func(command []string) (string, bool) { return "", !strings.EqualFold(command[0], "hello") })
	store := openStore(t, addr)
	var text string
	for range 5 {
		_, err := store.Take(t.Context(), "key", ratelimit.Take{N: 1, Limits: []ratelimit.Limit{hoard}})
		if err == nil {
			t.Fatal("decided")
		}
		text = err.Error()
		c.times(1)
	}
	c.note("the error: %s", text)
	if !strings.Contains(text, "HELLO") {
		t.Errorf("error %q", text)
	}
}
