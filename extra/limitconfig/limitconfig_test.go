package limitconfig

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gin-gonic/gin"

	"github.com/gin-ratelimit/ratelimit"
)

func TestMain(m *testing.M) {
	gin.SetMode(gin.TestMode)
	m.Run()
}

func byHeaders(c *gin.Context) string { return c.GetHeader("Key") }

func planOf(c *gin.Context) string { return c.GetHeader("Plan") }

func mustLoad(t testing.TB, document string, opts ...Option) *Config {
	t.Helper()
	c, err := Load([]byte(document), opts...)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func text(limits []ratelimit.Limit) string {
	texts := make([]string, len(limits))
	for i, limit := range limits {
		texts[i] = limit.String()
	}
	return strings.Join(texts, ", ")
}

// inside runs f within a request on the pattern, "" for one that matches no route.
func inside(method, pattern, key, plan string, f func(*gin.Context)) {
	engine := gin.New()
	if pattern == "" {
		engine.NoRoute(f)
	} else {
		engine.Handle(method, pattern, f)
	}
	r := httptest.NewRequest(method, "/"+strings.Trim(pattern, "/"), nil)
	r.Header.Set("Key", key)
	r.Header.Set("Plan", plan)
	engine.ServeHTTP(httptest.NewRecorder(), r)
}

// manual is the document in the package's documentation.
func manual(t *testing.T) string {
	source, err := os.ReadFile("limitconfig.go")
	if err != nil {
		t.Fatal(err)
	}
	var lines []string
	for line := range strings.Lines(string(source)) {
		code, isCode := strings.CutPrefix(line, "//\t")
		switch {
		case isCode:
			lines = append(lines, code)
		case len(lines) > 0 && strings.TrimSpace(line) != "//":
			return strings.Join(lines, "")
		case len(lines) > 0:
			lines = append(lines, "\n")
		}
	}
	t.Fatal("the manual has no document")
	return ""
}

func TestTheManual(t *testing.T) {
	c := mustLoad(t, manual(t), WithPlan(planOf, "pro", "enterprise"))
	c.key = byHeaders
	for _, test := range []struct{ method, pattern, key, plan, limits, bucket string }{
		{method: "GET", pattern: "/", key: "a", limits: "100/m burst 200", bucket: "a"},
		{method: "GET", key: "a", limits: "100/m burst 200", bucket: "a"}, // no route
		{method: "GET", pattern: "/", key: "a", plan: "unheard of", limits: "100/m burst 200", bucket: "a"},
		{method: "GET", pattern: "/", key: "a", plan: "pro", limits: "1000/m", bucket: "a"},
		{method: "POST", pattern: "/login", key: "a", limits: "5/m", bucket: "@11:POST /logina"},
		{method: "POST", pattern: "/login", key: "a", plan: "pro", limits: "5/m", bucket: "@11:POST /logina"}, // a strict limit on a route applies to all plans
		{method: "GET", pattern: "/login", key: "a", plan: "pro", limits: "1000/m", bucket: "a"},
		{method: "PUT", pattern: "/search", key: "a", plan: "pro", limits: "10/s, 1000/h", bucket: "@7:/searcha"},
		{method: "PUT", pattern: "/search", key: "a", plan: "enterprise", limits: "100/s", bucket: "@7:/searcha"},
		{method: "PUT", pattern: "/", key: "a", plan: "enterprise", limits: "50/s burst 500, 100000/h", bucket: "a"},
		{method: "GET", pattern: "/", key: "192.0.2.7", plan: "pro", limits: "1000/s", bucket: "192.0.2.7"},
		{method: "POST", pattern: "/login", key: "192.0.2.7", plan: "pro", limits: "5/m", bucket: "@11:POST /login192.0.2.7"},
		{method: "GET", pattern: "/", key: "2001:db8::/64", plan: "enterprise", limits: "1/s", bucket: "2001:db8::/64"},
		{method: "POST", pattern: "/login", key: "2001:db8::/64", plan: "enterprise", limits: "1/h", bucket: "@11:POST /login2001:db8::/64"},
		{method: "GET", pattern: "/search", key: "2001:db8::/64", plan: "enterprise", limits: "100/s", bucket: "@7:/search2001:db8::/64"},
		{method: "POST", pattern: "/login", limits: "5/m", bucket: "@11:POST /login"},
		{method: "GET", pattern: "/", key: "@1", limits: "100/m burst 200", bucket: "@0:@1"},
	} {
		ran := false
		inside(test.method, test.pattern, test.key, test.plan, func(gc *gin.Context) {
			ran = true
			if got := text(c.Limits(gc)); got != test.limits {
				t.Errorf("%+v: %s", test, got)
			}
			if got := c.Key(gc); got != test.bucket {
				t.Errorf("%+v: %s", test, got)
			}
		})
		if !ran {
			t.Errorf("%+v: no request", test)
		}
	}
}

// Every combination of places that may have limits, compared with the order in the manual.
func TestTheMostParticularLimitsHold(t *testing.T) {
	order := []string{
		`keys.k.routes.GET /x`, `keys.k.routes./x`,
		`plans.p.routes.GET /x`, `plans.p.routes./x`,
		`routes.GET /x`, `routes./x`,
		`keys.k.default`, `plans.p.default`,
	}
	for set := range 1 << len(order) {
		document := map[string]any{"default": "99/s"}
		want := "99/s"
		for i, field := range slices.Backward(order) {
			if set>>i&1 == 1 {
				want = fmt.Sprintf("%d/s", i+1)
				put(document, strings.Split(field, "."), want)
			}
		}
		c := mustLoad(t, toJSON(t, document), WithKeyFunc(byHeaders), WithPlan(planOf))
		inside("GET", "/x", "k", "p", func(gc *gin.Context) {
			if got := text(c.Limits(gc)); got != want {
				t.Errorf("%v: %s, want %s", document, got, want)
			}
			if limits, _ := c.Lookup("GET", "/x", "p", "k"); text(limits) != want {
				t.Errorf("%v: looked up %s, want %s", document, text(limits), want)
			}
		})
	}
}

func put(m map[string]any, path []string, value string) {
	for _, name := range path[:len(path)-1] {
		if m[name] == nil {
			m[name] = map[string]any{}
		}
		m = m[name].(map[string]any)
	}
	m[path[len(path)-1]] = value
}

func TestBucketIsTheMostParticularRouteThatIsNamedAnywhere(t *testing.T) {
	c := mustLoad(t, `{default: 9/s, routes: {/x: 1/s}, plans: {p: {routes: {GET /x: 2/s}}}}`, WithPlan(planOf), WithKeyFunc(byHeaders))
	for method, want := range map[string]string{"GET": "@6:GET /xk", "POST": "@2:/xk"} {
		for _, plan := range []string{"", "p"} { // The bucket does not depend on the plan, or a client could change its plan to get a full one.
			inside(method, "/x", "k", plan, func(gc *gin.Context) {
				if got := c.Key(gc); got != want {
					t.Errorf("%s with plan %q: %s", method, plan, got)
				}
				if _, buckets := c.Lookup(method, "/x", plan, "k"); RouteKey(buckets, "k") != want {
					t.Errorf("%s with plan %q: looked up %q", method, plan, buckets)
				}
			})
		}
	}
}

func TestRoutesAndPlansAreSorted(t *testing.T) {
	c := mustLoad(t, `{default: 9/s, routes: {POST /x: 1/s, /y: 1/s}, plans: {p: {routes: {GET /x: 2/s, /y: 2/s}}, a: 1/s}}`, WithPlan(planOf))
	if got := strings.Join(c.Plans(), ", "); got != "a, p" {
		t.Error(got)
	}
	if got := strings.Join(c.Routes(), ", "); got != "/y, GET /x, POST /x" {
		t.Error(got)
	}
}

func TestRouteKeysDiffer(t *testing.T) {
	seen := map[string][2]string{}
	parts := []string{"", "@", "@0:", "@1:", "1", ":", "/", "/a", "GET /a", "@6:GET /a", "a"}
	for _, route := range parts {
		for _, key := range parts {
			k := RouteKey(route, key)
			if other, ok := seen[k]; ok {
				t.Errorf("%q is both %q and %q", k, other, [2]string{route, key})
			}
			seen[k] = [2]string{route, key}
		}
	}
}

// site is an engine with a limiter of the document in front of three routes.
type site struct {
	config  *Config
	engine  *gin.Engine
	limiter *ratelimit.Limiter
}

func newSite(t *testing.T, document string) site {
	c := mustLoad(t, document, WithKeyFunc(byHeaders), WithPlan(planOf))
	limiter, err := ratelimit.NewLimiter(c.Option())
	if err != nil {
		t.Fatal(err)
	}
	engine := gin.New()
	engine.Use(limiter.Handle)
	for _, path := range []string{"/a", "/b", "/login"} {
		engine.GET(path, func(c *gin.Context) { c.Status(http.StatusOK) })
	}
	return site{c, engine, limiter}
}

// admitted returns how many of n requests in a row are admitted.
func (s site) admitted(path, plan string, n int) (admitted int) {
	for range n {
		r := httptest.NewRequest(http.MethodGet, path, nil)
		r.Header.Set("Key", "alice")
		r.Header.Set("Plan", plan)
		w := httptest.NewRecorder()
		s.engine.ServeHTTP(w, r)
		if w.Code == http.StatusOK {
			admitted++
		}
	}
	return admitted
}

func expect(t *testing.T, what string, got, want int) {
	t.Helper()
	if got != want {
		t.Errorf("%s: %d admitted, want %d", what, got, want)
	}
}

func TestNamedRoutesHaveBucketsOfTheirOwn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, "{default: 10/h, routes: {GET /login: 3/h}}")
		expect(t, "/a", s.admitted("/a", "", 6), 6)
		expect(t, "/login", s.admitted("/login", "", 6), 3)
		expect(t, "/b, which shares with /a", s.admitted("/b", "", 6), 4)

		for _, key := range []string{RouteKey("GET /login", "alice"), RouteKey("", "alice")} {
			if _, err := s.limiter.Reset(t.Context(), key); err != nil {
				t.Fatal(err)
			}
		}
		expect(t, "/login after Reset", s.admitted("/login", "", 6), 3)
		expect(t, "/a after Reset", s.admitted("/a", "", 20), 10)
	})
}

