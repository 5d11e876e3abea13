package ratelimit

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/gin-ratelimit/ratelimit/internal/bucket"
)

// A goroutine that is held up after it has read the clock decides by the time at which it goes on, not by the one it
// has read, if others have taken meanwhile.
func TestMemoryStoreHeldUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := NewMemoryStore()
		limits := []Limit{{10, PerSecond(10)}}
		read := m.now()
		for _, n := range []int{10, 1} {
			r, err := m.Take(t.Context(), "key", n, limits)
			require.NoError(t, err)
			require.True(t, r.Allowed)
			time.Sleep(100 * time.Millisecond)
		}
		time.Sleep(time.Second)
		id := m.seeds.identify("key")
		held := m.tables[m.shardOf(&id)].Load().find(&id)
		_, allowed, ok := held.apply(m, m.limits.at(held.limit()), &bucket.Change{N: 10}, read)
		require.True(t, ok)
		require.True(t, allowed, "the bucket is full by now")
	})
}

// Who has found a slot just before it dies must look again.
func TestMemoryStoreDeadSlot(t *testing.T) {
	m := NewMemoryStore()
	limit := Limit{10, PerSecond(10)}
	_, err := m.Take(context.Background(), "key", 1, []Limit{limit})
	require.NoError(t, err)
	id := m.seeds.identify("key")
	held := m.tables[m.shardOf(&id)].Load().find(&id)
	require.NotNil(t, held)
	require.NoError(t, m.Reset(context.Background(), "key"))

	answers := make(chan bool)
	go func() {
		_, _, ok := held.apply(m, m.limits.at(held.limit()), &bucket.Change{N: 1}, m.now())
		answers <- ok
	}()
	select {
	case ok := <-answers:
		require.False(t, ok, "a take from a dead slot")
	case <-time.After(10 * time.Second):
		t.Fatal("a take from a dead slot goes on for ever")
	}
	require.Equal(t, int64(dead), held.full.Load())
}
