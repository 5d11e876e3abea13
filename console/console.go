// Package console is a page about the limiters of an engine: which routes they limit, why a client is refused, and who
// is refused most. It can forgive a key and switch a limiter's mode. Mount it behind the last route:
//
//	console.Mount(router.Group("/debug/ratelimit"), router, func(c *gin.Context) console.Access {
//		return console.Access{Level: console.Read, User: c.GetString("user")} // set by a middleware of your own
//	})
//
// It observes the limiters from then on. Counts, top lists and modes are those of this process. What it says of a key
// comes from the limiter's store, and the page says whether other instances share that.
//
// The page works without script. Its numbers are also at data.json under the same path; see [Data]. A key's digest is no
// anonymity: that of an IPv4 address can be found by trying all addresses.
package console

import (
	"embed"
	"fmt"
	"net/http"
	"net/url"
	"path"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/gin-gonic/gin"

	"github.com/gin-ratelimit/ratelimit"
)

// Level is what a viewer may do.
type Level int

// The levels. The zero Level is None.
const (
	None  Level = iota // nothing: 403 Forbidden
	Read               // see everything and look at keys
	Write              // forgive keys and switch modes as well
)

// Access is what one request may do; see [Mount]. The zero Access is none.
type Access struct {
	Level   Level
	User    string // whom the audit names, for example "ada"; up to 128 bytes are kept
	RawKeys bool   // show keys in the top lists as they are, up to 64 bytes, and not their digests alone: personal data
}

// Mount registers the console's routes on group and observes the limiters that are on the engine by then, so call it
// behind the last route. access is asked on every request, after the group's own middlewares; it may answer a request
// itself and abort it. Mount panics if an argument is nil. Create the group before engine.Use(limiter), or that limiter
// holds for the console as well.
//
// A client that reads faster than 10 requests a second gets 429. Every page has a strict Content-Security-Policy, and
// cross-site requests are refused.
func Mount(group *gin.RouterGroup, engine *gin.Engine, access func(*gin.Context) Access) {
	if group == nil || engine == nil || access == nil {
		panic(`console: Mount: needs a group, its engine and an access function, for example Mount(router.Group("/debug/ratelimit"), router, access)`)
	}
	k := &console{engine: engine, base: group.BasePath(), access: access, guard: http.NewCrossOriginProtection(), since: time.Now()}
	names := map[string]int{}
	seen := map[*ratelimit.Limiter]bool{}
	for _, r := range ratelimit.Routes(engine) {
		for _, l := range r.Limiters {
			if seen[l] {
				continue
			}
			seen[l] = true
			id := l.Name()
			if names[id]++; names[id] > 1 {
				id += "#" + strconv.Itoa(names[id])
			}
			k.watches = append(k.watches, newWatch(id, l, k.since))
		}
	}

	limiter := ratelimit.New(
		ratelimit.WithName("console"),
		ratelimit.WithLimit(ratelimit.PerSecond(10).Burst(60)),
		ratelimit.WithStore(ratelimit.NewMemoryStore(ratelimit.WithMaxKeys(1000))))
	g := group.Group("", secure, limiter, k.admit)
	if !strings.HasSuffix(group.BasePath(), "/") {
		g.GET("", func(c *gin.Context) { k.page(c, http.StatusOK, dirOf(c), &answer{}) })
	}
	g.GET("/", k.home)
	g.GET("/data.json", func(c *gin.Context) { c.JSON(http.StatusOK, k.data(accessOf(c))) })
	g.GET("/console.css", file("static/console.css", "text/css; charset=utf-8"))
	g.GET("/console.js", file("static/console.js", "text/javascript; charset=utf-8"))
	for name, handle := range map[string]gin.HandlerFunc{"/look": k.look, "/forgive": k.forgive, "/mode": k.mode} {
		g.POST(name, handle)
		g.GET(name, k.home) // For a viewer who loads the address of an answer again.
	}
}

//go:embed static
var static embed.FS

type console struct {
	engine  *gin.Engine
	base    string // the group's path
	access  func(*gin.Context) Access
	guard   *http.CrossOriginProtection
	since   time.Time
	watches []*watch
	audit   audit

	mu       sync.Mutex
	checked  time.Time
	warnings []Warning
}

const largestForm = 16 << 10

const accessKey = "github.com/gin-ratelimit/ratelimit/console.Access"

func accessOf(c *gin.Context) Access {
	a, _ := c.Get(accessKey)
	access, _ := a.(Access)
	return access
}

func secure(c *gin.Context) {
	h := c.Writer.Header()
	h.Set("Content-Security-Policy", "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "+
		"connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'")
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Cache-Control", "no-store")
	h.Set("Referrer-Policy", "no-referrer")
}

// admit refuses cross-site requests, and requests without access. Bodies are small: a form with a key.
func (k *console) admit(c *gin.Context) {
	if err := k.guard.Check(c.Request); err != nil {
		c.String(http.StatusForbidden, "console: refused a request from another site\n")
		c.Abort()
		return
	}
	a := k.access(c)
	if c.IsAborted() {
		return
	}
	if a.Level != Read && a.Level != Write {
		c.String(http.StatusForbidden, "console: no access\n")
		c.Abort()
		return
	}
	c.Set(accessKey, a)
	c.Request.Body = http.MaxBytesReader(c.Writer, c.Request.Body, largestForm)
}

