package ratelimit_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/gin-gonic/gin"
	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/gin-ratelimit/ratelimit"
	"github.com/gin-ratelimit/ratelimit/internal/redistest"
)

// TestMain sets Gin's mode, which is global, for all tests of this directory.
func TestMain(m *testing.M) {
	gin.SetMode(gin.TestMode)
	m.Run()
}

// perMinute is a limiter of so many tokens, which refills as many a minute.
func perMinute(tokens int, opts ...ratelimit.Option) gin.HandlerFunc {
	return ratelimit.New(append(opts, ratelimit.WithRefillRate(ratelimit.PerMinute(tokens)))...)
}

// engine trusts no proxy, so that the peer of a request is its client.
func engine() *gin.Engine {
	router := gin.New()
	_ = router.SetTrustedProxies(nil)
	return router
}

// serving is an engine with one route, GET /, behind the middleware.
func serving(middleware ...gin.HandlerFunc) *gin.Engine {
	router := engine()
	router.GET("/", append(middleware, hello)...)
	return router
}

func hello(c *gin.Context) { c.String(http.StatusOK, "hello") }

type edit = func(*http.Request)

func peer(remoteAddr string) edit {
	return func(r *http.Request) { r.RemoteAddr = remoteAddr }
}

func header(name string, values ...string) edit {
	return func(r *http.Request) { r.Header[http.CanonicalHeaderKey(name)] = values }
}

// withContext replaces the request's context.
func withContext(ctx context.Context) edit {
	return func(r *http.Request) { *r = *r.WithContext(ctx) }
}

// answer is what a handler wrote.
type answer struct {
	status int
	header http.Header
	body   string
}

