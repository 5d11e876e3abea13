package compat

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"slices"
	"strconv"
	"testing"

	"github.com/gin-gonic/gin"
	"github.com/stretchr/testify/require"

	"github.com/gin-ratelimit/ratelimit"
)

func TestMain(m *testing.M) {
	gin.SetMode(gin.TestMode)
	os.Exit(m.Run())
}

// newRouter returns an engine with middlewares, in whose chain the order matters, and a handler of GET /.
func newRouter(t *testing.T, chain []gin.HandlerFunc, handler gin.HandlerFunc) *gin.Engine {
	t.Helper()
	router := gin.New()
	require.NoError(t, router.SetTrustedProxies(nil))
	router.Use(chain...)
	router.GET("/", handler)
	return router
}

// newLimiter returns a limiter that admits the given number of requests. None of them comes back during a test.
func newLimiter(requests int, opts ...ratelimit.Option) *ratelimit.Limiter {
	return ratelimit.Must(ratelimit.NewLimiter(append(opts, ratelimit.WithLimit(ratelimit.PerHour(1).Burst(requests)))...))
}

// order is a middleware before or behind the limiter.
type order struct {
	middleware gin.HandlerFunc
	before     bool
}

func (o order) with(limiter *ratelimit.Limiter) []gin.HandlerFunc {
	if o.before {
		return []gin.HandlerFunc{o.middleware, limiter.Handle}
	}
	return []gin.HandlerFunc{limiter.Handle, o.middleware}
}

func eachOrder(t *testing.T, middleware func() gin.HandlerFunc, test func(t *testing.T, o order)) {
	t.Helper()
	t.Run("before the limiter", func(t *testing.T) { test(t, order{middleware(), true}) })
	t.Run("behind the limiter", func(t *testing.T) { test(t, order{middleware(), false}) })
}

func hello(c *gin.Context) { c.String(http.StatusOK, "hello") }

// site is a server, and a client that shows what came over the wire.
type site struct {
	url    string
	client *http.Client
}

func serve(t *testing.T, h http.Handler) *site {
	t.Helper()
	server := httptest.NewServer(h)
	t.Cleanup(server.Close)
	transport := &http.Transport{DisableCompression: true}
	t.Cleanup(transport.CloseIdleConnections)
	return &site{server.URL, &http.Client{Transport: transport}}
}

type reply struct {
	status int
	header http.Header
	body   string
}

// open sends a request with headers, which are pairs of names and values.
func (s *site) open(ctx context.Context, method, path string, headers ...string) (*http.Response, error) {
	r, err := http.NewRequestWithContext(ctx, method, s.url+path, http.NoBody)
	if err != nil {
		return nil, err
	}
	for pair := range slices.Chunk(headers, 2) {
		r.Header.Set(pair[0], pair[1])
	}
	return s.client.Do(r)
}

func (s *site) send(t *testing.T, method, path string, headers ...string) reply {
	t.Helper()
	response, err := s.open(t.Context(), method, path, headers...)
	require.NoError(t, err)
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	require.NoError(t, err)
	return reply{response.StatusCode, response.Header, string(body)}
}

func (s *site) get(t *testing.T, headers ...string) reply {
	t.Helper()
	return s.send(t, http.MethodGet, "/", headers...)
}

// requireRefusal asserts that the limiter's answer came through whole.
func requireRefusal(t *testing.T, r reply) {
	t.Helper()
	require.Equal(t, http.StatusTooManyRequests, r.status)
	for name, value := range map[string]string{
		"Content-Type": "application/json; charset=utf-8", "Cache-Control": "no-store", "X-Ratelimit-Remaining": "0",
	} {
		require.Equal(t, []string{value}, r.header[name], name)
	}
	require.Len(t, r.header["Retry-After"], 1)
	seconds, err := strconv.Atoi(r.header.Get("Retry-After"))
	require.NoError(t, err)
	require.InDelta(t, 3600, seconds, 120, "the next token comes within the hour")
	require.JSONEq(t, fmt.Sprintf(`{"error":"rate limit exceeded","retry_after":%d}`, seconds), r.body)
}