func TestBucketsOutliveTheDocument(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, "default: 10/h")
		expect(t, "10/h", s.admitted("/a", "", 8), 8)
		if err := s.config.Replace([]byte("default: 20/h")); err != nil {
			t.Fatal(err)
		}
		expect(t, "20/h, of which 8 are spent", s.admitted("/a", "", 20), 12)
		if err := s.config.Replace([]byte("default: [5/h, 2/m]\nroutes: {/b: 4/h}")); err != nil {
			t.Fatal(err)
		}
		expect(t, "5/h, all spent", s.admitted("/a", "", 5), 0)
		expect(t, "a new route begins full", s.admitted("/b", "", 5), 4)
		time.Sleep(time.Hour) // In a bubble, so it takes no time.
		expect(t, "the second limit", s.admitted("/a", "", 5), 2)
	})
}

// What a client has left is by the document that holds now. Peek without limits, which has no request to ask about, knows
// it from the client's next request on.
func TestUsageAfterReplace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		config := mustLoad(t, "default: 10/h")
		limiter := ratelimit.Must(ratelimit.NewLimiter(config.Option()))
		engine := gin.New()
		engine.GET("/", limiter.Handle)
		engine.GET("/usage", func(c *gin.Context) {
			usage, err := limiter.Usage(c)
			if err != nil {
				t.Error(err)
			}
			c.JSON(http.StatusOK, usage.Limits)
		})
		get := func(path string) string {
			w := httptest.NewRecorder()
			engine.ServeHTTP(w, httptest.NewRequest(http.MethodGet, path, nil))
			return w.Body.String()
		}
		for range 8 {
			get("/")
		}
		if err := config.Replace([]byte("default: [20/h, 5/m]")); err != nil {
			t.Fatal(err)
		}
		const want = `[{"limit":"20/h","remaining":12,"debt":0,"next_token":180,"reset_after":1440},` +
			`{"limit":"5/m","remaining":5,"debt":0,"next_token":0,"reset_after":0}]`
		if got := get("/usage"); got != want {
			t.Errorf("got  %s\nwant %s", got, want)
		}
		peek := func(limits ...ratelimit.Limit) string {
			usage, err := limiter.Peek(t.Context(), ratelimit.AddressKey("192.0.2.1"), limits...)
			if err != nil {
				t.Error(err)
			}
			left := ""
			for _, l := range usage.Limits {
				left += fmt.Sprintf("%v: %d; ", l.Limit, l.Remaining)
			}
			return left
		}
		got := []string{peek(), peek(ratelimit.PerHour(20).Burst(20)), get("/"), peek()}
		if want := []string{"10/h: 2; ", "20/h: 12; ", "", "20/h: 11; 5/m: 4; "}; !slices.Equal(got, want) {
			t.Errorf("got  %q\nwant %q", got, want)
		}
	})
}

