package console_test

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gin-gonic/gin"
	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/gin-ratelimit/ratelimit"
	"github.com/gin-ratelimit/ratelimit/console"
	"github.com/gin-ratelimit/ratelimit/internal/redistest"
)

func TestMain(m *testing.M) {
	gin.SetMode(gin.TestMode)
	m.Run()
}

// site is an engine with one limiter, "login", on POST /login, keyed by the header Name, and a console at /ops/limits.
type site struct {
	router  *gin.Engine
	limiter *ratelimit.Limiter
	access  console.Access
}

func newSite(opts ...ratelimit.Option) *site {
	s := &site{router: gin.New(), access: console.Access{Level: console.Write, User: "ada"}}
	_ = s.router.SetTrustedProxies(nil)
	s.limiter = ratelimit.Must(ratelimit.NewLimiter(append([]ratelimit.Option{
		ratelimit.WithName("login"),
		ratelimit.WithLimit(ratelimit.PerMinute(5).Burst(5)),
		ratelimit.WithKeyFunc(func(c *gin.Context) string { return c.GetHeader("Name") }),
	}, opts...)...))
	s.router.POST("/login", s.limiter.Handle, func(c *gin.Context) { c.Status(http.StatusNoContent) })
	s.router.GET("/open", func(*gin.Context) {})
	console.Mount(s.router.Group("/ops/limits"), s.router, func(*gin.Context) console.Access { return s.access })
	return s
}

func (s *site) send(r *http.Request) *httptest.ResponseRecorder {
	w := httptest.NewRecorder()
	s.router.ServeHTTP(w, r)
	return w
}

func (s *site) get(path string) *httptest.ResponseRecorder {
	return s.send(httptest.NewRequest(http.MethodGet, path, http.NoBody))
}

func (s *site) post(path string, form url.Values, header ...string) *httptest.ResponseRecorder {
	r := httptest.NewRequest(http.MethodPost, path, strings.NewReader(form.Encode()))
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	for i := 0; i < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	return s.send(r)
}

func (s *site) login(name string, times int) {
	for range times {
		r := httptest.NewRequest(http.MethodPost, "/login", http.NoBody)
		r.Header.Set("Name", name)
		s.send(r)
	}
}

func (s *site) data(t *testing.T) (d console.Data) {
	t.Helper()
	w := s.get("/ops/limits/data.json")
	require.Equal(t, http.StatusOK, w.Code)
	var plain struct {
		Limiters []struct {
			ID     string           `json:"id"`
			Totals console.Counts   `json:"totals"`
			Second console.Curves   `json:"seconds"`
			Top    []console.TopKey `json:"top_1h"`
		} `json:"limiters"`
		Routes []console.Route  `json:"routes"`
		Memory int              `json:"memory_bytes"`
		Audit  []console.Action `json:"audit"`
	}
	require.NoError(t, json.Unmarshal(w.Body.Bytes(), &plain))
	for _, l := range plain.Limiters {
		d.Limiters = append(d.Limiters, console.Limiter{ID: l.ID, Totals: l.Totals, Seconds: l.Second, Top1h: l.Top})
	}
	d.Routes, d.Memory, d.Audit = plain.Routes, plain.Memory, plain.Audit
	return d
}

func TestMountPanicsOnNil(t *testing.T) {
	router := gin.New()
	assert.PanicsWithValue(t, `console: Mount: needs a group, its engine and an access function, for example Mount(router.Group("/debug/ratelimit"), router, access)`,
		func() { console.Mount(router.Group("/x"), router, nil) })
}

func TestAccessIsAskedOnEveryRequest(t *testing.T) {
	s := newSite()
	paths := []string{"", "/", "/data.json", "/console.css", "/console.js", "/look", "/forgive", "/mode"}
	for _, path := range paths {
		assert.Equal(t, http.StatusOK, s.get("/ops/limits"+path).Code, path)
	}
	s.access = console.Access{}
	for _, path := range paths {
		w := s.get("/ops/limits" + path)
		assert.Equal(t, http.StatusForbidden, w.Code, path)
		assert.Equal(t, "console: no access\n", w.Body.String(), path)
	}
	for _, path := range []string{"/look", "/forgive", "/mode"} {
		assert.Equal(t, http.StatusForbidden, s.post("/ops/limits"+path, nil).Code, path)
	}
}

func TestReadOnlyHidesAndRefuses(t *testing.T) {
	s := newSite()
	s.access.Level = console.Read
	s.login("bob", 6)
	form := url.Values{"limiter": {"login"}, "key": {"bob"}}
	page := s.post("/ops/limits/look", form).Body.String()
	assert.Contains(t, page, "Refused by 5/m")
	assert.NotContains(t, page, `action="./forgive"`)
	assert.NotContains(t, page, `action="./mode"`)
	assert.Equal(t, http.StatusForbidden, s.post("/ops/limits/forgive", url.Values{"limiter": {"login"}, "key": {"bob"}, "confirm": {"yes"}}).Code)
	assert.Equal(t, http.StatusForbidden, s.post("/ops/limits/mode", url.Values{"limiter": {"login"}, "mode": {"off"}, "confirm": {"login"}}).Code)
	assert.Equal(t, ratelimit.Enforce, s.limiter.Mode())
	s.access.Level = console.Write
	page = s.post("/ops/limits/look", form).Body.String()
	assert.Contains(t, page, `action="./forgive"`)
	assert.Contains(t, page, `action="./mode"`)
	usage, err := s.limiter.Peek(context.Background(), "bob")
	require.NoError(t, err)
	assert.Zero(t, usage.Limits[0].Remaining)
}

