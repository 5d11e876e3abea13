package tune

import (
	"math"

	"github.com/gin-ratelimit/ratelimit"
)

// Share is what a suggestion may refuse, as parts of 1.
type Share struct{ Clients, Requests float64 }

// Suggestion is the smallest burst at a rate that keeps to a [Share], and what it would have refused.
type Suggestion struct {
	Limit   ratelimit.Limit
	Refused Refused
}

// Suggest returns one limit per curve, each with the smallest burst that would have refused at most so many clients and
// requests of the trace. A curve whose burst cannot be counted at its rate has none.
func Suggest(t *Trace, curves []Curve, most Share) ([]Suggestion, error) {
	var suggestions []Suggestion
	for _, c := range curves {
		if len(c.Bursts) == 0 {
			continue
		}
		spared := len(c.Bursts) - int(math.Floor(most.Clients*float64(len(c.Bursts))))
		low, high := c.Bursts[max(1, spared)-1], c.Bursts[len(c.Bursts)-1]
		if c.Rate.Burst(int(high)).Validate() != nil {
			continue
		}
		for { // A larger burst never refuses more requests of a client, so the search may halve.
			burst := (low + high) / 2
			limit := c.Rate.Burst(int(burst))
			refused, err := Replay(t, []ratelimit.Limit{limit}, nil)
			if err != nil {
				return nil, err
			}
			fits := float64(refused.Requests) <= most.Requests*float64(len(t.Requests))
			if fits && low == high {
				suggestions = append(suggestions, Suggestion{limit, refused})
				break
			}
			if fits {
				high = burst
			} else {
				low = burst + 1
			}
		}
	}
	return suggestions, nil
}
