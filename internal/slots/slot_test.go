package slots

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/gin-ratelimit/ratelimit/internal/bucket"
)

// tenPerSecond adds a limit of 10 tokens that refill by 10 a second.
func tenPerSecond(limits *Limits) *Limit {
	scale, _ := bucket.NewScale(10, 10, int64(time.Second))
	return limits.Add(Spec{10, 10, time.Second}, scale)
}

// If a goroutine is held up after it has read the clock, and others take meanwhile, it decides by the time at which it goes
// on, not by the time that it has read.
func TestApplyHeldUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		clock, seeds, table, limits := NewClock(), NewSeeds(), NewTable(), Limits{}
		limit, key := tenPerSecond(&limits), seeds.Key("key")
		read := clock.Now()
		table.Insert(&key, limit, 10*limit.Scale.Token, read)
		slot := table.Find(&key)
		time.Sleep(100 * time.Millisecond)
		a, ok := slot.Apply(&clock, limit, &bucket.Change{N: 1}, clock.Now())
		require.True(t, ok)
		require.True(t, a.Allowed)
		time.Sleep(time.Second)

		a, ok = slot.Apply(&clock, limit, &bucket.Change{N: 10}, read)
		require.True(t, ok)
		require.True(t, a.Allowed, "the bucket is full by now")
	})
}

// Of two takes that have read the same instant, the second must look again.
func TestSwapAfterAnother(t *testing.T) {
	clock, seeds, table, limits := NewClock(), NewSeeds(), NewTable(), Limits{}
	limit, key := tenPerSecond(&limits), seeds.Key("key")
	now := clock.Now()
	table.Insert(&key, limit, limit.Scale.Token, now)
	slot := table.Find(&key)
	full, meta := slot.fullAt.Load(), slot.meta.Load()
	require.True(t, slot.swap(full, full+1, meta, limit, now))
	require.False(t, slot.swap(full, full+2, meta, limit, now))
	require.Equal(t, full+1, slot.fullAt.Load())
}

// A take that has found a slot just before it dies does not take from it.
func TestApplyDeadSlot(t *testing.T) {
	clock, seeds, table, limits := NewClock(), NewSeeds(), NewTable(), Limits{}
	limit, key := tenPerSecond(&limits), seeds.Key("key")
	table.Insert(&key, limit, limit.Scale.Token, clock.Now())
	held := table.Find(&key)
	require.NotNil(t, held)
	table.Kill(held, &limits)

	answers := make(chan bool)
	go func() {
		_, ok := held.Apply(&clock, limit, &bucket.Change{N: 1}, clock.Now())
		answers <- ok
	}()
	select {
	case ok := <-answers:
		require.False(t, ok, "a take from a dead slot")
	case <-time.After(10 * time.Second):
		require.Fail(t, "a take from a dead slot never ends")
	}
	require.Nil(t, table.Find(&key))
}

// Evict and Rebuilt return how many buckets are gone, so that a store can count its keys.
func TestEvictedAreCounted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		clock, seeds, table, limits := NewClock(), NewSeeds(), NewTable(), Limits{}
		limit := tenPerSecond(&limits)
		for _, name := range []string{"full soon", "also full soon", "a key of more than fifteen bytes"} {
			key := seeds.Key(name)
			table.Insert(&key, limit, limit.Scale.Token, clock.Now())
		}
		late := seeds.Key("late")
		table.Insert(&late, limit, 10*limit.Scale.Token, clock.Now())
		require.Zero(t, table.Evict(&limits, clock.Now(), minSlots))
		time.Sleep(100 * time.Millisecond)
		next, evicted := table.Rebuilt(&seeds, &limits, clock.Now())
		require.Equal(t, 3, evicted)
		require.Nil(t, table.Find(&late), "a slot of the old table is in use")
		require.Equal(t, 9*limit.Scale.Token, next.Find(&late).State(&limits).At(clock.Now(), nil).Levels[0].Deficit)
	})
}
