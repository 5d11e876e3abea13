package ratelimit

import (
	"encoding/json"
	"errors"
	"net/http"
	"strconv"
	"time"
	"unsafe"

	"github.com/gin-gonic/gin"

	"github.com/gin-ratelimit/ratelimit/internal/bucket"
)

// HeaderFunc writes what a decision of the limiter called name says into the response's headers. It is
// called before the handler runs, once for each limiter on the request. Where limiters stack, it finds in h
// what the ones before it wrote, and makes one coherent set of it.
//
// Browsers show these headers to scripts of other origins only if Access-Control-Expose-Headers lists them.
type HeaderFunc func(h http.Header, name string, r Result)

const (
	headerXLimit     = "X-Ratelimit-Limit"
	headerXRemaining = "X-Ratelimit-Remaining"
	headerXReset     = "X-Ratelimit-Reset"
	headerPolicy     = "Ratelimit-Policy"
	headerRateLimit  = "Ratelimit"
	headerRetryAfter = "Retry-After"

	headerCacheControl = "Cache-Control"
)

// XHeaders writes X-RateLimit-Limit, the capacity; X-RateLimit-Remaining, the whole tokens left; and
// X-RateLimit-Reset, the Unix time in seconds, rounded up, at which the bucket is full again. Where limiters
// stack, they are those of the limiter with the fewest tokens left, or of the one that refuses.
func XHeaders(h http.Header, _ string, r Result) {
	if !tighterXHeaders(h, &r) {
		writeXHeaders(h, &r, new(xHeaderValues))
	}
}

// tighterXHeaders reports whether an earlier limiter has left fewer tokens.
func tighterXHeaders(h http.Header, r *Result) bool {
	earlier := h[headerXRemaining]
	if !r.Allowed || len(earlier) == 0 {
		return false
	}
	remaining, err := strconv.Atoi(earlier[0])
	return err == nil && remaining <= r.Remaining
}

// xHeaderValues is room for the values of one response, so that they cost one allocation. Values are never
// shared between responses: other middleware may write to them.
type xHeaderValues struct {
	lists [3]string
	text  [40]byte // of all three; what needs more is allocated
}

func writeXHeaders(h http.Header, r *Result, room *xHeaderValues) {
	now := time.Now()
	reset := now.Add(r.ResetAfter)
	seconds := reset.Unix()
	if reset.Nanosecond() > 0 {
		seconds++
	}
	text := room.text[:0]
	text = strconv.AppendInt(text, int64(r.Limit.Capacity), 10)
	limit := len(text)
	text = strconv.AppendInt(text, int64(r.Remaining), 10)
	remaining := len(text)
	text = strconv.AppendInt(text, seconds, 10)
	digits := unsafe.String(unsafe.SliceData(text), len(text)) // Never written again.
	room.lists = [3]string{digits[:limit], digits[limit:remaining], digits[remaining:]}
	h[headerXLimit] = room.lists[0:1:1]
	h[headerXRemaining] = room.lists[1:2:2]
	h[headerXReset] = room.lists[2:3:3]
}

// IETFHeaders writes RateLimit-Policy and RateLimit as draft-ietf-httpapi-ratelimit-headers-11 has them:
//
//	RateLimit-Policy: "default";q=100;w=60;tb-burst=200
//	RateLimit: "default";r=50;t=30
//
// A bucket filled with q tokens in w whole seconds; where w would not be whole, both are multiplied until it
// is, and a rate is never rounded up. tb-burst, a parameter of this library's, is the capacity where that is
// not the rate's tokens. r is the whole tokens left. t is the seconds over which a client that spreads r
// keeps the policy's rate, or, on a refusal, Retry-After. Where limiters stack, each adds its item; of a limiter
// with several limits it is the one that decided.
func IETFHeaders(h http.Header, name string, r Result) {
	if r.Remaining < 0 || r.Remaining > r.Limit.Capacity || r.Limit.Validate() != nil {
		return // No decision of a store's.
	}
	q, w := wholeSeconds(r.Limit.Refill)
	policy := make([]byte, 0, 64)
	policy = appendName(policy, h[headerPolicy], name)
	policy = appendParameter(policy, ";q=", q)
	policy = appendParameter(policy, ";w=", w)
	if r.Limit.Capacity != r.Limit.Refill.Tokens {
		policy = appendParameter(policy, ";tb-burst=", int64(r.Limit.Capacity))
	}
	h[headerPolicy] = []string{string(policy)}

	state := make([]byte, 0, 64)
	state = appendName(state, h[headerRateLimit], name)
	state = appendParameter(state, ";r=", int64(r.Remaining))
	switch {
	case r.Allowed:
		state = appendParameter(state, ";t=", spreadSeconds(r.Remaining, r.Limit.Refill))
	case r.RetryAfter != Never:
		state = appendParameter(state, ";t=", retrySeconds(r))
	}
	h[headerRateLimit] = []string{string(state)}
}

// NoHeaders writes nothing.
func NoHeaders(http.Header, string, Result) {}

// appendName begins an item of a structured-field list behind the items of earlier limiters. A name needs
// no escaping: WithName takes none that would.
func appendName(b []byte, earlier []string, name string) []byte {
	if len(earlier) > 0 {
		b = append(append(b, earlier[0]...), ", "...)
	}
	return append(append(append(b, '"'), name...), '"')
}

// maxFieldInteger is the largest Integer of a structured field: 15 digits (RFC 9651, 3.3.1).
const maxFieldInteger = 999_999_999_999_999

