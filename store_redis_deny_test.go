package ratelimit

import (
	"context"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/gin-ratelimit/ratelimit/internal/bucket"
	"github.com/gin-ratelimit/ratelimit/internal/redistest"
)

// TestDenyCacheSaysWhatTheBucketWould asks the cache about random takes after a random refusal. Its answer must be exactly
// the bucket's at that moment, and it must not answer where that is unknown.
func TestDenyCacheSaysWhatTheBucketWould(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		random := rand.New(rand.NewPCG(1, 2))
		limits := []Limit{{5, PerSecond(10)}, {20, PerMinute(7)}}
		scales, err := appendScales(nil, limits)
		require.NoError(t, err)
		cache := newDenyCache(4)
		tick := func() int64 { return time.Since(cache.base).Microseconds() }
		known, unknown := 0, 0
		for range 2000 {
			model := &bucket.State{Last: tick(), Levels: []bucket.Level{{Scale: scales[0]}, {Scale: scales[1]}}}
			for i := range model.Levels {
				model.Levels[i].Deficit = random.Int64N(scales[i].Size() + 1)
			}
			refused := &bucket.Change{N: 1 + random.Int64N(5)}
			o, _ := model.Apply(tick(), refused, scales)
			r := resultOf(refused, SourceRedis, limits, scales, &o)
			if r.Allowed {
				continue
			}
			cache.add("key", &denial{
				take: Take{N: int(refused.N), Limits: limits}, scales: scales, outcome: o, changes: cache.changes("key"),
			}, time.Now(), r.RetryAfter)
			for range 8 {
				time.Sleep(time.Duration(random.IntN(300_000)) * time.Microsecond)
				take := bucket.Change{N: 1 + random.Int64N(6)}
				got, ok := cache.find("key", &Take{N: int(take.N), Limits: limits}, &take)
				copied := *model
				o, _ := copied.Apply(tick(), &take, scales)
				want := resultOf(&take, SourceDenyCache, limits, scales, &o)
				if !ok {
					unknown++
					continue
				}
				known++
				require.GreaterOrEqual(t, take.N, refused.N, "never for a smaller cost")
				want.Receipt, got.Receipt = Receipt{}, Receipt{}
				require.Equal(t, want, got)
			}
			cache.forget("key")
			_, ok := cache.find("key", &Take{N: 20, Limits: limits}, &bucket.Change{N: 20})
			require.False(t, ok, "forgotten")
		}
		require.NotZero(t, known)
		require.NotZero(t, unknown)
	})
}

func TestDenyCacheForgets(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		limits := []Limit{{1, PerHour(1)}}
		scales, _ := appendScales(nil, limits)
		cache := newDenyCache(1)
		add := func(lasts time.Duration) {
			cache.add("key", &denial{
				take: Take{N: 1, Limits: limits}, scales: scales, outcome: bucket.Outcome{Deficits: []int64{scales[0].Size()}},
				changes: cache.changes("key"),
			}, time.Now(), lasts)
		}
		known := func() bool {
			_, ok := cache.find("key", &Take{N: 1, Limits: limits}, &bucket.Change{N: 1})
			return ok
		}
		add(time.Hour)
		time.Sleep(denialStale - 1)
		require.True(t, known())
		time.Sleep(time.Nanosecond)
		require.False(t, known(), "one caller asks again")
		require.True(t, known(), "the others need not")
		time.Sleep(denialAge - denialStale)
		require.False(t, known(), "after a second all have to")

		add(300 * time.Millisecond)
		time.Sleep(300*time.Millisecond - 1)
		require.True(t, known())
		time.Sleep(time.Nanosecond)
		require.False(t, known(), "the tokens are back")

		add(time.Hour)
		_, ok := cache.find("key", &Take{N: 1, Limits: []Limit{{2, PerHour(1)}}}, &bucket.Change{N: 1})
		require.False(t, ok, "other limits")
		_, ok = cache.find("key", &Take{N: 1, Limits: limits, MaxWait: time.Hour}, &bucket.Change{N: 1})
		require.False(t, ok, "other options")
		_, ok = cache.find("other", &Take{N: 1, Limits: limits}, &bucket.Change{N: 1})
		require.False(t, ok, "another key in the same place")
		_, ok = cache.find("key", &Take{Limits: limits}, &bucket.Change{})
		require.False(t, ok, "a look")

		cache.forget("key")
		require.False(t, known(), "forgotten")
	})
}

