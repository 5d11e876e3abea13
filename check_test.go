package ratelimit

import (
	"bytes"
	"context"
	"fmt"
	"log"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/gin-gonic/gin"
	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/gin-ratelimit/ratelimit/internal/redistest"
)

// silentEngine is an engine whose routes are not printed, and which believes no header.
func silentEngine(t *testing.T) *gin.Engine {
	t.Helper()
	engine := gin.New()
	if err := engine.SetTrustedProxies(nil); err != nil {
		t.Fatal(err)
	}
	return engine
}

// forbidden is a handler that Check must not run.
func forbidden(c *gin.Context) { panic("a handler was run") }

// byTen is a limiter of 10/s with further options.
func byTen(opts ...Option) gin.HandlerFunc {
	return New(append([]Option{WithRefillRate(PerSecond(10))}, opts...)...)
}

const (
	forgeable = ", so a client that makes up addresses is not limited; fix: "
	byEngine  = forgeable + "call engine.SetTrustedProxies with the addresses of your proxies, or with nil if there are none"
	byKeyFunc = forgeable + "read the address by ByClientIP, and configure engine.SetTrustedProxies"
	bySocket  = `on a unix socket its key is "", whatever headers the proxy sends, so all clients share one bucket; ` +
		"fix: use FirstOf(ByRemoteIP, ByClientIP) and set engine.ForwardedByClientIP; the key is then the peer's address if it has one, and otherwise the forwarded one"
	unstable = "two requests of one client have different keys, so no client is limited: the keys contain the port, the time or a random number; " +
		"fix: use a key that a client cannot change: its address (ByClientIP) or its account (ByValue)"
	twice     = "is on it more than once, and charges a request each time; fix: register it once: on the engine, on the group or on the route"
	unlimited = "it has no limiter; fix: register one on the engine, the group or the route; it applies to routes that are registered after it"
)

