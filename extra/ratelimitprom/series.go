package ratelimitprom

import (
	"cmp"
	"maps"
	"strings"
	"sync/atomic"

	"github.com/gin-ratelimit/ratelimit"
	"github.com/prometheus/client_golang/prometheus"
)

const (
	other   = "other" // the label of all that is beyond a bound, or unknown to this package
	noRoute = "none"
)

// Indices in reasons.
const (
	allowed = 1
	refused = 2
)

// reasons are the values of the label reason, and the decision that each belongs to. The first is for reasons that are not
// in the list. ReasonGone and ReasonGiveBack are not decisions, and are counted elsewhere.
var reasons = [...]struct {
	reason   ratelimit.Reason
	decision string
}{
	{other, other},
	{ratelimit.ReasonAllowed, "allowed"},
	{ratelimit.ReasonRefused, "refused"},
	{ratelimit.ReasonCost, "refused"},
	{ratelimit.ReasonOverflow, "refused"},
	{ratelimit.ReasonNoKey, "refused"},
	{ratelimit.ReasonBanned, "refused"},
	{ratelimit.ReasonShadow, "shadow"},
	{ratelimit.ReasonStore, "failed"},
	{ratelimit.ReasonForeign, "failed"},
	{ratelimit.ReasonArgument, "failed"},
}

// errorKinds are the words of ratelimit.ErrorKind for a store that cannot decide.
var errorKinds = []string{"timeout", "canceled", "network", "reply", "foreign", other}

// reasonOf returns the index of a reason in reasons. It is a switch, because that is four times as fast as a map.
func reasonOf(reason ratelimit.Reason) int {
	switch reason {
	case ratelimit.ReasonAllowed:
		return allowed
	case ratelimit.ReasonRefused:
		return refused
	case ratelimit.ReasonCost:
		return 3
	case ratelimit.ReasonOverflow:
		return 4
	case ratelimit.ReasonNoKey:
		return 5
	case ratelimit.ReasonBanned:
		return 6
	case ratelimit.ReasonShadow:
		return 7
	case ratelimit.ReasonStore:
		return 8
	case ratelimit.ReasonForeign:
		return 9
	case ratelimit.ReasonArgument:
		return 10
	default:
		return 0
	}
}

// numSources is how many sources have a label of their own; later ones count as unknown.
const numSources = ratelimit.SourceLease + 1

func sourceOf(source ratelimit.Source) ratelimit.Source {
	if source >= numSources {
		return ratelimit.SourceUnknown
	}
	return source
}

// pair is the key of series.
type pair struct{ policy, route string }

// index is all series and policies. It is replaced rather than changed, so that events need no lock.
type index struct {
	maxPairs int
	pairs    int // how many there are, without those of others
	series   map[pair]*series
	policies map[string]*policy
}

// series is what is counted for one pair.
type series struct {
	policy *policy
	route  string
	counts [len(reasons)][numSources]atomic.Uint64
}

// policy is what is counted for one name.
type policy struct {
	name      string
	others    series // of the routes beyond the bound
	latencies [numSources]atomic.Pointer[latency]
	waiting   atomic.Int64
}

func (x *index) clone() *index {
	next := *x
	next.series, next.policies = maps.Clone(x.series), maps.Clone(x.policies)
	return &next
}

// find returns the series of a pair, nil if it has to be added.
func (x *index) find(name, route string) *series {
	if s := x.series[pair{name, route}]; s != nil || x.pairs < x.maxPairs {
		return s
	}
	for _, name := range [...]string{name, other} {
		if p := x.policies[name]; p != nil {
			return &p.others
		}
	}
	return nil
}

// add adds a pair. Pairs that are equal as labels are counted together.
func (x *index) add(name, route string) *series {
	if x.pairs >= x.maxPairs {
		return &x.policy(other).others
	}
	label := pair{validUTF8(name), validUTF8(cmp.Or(route, noRoute))}
	p := x.policy(label.policy)
	s := x.series[label]
	if s == nil {
		s = &series{policy: p, route: label.route}
		x.series[label] = s
	}
	x.series[pair{name, route}] = s
	x.pairs++
	return s
}

// policy returns the policy of a name.
func (x *index) policy(name string) *policy {
	p := x.policies[name]
	if p == nil {
		p = &policy{name: name}
		p.others.policy, p.others.route = p, other
		x.policies[name] = p
		x.series[pair{name, other}] = &p.others
	}
	return p
}

// validUTF8 returns text as a label's value, which must be UTF-8.
func validUTF8(text string) string { return strings.ToValidUTF8(text, "\uFFFD") }

func (c *Collector) series(name, route string) *series {
	if s := c.known.Load().find(name, route); s != nil {
		return s
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if s := c.known.Load().find(name, route); s != nil {
		return s
	}
	known := c.known.Load().clone()
	s := known.add(name, route)
	c.known.Store(known)
	// Begin these series with 0, or a rate would not see the first error.
	c.gone.WithLabelValues(s.policy.name)
	c.backs.WithLabelValues(s.policy.name)
	for _, kind := range errorKinds {
		c.errors.WithLabelValues(s.policy.name, kind)
	}
	return s
}

func (x *index) collect(ch chan<- prometheus.Metric) {
	for pair, s := range x.series {
		if pair.policy != s.policy.name || pair.route != s.route {
			continue // Another spelling, which shares the numbers.
		}
		for source := range numSources {
			s.collect(ch, source)
		}
	}
	for name, p := range x.policies {
		for source := range p.latencies {
			if l := p.latencies[source].Load(); l != nil {
				ch <- l.metric(name, ratelimit.Source(source).String())
			}
		}
		ch <- prometheus.MustNewConstMetric(waitingDesc, prometheus.GaugeValue, float64(p.waiting.Load()), name)
	}
}

// collect sends the counts of what a source has decided. It also sends zeros for counts that alerts read before anything
// has happened, because a rate does not see the first increase of a series that begins with it.
func (s *series) collect(ch chan<- prometheus.Metric, source ratelimit.Source) {
	for i, r := range reasons {
		n := s.counts[i][source].Load()
		if n == 0 && !s.begins(i, source) {
			continue
		}
		ch <- prometheus.MustNewConstMetric(requestsDesc, prometheus.CounterValue, float64(n),
			s.policy.name, s.route, r.decision, string(r.reason), source.String())
	}
}

// begins reports whether a count is sent while it is 0.
func (s *series) begins(reason int, source ratelimit.Source) bool {
	switch r := reasons[reason]; source {
	case ratelimit.SourceOverflow:
		return s.decided(ratelimit.SourceMemory) && (r.reason == ratelimit.ReasonAllowed || r.reason == ratelimit.ReasonOverflow)
	case ratelimit.SourceFallback:
		return s.decided(ratelimit.SourceRedis) && (reason == allowed || reason == refused)
	default:
		return s.decided(source) && (reason == allowed || r.decision == "refused" && r.reason != ratelimit.ReasonOverflow)
	}
}

// decided reports whether a source has allowed or refused anything.
func (s *series) decided(source ratelimit.Source) bool {
	return s.counts[allowed][source].Load()+s.counts[refused][source].Load() > 0
}

// latency returns the histogram of a source.
func (p *policy) latency(source ratelimit.Source) *latency {
	l := p.latencies[source].Load()
	if l == nil {
		p.latencies[source].CompareAndSwap(nil, newLatency())
		l = p.latencies[source].Load()
	}
	return l
}
