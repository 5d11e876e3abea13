package ratelimit_test

import (
	"context"
	"fmt"
	"net/http"
	"time"

	"github.com/gin-gonic/gin"

	"github.com/gin-ratelimit/ratelimit"
)

// How many tokens a language model uses is known when it has answered. Reserve what a request may cost, and settle what it
// did cost.
func ExampleSettle() {
	limiter, _ := ratelimit.NewLimiter(
		ratelimit.WithRefillRate(ratelimit.PerMinute(10_000)),
		ratelimit.WithCost(func(*gin.Context) int { return 4_000 }),
		ratelimit.WithKeyFunc(func(*gin.Context) string { return "account:7" }),
	)
	router := gin.New()
	router.GET("/ask", limiter.Handle, func(c *gin.Context) {
		used := 1_200 // As the model reports it.
		if err := ratelimit.Settle(c, used); err != nil {
			_ = c.Error(err) // Then the reservation is charged.
		}
		c.String(http.StatusOK, "42")
	})

	visit(router, "/ask")
	look, _ := limiter.Take(context.Background(), "account:7", 0)
	fmt.Println(look.Remaining)
	// Output:
	// 200 42
	// 8800
}

// Only failed logins count.
func ExampleWithChargeIf() {
	router := gin.New()
	router.GET("/login", ratelimit.New(
		ratelimit.WithRefillRate(ratelimit.PerHour(1)),
		ratelimit.WithChargeIf(func(c *gin.Context) bool { return c.Writer.Status() == http.StatusUnauthorized }),
	), func(c *gin.Context) {
		if c.Query("password") != "right" {
			c.String(http.StatusUnauthorized, "no")
			return
		}
		c.String(http.StatusOK, "welcome")
	})

	visit(router, "/login?password=right")
	visit(router, "/login?password=right")
	visit(router, "/login?password=wrong")
	visit(router, "/login?password=right")
	// Output:
	// 200 welcome
	// 200 welcome
	// 401 no
	// 429 {"error":"rate limit exceeded","retry_after":3600}
}

// A request that finds too few tokens is held back until they are there, if that is soon.
func ExampleWithMaxWait() {
	router := gin.New()
	router.GET("/", ratelimit.New(
		ratelimit.WithCapacity(1),
		ratelimit.WithRefillRate(ratelimit.Every(50*time.Millisecond)),
		ratelimit.WithMaxWait(time.Second),
	), hello)

	start := time.Now()
	for range 3 {
		visit(router, "/")
	}
	fmt.Println(time.Since(start) >= 100*time.Millisecond)
	// Output:
	// 200 hello
	// 200 hello
	// 200 hello
	// true
}

// Limits can be tried on real traffic before they refuse anything.
func ExampleWithShadow() {
	limiter, _ := ratelimit.NewLimiter(
		ratelimit.WithRefillRate(ratelimit.PerHour(1)),
		ratelimit.WithShadow(),
		ratelimit.WithObserver(func(_ context.Context, e ratelimit.Event) { fmt.Println(e.Reason) }),
	)
	router := gin.New()
	router.GET("/", limiter.Handle, hello)

	visit(router, "/")
	visit(router, "/")
	limiter.SetMode(ratelimit.Enforce)
	visit(router, "/")
	limiter.SetMode(ratelimit.Off)
	visit(router, "/")
	// Output:
	// allowed
	// 200 hello
	// shadow
	// 200 hello
	// refused
	// 429 {"error":"rate limit exceeded","retry_after":3600}
	// 200 hello
}

// Clients that ignore Retry-After are shut out.
func ExampleWithBan() {
	router := gin.New()
	router.GET("/", ratelimit.New(
		ratelimit.WithRefillRate(ratelimit.PerSecond(1)),
		ratelimit.WithBan(ratelimit.Ban{After: 2, Within: time.Minute, For: 10 * time.Minute, Max: 24 * time.Hour}),
	), hello)

	visit(router, "/")
	visit(router, "/")
	visit(router, "/")
	// Output:
	// 200 hello
	// 429 {"error":"rate limit exceeded","retry_after":1}
	// 429 {"error":"rate limit exceeded","retry_after":600}
}

// Explain returns why a limiter decided as it did. The header X-RateLimit-Explain shows it to clients with the secret.
func ExampleExplain() {
	router := gin.New()
	router.GET("/", ratelimit.New(
		ratelimit.WithCapacity(20),
		ratelimit.WithRefillRate(ratelimit.PerHour(10)),
		ratelimit.WithDebugHeader("correct horse battery"),
	), func(c *gin.Context) {
		e := ratelimit.Explain(c)[0]
		c.String(http.StatusOK, "%s by %v: %d of %d left, one more in %v",
			e.Name, e.Result.Source, e.Result.Remaining, e.Result.Limit.Capacity, e.NextToken.Round(time.Minute))
	})

	visit(router, "/")
	// Output:
	// 200 default by memory: 19 of 20 left, one more in 6m0s
}

// While Redis cannot decide, each of three instances decides by a third of the limits.
func ExampleNewFallbackStore() {
	store, err := ratelimit.NewFallbackStore(unreachable{}, ratelimit.NewMemoryStore(), ratelimit.WithShare(1.0/3))
	if err != nil {
		panic(err)
	}
	r, err := store.Take(context.Background(), "key", ratelimit.Take{N: 1, Limits: []ratelimit.Limit{{Capacity: 30, Refill: ratelimit.PerMinute(30)}}})
	fmt.Println(r.Allowed, r.Remaining, r.Source, err)
	// Output:
	// true 9 fallback <nil>
}

// Check finds mistakes in the configuration before they do harm.
func ExampleCheck() {
	router := gin.New() // Without SetTrustedProxies.
	router.GET("/", ratelimit.New(ratelimit.WithRefillRate(ratelimit.PerSecond(10))), hello)

	for _, warning := range ratelimit.Check(router) {
		fmt.Println(warning.Code)
	}
	// Output:
	// forgeable_key
}

// An alert when more than a twentieth of the requests is refused.
func ExampleStats_Alert() {
	stats := ratelimit.NewStats(ratelimit.WithAlertMinimum(10))
	stats.Alert(0.05, func(a ratelimit.Alert) {
		fmt.Println(a.Name, a.Firing)
	})
	limiter, _ := ratelimit.NewLimiter(
		ratelimit.WithName("login"),
		ratelimit.WithRefillRate(ratelimit.PerHour(9)),
		ratelimit.WithObserver(stats.Observe),
	)
	for range 10 {
		if _, err := limiter.Take(context.Background(), "key", 1); err != nil {
			panic(err)
		}
	}
	// Output:
	// login true
}