func TestCheck(t *testing.T) {
	shared := NewMemoryStore()
	for _, c := range []struct {
		name string
		set  func(*gin.Engine)
		want []string
	}{
		{"nothing at all", func(*gin.Engine) {}, nil},
		{"in order", func(e *gin.Engine) {
			e.Use(gin.Recovery(), forbidden, byTen())
			e.NoRoute(forbidden)
			e.GET("/", forbidden)
			e.GET("/users/:id", forbidden)
			e.GET("/users/:id/books/*title", forbidden)
			e.Group("/api", forbidden, byTen(WithName("api"))).POST("/users", byTen(WithName("users")), forbidden)
			e.PUT("/uploads", byTen(WithKeyFunc(ByRoute)), forbidden)
			e.DELETE("/uploads", authenticates, byTen(WithKeyFunc(FirstOf(ByBearerToken, ByHeader("X-API-Key"), ByClientIP))), forbidden)
			e.HEAD("/uploads", byTen(WithKeyFunc(Join(ByRoute, ByClientIP))), forbidden)
		}, nil},
		{"behind a proxy", func(e *gin.Engine) {
			check(t, e.SetTrustedProxies([]string{"10.0.0.0/8", "127.0.0.1", "fd00::/8"}))
			e.Use(byTen())
			e.GET("/", forbidden)
		}, nil},
		{"on both kinds of sockets", func(e *gin.Engine) {
			e.Use(byTen(WithKeyFunc(FirstOf(ByRemoteIP, ByClientIP))))
			e.GET("/", forbidden)
		}, nil},
		{"shared on purpose", func(e *gin.Engine) {
			limiter := byTen(WithName("a"), WithStore(shared))
			e.GET("/a", limiter, forbidden)
			e.GET("/b", limiter, forbidden)
			e.GET("/c", byTen(WithName("a"), WithStore(shared)), forbidden)
			e.GET("/d", limiter, byTen(WithName("d"), WithStore(shared), WithCapacity(1)), forbidden)
			// An account and an address are different buckets, whatever their limiters are called.
			e.GET("/e", limiter, byTen(WithName("a"), WithStore(shared), WithKeyFunc(func(*gin.Context) string { return "account:1" })), forbidden)
		}, nil},
		{"a key that needs more than a request", func(e *gin.Engine) {
			e.Use(byTen(WithKeyFunc(func(c *gin.Context) string { return fmt.Sprint(c.MustGet("user")) })))
			e.GET("/", forbidden)
		}, nil},
		{"a key that answers", func(e *gin.Engine) {
			e.Use(byTen(WithKeyFunc(func(c *gin.Context) string {
				c.JSON(http.StatusTeapot, gin.H{"a": 1})
				c.Abort()
				return ""
			})))
			e.GET("/", forbidden)
		}, nil},

		{"trusting everybody, as Gin does by itself", func(e *gin.Engine) {
			check(t, e.SetTrustedProxies([]string{"0.0.0.0/0", "::/0"}))
			limiter := byTen()
			e.GET("/", limiter, forbidden)
			e.GET("/again", limiter, forbidden)
			e.GET("/a", authenticates, byTen(WithName("a"), WithKeyFunc(FirstOf(ByBearerToken, ByClientIP))), forbidden)
			e.GET("/b", byTen(WithName("b"), WithKeyFunc(ByRoute)), forbidden)
		}, []string{
			`forgeable_key: limiter "default" on GET /: the engine trusts X-Forwarded-For and X-Real-Ip from every peer` + byEngine,
			`forgeable_key: limiter "a" on GET /a: the engine trusts X-Forwarded-For and X-Real-Ip from every peer` + byEngine,
		}},
		{"trusting everybody who comes by IPv6", func(e *gin.Engine) {
			check(t, e.SetTrustedProxies([]string{"::/0"}))
			e.GET("/", byTen(), forbidden)
		}, []string{`forgeable_key: limiter "default" on GET /: the engine trusts X-Forwarded-For and X-Real-Ip from every peer` + byEngine}},
		{"trusting a header of its own", func(e *gin.Engine) {
			check(t, e.SetTrustedProxies([]string{"0.0.0.0/0"}))
			e.RemoteIPHeaders = []string{"x-my-proxy", "X-Forwarded-For"}
			e.GET("/", byTen(), forbidden)
		}, []string{`forgeable_key: limiter "default" on GET /: the engine trusts X-Forwarded-For and X-My-Proxy from every peer` + byEngine}},
		{"trusting a platform", func(e *gin.Engine) {
			e.TrustedPlatform = gin.PlatformCloudflare
			e.GET("/", byTen(), forbidden)
		}, []string{`platform_header: limiter "default" on GET /: the engine trusts Cf-Connecting-Ip from every peer, so a client that makes up addresses is not limited; ` +
			"fix: make sure that only the platform can connect to this server, or leave engine.TrustedPlatform empty"}},
		{"a key by a header of the client's", func(e *gin.Engine) {
			e.GET("/", byTen(WithKeyFunc(ByHeader("X-Real-IP"))), forbidden)
		}, []string{`forgeable_key: limiter "default" on GET /: its KeyFunc trusts X-Real-Ip from every peer` + byKeyFunc}},
		{"a key by any header there is", func(e *gin.Engine) {
			e.GET("/", byTen(WithKeyFunc(func(c *gin.Context) string {
				return c.GetHeader("X-Forwarded-For") + c.GetHeader("Forwarded") + c.GetHeader("True-Client-IP")
			})), forbidden)
		}, []string{`forgeable_key: limiter "default" on GET /: its KeyFunc trusts Forwarded, True-Client-Ip and X-Forwarded-For from every peer` + byKeyFunc}},

		{"a key with the port", func(e *gin.Engine) {
			e.GET("/", byTen(WithKeyFunc(func(c *gin.Context) string { return c.Request.RemoteAddr })), forbidden)
		}, []string{`unstable_key: limiter "default" on GET /: ` + unstable}},
		{"a random key", func(e *gin.Engine) {
			e.GET("/", byTen(WithKeyFunc(func(*gin.Context) string { return fmt.Sprint(rand.Uint64()) })), forbidden)
		}, []string{`unstable_key: limiter "default" on GET /: ` + unstable}},

		{"a key that unix sockets do not have", func(e *gin.Engine) {
			e.GET("/", byTen(WithKeyFunc(ByRemoteIP)), forbidden)
		}, []string{`unix_socket: limiter "default" on GET /: ` + bySocket}},
		{"an engine that reads no header", func(e *gin.Engine) {
			e.ForwardedByClientIP = false
			e.GET("/", byTen(), forbidden)
		}, []string{`unix_socket: limiter "default" on GET /: ` + bySocket}},

		{"the same on the engine and on a route", func(e *gin.Engine) {
			limiter := byTen(WithName("login"))
			e.Use(limiter)
			e.GET("/", forbidden)
			e.POST("/login", limiter, forbidden)
			e.POST("/logout", limiter, limiter, forbidden)
		}, []string{
			`double_charge: POST /login: limiter "login" ` + twice,
			`double_charge: POST /logout: limiter "login" ` + twice,
		}},
		{"the same by Handle", func(e *gin.Engine) {
			l, err := NewLimiter(WithRefillRate(PerSecond(10)))
			check(t, err)
			e.Use(l.Handle)
			e.GET("/", l.Handle, forbidden)
		}, []string{`double_charge: GET /: limiter "default" ` + twice}},
		{"the same where no route matches", func(e *gin.Engine) {
			limiter := byTen()
			e.Use(limiter)
			e.NoRoute(limiter, forbidden)
		}, []string{`double_charge: no route: limiter "default" ` + twice}},
		{"all work is done where no route matches", func(e *gin.Engine) {
			check(t, e.SetTrustedProxies([]string{"0.0.0.0/0"}))
			e.NoRoute(byTen(), forbidden)
		}, []string{`forgeable_key: limiter "default" on no route: the engine trusts X-Forwarded-For and X-Real-Ip from every peer` + byEngine}},
		{"two for the same buckets", func(e *gin.Engine) {
			e.Use(byTen(WithName("api"), WithStore(shared)))
			e.GET("/", byTen(WithName("api"), WithStore(shared)), forbidden)
		}, []string{`double_charge: GET /: two limiters named "api" share buckets in one store, so a request is charged twice; ` +
			"fix: remove one, or give it another name by WithName"}},
		{"one name for two limits", func(e *gin.Engine) {
			e.GET("/a", byTen(WithName("api"), WithStore(shared)), forbidden)
			e.GET("/b", byTen(WithName("api"), WithStore(shared), WithCapacity(20)), forbidden)
			e.GET("/c", byTen(WithName("api"), WithStore(NewMemoryStore()), WithCapacity(30)), forbidden)
			e.GET("/d", byTen(WithName("api"), WithStore(shared), WithCapacity(30)), forbidden)
		}, []string{
			`shared_name: limiter "api" on GET /b: it shares buckets with the limiter "api" on GET /a, but has other limits: [10/s burst 20] instead of [10/s]; ` +
				"fix: give one of them another name by WithName, or both the same limits",
			`shared_name: limiter "api" on GET /d: it shares buckets with the limiter "api" on GET /a, but has other limits: [10/s burst 30] instead of [10/s]; ` +
				"fix: give one of them another name by WithName, or both the same limits",
		}},
		{"stores that cannot be compared", func(e *gin.Engine) {
			e.GET("/a", byTen(WithName("api"), WithStore(uncomparable{shared, nil})), forbidden)
			e.GET("/b", byTen(WithName("api"), WithStore(uncomparable{shared, nil}), WithCapacity(20)), forbidden)
		}, nil},

		{"routes without a limit", func(e *gin.Engine) {
			limiter := byTen()
			e.POST("/limited", limiter, forbidden)
			e.POST("/health", forbidden)
			e.POST("/a", forbidden)
			e.GET("/health", forbidden)
			e.GET("/before", forbidden)
			e.Use(limiter)
			e.GET("/behind", forbidden)
		}, []string{
			"unlimited_route: POST /a: " + unlimited,
			"unlimited_route: GET /before: " + unlimited,
			"unlimited_route: GET /health: " + unlimited,
			"unlimited_route: POST /health: " + unlimited,
		}},
		{"a limiter that another handler calls", func(e *gin.Engine) {
			limiter := byTen()
			e.GET("/", func(c *gin.Context) { limiter(c) }, forbidden)
		}, []string{"unlimited_route: GET /: " + unlimited}},
	} {
		t.Run(c.name, func(t *testing.T) {
			engine := silentEngine(t)
			c.set(engine)
			wantWarnings(t, Check(engine), c.want)
		})
	}
}

