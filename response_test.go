package ratelimit_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math"
	"math/big"
	"math/rand/v2"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gin-gonic/gin"
	"github.com/stretchr/testify/require"

	"github.com/gin-ratelimit/ratelimit"
)

// field is an item of a structured-field list: a String with Integer parameters (RFC 9651).
type field struct {
	name       string
	parameters map[string]int64
}

// parseFields reads such a list, and accepts only the one way in which RFC 9651 serializes it.
func parseFields(text string) (fields []field, err error) {
	for i, item := range strings.Split(text, ", ") {
		quoted, parameters, _ := strings.Cut(item, ";")
		name, ok := strings.CutPrefix(quoted, `"`)
		name, ok2 := strings.CutSuffix(name, `"`)
		if !ok || !ok2 || strings.ContainsAny(name, `"\`) || strings.ContainsFunc(name, func(r rune) bool { return r < ' ' || r > '~' }) {
			return nil, fmt.Errorf("item %d: %q is not a String", i, quoted)
		}
		f := field{name, map[string]int64{}}
		for parameter := range strings.SplitSeq(parameters, ";") {
			key, value, _ := strings.Cut(parameter, "=")
			if key == "" || strings.Trim(key, "abcdefghijklmnopqrstuvwxyz-") != "" {
				return nil, fmt.Errorf("item %d: %q is not a Key", i, key)
			}
			if _, doubled := f.parameters[key]; doubled {
				return nil, fmt.Errorf("item %d: %q is doubled", i, key)
			}
			n, err := strconv.ParseInt(value, 10, 64)
			if err != nil || len(value) > 15 || n < 0 || strconv.FormatInt(n, 10) != value {
				return nil, fmt.Errorf("item %d: %q is not a plain Integer of at most 15 digits", i, value)
			}
			f.parameters[key] = n
		}
		fields = append(fields, f)
	}
	return fields, nil
}

func TestParseFields(t *testing.T) {
	fields, err := parseFields(`"a";q=1;w=60, "b c";q=999999999999999;tb-burst=0`)
	require.NoError(t, err)
	require.Equal(t, []field{
		{"a", map[string]int64{"q": 1, "w": 60}},
		{"b c", map[string]int64{"q": 999_999_999_999_999, "tb-burst": 0}},
	}, fields)
	for _, wrong := range []string{
		``, `a;q=1`, `"a`, `"a"`, `"é";q=1`, `"a"";q=1`, `"a\";q=1`, "\"a\n\";q=1", `"a"; q=1`, `"a";q=1,"b";q=1`, `"a";q=1 `, `"a";q=1;`,
		`"a";q`, `"a";q=`, `"a";q=x`, `"a";q=1.5`, `"a";q=-1`, `"a";q=+1`, `"a";q=01`, `"a";q=1000000000000000`, `"a";Q=1`, `"a";q=1;q=2`,
	} {
		_, err := parseFields(wrong)
		require.Error(t, err, wrong)
	}
}

func TestIETFHeaders(t *testing.T) {
	limit := func(text string) (l ratelimit.Limit) {
		require.NoError(t, l.UnmarshalText([]byte(text)))
		return l
	}
	allowed := func(remaining int) ratelimit.Result { return ratelimit.Result{Allowed: true, Remaining: remaining} }
	refused := func(retryAfter time.Duration) ratelimit.Result { return ratelimit.Result{RetryAfter: retryAfter} }
	for _, c := range []struct {
		limit         string
		result        ratelimit.Result
		policy, state string
	}{
		{limit: "10/s", result: allowed(9), policy: `"n";q=10;w=1`, state: `"n";r=9;t=1`},
		{limit: "10/500ms", result: allowed(9), policy: `"n";q=20;w=1`, state: `"n";r=9;t=1`},
		{limit: "100/m burst 200", result: allowed(50), policy: `"n";q=100;w=60;tb-burst=200`, state: `"n";r=50;t=30`},
		{limit: "100/m burst 200", result: allowed(199), policy: `"n";q=100;w=60;tb-burst=200`, state: `"n";r=199;t=120`},
		{limit: "100/m burst 10", result: allowed(0), policy: `"n";q=100;w=60;tb-burst=10`, state: `"n";r=0;t=1`},
		{limit: "1000/h", result: allowed(999), policy: `"n";q=1000;w=3600`, state: `"n";r=999;t=3597`},
		{limit: "1/86.4s", result: allowed(0), policy: `"n";q=5;w=432`, state: `"n";r=0;t=87`},
		{limit: "1/86.4s burst 5000", result: allowed(4999), policy: `"n";q=5;w=432;tb-burst=5000`, state: `"n";r=4999;t=431914`},
		{limit: "7/3s", result: allowed(6), policy: `"n";q=7;w=3`, state: `"n";r=6;t=3`},
		{limit: "3/1.001s", result: allowed(1), policy: `"n";q=3000;w=1001`, state: `"n";r=1;t=1`},
		{limit: "1/7ns", result: allowed(0), policy: `"n";q=1000000000;w=7`, state: `"n";r=0;t=1`},
		{limit: "1/30d", result: allowed(1), policy: `"n";q=1;w=2592000`, state: `"n";r=1;t=2592000`},
		{limit: "1/3650d", result: allowed(0), policy: `"n";q=1;w=315360000`, state: `"n";r=0;t=315360000`},
		{limit: "1000000000/s", result: allowed(5), policy: `"n";q=1000000000;w=1`, state: `"n";r=5;t=1`},
		{limit: "10/s", result: refused(time.Microsecond), policy: `"n";q=10;w=1`, state: `"n";r=0;t=1`},
		{limit: "10/s", result: refused(time.Second), policy: `"n";q=10;w=1`, state: `"n";r=0;t=1`},
		{limit: "10/s", result: refused(time.Second + time.Microsecond), policy: `"n";q=10;w=1`, state: `"n";r=0;t=2`},
		{limit: "1/86.4s", result: refused(86400 * time.Millisecond), policy: `"n";q=5;w=432`, state: `"n";r=0;t=87`},
		{limit: "10/s", result: refused(ratelimit.Never), policy: `"n";q=10;w=1`, state: `"n";r=0`},
	} {
		c.result.Limit = limit(c.limit)
		h := http.Header{}
		ratelimit.IETFHeaders(h, decided(c.result))
		require.Equal(t, http.Header{"Ratelimit-Policy": {c.policy}, "Ratelimit": {c.state}}, h, c.limit)
	}
}

// decided is the decisions that a header function gets from a limiter "n" with this result.
func decided(r ratelimit.Result) []ratelimit.Explanation {
	return []ratelimit.Explanation{{Name: "n", Result: r}}
}

func FuzzIETFHeaders(f *testing.F) {
	f.Add(10, int64(time.Second), 10, 9, true, int64(0))
	f.Add(1, int64(86400*time.Millisecond), 5000, 4999, true, int64(0))
	f.Add(10, int64(500*time.Millisecond), 1, 0, false, int64(1))
	f.Add(math.MaxInt/1024, int64(time.Second), 1, 1, true, int64(0))
	f.Add(1, int64(999_999_999_999_999), 4, 3, true, int64(0))
	f.Add(1, int64(1_000_000_000_000_001), 4, 3, true, int64(0))
	f.Add(1, int64(4_000_000_000_000_001), 1, 1, true, int64(0))
	f.Add(999_999, int64(math.MaxInt64), 1, 1, false, int64(math.MaxInt64))
	f.Add(1_000_000, int64(999_999_999), 1_000_000, 1_000_000, true, int64(0))
	f.Add(0, int64(0), 0, 0, false, int64(0))
	f.Fuzz(func(t *testing.T, tokens int, per int64, capacity, remaining int, allowed bool, retryAfter int64) {
		checkIETFHeaders(t, resultOf(tokens, per, capacity, remaining, allowed, retryAfter))
	})
}

func resultOf(tokens int, per int64, capacity, remaining int, allowed bool, retryAfter int64) ratelimit.Result {
	return ratelimit.Result{
		Allowed:    allowed,
		Limit:      ratelimit.Limit{Capacity: capacity, Refill: ratelimit.Rate{Tokens: tokens, Per: time.Duration(per)}},
		Remaining:  remaining,
		RetryAfter: time.Duration(retryAfter),
	}
}

// The same over all orders of magnitude, which a fuzzer would need long to reach.
func TestIETFHeadersOfRandomLimits(t *testing.T) {
	random := rand.New(rand.NewPCG(3, 4))
	number := func() int64 { return random.Int64() >> random.IntN(64) }
	valid := 0
	for range 50_000 {
		tokens, capacity := int(number()), int(number())
		r := resultOf(tokens, number(), capacity, random.IntN(max(1, capacity)), random.IntN(2) == 0, number())
		if checkIETFHeaders(t, r) {
			valid++
		}
	}
	require.Greater(t, valid, 10_000, "only %d limits were valid", valid)
}

// checkIETFHeaders checks the headers of a result that a store may give, and reports whether r is one.
func checkIETFHeaders(t *testing.T, r ratelimit.Result) bool {
	if r.Remaining < 0 || r.Remaining > r.Limit.Capacity {
		return false
	}
	h := http.Header{}
	ratelimit.IETFHeaders(h, decided(r))
	if r.Limit.Validate() != nil {
		require.Equal(t, http.Header{}, h, "an empty list is no field")
		return false
	}
	policy, state := parseOne(t, h, "Ratelimit-Policy"), parseOne(t, h, "Ratelimit")

	// The advertised rate is never above the real one, and equals it where 15 digits suffice.
	tokens, per := r.Limit.Refill.Tokens, r.Limit.Refill.Per
	q, w := policy["q"], policy["w"]
	require.Positive(t, w)
	advertised := big.NewRat(q, w)
	rate := new(big.Rat).Mul(big.NewRat(int64(tokens), int64(per)), big.NewRat(int64(time.Second), 1))
	require.LessOrEqual(t, advertised.Cmp(rate), 0, "%v is advertised as %d in %d s", r.Limit, q, w)
	if tokens < 1_000_000 && per < 1_000_000_000_000_000 {
		require.Equal(t, 0, advertised.Cmp(rate), "%v is advertised as %d in %d s", r.Limit, q, w)
	}
	burst, told := policy["tb-burst"]
	require.Equal(t, r.Limit.Capacity != tokens, told)
	require.LessOrEqual(t, burst, int64(r.Limit.Capacity))

	require.LessOrEqual(t, state["r"], int64(r.Remaining))
	seconds, told := state["t"]
	require.Equal(t, r.Allowed || r.RetryAfter != ratelimit.Never, told)
	if told {
		require.Positive(t, seconds)
	}
	if r.Allowed && r.Remaining > 0 {
		spread := new(big.Rat).Mul(rate, big.NewRat(seconds, 1))
		require.LessOrEqual(t, big.NewRat(state["r"], 1).Cmp(spread), 0, "%d in %d s is faster than %v", r.Remaining, seconds, r.Limit)
	}
	return true
}

// parseOne is the parameters of the only item in a field.
func parseOne(t *testing.T, h http.Header, name string) map[string]int64 {
	require.Len(t, h[name], 1)
	fields, err := parseFields(h[name][0])
	require.NoError(t, err)
	require.Len(t, fields, 1)
	require.Equal(t, "n", fields[0].name)
	return fields[0].parameters
}

// A result that no store may return must not break a response.
func TestHeadersOfNonsense(t *testing.T) {
	for _, write := range []ratelimit.HeaderFunc{ratelimit.XHeaders, ratelimit.IETFHeaders, ratelimit.NoHeaders} {
		for _, r := range []ratelimit.Result{
			{},
			{Allowed: true},
			{Allowed: true, Limit: ratelimit.Limit{Capacity: 1}, Remaining: 1},
			{Allowed: true, Limit: ratelimit.Limit{Capacity: 10, Refill: ratelimit.PerSecond(10)}, Remaining: math.MaxInt},
			{Allowed: true, Limit: ratelimit.Limit{Capacity: 10, Refill: ratelimit.PerSecond(10)}, Remaining: -1},
			{Limit: ratelimit.Limit{Capacity: 10, Refill: ratelimit.PerSecond(10)}, RetryAfter: -1, ResetAfter: -1},
			{Limit: ratelimit.Limit{Capacity: 10, Refill: ratelimit.PerSecond(10)}, ResetAfter: math.MaxInt64},
		} {
			require.Equal(t, "<nil>", panicOf(func() { write(http.Header{}, decided(r)) }), "%+v", r)
		}
	}
}

func TestXHeaders(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, c := range []struct {
			at, resetAfter time.Duration
			reset          int64 // seconds from the start
		}{
			{at: 0, resetAfter: 0, reset: 0},
			{at: 0, resetAfter: time.Second, reset: 1},
			{at: 0, resetAfter: time.Second + time.Microsecond, reset: 2},
			{at: 0, resetAfter: time.Microsecond, reset: 1},
			{at: 300 * time.Millisecond, resetAfter: 700 * time.Millisecond, reset: 1},
			{at: 300 * time.Millisecond, resetAfter: 700*time.Millisecond + time.Microsecond, reset: 2},
			{at: 300 * time.Millisecond, resetAfter: 0, reset: 1},
			{at: 0, resetAfter: 100 * 365 * 24 * time.Hour, reset: 100 * 365 * 24 * 3600},
		} {
			start := time.Now()
			require.Zero(t, start.Nanosecond())
			time.Sleep(c.at)
			h := http.Header{}
			ratelimit.XHeaders(h, decided(ratelimit.Result{
				Allowed: true, Limit: ratelimit.Limit{Capacity: 7, Refill: ratelimit.PerSecond(5)}, Remaining: 3, ResetAfter: c.resetAfter,
			}))
			require.Equal(t, http.Header{
				"X-Ratelimit-Limit":     {"7"},
				"X-Ratelimit-Remaining": {"3"},
				"X-Ratelimit-Reset":     {strconv.FormatInt(start.Unix()+c.reset, 10)},
			}, h, "%v + %v", c.at, c.resetAfter)
			time.Sleep(time.Second - c.at)
		}
	})
}

