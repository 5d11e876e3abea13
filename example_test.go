package ratelimit_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"time"

	"github.com/gin-gonic/gin"
	"github.com/redis/go-redis/v9"

	"github.com/gin-ratelimit/ratelimit"
)

// visit sends a GET and prints what a client would see first: the status, and the body.
func visit(router http.Handler, path string, headers ...string) {
	r := httptest.NewRequest(http.MethodGet, path, nil)
	for _, h := range headers {
		name, value, _ := strings.Cut(h, ": ")
		r.Header.Set(name, value)
	}
	w := httptest.NewRecorder()
	router.ServeHTTP(w, r)
	fmt.Println(w.Code, w.Body)
}

func Example() {
	router := gin.New()
	// By default Gin trusts X-Forwarded-For from every peer. Here it trusts none.
	_ = router.SetTrustedProxies(nil)

	router.Use(ratelimit.New(
		ratelimit.WithCapacity(2),                        // two at once,
		ratelimit.WithRefillRate(ratelimit.PerMinute(1)), // then one a minute
	))
	router.GET("/", func(c *gin.Context) { c.String(http.StatusOK, "hello") })

	visit(router, "/")
	visit(router, "/")
	visit(router, "/")
	// Output:
	// 200 hello
	// 200 hello
	// 429 {"error":"rate limit exceeded","retry_after":60}
}

// Each call of New makes buckets of its own, so that routes do not share them.
func Example_perRoute() {
	router := gin.New()
	router.GET("/search", ratelimit.New(ratelimit.WithRefillRate(ratelimit.PerMinute(100))), hello)
	router.GET("/login", ratelimit.New(ratelimit.WithRefillRate(ratelimit.PerMinute(1))), hello)

	visit(router, "/login")
	visit(router, "/login")
	visit(router, "/search")
	// Output:
	// 200 hello
	// 429 {"error":"rate limit exceeded","retry_after":60}
	// 200 hello
}

// A burst and a daily quota at once. A request is charged to both, or to none.
func ExampleWithLimit() {
	router := gin.New()
	router.Use(ratelimit.New(
		ratelimit.WithRefillRate(ratelimit.PerSecond(100)),
		ratelimit.WithLimit(ratelimit.Limit{Capacity: 2, Refill: ratelimit.PerDay(2)}),
	))
	router.GET("/", hello)

	visit(router, "/")
	visit(router, "/")
	visit(router, "/")
	// Output:
	// 200 hello
	// 200 hello
	// 429 {"error":"rate limit exceeded","retry_after":43200}
}

// Limits by plan. The static limit applies to clients without a plan.
func ExampleWithLimitFunc() {
	plans := map[string][]ratelimit.Limit{
		"pro": {{Capacity: 3, Refill: ratelimit.PerHour(3)}},
	}
	router := gin.New()
	router.Use(ratelimit.New(
		ratelimit.WithRefillRate(ratelimit.PerHour(1)),
		ratelimit.WithKeyFunc(func(c *gin.Context) string { return "account:" + c.GetHeader("Account") }),
		ratelimit.WithLimitFunc(func(c *gin.Context) []ratelimit.Limit {
			return plans[c.GetHeader("Plan")] // An application would use what authentication has found out.
		}),
	))
	router.GET("/", func(c *gin.Context) {
		result, _ := ratelimit.Get(c)
		c.String(http.StatusOK, "%d of %d left", result.Remaining, result.Limit.Capacity)
	})

	visit(router, "/", "Account: alice", "Plan: pro")
	visit(router, "/", "Account: alice", "Plan: pro")
	visit(router, "/", "Account: bob")
	// Output:
	// 200 2 of 3 left
	// 200 1 of 3 left
	// 200 0 of 1 left
}

// A limit for each account, whatever address it calls from. If keys are of different kinds, give each kind a prefix.
func ExampleWithKeyFunc() {
	byAccount := func(c *gin.Context) string {
		if account := c.GetString("account"); account != "" {
			return "account:" + account
		}
		return ""
	}
	authenticate := func(c *gin.Context) { c.Set("account", c.GetHeader("Account")) }

	router := gin.New()
	router.Use(authenticate, ratelimit.New(
		ratelimit.WithRefillRate(ratelimit.PerMinute(1)),
		ratelimit.WithKeyFunc(ratelimit.FirstOf(byAccount, ratelimit.ByClientIP)),
	))
	router.GET("/", hello)

	visit(router, "/", "Account: alice")
	visit(router, "/", "Account: bob")
	visit(router, "/", "Account: alice")
	// Output:
	// 200 hello
	// 200 hello
	// 429 {"error":"rate limit exceeded","retry_after":60}
}

