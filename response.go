package ratelimit

import (
	"encoding/json"
	"errors"
	"net/http"
	"strconv"

	"github.com/gin-gonic/gin"
)

// setRefusalHeaders sets the headers that every refusal has, whatever writes its body.
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

// DenyProblem answers 429 with a problem of type quota-exceeded (RFC 9457) that names the violated policies: the limits
// that refused, as in [IETFHeaders].
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
		p.ViolatedPolicies = d.violated()
	}
	p.abort(c)
}

// FailOpen lets the request through where the store could not decide, as if there were no limiter. It is the default:
// a limiter should not be what takes a service down.
//
// The error goes to the limiter's observers, or, without any, to the log. It does not go into c.Errors: other middleware
// makes responses from those, which would change the response, and disclose the store's error to clients.
//
// A cost or a limit that is invalid ([ErrArgument]) is no outage, but a mistake that a client could use to get around the
// limit. It is answered with 500.
func FailOpen(c *gin.Context, err error) {
	if errors.Is(err, ErrArgument) {
		c.AbortWithStatus(http.StatusInternalServerError)
	}
}

// FailClosed answers 503 where the store could not decide, with a problem of type
// temporary-reduced-capacity (RFC 9457) and Retry-After: 1. The error goes where it goes with [FailOpen], and is neither
// in the body nor in c.Errors. It is for routes that must not be open while the store is down, such as a login.
func FailClosed(c *gin.Context, _ error) {
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

// abortWith aborts with a body, which is left out for a HEAD.
func abortWith(c *gin.Context, status int, contentType string, body []byte) {
	c.Abort()
	c.Writer.Header()["Content-Type"] = []string{contentType}
	c.Status(status)
	if c.Request.Method != http.MethodHead {
		_, _ = c.Writer.Write(body) // An error means that the client has gone, which needs no report.
	}
}