// check fails the test with an error.
func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func wantWarnings(t *testing.T, got []Warning, want []string) {
	t.Helper()
	var lines []string
	for _, w := range got {
		lines = append(lines, w.String())
	}
	for i, line := range want {
		want[i] = "ratelimit: " + line
	}
	if !reflect.DeepEqual(lines, want) {
		t.Errorf("got\n\t%s\nwant\n\t%s", strings.Join(lines, "\n\t"), strings.Join(want, "\n\t"))
	}
}

// uncomparable is a Store that is no pointer, and panics when it is compared.
type uncomparable struct {
	Store
	_ []int
}

// Gin's own default is what the first warning is about.
func TestCheckOfGinsDefault(t *testing.T) {
	engine := gin.New()
	engine.GET("/", byTen())
	if got := Check(engine); len(got) != 1 || got[0].Code != WarnForgeableKey {
		t.Errorf("got %v", got)
	}
}

// What the warning says happens: a client that is warned of gets a bucket for each address it makes up.
func TestForgeableKeyIsTrue(t *testing.T) {
	for _, trusted := range [][]string{nil, {"0.0.0.0/0"}} {
		engine := silentEngine(t)
		check(t, engine.SetTrustedProxies(trusted))
		engine.GET("/", byTen(WithCapacity(1)))
		admitted := 0
		for i := range 20 {
			r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "/", http.NoBody)
			check(t, err)
			r.RemoteAddr = "203.0.113.9:999"
			r.Header.Set("X-Forwarded-For", fmt.Sprintf("198.51.100.%d", i))
			w := statusOnly{header: http.Header{}}
			if engine.ServeHTTP(&w, r); w.status == http.StatusOK {
				admitted++
			}
		}
		if warned := len(Check(engine)) > 0; warned != (admitted == 20) || !warned && admitted > 2 {
			t.Errorf("trusting %v: %d of 20 admitted, warned: %v", trusted, admitted, warned)
		}
	}
}

