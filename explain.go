package ratelimit

import (
	"crypto/sha256"
	"crypto/subtle"
	"fmt"
	"slices"
	"time"

	"github.com/gin-gonic/gin"

	"github.com/gin-ratelimit/ratelimit/internal/bucket"
)

// Explanation is how and why one limiter decided on a request.
type Explanation struct {
	Name      string        // the limiter's
	Mode      Mode          // a decision in Shadow did not count
	Key       Key           // what was counted against; prints as a digest
	Limits    []Limit       // all that were asked for
	Result    Result        // the decision: which limit, how long to wait, and as Source which store
	Cost      int           // tokens asked for
	Charged   int           // tokens taken, after Settle and the like; 0 if refused
	Before    int           // whole tokens in the deciding limit's bucket before
	NextToken time.Duration // from the decision until that bucket gets its next token, rounded up; 0 if it is full
	Buckets   []LimitUsage  // what each limit's bucket held after the decision, and after what was given back since
}

// Explain returns how each limiter on this request has decided, in their order.
func Explain(c *gin.Context) []Explanation {
	return lastDecision(c).explanations(func(*decision) bool { return true })
}

// explanations explains d and the decisions before it that are wanted, in their order.
func (d *decision) explanations(wanted func(*decision) bool) []Explanation {
	var all []Explanation
	for ; d != nil; d = d.earlier {
		if wanted(d) {
			all = append(all, d.explain())
		}
	}
	slices.Reverse(all)
	return all
}

func (d *decision) explain() Explanation {
	d.charge.mu.Lock()
	defer d.charge.mu.Unlock()
	e := Explanation{
		Name:    d.limiter.name,
		Mode:    d.mode,
		Key:     Key{d.key},
		Limits:  d.limits,
		Result:  d.result,
		Cost:    d.cost,
		Charged: d.charge.tokens,
		Before:  d.result.Remaining,
		Buckets: d.buckets(),
	}
	if d.result.Allowed && d.result.Wait == 0 {
		e.Before += d.charge.tokens
	}
	for _, b := range e.Buckets {
		if b.Limit == e.Result.Limit {
			e.NextToken = b.NextToken
			break
		}
	}
	return e
}

// buckets is what the buckets of all limits held. From a store that makes no receipts, only the deciding limit's bucket is
// known.
func (d *decision) buckets() []LimitUsage {
	r := &d.result
	if r.Receipt.Len() != len(d.limits) {
		return r.decider()
	}
	usages := make([]LimitUsage, len(d.limits))
	for i, limit := range d.limits {
		s, err := scaleOf(limit)
		if err != nil {
			return nil // A store decided by a limit that is invalid, so its buckets are unknown.
		}
		usages[i] = limitUsageOf(limit, &s, r.Receipt.Deficit(i), 0)
	}
	return usages
}

// decider is the bucket of the limit that decided, as far as the result describes it.
func (r *Result) decider() []LimitUsage {
	u := LimitUsage{Limit: r.Limit, Remaining: r.Remaining, ResetAfter: r.ResetAfter, NextToken: nextToken(*r)}
	if s, err := scaleOf(r.Limit); err == nil && !r.Banned {
		missing := min(int64(r.ResetAfter/time.Microsecond), (bucket.MaxDeficit-s.PerTick)/s.PerTick) * s.PerTick
		u.Debt = int((max(0, missing-s.Size()) + s.Token - 1) / s.Token)
	}
	return []LimitUsage{u}
}

// violated is the names of the limits that refused.
func (d *decision) violated() []string {
	var names []string
	take := bucket.Change{N: int64(d.cost), MaxWait: int64(d.limiter.maxWait / time.Microsecond)}
	for i, limit := range d.limits {
		s, err := scaleOf(limit)
		if err != nil || d.result.Receipt.Len() != len(d.limits) {
			break
		}
		if ceiling, _ := take.Units(&s); d.result.Receipt.Deficit(i) > ceiling {
			names = append(names, policyName(d.limiter.name, i))
		}
	}
	if len(names) == 0 { // A ban, or a store that makes no receipts.
		names = []string{d.limiter.name}
	}
	return names
}

// nextToken is when the deciding limit's bucket gets its next token, 0 if it is full: the time until it is full, less the
// time in which the tokens that will still be missing then refill.
func nextToken(r Result) time.Duration {
	s, err := scaleOf(r.Limit)
	if err != nil || r.ResetAfter == 0 {
		return 0
	}
	later := (s.Capacity - int64(r.Remaining) - 1) * s.Token / s.PerTick
	return max(0, r.ResetAfter-ticksToDuration(later))
}

// String returns the explanation in one line.
func (e Explanation) String() string {
	decision, retry := "refused", e.Result.RetryAfter.String()
	switch {
	case e.Result.Allowed:
		decision = "allowed"
	case e.Result.Banned:
		decision = "banned"
	case e.Result.RetryAfter == Never:
		retry = "never"
	}
	return fmt.Sprintf("%s: %s; mode=%v; by=%v; key=%v; limit=%q; cost=%d; charged=%d; before=%d; left=%d; next=%v; retry=%s; full=%v",
		e.Name, decision, e.Mode, e.Result.Source, e.Key, e.Result.Limit, e.Cost, e.Charged, e.Before, e.Result.Remaining,
		e.NextToken, retry, e.Result.ResetAfter)
}

const (
	headerDebug   = "X-Ratelimit-Debug"
	headerExplain = "X-Ratelimit-Explain"
)

// knowsSecret reports whether the request carries the debug secret. It compares digests, so that its running time reveals
// nothing about the secret, not even its length.
func (l *Limiter) knowsSecret(c *gin.Context) bool {
	asked := sha256.Sum256([]byte(c.Request.Header.Get(headerDebug)))
	return subtle.ConstantTimeCompare(asked[:], l.debugSecret[:]) == 1
}

// debugLines explains d and those decisions before it whose secret the request knows.
func (d *decision) debugLines() []string {
	var lines []string
	for _, e := range d.explanations(func(d *decision) bool { return d.debug }) {
		lines = append(lines, e.String())
	}
	return lines
}
