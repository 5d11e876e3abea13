// Command example is a Gin server whose routes are limited, in this process or over Redis:
//
//	go run ./_example
//	go run ./_example -redis localhost:6379
//
// It prints commands to try. Several of them on one Redis share their limits.
package main

import (
	"context"
	"flag"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/gin-gonic/gin"
	"github.com/redis/go-redis/v9"

	"github.com/gin-ratelimit/ratelimit"
	"github.com/gin-ratelimit/ratelimit/console"
)

func main() {
	addr := flag.String("addr", ":8080", "`address` to listen on")
	redisAddr := flag.String("redis", "", "keep the buckets in the Redis at this `host:port`")
	flag.Parse()
	if err := run(*addr, *redisAddr); err != nil {
		slog.Error("example", "error", err)
		os.Exit(1)
	}
}

// newStore makes the store of all buckets. Redis need not be running yet.
func newStore(redisAddr string) (ratelimit.Store, error) {
	if redisAddr == "" {
		return ratelimit.NewMemoryStore(), nil
	}
	return ratelimit.NewRedisStore(redis.NewClient(&redis.Options{
		Addr:          redisAddr,
		DialerRetries: 1, // The default, 5 with 100 ms between, is longer than a decision may take.
	}))
}

func newRouter(store ratelimit.Store) *gin.Engine {
	gin.SetMode(gin.ReleaseMode)
	router := gin.New()

	// First of all: who is the client? By default Gin trusts X-Forwarded-For from every peer, so a client can forge its
	// address. No proxy is in front of this server, so no peer is trusted.
	_ = router.SetTrustedProxies(nil) // Nothing to parse, no error.

	// What all limiters have in common. The name keeps a limiter's buckets apart from those of others in the store.
	stats := ratelimit.NewStats(ratelimit.WithAlertMinimum(20))
	stats.Alert(0.05, func(a ratelimit.Alert) {
		slog.Warn("more than 5 % refused in a minute", "name", a.Name, "firing", a.Firing, "ratio", a.Ratio)
	})
	logs := ratelimit.LogObserver(slog.Default())
	limit := func(name string, opts ...ratelimit.Option) gin.HandlerFunc {
		return ratelimit.New(append(opts,
			ratelimit.WithName(name),
			ratelimit.WithStore(store),
			ratelimit.WithHeaders(ratelimit.XHeaders, ratelimit.IETFHeaders),
			ratelimit.WithObserver(stats.Observe),
			ratelimit.WithObserver(logs),
		)...)
	}

	// Gin's Use applies to routes that are registered after it, so this page has no limit. Do not put it on the internet.
	router.GET("/stats", func(c *gin.Context) { c.JSON(http.StatusOK, stats.Snapshot()) })

	// The console's routes come last, but its group comes before Use, so that the limit for clients does not hold there.
	debug := router.Group("/debug/ratelimit")

	// Every route from here on: 20 requests at once and 10 a second, for each client address.
	router.Use(limit("global", ratelimit.WithLimit(ratelimit.PerSecond(10).Burst(20))))
	router.GET("/", hello)

	// One route, strict: 5 wrong passwords for an account from an address, then one a minute. While Redis is down
	// nobody can count them, so nobody can log in.
	router.POST("/login", smallBody, limit("login",
		ratelimit.WithLimit(ratelimit.PerMinute(1).Burst(5)),
		ratelimit.WithKeyFunc(ratelimit.Join(byAccount, ratelimit.ByClientIP)),
		ratelimit.WithChargeIf(loginFailed),
		ratelimit.WithErrorHandler(ratelimit.FailClosed),
	), login)

	// Two limits at once, and a cost: 20 days of reports a second, and no more than 50 an hour.
	router.GET("/reports", limit("reports",
		ratelimit.WithLimit(ratelimit.PerSecond(20).Burst(20), ratelimit.PerHour(50).Burst(50)),
		ratelimit.WithCost(days),
		ratelimit.WithDeniedHandler(ratelimit.DenyProblem),
	), report)

	// A group, by account, or by address for clients without a token; how much depends on the plan. The token is
	// checked before: a client that makes up tokens would get a bucket for each.
	api := router.Group("/api", authenticate, limit("api",
		ratelimit.WithKeyFunc(ratelimit.FirstOf(ratelimit.ByValue("account"), ratelimit.ByClientIP)),
		ratelimit.WithLimit(ratelimit.PerMinute(5).Burst(5)),
		ratelimit.WithLimitFunc(limitsOfPlan),
	))
	api.GET("/whoami", whoami)

	console.Mount(debug, router, localOnly)
	return router
}

// localOnly gives access to the console from this machine alone. The peer's address is not enough: a page of another
// site can point its own name at 127.0.0.1 (DNS rebinding), and a proxy on this machine connects from there as well.
// Such a request has another Host.
func localOnly(c *gin.Context) console.Access {
	peer, _, _ := net.SplitHostPort(c.Request.RemoteAddr)
	host, _, err := net.SplitHostPort(c.Request.Host)
	if err != nil {
		host = strings.Trim(c.Request.Host, "[]") // It has no port.
	}
	if !net.ParseIP(peer).IsLoopback() || host != "localhost" && !net.ParseIP(host).IsLoopback() {
		return console.Access{}
	}
	return console.Access{Level: console.Write, User: "local", RawKeys: true}
}