type statusOnly struct {
	header http.Header
	status int
}

func (w *statusOnly) Header() http.Header         { return w.header }
func (w *statusOnly) Write(p []byte) (int, error) { return len(p), nil }
func (w *statusOnly) WriteHeader(status int)      { w.status = status }

// Check charges nobody, tells no observer, and prints nothing.
func TestCheckLeavesNoTrace(t *testing.T) {
	var printed bytes.Buffer
	log.SetOutput(&printed)
	defer log.SetOutput(os.Stderr)
	gin.DefaultWriter = &printed
	defer func() { gin.DefaultWriter = os.Stdout }()

	store, observed := NewMemoryStore(), 0
	engine := silentEngine(t)
	engine.GET("/", byTen(WithName("api"), WithStore(store), WithObserver(func(context.Context, Event) { observed++ })))
	before := fmt.Sprint(engine.Routes())
	for range 3 {
		Check(engine)
	}
	if store.Len() != 0 || observed != 0 || printed.Len() != 0 || fmt.Sprint(engine.Routes()) != before {
		t.Errorf("%d keys, %d events, printed %q", store.Len(), observed, &printed)
	}
}

func TestWarningLogs(t *testing.T) {
	var line bytes.Buffer
	logger := slog.New(slog.NewTextHandler(&line, &slog.HandlerOptions{ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
		if a.Key == slog.TimeKey {
			return slog.Attr{}
		}
		return a
	}}))
	logger.Warn("check", "warning", Warning{WarnUnlimited, "GET /", "no limiter", "put one"})
	want := `level=WARN msg=check warning.code=unlimited_route warning.subject="GET /" warning.message="no limiter" warning.fix="put one"` + "\n"
	if line.String() != want {
		t.Errorf("got  %swant %s", &line, want)
	}
}

