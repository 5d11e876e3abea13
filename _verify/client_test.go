package verify

import (
	"bufio"
	"context"
	"encoding/gob"
	"encoding/json"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"strconv"
	"sync"
	"time"

	"github.com/gin-gonic/gin"
	"github.com/redis/go-redis/v9"
	"golang.org/x/sys/unix"

	"github.com/gin-ratelimit/ratelimit"
)

// A client is a process of its own that sends requests through the middleware, and reports how each was answered.

const clientEnv = "VERIFY_CLIENT"

// clientSpec is what a client process does.
type clientSpec struct {
	Addrs  []string // of one server, of a cluster's nodes, or of sentinels
	Kind   string   // "single", "cluster" or "sentinel"
	Master string   // for sentinels

	Limit     ratelimit.Limit
	Prefix    string
	Budget    time.Duration
	DenyCache int
	Lease     time.Duration // 0 for none
	Pool      int           // connections, 0 for go-redis' default
	Retries   int           // go-redis' MaxRetries
	Open      bool          // FailOpen, else FailClosed
	RTT       time.Duration

	Fallback bool
	Share    float64
	CoolOff  time.Duration

	Keys    int
	Callers int
	Every   time.Duration // pause between two requests of a caller
}

// verdict is how a request was answered.
type verdict int8

const (
	admitted verdict = iota
	refused
	failed // the store could not decide, and the policy answered as it should
	broken // none of these
)

// decision is one request.
type decision struct {
	Start, End int64 // by monotonic
	Key        string
	Verdict    verdict
	Source     ratelimit.Source
	Text       string // the store's error, or what is broken
}

func (d decision) took() time.Duration { return time.Duration(d.End - d.Start) }

// monotonic is the clock that all processes of the machine share, in nanoseconds.
func monotonic() int64 {
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &now); err != nil {
		panic(err)
	}
	return now.Nano()
}

func runClient(text string) error {
	log.SetOutput(io.Discard)
	var spec clientSpec
	if err := json.Unmarshal([]byte(text), &spec); err != nil {
		return err
	}
	client := spec.client()
	defer client.Close()
	engine, err := spec.engine(client)
	if err != nil {
		return err
	}
	stop := make(chan struct{})
	go func() {
		_, _ = bufio.NewReader(os.Stdin).ReadByte() // The parent closes it, or ends.
		close(stop)
	}()
	var mu sync.Mutex // guards out
	out := gob.NewEncoder(os.Stdout)
	var callers sync.WaitGroup
	for i := range spec.Callers {
		callers.Go(func() {
			ticks := time.NewTicker(spec.Every)
			defer ticks.Stop()
			for n := i; ; n++ {
				select {
				case <-stop:
					return
				case <-ticks.C:
				}
				d := request(engine, spec, "k"+strconv.Itoa(n%spec.Keys))
				mu.Lock()
				err := out.Encode(d)
				mu.Unlock()
				if err != nil {
					return
				}
			}
		})
	}
	callers.Wait()
	return nil
}

func (s clientSpec) client() redis.UniversalClient {
	var dial dialFunc
	if s.RTT > 0 {
		dial = dialOver(noTest{}, s.RTT)
	}
	switch s.Kind {
	case "cluster":
		return redis.NewClusterClient(&redis.ClusterOptions{
			Addrs: s.Addrs, Dialer: dial, ContextTimeoutEnabled: true, PoolSize: s.Pool, MaxRetries: s.Retries,
		})
	case "sentinel":
		return redis.NewFailoverClient(&redis.FailoverOptions{
			MasterName: s.Master, SentinelAddrs: s.Addrs, Dialer: dial, PoolSize: s.Pool, MaxRetries: s.Retries,
		})
	default:
		return redis.NewClient(&redis.Options{Addr: s.Addrs[0], Dialer: dial, PoolSize: s.Pool, MaxRetries: s.Retries})
	}
}

