package ratelimit

import (
	"net/http"
	"reflect"
	"strconv"
	"time"
	"unsafe"

	"github.com/gin-gonic/gin"

	"github.com/gin-ratelimit/ratelimit/internal/bucket"
)

// HeaderFunc writes what the limiters on a request have decided into the response's headers. It gets all decisions so
// far, in their order, and sets its fields from them alone: other middleware may have put another header map in place.
// It never appends. It is called before the handlers run, once for each limiter on the request, and again where tokens
// come back before the response is written.
//
// Limiters that have [NoHeaders], and those in [Shadow], are not among the decisions. A limiter in Shadow is for
// requests that know its debug secret; see [WithDebugHeader].
//
// Browsers show these headers to scripts of other origins only if Access-Control-Expose-Headers lists them.
type HeaderFunc func(h http.Header, decisions []Explanation)

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
// X-RateLimit-Reset, the Unix time in seconds, rounded up, at which the bucket is full again, but no earlier than
// Retry-After. Where limiters stack, they are those of the limiter with the fewest tokens left, or of the one that
// refuses.
func XHeaders(h http.Header, decisions []Explanation) {
	if len(decisions) == 0 {
		return
	}
	tightest := &decisions[0].Result
	for i := range decisions[1:] {
		if r := &decisions[i+1].Result; tighter(r, tightest) {
			tightest = r
		}
	}
	writeXHeaders(h, tightest, strconv.Itoa(tightest.Limit.Capacity), new(xHeaderValues))
}

// xHeaderValues is the memory of one response's values, so that they cost one allocation. Values are never shared between
// responses: other middleware may write to them.
type xHeaderValues struct {
	lists [3]string
	text  [32]byte // the last two values; longer ones are allocated
}

// writeXHeaders writes r. capacity is the text of its limit's capacity.
func writeXHeaders(h http.Header, r *Result, capacity string, space *xHeaderValues) {
	reset := r.ResetAfter
	if !r.Allowed && r.RetryAfter != Never {
		reset = max(reset, r.RetryAfter)
	}
	at := time.Now().Add(reset)
	seconds := at.Unix()
	if at.Nanosecond() > 0 {
		seconds++
	}
	text := strconv.AppendInt(space.text[:0], int64(r.Remaining), 10)
	remaining := len(text)
	text = strconv.AppendInt(text, seconds, 10)
	digits := unsafe.String(unsafe.SliceData(text), len(text)) // Never written again.
	space.lists = [3]string{capacity, digits[:remaining], digits[remaining:]}
	h[headerXLimit] = space.lists[0:1:1]
	h[headerXRemaining] = space.lists[1:2:2]
	h[headerXReset] = space.lists[2:3:3]
}

// capacityText is the text of a result's capacity, which is made once for the limiter's own.
func (l *Limiter) capacityText(r *Result) string {
	if r.Limit.Capacity == l.limits[0].Capacity {
		return l.capacity
	}
	return strconv.Itoa(r.Limit.Capacity)
}

// IETFHeaders writes RateLimit-Policy and RateLimit as draft-ietf-httpapi-ratelimit-headers-11 has them:
//
//	RateLimit-Policy: "default";q=100;w=60;tb-burst=200
//	RateLimit: "default";r=50;t=30
//
// Each limit of each limiter is an item: "default", "default:2", "default:3", and so on. Its bucket is filled with q
// tokens in w whole seconds; where w would not be whole, both are multiplied until it is, and a rate is never rounded
// up. tb-burst, a parameter of this library's, is the capacity where that is not the rate's tokens. r is the whole
// tokens left. t is the seconds, rounded up, until there is another token, but at least those over which a client that
// spreads r keeps the policy's rate. On a refusal it is no less than Retry-After, and is left out where waiting does
// not help.
func IETFHeaders(h http.Header, decisions []Explanation) {
	policy, state := make([]byte, 0, 64), make([]byte, 0, 64)
	for i := range decisions {
		d := &decisions[i]
		buckets := d.Buckets
		if len(buckets) == 0 { // The store makes no receipts.
			buckets = d.Result.decider()
		}
		for n := range buckets {
			policy, state = appendItem(policy, state, d, &buckets[n], n)
		}
	}
	if len(policy) > 0 {
		h[headerPolicy], h[headerRateLimit] = []string{string(policy)}, []string{string(state)}
	}
}