// Requests with a token are counted by it, all others by address. A client can make up tokens that are not verified, so
// authenticate first.
func ExampleByBearerToken() {
	router := gin.New()
	router.Use(ratelimit.New(
		ratelimit.WithRefillRate(ratelimit.PerMinute(1)),
		ratelimit.WithKeyFunc(ratelimit.FirstOf(ratelimit.ByBearerToken, ratelimit.ByClientIP)),
	))
	router.GET("/", hello)

	visit(router, "/")
	visit(router, "/", "Authorization: Bearer abc")
	visit(router, "/", "Authorization: Bearer xyz")
	visit(router, "/", "Authorization: bearer abc")
	// Output:
	// 200 hello
	// 200 hello
	// 200 hello
	// 429 {"error":"rate limit exceeded","retry_after":60}
}

// A bucket for each account on each route.
func ExampleJoin() {
	key := ratelimit.Join(ratelimit.ByHeader("X-API-Key"), ratelimit.ByRoute)
	limiter := ratelimit.New(ratelimit.WithRefillRate(ratelimit.PerMinute(1)), ratelimit.WithKeyFunc(key))

	router := gin.New()
	router.GET("/a", limiter, hello)
	router.GET("/b", limiter, hello)

	visit(router, "/a", "X-API-Key: k1")
	visit(router, "/b", "X-API-Key: k1")
	visit(router, "/a", "X-API-Key: k2")
	visit(router, "/a", "X-API-Key: k1")
	// Output:
	// 200 hello
	// 200 hello
	// 200 hello
	// 429 {"error":"rate limit exceeded","retry_after":60}
}

// An export costs ten times as much as a page.
func ExampleWithCost() {
	router := gin.New()
	router.Use(ratelimit.New(
		ratelimit.WithRefillRate(ratelimit.PerMinute(12)),
		ratelimit.WithCost(func(c *gin.Context) int {
			if c.FullPath() == "/export" {
				return 10
			}
			return 1
		}),
	))
	left := func(c *gin.Context) { c.String(http.StatusOK, c.Writer.Header().Get("X-RateLimit-Remaining")+" left") }
	router.GET("/page", left)
	router.GET("/export", left)

	visit(router, "/page")
	visit(router, "/export")
	visit(router, "/page")
	visit(router, "/page")
	// Output:
	// 200 11 left
	// 200 1 left
	// 200 0 left
	// 429 {"error":"rate limit exceeded","retry_after":5}
}

// A Limiter can also be used outside of requests: here, by a support desk that looks at an account and resets it.
func ExampleLimiter_Take() {
	limiter, err := ratelimit.NewLimiter(
		ratelimit.WithCapacity(5),
		ratelimit.WithRefillRate(ratelimit.PerHour(1)),
	)
	if err != nil {
		fmt.Println(err)
		return
	}
	ctx := context.Background()
	result, _ := limiter.Take(ctx, "account:alice", 5)
	fmt.Println("take 5:", result.Allowed, result.Remaining)
	result, _ = limiter.Take(ctx, "account:alice", 1)
	fmt.Println("take 1:", result.Allowed, "retry in", result.RetryAfter.Round(time.Minute))
	_, _ = limiter.Reset(ctx, "account:alice")
	result, _ = limiter.Take(ctx, "account:alice", 0)
	fmt.Println("look:", result.Remaining)
	// Output:
	// take 5: true 0
	// take 1: false retry in 1h0m0s
	// look: 5
}

// unreachable is a store that is down.
type unreachable struct{ ratelimit.Store }

func (unreachable) Take(context.Context, string, ratelimit.Take) (ratelimit.Result, error) {
	return ratelimit.Result{}, errors.New("dial tcp 10.0.0.7:6379: connection refused")
}

