package tune

import (
	"errors"
	"fmt"

	"github.com/gin-ratelimit/ratelimit"
	"github.com/gin-ratelimit/ratelimit/internal/bucket"
)

// Refused is what limits would have refused.
type Refused struct{ Requests, Clients int }

// Replay decides every request of the trace by the limits, as a store does: all of them have room, or none is charged.
// It calls decided, if not nil, with each decision.
func Replay(t *Trace, limits []ratelimit.Limit, decided func(r Request, allowed bool)) (Refused, error) {
	if len(limits) == 0 {
		return Refused{}, errors.New(`ratelimit-tune: no limits to replay: give at least one, as in "10/s burst 20"`)
	}
	scales := make([]bucket.Scale, len(limits))
	for i, l := range limits {
		if err := l.Validate(); err != nil {
			return Refused{}, fmt.Errorf("ratelimit-tune: limit %v: %w", l, err)
		}
		scales[i], _ = bucket.NewScale(int64(l.Capacity), int64(l.Refill.Tokens), int64(l.Refill.Per))
	}
	n := len(limits)
	deficits, last := make([]int64, n*len(t.Clients)), make([]int64, len(t.Clients))
	hit := make([]bool, len(t.Clients))
	after := make([]int64, n)
	var refused Refused
	for _, r := range t.Requests {
		own := deficits[int(r.Client)*n:][:n]
		take := bucket.Change{N: int64(r.Cost)}
		allowed := true
		for i := range scales {
			var fits bool
			now := scales[i].Refill(own[i], r.Tick-last[r.Client])
			after[i], fits = take.Of(i, &scales[i], now, r.Tick)
			allowed = allowed && fits
		}
		if allowed {
			copy(own, after)
			last[r.Client] = r.Tick
		} else { // A refusal writes nothing.
			refused.Requests++
			if !hit[r.Client] {
				hit[r.Client] = true
				refused.Clients++
			}
		}
		if decided != nil {
			decided(r, allowed)
		}
	}
	return refused, nil
}
