package console

import (
	"bytes"
	"fmt"
	"html/template"
	"net/http"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/gin-gonic/gin"

	"github.com/gin-ratelimit/ratelimit"
)

// Data is the JSON at data.json. Its names are stable. All of it is about this process alone.
type Data struct {
	Instance string    `json:"instance"` // host and process, for example "web-1:4711"
	Since    time.Time `json:"since"`    // when the console began to observe
	Now      time.Time `json:"now"`
	Memory   int       `json:"memory_bytes"` // what the observed numbers take, fixed by Mount
	Limiters []Limiter `json:"limiters"`
	Routes   []Route   `json:"routes"`   // without the console's own
	Warnings []Warning `json:"warnings"` // of ratelimit.Check, up to a minute old
	Audit    []Action  `json:"audit"`    // newest first, up to 100
}

// Limiter is a limiter of [Data].
type Limiter struct {
	ID      string            `json:"id"` // the name; "name#2" for the second of a name
	Limits  []ratelimit.Limit `json:"limits"`
	Ban     *Ban              `json:"ban"` // null: none
	Mode    string            `json:"mode"`
	Until   *time.Time        `json:"mode_until"` // when the mode goes back by itself, or null
	Store   string            `json:"store"`
	Scope   string            `json:"scope"` // who shares the buckets: "this process" or "all instances"
	Totals  Counts            `json:"totals"`
	Shadow  Clients           `json:"shadow_clients"` // that Enforce would have refused, by key
	Seconds Curves            `json:"seconds"`        // up to 15 minutes, oldest first; the last second is not over
	Minutes Curves            `json:"minutes"`        // up to 24 hours
	Top5m   []TopKey          `json:"top_5m"`         // key, raw, at_least and at_most, of up to 10 keys that were refused or shadow-refused
	Top1h   []TopKey          `json:"top_1h"`
}

// Ban is the ratelimit.Ban of a limiter. Times are in seconds.
type Ban struct {
	After  int     `json:"after"`
	Within float64 `json:"within"`
	For    float64 `json:"for"`
	Max    float64 `json:"max"`
}

// Clients is how many clients there were since the console was mounted: exactly up to 511, and beyond as an estimate.
type Clients struct {
	Count uint64  `json:"count"`
	Error float64 `json:"relative_error"` // the standard error, as a part of Count: 0 if that is exact, else 0.044
}

// Counts are decisions since the console was mounted.
type Counts struct {
	Accepted uint64 `json:"accepted"`
	Refused  uint64 `json:"refused"`
	Shadow   uint64 `json:"shadow_refused"`
	Failed   uint64 `json:"failed"`
}

// Curves are decisions by time.
type Curves struct {
	Accepted []uint64 `json:"accepted"`
	Refused  []uint64 `json:"refused"`
	Shadow   []uint64 `json:"shadow_refused"`
	Failed   []uint64 `json:"failed"`
}

// Route is a route of [Data].
type Route struct {
	Method   string    `json:"method"`
	Path     string    `json:"path"` // the pattern; "" for requests that match no route
	Limiters []string  `json:"limiters"`
	Warnings []Warning `json:"-"`
}

// Warning is a ratelimit.Warning.
type Warning struct {
	Code    string `json:"code"`
	Subject string `json:"subject"`
	Message string `json:"message"`
	Fix     string `json:"fix"`
}

// ownPaths are the console's, below its group. The route map would drown in them.
var ownPaths = []string{"", "/", "/data.json", "/console.css", "/console.js", "/look", "/forgive", "/mode"}

