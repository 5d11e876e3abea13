package ratelimit

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// Who has found a slot just before it dies must look again.
func TestMemoryStoreDeadSlot(t *testing.T) {
	m := NewMemoryStore()
	limit := Limit{10, PerSecond(10)}
	_, err := m.Take(context.Background(), "key", 1, []Limit{limit})
	require.NoError(t, err)
	id := m.seeds.identify("key")
	held := m.shard(&id).table.Load().find(&id)
	require.NotNil(t, held)
	require.NoError(t, m.Reset(context.Background(), "key"))

	answers := make(chan bool)
	go func() {
		_, _, ok := held.apply(m, m.limits.at(held.limit()), &change{n: 1})
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
