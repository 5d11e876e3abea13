// Package recipes runs the snippets of the documentation and asserts what the text around them claims. TestDocs of
// the example puts the snippets beside this file, so that neither is a copy of the other.
package recipes

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gin-gonic/gin"
	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/gin-ratelimit/ratelimit"
	"github.com/gin-ratelimit/ratelimit/internal/redistest"
)

// parts is what snippets take as given. Afterwards made has what they made, by name.
type parts struct {
	router       *gin.Engine
	admin        *gin.RouterGroup
	store        ratelimit.Store
	login        gin.HandlerFunc
	report       gin.HandlerFunc
	authenticate gin.HandlerFunc
	answer       func(*gin.Context) int
	limiter      *ratelimit.Limiter
	redisAddr    string
	ctx          context.Context
	user         string
	addrs        []string

	made map[string]any
}

// recipes is the snippets, by page and heading.
var recipes = map[string]func(*parts){}

func use(...any) {}

func init() { gin.SetMode(gin.ReleaseMode) }

// users has the user of each token. The second token is the first one, renewed.
var users = map[string]struct{ id, tenant, plan string }{
	"pro-1":  {"1", "acme", "pro"},
	"pro-1b": {"1", "acme", "pro"},
	"free-2": {"2", "globex", "free"},
	"free-3": {"3", "globex", "free"},
	"max-1":  {"1", "acme", "max"}, // after an upgrade
}

func authenticate(c *gin.Context) {
	user, known := users[c.GetHeader("Token")]
	if !known {
		c.AbortWithStatus(http.StatusUnauthorized)
		return
	}
	c.Set("user_id", user.id)
	c.Set("tenant", user.tenant)
	c.Set("plan", user.plan)
}

func ok200(c *gin.Context) { c.Status(http.StatusOK) }

// prepare is an application before a recipe is pasted into it.
func prepare(t *testing.T) *parts {
	t.Helper()
	router := gin.New()
	require.NoError(t, router.SetTrustedProxies(nil))
	return &parts{
		router: router,
		admin:  router.Group("/admin"),
		store:  ratelimit.NewMemoryStore(),
		login: func(c *gin.Context) {
			if c.PostForm("password") != "right" {
				c.Status(http.StatusUnauthorized)
			}
		},
		report:       ok200,
		authenticate: authenticate,
		answer: func(c *gin.Context) int {
			used, err := strconv.Atoi(c.Query("used"))
			require.NoError(t, err)
			return used
		},
		ctx:  t.Context(),
		user: "1",
	}
}

// paste runs a recipe.
func (p *parts) paste(t *testing.T, where string) *parts {
	t.Helper()
	require.Contains(t, recipes, where)
	recipes[where](p)
	return p
}

// pasteFallback runs a recipe of a fallback store around one that is down, and limits GET / to 30 a minute by it.
func (p *parts) pasteFallback(t *testing.T, where string) *breakable {
	t.Helper()
	store := &breakable{Store: ratelimit.NewMemoryStore(), down: true}
	p.store = store
	fallback, ok := p.paste(t, where).made["fallback"].(*ratelimit.FallbackStore)
	require.True(t, ok)
	p.router.GET("/", ratelimit.New(ratelimit.WithName("api"), ratelimit.WithStore(fallback),
		ratelimit.WithLimit(ratelimit.PerMinute(30).Burst(30))), ok200)
	return store
}

// request is what a client sends.
type request struct {
	method, path string
	peer         string
	form         string
	headers      map[string]string
}

func (p *parts) send(r request) *http.Response {
	if r.method == "" {
		r.method = http.MethodGet
	}
	if r.path == "" {
		r.path = "/"
	}
	h := httptest.NewRequest(r.method, r.path, strings.NewReader(r.form))
	if r.form != "" {
		h.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	}
	if r.peer != "" {
		h.RemoteAddr = r.peer
	}
	for name, value := range r.headers {
		h.Header.Set(name, value)
	}
	w := httptest.NewRecorder()
	p.router.ServeHTTP(w, h)
	return w.Result()
}

// admitted sends a request n times, and returns how many were answered with 200.
func (p *parts) admitted(n int, r request) (admitted int) {
	for range n {
		if p.send(r).StatusCode == http.StatusOK {
			admitted++
		}
	}
	return admitted
}