func TestWithHeaders(t *testing.T) {
	own := func(h http.Header, decisions []ratelimit.Explanation) {
		last := decisions[len(decisions)-1]
		h.Set("X-Left", last.Name+" "+strconv.Itoa(last.Result.Remaining))
	}
	x := []string{"X-Ratelimit-Limit", "X-Ratelimit-Remaining", "X-Ratelimit-Reset"}
	for name, c := range map[string]struct {
		write []ratelimit.HeaderFunc
		want  []string
	}{
		"XHeaders": {[]ratelimit.HeaderFunc{ratelimit.XHeaders}, x},
		"none":     {[]ratelimit.HeaderFunc{ratelimit.NoHeaders}, nil},
		"own":      {[]ratelimit.HeaderFunc{own}, []string{"X-Left"}},
		"all":      {[]ratelimit.HeaderFunc{ratelimit.IETFHeaders, own, ratelimit.XHeaders}, append(x, "X-Left", "Ratelimit", "Ratelimit-Policy")},
	} {
		t.Run(name, func(t *testing.T) {
			h := serving(perMinute(1, ratelimit.WithName("n"), ratelimit.WithHeaders(c.write...)))
			require.Equal(t, sorted(append(c.want, "Content-Type")...), headerNames(ask(h)))
			require.Equal(t, sorted(append(c.want, "Content-Type", "Cache-Control", "Retry-After")...), headerNames(ask(h)))
		})
	}
	require.Equal(t, "n 0", ask(serving(perMinute(1, ratelimit.WithName("n"), ratelimit.WithHeaders(own)))).header.Get("X-Left"))
}

