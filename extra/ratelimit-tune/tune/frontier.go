package tune

import (
	"fmt"
	"slices"

	"github.com/gin-ratelimit/ratelimit"
	"github.com/gin-ratelimit/ratelimit/internal/bucket"
)

// Curve is the smallest bursts that suffice at one rate.
type Curve struct {
	Rate   ratelimit.Rate
	Needs  []int64 // of each client, as in Trace.Clients
	Bursts []int64 // the same, ascending
}

// Quantile is the smallest burst that suffices for at least perMille of a thousand clients; 0 without clients.
func (c *Curve) Quantile(perMille int) int64 {
	if len(c.Bursts) == 0 {
		return 0
	}
	clients := (len(c.Bursts)*perMille + 999) / 1000
	return c.Bursts[max(1, clients)-1]
}

// Frontier finds for every rate the smallest burst with which each client would not have been refused once. One pass
// suffices: at a given rate that burst is the client's largest deficit. The trace is not searched.
func Frontier(t *Trace, rates []ratelimit.Rate) ([]Curve, error) {
	scales := make([]bucket.Scale, len(rates))
	for i, rate := range rates {
		if err := rate.Burst(1).Validate(); err != nil {
			return nil, fmt.Errorf("ratelimit-tune: rate %v: %w", rate, err)
		}
		scales[i], _ = bucket.NewScale(1, int64(rate.Tokens), int64(rate.Per))
	}
	curves := make([]Curve, len(rates))
	for i, rate := range rates {
		curves[i] = Curve{Rate: rate, Needs: make([]int64, len(t.Clients))}
	}
	type level struct{ deficit, most int64 }
	levels := make([]level, len(rates))
	for client, charges := range t.byClient() {
		clear(levels)
		last := int64(0)
		for _, c := range charges {
			elapsed := c.tick - last
			last = c.tick
			for i := range levels {
				s, l := &scales[i], &levels[i]
				l.deficit = bucket.Charged(s.Refill(l.deficit, elapsed), s.Units(c.cost))
				l.most = max(l.most, l.deficit)
			}
		}
		for i := range levels {
			curves[i].Needs[client] = (levels[i].most + scales[i].Token - 1) / scales[i].Token
		}
	}
	for i := range curves {
		curves[i].Bursts = slices.Sorted(slices.Values(curves[i].Needs))
	}
	return curves, nil
}