func send(h http.Handler, method, path string, edits ...edit) answer {
	r := httptest.NewRequest(method, path, nil)
	for _, edit := range edits {
		edit(r)
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	headers := w.Result().Header
	headers.Del("Content-Length") // net/http sends it, whether the handler has set it or not.
	return answer{w.Code, headers, w.Body.String()}
}

func ask(h http.Handler, edits ...edit) answer { return send(h, http.MethodGet, "/", edits...) }

// statuses sends a GET to each path in turn.
func statuses(h http.Handler, paths ...string) []int {
	var codes []int
	for _, path := range paths {
		codes = append(codes, send(h, http.MethodGet, path).status)
	}
	return codes
}

// spyStore is a MemoryStore some of whose calls can be observed, or replaced.
type spyStore struct {
	ratelimit.Store
	take func(ctx context.Context, key string, take ratelimit.Take) (ratelimit.Result, error)
}

func (s spyStore) Take(ctx context.Context, key string, take ratelimit.Take) (ratelimit.Result, error) {
	return s.take(ctx, key, take)
}

// errStore has a text that no client may read.
var errStore = errors.New("dial tcp 10.0.0.7:6379: password hunter2 refused")

// downStore cannot decide anything.
func downStore() ratelimit.Option {
	return storeOption(func(context.Context, string, ratelimit.Take) (ratelimit.Result, error) {
		return ratelimit.Result{}, errStore
	})
}

func storeOption(take func(context.Context, string, ratelimit.Take) (ratelimit.Result, error)) ratelimit.Option {
	return ratelimit.WithStore(spyStore{ratelimit.NewMemoryStore(), take})
}

// obedientStore gives up when the request's context ends. A store should not, but many will.
func obedientStore() ratelimit.Option {
	return storeOption(func(ctx context.Context, _ string, _ ratelimit.Take) (ratelimit.Result, error) {
		<-ctx.Done()
		return ratelimit.Result{}, ctx.Err()
	})
}

// pipes is a network inside this process: while goroutines wait for a real socket, a bubble's clock does not move.
type pipes struct {
	conns  chan net.Conn
	closed chan struct{}
}

func (p pipes) Accept() (net.Conn, error) {
	select {
	case conn := <-p.conns:
		return conn, nil
	case <-p.closed:
		return nil, net.ErrClosed
	}
}

func (p pipes) Close() error   { close(p.closed); return nil }
func (p pipes) Addr() net.Addr { return &net.TCPAddr{} }

func (p pipes) dial(context.Context, string, string) (net.Conn, error) {
	client, server := net.Pipe()
	p.conns <- pipeConn{server}
	return client, nil
}

type pipeConn struct{ net.Conn }

func (pipeConn) RemoteAddr() net.Addr { return &net.TCPAddr{IP: net.IPv4(192, 0, 2, 1), Port: 1234} }

// listen serves h over HTTP until the end of the test.
func listen(t *testing.T, h http.Handler) *http.Client {
	network := pipes{make(chan net.Conn), make(chan struct{})}
	server := &http.Server{Handler: h}
	var serving sync.WaitGroup
	serving.Go(func() { _ = server.Serve(network) })
	transport := &http.Transport{DialContext: network.dial}
	t.Cleanup(func() {
		transport.CloseIdleConnections()
		_ = server.Close()
		serving.Wait()
	})
	return &http.Client{Transport: transport}
}

// fetch gets / and hands the response to read while its body is open.
func open(t *testing.T, client *http.Client, read func(*http.Response)) {
	response, err := client.Get("http://test/")
	require.NoError(t, err)
	defer func() { _ = response.Body.Close() }()
	read(response)
}

var errDown = errors.New("down")

// fickleStore is a Store that a test can make fail: every call first calls how, unless that is nil.
type fickleStore struct {
	ratelimit.Store
	how   atomic.Pointer[func() error]
	calls atomic.Int64
}

func newFickleStore() *fickleStore { return &fickleStore{Store: ratelimit.NewMemoryStore()} }

func (p *fickleStore) fallsIll(how func() error) { p.how.Store(&how) }
func (p *fickleStore) failsWith(err error)       { p.fallsIll(func() error { return err }) }
func (p *fickleStore) recovers()                 { p.how.Store(nil) }

func (p *fickleStore) ask() error {
	p.calls.Add(1)
	if how := p.how.Load(); how != nil {
		return (*how)()
	}
	return nil
}

func (p *fickleStore) Take(ctx context.Context, key string, take ratelimit.Take) (ratelimit.Result, error) {
	if err := p.ask(); err != nil {
		return ratelimit.Result{}, err
	}
	return p.Store.Take(ctx, key, take)
}

func (p *fickleStore) Adjust(ctx context.Context, key string, change ratelimit.Adjustment) (ratelimit.Result, error) {
	if err := p.ask(); err != nil {
		return ratelimit.Result{}, err
	}
	return p.Store.Adjust(ctx, key, change)
}

func (p *fickleStore) Look(ctx context.Context, key string, limits []ratelimit.Limit) (ratelimit.Usage, error) {
	if err := p.ask(); err != nil {
		return ratelimit.Usage{}, err
	}
	return p.Store.Look(ctx, key, limits)
}

func (p *fickleStore) Reset(ctx context.Context, key string) (bool, error) {
	if err := p.ask(); err != nil {
		return false, err
	}
	return p.Store.Reset(ctx, key)
}

func newFallback(t testing.TB, primary, fallback ratelimit.Store, opts ...ratelimit.FallbackOption) *ratelimit.FallbackStore {
	t.Helper()
	s, err := ratelimit.NewFallbackStore(primary, fallback, opts...)
	require.NoError(t, err)
	return s
}

// tenAnHour is ten tokens that come back within an hour, so none during a short test.
var tenAnHour = []ratelimit.Limit{{Capacity: 10, Refill: ratelimit.PerHour(10)}}

// fallbackTake takes n and returns which store decided, and how many tokens are left, or the error.
func fallbackTake(s ratelimit.Store, n int) string {
	r, err := s.Take(context.Background(), "key", ratelimit.Take{N: n, Limits: tenAnHour})
	if err != nil {
		return err.Error()
	}
	verdict := "allowed"
	if !r.Allowed {
		verdict = "refused"
	}
	return fmt.Sprintf("%s by %v, %d left", verdict, r.Source, r.Remaining)
}

func wantText(t *testing.T, what, got, want string) {
	t.Helper()
	assert.Equal(t, want, got, what)
}

// tripBreaker makes the breaker open by its default of five failures.
func tripBreaker(t *testing.T, s *ratelimit.FallbackStore, primary *fickleStore) {
	t.Helper()
	primary.failsWith(errDown)
	for i := range 5 {
		require.False(t, s.Degraded(), "after %d failures", i)
		fallbackTake(s, 0)
	}
	require.True(t, s.Degraded(), "after 5 failures")
}

// deadStore is a Store that cannot be reached.
type deadStore struct{}

func (deadStore) Take(context.Context, string, ratelimit.Take) (ratelimit.Result, error) {
	return ratelimit.Result{}, errDown
}

func (deadStore) Adjust(context.Context, string, ratelimit.Adjustment) (ratelimit.Result, error) {
	return ratelimit.Result{}, errDown
}

func (deadStore) Look(context.Context, string, []ratelimit.Limit) (ratelimit.Usage, error) {
	return ratelimit.Usage{}, errDown
}

func (deadStore) Reset(context.Context, string) (bool, error) { return false, errDown }

// remembering is a Store that refuses the key "refused" from memory.
type remembering struct{ *fickleStore }

func (s remembering) Take(ctx context.Context, key string, take ratelimit.Take) (ratelimit.Result, error) {
	if key == "refused" {
		return ratelimit.Result{Source: ratelimit.SourceDenyCache, Limit: take.Limits[0], RetryAfter: time.Minute}, nil
	}
	return s.fickleStore.Take(ctx, key, take)
}

func heapBytes() int64 {
	var m runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

// yesStore is a Store that keeps nothing and admits everything, by the last limit.
type yesStore struct{}

func (yesStore) Take(_ context.Context, _ string, take ratelimit.Take) (ratelimit.Result, error) {
	return ratelimit.Result{Allowed: true, Limit: take.Limits[len(take.Limits)-1]}, nil
}

func (s yesStore) Adjust(ctx context.Context, key string, change ratelimit.Adjustment) (ratelimit.Result, error) {
	return s.Take(ctx, key, ratelimit.Take{Limits: change.Limits})
}

func (yesStore) Look(context.Context, string, []ratelimit.Limit) (ratelimit.Usage, error) {
	return ratelimit.Usage{}, nil
}

func (yesStore) Reset(context.Context, string) (bool, error) { return false, nil }

var (
	ctx = context.Background()

	ten = []ratelimit.Limit{{Capacity: 10, Refill: ratelimit.PerSecond(10)}}
	// still does not refill while a test runs.
	still = []ratelimit.Limit{{Capacity: 1_000_000, Refill: ratelimit.Every(time.Hour)}}
)

// patient is a budget for tests that are not about the budget, on a machine that may be busy.
func patient() ratelimit.RedisOption { return ratelimit.WithTimeout(20 * time.Second) }

// redisStore returns a store without a deny cache, which would go by this process's clock, and not by the frozen one.
func redisStore(t *testing.T, client redis.UniversalClient, opts ...ratelimit.RedisOption) *ratelimit.RedisStore {
	t.Helper()
	store, err := ratelimit.NewRedisStore(client, append([]ratelimit.RedisOption{patient(), ratelimit.WithDenyCache(0)}, opts...)...)
	require.NoError(t, err)
	return store
}

// frozenRedis is a server whose clock only Advance moves.
func frozenRedis(tb testing.TB) (*redistest.Server, *redistest.Clock) {
	tb.Helper()
	server := redistest.Start(tb, redistest.WithClock())
	server.Clock().Freeze(time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC))
	return server, server.Clock()
}

func mustTake(t *testing.T, store ratelimit.Store, key string, n int, limits ...ratelimit.Limit) ratelimit.Result {
	t.Helper()
	r, err := store.Take(ctx, key, ratelimit.Take{N: n, Limits: limits})
	require.NoError(t, err, "Take(%q, %d)", key, n)
	return r
}

// escaped is a key as it is stored in Redis after the prefix.
func escaped(key string) string {
	var text strings.Builder
	for _, b := range []byte(key) {
		if b <= ' ' || b >= 0x7f || strings.IndexByte("{}%", b) >= 0 {
			fmt.Fprintf(&text, "%%%02X", b)
		} else {
			text.WriteByte(b)
		}
	}
	return text.String()
}

// keyIn is what Redis holds under a key.
type keyIn struct {
	dump string
	ttl  time.Duration
}

func look(t *testing.T, client *redis.Client, key string) keyIn {
	t.Helper()
	dump, err := client.Dump(ctx, key).Result()
	if !errors.Is(err, redis.Nil) {
		require.NoError(t, err)
	}
	ttl, err := client.PTTL(ctx, key).Result()
	require.NoError(t, err)
	return keyIn{dump, ttl}
}

// mustTakeEventually takes as soon as a store that is starting or recovering lets it, within 10 s.
func mustTakeEventually(t *testing.T, store ratelimit.Store) {
	t.Helper()
	deadline := time.Now().Add(10 * time.Second)
	for {
		_, err := store.Take(ctx, "eventually", ratelimit.Take{N: 1, Limits: still})
		if err == nil {
			return
		}
		require.True(t, time.Now().Before(deadline), "still failing: %v", err)
	}
}
