package ratelimit_test

import (
	"io"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/gin-gonic/gin"
	"github.com/stretchr/testify/require"

	"github.com/gin-ratelimit/ratelimit"
)

// shouting is a writer as other middleware wraps around a response, to compress it, to buffer it, to count it.
type shouting struct{ gin.ResponseWriter }

func (w shouting) Write(b []byte) (int, error) {
	return w.ResponseWriter.Write([]byte(strings.ToUpper(string(b))))
}

func (w shouting) WriteString(s string) (int, error) { return w.Write([]byte(s)) }

func shout(c *gin.Context) { c.Writer = &shouting{c.Writer} }

// Decisions are found, and settled, whatever writers are wrapped around theirs, or by theirs.
func TestDecisionsBetweenOtherWriters(t *testing.T) {
	outer, inner := newLimiter(t), newLimiter(t, costOf(4))
	var explained []ratelimit.Explanation
	var tightest ratelimit.Result
	h := featureEngine(shout, outer.Handle, shout, shout, inner.Handle, shout, func(c *gin.Context) {
		explained = ratelimit.Explain(c)
		tightest, _ = ratelimit.Get(c)
		require.NoError(t, ratelimit.Settle(c, 9))
		hello(c)
	})
	w := get(h)
	require.Equal(t, "HELLO", w.Body.String())
	require.Len(t, explained, 2)
	require.Equal(t, 6, tightest.Remaining)
	require.Equal(t, []string{"6"}, w.Header()["X-Ratelimit-Remaining"], "one set of headers")
	require.Equal(t, 1, tokensLeft(t, inner))

	require.Equal(t, http.StatusTooManyRequests, get(h).Code)
	require.Equal(t, 9, tokensLeft(t, outer), "what the outer limiter took came back")
}

// Gin reuses contexts, and tests reuse requests. Neither keeps a decision.
func TestDecisionsEndWithTheRequest(t *testing.T) {
	limiter := newLimiter(t)
	h := serving(func(c *gin.Context) {
		_, ok := ratelimit.Get(c)
		require.False(t, ok)
	}, limiter.Handle, limiter.Handle)
	r := httptest.NewRequest(http.MethodGet, "/", nil)
	for range 5 {
		h.ServeHTTP(httptest.NewRecorder(), r)
	}
	h.ServeHTTP(httptest.NewRecorder(), r)
	require.Zero(t, tokensLeft(t, limiter), "a refusal gives back what its own request took, and nothing else")
}

func TestDecisionsInCopies(t *testing.T) {
	requests, tokens, again := newLimiter(t), newLimiter(t, costOf(4)), newLimiter(t)
	h := featureEngine(requests.Handle, func(c *gin.Context) {
		_, ok := ratelimit.Get(c.Copy())
		require.False(t, ok)
	}, tokens.Handle, again.Handle, func(c *gin.Context) {
		later := c.Copy()
		settled := make(chan error)
		go func() { settled <- ratelimit.Settle(later, 2) }()
		require.NoError(t, <-settled)
		require.Len(t, ratelimit.Explain(later), 2)
	})
	require.Equal(t, http.StatusOK, get(h).Code)
	require.Equal(t, 8, tokensLeft(t, tokens))
	require.Equal(t, 9, tokensLeft(t, requests))
}

// A context that was made by hand has no writer.
func TestDecisionsOfNoRequest(t *testing.T) {
	_, ok := ratelimit.Get(&gin.Context{})
	require.False(t, ok)
	require.ErrorIs(t, ratelimit.Settle(&gin.Context{}, 1), ratelimit.ErrNotCharged)
}

// pushing is a response over HTTP/2.
type pushing struct {
	*httptest.ResponseRecorder
	pushed []string
}

func (p *pushing) Push(target string, options *http.PushOptions) error {
	p.pushed = append(p.pushed, options.Method+" "+target)
	return nil
}

