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
	s, most := bucket.NewScale(capacity, tokens, int64(24*time.Hour))
	if most < capacity {
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

// pipelineCounter counts what goes down the wire together: keys, in runs of the script, in batches.
type pipelineCounter struct{ alone, batches, runs, batched atomic.Int64 }

func (*pipelineCounter) DialHook(next redis.DialHook) redis.DialHook { return next }

func (p *pipelineCounter) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error {
		if cmd.Name() == "evalsha" {
			p.alone.Add(1)
		}
		return next(ctx, cmd)
	}
}

func (p *pipelineCounter) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return func(ctx context.Context, cmds []redis.Cmder) error {
		if cmds[0].Name() == "evalsha" { // A new connection says hello in a pipeline.
			p.batches.Add(1)
			for _, cmd := range cmds {
				p.runs.Add(1)
				p.batched.Add(int64(cmd.Args()[2].(int)))
			}
		}
		return next(ctx, cmds)
	}
}

func TestConcurrentTakesShareATripAndAreChargedOnce(t *testing.T) {
	server := redistest.Start(t)
	client := server.Client()
	counter := &pipelineCounter{}
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
	depth := float64(counter.batched.Load()) / float64(counter.batches.Load())
	t.Logf("%d takes alone, %d in %d runs in %d batches, %.1f each", counter.alone.Load(), counter.batched.Load(),
		counter.runs.Load(), counter.batches.Load(), depth)
	require.Greater(t, depth, 2.0)
	require.Less(t, counter.runs.Load(), 2*counter.batches.Load(), "and a run of the script")
}

func TestTakeThatIsAloneIsNotBatched(t *testing.T) {
	server := redistest.Start(t)
	client := server.Client()
	counter := &pipelineCounter{}
	client.AddHook(counter)
	runner := New(client, patient)
	for i := range 20 {
		_, err := runner.Change(context.Background(), fmt.Sprint(i), perDay(1, 1), one)
		require.NoError(t, err)
	}
	require.Zero(t, counter.batches.Load())
}

// TestBatchesKeepTheBudget has Redis stand still under many callers: each gives up in time, what was still queued
// is never sent, and what was sent is charged at most once.
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