// Plans with different numbers of limits: buckets go by position.
func TestChangeOfPlan(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, "{default: 10/s, plans: {pro: [20/s, 30/h]}}")
		expect(t, "free", s.admitted("/a", "", 15), 10)
		expect(t, "pro, of whose 20 are 10 spent", s.admitted("/a", "pro", 15), 10)
		time.Sleep(time.Second)
		expect(t, "pro, of whose 30 are 10 spent", s.admitted("/a", "pro", 40), 20)
		time.Sleep(time.Second)
		expect(t, "free again: one limit", s.admitted("/a", "", 15), 10)
		time.Sleep(time.Second)
		expect(t, "pro again: the hour's bucket has waited", s.admitted("/a", "pro", 40), 0)
	})
}

func TestOptionHasTheDefaultAsStaticLimits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, "default: [10/s burst 30, 20/h]")
		for n, want := range map[int]bool{21: false, 20: true} {
			if r, err := s.limiter.Take(t.Context(), strconv.Itoa(n), n); err != nil || r.Allowed != want {
				t.Errorf("Take(%d) = %+v, %v", n, r, err)
			}
		}
	})
}

// When documents are replaced under load, each request sees one of them, and broken ones are never in force.
func TestReplaceWhileRequestsCome(t *testing.T) {
	documents := []string{
		"{default: 1/s, routes: {/x: 1/s}, plans: {p: 1/s}}",
		"{default: [2/s, 2/s], plans: {p: {routes: {/x: [2/s, 2/s]}}}}",
		"{default: 3/s, plans: {p: 3/x}}",
		"}",
	}
	c := mustLoad(t, documents[0], WithKeyFunc(byHeaders), WithPlan(planOf))
	done := make(chan struct{})
	var readers, writers sync.WaitGroup
	for range 2 {
		writers.Go(func() {
			for i := range 500 {
				if err := c.Replace([]byte(documents[i%4])); (err == nil) != (i%4 < 2) {
					t.Errorf("document %d: %v", i%4, err)
				}
			}
		})
		readers.Go(func() {
			inside("GET", "/x", "k", "p", func(gc *gin.Context) {
				for {
					select {
					case <-done:
						return
					default:
					}
					limits := c.Limits(gc)
					if got := text(limits); got != "1/s" && got != "2/s, 2/s" {
						t.Errorf("limits %s", got)
						return
					}
					c.Key(gc)
				}
			})
		})
	}
	writers.Wait()
	close(done)
	readers.Wait()
}

