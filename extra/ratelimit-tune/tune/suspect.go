package tune

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"
)

// Kinds of suspicions.
const (
	SuspectProxy   = "proxy"   // a few addresses make nearly all requests, or a private one makes many
	SuspectLimited = "limited" // a limiter was at work when the log was written
	SuspectShort   = "short"   // less than a week
	SuspectFew     = "few"     // less than 50 clients
	SuspectMissed  = "missed"  // more than 1 % of the lines did not parse
	SuspectPartial = "partial" // not all was read
	SuspectOutlier = "outlier" // a few clients need far more than the others, as attackers and programs do
)

// Suspicion is a reason to doubt what a log says.
type Suspicion struct {
	Kind string // one of the constants, as in SuspectProxy
	Text string // a sentence, as in "192.0.2.7 makes 97 % of the requests: it is probably a proxy's address"
}

// Suspicions returns the reasons to doubt what the trace says of clients in general.
func (t *Trace) Suspicions() []Suspicion {
	var all []Suspicion
	add := func(is bool, kind, format string, values ...any) {
		if is {
			all = append(all, Suspicion{kind, fmt.Sprintf(format, values...)})
		}
	}
	add(t.Partial, SuspectPartial, "The reading was interrupted: this is a part of the logs.")
	add(t.Beyond.Requests > 0, SuspectPartial, "%d requests of clients after the first %d are left out.", t.Beyond.Requests, len(t.Clients))
	add(t.Misses*100 > t.Lines, SuspectMissed, "%d of %d lines could not be read.", t.Misses, t.Lines)
	if len(t.Requests) == 0 {
		return all
	}
	if text := t.proxy(); text != "" {
		add(true, SuspectProxy, "%s", text)
	}
	refused := t.Refused()
	add(refused > 0, SuspectLimited, "The log has answers of 429 (%d): a limiter refused them already, and what it kept clients from is not in it.", refused)
	add(t.Span() < week, SuspectShort, "The log spans %v, less than a week: it may lack the busiest day.", t.Span().Round(time.Second))
	add(len(t.Clients) < fewClients, SuspectFew, "There are %d clients, fewer than %d: a share of them says little.", len(t.Clients), fewClients)
	return all
}

const (
	week       = 7 * 24 * time.Hour
	fewClients = 50
	farMore    = 10 // times the burst with which 99 % of the clients do
)

// Span is the time from the first request to the end of the last one's stamp.
func (t *Trace) Span() time.Duration {
	if len(t.Requests) == 0 {
		return 0
	}
	return time.Duration(t.Requests[len(t.Requests)-1].Tick-t.Requests[0].Tick)*time.Microsecond + t.Resolution
}

// proxy says why clients may be proxies, "" if nothing tells.
func (t *Trace) proxy() string {
	const enough, few, nearlyAll, many, programs = 100, 3, 90, 10, 20 // requests, clients, percent, percent, agents
	if len(t.Requests) < enough {
		return ""
	}
	counts := make([]int, len(t.Clients))
	for i := range t.Requests {
		counts[t.Requests[i].Client]++
	}
	largest := make([]int, 0, few)
	for range min(few, len(counts)) {
		next := -1
		for client, count := range counts {
			if (next < 0 || count > counts[next]) && !slices.Contains(largest, client) {
				next = client
			}
		}
		largest = append(largest, next)
	}
	together, names := 0, make([]string, 0, few)
	for _, client := range largest {
		together += counts[client]
		names = append(names, t.Clients[client])
		if together*100 >= nearlyAll*len(t.Requests) {
			text := fmt.Sprintf("%s: %d %% of all requests come from there, so it is probably a proxy's address, which all its users share.", strings.Join(names, ", "), together*100/len(t.Requests))
			if agents := t.Agents[largest[0]]; agents >= programs {
				text += fmt.Sprintf(" %s has %d user agents or more.", names[0], agents)
			}
			return text
		}
	}
	for _, client := range largest {
		addr, err := netip.ParseAddr(t.Clients[client])
		if err == nil && (addr.IsPrivate() || addr.IsLoopback()) && counts[client]*100 >= many*len(t.Requests) {
			return fmt.Sprintf("%s is a private address and makes %d %% of all requests: it is probably a proxy's, which all its users share.", addr, counts[client]*100/len(t.Requests))
		}
	}
	return ""
}

// Outliers says which clients need more than ten times the burst with which 99 % of the clients do, and more than that of
// 100 typical requests. It is nil if none does. Nobody can tell attacks from customers by numbers alone.
func (t *Trace) Outliers(c *Curve) *Suspicion {
	const named, least = 3, 100
	usual := c.Quantile(990)
	var far []int // clients
	for client, need := range c.Needs {
		if need > least*t.TypicalCost() && need > farMore*usual {
			far = append(far, client)
		}
	}
	if len(far) == 0 {
		return nil
	}
	slices.SortStableFunc(far, func(a, b int) int { return cmp.Compare(c.Needs[b], c.Needs[a]) })
	names := make([]string, 0, named)
	for _, client := range far[:min(named, len(far))] {
		names = append(names, t.Clients[client])
	}
	text := strings.Join(names, ", ")
	if more := len(far) - len(names); more > 0 {
		text += fmt.Sprintf(" and %d more", more)
	}
	return &Suspicion{SuspectOutlier, fmt.Sprintf("%s: a burst of up to %d is needed at %v, where %d suffices for 99 %% of the clients. Is that an attack or a program? "+
		"What such clients do raises the limits that are suggested; -exclude leaves one out.", text, c.Needs[far[0]], c.Rate, usual)}
}

// Confidence is how far a suggestion may be trusted, in a word.
type Confidence string

// The words.
const (
	// Low: a proxy is suspected, or a limiter was at work, or the reading is partial, or there are less than 50 clients
	// or 12 hours, or a few clients need far more than the others, or the burst is more than ten times what 99 % of the
	// clients need, or the tokens of a typical request come back faster than the stamps step.
	Low Confidence = "low"
	// Fair: none of that, but less than a week or 1,000 clients, or more than 1 % of the lines missed.
	Fair Confidence = "fair"
	// Good: none of all that.
	Good Confidence = "good"
)

// Confidence tells how far a suggestion for the trace may be trusted. The suspicions are those of the whole log.
func (t *Trace) Confidence(s *Suggestion, suspicions []Suspicion) Confidence {
	suspected := func(kinds ...string) bool {
		return slices.ContainsFunc(suspicions, func(s Suspicion) bool { return slices.Contains(kinds, s.Kind) })
	}
	switch {
	case suspected(SuspectProxy, SuspectLimited, SuspectPartial, SuspectOutlier), len(t.Clients) < fewClients, t.Span() < 12*time.Hour, int64(s.Limit.Capacity) > farMore*s.Usual, t.TooFast(s.Limit.Refill):
		return Low
	case suspected(SuspectMissed), t.Span() < week, len(t.Clients) < 1000:
		return Fair
	default:
		return Good
	}
}
