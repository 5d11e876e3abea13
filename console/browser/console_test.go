package browser

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/cdproto/log"
	"github.com/chromedp/cdproto/runtime"
	"github.com/chromedp/chromedp"
	"github.com/gin-gonic/gin"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/gin-ratelimit/ratelimit"
	"github.com/gin-ratelimit/ratelimit/console"
)

const mounted = "/ops/limits"

func TestMain(m *testing.M) {
	gin.SetMode(gin.TestMode)
	m.Run()
}

// newSite is an engine with a limiter on one of two routes, keyed by the header Name, and a console.
func newSite(level console.Level) (*gin.Engine, *ratelimit.Limiter) { return newSiteAt(mounted, level) }

func newSiteAt(path string, level console.Level) (*gin.Engine, *ratelimit.Limiter) {
	router := gin.New()
	limiter := ratelimit.Must(ratelimit.NewLimiter(
		ratelimit.WithName("login"),
		ratelimit.WithLimit(ratelimit.PerHour(5).Burst(5)),
		ratelimit.WithBan(ratelimit.Ban{After: 20, Within: time.Hour, For: 2 * time.Hour}),
		ratelimit.WithKeyFunc(func(c *gin.Context) string { return c.GetHeader("Name") })))
	router.POST("/login", limiter.Handle)
	router.GET("/free", func(*gin.Context) {})
	console.Mount(router.Group(path), router, func(*gin.Context) console.Access {
		return console.Access{Level: level, User: "ada", RawKeys: true}
	})
	return router, limiter
}

func login(router http.Handler, name string, times int) {
	for range times {
		r := httptest.NewRequest(http.MethodPost, "/login", http.NoBody)
		r.Header.Set("Name", name)
		router.ServeHTTP(httptest.NewRecorder(), r)
	}
}

func serve(t *testing.T, h http.Handler) string {
	t.Helper()
	server := httptest.NewServer(h)
	t.Cleanup(server.Close)
	return server.URL
}

// tab is a tab of a browser, and what it complained about: errors of scripts, and violations of the policy.
type tab struct {
	t   *testing.T
	ctx context.Context

	mu         sync.Mutex
	complaints []string
}

func open(t *testing.T) *tab {
	t.Helper()
	binary, err := exec.LookPath("chromium")
	if err != nil {
		if os.Getenv("REQUIRE_CHROMIUM") != "" {
			t.Fatal(err)
		}
		t.Skip("needs Chromium: apt-get install chromium")
	}
	options := append(chromedp.DefaultExecAllocatorOptions[:], chromedp.ExecPath(binary), chromedp.NoSandbox)
	ctx, cancel := chromedp.NewExecAllocator(context.Background(), options...)
	t.Cleanup(cancel)
	ctx, cancel = chromedp.NewContext(ctx)
	t.Cleanup(cancel)
	ctx, cancel = context.WithTimeout(ctx, time.Minute)
	t.Cleanup(cancel)
	b := &tab{t: t, ctx: ctx}
	chromedp.ListenTarget(ctx, func(event any) {
		b.mu.Lock()
		defer b.mu.Unlock()
		switch e := event.(type) {
		case *log.EventEntryAdded:
			answer := strings.Contains(e.Entry.Text, "status of 400") // The page says what is wrong.
			if !answer && !strings.HasSuffix(e.Entry.URL, "/favicon.ico") {
				b.complaints = append(b.complaints, e.Entry.Text)
			}
		case *runtime.EventExceptionThrown:
			b.complaints = append(b.complaints, e.ExceptionDetails.Error())
		}
	})
	b.do(log.Enable())
	return b
}

func (b *tab) do(actions ...chromedp.Action) {
	b.t.Helper()
	require.NoError(b.t, chromedp.Run(b.ctx, actions...))
}

func (b *tab) text() (text string) {
	b.t.Helper()
	b.do(chromedp.Text("body", &text, chromedp.ByQuery))
	return text
}

