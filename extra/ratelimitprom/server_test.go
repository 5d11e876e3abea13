package ratelimitprom_test

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"testing"
	"time"

	"github.com/gin-gonic/gin"
	"github.com/gin-ratelimit/ratelimit"
	"github.com/gin-ratelimit/ratelimit/extra/ratelimitprom"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

func TestMain(m *testing.M) {
	gin.SetMode(gin.ReleaseMode)
	m.Run()
}

// brokenStore cannot decide.
type brokenStore struct{ ratelimit.Store }

func (brokenStore) Take(context.Context, string, ratelimit.Take) (ratelimit.Result, error) {
	time.Sleep(time.Millisecond)
	return ratelimit.Result{}, context.DeadlineExceeded
}

// breaker is a store with a breaker, which is open if true.
type breaker bool

func (b breaker) Degraded() bool { return bool(b) }

// newServer starts a server whose routes have something to show in each metric; see visit.
func newServer(t *testing.T) *httptest.Server {
	t.Helper()
	full, registry := ratelimit.NewMemoryStore(ratelimit.WithMaxKeys(1)), prometheus.NewRegistry()
	metrics, err := ratelimitprom.Register(registry,
		ratelimitprom.WithMemoryStore("full", full),
		ratelimitprom.WithFallbackStore("main", breaker(true)),
		ratelimitprom.WithLeases("main", leaser{}))
	if err != nil {
		t.Fatal(err)
	}
	limiter := func(name string, store ratelimit.Store, opts ...ratelimit.Option) gin.HandlerFunc {
		return ratelimit.New(append(opts,
			ratelimit.WithName(name),
			ratelimit.WithStore(store),
			ratelimit.WithRefillRate(ratelimit.PerMinute(5)),
			ratelimit.WithObserver(metrics.Observe))...)
	}
	ok := func(c *gin.Context) { c.Status(http.StatusOK) }
	router := gin.New()
	if err := router.SetTrustedProxies(nil); err != nil {
		t.Fatal(err)
	}
	router.GET("/metrics", gin.WrapH(promhttp.HandlerFor(registry, promhttp.HandlerOpts{EnableOpenMetrics: true})))
	router.GET("/login/:account", limiter("login", ratelimit.NewMemoryStore()), ok)
	router.GET("/full", limiter("full", full, ratelimit.WithKeyFunc(ratelimit.ByHeader("Account"))), ok)
	router.GET("/broken", limiter("broken", brokenStore{}), ok)
	degraded, err := ratelimit.NewFallbackStore(brokenStore{}, ratelimit.NewMemoryStore())
	if err != nil {
		t.Fatal(err)
	}
	router.GET("/degraded", limiter("degraded", degraded), ok)
	router.GET("/held", func(*gin.Context) { // As if it had waited; another test measures real waits.
		e := eventOf("held", "/held", ratelimit.ReasonAllowed)
		e.Waited, e.Waiting = 30*time.Millisecond, 2
		metrics.Observe(t.Context(), e)
	})
	router.GET("/dry", limiter("dry", ratelimit.NewMemoryStore(), ratelimit.WithShadow()), ok)
	server := httptest.NewServer(router)
	t.Cleanup(server.Close)
	return server
}

// page is a response, read to its end.
type page struct {
	status int
	header http.Header
	body   []byte
}

func get(t *testing.T, url string, header ...string) page {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i < len(header); i += 2 {
		request.Header.Set(header[i], header[i+1])
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	return page{response.StatusCode, response.Header, body}
}

// tool returns the path of a program of Prometheus, or skips the test.
func tool(t *testing.T, name string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	if errors.Is(err, exec.ErrNotFound) {
		if os.Getenv("REQUIRE_PROMTOOL") == "1" {
			t.Fatalf("%s is not on PATH, and REQUIRE_PROMTOOL=1 wants it: apt-get install prometheus", name)
		}
		t.Skipf("%s is not on PATH: apt-get install prometheus", name)
	}
	if err != nil {
		t.Fatal(err)
	}
	return path
}