func as(token string) map[string]string { return map[string]string{"Token": token} }

func guess(account string) request {
	return request{method: http.MethodPost, path: "/login", form: "password=wrong&account=" + account}
}

func body(t *testing.T, r *http.Response) string {
	t.Helper()
	text, err := io.ReadAll(r.Body)
	require.NoError(t, err)
	return string(text)
}

// page is the text of a document.
func page(t *testing.T, name string) string {
	t.Helper()
	text, err := os.ReadFile("../../../" + name)
	require.NoError(t, err)
	return string(text)
}

var errDown = errors.New("redis is down")

// breakable is a store that can be down.
type breakable struct {
	ratelimit.Store
	down bool
}

func (s *breakable) Take(ctx context.Context, key string, take ratelimit.Take) (ratelimit.Result, error) {
	if s.down {
		return ratelimit.Result{}, errDown
	}
	return s.Store.Take(ctx, key, take)
}

func newLimiter(opts ...ratelimit.Option) *ratelimit.Limiter {
	return ratelimit.Must(ratelimit.NewLimiter(opts...))
}

func byUser(limit ratelimit.Limit, opts ...ratelimit.Option) *ratelimit.Limiter {
	return newLimiter(append(opts, ratelimit.WithLimit(limit), ratelimit.WithKeyFunc(ratelimit.ByValue("user_id")))...)
}

// remaining is what the first bucket of a key holds.
func remaining(t *testing.T, limiter *ratelimit.Limiter, key string) int {
	t.Helper()
	usage, err := limiter.Peek(t.Context(), key)
	require.NoError(t, err)
	return usage.Limits[0].Remaining
}

// logged returns what f logs by slog's default logger.
func logged(f func()) string {
	var log bytes.Buffer
	before := slog.Default()
	defer slog.SetDefault(before)
	slog.SetDefault(slog.New(slog.NewTextHandler(&log, nil)))
	f()
	return log.String()
}

