package tune

import (
	"fmt"

	"github.com/gin-ratelimit/ratelimit"
	"github.com/gin-ratelimit/ratelimit/internal/bucket"
)

// Policy says which limits a replay decides by.
type Policy struct {
	// Limits returns the limits that hold for a request, all of which must have room, and names which of its client's
	// buckets it is counted in. It is asked once for every client, route and plan that come together. A document of
	// limitconfig has Config.Lookup for it.
	Limits func(route, plan, client string) (limits []ratelimit.Limit, buckets string)
	// ChargeIf says by a request's status whether it is charged; nil charges all. What is not charged comes back at once,
	// as if the answer had taken no time.
	ChargeIf func(status int) bool

	everybody []ratelimit.Limit // instead of Limits
}

// Together is the policy of a limiter with these limits for everything.
func Together(limits ...ratelimit.Limit) Policy { return Policy{everybody: limits} }

// rule is limits in the units of buckets.
type rule struct {
	scales    []bucket.Scale
	unlimited bool
}

func newRule(limits []ratelimit.Limit) (*rule, error) {
	if len(limits) == 0 {
		return nil, fmt.Errorf(`ratelimit-tune: no limits to replay: give at least one, as in "10/s burst 20"`)
	}
	if len(limits) == 1 && limits[0] == ratelimit.Unlimited[0] {
		return &rule{unlimited: true}, nil
	}
	r := &rule{scales: make([]bucket.Scale, len(limits))}
	for i, l := range limits {
		if err := l.Validate(); err != nil {
			return nil, fmt.Errorf("ratelimit-tune: limit %v: %w", l, err)
		}
		r.scales[i], _ = bucket.NewScale(int64(l.Capacity), int64(l.Refill.Tokens), int64(l.Refill.Per))
	}
	return r, nil
}

// place is what decides a request: its limits, and the buckets of its client.
type place struct {
	rule    *rule
	buckets *bucket.State
}

// placeKey is what tells places apart.
type placeKey struct {
	client, route int32
	plan          uint16
}

// bucketsKey is a client, and which of its buckets.
type bucketsKey struct {
	client int32
	name   string
}

// places finds the place of a request.
type places struct {
	trace   *Trace
	policy  Policy
	last    []recent // of each client
	all     map[placeKey]*place
	rules   map[string]*rule // by the text of their limits
	buckets map[bucketsKey]*bucket.State
}

// recent is where a client's last request was decided. Most clients stay on a route for a while.
type recent struct {
	route int32
	plan  uint16
	place *place
}

func newPlaces(t *Trace, p Policy) (*places, error) {
	s := &places{
		trace: t, policy: p, last: make([]recent, len(t.Clients)), all: make(map[placeKey]*place),
		rules: make(map[string]*rule), buckets: make(map[bucketsKey]*bucket.State),
	}
	if p.Limits != nil {
		return s, nil
	}
	everybody, err := newRule(p.everybody)
	if err != nil {
		return nil, err
	}
	states, places := make([]bucket.State, len(t.Clients)), make([]place, len(t.Clients))
	for i := range s.last {
		places[i] = place{everybody, &states[i]}
		s.last[i] = recent{place: &places[i]}
	}
	return s, nil
}

func (s *places) of(r Request) (*place, error) {
	last := &s.last[r.Client]
	if s.policy.Limits == nil || last.place != nil && last.route == r.Route && last.plan == r.Plan {
		return last.place, nil
	}
	key := placeKey{r.Client, r.Route, r.Plan}
	p := s.all[key]
	if p == nil {
		var err error
		if p, err = s.find(key); err != nil {
			return nil, err
		}
		s.all[key] = p
	}
	*last = recent{r.Route, r.Plan, p}
	return p, nil
}

// find asks the policy.
func (s *places) find(key placeKey) (*place, error) {
	limits, name := s.policy.Limits(s.trace.Routes[key.route], s.trace.Plans[key.plan], s.trace.Clients[key.client])
	text := fmt.Sprint(limits)
	if s.rules[text] == nil {
		made, err := newRule(limits)
		if err != nil {
			return nil, err
		}
		s.rules[text] = made
	}
	own := bucketsKey{key.client, name}
	if s.buckets[own] == nil {
		s.buckets[own] = new(bucket.State)
	}
	return &place{s.rules[text], s.buckets[own]}, nil
}

// decide takes for a request at the tick now.
func (p *place) decide(now, cost int64, charged bool) (allowed bool) {
	if p.rule.unlimited {
		return true
	}
	take := bucket.Change{N: cost}
	if p.buckets.Levels == nil {
		p.buckets.Levels = make([]bucket.Level, len(p.rule.scales))
		for i, s := range p.rule.scales {
			p.buckets.Levels[i].Scale = s
		}
	}
	if p.own() {
		return p.take(now, &take, charged)
	}
	o, _ := p.buckets.Apply(now, &take, p.rule.scales)
	if o.Allowed && !charged {
		back := bucket.Change{N: cost, Back: &bucket.Back{At: o.At, Deficits: o.Deficits}}
		_, _ = p.buckets.Apply(now, &back, p.rule.scales) // A give-back is always allowed.
	}
	return o.Allowed
}

// own reports whether the buckets are counted by these limits already, and no others.
func (p *place) own() bool {
	levels := p.buckets.Levels
	if len(levels) != len(p.rule.scales) {
		return false
	}
	for i := range levels {
		if levels[i].Scale != p.rule.scales[i] {
			return false
		}
	}
	return true
}

// take is State.Apply for buckets that are counted by these limits already. It allocates nothing.
func (p *place) take(now int64, take *bucket.Change, charged bool) (allowed bool) {
	levels, elapsed := p.buckets.Levels, now-p.buckets.Last
	for i := range levels {
		l := &levels[i]
		if _, fits := take.Of(i, &l.Scale, l.Refill(l.Deficit, elapsed), now); !fits {
			return false // A refusal writes nothing.
		}
	}
	if take.N == 0 {
		return true
	}
	// What is not charged has been taken and given back, and so the buckets have been counted by these limits until now.
	p.buckets.Last = now
	for i := range levels {
		l := &levels[i]
		l.Deficit = l.Refill(l.Deficit, elapsed)
		if charged {
			l.Deficit, _ = take.Of(i, &l.Scale, l.Deficit, now)
		}
	}
	return true
}