func (b *tab) quiet() {
	b.t.Helper()
	b.mu.Lock()
	defer b.mu.Unlock()
	assert.Empty(b.t, b.complaints)
}

// scripted waits until the script has refreshed the numbers: it asks for them as soon as it runs.
func scripted() chromedp.Action {
	return chromedp.Poll(`performance.getEntriesByType("resource").some((e) => e.name.endsWith("/data.json") && e.responseEnd > 0)`, nil)
}

// look types a key and sends the form.
func look(key string) chromedp.Action {
	return chromedp.Tasks{
		chromedp.SetValue(`#key input[name="key"]`, key, chromedp.ByQuery),
		submit(`#key form[action$="look"] button`),
	}
}

// submit clicks and waits for the page that answers.
func submit(button string) chromedp.Action {
	return chromedp.ActionFunc(func(ctx context.Context) error {
		_, err := chromedp.RunResponse(ctx, chromedp.Click(button, chromedp.ByQuery))
		return err
	})
}

func TestLookForgiveAndSwitch(t *testing.T) {
	for name, script := range map[string]bool{"with script": true, "without script": false} {
		t.Run(name, func(t *testing.T) {
			router, limiter := newSite(console.Write)
			login(router, "bob", 7)
			b := open(t)
			if !script {
				b.do(emulation.SetScriptExecutionDisabled(true))
			}
			address := serve(t, router) + mounted
			b.do(chromedp.Navigate(address), look("bob"))
			assert.Contains(t, b.text(), "Refused by 5/h: 0 of 5 tokens left")
			assert.Contains(t, b.text(), "Not banned: 2 of 20 strikes")
			b.do(chromedp.Click(`input[name="confirm"][type="checkbox"]`, chromedp.ByQuery), submit(`form[action$="forgive"] button`))
			assert.Contains(t, b.text(), "Forgiven")
			b.do(look("bob"))
			assert.Contains(t, b.text(), "5 of 5 tokens left")
			b.do(chromedp.Click("summary", chromedp.ByQuery),
				chromedp.SetValue(`details select[name="mode"]`, "shadow", chromedp.ByQuery),
				chromedp.SetValue(`details input[name="confirm"]`, "logi", chromedp.ByQuery),
				submit(`details button`))
			assert.Contains(t, b.text(), `type "login" to confirm`)
			assert.Equal(t, ratelimit.Enforce, limiter.Mode(), "without confirmation")
			b.do(chromedp.Click("summary", chromedp.ByQuery),
				chromedp.SetValue(`details select[name="mode"]`, "shadow", chromedp.ByQuery),
				chromedp.SetValue(`details input[name="confirm"]`, "login", chromedp.ByQuery),
				submit(`details button`))
			assert.Contains(t, b.text(), "This process only")
			assert.Contains(t, b.text(), "The mode goes back at")
			assert.Equal(t, ratelimit.Shadow, limiter.Mode())
			login(router, "bob", 8)
			b.do(chromedp.Navigate(address))
			assert.Contains(t, b.text(), "Enforce would have refused 3 of the 15 requests")
			b.do(chromedp.SetValue(`.shadow-report input[name="confirm"]`, "login", chromedp.ByQuery), submit(`.shadow-report button`))
			assert.Equal(t, ratelimit.Enforce, limiter.Mode())
			b.quiet()
		})
	}
}

func TestBehindProxies(t *testing.T) {
	router, _ := newSite(console.Read)
	login(router, "bob", 7)
	stripped := serve(t, http.StripPrefix("/a/b", router))
	keeping, _ := newSiteAt("/a/b"+mounted, console.Read)
	login(keeping, "bob", 7)
	kept := serve(t, keeping)
	for name, address := range map[string]string{
		"prefix stripped":                    stripped + "/a/b" + mounted + "/",
		"prefix stripped, no trailing slash": stripped + "/a/b" + mounted,
		"prefix kept":                        kept + "/a/b" + mounted + "/",
		"prefix kept, no trailing slash":     kept + "/a/b" + mounted,
		"no proxy":                           serve(t, router) + mounted + "/",
	} {
		t.Run(name, func(t *testing.T) {
			b := open(t)
			b.do(chromedp.Navigate(address), scripted(), look("bob"))
			assert.Contains(t, b.text(), "0 of 5 tokens left")
			b.quiet()
		})
	}
}