// Where the routes cannot be read, the engine's own handlers still can.
func TestCheckWithoutRoutes(t *testing.T) {
	engine := silentEngine(t)
	check(t, engine.SetTrustedProxies([]string{"0.0.0.0/0"}))
	limiter := byTen()
	engine.Use(limiter, limiter)
	engine.GET("/", forbidden)
	i := inspection{engine: engine}
	i.run(nil, false)
	wantWarnings(t, i.warnings, []string{
		`forgeable_key: limiter "default" on every route: the engine trusts X-Forwarded-For and X-Real-Ip from every peer` + byEngine,
		`double_charge: every route: limiter "default" ` + twice,
		"unreadable_routes: engine: the handlers of its routes cannot be read, because this version of Gin keeps them differently; only limiters on the engine itself were checked; " +
			"fix: use the version of Gin that this library's go.mod names, or update the library",
	})
}

func redisWarnings(t *testing.T, client redis.UniversalClient, wrap ...func(Store) Store) []Warning {
	t.Helper()
	redisStore, err := NewRedisStore(client)
	check(t, err)
	var store Store = redisStore
	for _, w := range wrap {
		store = w(store)
	}
	engine := silentEngine(t)
	engine.GET("/", byTen(WithName("a"), WithStore(store)))
	engine.GET("/b", byTen(WithName("b"), WithStore(store)))
	return Check(engine)
}

const (
	evicts = `redis_eviction: RedisStore "ratelimit:": maxmemory-policy is %s: when memory is short Redis drops buckets, and a bucket that is dropped is full again; ` +
		"fix: set maxmemory-policy noeviction, or keep the buckets in a Redis of their own"
	replicas = `redis_replicas: RedisStore "ratelimit:": the client is set up to read from replicas: takes write, so they go to the masters all the same, ` +
		"and under the smallest ACL they fail, because the client then sends READONLY; " +
		"fix: make the client without ReadOnly, RouteByLatency and RouteRandomly in redis.ClusterOptions"
)

func TestCheckRedisEviction(t *testing.T) {
	lru := redistest.Start(t, redistest.WithConfig("maxmemory-policy", "allkeys-lru"))
	tidy := redistest.Start(t)
	wantWarnings(t, redisWarnings(t, tidy.Client()), nil)
	wantWarnings(t, redisWarnings(t, lru.Client()), []string{fmt.Sprintf(evicts, "allkeys-lru")})

	asPrimary := func(store Store) Store {
		s, err := NewFallbackStore(store, NewMemoryStore())
		check(t, err)
		return s
	}
	asFallback := func(store Store) Store {
		s, err := NewFallbackStore(NewMemoryStore(), store)
		check(t, err)
		return s
	}
	wantWarnings(t, redisWarnings(t, lru.Client(), asPrimary, asFallback), []string{fmt.Sprintf(evicts, "allkeys-lru")})

	ring := redis.NewRing(&redis.RingOptions{ContextTimeoutEnabled: true, Addrs: map[string]string{"a": tidy.Addr, "b": lru.Addr}})
	defer ring.Close()
	wantWarnings(t, redisWarnings(t, ring), []string{fmt.Sprintf(evicts, "allkeys-lru")})

	// The smallest ACL does not permit the question.
	lru.SetACL("least", "on", ">secret", "~ratelimit:*", "nocommands", "+evalsha", "+eval", "+get", "+set", "+time")
	least := redis.NewClient(&redis.Options{Addr: lru.Addr, Username: "least", Password: "secret"})
	defer least.Close()
	wantWarnings(t, redisWarnings(t, least), nil)
}

func TestCheckRedisCluster(t *testing.T) {
	cluster := redistest.Cluster(t, 3, redistest.WithConfig("maxmemory-policy", "volatile-ttl"))
	wantWarnings(t, redisWarnings(t, cluster.Client()), []string{fmt.Sprintf(evicts, "volatile-ttl")})
	for _, options := range []redis.ClusterOptions{{ReadOnly: true}, {RouteByLatency: true}, {RouteRandomly: true}} {
		options.Addrs, options.ContextTimeoutEnabled = cluster.Addrs(), true
		client := redis.NewClusterClient(&options)
		defer client.Close()
		wantWarnings(t, redisWarnings(t, client), []string{replicas, fmt.Sprintf(evicts, "volatile-ttl")})
	}
}

