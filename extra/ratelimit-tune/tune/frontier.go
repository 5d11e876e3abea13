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
	Bursts []int64 // of the clients, ascending
}

// Quantile is the smallest burst that suffices for at least so many of a thousand clients; 0 without clients.
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
	type level struct{ deficit, most int64 }
	n := len(rates)
	levels, last := make([]level, n*len(t.Clients)), make([]int64, len(t.Clients))
	for _, r := range t.Requests {
		elapsed := r.Tick - last[r.Client]
		last[r.Client] = r.Tick
		own := levels[int(r.Client)*n:][:n]
		for i := range own {
			s, l := &scales[i], &own[i]
			l.deficit = bucket.Charged(s.Refill(l.deficit, elapsed), s.Units(int64(r.Cost)))
			l.most = max(l.most, l.deficit)
		}
	}
	curves := make([]Curve, n)
	for i, rate := range rates {
		bursts := make([]int64, len(t.Clients))
		for client := range bursts {
			bursts[client] = (levels[client*n+i].most + scales[i].Token - 1) / scales[i].Token
		}
		slices.Sort(bursts)
		curves[i] = Curve{rate, bursts}
	}
	return curves, nil
}