// The page shows which limiter stands where, before any traffic, and the state of each kind of key.
func TestRoutesAndKeys(t *testing.T) {
	router, _ := newSite(console.Read)
	b := open(t)
	b.do(chromedp.Navigate(serve(t, router) + mounted))
	var routes string
	b.do(chromedp.Text("#routes tbody", &routes, chromedp.ByQuery))
	assert.Regexp(t, `GET /free\s+no limiter`, routes)
	assert.Regexp(t, `POST /login\s+login`, routes)
	login(router, "drained", 6)
	login(router, "banned", 40)
	for key, want := range map[string]string{
		"drained": "Refused by 5/h: 0 of 5 tokens left",
		"banned":  "Banned until ",
		"unknown": "The store holds nothing for this key",
	} {
		b.do(look(key))
		assert.Contains(t, b.text(), want)
	}
	b.quiet()
}

// A viewer who may read sees no button that changes something, and a request made by hand is refused.
func TestReadOnly(t *testing.T) {
	router, limiter := newSite(console.Read)
	login(router, "bob", 7)
	b := open(t)
	b.do(chromedp.Navigate(serve(t, router)+mounted+"/"), look("bob"))
	var dangers int
	var statuses []int
	b.do(chromedp.Evaluate(`document.querySelectorAll(".danger").length`, &dangers),
		chromedp.Evaluate(`(async () => {
			const post = async (path, form) => (await fetch(path, { method: "POST", body: new URLSearchParams(form) })).status;
			return [await post("forgive", { limiter: "login", key: "bob", confirm: "yes" }), await post("mode", { limiter: "login", mode: "off", confirm: "login" })];
		})()`, &statuses, func(p *runtime.EvaluateParams) *runtime.EvaluateParams { return p.WithAwaitPromise(true) }))
	assert.Zero(t, dangers)
	assert.Equal(t, []int{http.StatusForbidden, http.StatusForbidden}, statuses)
	assert.Equal(t, ratelimit.Enforce, limiter.Mode())
	usage, err := limiter.Peek(t.Context(), "bob")
	require.NoError(t, err)
	assert.Zero(t, usage.Limits[0].Remaining)
}

// A form on another site, sent by a viewer who may write, changes nothing.
func TestCrossSitePost(t *testing.T) {
	router, limiter := newSite(console.Write)
	login(router, "bob", 7)
	target := serve(t, router) + mounted + "/forgive"
	evil := serve(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/html")
		_, _ = fmt.Fprintf(w, `<form method="post" action="%s"><input name="limiter" value="login"><input name="key" value="bob">
			<input name="confirm" value="yes"><button>You have won</button></form>`, target)
	}))
	b := open(t)
	b.do(chromedp.Navigate(strings.Replace(evil, "127.0.0.1", "localhost", 1)), submit("button"))
	assert.Contains(t, b.text(), "refused a request from another site")
	usage, err := limiter.Peek(t.Context(), "bob")
	require.NoError(t, err)
	assert.Zero(t, usage.Limits[0].Remaining)
}