// store returns the spec's store on client.
func (s clientSpec) store(client redis.UniversalClient, opts ...ratelimit.FallbackOption) (ratelimit.Store, error) {
	redisOpts := []ratelimit.RedisOption{
		ratelimit.WithTimeout(s.Budget), ratelimit.WithKeyPrefix(s.Prefix), ratelimit.WithDenyCache(s.DenyCache),
	}
	if s.Lease > 0 {
		redisOpts = append(redisOpts, ratelimit.WithLease(s.Lease))
	}
	store, err := ratelimit.NewRedisStore(client, redisOpts...)
	if err != nil || !s.Fallback {
		return store, err
	}
	opts = append([]ratelimit.FallbackOption{ratelimit.WithShare(s.Share), ratelimit.WithCoolOff(s.CoolOff)}, opts...)
	return ratelimit.NewFallbackStore(store, ratelimit.NewMemoryStore(), opts...)
}

func (s clientSpec) engine(client redis.UniversalClient) (*gin.Engine, error) {
	store, err := s.store(client)
	if err != nil {
		return nil, err
	}
	policy := ratelimit.FailClosed
	if s.Open {
		policy = ratelimit.FailOpen
	}
	limiter, err := ratelimit.NewLimiter(
		ratelimit.WithName("verify"),
		ratelimit.WithStore(store),
		ratelimit.WithCapacity(s.Limit.Capacity),
		ratelimit.WithRefillRate(s.Limit.Refill),
		ratelimit.WithKeyFunc(func(c *gin.Context) string { return c.GetHeader("X-Key") }),
		ratelimit.WithErrorHandler(func(c *gin.Context, err error) {
			c.Header("X-Failure", err.Error())
			policy(c, err)
		}),
		ratelimit.WithDeniedHandler(func(c *gin.Context, r ratelimit.Result) {
			tellSource(c, r)
			ratelimit.DenyJSON(c, r)
		}),
	)
	if err != nil {
		return nil, err
	}
	engine := gin.New()
	engine.GET("/", limiter.Handle, func(c *gin.Context) {
		r, _ := ratelimit.Get(c)
		tellSource(c, r)
		c.String(http.StatusOK, "done")
	})
	return engine, nil
}

func tellSource(c *gin.Context, r ratelimit.Result) {
	c.Header("X-Source", strconv.Itoa(int(r.Source)))
}

// request sends one request, and checks the response: status, headers and body.
func request(engine *gin.Engine, spec clientSpec, key string) decision {
	req := httptest.NewRequestWithContext(context.Background(), http.MethodGet, "/", http.NoBody)
	req.Header.Set("X-Key", key)
	w := httptest.NewRecorder()
	d := decision{Key: key, Start: monotonic()}
	engine.ServeHTTP(w, req)
	d.End = monotonic()
	d.Verdict, d.Text = judge(w, spec)
	if source, err := strconv.Atoi(w.Header().Get("X-Source")); err == nil {
		d.Source = ratelimit.Source(source)
	}
	return d
}

func judge(w *httptest.ResponseRecorder, spec clientSpec) (verdict, string) {
	h := w.Header()
	if failure := h.Get("X-Failure"); failure != "" {
		want := http.StatusServiceUnavailable
		if spec.Open {
			want = http.StatusOK
		}
		if w.Code != want || h.Get("X-Ratelimit-Remaining") != "" {
			return broken, fmt.Sprintf("undecided: status %d, headers %v", w.Code, h)
		}
		return failed, failure
	}
	capacity, err := strconv.Atoi(h.Get("X-Ratelimit-Limit"))
	if err != nil || capacity != spec.Limit.Capacity && !spec.Fallback {
		return broken, fmt.Sprintf("decided: headers %v", h)
	}
	switch retry, _ := strconv.Atoi(h.Get("Retry-After")); {
	case w.Code == http.StatusOK && h.Get("Retry-After") == "" && w.Body.String() == "done":
		return admitted, ""
	case w.Code == http.StatusTooManyRequests && retry > 0 && h.Get("X-Ratelimit-Remaining") == "0":
		return refused, ""
	}
	return broken, fmt.Sprintf("status %d, headers %v, body %q", w.Code, h, w.Body)
}

// silent keeps go-redis from logging the failures that are made on purpose.
type silent struct{}

func (silent) Printf(context.Context, string, ...any) {}