// While its store is down, a login is closed. Everything else stays open, which is the default.
func ExampleFailClosed() {
	store := unreachable{}
	router := gin.New()
	router.GET("/login", ratelimit.New(
		ratelimit.WithName("login"),
		ratelimit.WithStore(store),
		ratelimit.WithRefillRate(ratelimit.PerMinute(5)),
		ratelimit.WithErrorHandler(ratelimit.FailClosed),
	), hello)
	router.GET("/search", ratelimit.New(
		ratelimit.WithName("search"),
		ratelimit.WithStore(store),
		ratelimit.WithRefillRate(ratelimit.PerMinute(100)),
	), hello)

	visit(router, "/login")
	visit(router, "/search")
	// Output:
	// 503 {"type":"https://iana.org/assignments/http-problem-types#temporary-reduced-capacity","title":"Temporary Reduced Capacity","status":503,"detail":"Retry in 1 second."}
	// 200 hello
}

// A limiter's Handle returns or aborts, so a middleware can call it. This one skips some clients.
func Example_skipList() {
	limiter := ratelimit.New(ratelimit.WithRefillRate(ratelimit.PerMinute(1)))

	router := gin.New()
	router.Use(func(c *gin.Context) {
		if c.FullPath() != "/health" {
			limiter(c)
		}
	})
	router.GET("/", hello)
	router.GET("/health", hello)

	visit(router, "/")
	visit(router, "/health")
	visit(router, "/health")
	visit(router, "/")
	// Output:
	// 200 hello
	// 200 hello
	// 200 hello
	// 429 {"error":"rate limit exceeded","retry_after":60}
}

// A handler that sees that the bucket runs low can do less, before anything has to be refused.
func ExampleGet() {
	router := gin.New()
	router.Use(ratelimit.New(ratelimit.WithRefillRate(ratelimit.PerMinute(4))))
	router.GET("/", func(c *gin.Context) {
		if result, ok := ratelimit.Get(c); ok && result.Remaining < result.Limit.Capacity/2 {
			c.String(http.StatusOK, "cached")
			return
		}
		c.String(http.StatusOK, "fresh")
	})

	for range 4 {
		visit(router, "/")
	}
	// Output:
	// 200 fresh
	// 200 fresh
	// 200 cached
	// 200 cached
}

// The headers of draft-ietf-httpapi-ratelimit-headers, beside the ones that most clients know.
func ExampleWithHeaders() {
	router := gin.New()
	router.Use(ratelimit.New(
		ratelimit.WithName("api"),
		ratelimit.WithCapacity(200),
		ratelimit.WithRefillRate(ratelimit.PerMinute(100)),
		ratelimit.WithHeaders(ratelimit.XHeaders, ratelimit.IETFHeaders),
	))
	router.GET("/", func(c *gin.Context) {
		for _, name := range []string{"X-RateLimit-Limit", "X-RateLimit-Remaining", "RateLimit-Policy", "RateLimit"} {
			fmt.Println(name+":", c.Writer.Header().Get(name))
		}
	})
	visit(router, "/")
	// Output:
	// X-RateLimit-Limit: 200
	// X-RateLimit-Remaining: 199
	// RateLimit-Policy: "api";q=100;w=60;tb-burst=200
	// RateLimit: "api";r=199;t=120
	// 200
}

// Buckets in Redis are shared by all instances. Redis need not be up when the program starts.
func ExampleWithStore() {
	client := redis.NewClient(&redis.Options{Addr: "localhost:6379"})
	store, err := ratelimit.NewRedisStore(client)
	if err != nil {
		panic(err)
	}
	router := gin.New()
	router.Use(ratelimit.New(
		ratelimit.WithName("api"), // keeps this limiter's buckets apart from others in the store
		ratelimit.WithStore(store),
		ratelimit.WithRefillRate(ratelimit.PerSecond(10)),
	))
	_ = router.Run()
}

// Wrong: New inside a handler gives every request a full bucket of its own, and nothing is ever refused.
// Call New once, where routes are registered.
func Example_wrongInsideAHandler() {
	router := gin.New()
	router.GET("/", func(c *gin.Context) {
		limiter := ratelimit.New(ratelimit.WithRefillRate(ratelimit.PerMinute(1)))
		limiter(c)
	}, hello)

	for range 3 {
		visit(router, "/")
	}
	// Output:
	// 200 hello
	// 200 hello
	// 200 hello
}