func headerNames(a answer) []string { return slices.Sorted(maps.Keys(a.header)) }

func sorted(names ...string) []string {
	slices.Sort(names)
	return names
}

// A client that waits for Retry-After is admitted, and, where it was not rounded up, not a microsecond earlier.
func TestRetryAfterIsTrue(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	limits := []ratelimit.Limit{
		{Capacity: 10, Refill: ratelimit.PerSecond(10)},
		{Capacity: 10, Refill: ratelimit.Rate{Tokens: 10, Per: 500 * time.Millisecond}},
		{Capacity: 1, Refill: ratelimit.Every(86400 * time.Millisecond)},
		{Capacity: 5, Refill: ratelimit.Every(time.Minute)},
		{Capacity: 9, Refill: ratelimit.Rate{Tokens: 7, Per: 3 * time.Second}},
		{Capacity: 2, Refill: ratelimit.Every(30 * 24 * time.Hour)},
	}
	for range 30 {
		limits = append(limits, ratelimit.Limit{
			Capacity: 1 + random.IntN(20),
			Refill:   ratelimit.Rate{Tokens: 1 + random.IntN(20), Per: time.Duration(1 + random.Int64N(int64(time.Minute)))},
		})
	}
	for _, limit := range limits {
		t.Run(limit.String(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				cost := 1 + random.IntN(limit.Capacity)
				h := serving(ratelimit.New(
					ratelimit.WithCapacity(limit.Capacity),
					ratelimit.WithRefillRate(limit.Refill),
					ratelimit.WithCost(func(*gin.Context) int { return cost }),
				))
				waited := 0
				for range 50 {
					a := ask(h)
					if a.status == 200 {
						continue
					}
					waited++
					seconds, err := strconv.Atoi(a.header.Get("Retry-After"))
					require.NoError(t, err)
					require.GreaterOrEqual(t, seconds, 1)
					if seconds > 1 {
						time.Sleep(time.Duration(seconds-1) * time.Second)
						require.Equal(t, 429, ask(h).status, "Retry-After: %d was a second too long", seconds)
						time.Sleep(time.Second)
					} else {
						time.Sleep(time.Second)
					}
					require.Equal(t, 200, ask(h).status, "Retry-After: %d was too short", seconds)
				}
				require.Positive(t, waited)
			})
		})
	}
}

