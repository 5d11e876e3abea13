package ratelimit

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

	"github.com/gin-ratelimit/ratelimit/internal/redistest"
)

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
	store, err := NewRedisStore(client, WithTimeout(10*time.Second))
	require.NoError(t, err)

	const callers, each = 64, 50
	limits := []Limit{{callers * each, PerDay(1)}}
	var failed atomic.Int64
	var takes sync.WaitGroup
	for range callers {
		takes.Go(func() {
			for range each {
				if r, err := store.Take(context.Background(), "key", Take{N: 1, Limits: limits}); err != nil || !r.Allowed {
					failed.Add(1)
				}
			}
		})
	}
	takes.Wait()
	require.Zero(t, failed.Load())
	look, err := store.Take(context.Background(), "key", Take{Limits: limits})
	require.NoError(t, err)
	require.Zero(t, look.Remaining, "each take is charged")
	r, err := store.Take(context.Background(), "key", Take{N: 1, Limits: limits})
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
	store, err := NewRedisStore(client, WithTimeout(10*time.Second))
	require.NoError(t, err)
	for i := range 20 {
		_, err := store.Take(context.Background(), fmt.Sprint(i), Take{N: 1, Limits: []Limit{{1, PerDay(1)}}})
		require.NoError(t, err)
	}
	require.Zero(t, counter.batches.Load())
}

// TestBatchesKeepTheBudget has Redis stand still under many callers: each gives up in time, what was still queued
// is never sent, and what was sent is charged at most once.
func TestBatchesKeepTheBudget(t *testing.T) {
	server := redistest.Start(t)
	const budget, callers = 100 * time.Millisecond, 200
	store, err := NewRedisStore(server.Client(), WithTimeout(budget))
	require.NoError(t, err)
	limits := []Limit{{1000, PerDay(1)}}
	_, err = store.Take(context.Background(), "key", Take{N: 1, Limits: limits}) // Connects, and loads the script.
	require.NoError(t, err)
	goroutines := runtime.NumGoroutine()

	server.Pause()
	var longest, succeeded atomic.Int64
	var takes sync.WaitGroup
	for range callers {
		takes.Go(func() {
			start := time.Now()
			if _, err := store.Take(context.Background(), "key", Take{N: 1, Limits: limits}); err == nil {
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

	var look Result
	require.Eventually(t, func() bool {
		look, err = store.Take(context.Background(), "key", Take{Limits: limits})
		return err == nil
	}, 5*time.Second, 10*time.Millisecond, "and it recovers")
	require.GreaterOrEqual(t, look.Remaining, 1000-1-callers)
	t.Logf("%d of them had been sent", 999-look.Remaining)
	require.Less(t, 999-look.Remaining, callers, "those that were still queued were not sent")
}