// appendItem appends the items of limit n of a decision to both fields.
func appendItem(policy, state []byte, d *Explanation, b *LimitUsage, n int) (_, _ []byte) {
	r := &d.Result
	if b.Remaining < 0 || b.Remaining > b.Limit.Capacity || b.Limit.Validate() != nil {
		return policy, state // Not a decision that a store could make.
	}
	q, w := wholeSeconds(b.Limit.Refill)
	policy = appendName(policy, d.Name, n)
	policy = appendParameter(policy, ";q=", q)
	policy = appendParameter(policy, ";w=", w)
	if b.Limit.Capacity != b.Limit.Refill.Tokens {
		policy = appendParameter(policy, ";tb-burst=", int64(b.Limit.Capacity))
	}

	left := b.Remaining
	refuses := !r.Allowed && (r.Banned || b.Limit == r.Limit)
	if r.Banned {
		left = 0
	}
	state = appendName(state, d.Name, n)
	state = appendParameter(state, ";r=", int64(left))
	next := b.NextToken
	if next == 0 && b.Remaining < b.Limit.Capacity { // Not known, but at most one interval.
		next = time.Duration(bucket.MulDivUp(1, int64(b.Limit.Refill.Per), int64(b.Limit.Refill.Tokens)))
	}
	t := max(spreadSeconds(left, b.Limit.Refill), ceilSeconds(next))
	switch {
	case !refuses:
		state = appendParameter(state, ";t=", t)
	case r.RetryAfter != Never:
		state = appendParameter(state, ";t=", max(t, retrySeconds(*r)))
	}
	return policy, state
}

// NoHeaders writes nothing.
func NoHeaders(http.Header, []Explanation) {}

// withoutNoHeaders returns the functions other than NoHeaders. The result is not nil: an empty one means that no header
// mentions the limiter.
func withoutNoHeaders(funcs []HeaderFunc) []HeaderFunc {
	writing := make([]HeaderFunc, 0, len(funcs))
	for _, f := range funcs {
		if reflect.ValueOf(f).Pointer() != reflect.ValueOf(NoHeaders).Pointer() {
			writing = append(writing, f)
		}
	}
	return writing
}

// writeHeaders writes d and the decisions before it in the way that d's limiter is set to.
func (d *decision) writeHeaders(h http.Header) {
	l := d.limiter
	if d.debug {
		h[headerExplain] = d.debugLines()
	}
	if !d.visible() {
		return
	}
	if l.headers == nil {
		if d.earlier == nil && d.limiter.cost == nil {
			// The usual case. It needs no lock: without WithCost, no copy of the context can settle d meanwhile.
			writeXHeaders(h, &d.result, l.capacityText(&d.result), &d.xHeaders)
			return
		}
		tightest := d.tightest()
		writeXHeaders(h, &tightest, l.capacityText(&tightest), &d.xHeaders)
		return
	}
	if len(l.headers) == 0 {
		return
	}
	decisions := d.explanations((*decision).visible)
	for _, write := range l.headers {
		write(h, decisions)
	}
}

// rewriteHeaders is writeHeaders for d and all decisions before it, in their order.
func (d *decision) rewriteHeaders(h http.Header) {
	if d.earlier != nil {
		d.earlier.rewriteHeaders(h)
	}
	d.xHeaders = xHeaderValues{} // Other middleware may hold the strings.
	d.writeHeaders(h)
}

// refreshHeaders writes the headers again after a charge has changed, if they are not sent yet. In a copy of the context
// there are none to write: the request may be over.
func refreshHeaders(c *gin.Context) {
	if d := writtenDecision(c); d != nil && !c.Writer.Written() {
		d.rewriteHeaders(c.Writer.Header())
	}
}

// visible reports whether headers may mention d.
func (d *decision) visible() bool {
	l := d.limiter
	return (d.mode != Shadow || d.debug) && (l.headers == nil || len(l.headers) > 0)
}

// tightest is the result with the fewest tokens left among d and the visible decisions before it, the first of equals.
func (d *decision) tightest() Result {
	tightest := d.snapshot()
	for e := d.earlier; e != nil; e = e.earlier {
		if r := e.snapshot(); e.visible() && !tighter(&tightest, &r) {
			tightest = r
		}
	}
	return tightest
}

// policyName is the name of a limiter's nth limit in headers and problems.
func policyName(name string, n int) string {
	if n == 0 {
		return name
	}
	return name + ":" + strconv.Itoa(n+1)
}

// appendName begins an item of a structured-field list. The name needs no escaping: WithName accepts no character that
// would.
func appendName(b []byte, name string, n int) []byte {
	if len(b) > 0 {
		b = append(b, ", "...)
	}
	return append(append(append(b, '"'), policyName(name, n)...), '"')
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
