package browser

import (
	"context"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
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

func newSite(level console.Level) (*gin.Engine, *ratelimit.Limiter) {
	gin.SetMode(gin.TestMode)
	router := gin.New()
	limiter := ratelimit.Must(ratelimit.NewLimiter(
		ratelimit.WithName("login"),
		ratelimit.WithLimit(ratelimit.PerHour(5).Burst(5)),
		ratelimit.WithKeyFunc(func(c *gin.Context) string { return c.GetHeader("Name") })))
	router.POST("/login", limiter.Handle)
	console.Mount(router.Group(mounted), router, func(*gin.Context) console.Access {
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
			if !strings.HasSuffix(e.Entry.URL, "/favicon.ico") {
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
			b.do(chromedp.Navigate(serve(t, router)+mounted), look("bob"))
			assert.Contains(t, b.text(), "Refused by 5/h: 0 of 5 tokens left")
			b.do(chromedp.Click(`input[name="confirm"][type="checkbox"]`, chromedp.ByQuery), submit(`form[action$="forgive"] button`))
			assert.Contains(t, b.text(), "Forgiven")
			b.do(look("bob"))
			assert.Contains(t, b.text(), "5 of 5 tokens left")
			b.do(chromedp.Click("summary", chromedp.ByQuery),
				chromedp.SetValue(`form[action$="mode"] select`, "shadow", chromedp.ByQuery),
				chromedp.SetValue(`form[action$="mode"] input[name="confirm"]`, "login", chromedp.ByQuery),
				submit(`form[action$="mode"] button`))
			assert.Contains(t, b.text(), "This process only")
			assert.Equal(t, ratelimit.Shadow, limiter.Mode())
			b.quiet()
		})
	}
}

func TestBehindProxies(t *testing.T) {
	router, _ := newSite(console.Read)
	login(router, "bob", 7)
	stripped := serve(t, http.StripPrefix("/a/b", router))
	for name, address := range map[string]string{
		"prefix stripped":                    stripped + "/a/b" + mounted + "/",
		"prefix stripped, no trailing slash": stripped + "/a/b" + mounted,
		"no proxy":                           serve(t, router) + mounted + "/",
	} {
		t.Run(name, func(t *testing.T) {
			b := open(t)
			b.do(chromedp.Navigate(address), chromedp.WaitVisible("svg polyline", chromedp.ByQuery), look("bob"))
			assert.Contains(t, b.text(), "0 of 5 tokens left")
			b.quiet()
		})
	}
}

// Keys that clients choose are text, also where script puts them into the page.
func TestHostileKeysStayText(t *testing.T) {
	router, _ := newSite(console.Read)
	const hostile = `<img src=x onerror="document.title='owned'">`
	login(router, hostile, 9)
	b := open(t)
	var title, cell string
	var images int
	b.do(chromedp.Navigate(serve(t, router)+mounted), chromedp.WaitVisible("svg polyline", chromedp.ByQuery),
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
		chromedp.WaitVisible("svg polyline", chromedp.ByQuery),
		chromedp.Evaluate(`document.documentElement.scrollWidth`, &wide))
	assert.LessOrEqual(t, wide, 360)
}
