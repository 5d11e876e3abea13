package script

import (
	"context"
	"fmt"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/gin-ratelimit/ratelimit/internal/bucket"
	"github.com/gin-ratelimit/ratelimit/internal/redistest"
)

var (
	// patient is for tests that are not about the budget, on a machine that may be busy.
	patient = Config{Prefix: "ratelimit:", Budget: 10 * time.Second}
	one     = &bucket.Change{N: 1}
)

// perDay is one limit.
func perDay(capacity, tokens int64) *Limits {
	s, maxCapacity := bucket.NewScale(capacity, tokens, int64(24*time.Hour))
	if maxCapacity < capacity {
		panic("no such limit")
	}
	return NewLimits([]bucket.Scale{s})
}

// remaining looks at the first limit of a key.
func remaining(t *testing.T, runner *Runner, key string, limits *Limits) int {
	t.Helper()
	o, err := runner.Change(context.Background(), key, limits, &bucket.Change{})
	require.NoError(t, err)
	return int(limits.Scales[0].Remaining(o.Deficits[0]))
}

// wireCounter counts what goes down the wire together: keys, in runs of the script, in flights.
type wireCounter struct{ alone, flights, runs, keys atomic.Int64 }

func (*wireCounter) DialHook(next redis.DialHook) redis.DialHook { return next }

func (w *wireCounter) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error {
		w.count([]redis.Cmder{cmd})
		return next(ctx, cmd)
	}
}

func (w *wireCounter) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return func(ctx context.Context, cmds []redis.Cmder) error {
		w.count(cmds)
		return next(ctx, cmds)
	}
}

func (w *wireCounter) count(cmds []redis.Cmder) {
	if cmds[0].Name() != "evalsha" { // A new connection says hello in a pipeline.
		return
	}
	keys := 0
	for _, cmd := range cmds {
		keys += cmd.Args()[2].(int)
	}
	if keys == 1 {
		w.alone.Add(1)
		return
	}
	w.flights.Add(1)
	w.runs.Add(int64(len(cmds)))
	w.keys.Add(int64(keys))
}

func TestConcurrentTakesShareATripAndAreChargedOnce(t *testing.T) {
	server := redistest.Start(t)
	client := server.Client()
	counter := &wireCounter{}
	client.AddHook(counter)
	runner := New(client, patient)

	const callers, each = 64, 50
	limits := perDay(callers*each, 1)
	var failed atomic.Int64
	var takes sync.WaitGroup
	for range callers {
		takes.Go(func() {
			for range each {
				if r, err := runner.Change(context.Background(), "key", limits, one); err != nil || !r.Allowed {
					failed.Add(1)
				}
			}
		})
	}
	takes.Wait()
	require.Zero(t, failed.Load())
	require.Zero(t, remaining(t, runner, "key", limits), "each take is charged")
	r, err := runner.Change(context.Background(), "key", limits, one)
	require.NoError(t, err)
	require.False(t, r.Allowed, "and once")
	depth := float64(counter.keys.Load()) / float64(counter.flights.Load())
	t.Logf("%d takes alone, %d in %d runs in %d flights, %.1f each", counter.alone.Load(), counter.keys.Load(),
		counter.runs.Load(), counter.flights.Load(), depth)
	require.Greater(t, depth, 2.0)
	require.Less(t, counter.runs.Load(), counter.keys.Load()/2, "and a run of the script, once it is known that there is one server")
}

func TestTakeThatIsAloneIsNotBatched(t *testing.T) {
	server := redistest.Start(t)
	client := server.Client()
	counter := &wireCounter{}
	client.AddHook(counter)
	runner := New(client, patient)
	for i := range 20 {
		_, err := runner.Change(context.Background(), fmt.Sprint(i), perDay(1, 1), one)
		require.NoError(t, err)
	}
	require.Zero(t, counter.flights.Load())
}

// TestBatchesKeepTheBudget pauses Redis under many callers: each gives up in time, takes that were still queued are never
// sent, and takes that were sent are charged at most once.
func TestBatchesKeepTheBudget(t *testing.T) {
	server := redistest.Start(t)
	const budget, callers = 100 * time.Millisecond, 200
	runner := New(server.Client(), Config{Budget: budget})
	limits := perDay(1000, 1)
	_, err := runner.Change(context.Background(), "key", limits, one) // Connects, and loads the script.
	require.NoError(t, err)
	goroutines := runtime.NumGoroutine()

	server.Pause()
	var longest, succeeded atomic.Int64
	var takes sync.WaitGroup
	for range callers {
		takes.Go(func() {
			start := time.Now()
			if _, err := runner.Change(context.Background(), "key", limits, one); err == nil {
				succeeded.Add(1)
			}
			for {
				old, now := longest.Load(), int64(time.Since(start))
				if now <= old || longest.CompareAndSwap(old, now) {
					break
				}
			}
		})
	}
	takes.Wait()
	server.Resume()
	t.Logf("the longest of %d takes was %v, of a budget of %v", callers, time.Duration(longest.Load()).Round(time.Millisecond), budget)
	require.Zero(t, succeeded.Load())
	require.Less(t, time.Duration(longest.Load()), 5*budget)
	require.Eventually(t, func() bool { return runtime.NumGoroutine() <= goroutines+2 }, 5*time.Second, 10*time.Millisecond)

	var look bucket.Outcome
	require.Eventually(t, func() bool {
		look, err = runner.Change(context.Background(), "key", limits, &bucket.Change{})
		return err == nil
	}, 5*time.Second, 10*time.Millisecond, "and it recovers")
	left := int(limits.Scales[0].Remaining(look.Deficits[0]))
	require.GreaterOrEqual(t, left, 1000-1-callers)
	t.Logf("%d of them had been sent", 999-left)
	require.Less(t, 999-left, callers, "those that were still queued were not sent")
}