// claims has a test of what the documentation says of each recipe. It runs in a bubble of synctest.
var claims = map[string]func(*testing.T, *parts, string){
	"README.md#login": func(t *testing.T, p *parts, where string) {
		store := &breakable{Store: ratelimit.NewMemoryStore()}
		p.store = store
		p.paste(t, where)
		right := request{method: http.MethodPost, path: "/login", form: "account=ada&password=right"}
		require.Equal(t, 20, p.admitted(20, right), "successful logins do not count")
		for _, spelling := range []string{"ada", "+ada", "ADA", "ada%20", "%09Ada"} {
			require.Equal(t, 401, p.send(guess(spelling)).StatusCode, "%q", spelling)
		}
		for i := range 200 {
			require.Equal(t, 429, p.send(guess(strings.Repeat("+", i)+"ada")).StatusCode, "a spelling is no bucket")
		}
		require.Equal(t, 401, p.send(guess("grace")).StatusCode)
		elsewhere := guess("ada")
		elsewhere.peer = "192.0.2.9:1"
		require.Equal(t, 401, p.send(elsewhere).StatusCode)
		time.Sleep(time.Minute)
		require.Equal(t, 401, p.send(guess("ada")).StatusCode)
		require.Equal(t, 429, p.send(guess("ada")).StatusCode)

		large := guess(strings.Repeat("x", 5<<10))
		for range 6 {
			p.send(large)
		}
		large.form += "y"
		require.Equal(t, 429, p.send(large).StatusCode, "bodies that are too large share one bucket")
		store.down = true
		require.Equal(t, 503, p.send(right).StatusCode)
	},
	"README.md#plans-behind-authentication": func(t *testing.T, p *parts, where string) {
		p.paste(t, where)
		plans, ok := p.made["plans"].(map[string][]ratelimit.Limit)
		require.True(t, ok)
		plans["max"] = []ratelimit.Limit{ratelimit.PerMinute(500).Burst(500)}
		left := -1
		api, ok := p.made["api"].(*gin.RouterGroup)
		require.True(t, ok)
		api.GET("/", func(c *gin.Context) {
			r, _ := ratelimit.Get(c)
			left = r.Remaining
		})
		for i := range 1000 {
			r := p.send(request{path: "/api/", headers: as(fmt.Sprint("made-up-", i))})
			require.Equal(t, 401, r.StatusCode)
		}
		require.Equal(t, 10, p.admitted(30, request{path: "/api/", headers: as("free-2")}), "the plan that is not listed")
		require.Equal(t, 10, p.admitted(30, request{path: "/api/", headers: as("free-3")}), "another user")
		require.Equal(t, 100, p.admitted(100, request{path: "/api/", headers: as("pro-1")}))
		require.Equal(t, 89, p.admitted(89, request{path: "/api/", headers: as("pro-1b")}), "a renewed token goes on with the bucket")
		require.Equal(t, 1, p.admitted(1, request{path: "/api/", headers: as("pro-1b")}))
		require.Equal(t, 10, left)
		require.Equal(t, 1, p.admitted(1, request{path: "/api/", headers: as("max-1")}))
		require.Equal(t, 309, left, "310, and one for this request")
	},
	"README.md#costs-known-afterwards": func(t *testing.T, p *parts, where string) {
		p.paste(t, where)
		left := func() string {
			return p.send(request{method: http.MethodPost, path: "/chat?used=2000"}).Header.Get("X-RateLimit-Remaining")
		}
		require.Equal(t, 200, p.send(request{method: http.MethodPost, path: "/chat?used=500"}).StatusCode)
		require.Equal(t, "17500", left(), "500 and 2000")
		require.Equal(t, 200, p.send(request{method: http.MethodPost, path: "/chat?used=22500"}).StatusCode)
		require.Equal(t, 429, p.send(request{method: http.MethodPost, path: "/chat?used=0"}).StatusCode, "a debt of 5000")
		time.Sleep(42*time.Second - time.Millisecond)
		require.Equal(t, 429, p.send(request{method: http.MethodPost, path: "/chat?used=0"}).StatusCode)
		time.Sleep(time.Millisecond)
		require.Equal(t, 200, p.send(request{method: http.MethodPost, path: "/chat?used=0"}).StatusCode, "5000 and the 2000 of the reservation")
	},
	"README.md#redis-down": func(t *testing.T, p *parts, where string) {
		store := p.pasteFallback(t, where)
		require.Equal(t, 10, p.admitted(30, request{}), "a third")
		store.down = false
		time.Sleep(time.Minute)
		require.Equal(t, 30, p.admitted(40, request{}))
	},
	"docs/operations.md#when-redis-fails": func(t *testing.T, p *parts, where string) {
		store := p.pasteFallback(t, where)
		log := logged(func() { require.Equal(t, 10, p.admitted(30, request{})) })
		require.Contains(t, log, `msg="rate limits: each instance counts alone" cause="redis is down"`)
		require.NotContains(t, log, "is back")
		store.down = false
		time.Sleep(2 * time.Second)
		log = logged(func() { require.Equal(t, 30, p.admitted(40, request{})) })
		require.Contains(t, log, "rate limits: the shared store is back")
		require.NotContains(t, log, "counts alone")
	},
	"docs/recipes.md#show-a-user-what-is-left": func(t *testing.T, p *parts, where string) {
		p.limiter = byUser(ratelimit.PerMinute(10).Burst(10), ratelimit.WithLimitFunc(func(c *gin.Context) []ratelimit.Limit {
			if c.GetString("plan") != "pro" {
				return nil
			}
			return []ratelimit.Limit{ratelimit.PerMinute(100).Burst(200)}
		}))
		p.paste(t, where)
		p.router.GET("/", authenticate, p.limiter.Handle, ok200)
		require.Equal(t, 7, p.admitted(7, request{headers: as("pro-1")}))
		for range 3 {
			r := p.send(request{path: "/usage", headers: as("pro-1")})
			require.Contains(t, page(t, "docs/recipes.md"), body(t, r))
		}
		pro := ratelimit.PerMinute(100).Burst(200)
		for _, limits := range [][]ratelimit.Limit{{pro}, nil} {
			usage, err := p.limiter.Peek(t.Context(), ratelimit.ValueKey("user_id", 1), limits...)
			require.NoError(t, err)
			text, err := json.Marshal(usage)
			require.NoError(t, err)
			require.Contains(t, page(t, "docs/recipes.md"), string(text), "the same by Peek")
		}
		usage, err := p.limiter.Peek(t.Context(), ratelimit.ValueKey("user_id", 9), pro)
		require.NoError(t, err)
		require.Equal(t, 200, usage.Limits[0].Remaining)
		usage, err = p.limiter.Peek(t.Context(), ratelimit.ValueKey("user_id", 9))
		require.NoError(t, err)
		require.True(t, usage.Static)
		require.Equal(t, 10, usage.Limits[0].Remaining)
		require.Equal(t, 401, p.send(request{path: "/usage"}).StatusCode)
	},
	"docs/recipes.md#list-all-limits": func(t *testing.T, p *parts, where string) {
		p.paste(t, where)
		limiter := newLimiter(ratelimit.WithName("search"), ratelimit.WithLimit(ratelimit.PerMinute(5).Burst(9)))
		p.router.GET("/a", limiter.Handle, ok200)
		p.router.GET("/b", ratelimit.Stack(limiter), ok200)
		list := body(t, p.send(request{path: "/admin/limits"}))
		const limiters = `"limiters":[{"name":"search","limits":["5/m burst 9"],"mode":"enforce"}]`
		require.Contains(t, list, `{"method":"GET","path":"/a",`+limiters)
		require.Contains(t, list, `{"method":"GET","path":"/b",`+limiters)
	},
	"docs/recipes.md#limit-by-method": func(t *testing.T, p *parts, where string) {
		p.paste(t, where)
		p.router.GET("/", ok200)
		p.router.POST("/", ok200)
		require.Equal(t, 5, p.admitted(20, request{method: http.MethodPost}))
		require.Equal(t, 100, p.admitted(200, request{}))
	},
	"docs/recipes.md#reset-a-user": func(t *testing.T, p *parts, where string) {
		p.limiter = byUser(ratelimit.PerHour(5).Burst(5))
		p.paste(t, where)
		p.router.GET("/", authenticate, p.limiter.Handle, ok200)
		require.Equal(t, 5, p.admitted(9, request{headers: as("pro-1")}))
		reset := request{method: http.MethodDelete, path: "/admin/limits/1"}
		require.Equal(t, `{"found":true}`, body(t, p.send(reset)))
		require.Equal(t, `{"found":false}`, body(t, p.send(reset)))
		require.Equal(t, 5, p.admitted(9, request{headers: as("pro-1")}))
	},
	"docs/recipes.md#unlock-an-account": func(t *testing.T, p *parts, where string) {
		byAccount := func(c *gin.Context) string { return "account:" + c.PostForm("account") }
		p.limiter = newLimiter(ratelimit.WithLimit(ratelimit.PerHour(5).Burst(5)), ratelimit.WithKeyFunc(ratelimit.Join(byAccount, ratelimit.ByClientIP)))
		p.paste(t, where)
		p.router.POST("/login", p.limiter.Handle, p.login)
		wrong := guess("ada")
		wrong.peer = "[2001:db8::1]:1234"
		for range 6 {
			p.send(wrong)
		}
		require.Equal(t, 429, p.send(wrong).StatusCode)
		require.Equal(t, 404, p.send(request{method: http.MethodPost, path: "/admin/unlock/ada/192.0.2.1"}).StatusCode)
		require.Equal(t, 429, p.send(wrong).StatusCode)
		require.Equal(t, 200, p.send(request{method: http.MethodPost, path: "/admin/unlock/Ada/2001:db8::1"}).StatusCode)
		require.Equal(t, 401, p.send(wrong).StatusCode)
	},
	"docs/recipes.md#upgrade-a-user": func(t *testing.T, p *parts, where string) {
		p.limiter = byUser(ratelimit.PerHour(5).Burst(5))
		_, err := p.limiter.Take(t.Context(), "user_id:1", 5)
		require.NoError(t, err)
		p.paste(t, where)
		require.Equal(t, 5, remaining(t, p.limiter, "user_id:1"))
	},
	"docs/recipes.md#override-the-limits-of-one-tenant": func(t *testing.T, p *parts, where string) {
		p.paste(t, where).router.GET("/", ok200)
		require.Equal(t, 2000, p.admitted(2100, request{headers: as("pro-1")}))
		require.Equal(t, 100, p.admitted(150, request{headers: as("free-2")}))
		require.Zero(t, p.admitted(10, request{headers: as("free-3")}), "the same tenant")
	},
	"docs/recipes.md#disable-limits-in-tests": func(t *testing.T, p *parts, where string) {
		p.router.GET("/", ratelimit.New(ratelimit.WithLimit(ratelimit.PerHour(1).Burst(1))), ok200)
		require.Equal(t, 50, p.paste(t, where).admitted(50, request{}))
	},
	"docs/recipes.md#signed-in-and-anonymous-clients": func(t *testing.T, p *parts, where string) {
		p.authenticate = func(c *gin.Context) {
			if c.GetHeader("Token") != "" {
				authenticate(c)
			}
		}
		p.paste(t, where).router.GET("/", ok200)
		require.Equal(t, 60, p.admitted(70, request{}))
		require.Equal(t, 60, p.admitted(70, request{headers: as("pro-1")}))
		require.Equal(t, 60, p.admitted(70, request{headers: as("free-2")}))
		require.Equal(t, 60, p.admitted(70, request{peer: "192.0.2.9:1"}))
	},
	"docs/recipes.md#api-keys": func(t *testing.T, p *parts, where string) {
		p.authenticate = func(*gin.Context) {}
		p.paste(t, where).router.GET("/", ok200)
		for _, key := range []string{"a", "b"} {
			require.Equal(t, 600, p.admitted(700, request{headers: map[string]string{"X-API-Key": key}}))
		}
	},
	"docs/recipes.md#several-limits-at-once": func(t *testing.T, p *parts, where string) {
		var buckets []ratelimit.LimitUsage
		p.paste(t, where).router.GET("/", func(c *gin.Context) { buckets = ratelimit.Explain(c)[0].Buckets })
		require.Equal(t, 20, p.admitted(50, request{}))
		require.Equal(t, 980, buckets[1].Remaining, "refusals take from none")
		admitted := 20
		for range 2000 {
			time.Sleep(100 * time.Millisecond)
			admitted += p.admitted(1, request{})
		}
		require.Equal(t, 1000+200*1000/3600, admitted, "the hour's 1000, and what refilled in 200 s")
	},
	"docs/recipes.md#several-limiters-in-one-place": func(t *testing.T, p *parts, where string) {
		p.paste(t, where).router.GET("/", ok200)
		perUser, ok := p.made["perUser"].(*ratelimit.Limiter)
		require.True(t, ok)
		require.Equal(t, 60, p.admitted(60, request{headers: as("pro-1")}))
		require.Equal(t, 40, p.admitted(50, request{headers: as("free-2")}), "100 on the route")
		require.Equal(t, 20, remaining(t, perUser, "user_id:2"), "what the route refused came back")
	},
	"docs/recipes.md#skip-requests": func(t *testing.T, p *parts, where string) {
		p.paste(t, where)
		p.router.GET("/", ok200)
		p.router.GET("/healthz", ok200)
		require.Equal(t, 20, p.admitted(30, request{}))
		require.Equal(t, 30, p.admitted(30, request{path: "/healthz"}))
		require.Empty(t, p.send(request{path: "/healthz"}).Header.Get("X-RateLimit-Limit"))
		require.Empty(t, ratelimit.Check(p.router))
	},
	"docs/recipes.md#weights": func(t *testing.T, p *parts, where string) {
		p.paste(t, where)
		require.Equal(t, "49", p.send(request{path: "/reports?days=-5"}).Header.Get("X-RateLimit-Remaining"))
		require.Equal(t, "39", p.send(request{path: "/reports?days=10"}).Header.Get("X-RateLimit-Remaining"))
		r := p.send(request{path: "/reports?days=1000000"})
		require.Equal(t, 429, r.StatusCode)
		require.NotEmpty(t, r.Header.Get("Retry-After"))
	},
	"docs/recipes.md#jobs-and-messages": func(t *testing.T, p *parts, where string) {
		p.limiter = newLimiter(ratelimit.WithLimit(ratelimit.PerSecond(1).Burst(1)))
		start := time.Now()
		for i := range 3 {
			p.paste(t, where)
			require.Equal(t, time.Duration(i)*time.Second, time.Since(start))
		}
		soon, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
		defer cancel()
		p.ctx = soon
		require.Contains(t, logged(func() { p.paste(t, where) }), "no turn before the deadline")
		require.Equal(t, 2*time.Second, time.Since(start), "at once")
	},
	"docs/recipes.md#an-answer-of-your-own": func(t *testing.T, p *parts, where string) {
		p.paste(t, where).router.GET("/", ok200)
		p.admitted(20, request{})
		r := p.send(request{})
		require.Equal(t, 429, r.StatusCode)
		require.Equal(t, "1", r.Header.Get("Retry-After"))
		require.JSONEq(t, `{"policy":"default","retry":true,"seconds":1}`, body(t, r))
	},
	"docs/recipes.md#do-less-when-little-is-left": func(t *testing.T, p *parts, where string) {
		p.router.Use(ratelimit.New(ratelimit.WithLimit(ratelimit.PerHour(4).Burst(4))))
		p.paste(t, where)
		for _, want := range []string{"fresh", "fresh", "cached", "cached"} {
			require.Equal(t, want, body(t, p.send(request{path: "/search"})))
		}
	},
	"docs/recipes.md#delay-instead-of-refusing": func(t *testing.T, p *parts, where string) {
		p.paste(t, where).router.GET("/", ok200)
		start := time.Now()
		var mu sync.Mutex
		var after []time.Duration
		refused := 0
		var clients sync.WaitGroup
		for range 15 {
			clients.Go(func() {
				status := p.send(request{}).StatusCode
				mu.Lock()
				defer mu.Unlock()
				if status == http.StatusOK {
					after = append(after, time.Since(start))
				} else {
					refused++
				}
			})
		}
		clients.Wait()
		require.Equal(t, 4, refused, "one at once, ten within two seconds")
		for i, d := range after {
			require.Equal(t, time.Duration(i)*200*time.Millisecond, d)
		}
	},
	"docs/recipes.md#login-guesses-from-many-addresses": func(t *testing.T, p *parts, where string) {
		p.paste(t, where)
		for i := range 110 {
			r := guess("+Ada")
			r.peer = fmt.Sprintf("198.51.100.%d:1", i)
			want := 401
			if i >= 100 {
				want = 429
			}
			require.Equal(t, want, p.send(r).StatusCode)
		}
		require.Equal(t, 401, p.send(guess("grace")).StatusCode)
	},
	"docs/recipes.md#login-by-json": func(t *testing.T, p *parts, where string) {
		p.paste(t, where)
		byAccount, ok := p.made["byAccount"].(func(*gin.Context) string)
		require.True(t, ok)
		for text, want := range map[string]string{`{"account":" Ada "}`: "account:ada", `{"account":"grace"}`: "account:grace", `{`: "account:"} {
			c, _ := gin.CreateTestContext(httptest.NewRecorder())
			c.Request = httptest.NewRequest(http.MethodPost, "/", strings.NewReader(text))
			require.Equal(t, want, byAccount(c))
			require.Equal(t, want, byAccount(c), "the body can be bound again")
		}
	},
	"docs/recipes.md#ban-clients-that-ignore-retry-after": func(t *testing.T, p *parts, where string) {
		p.paste(t, where).router.GET("/", ok200)
		require.Equal(t, 20, p.admitted(20+49, request{}))
		require.Equal(t, "60", p.send(request{}).Header.Get("Retry-After"), "the fiftieth refusal")
		time.Sleep(time.Minute)
		require.Equal(t, 20, p.admitted(20+49, request{}))
		require.Equal(t, "120", p.send(request{}).Header.Get("Retry-After"), "twice as long")
	},
	"docs/recipes.md#lift-a-ban": func(t *testing.T, p *parts, where string) {
		p.limiter = newLimiter(ratelimit.WithLimit(ratelimit.PerSecond(1).Burst(1)),
			ratelimit.WithBan(ratelimit.Ban{After: 2, Within: time.Minute, For: time.Hour}))
		p.paste(t, where).router.GET("/", p.limiter.Handle, ok200)
		client := request{peer: "[2001:db8::1]:1234"}
		p.admitted(3, client)
		require.Equal(t, "3600", p.send(client).Header.Get("Retry-After"))
		lift := request{method: http.MethodDelete, path: "/admin/bans/2001:db8::1"}
		require.Equal(t, 200, p.send(lift).StatusCode)
		require.Equal(t, 200, p.send(client).StatusCode)
		lift.path = "/admin/bans/192.0.2.77"
		require.Equal(t, 404, p.send(lift).StatusCode)
		lift.path = "/admin/bans/nonsense"
		require.Equal(t, 404, p.send(lift).StatusCode)
	},
	"docs/recipes.md#try-limits-on-real-traffic": func(t *testing.T, p *parts, where string) {
		p.router.GET("/none", ok200)
		log := logged(func() {
			p.paste(t, where).router.GET("/", ok200)
			require.Equal(t, 50, p.admitted(50, request{}))
		})
		require.Contains(t, log, "rate limit would have refused")
		p.send(request{method: http.MethodPost, path: "/admin/limits/enforce"})
		require.Less(t, p.admitted(50, request{}), 50)
	},
	"docs/recipes.md#check-the-configuration-at-start-up": func(t *testing.T, p *parts, where string) {
		require.NoError(t, p.router.SetTrustedProxies([]string{"0.0.0.0/0", "::/0"}))
		p.router.GET("/open", ok200)
		p.router.GET("/", ratelimit.New(ratelimit.WithLimit(ratelimit.PerHour(1).Burst(1))), ok200)
		log := logged(func() { p.paste(t, where) })
		require.Contains(t, log, "warning.code=forgeable_key")
		require.Contains(t, log, `warning.code=unlimited_route warning.subject="GET /open"`)
	},
	"docs/recipes.md#explain-a-refusal": func(t *testing.T, p *parts, where string) {
		p.paste(t, where).router.GET("/", ok200)
		p.admitted(2, request{})
		secret := request{headers: map[string]string{"X-RateLimit-Debug": "0123456789abcdef"}}
		explained := p.send(secret).Header.Get("X-RateLimit-Explain")
		require.Contains(t, explained, "default: refused; mode=enforce; by=memory;")
		require.Contains(t, page(t, "docs/recipes.md"), explained)
		require.Empty(t, p.send(request{}).Header.Get("X-RateLimit-Explain"))
	},
	"docs/operations.md#the-kill-switch": func(t *testing.T, p *parts, where string) {
		p.limiter = newLimiter(ratelimit.WithLimit(ratelimit.PerHour(1).Burst(1)))
		p.paste(t, where).router.GET("/", p.limiter.Handle, ok200)
		change := request{method: http.MethodPost, path: "/admin/limits/off"}
		require.Equal(t, 204, p.send(change).StatusCode)
		require.Equal(t, 9, p.admitted(9, request{}))
		change.path = "/admin/limits/enforce"
		require.Equal(t, 204, p.send(change).StatusCode)
		require.Equal(t, 1, p.admitted(9, request{}))
		change.path = "/admin/limits/of"
		require.Equal(t, 400, p.send(change).StatusCode)
	},
	"docs/operations.md#counts-and-an-alert-without-a-monitoring-system": func(t *testing.T, p *parts, where string) {
		log := logged(func() {
			p.paste(t, where).router.GET("/", ok200)
			require.Equal(t, 20, p.admitted(150, request{}))
		})
		require.Contains(t, log, "name=default firing=true")
		require.Contains(t, log, "rate limit refused")
		require.Contains(t, body(t, p.send(request{path: "/stats"})), `"name":"default","accepted":20,"refused":130`)
	},
}