// A refusal that was decided before a Reset may come in after it.
func TestDenyCacheForgetsWhatIsOnItsWay(t *testing.T) {
	limits := []Limit{{1, PerHour(1)}}
	scales, err := appendScales(nil, limits)
	require.NoError(t, err)
	cache := newDenyCache(1)
	onItsWay := &denial{
		take: Take{N: 1, Limits: limits}, scales: scales, outcome: bucket.Outcome{Deficits: []int64{scales[0].Size()}},
		changes: cache.changes("key"),
	}
	cache.forget("key")
	cache.add("key", onItsWay, time.Now(), time.Hour)
	_, ok := cache.find("key", &Take{N: 1, Limits: limits}, &bucket.Change{N: 1})
	require.False(t, ok)
}

// A remembered refusal does not keep the whole reply in memory.
func TestDenyCacheKeepsItsOwnNumbers(t *testing.T) {
	limits := []Limit{{1, PerHour(1)}}
	cache := newDenyCache(1)
	reply := make([]int64, 300)
	cache.add("key", &denial{take: Take{N: 1, Limits: limits}, outcome: bucket.Outcome{Deficits: reply[100:101]}}, time.Now(), time.Hour)
	require.LessOrEqual(t, cap(cache.place("key").denial.Load().outcome.Deficits), 8)
}

// TestDenyCacheShieldsRedis hammers a drained key from many goroutines for over a second.
func TestDenyCacheShieldsRedis(t *testing.T) {
	server := redistest.Start(t)
	store, err := NewRedisStore(server.Client(), WithTimeout(10*time.Second))
	require.NoError(t, err)
	ctx, limits := context.Background(), []Limit{{1, PerHour(1)}}
	r, err := store.Take(ctx, "key", Take{N: 1, Limits: limits})
	require.NoError(t, err)
	require.True(t, r.Allowed)

	before, start := server.CommandCalls("evalsha"), time.Now()
	var takes atomic.Int64
	var hammers sync.WaitGroup
	for range 8 {
		hammers.Go(func() {
			for time.Since(start) < 1500*time.Millisecond {
				r, err := store.Take(ctx, "key", Take{N: 1, Limits: limits})
				takes.Add(1)
				if err != nil || r.Allowed {
					t.Errorf("allowed %v, error %v", r.Allowed, err)
					return
				}
			}
		})
	}
	hammers.Wait()
	// Until the first refusal is remembered, all goroutines ask Redis. After that it is one call each 0.8 s. On a busy machine
	// that call may be late, and all ask again.
	calls := server.CommandCalls("evalsha") - before
	t.Logf("%d takes were %d calls in %v", takes.Load(), calls, time.Since(start).Round(time.Millisecond))
	require.Less(t, 50*calls, takes.Load())

	_, err = store.Reset(ctx, "key")
	require.NoError(t, err)
	require.Eventually(t, func() bool { // Redis forgets a millisecond later.
		r, err := store.Take(ctx, "key", Take{N: 1, Limits: limits})
		return err == nil && r.Allowed
	}, 5*time.Second, time.Millisecond, "this store's own Reset is seen at once")
}

func TestDenyCacheDoesNotHideRefusalsFromABan(t *testing.T) {
	server := redistest.Start(t)
	store, err := NewRedisStore(server.Client(), WithTimeout(10*time.Second))
	require.NoError(t, err)
	limits := []Limit{{1, PerHour(1)}}
	options := Take{Ban: Ban{After: 5, Within: time.Hour, For: time.Hour}}
	var banned []bool
	var last Result
	for range 8 {
		last, err = store.Take(context.Background(), "key", Take{N: 1, Limits: limits, MaxWait: options.MaxWait, Ban: options.Ban})
		require.NoError(t, err)
		banned = append(banned, last.Banned)
	}
	require.Equal(t, []bool{false, false, false, false, false, true, true, true}, banned)
	require.Equal(t, SourceDenyCache, last.Source, "a ban is a fact, too")
}