func TestPush(t *testing.T) {
	var err error
	h := serving(newLimiter(t).Handle, newLimiter(t).Handle, func(c *gin.Context) {
		err = c.Writer.Pusher().Push("/style.css", &http.PushOptions{Method: http.MethodHead})
	})
	p := &pushing{ResponseRecorder: httptest.NewRecorder()}
	h.ServeHTTP(p, httptest.NewRequest(http.MethodGet, "/", nil))
	require.NoError(t, err)
	require.Equal(t, []string{"HEAD /style.css"}, p.pushed)

	require.Equal(t, http.StatusOK, ask(h).status)
	require.ErrorIs(t, err, http.ErrNotSupported, "a response that cannot push")
}

// What a handler calls on http.ResponseController reaches net/http.
func TestResponseController(t *testing.T) {
	server := httptest.NewServer(serving(newLimiter(t).Handle, func(c *gin.Context) {
		control := http.NewResponseController(c.Writer)
		require.NoError(t, control.SetWriteDeadline(time.Now().Add(time.Minute)))
		require.NoError(t, control.EnableFullDuplex())
		require.NoError(t, control.Flush())
	}))
	defer server.Close()
	response, err := server.Client().Get(server.URL)
	require.NoError(t, err)
	body, err := io.ReadAll(response.Body)
	require.NoError(t, err)
	require.NoError(t, response.Body.Close())
	require.Equal(t, "hello", string(body))
}

// reused is a response writer that allocates nothing.
type reused struct{ header http.Header }

func (r reused) Header() http.Header         { return r.header }
func (r reused) WriteHeader(int)             {}
func (r reused) Write(b []byte) (int, error) { return len(b), nil }

func TestRequestsAllocateLittle(t *testing.T) {
	for name, test := range map[string]struct {
		key  ratelimit.KeyFunc
		want float64
	}{
		"by the peer's address": {ratelimit.ByRemoteIP, 1},
		"by the client's":       {ratelimit.ByClientIP, 3}, // Two are Gin's.
	} {
		t.Run(name, func(t *testing.T) {
			w := reused{http.Header{}}
			c, _ := gin.CreateTestContext(w)
			c.Request = httptest.NewRequest(http.MethodGet, "/", nil)
			limiter, writer := perMinute(1000, ratelimit.WithKeyFunc(test.key)), c.Writer
			allocs := testing.AllocsPerRun(100, func() {
				clear(w.header)
				c.Writer = writer // As Gin does for each request.
				limiter(c)
			})
			require.Len(t, w.header, 3)
			require.InDelta(t, test.want, allocs, 0)
		})
	}
}

// If two limiters have the same number of tokens left, either may be reported, but the headers and Get report the same.
func TestGetAgreesWithHeaders(t *testing.T) {
	var decision ratelimit.Result
	h := serving(
		perMinute(2),
		ratelimit.New(ratelimit.WithRefillRate(ratelimit.PerHour(3)), costOf(2)),
		func(c *gin.Context) { decision, _ = ratelimit.Get(c) },
	)
	a := ask(h)
	require.Equal(t, "1", a.header.Get("X-RateLimit-Remaining"))
	require.Equal(t, a.header.Get("X-RateLimit-Limit"), strconv.Itoa(decision.Limit.Capacity))
}

func TestGetWithoutDecision(t *testing.T) {
	for name, limiter := range map[string]gin.HandlerFunc{
		"no limiter":     func(*gin.Context) {},
		"its store errs": perMinute(1, ratelimit.WithName("down"), downStore()),
	} {
		t.Run(name, func(t *testing.T) {
			ran := false
			a := ask(serving(limiter, func(c *gin.Context) {
				result, ok := ratelimit.Get(c)
				require.False(t, ok)
				require.Equal(t, ratelimit.Result{}, result)
				ran = true
			}))
			require.True(t, ran)
			require.Equal(t, http.Header{"Content-Type": {"text/plain; charset=utf-8"}}, a.header)
		})
	}
}
