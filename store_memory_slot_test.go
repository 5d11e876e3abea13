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
			r, err := m.Take(t.Context(), "key", Take{N: n, Limits: limits})
			require.NoError(t, err)
			require.True(t, r.Allowed)
			time.Sleep(100 * time.Millisecond)
		}
		time.Sleep(time.Second)
		id := m.seeds.identify("key")
		held := m.tables[m.shardOf(&id)].Load().find(&id)
		var r Result
		require.True(t, held.apply(m, &r, m.limits.at(held.limit()), &bucket.Change{N: 10}, read))
		require.True(t, r.Allowed, "the bucket is full by now")
	})
}

// A take that has found a slot just before it dies looks again.
func TestMemoryStoreDeadSlot(t *testing.T) {
	m := NewMemoryStore()
	limit := Limit{10, PerSecond(10)}
	_, err := m.Take(context.Background(), "key", Take{N: 1, Limits: []Limit{limit}})
	require.NoError(t, err)
	id := m.seeds.identify("key")
	held := m.tables[m.shardOf(&id)].Load().find(&id)
	require.NotNil(t, held)
	_, err = m.Reset(context.Background(), "key")
	require.NoError(t, err)

	answers := make(chan bool)
	go func() {
		ok := held.apply(m, new(Result), m.limits.at(held.limit()), &bucket.Change{N: 1}, m.now())
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