// In both colour schemes the page has no serious or critical finding of axe-core, contrast included.
func TestAccessibility(t *testing.T) {
	axe := axeCore(t)
	router, limiter := newSite(console.Write)
	login(router, "bob", 30)
	limiter.SetMode(ratelimit.Shadow)
	login(router, "eve", 7)
	address := serve(t, router) + mounted
	backgrounds := map[string]string{}
	for _, scheme := range []string{"light", "dark"} {
		b := open(t)
		var findings []string
		var background string
		b.do(emulation.SetEmulatedMedia().WithFeatures([]*emulation.MediaFeature{{Name: "prefers-color-scheme", Value: scheme}}),
			chromedp.Navigate(address), scripted(), look("bob"), chromedp.Click("summary", chromedp.ByQuery),
			chromedp.Evaluate(axe, nil),
			chromedp.Evaluate(`axe.run().then((r) => r.violations.filter((v) => ["serious", "critical"].includes(v.impact))
				.map((v) => v.id + ": " + v.nodes.map((n) => n.target).join(" ")))`, &findings,
				func(p *runtime.EvaluateParams) *runtime.EvaluateParams { return p.WithAwaitPromise(true) }),
			chromedp.Evaluate(`getComputedStyle(document.body).backgroundColor`, &background))
		assert.Empty(t, findings, scheme)
		backgrounds[scheme] = background
		b.quiet()
	}
	assert.NotEqual(t, backgrounds["light"], backgrounds["dark"])
}

// axeCore is the source of axe-core, as npm has it.
func axeCore(t *testing.T) string {
	t.Helper()
	if _, err := exec.LookPath("npm"); err != nil {
		t.Skip("needs npm, to get axe-core")
	}
	dir := t.TempDir()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	install := exec.CommandContext(ctx, "npm", "install", "--prefix", dir, "--ignore-scripts", "--no-audit", "--no-fund", "axe-core@4.14.1")
	if out, err := install.CombinedOutput(); err != nil {
		t.Skipf("npm cannot get axe-core: %v: %s", err, out)
	}
	source, err := os.ReadFile(filepath.Join(dir, "node_modules", "axe-core", "axe.min.js"))
	require.NoError(t, err)
	return string(source)
}

// The script draws the curves that the server has drawn.
func TestCurvesOfScriptAndServer(t *testing.T) {
	router, _ := newSite(console.Read)
	b := open(t)
	b.do(chromedp.Navigate(serve(t, router)+mounted+"/"), scripted())
	login(router, "bob", 7)
	same := false
	// They agree where both have asked in the same second.
	b.do(chromedp.Evaluate(`(async () => {
		const curves = (doc) => [...doc.querySelectorAll("figure")].map((f) => f.innerHTML.replaceAll(/\s+/g, " ")).join();
		for (let tries = 0; tries < 60; tries++) {
			const page = await (await fetch("./")).text();
			const fresh = curves(new DOMParser().parseFromString(page, "text/html"));
			if (fresh.includes("at most 5 a minute") && fresh === curves(document)) return true;
			await new Promise((resolve) => setTimeout(resolve, 250));
		}
		return false;
	})()`, &same, func(p *runtime.EvaluateParams) *runtime.EvaluateParams { return p.WithAwaitPromise(true) }))
	assert.True(t, same)
	b.quiet()
}

// Keys that clients choose are text, also where script puts them into the page.
func TestHostileKeysStayText(t *testing.T) {
	router, _ := newSite(console.Read)
	const hostile = `<img src=x onerror="document.title='owned'">`
	login(router, hostile, 9)
	b := open(t)
	var title, cell string
	var images int
	b.do(chromedp.Navigate(serve(t, router)+mounted), scripted(),
		chromedp.Title(&title), chromedp.Text(`[data-top="top_1h"]`, &cell, chromedp.ByQuery),
		chromedp.Evaluate(`document.images.length`, &images))
	assert.Equal(t, "Rate limits", title)
	assert.Contains(t, cell, hostile)
	assert.Zero(t, images)
	b.quiet()
}

func TestPhoneWidth(t *testing.T) {
	router, _ := newSite(console.Write)
	login(router, strings.Repeat("long", 16), 9)
	b := open(t)
	var wide int
	b.do(chromedp.EmulateViewport(360, 740), chromedp.Navigate(serve(t, router)+mounted),
		scripted(),
		chromedp.Evaluate(`document.documentElement.scrollWidth`, &wide))
	assert.LessOrEqual(t, wide, 360)
}