func TestOptions(t *testing.T) {
	_, err := Load([]byte("default: 1/s"), nil, WithKeyFunc(nil), WithPlan(nil))
	for _, want := range []string{
		"limitconfig: option 0 is nil",
		"limitconfig: WithKeyFunc(nil): needs a KeyFunc, for example ratelimit.ByClientIP",
		"limitconfig: WithPlan(nil): needs a function that returns a request's plan",
	} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v lacks %s", err, want)
		}
	}
}

func TestCheck(t *testing.T) {
	c := mustLoad(t, `
default: 1/s
routes:
  GET /users/:id: 1/s
  /users/:id: 1/s
  DELETE /users/:id: 1/s
  /users/{id}: 1/s
plans:
  pro:
    routes:
      /users/: 1/s
      /users: 1/s
keys:
  192.0.2.7: {routes: {GET /users: 1/s}}
`, WithPlan(planOf))
	engine := gin.New()
	engine.GET("/users/:id", func(*gin.Context) {})
	engine.PUT("/users/:id", func(*gin.Context) {})
	engine.Group("/users").POST("", func(*gin.Context) {})
	const unknown = `matches no route: write it as it is registered, with groups' prefixes and parameters, as in "GET /api/users/:id"`
	want := []string{
		`limitconfig: line 6: routes["DELETE /users/:id"]: matches no route: /users/:id is registered for GET, PUT`,
		`limitconfig: line 7: routes["/users/{id}"]: ` + unknown,
		`limitconfig: line 11: plans["pro"].routes["/users/"]: ` + unknown,
		`limitconfig: line 14: keys["192.0.2.7"].routes["GET /users"]: matches no route: /users is registered for POST`,
	}
	if got := strings.Split(c.Check(engine).Error(), "\n"); !reflect.DeepEqual(got, want) {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	if err := mustLoad(t, "default: 1/s\nroutes: {GET /users/:id: 1/s, /users: 1/s}").Check(engine); err != nil {
		t.Error(err)
	}
}

func TestLimitsDoesNotAllocate(t *testing.T) {
	c := mustLoad(t, manual(t), WithPlan(planOf))
	c.key = byHeaders
	for _, test := range [][4]string{
		{"GET", "/", "a", ""}, {"GET", "/", "192.0.2.7", "pro"}, {"POST", "/login", "a", "pro"}, {"PUT", "/search", "a", "enterprise"},
	} {
		inside(test[0], test[1], test[2], test[3], func(gc *gin.Context) {
			if n := testing.AllocsPerRun(100, func() { c.Limits(gc) }); n != 0 {
				t.Errorf("%v: %v allocations", test, n)
			}
		})
	}
}

func BenchmarkLimits(b *testing.B) {
	many := "{default: 1/s, plans: {p: 2/s}, routes: {"
	for i := range 1000 {
		many += fmt.Sprintf("/r%d: 1/s, ", i)
	}
	many += "/x: 1/s}, keys: {"
	for i := range 10_000 {
		many += fmt.Sprintf("k%d: 1/s, ", i)
	}
	many += "k: 1/s}}"
	opts := []Option{WithKeyFunc(func(*gin.Context) string { return "k" }), WithPlan(func(*gin.Context) string { return "p" })}
	for _, bench := range []struct{ name, document, pattern string }{
		{"default", "default: 1/s", "/"},
		{"plan", "{default: 1/s, plans: {p: 2/s}}", "/"},
		{"route", "{default: 1/s, plans: {p: 2/s}, keys: {x: 1/s}, routes: {/x: 1/s}}", "/x"},
		{"1000 routes, 10000 keys", many, "/x"},
	} {
		c := mustLoad(b, bench.document, opts...)
		inside("GET", bench.pattern, "", "", func(gc *gin.Context) {
			b.Run("Limits/"+bench.name, func(b *testing.B) {
				b.ReportAllocs()
				for b.Loop() {
					c.Limits(gc)
				}
			})
			b.Run("Key/"+bench.name, func(b *testing.B) {
				b.ReportAllocs()
				for b.Loop() {
					c.Key(gc)
				}
			})
		})
	}
}

func BenchmarkReplace(b *testing.B) {
	document := []byte("default: 1/s\nkeys:\n")
	for i := range 10_000 {
		document = fmt.Appendf(document, "  k%d: [10/s burst 20, 1000/h]\n", i)
	}
	c := mustLoad(b, string(document), WithKeyFunc(byHeaders))
	b.ReportAllocs()
	for b.Loop() {
		if err := c.Replace(document); err != nil {
			b.Fatal(err)
		}
	}
}

// A limiter that is registered after a route does not limit it, whatever the document says.
func TestCheckFindsRoutesWithoutTheLimiter(t *testing.T) {
	limits, err := Load([]byte("default: 100/m\nroutes:\n  POST /login: 5/m\n  /both: 1/s\n  GET /late: 1/s\n"))
	if err != nil {
		t.Fatal(err)
	}
	router := gin.New()
	ok := func(*gin.Context) {}
	router.POST("/login", ok)
	router.GET("/both", ok)
	router.Use(ratelimit.New(limits.Option(), ratelimit.WithName("api")))
	router.GET("/late", ok)
	router.PUT("/both", ok)
	const want = "limitconfig: line 3: routes[\"POST /login\"]: no limiter of this document is registered on it: register the limiter before the route\n" +
		"limitconfig: line 4: routes[\"/both\"]: no limiter of this document is registered on GET /both: register the limiter before the route"
	if err := limits.Check(router); err == nil || err.Error() != want {
		t.Errorf("got\n%v\nwant\n%s", err, want)
	}
}

// A token is a secret, and requests are compared by its digest, so as a key of the document it would never match.
func TestKeysThatNoRequestHas(t *testing.T) {
	for name, key := range map[string]ratelimit.KeyFunc{
		"by token":               ratelimit.ByBearerToken,
		"by token, else address": ratelimit.FirstOf(ratelimit.ByBearerToken, ratelimit.ByClientIP),
	} {
		_, err := Load([]byte("default: 1/s\nkeys: {s3cret-token: 100/h}"), WithKeyFunc(key))
		if err == nil || !strings.Contains(err.Error(), ratelimit.BearerKey("s3cret-token")) || strings.Contains(err.Error(), "s3cret") {
			t.Errorf("%s: %v", name, err)
		}
		if _, err := Load([]byte(fmt.Sprintf("default: 1/s\nkeys: {%q: 100/h}", ratelimit.BearerKey("s3cret-token"))), WithKeyFunc(key)); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := Load([]byte("default: 1/s\nkeys: {anything: 100/h}"), WithKeyFunc(ratelimit.ByHeader("X-Team"))); err != nil {
		t.Error(err)
	}
}

// A value that aliases name is read once, however often they name it.
func TestAliasesShare(t *testing.T) {
	var document strings.Builder
	document.WriteString("default: 1/s\nplans:\n  p0: &p\n    routes: &r\n")
	for i := range 2000 {
		fmt.Fprintf(&document, "      /r%d: 1/s\n", i)
	}
	for i := range 4000 {
		fmt.Fprintf(&document, "  p%d: *p\n", i+1)
	}
	limits, err := Load([]byte(document.String()), WithPlan(func(*gin.Context) string { return "" }))
	if err != nil {
		t.Fatal(err)
	}
	rules := limits.rules.Load()
	if n := len(rules.mentions); n != 2000 {
		t.Errorf("%d mentions of 2,000 routes", n)
	}
	if rules.plans["p1"] != rules.plans["p4000"] {
		t.Error("plans that are one alias are two")
	}
}