// A Redis that is not there, or does not answer, does not hold up the start of a program.
func TestCheckRedisThatDoesNotAnswer(t *testing.T) {
	paused := redistest.Start(t, redistest.WithConfig("maxmemory-policy", "allkeys-lru"))
	client := paused.Client()
	check(t, client.Set(t.Context(), "connected", 1, 0).Err())
	paused.Pause()
	defer paused.Resume()

	silent := redistest.Silent(t)
	refused := redis.NewClient(&redis.Options{Addr: "127.0.0.1:1"})
	defer refused.Close()
	black := redis.NewClient(&redis.Options{Addr: silent})
	defer black.Close()
	ring := redis.NewRing(&redis.RingOptions{ContextTimeoutEnabled: true, Addrs: map[string]string{"a": paused.Addr, "b": silent}})
	defer ring.Close()
	cluster := redis.NewClusterClient(&redis.ClusterOptions{ContextTimeoutEnabled: true, Addrs: []string{silent, paused.Addr}})
	defer cluster.Close()

	for name, client := range map[string]redis.UniversalClient{"paused": client, "refused": refused, "silent": black, "ring": ring, "cluster": cluster} {
		t.Run(name, func(t *testing.T) {
			start := time.Now()
			wantWarnings(t, redisWarnings(t, client), nil)
			if elapsed := time.Since(start); elapsed > 2*time.Second {
				t.Errorf("it took %v", elapsed)
			}
		})
	}
}

func warningCodes(warnings []Warning) (codes []WarningCode) {
	for _, w := range warnings {
		codes = append(codes, w.Code)
	}
	return codes
}

// What of a client and a server makes takes fail, although Redis is up.
func TestCheckRedisThatCannotTake(t *testing.T) {
	master := redistest.Start(t)
	host, port, err := net.SplitHostPort(master.Addr)
	check(t, err)
	replica := redistest.Start(t, redistest.WithConfig("replicaof", host+" "+port))
	require.Eventually(t, func() bool {
		return len(redisWarnings(t, replica.Client())) > 0
	}, 5*time.Second, 10*time.Millisecond)
	require.Equal(t, []WarningCode{WarnReplica}, warningCodes(redisWarnings(t, replica.Client())))

	far := redis.NewClient(&redis.Options{Addr: redistest.NewLink(t, master.Addr, 60*time.Millisecond).Addr})
	defer far.Close()
	warnings := redisWarnings(t, far)
	require.Equal(t, []WarningCode{WarnBudget}, warningCodes(warnings))
	require.Contains(t, warnings[0].Fix, "WithTimeout(")

	narrow := redis.NewClient(&redis.Options{Addr: master.Addr, PoolSize: 10, MaxActiveConns: 1})
	defer narrow.Close()
	require.Equal(t, []WarningCode{WarnPool}, warningCodes(redisWarnings(t, narrow)))

	hasty := redis.NewClient(&redis.Options{Addr: master.Addr, ReadTimeout: 10 * time.Millisecond, ContextTimeoutEnabled: true})
	defer hasty.Close()
	require.Equal(t, []WarningCode{WarnTimeouts}, warningCodes(redisWarnings(t, hasty)))
}

// WithLease where it cannot do what it is for.
func TestCheckLeases(t *testing.T) {
	server := redistest.Start(t)
	far := redis.NewClient(&redis.Options{Addr: redistest.NewLink(t, server.Addr, 10*time.Millisecond).Addr})
	defer far.Close()
	store, err := NewRedisStore(far, WithLease(10*time.Millisecond), WithTimeout(time.Second))
	check(t, err)
	fallback, err := NewFallbackStore(store, NewMemoryStore())
	check(t, err)
	router := gin.New()
	check(t, router.SetTrustedProxies(nil))
	handler := func(c *gin.Context) {}
	limited := func(opts ...Option) gin.HandlerFunc { return New(append(opts, WithStore(fallback))...) }
	router.GET("/fine", limited(WithName("fine"), WithLimit(PerSecond(1000).Burst(5000))), handler)
	router.GET("/small", limited(WithName("small"), WithLimit(PerSecond(1000).Burst(100))), handler)
	router.GET("/wait", limited(WithName("wait"), WithLimit(PerSecond(1000).Burst(5000)), WithMaxWait(time.Second)), handler)
	router.GET("/ban", limited(WithName("ban"), WithLimit(PerSecond(1000).Burst(5000)), WithBan(Ban{After: 9, Within: time.Minute, For: time.Minute})), handler)
	warnings := Check(router)
	require.ElementsMatch(t, []WarningCode{WarnLeasePeriod, WarnNotLeased, WarnNotLeased, WarnNotLeased}, warningCodes(warnings), "%v", warnings)
	for _, w := range warnings {
		require.NotContains(t, w.Subject, `"fine"`)
	}
}

