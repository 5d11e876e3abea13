package notify

import (
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
)

// queue is the calls that are still to be made.
type queue struct {
	mu     sync.Mutex
	serial Serial
	calls  []func()
}

func (q *queue) add(call func()) {
	q.mu.Lock()
	q.calls = append(q.calls, call)
	q.mu.Unlock()
	q.serial.Run(&q.mu, func() func() {
		if len(q.calls) == 0 {
			return nil
		}
		call := q.calls[0]
		q.calls = q.calls[1:]
		return call
	})
}

// A call that causes another one does not wait for it: the other is made after it.
func TestCallsAreInOrder(t *testing.T) {
	var q queue
	var order []string
	q.add(func() {
		q.add(func() { order = append(order, "second") })
		order = append(order, "first")
	})
	require.Equal(t, []string{"first", "second"}, order)
}

// After a call that panics, the calls behind it are still made.
func TestCallThatPanics(t *testing.T) {
	var q queue
	made := 0
	require.PanicsWithValue(t, "oops", func() {
		q.add(func() {
			q.add(func() { made++ })
			panic("oops")
		})
	})
	require.Zero(t, made)
	q.add(func() { made++ })
	require.Equal(t, 2, made)
}

// Calls from many goroutines never overlap, and none is lost. The race detector watches the counter.
func TestCallsDoNotOverlap(t *testing.T) {
	var q queue
	made := 0
	var adding sync.WaitGroup
	for range 8 {
		adding.Go(func() {
			for range 100 {
				q.add(func() { made++ })
			}
		})
	}
	adding.Wait()
	require.Equal(t, 800, made)
}
