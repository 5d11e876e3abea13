package script

import (
	"context"
	"slices"
	"sync"
)

// batcher sends takes that come at the same time together, down one connection, which spares Redis and this
// process most of the cost of a take: reading and writing sockets. A take that is alone is sent at once, as it
// would be without.
//
// It owns no goroutine. While a batch is on its way, takes queue up; when it is back, the one that came last
// sends all that wait, itself included. go-redis' AutoPipeline does the same with goroutines that have to be
// closed, is slower for a single caller, and splits batches of commands that must not be sent twice.
type batcher struct {
	merger

	mu      sync.Mutex
	flights int // batches on their way
	queue   []*batchCall
}

const (
	// mostFlights is how many batches may be on their way at once, so that Redis has work while this process
	// reads replies, and so that one bad connection does not hold everybody up. With two, 16 callers get a fifth
	// less than with four; with eight, batches are so small that 128 callers get less.
	mostFlights = 4
	// mostBatched keeps one batch from blocking Redis for long: 256 takes are about a millisecond.
	mostBatched = 256
)

// batchCall is a take that waits for its turn.
type batchCall struct {
	cmd  onceCmd
	wake chan []*batchCall // receives the batch to send, if it is to send one; closed when cmd has its reply
}

// process sends cmd and returns when it has its reply, or ctx is done. If ctx is done before cmd was sent, it
// never will be. All contexts have the same budget, so that the last to come has the latest deadline.
func (b *batcher) process(ctx context.Context, cmd onceCmd) error {
	b.mu.Lock()
	if b.flights < mostFlights {
		b.flights++
		b.mu.Unlock()
		defer b.land()
		return b.client.Process(ctx, cmd)
	}
	call := &batchCall{cmd: cmd, wake: make(chan []*batchCall, 1)}
	b.queue = append(b.queue, call)
	b.mu.Unlock()

	select {
	case batch := <-call.wake:
		return b.woken(ctx, call, batch)
	case <-ctx.Done():
	}
	b.mu.Lock()
	i := slices.Index(b.queue, call)
	if i >= 0 {
		b.queue = slices.Delete(b.queue, i, i+1)
	}
	b.mu.Unlock()
	if i < 0 {
		select {
		case batch := <-call.wake:
			return b.woken(ctx, call, batch)
		default: // Sent by another, and no reply yet.
		}
	}
	return ctx.Err()
}

// woken sends the batch that call was given, if any.
func (b *batcher) woken(ctx context.Context, call *batchCall, batch []*batchCall) error {
	if batch == nil {
		return call.cmd.Err()
	}
	defer b.land()
	defer func() {
		for _, other := range batch {
			if other != call {
				close(other.wake)
			}
		}
	}()
	cmds := make([]onceCmd, len(batch))
	for i, c := range batch {
		cmds[i] = c.cmd
	}
	b.send(ctx, cmds)
	return call.cmd.Err()
}

// land makes room for the next batch, and has the last of those who wait send it.
func (b *batcher) land() {
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.queue) == 0 {
		b.flights--
		return
	}
	size := min(len(b.queue), mostBatched)
	batch := slices.Clone(b.queue[:size])
	b.queue = slices.Delete(b.queue, 0, size)
	batch[size-1].wake <- batch // Never blocks: there is room for one.
}