func (k *console) data(access Access) Data {
	host, _ := os.Hostname()
	d := Data{
		Instance: host + ":" + strconv.Itoa(os.Getpid()),
		Since:    k.since,
		Now:      time.Now(),
		Memory:   len(k.watches) * watchBytes,
		Limiters: make([]Limiter, 0, len(k.watches)),
		Warnings: k.check(),
		Audit:    k.audit.last(),
	}
	ids := map[*ratelimit.Limiter]string{}
	for _, w := range k.watches {
		ids[w.limiter] = w.id
		t, s, m := w.counts.curves()
		store, scope := storeOf(w.limiter)
		l := Limiter{
			ID: w.id, Limits: w.limiter.Limits(), Mode: w.limiter.Mode().String(), Store: store, Scope: scope,
			Totals:  Counts{t[accepted], t[refused], t[shadow], t[failed]},
			Seconds: Curves{s[accepted], s[refused], s[shadow], s[failed]},
			Minutes: Curves{m[accepted], m[refused], m[shadow], m[failed]},
			Top5m:   w.top.last(5, access.RawKeys), Top1h: w.top.last(topMinutes, access.RawKeys),
		}
		l.Shadow.Count, l.Shadow.Error = w.top.shadowClients()
		if b := w.limiter.Ban(); b.After > 0 {
			l.Ban = &Ban{b.After, b.Within.Seconds(), b.For.Seconds(), b.Max.Seconds()}
		}
		if until := w.returnsAt(); !until.IsZero() {
			l.Until = &until
		}
		d.Limiters = append(d.Limiters, l)
	}
	for _, r := range ratelimit.Routes(k.engine) {
		if own := strings.TrimPrefix(r.Path, strings.TrimSuffix(k.base, "/")); own != r.Path && slices.Contains(ownPaths, own) {
			continue
		}
		route := Route{Method: r.Method, Path: r.Path, Limiters: []string{}}
		for _, l := range r.Limiters {
			id, ok := ids[l]
			if !ok {
				id = l.Name() // The console's own, or one that came after Mount.
			}
			route.Limiters = append(route.Limiters, id)
		}
		for _, w := range d.Warnings {
			if name := r.Method + " " + r.Path; w.Subject == name || strings.HasSuffix(w.Subject, " on "+name) {
				route.Warnings = append(route.Warnings, w)
			}
		}
		d.Routes = append(d.Routes, route)
	}
	return d
}

// check is ratelimit.Check, at most once a minute, since it may ask Redis.
func (k *console) check() []Warning {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.checked.IsZero() || time.Since(k.checked) > time.Minute {
		k.warnings = []Warning{}
		for _, w := range ratelimit.Check(k.engine) {
			k.warnings = append(k.warnings, Warning{string(w.Code), w.Subject, w.Message, w.Fix})
		}
		k.checked = time.Now()
	}
	return k.warnings
}

type topTable struct {
	ID, Span, Field string
	Keys            []TopKey
}

// answer is what came of a form.
type answer struct {
	Limiter, Typed, Key string
	Usage               *ratelimit.Usage
	Sentence            string
	Scope, Note         string
	Done, Error         string
}

var pageTemplate = template.Must(template.New("page.html").Funcs(template.FuncMap{
	"span":    span,
	"top":     func(id, span, field string, keys []TopKey) topTable { return topTable{id, span, field, keys} },
	"sum":     func(c Counts) uint64 { return c.Accepted + c.Refused + c.Shadow + c.Failed },
	"time":    clock,
	"figures": figures,
	"percent": func(part float64) string { return fmt.Sprintf("%.0f", 100*part) },
	"seconds": func(s float64) string { return span(time.Duration(s * float64(time.Second))) },
	"kib":     func(bytes int) int { return (bytes + 1023) / 1024 },
}).ParseFS(static, "static/page.html"))

func (k *console) page(c *gin.Context, status int, dir string, a *answer) {
	if status == http.StatusOK && a.Usage != nil && strings.Contains(c.GetHeader("Accept"), "application/json") {
		c.JSON(status, gin.H{"limiter": a.Limiter, "key": a.Key, "sentence": a.Sentence, "scope": a.Scope, "note": a.Note, "usage": a.Usage})
		return
	}
	access := accessOf(c)
	var page bytes.Buffer
	err := pageTemplate.Execute(&page, struct {
		Data
		Dir    string
		Write  bool
		User   string
		Answer *answer
	}{k.data(access), dir, access.Level == Write, access.User, a})
	if err != nil {
		c.String(http.StatusInternalServerError, "console: %v\n", err)
		return
	}
	c.Data(status, "text/html; charset=utf-8", page.Bytes())
}