// withRedis has the tests of recipes that make a RedisStore, in real time.
var withRedis = map[string]func(*testing.T, *parts, string){
	"README.md#several-instances": func(t *testing.T, _ *parts, where string) {
		server := redistest.Start(t)
		server.Kill()
		var instances [2]*parts
		for i := range instances {
			instances[i] = prepare(t)
			instances[i].redisAddr = server.Addr
			instances[i].paste(t, where).router.GET("/", ok200)
			require.Equal(t, 200, instances[i].send(request{}).StatusCode, "Redis need not be running")
		}
		server.Restart()
		start, admitted, decided := time.Now(), 0, 0
		for i := 0; decided < 100; i++ {
			require.Less(t, time.Since(start), time.Minute)
			r := instances[i%2].send(request{})
			if r.Header.Get("X-RateLimit-Limit") == "" {
				continue // Undecided, while connections are set up.
			}
			if decided++; r.StatusCode == http.StatusOK {
				admitted++
			}
		}
		require.LessOrEqual(t, float64(admitted), 20+10*time.Since(start).Seconds(), "together")
		require.Less(t, admitted, decided)
	},
	"docs/operations.md#the-console": func(t *testing.T, p *parts, where string) {
		role := ""
		p.router.Use(func(c *gin.Context) { c.Set("role", role) })
		p.router.GET("/", newLimiter(ratelimit.WithLimit(ratelimit.PerHour(1).Burst(1))).Handle, ok200)
		p.paste(t, where)
		page := request{path: "/debug/ratelimit/"}
		require.Equal(t, 403, p.send(page).StatusCode)
		role = "admin"
		require.Contains(t, body(t, p.send(page)), "1/h")
	},
	"docs/operations.md#very-busy-keys": func(t *testing.T, p *parts, where string) {
		server := redistest.Start(t)
		p.redisAddr = server.Addr
		p.paste(t, where).router.GET("/", ok200)
		leased := p.made["leased"].(*ratelimit.RedisStore)
		require.Eventually(t, func() bool {
			require.Equal(t, 100, p.admitted(100, request{}))
			return leased.LeaseStats().Spent > 0
		}, 20*time.Second, time.Millisecond)
	},
	"docs/operations.md#redis": func(t *testing.T, p *parts, where string) {
		server := redistest.Start(t, redistest.WithConfig("maxmemory-policy", "allkeys-lru"))
		p.redisAddr = server.Addr
		p.paste(t, where)
		require.NotNil(t, p.made["store"])

		const acl = "ACL SETUSER ratelimit "
		_, rules, found := strings.Cut(page(t, "docs/operations.md"), acl)
		require.True(t, found)
		rules, _, _ = strings.Cut(rules, "\n")
		require.Contains(t, page(t, "SECURITY.md"), acl+rules+"\n")
		evictions := func() (found bool) {
			client := redis.NewClient(&redis.Options{Addr: server.Addr, Username: "ratelimit", Password: "password"})
			defer client.Close()
			store, err := ratelimit.NewRedisStore(client, ratelimit.WithTimeout(5*time.Second))
			require.NoError(t, err)
			limiter := newLimiter(ratelimit.WithName("api"), ratelimit.WithStore(store), ratelimit.WithLimit(ratelimit.PerHour(1).Burst(1)))
			_, err = limiter.Take(t.Context(), "key", 1)
			require.NoError(t, err)
			router := gin.New()
			router.GET("/", limiter.Handle, ok200)
			return slices.ContainsFunc(ratelimit.Check(router), func(w ratelimit.Warning) bool { return w.Code == ratelimit.WarnEviction })
		}
		server.SetACL("ratelimit", strings.Fields(rules)...)
		require.False(t, evictions(), "it may not ask")
		server.SetACL("ratelimit", "+info")
		require.True(t, evictions())
	},
	"docs/operations.md#cluster-and-sentinel": func(t *testing.T, p *parts, where string) {
		p.addrs = []string{redistest.Start(t).Addr}
		p.paste(t, where)
		require.NotNil(t, p.made["store"])
	},
}

func TestClaims(t *testing.T) {
	for _, where := range slices.Sorted(maps.Keys(recipes)) {
		t.Run(where, func(t *testing.T) {
			if claim, ok := withRedis[where]; ok {
				claim(t, prepare(t), where)
				return
			}
			claim, ok := claims[where]
			require.True(t, ok, "no test of what the text claims")
			synctest.Test(t, func(t *testing.T) { claim(t, prepare(t), where) })
		})
	}
	for where := range claims {
		require.Contains(t, recipes, where)
	}
	for where := range withRedis {
		require.Contains(t, recipes, where)
	}
}
