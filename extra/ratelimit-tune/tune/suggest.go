package tune

import (
	"math"
	"slices"
	"time"

	"github.com/gin-ratelimit/ratelimit"
)

// Share is what a suggestion may refuse, as parts of 1.
type Share struct{ Clients, Requests float64 }

// Suggestion is the smallest burst at a rate that keeps to a [Share], and what it would have refused.
type Suggestion struct {
	Limit   ratelimit.Limit
	Refused Refused // with what comes in a step of the stamps at once
	Spread  Refused // with that spread over the step
	Usual   int64   // the burst with which 99 % of the clients would do at this rate
}

// Suggest returns one limit per curve, each with the smallest burst that would have refused at most so many clients and
// requests of the trace, what comes in a step of its stamps at once. A curve whose burst cannot be counted at its rate has none.
func Suggest(t *Trace, curves []Curve, most Share) ([]Suggestion, error) {
	low := make([]int64, len(curves)) // the bursts that keep to the share of clients
	for i, c := range curves {
		if len(c.Bursts) == 0 {
			return nil, nil
		}
		spared := len(c.Bursts) - int(math.Floor(most.Clients*float64(len(c.Bursts))))
		low[i] = max(1, c.Bursts[max(1, spared)-1]) // Costs of 0 need no burst, but a limit has one.
	}
	hit := t.hit(curves, low)
	fits := func(r Refused) bool {
		return float64(r.Clients) <= most.Clients*float64(len(t.Clients)) && float64(r.Requests) <= most.Requests*float64(len(t.Requests))
	}
	var suggestions []Suggestion
	for i, c := range curves {
		low, high := low[i], max(1, c.Bursts[len(c.Bursts)-1])
		if c.Rate.Burst(int(high)).Validate() != nil {
			continue
		}
		for burst := low; ; burst = (low + high) / 2 { // A larger burst never refuses more requests of a client.
			s := Suggestion{Limit: c.Rate.Burst(int(burst)), Usual: c.Quantile(990)}
			var err error
			if s.Refused, err = Replay(hit, Together(s.Limit), AtOnce, nil); err != nil {
				return nil, err
			}
			if fits(s.Refused) {
				if high = burst; low == high {
					if s.Spread, err = Replay(hit, Together(s.Limit), Spread, nil); err != nil {
						return nil, err
					}
					suggestions = append(suggestions, s)
					break
				}
			} else {
				low = burst + 1
			}
		}
	}
	return suggestions, nil
}

// hit returns the trace with the requests alone of clients that need more than these bursts of the curves: what others
// asked for is never refused by them. That is often a small part, and a search goes over it many times.
func (t *Trace) hit(curves []Curve, bursts []int64) *Trace {
	if slices.ContainsFunc(t.Requests, func(r Request) bool { return r.Cost != 1 }) {
		return t // Spread, a costly request may come when it finds less than it would have at once.
	}
	keep := make([]bool, len(t.Clients))
	for i, c := range curves {
		for client, need := range c.Needs {
			keep[client] = keep[client] || need > bursts[i]
		}
	}
	return t.only(func(r *Request) bool { return keep[r.Client] })
}

// Pick returns the index of the suggestion that admits the least within a minute, of a client that takes all it can; the
// slower rate if several do. It is -1 without suggestions.
func Pick(suggestions []Suggestion) int {
	admits := func(s Suggestion) float64 {
		return float64(s.Limit.Capacity) + float64(s.Limit.Refill.Tokens)*float64(time.Minute)/float64(s.Limit.Refill.Per)
	}
	pick := -1
	for i, s := range suggestions {
		if pick < 0 || admits(s) < admits(suggestions[pick]) {
			pick = i
		}
	}
	return pick
}