var authenticates = gin.BasicAuth(gin.Accounts{"ann": "secret"})

// A key that made-up credentials change is a mistake where nothing before the limiter could have verified them.
func TestCheckCredentials(t *testing.T) {
	byToken := func() gin.HandlerFunc {
		return New(WithRefillRate(PerMinute(5)), WithKeyFunc(FirstOf(ByBearerToken, ByClientIP)))
	}
	for name, c := range map[string]struct {
		handlers []gin.HandlerFunc
		warned   bool
	}{
		"nothing before":         {handlers: []gin.HandlerFunc{byToken()}, warned: true},
		"recovery before":        {handlers: []gin.HandlerFunc{gin.Recovery(), byToken()}, warned: true},
		"another limiter before": {handlers: []gin.HandlerFunc{New(WithRefillRate(PerMinute(9)), WithName("outer")), byToken()}, warned: true},
		"by a header of keys":    {handlers: []gin.HandlerFunc{New(WithRefillRate(PerMinute(5)), WithKeyFunc(ByHeader("X-API-Key")))}, warned: true},
		"by address":             {handlers: []gin.HandlerFunc{New(WithRefillRate(PerMinute(5)))}},
		"by what was set":        {handlers: []gin.HandlerFunc{New(WithRefillRate(PerMinute(5)), WithKeyFunc(FirstOf(ByValue("user_id"), ByClientIP)))}},
		"authenticates before":   {handlers: []gin.HandlerFunc{authenticates, byToken()}},
		"authenticates behind":   {handlers: []gin.HandlerFunc{byToken(), authenticates}, warned: true},
	} {
		t.Run(name, func(t *testing.T) {
			router := gin.New()
			check(t, router.SetTrustedProxies(nil))
			router.GET("/", append(c.handlers, func(*gin.Context) {})...)
			require.Equal(t, c.warned, slices.Contains(warningCodes(Check(router)), WarnCredentials), "%v", Check(router))
		})
	}
}

// The root module does not require gin-contrib/cors, so Gin's own middlewares stand in for it. The module _compat has the
// real one.
func TestCheckCORS(t *testing.T) {
	corsPackages = append(corsPackages, "github.com/gin-gonic/gin")
	t.Cleanup(func() { corsPackages = corsPackages[:len(corsPackages)-1] })
	cors := gin.Recovery()

	first := silentEngine(t)
	first.Use(cors, byTen())
	first.GET("/", forbidden)
	wantWarnings(t, Check(first), nil)

	behind := silentEngine(t)
	limiter := byTen()
	behind.GET("/a", cors, limiter, forbidden)
	behind.GET("/b", limiter, cors, forbidden)
	behind.GET("/c", limiter, forbidden, cors, forbidden)
	wantWarnings(t, Check(behind), []string{
		`before_cors: limiter "default" on GET /b: it runs before cors, so it counts preflights, and a browser cannot read its refusals, ` +
			"which have no Access-Control-Allow-Origin; fix: register cors before the limiter",
	})
}

func TestIsFrom(t *testing.T) {
	require.True(t, isFrom(gin.Recovery(), []string{"net/http", "github.com/gin-gonic/gin"}))
	require.True(t, isFrom(gin.Recovery(), []string{"github.com/gin-gonic"}), "a package below")
	require.False(t, isFrom(gin.Recovery(), []string{"github.com/gin-gonic/gi"}), "a part of a name")
	require.False(t, isFrom(forbidden, []string{"github.com/gin-gonic/gin"}))
}
