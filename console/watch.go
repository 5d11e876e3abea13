package console

import (
	"context"
	"fmt"
	"hash/maphash"
	"sync"
	"time"
	"unsafe"

	"github.com/gin-ratelimit/ratelimit"
)

// modeReturns is how long a change of mode lasts that is to go back by itself.
const modeReturns = 15 * time.Minute

// watch is what the console keeps of one limiter.
type watch struct {
	id      string // the name, with a number where several limiters have it
	limiter *ratelimit.Limiter
	counts  counts
	top     top

	mu    sync.Mutex
	timer *time.Timer // nil: the mode stays
	until time.Time
}

const watchBytes = int(unsafe.Sizeof(watch{}))

func newWatch(id string, l *ratelimit.Limiter, base time.Time) *watch {
	w := &watch{id: id, limiter: l}
	w.counts.base = base
	w.top.base, w.top.seed = base, maphash.MakeSeed()
	l.AddObserver(w.observe)
	return w
}

func (w *watch) observe(_ context.Context, e ratelimit.Event) {
	switch {
	case e.Reason == ratelimit.ReasonAllowed:
		w.counts.add(accepted)
	case e.Reason == ratelimit.ReasonGone, e.Reason == ratelimit.ReasonGiveBack: // No decision.
	case e.Err != nil:
		w.counts.add(failed)
	case e.Reason == ratelimit.ReasonShadow:
		w.top.add(e.Key, w.counts.add(shadow), true)
	default:
		w.top.add(e.Key, w.counts.add(refused), false)
	}
}

// setMode changes the mode. If it is to go back, it does so unless somebody has changed it meanwhile.
func (w *watch) setMode(mode ratelimit.Mode, back bool, returned func(ratelimit.Mode)) {
	w.mu.Lock()
	defer w.mu.Unlock()
	before := w.limiter.Mode()
	if w.timer != nil {
		w.timer.Stop()
		w.timer, w.until = nil, time.Time{}
	}
	w.limiter.SetMode(mode)
	if !back || before == mode {
		return
	}
	w.until = time.Now().Add(modeReturns)
	var timer *time.Timer
	timer = time.AfterFunc(modeReturns, func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		if w.timer != timer {
			return // A later change has replaced this one.
		}
		w.timer, w.until = nil, time.Time{}
		if w.limiter.Mode() == mode {
			w.limiter.SetMode(before)
			returned(before)
		}
	})
	w.timer = timer
}

func (w *watch) returnsAt() time.Time {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.until
}

const (
	thisProcess  = "this process"
	allInstances = "all instances"
	whoShares    = "all instances that share the store" // a store of their own: nobody here knows who
)

// storeOf names a limiter's store, and who shares what it holds.
func storeOf(l *ratelimit.Limiter) (name, scope string) {
	switch s := l.Store().(type) {
	case *ratelimit.MemoryStore:
		return "memory", thisProcess
	case *ratelimit.RedisStore:
		if l := s.LeaseStats(); l.Leased > 0 {
			held := max(0, l.Leased+l.GivenBack-l.Spent-l.Void)
			return fmt.Sprintf("Redis, with %s on lease to this process", count(held, "token")), allInstances
		}
		return "Redis", allInstances
	case *ratelimit.FallbackStore:
		if s.Degraded() {
			return "fallback, because the primary store is down", thisProcess
		}
		return "primary, with a fallback", allInstances
	default:
		return fmt.Sprintf("%T", s), whoShares
	}
}

func scopeOf(s ratelimit.Source) string {
	switch s {
	case ratelimit.SourceRedis, ratelimit.SourceDenyCache, ratelimit.SourceLease:
		return allInstances
	case ratelimit.SourceMemory, ratelimit.SourceOverflow, ratelimit.SourceFallback:
		return thisProcess
	default:
		return whoShares
	}
}

// noteOf says what a look at a key does not show by itself.
func noteOf(l *ratelimit.Limiter, source ratelimit.Source) string {
	if source == ratelimit.SourceFallback {
		return "The primary store does not answer. This is what the fallback holds, by its share of the limits; other instances have fallbacks of their own."
	}
	if s, ok := l.Store().(*ratelimit.RedisStore); ok && s.LeaseStats().Leased > 0 {
		return "Tokens that this process holds on lease count as left here; other instances do not see them."
	}
	return ""
}
