package console

import (
	"sync"
	"sync/atomic"
	"time"
)

// The kinds of decisions that are counted.
const (
	accepted = iota
	refused
	shadow // let through, but would have been refused
	failed // the store could not decide
	kinds
)

const (
	keptSeconds = 15 * 60
	keptMinutes = 24 * 60
)

type totals [kinds]uint64

// counts counts decisions by second and by minute, in fixed memory. An event adds to one total; the totals are written
// down when a second begins, so that an event does not touch a window.
type counts struct {
	base  time.Time
	total [kinds]atomic.Uint64
	begun atomic.Int64 // the newest second that has begun, since base

	mu      sync.Mutex
	seconds [keptSeconds + 1]totals // the totals when a second began
	minutes [keptMinutes + 1]totals
}

// add counts a decision and returns the second, because reading the clock is the dearest part of it.
func (c *counts) add(kind int) (now int64) {
	now = c.second()
	if c.begun.Load() < now {
		c.begin(now)
	}
	c.total[kind].Add(1)
	return now
}

func (c *counts) second() int64 { return int64(time.Since(c.base) / time.Second) }

func (c *counts) load() (t totals) {
	for kind := range t {
		t[kind] = c.total[kind].Load()
	}
	return t
}

func (c *counts) begin(now int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	last := c.begun.Load()
	if last >= now {
		return
	}
	t := c.load()
	fill(c.seconds[:], last, now, t)
	fill(c.minutes[:], last/60, now/60, t)
	c.begun.Store(now)
}

func fill(ring []totals, last, now int64, t totals) {
	size := int64(len(ring))
	for at := max(last, now-size) + 1; at <= now; at++ {
		ring[at%size] = t
	}
}

// curves returns what was counted in each second and minute, oldest first; the last is not over yet.
func (c *counts) curves() (t totals, seconds, minutes [kinds][]uint64) {
	now := c.second()
	c.begin(now)
	c.mu.Lock()
	defer c.mu.Unlock()
	t, now = c.load(), c.begun.Load()
	return t, curve(c.seconds[:], now, t), curve(c.minutes[:], now/60, t)
}

func curve(ring []totals, now int64, end totals) (curves [kinds][]uint64) {
	size := int64(len(ring))
	first := max(0, now-size+2)
	for kind := range curves {
		curves[kind] = make([]uint64, now-first+1)
	}
	for at := now; at >= first; at-- {
		begin := ring[at%size]
		for kind := range curves {
			curves[kind][at-first] = end[kind] - begin[kind]
		}
		end = begin
	}
	return curves
}
