package limitconfig_test

import (
	"fmt"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"os/signal"
	"syscall"

	"github.com/gin-gonic/gin"

	"github.com/gin-ratelimit/ratelimit"
	"github.com/gin-ratelimit/ratelimit/extra/limitconfig"
)

// planOf would look up the signed-in user.
func planOf(c *gin.Context) string { return c.GetHeader("X-Plan") }

func Example() {
	limits, err := limitconfig.Load([]byte(`
default: 2/h
routes:
  GET /report: 1/h
plans:
  pro: 1000/h
`), limitconfig.WithPlan(planOf))
	if err != nil {
		log.Fatal(err)
	}

	router := gin.New()
	router.SetTrustedProxies(nil) // No proxy is in front, so no header is trusted for the client's address.
	router.Use(ratelimit.New(limits.Option(), ratelimit.WithName("api")))
	for _, path := range []string{"/", "/report"} {
		router.GET(path, func(c *gin.Context) { c.Status(http.StatusOK) })
	}
	if err := limits.Check(router); err != nil {
		log.Fatal(err)
	}

	fmt.Println("/", get(router, "/", ""), get(router, "/", ""), get(router, "/", ""))
	fmt.Println("/report", get(router, "/report", ""), get(router, "/report", ""))
	fmt.Println("/ as a pro", get(router, "/", "pro"))
	// Output:
	// / 200 200 429
	// /report 200 429
	// / as a pro 200
}

// All mistakes are reported at once, with their lines.
func ExampleLoad() {
	_, err := limitconfig.Load([]byte(`
default: 100
routes:
  get /users/:id: 10/s
  /search: [10/s, 1000/fortnight]
pro: 1000/m
`))
	fmt.Println(err)
	// Output:
	// limitconfig: line 2: default: rate "100": want tokens/period, as in "10/s", "100/m" or "1/86.4s"
	// limitconfig: line 4: routes["get /users/:id"]: methods are written in capitals: "GET /users/:id"
	// limitconfig: line 5: routes["/search"][1]: rate "1000/fortnight": want tokens/period, as in "10/s", "100/m" or "1/86.4s"
	// limitconfig: line 6: unknown field "pro": want default, routes, plans or keys
}

func ExampleConfig_Check() {
	limits, err := limitconfig.Load([]byte(`
default: 100/m
routes:
  /user/:id: 10/s
  POST /users/:id: 10/s
`))
	if err != nil {
		log.Fatal(err)
	}
	router := gin.New()
	router.GET("/users/:id", func(c *gin.Context) {})

	fmt.Println(limits.Check(router))
	// Output:
	// limitconfig: line 4: routes["/user/:id"]: matches no route: write it as it is registered, with groups' prefixes and parameters, as in "GET /api/users/:id"
	// limitconfig: line 5: routes["POST /users/:id"]: matches no route: /users/:id is registered for GET
}

// A document that is read again at SIGHUP. If it has mistakes, the one before stays in force.
func ExampleConfig_Replace() {
	const path = "limits.yaml"
	document, err := os.ReadFile(path)
	if err != nil {
		log.Fatal(err)
	}
	limits, err := limitconfig.Load(document)
	if err != nil {
		log.Fatal(err)
	}

	hangups := make(chan os.Signal, 1)
	signal.Notify(hangups, syscall.SIGHUP)
	go func() {
		for range hangups {
			document, err := os.ReadFile(path)
			if err == nil {
				err = limits.Replace(document)
			}
			if err != nil {
				log.Printf("limits stay as they were: %v", err)
			}
		}
	}()

	router := gin.New()
	router.Use(ratelimit.New(limits.Option()))
}

// Limits by account: the keys of the document are the accounts' names as the KeyFunc returns them.
func ExampleWithKeyFunc() {
	byAccount := func(c *gin.Context) string {
		if name := c.GetString("account"); name != "" {
			return "account:" + name
		}
		return ""
	}
	limits, err := limitconfig.Load([]byte(`
default: 100/m
keys:
  account:batch: 10000/m
  "": 10/m            # all requests without an account, together
`), limitconfig.WithKeyFunc(byAccount))
	if err != nil {
		log.Fatal(err)
	}

	router := gin.New()
	router.Use(ratelimit.New(limits.Option(), ratelimit.WithName("accounts")))
}

func get(router http.Handler, path, plan string) int {
	r := httptest.NewRequest(http.MethodGet, path, nil)
	r.Header.Set("X-Plan", plan)
	w := httptest.NewRecorder()
	router.ServeHTTP(w, r)
	return w.Code
}
