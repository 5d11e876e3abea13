package console_test

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"runtime"
	"strings"
	"testing"
	"testing/synctest"
	"time"
	"unicode/utf8"

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
	return newSiteWith(append(opts, ratelimit.WithLimit(ratelimit.PerMinute(5).Burst(5)))...)
}

// newSiteWith is newSite with a limit among opts.
func newSiteWith(opts ...ratelimit.Option) *site {
	s := &site{router: gin.New(), access: console.Access{Level: console.Write, User: "ada"}}
	_ = s.router.SetTrustedProxies(nil)
	s.limiter = ratelimit.Must(ratelimit.NewLimiter(append([]ratelimit.Option{
		ratelimit.WithName("login"),
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
			Shadow console.Clients  `json:"shadow_clients"`
			Second console.Curves   `json:"seconds"`
			Minute console.Curves   `json:"minutes"`
			Top    []console.TopKey `json:"top_1h"`
		} `json:"limiters"`
		Routes []console.Route  `json:"routes"`
		Memory int              `json:"memory_bytes"`
		Audit  []console.Action `json:"audit"`
	}
	require.NoError(t, json.Unmarshal(w.Body.Bytes(), &plain))
	for _, l := range plain.Limiters {
		d.Limiters = append(d.Limiters, console.Limiter{ID: l.ID, Totals: l.Totals, Shadow: l.Shadow, Seconds: l.Second, Minutes: l.Minute, Top1h: l.Top})
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
	assert.Contains(t, look("drained"), "Not banned: 1 of 3 strikes.")
	assert.Contains(t, look("banned"), "Banned until ")
	assert.Contains(t, look("unknown"), "The store holds nothing for this key")
	assert.Contains(t, look("drained"), "this process")

	form := url.Values{"limiter": {"login"}, "key": {"banned"}}
	assert.Equal(t, http.StatusBadRequest, s.post("/ops/limits/forgive", form).Code, "without confirmation")
	assert.Contains(t, look("banned"), "Banned until ")
	form.Set("confirm", "yes")
	w := s.post("/ops/limits/forgive", form)
	assert.Contains(t, w.Body.String(), "Forgiven")
	assert.NotContains(t, look("banned"), "Banned until")

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
		s.login("eve", 6)
		l := s.data(t).Limiters[0]
		assert.Equal(t, console.Counts{Accepted: 10, Shadow: 4}, l.Totals)
		assert.Equal(t, console.Clients{Count: 2}, l.Shadow)
		page := s.get("/ops/limits/").Body.String()
		assert.Contains(t, page, `Enforce would have refused <span data-field="shadow_refused">4</span> of the <span data-field="all">14</span>`)
		assert.Contains(t, page, `by <span data-field="shadow_clients">2</span> clients`)
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
		minutes := s.data(t).Limiters[0].Minutes.Accepted
		assert.Len(t, minutes, 61)
		assert.Equal(t, []uint64{7, 1}, []uint64{minutes[0], minutes[60]})
		page := s.get("/ops/limits/").Body.String()
		assert.Contains(t, page, "Last 15 minutes by the second, at most 1 a second")
		assert.Contains(t, page, "Last 24 hours by the minute, at most 7 a minute")
		assert.Contains(t, page, `d="M0 98h899v-96h1"`)
		assert.Contains(t, page, `d="M0 98h1379v-96h1v96h59v-14h1"`)
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

// refuser refuses whatever it is asked, and keeps nothing.
type refuser struct{ ratelimit.Store }

func (refuser) Take(_ context.Context, _ string, take ratelimit.Take) (ratelimit.Result, error) {
	return ratelimit.Result{Limit: take.Limits[0], RetryAfter: time.Second}, nil
}

// What clients send is text on the page, whatever it is, and takes no memory beyond what the console states.
func TestHostileText(t *testing.T) {
	heap := func() int {
		var m runtime.MemStats
		for range 3 { // A sync.Pool keeps what it held for two.
			runtime.GC()
		}
		runtime.ReadMemStats(&m)
		return int(m.HeapAlloc)
	}
	before := heap()
	s := newSite(ratelimit.WithStore(refuser{}))
	s.access.RawKeys, s.access.User = true, `<script>alert("user")</script>`
	hostile := []string{
		`<script>alert(1)</script>`, `"><img src=x onerror=alert(1)>`, `' autofocus onfocus='alert(1)`, `</tbody></table><script>alert(1)</script>`,
		"nul\x00", "bytes\xff\xfe\xc0\x80", "\u202egnp.exe\u2066", "{{.}}${7*7}", "javascript:alert(1)", "\r\nSet-Cookie: a=b", strings.Repeat("\u0301", 30),
	}
	volume := 0
	send := func(key, path string) {
		r := httptest.NewRequest(http.MethodPost, "/login", http.NoBody)
		r.URL.Path = path
		r.Header.Set("Name", key)
		r.Header.Set("X-Forwarded-For", key)
		r.Header.Set("User-Agent", key)
		s.send(r)
		volume += len(key) + len(path)
	}
	for i, text := range hostile {
		for range 5 {
			send(text, "/login")
		}
		s.access.User = text
		for _, path := range []string{"/look", "/forgive", "/mode"} {
			form := url.Values{"limiter": {text}, "key": {text}, "confirm": {text}, "mode": {text}}
			assert.Equal(t, http.StatusBadRequest, s.post("/ops/limits"+path, form).Code)
			if i < 2 {
				form = url.Values{"limiter": {"login"}, "key": {strings.Repeat(text, 1<<20/len(text))}}
				page := s.post("/ops/limits"+path, form)
				assert.Equal(t, http.StatusBadRequest, page.Code)
				assert.Less(t, page.Body.Len(), 100<<10)
			}
		}
		send("", "/"+text)
	}
	for i := 0; volume < 100<<20; i++ {
		text := hostile[i%len(hostile)]
		send(strings.Repeat(text, 1<<20/len(text)), "/login")
		for j := range 1000 {
			send(text+fmt.Sprint(i, j), "/login")
		}
	}

	for _, text := range hostile {
		for range 20 {
			send(text, "/login") // So that the top list shows it.
		}
	}

	page := s.get("/ops/limits/").Body.String()
	assert.Contains(t, page, "&lt;script&gt;alert(")
	for _, forbidden := range []string{"<script>", "<img", "\x00", "autofocus onfocus='"} {
		assert.NotContains(t, page, forbidden)
	}
	assert.Less(t, len(page), 100<<10)
	text := s.get("/ops/limits/data.json").Body.Bytes()
	assert.True(t, json.Valid(text) && utf8.Valid(text))
	assert.Less(t, len(text), 100<<10)
	assert.Less(t, heap()-before, s.data(t).Memory+256<<10)
	assert.NotNil(t, s.router) // Lives until here.
}

// answer is what look.json says.
type answer struct {
	Sentence string          `json:"sentence"`
	Scope    string          `json:"scope"`
	Note     string          `json:"note"`
	Usage    json.RawMessage `json:"usage"`
}

func (s *site) look(t *testing.T, key string) (a answer) {
	t.Helper()
	w := s.post("/ops/limits/look", url.Values{"limiter": {"login"}, "key": {key}}, "Accept", "application/json")
	require.Equal(t, http.StatusOK, w.Code, w.Body)
	require.NoError(t, json.Unmarshal(w.Body.Bytes(), &a))
	return a
}

func redisStore(t *testing.T, client *redis.Client, opts ...ratelimit.RedisOption) *ratelimit.RedisStore {
	t.Helper()
	store, err := ratelimit.NewRedisStore(client, append([]ratelimit.RedisOption{ratelimit.WithTimeout(20 * time.Second)}, opts...)...)
	require.NoError(t, err)
	return store
}

func TestTwoInstancesOnOneRedis(t *testing.T) {
	server := redistest.Start(t)
	one := newSite(ratelimit.WithStore(redisStore(t, server.Client())))
	two := newSite(ratelimit.WithStore(redisStore(t, server.Client())))
	key := url.Values{"limiter": {"login"}, "key": {"bob"}, "confirm": {"yes"}}
	one.login("bob", 6)
	assert.Contains(t, two.look(t, "bob").Sentence, "Refused by 5/m")
	assert.Contains(t, one.post("/ops/limits/forgive", key).Body.String(), "Holds for all instances")
	after := two.look(t, "bob")
	assert.Contains(t, after.Sentence, "5 of 5 tokens left")
	assert.Equal(t, "all instances", after.Scope)
}

// While the primary is down, the page says whose state it shows and where a key was forgiven.
func TestFallbackStore(t *testing.T) {
	server := redistest.Start(t)
	store, err := ratelimit.NewFallbackStore(redisStore(t, server.Client(), ratelimit.WithDenyCache(0)), ratelimit.NewMemoryStore(),
		ratelimit.WithShare(0.5), ratelimit.WithTripAfter(1), ratelimit.WithCoolOff(time.Hour))
	require.NoError(t, err)
	s := newSite(ratelimit.WithStore(store))
	forgive := func() *httptest.ResponseRecorder {
		return s.post("/ops/limits/forgive", url.Values{"limiter": {"login"}, "key": {"bob"}, "confirm": {"yes"}})
	}
	s.login("bob", 6)
	up := s.look(t, "bob")
	assert.Contains(t, up.Sentence, "0 of 5 tokens left")
	assert.Equal(t, "all instances", up.Scope)
	assert.Empty(t, up.Note)
	assert.Contains(t, s.get("/ops/limits/").Body.String(), "primary, with a fallback (all instances)")

	server.Kill()
	s.login("bob", 3)
	down := s.look(t, "bob")
	assert.Contains(t, down.Sentence, "0 of 2 tokens left")
	assert.Equal(t, "this process", down.Scope)
	assert.Contains(t, down.Note, "The primary store does not answer. This is what the fallback holds")
	assert.Contains(t, s.post("/ops/limits/look", url.Values{"limiter": {"login"}, "key": {"bob"}}).Body.String(), down.Note)
	assert.Contains(t, s.get("/ops/limits/").Body.String(), "fallback, because the primary store is down (this process)")

	w := forgive()
	assert.Equal(t, http.StatusBadGateway, w.Code)
	assert.Contains(t, w.Body.String(), "Forgiven in the fallback of this process only.")
	assert.Equal(t, "forgiven here, failed elsewhere", s.data(t).Audit[0].Outcome)
	assert.Contains(t, s.look(t, "bob").Sentence, "2 of 2 tokens left")
	w = forgive()
	assert.Equal(t, http.StatusBadGateway, w.Code)
	assert.Contains(t, w.Body.String(), "The key could not be forgiven: ")
	assert.Equal(t, "failed", s.data(t).Audit[0].Outcome)
}

// What a process holds on lease is left for it, and not for others.
func TestLeases(t *testing.T) {
	server := redistest.Start(t, redistest.WithClock())
	server.Clock().Freeze(time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC))
	limit := ratelimit.WithLimit(ratelimit.Limit{Capacity: 100_000, Refill: ratelimit.PerMinute(1)})
	leased := redisStore(t, server.Client(), ratelimit.WithLease(time.Second))
	one := newSiteWith(ratelimit.WithStore(leased), limit)
	two := newSiteWith(ratelimit.WithStore(redisStore(t, server.Client())), limit)
	assert.Contains(t, one.get("/ops/limits/").Body.String(), "buckets in Redis (all instances)")

	taken := 0
	for leased.LeaseStats().Spent == 0 {
		one.login("bob", 1)
		taken++
		require.Less(t, taken, 10_000, "never leased")
	}
	held := int(leased.LeaseStats().Leased) - 1
	require.Positive(t, held)
	here, there := one.look(t, "bob"), two.look(t, "bob")
	assert.Contains(t, here.Sentence, fmt.Sprintf("Allowed by 1/m burst 100000: %d of 100000 tokens left", 100_000-taken))
	assert.Contains(t, there.Sentence, fmt.Sprintf("%d of 100000 tokens left", 100_000-taken-held))
	assert.Equal(t, "all instances", here.Scope)
	assert.Equal(t, "Tokens that this process holds on lease count as left here; other instances do not see them.", here.Note)
	assert.Empty(t, there.Note)
	assert.Contains(t, one.get("/ops/limits/").Body.String(), fmt.Sprintf("buckets in Redis, with %d tokens on lease to this process (all instances)", held))

	key := url.Values{"limiter": {"login"}, "key": {"bob"}, "confirm": {"yes"}}
	assert.Contains(t, one.post("/ops/limits/forgive", key).Body.String(), "Forgiven")
	assert.Contains(t, one.look(t, "bob").Sentence, "100000 of 100000 tokens left")
	assert.Contains(t, two.look(t, "bob").Sentence, "100000 of 100000 tokens left")
}
