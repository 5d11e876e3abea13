package main

import (
	"cmp"
	"slices"

	"github.com/gin-ratelimit/ratelimit"
	"github.com/gin-ratelimit/ratelimit/extra/ratelimit-tune/tune"
)

// replayReport is what limits would have refused.
type replayReport struct {
	name            string
	stamped, spread tune.Refused
	tally           *tune.Tally // as stamped
	hit             []hitClient
	limit           ratelimit.Limit // if it is one alone
	needs           []int64         // of each client at its rate; nil if there are several
}

// hitClient is a client that is refused much, or would be next.
type hitClient struct {
	name string
	tune.ClientTally
	agents uint16
	need   int64 // smallest burst at the limit's rate; 0 if unknown
}

// compareReport is what other limits change, by both readings.
type compareReport struct{ stamped, spread tune.Comparison }

func newReplay(t *tune.Trace, p tune.Policy, name string, limits []ratelimit.Limit) (*replayReport, error) {
	r := &replayReport{name: name, tally: tune.NewTally(t)}
	var err error
	if r.stamped, err = tune.Replay(t, p, tune.AtOnce, r.tally.Add); err != nil {
		return nil, err
	}
	if r.spread, err = tune.Replay(t, p, tune.Spread, nil); err != nil || len(limits) != 1 {
		return r, err
	}
	curves, err := tune.Frontier(t, []ratelimit.Rate{limits[0].Refill})
	if err == nil {
		r.limit, r.needs = limits[0], curves[0].Needs
	}
	return r, err
}

// replayOfPick replays the limit that is suggested, of which much is known already.
func (r *report) replayOfPick() (*replayReport, error) {
	s := r.picked()
	y := &replayReport{name: s.Limit.String(), stamped: s.Refused, spread: s.Spread, tally: tune.NewTally(r.trace), limit: s.Limit}
	for _, c := range r.curves {
		if c.Rate == s.Limit.Refill {
			y.needs = c.Needs
		}
	}
	_, err := tune.Replay(r.trace, tune.Together(s.Limit), tune.AtOnce, y.tally.Add)
	return y, err
}

// mostHit returns the clients of which most requests are refused, and then those that need the largest bursts.
func (y *replayReport) mostHit(t *tune.Trace) []hitClient {
	const shown = 15
	all := make([]hitClient, len(t.Clients))
	for i, tally := range y.tally.ByClient {
		all[i] = hitClient{name: t.Clients[i], ClientTally: tally, agents: t.Agents[i]}
		if y.needs != nil {
			all[i].need = y.needs[i]
		}
	}
	slices.SortStableFunc(all, func(a, b hitClient) int {
		return cmp.Or(cmp.Compare(b.Refused, a.Refused), cmp.Compare(b.need, a.need), cmp.Compare(b.Requests, a.Requests))
	})
	return slices.Clone(all[:min(shown, len(all))])
}

func newComparison(t *tune.Trace, p *policies) (*compareReport, error) {
	c := new(compareReport)
	var err error
	if c.stamped, err = tune.Compare(t, *p.replay, *p.against, tune.AtOnce); err != nil {
		return nil, err
	}
	c.spread, err = tune.Compare(t, *p.replay, *p.against, tune.Spread)
	return c, err
}

// worst is what allowances judge: what a replay refuses, or a comparison refuses newly, by the worse reading.
func (r *report) worst() tune.Refused {
	a, b := r.replay.stamped, r.replay.spread
	if r.compare != nil {
		a, b = r.compare.stamped.Refused, r.compare.spread.Refused
	}
	return tune.Refused{Requests: max(a.Requests, b.Requests), Clients: max(a.Clients, b.Clients)}
}
