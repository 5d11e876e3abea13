package main

import (
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"strconv"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gin-gonic/gin"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/gin-ratelimit/ratelimit"
	"github.com/gin-ratelimit/ratelimit/extra/limitconfig"
	"github.com/gin-ratelimit/ratelimit/extra/ratelimit-tune/tune"
)

// A limiter with the same document decides the same: routes, plans, keys, costs, and charges by status.
func TestReplayDecidesAsALimiter(t *testing.T) {
	routes := []string{"GET /users/:id", "POST /login", "GET /search"}
	patterns := map[string]string{"GET /users/:id": "/users/7", "POST /login": "/login", "GET /search": "/search", tune.NoRoute: "/else"}
	refused, admitted, free := 0, 0, 0
	for seed := range uint64(60) {
		synctest.Test(t, func(t *testing.T) {
			r := rand.New(rand.NewPCG(seed, 0))
			limit := func() string { return fmt.Sprintf("%d/%ds burst %d", 1+r.IntN(5), 1+r.IntN(9), 3+r.IntN(5)) }
			text := fmt.Sprintf("default: [%s, %s]\nroutes: {POST /login: %s, /search: [%s, %s]}\nplans: {pro: {default: %s, routes: {/search: %s}}}\nkeys: {192.0.2.3: %s}",
				limit(), limit(), limit(), limit(), limit(), limit(), limit(), limit())
			limits, err := limitconfig.Load([]byte(text), limitconfig.WithPlan(func(c *gin.Context) string { return c.GetHeader("Plan") }))
			require.NoError(t, err)
			charge := func(status int) bool { return status != http.StatusTeapot }

			engine := gin.New()
			require.NoError(t, engine.SetTrustedProxies(nil))
			sent := func(c *gin.Context, header string) int {
				n, err := strconv.Atoi(c.GetHeader(header))
				require.NoError(t, err)
				return n
			}
			engine.Use(ratelimit.New(limits.Option(),
				ratelimit.WithCost(func(c *gin.Context) int { return sent(c, "Cost") }),
				ratelimit.WithChargeIf(func(c *gin.Context) bool { return charge(c.Writer.Status()) })))
			answer := func(c *gin.Context) { c.Status(sent(c, "Status")) }
			engine.GET("/users/:id", answer)
			engine.POST("/login", answer)
			engine.GET("/search", answer)
			engine.NoRoute(answer)

			trace := &tune.Trace{Clients: []string{"192.0.2.1", "192.0.2.2", "192.0.2.3"}, Routes: append(routes, tune.NoRoute), Plans: []string{"", "pro"}, Resolution: time.Microsecond}
			for tick := time.Now().UnixMicro(); len(trace.Requests) < 300; tick += r.Int64N(400_000) {
				trace.Requests = append(trace.Requests, tune.Request{
					Tick: tick, Client: r.Int32N(3), Route: r.Int32N(4), Plan: uint16(r.IntN(2)), Cost: 1 + r.Int32N(3), Status: []int16{200, 204, http.StatusTeapot}[r.IntN(3)],
				})
			}
			_, err = tune.Replay(trace, *policyOf(limits, charge), tune.AtOnce, func(q tune.Request, allowed bool) {
				time.Sleep(time.Until(time.UnixMicro(q.Tick)))
				route := trace.Routes[q.Route]
				method := http.MethodGet
				if route == "POST /login" {
					method = http.MethodPost
				}
				request := httptest.NewRequest(method, patterns[route], nil)
				request.RemoteAddr = trace.Clients[q.Client] + ":1234"
				request.Header.Set("Plan", trace.Plans[q.Plan])
				request.Header.Set("Cost", strconv.Itoa(int(q.Cost)))
				request.Header.Set("Status", strconv.Itoa(int(q.Status)))
				w := httptest.NewRecorder()
				engine.ServeHTTP(w, request)
				require.Equal(t, allowed, w.Code != http.StatusTooManyRequests, "seed %d: %s, %+v of\n%s", seed, route, q, text)
				switch {
				case !allowed:
					refused++
				case charge(int(q.Status)):
					admitted++
				default:
					free++
				}
			})
			require.NoError(t, err)
		})
	}
	assert.Greater(t, refused, 1000)
	assert.Greater(t, admitted, 1000)
	assert.Greater(t, free, 500)
}