func appendParameter(b []byte, name string, value int64) []byte {
	return strconv.AppendInt(append(b, name...), min(value, maxFieldInteger), 10)
}

// wholeSeconds is rate as q tokens in w whole seconds, never faster than rate.
func wholeSeconds(rate Rate) (q, w int64) {
	const second = int64(time.Second)
	tokens, per := int64(rate.Tokens), int64(rate.Per)
	times := second / bucket.GCD(per, second)
	switch {
	case tokens <= maxFieldInteger/times && per/(second/times) <= maxFieldInteger:
		return tokens * times, per / (second / times)
	case per >= second: // Too many digits: a slightly longer window has fewer.
		return tokens, ceilSeconds(rate.Per)
	default:
		return min(tokens, maxFieldInteger/(second/per)) * (second / per), 1
	}
}

// spreadSeconds is in how many whole seconds so many tokens come at the rate, rounded up, at least 1.
func spreadSeconds(tokens int, rate Rate) int64 {
	return max(1, ceilSeconds(time.Duration(bucket.MulDivUp(int64(tokens), int64(rate.Per), int64(rate.Tokens)))))
}

// retrySeconds is the value of Retry-After (RFC 9110, 10.2.3): whole seconds, rounded up, at least 1.
func retrySeconds(r Result) int64 { return max(1, ceilSeconds(r.RetryAfter)) }

func ceilSeconds(d time.Duration) int64 {
	seconds := int64(d / time.Second)
	if d%time.Second > 0 {
		seconds++
	}
	return seconds
}

// setRefusalHeaders says that a response is a refusal of its moment.
func setRefusalHeaders(h http.Header, r Result) {
	h[headerCacheControl] = []string{"no-store"} // RFC 6585, 4: a 429 must not be cached.
	if r.RetryAfter != Never {
		h[headerRetryAfter] = []string{strconv.FormatInt(retrySeconds(r), 10)}
	}
}

// DenyJSON answers 429 with {"error":"rate limit exceeded","retry_after":3}, in seconds as in Retry-After.
// Where the cost is above the capacity, retry_after is left out, because waiting does not help.
func DenyJSON(c *gin.Context, r Result) {
	body := append(make([]byte, 0, 64), `{"error":"rate limit exceeded"`...)
	if r.RetryAfter != Never {
		body = strconv.AppendInt(append(body, `,"retry_after":`...), retrySeconds(r), 10)
	}
	abortWith(c, http.StatusTooManyRequests, "application/json; charset=utf-8", append(body, '}'))
}

// problem is a body of RFC 9457, of the types that draft-ietf-httpapi-ratelimit-headers registers.
type problem struct {
	Type             string   `json:"type"`
	Title            string   `json:"title"`
	Status           int      `json:"status"`
	Detail           string   `json:"detail"`
	ViolatedPolicies []string `json:"violated-policies,omitempty"`
}

const problemTypes = "https://iana.org/assignments/http-problem-types#"

func (p *problem) abort(c *gin.Context) {
	body, err := json.Marshal(p)
	if err != nil {
		panic(err) // Cannot happen: strings and an integer.
	}
	abortWith(c, p.Status, "application/problem+json", body)
}

// DenyProblem answers 429 with a problem of type quota-exceeded (RFC 9457) that names the violated policy.
func DenyProblem(c *gin.Context, r Result) {
	p := problem{
		Type:   problemTypes + "quota-exceeded",
		Title:  "Quota Exceeded",
		Status: http.StatusTooManyRequests,
		Detail: "The request costs more than the quota holds.",
	}
	if r.RetryAfter != Never {
		p.Detail = retryDetail(retrySeconds(r))
	}
	if d := lastDecision(c); d != nil {
		p.ViolatedPolicies = []string{d.limiter.name}
	}
	p.abort(c)
}

// FailOpen lets the request through where the store could not decide. The error stays in c.Errors. It is
// the default: a limiter should not be what takes a service down.
//
// A cost or a limit that is invalid ([ErrArgument]) is no outage, but a mistake that somebody could use to get
// around the limit. It is answered with 500.
func FailOpen(c *gin.Context, err error) {
	_ = c.Error(err)
	if errors.Is(err, ErrArgument) {
		c.AbortWithStatus(http.StatusInternalServerError)
	}
}

// FailClosed answers 503 where the store could not decide, with a problem of type
// temporary-reduced-capacity (RFC 9457) and Retry-After: 1. The error stays in c.Errors, and out of the body.
// It is for routes that must not be open while the store is down, such as a login.
func FailClosed(c *gin.Context, err error) {
	_ = c.Error(err)
	const retry = 1
	h := c.Writer.Header()
	h.Set(headerCacheControl, "no-store")
	h.Set(headerRetryAfter, strconv.Itoa(retry))
	p := problem{
		Type:   problemTypes + "temporary-reduced-capacity",
		Title:  "Temporary Reduced Capacity",
		Status: http.StatusServiceUnavailable,
		Detail: retryDetail(retry),
	}
	p.abort(c)
}

func retryDetail(seconds int64) string {
	if seconds == 1 {
		return "Retry in 1 second."
	}
	return "Retry in " + strconv.FormatInt(seconds, 10) + " seconds."
}

// abortWith aborts with a body, which a HEAD does not get.
func abortWith(c *gin.Context, status int, contentType string, body []byte) {
	c.Abort()
	c.Writer.Header()["Content-Type"] = []string{contentType}
	c.Status(status)
	if c.Request.Method != http.MethodHead {
		_, _ = c.Writer.Write(body) // That the client has gone is no news.
	}
}