func TestCrossSitePostIsRefused(t *testing.T) {
	s := newSite()
	form := url.Values{"limiter": {"login"}, "mode": {"off"}, "confirm": {"login"}}
	for name, header := range map[string][]string{
		"Sec-Fetch-Site": {"Sec-Fetch-Site", "cross-site"},
		"same site":      {"Sec-Fetch-Site", "same-site"},
		"Origin":         {"Origin", "https://evil.example"},
	} {
		t.Run(name, func(t *testing.T) {
			assert.Equal(t, http.StatusForbidden, s.post("/ops/limits/mode", form, header...).Code)
			assert.Equal(t, ratelimit.Enforce, s.limiter.Mode())
		})
	}
	assert.Equal(t, http.StatusOK, s.post("/ops/limits/mode", form, "Sec-Fetch-Site", "same-origin").Code)
	assert.Equal(t, ratelimit.Off, s.limiter.Mode())
}

func TestSecurityHeaders(t *testing.T) {
	s := newSite()
	for _, level := range []console.Level{console.None, console.Write} {
		s.access.Level = level
		h := s.get("/ops/limits/").Header()
		assert.Equal(t, "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "+
			"form-action 'self'; base-uri 'none'; frame-ancestors 'none'", h.Get("Content-Security-Policy"))
		assert.Equal(t, "nosniff", h.Get("X-Content-Type-Options"))
		assert.Equal(t, "no-store", h.Get("Cache-Control"))
		assert.Equal(t, "no-referrer", h.Get("Referrer-Policy"))
	}
}

// URLs are relative to the address in the browser, which a proxy may have given a prefix.
func TestURLsAreRelative(t *testing.T) {
	s := newSite()
	for path, want := range map[string]string{"/ops/limits": "./limits/console.js", "/ops/limits/": "./console.js", "/ops/limits/look": "./console.js"} {
		page := s.get(path).Body.String()
		assert.Contains(t, page, `src="`+want+`"`, path)
		for _, attribute := range []string{`href="/`, `src="/`, `action="/`} {
			assert.NotContains(t, page, attribute, path)
		}
	}
}

func TestRouteMap(t *testing.T) {
	s := newSite()
	page := s.get("/ops/limits/").Body.String()
	assert.Contains(t, page, "<code>POST /login</code>")
	assert.Contains(t, page, "unlimited_route")
	routes := map[string][]string{}
	for _, r := range s.data(t).Routes {
		routes[r.Method+" "+r.Path] = r.Limiters
	}
	assert.Equal(t, []string{"login"}, routes["POST /login"])
	assert.Equal(t, []string{}, routes["GET /open"])
	assert.NotContains(t, routes, "GET /ops/limits/", "the console's own")
}

func TestConsoleIsRateLimited(t *testing.T) {
	s := newSite()
	codes := map[int]int{}
	for range 100 {
		codes[s.get("/ops/limits/console.css").Code]++
	}
	assert.Positive(t, codes[http.StatusTooManyRequests])
	assert.GreaterOrEqual(t, codes[http.StatusOK], 60)
}

func TestLookAndForgive(t *testing.T) {
	s := newSite(ratelimit.WithBan(ratelimit.Ban{After: 3, Within: time.Minute, For: time.Hour}))
	look := func(key string) string {
		return s.post("/ops/limits/look", url.Values{"limiter": {"login"}, "key": {key}}).Body.String()
	}
	s.login("drained", 6)
	s.login("banned", 12)
	assert.Contains(t, look("drained"), "Refused by 5/m: 0 of 5 tokens left, next in ")
	assert.Contains(t, look("drained"), "Not banned: 1 strike.")
	assert.Contains(t, look("banned"), "Banned for another ")
	assert.Contains(t, look("unknown"), "The store holds nothing for this key")
	assert.Contains(t, look("drained"), "this process")

	form := url.Values{"limiter": {"login"}, "key": {"banned"}}
	assert.Equal(t, http.StatusBadRequest, s.post("/ops/limits/forgive", form).Code, "without confirmation")
	assert.Contains(t, look("banned"), "Banned for another ")
	form.Set("confirm", "yes")
	w := s.post("/ops/limits/forgive", form)
	assert.Contains(t, w.Body.String(), "Forgiven")
	assert.NotContains(t, look("banned"), "Banned for")

	audit := s.data(t).Audit
	require.Len(t, audit, 1)
	audit[0].Time = time.Time{}
	assert.Equal(t, console.Action{User: "ada", Action: "forgive", Limiter: "login", Key: ratelimit.KeyOf("banned").String(), Outcome: "forgiven"}, audit[0])
}

func TestModeGoesBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite()
		form := url.Values{"limiter": {"login"}, "mode": {"shadow"}, "confirm": {"logi"}, "back": {"yes"}}
		assert.Equal(t, http.StatusBadRequest, s.post("/ops/limits/mode", form).Code)
		assert.Equal(t, ratelimit.Enforce, s.limiter.Mode())
		form.Set("confirm", "login")
		assert.Contains(t, s.post("/ops/limits/mode", form).Body.String(), "This process only")
		assert.Equal(t, ratelimit.Shadow, s.limiter.Mode())
		s.login("bob", 8)
		assert.Contains(t, s.get("/ops/limits/").Body.String(), "Enforce would have refused 3 requests")
		time.Sleep(15*time.Minute - time.Second)
		assert.Equal(t, ratelimit.Shadow, s.limiter.Mode())
		time.Sleep(2 * time.Second)
		assert.Equal(t, ratelimit.Enforce, s.limiter.Mode())
		assert.Equal(t, "back to enforce", s.data(t).Audit[0].Outcome)
	})
}

// A change that somebody makes meanwhile stays.
func TestModeStaysWhereItWasChangedMeanwhile(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite()
		s.post("/ops/limits/mode", url.Values{"limiter": {"login"}, "mode": {"shadow"}, "confirm": {"login"}, "back": {"yes"}})
		s.limiter.SetMode(ratelimit.Off)
		time.Sleep(16 * time.Minute)
		assert.Equal(t, ratelimit.Off, s.limiter.Mode())
	})
}

func TestCountsByTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite()
		s.login("a", 7)
		time.Sleep(3 * time.Second)
		s.login("b", 2)
		l := s.data(t).Limiters[0]
		assert.Equal(t, console.Counts{Accepted: 7, Refused: 2}, l.Totals)
		assert.Equal(t, []uint64{5, 0, 0, 2}, l.Seconds.Accepted)
		assert.Equal(t, []uint64{2, 0, 0, 0}, l.Seconds.Refused)
		time.Sleep(time.Hour)
		s.login("c", 1)
		seconds := s.data(t).Limiters[0].Seconds.Accepted
		assert.Len(t, seconds, 900)
		assert.Equal(t, uint64(1), seconds[899])
		assert.Zero(t, seconds[898])
	})
}

func TestRawKeysNeedAccess(t *testing.T) {
	s := newSite()
	s.login("secret-account", 7)
	digest := ratelimit.KeyOf("secret-account").String()
	assert.NotContains(t, s.get("/ops/limits/").Body.String(), "secret-account")
	assert.Equal(t, []console.TopKey{{Key: digest, Low: 2, High: 2}}, s.data(t).Limiters[0].Top1h)
	s.access.RawKeys = true
	assert.Equal(t, []console.TopKey{{Key: digest, Raw: "secret-account", Low: 2, High: 2}}, s.data(t).Limiters[0].Top1h)
}

// What clients send is text on the page, whatever it is, and takes no more memory.
func TestHostileTextStaysText(t *testing.T) {
	s := newSite()
	s.access.RawKeys, s.access.User = true, `<script>alert(1)</script>`
	memory := s.data(t).Memory
	for i := range 300 {
		s.login(fmt.Sprintf(`"><script>alert(%d)</script>`, i), 6)
		s.login(strings.Repeat("<img src=x onerror=alert(1)>", 1000)+fmt.Sprint(i), 6)
	}
	page := s.get("/ops/limits/").Body.String() +
		s.post("/ops/limits/look", url.Values{"limiter": {"login"}, "key": {`"><script>alert(1)</script>`}}).Body.String() +
		s.post("/ops/limits/look", url.Values{"limiter": {`<script>alert(1)</script>`}}).Body.String()
	assert.Contains(t, page, "&lt;script&gt;alert(")
	assert.NotContains(t, page, "<script>alert")
	assert.NotContains(t, page, "<img")
	assert.Less(t, len(page), 100<<10)
	assert.Equal(t, memory, s.data(t).Memory)
}

func TestTwoInstancesOnOneRedis(t *testing.T) {
	server := redistest.Start(t)
	instance := func() *site {
		client := redis.NewClient(&redis.Options{Addr: server.Addr})
		t.Cleanup(func() { _ = client.Close() })
		store, err := ratelimit.NewRedisStore(client)
		require.NoError(t, err)
		return newSite(ratelimit.WithStore(store))
	}
	one, two := instance(), instance()
	key := url.Values{"limiter": {"login"}, "key": {"bob"}, "confirm": {"yes"}}
	one.login("bob", 6)
	assert.Contains(t, two.post("/ops/limits/look", key).Body.String(), "Refused by 5/m")
	assert.Contains(t, one.post("/ops/limits/forgive", key).Body.String(), "Holds for all instances")
	page := two.post("/ops/limits/look", key).Body.String()
	assert.Contains(t, page, "5 of 5 tokens left")
	assert.Contains(t, page, "all instances")
}