const (
	failClosedBody = `{"type":"https://iana.org/assignments/http-problem-types#temporary-reduced-capacity",` +
		`"title":"Temporary Reduced Capacity","status":503,"detail":"Retry in 1 second."}`
	quotaExceeded = `{"type":"https://iana.org/assignments/http-problem-types#quota-exceeded","title":"Quota Exceeded","status":429,`
)

func TestBodies(t *testing.T) {
	json, problem := "application/json; charset=utf-8", "application/problem+json"
	for name, c := range map[string]struct {
		deny        func(*gin.Context, ratelimit.Result)
		cost        int
		contentType string
		body        string
	}{
		"JSON":                   {deny: ratelimit.DenyJSON, cost: 1, contentType: json, body: `{"error":"rate limit exceeded","retry_after":5}`},
		"JSON, for good":         {deny: ratelimit.DenyJSON, cost: 9, contentType: json, body: `{"error":"rate limit exceeded"}`},
		"problem":                {deny: ratelimit.DenyProblem, cost: 1, contentType: problem, body: quotaExceeded + `"detail":"Retry in 5 seconds.","violated-policies":["log in"]}`},
		"problem, for good":      {deny: ratelimit.DenyProblem, cost: 9, contentType: problem, body: quotaExceeded + `"detail":"The request costs more than the quota holds.","violated-policies":["log in"]}`},
		"problem of a long wait": {deny: ratelimit.DenyProblem, cost: 2, contentType: problem, body: quotaExceeded + `"detail":"Retry in 10 seconds.","violated-policies":["log in"]}`},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				cost := 2
				router := engine()
				router.Use(ratelimit.New(
					ratelimit.WithName("log in"),
					ratelimit.WithCapacity(2),
					ratelimit.WithRefillRate(ratelimit.Every(5*time.Second)),
					ratelimit.WithCost(func(*gin.Context) int { return cost }),
					ratelimit.WithDeniedHandler(c.deny),
				))
				require.Equal(t, 404, ask(router).status)
				cost = c.cost
				a, head := ask(router), send(router, http.MethodHead, "/")
				require.Equal(t, c.body, a.body)
				require.Empty(t, head.body)
				for _, a := range []answer{a, head} {
					require.Equal(t, 429, a.status)
					require.Equal(t, c.contentType, a.header.Get("Content-Type"))
					require.Equal(t, "no-store", a.header.Get("Cache-Control"))
					require.Equal(t, c.cost == 9, a.header.Get("Retry-After") == "")
				}
			})
		})
	}
}