// hello says what is left, so that reloading it shows the bucket run low and refill.
func hello(c *gin.Context) {
	tightest, _ := ratelimit.Get(c)
	c.String(http.StatusOK, "hello, requests left: %d\n", tightest.Remaining)
}

// smallBody bounds what byAccount reads before anything is limited by account.
func smallBody(c *gin.Context) {
	c.Request.Body = http.MaxBytesReader(c.Writer, c.Request.Body, 4<<10)
}

// byAccount returns the account that the client tries to log in to, in one spelling.
func byAccount(c *gin.Context) string {
	return strings.ToLower(strings.TrimSpace(c.PostForm("account")))
}

func login(c *gin.Context) {
	if byAccount(c) == "ada" && c.PostForm("password") == "lovelace" {
		c.String(http.StatusOK, "welcome\n")
		return
	}
	c.String(http.StatusUnauthorized, "wrong account or password\n")
}

func loginFailed(c *gin.Context) bool { return c.Writer.Status() == http.StatusUnauthorized }

// days returns what a report costs. It comes from the client, so it is never below 1.
func days(c *gin.Context) int {
	n, _ := strconv.Atoi(c.Query("days"))
	return max(1, n)
}

func report(c *gin.Context) { c.String(http.StatusOK, "%d days of nothing to report\n", days(c)) }

var accountOfToken = map[string]struct{ name, plan string }{
	"free-token": {"ada", "free"},
	"pro-token":  {"grace", "pro"},
}

var limitsOf = map[string][]ratelimit.Limit{
	"free": {ratelimit.PerMinute(10).Burst(10)},
	"pro":  {ratelimit.PerMinute(100).Burst(100)},
}

// authenticate sets the account and the plan of a token. A client without a token has neither, and may go on.
func authenticate(c *gin.Context) {
	authorization := c.GetHeader("Authorization")
	if authorization == "" {
		return
	}
	account, known := accountOfToken[strings.TrimPrefix(authorization, "Bearer ")]
	if !known {
		c.AbortWithStatusJSON(http.StatusUnauthorized, gin.H{"error": "unknown token"})
		return
	}
	c.Set("account", account.name)
	c.Set("plan", account.plan)
}

// limitsOfPlan returns nil for clients without a plan: the limiter's own limit holds for them.
func limitsOfPlan(c *gin.Context) []ratelimit.Limit { return limitsOf[c.GetString("plan")] }

// whoami shows that a handler can read the decision, for example to do less when little is left.
func whoami(c *gin.Context) {
	tightest, _ := ratelimit.Get(c)
	c.JSON(http.StatusOK, gin.H{"plan": c.GetString("plan"), "left": tightest.Remaining})
}

// The first line begins with the address, which the tests read. The first command makes the point.
const tries = `listening on %[1]s; in another terminal, send 30 requests at once:

  curl -s -o /dev/null -w '%%{http_code} ' '%[1]s/?[1-30]'

20 get 200 and the others 429: one client may send 20 at once, and then 10 a second. After a pause of 2 seconds:

  curl -s '%[1]s/?[1-21]'                                     # what is left, and a refusal
  curl -i %[1]s/                                              # the headers of an answer

One route, one user, one cost:

  curl -i -d account=ada -d password=guess %[1]s/login        # wrong passwords: 5, then one a minute
  curl -i -d account=ada -d password=lovelace %[1]s/login     # right ones do not count
  curl -i '%[1]s/reports?days=15'                             # a token a day: 20 a second and 50 an hour
  curl -i '%[1]s/reports?days=21'                             # more than there can ever be: no Retry-After
  curl -i %[1]s/api/whoami                                    # without a token: 5 a minute by address
  curl -i -H 'Authorization: Bearer free-token' %[1]s/api/whoami   # 10 a minute by account
  curl -i -H 'Authorization: Bearer pro-token' %[1]s/api/whoami    # 100 a minute

Where to look: this terminal logs refusals, %[1]s/stats counts them by limiter, _example/main.go sets them up.
Why is a client refused? Open %[1]s/debug/ratelimit/ in a browser on this machine.

`

// run serves until it is interrupted, and then finishes the requests under way.
func run(addr, redisAddr string) error {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()

	store, err := newStore(redisAddr)
	if err != nil {
		return err
	}
	router := newRouter(store)
	for _, warning := range ratelimit.Check(router) {
		if warning.Code == ratelimit.WarnUnlimited && warning.Subject == "GET /stats" {
			continue // It is meant to have no limit.
		}
		slog.Warn("check your rate limits", "warning", warning)
	}

	listener, err := net.Listen("tcp", addr)
	if err != nil {
		return fmt.Errorf("%w; choose another address with -addr, for example -addr :8081", err)
	}
	fmt.Printf(tries, baseURL(listener.Addr()))

	server := &http.Server{Handler: router, ReadHeaderTimeout: 5 * time.Second}
	served := make(chan error, 1)
	go func() { served <- server.Serve(listener) }()
	select {
	case err := <-served:
		return err
	case <-ctx.Done():
	}
	stop() // A second interrupt does not wait.
	finish, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	return server.Shutdown(finish)
}

// baseURL returns where a client on this machine finds a listener.
func baseURL(addr net.Addr) string {
	host, port, _ := net.SplitHostPort(addr.String())
	if net.ParseIP(host).IsUnspecified() {
		host = "localhost"
	}
	return "http://" + net.JoinHostPort(host, port)
}