func file(name, contentType string) gin.HandlerFunc {
	content, err := static.ReadFile(name)
	if err != nil {
		panic(fmt.Sprintf("console: embedded %s: %v", name, err))
	}
	return func(c *gin.Context) { c.Data(http.StatusOK, contentType, content) }
}

// dirOf is what relative URLs need before them at the address without a trailing slash. A redirect would need the
// prefix that a proxy has stripped, which nobody here knows.
func dirOf(c *gin.Context) string { return "./" + url.PathEscape(path.Base(c.Request.URL.Path)) + "/" }

func (k *console) home(c *gin.Context) { k.page(c, http.StatusOK, "./", &answer{}) }

// find returns the limiter of a form, or answers that there is none.
func (k *console) find(c *gin.Context) *watch {
	if err := c.Request.ParseForm(); err != nil {
		k.page(c, http.StatusBadRequest, "./", &answer{Error: fmt.Sprintf("The form cannot be read, and may have %d KiB: %v", largestForm>>10, err)})
		return nil
	}
	id := c.PostForm("limiter")
	for _, w := range k.watches {
		if w.id == id {
			return w
		}
	}
	k.page(c, http.StatusBadRequest, "./", &answer{Error: fmt.Sprintf("There is no limiter %q. Choose one of the list.", bounded(id))})
	return nil
}

func (k *console) look(c *gin.Context) {
	w := k.find(c)
	if w == nil {
		return
	}
	a := &answer{Limiter: w.id, Typed: c.PostForm("key")}
	a.Key = ratelimit.KeyOf(a.Typed).String()
	usage, err := w.limiter.Peek(c.Request.Context(), a.Typed)
	if err != nil {
		a.Error = "The store could not be asked: " + err.Error()
		k.page(c, http.StatusBadGateway, "./", a)
		return
	}
	a.Usage, a.Sentence, a.Scope = &usage, sentence(usage, w.limiter.Ban(), time.Now()), scopeOf(usage.Source)
	a.Note = noteOf(w.limiter, usage.Source)
	k.page(c, http.StatusOK, "./", a)
}

// mayWrite answers a viewer who may only read.
func (k *console) mayWrite(c *gin.Context) bool {
	if accessOf(c).Level == Write {
		return true
	}
	k.page(c, http.StatusForbidden, "./", &answer{Error: "You may read, but not change anything."})
	return false
}

func (k *console) forgive(c *gin.Context) {
	if !k.mayWrite(c) {
		return
	}
	w := k.find(c)
	if w == nil {
		return
	}
	a := &answer{Limiter: w.id, Typed: c.PostForm("key")}
	a.Key = ratelimit.KeyOf(a.Typed).String()
	if c.PostForm("confirm") != "yes" {
		a.Error = "Nothing has changed: tick the box to confirm."
		k.page(c, http.StatusBadRequest, "./", a)
		return
	}
	found, err := w.limiter.Reset(c.Request.Context(), a.Typed)
	line := Action{User: accessOf(c).User, Action: "forgive", Limiter: w.id, Key: a.Key, Outcome: "forgiven"}
	status := http.StatusOK
	_, scope := storeOf(w.limiter)
	switch {
	case err != nil && found: // A fallback, while its primary is down.
		line.Outcome, status = "forgiven here, failed elsewhere", http.StatusBadGateway
		a.Error = "Forgiven in the fallback of this process only. Do it again when the primary store answers: " + err.Error()
	case err != nil:
		line.Outcome, a.Error, status = "failed", "The key could not be forgiven: "+err.Error(), http.StatusBadGateway
	case !found:
		line.Outcome, a.Done = "nothing to forgive", "There was nothing to forgive. It may be another key that was meant."
	default:
		a.Done = "Forgiven: the buckets are full and no ban is left. Holds for " + scope + "."
	}
	k.audit.add(line)
	k.page(c, status, "./", a)
}

func (k *console) mode(c *gin.Context) {
	if !k.mayWrite(c) {
		return
	}
	w := k.find(c)
	if w == nil {
		return
	}
	a := &answer{Limiter: w.id}
	mode, ok := map[string]ratelimit.Mode{"enforce": ratelimit.Enforce, "shadow": ratelimit.Shadow, "off": ratelimit.Off}[c.PostForm("mode")]
	switch {
	case !ok:
		a.Error = "Nothing has changed: choose enforce, shadow or off."
	case c.PostForm("confirm") != w.id:
		a.Error = fmt.Sprintf("Nothing has changed: type %q to confirm.", w.id)
	}
	if a.Error != "" {
		k.page(c, http.StatusBadRequest, "./", a)
		return
	}
	user, outcome := bounded(accessOf(c).User), mode.String()
	back := c.PostForm("back") == "yes"
	if back {
		outcome += ", back after 15 min"
	}
	w.setMode(mode, back, func(before ratelimit.Mode) {
		k.audit.add(Action{User: user, Action: "mode", Limiter: w.id, Outcome: "back to " + before.String()})
	})
	k.audit.add(Action{User: user, Action: "mode", Limiter: w.id, Outcome: outcome})
	a.Done = "The mode of " + w.id + " is " + outcome + ". This process only: other instances keep theirs."
	k.page(c, http.StatusOK, "./", a)
}