func TestProblemNamesTheRefusingPolicy(t *testing.T) {
	problem := ratelimit.WithDeniedHandler(ratelimit.DenyProblem)
	a, b := perMinute(1, ratelimit.WithName("a"), problem), perMinute(2, ratelimit.WithName("b"), problem)
	h, reversed := serving(a, b), serving(b, a)
	require.Equal(t, 200, ask(h).status)
	require.Contains(t, ask(h).body, `"violated-policies":["a"]`)
	require.Contains(t, ask(reversed).body, `"violated-policies":["a"]`)
}

// A user's own handlers may also call these.
func TestAnswersOutsideOfALimiter(t *testing.T) {
	r := ratelimit.Result{RetryAfter: 1}
	for want, handler := range map[string]gin.HandlerFunc{
		quotaExceeded + `"detail":"Retry in 1 second."}`:  func(c *gin.Context) { ratelimit.DenyProblem(c, r) },
		`{"error":"rate limit exceeded","retry_after":1}`: func(c *gin.Context) { ratelimit.DenyJSON(c, r) },
		failClosedBody: func(c *gin.Context) { ratelimit.FailClosed(c, errors.New("no stock")) },
	} {
		require.Equal(t, want, ask(serving(handler)).body)
	}
}

func TestFailClosed(t *testing.T) {
	router := engine()
	router.Use(perMinute(1, ratelimit.WithName("down"), downStore(), ratelimit.WithErrorHandler(ratelimit.FailClosed)))
	a, head := ask(router), send(router, http.MethodHead, "/")
	require.Equal(t, answer{503, http.Header{
		"Cache-Control": {"no-store"},
		"Content-Type":  {"application/problem+json"},
		"Retry-After":   {"1"},
	}, failClosedBody}, a)
	require.Equal(t, answer{503, a.header, ""}, head)
}

// The text of a store's error never reaches the client.
func TestStoreErrorsStayInside(t *testing.T) {
	for _, failed := range []func(*gin.Context, error){ratelimit.FailOpen, ratelimit.FailClosed} {
		a := ask(serving(perMinute(1, ratelimit.WithName("down"), ratelimit.WithErrorHandler(failed),
			storeOption(func(_ context.Context, key string, _ ratelimit.Take) (ratelimit.Result, error) {
				return ratelimit.Result{}, fmt.Errorf("key %s: %w", key, errStore)
			}))))
		for _, secret := range []string{"hunter2", "192.0.2.1", "10.0.0.7"} {
			require.NotContains(t, fmt.Sprint(a), secret)
		}
	}
}
