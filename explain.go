package ratelimit

import (
	"crypto/sha256"
	"crypto/subtle"
	"fmt"
	"net/http"
	"time"

	"github.com/gin-gonic/gin"
)

// Explanation is how one limiter decided on a request, for people who ask why.
type Explanation struct {
	Name      string        // the limiter's
	Mode      Mode          // a decision in Shadow did not count
	Key       Key           // what was counted against; prints as a digest
	Limits    []Limit       // all that were asked for
	Result    Result        // the decision: which limit, how long to wait, and by Source who decided
	Cost      int           // tokens asked for
	Charged   int           // tokens taken, after Settle and the like; 0 if refused
	Before    int           // whole tokens in the deciding limit's bucket before
	NextToken time.Duration // from the decision until that bucket gets its next token, rounded up; 0 if it is full
}

// Explain returns how each limiter on this request has decided, in their order.
func Explain(c *gin.Context) []Explanation {
	var explanations []Explanation
	for d := lastDecision(c); d != nil; d = d.earlier {
		explanations = append([]Explanation{d.explain()}, explanations...)
	}
	return explanations
}

func (d *decision) explain() Explanation {
	e := Explanation{
		Name:      d.limiter.name,
		Mode:      d.mode,
		Key:       Key{d.key},
		Limits:    d.limits,
		Result:    d.result,
		Cost:      d.cost,
		Charged:   d.charged,
		Before:    d.result.Remaining,
		NextToken: nextToken(d.result),
	}
	if d.result.Allowed && d.result.Wait == 0 {
		e.Before += d.cost
	}
	return e
}

// nextToken is when the deciding limit's bucket gets its next token: not yet full, it is what refills last
// before the tokens that will still be missing then.
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

// debug explains the decision in a header if the request knows the secret. The digests are compared, so that
// the time it takes tells nothing about the secret, its length included.
func (l *Limiter) debug(h http.Header, c *gin.Context, d *decision) {
	asked := sha256.Sum256([]byte(c.Request.Header.Get(headerDebug)))
	if subtle.ConstantTimeCompare(asked[:], l.debugSecret[:]) == 1 {
		h.Add(headerExplain, d.explain().String())
	}
}
