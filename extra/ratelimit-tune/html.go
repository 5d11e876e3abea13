package main

import (
	"bytes"
	"crypto/sha256"
	_ "embed"
	"encoding/base64"
	"fmt"
	"html/template"
	"os"
	"strings"
	"time"

	"github.com/gin-ratelimit/ratelimit/extra/ratelimit-tune/tune"
)

//go:embed report.html
var pageText string

//go:embed report.css
var pageStyle string

var pageTemplate = template.Must(template.New("report").Parse(pageText))

// page is what the template shows. All names from logs are escaped by the template.
type page struct {
	Policy       string // Content-Security-Policy: nothing is loaded, nothing runs
	Style        template.CSS
	Requests     string
	Sentences    []string
	Document     string // for limitconfig
	DocumentNote string
	Suspicions   []tune.Suspicion
	Facts        []fact

	Frontier    *chart
	Most        string // that suggestions may refuse
	Given       bool   // limits are marked that were replayed
	Suggestions []suggestionRow

	Limit    string // that is replayed
	OverTime *chart
	Step     string

	Needs      *chart
	NeedsRate  string
	NeedsBurst string

	Changes []changeRow
	Routes  []routeRow
	Hit     []hitRow
	HasNeed bool

	Unknown []string
	Read    []string
}

type fact struct{ Name, Value string }

type suggestionRow struct {
	Limit, Requests, Clients string
	Confidence               tune.Confidence
	Picked                   bool
}

type changeRow struct{ Route, Refused, Admitted string }

type routeRow struct {
	Route, Requests, Clients, Refused, Limit string
	Confidence                               tune.Confidence
}

type hitRow struct{ Name, Requests, Refused, Succeeded, Agents, Need string }

// writeHTML writes the report to a file.
func (r *report) writeHTML(name string) error {
	var text bytes.Buffer
	err := pageTemplate.Execute(&text, r.page())
	if err == nil {
		err = os.WriteFile(name, text.Bytes(), 0o600)
	}
	if err != nil {
		return fmt.Errorf("ratelimit-tune: -html %s: %w", name, err)
	}
	return nil
}

func (r *report) page() *page {
	t := r.trace
	hash := sha256.Sum256([]byte(pageStyle))
	p := &page{
		Policy: "default-src 'none'; style-src 'sha256-" + base64.StdEncoding.EncodeToString(hash[:]) + "'; base-uri 'none'; form-action 'none'",
		Style:  template.CSS(pageStyle), Requests: number(len(t.Requests)), Suspicions: r.suspicions,
		Facts: []fact{
			{"lines", number(t.Lines)}, {"not read", number(t.Misses)},
			{"requests", number(len(t.Requests))}, {"clients", number(len(t.Clients))},
		},
		Sentences: r.sentences(), Unknown: r.unknown(), Read: r.read(),
		Most: r.shares(),
	}
	if n := len(t.Requests); n > 0 {
		p.Facts = append(p.Facts, fact{"from", at(t.Requests[0].Tick)}, fact{"to", at(t.Requests[n-1].Tick)}, fact{"stamps step by", t.Resolution.String()})
	}
	if len(r.curves) > 0 {
		p.Frontier, p.Given = r.frontierChart(r.limits), len(r.limits) > 0
	}
	for i := range r.suggestions {
		s := &r.suggestions[i]
		p.Suggestions = append(p.Suggestions, suggestionRow{s.Limit.String(), interval(s.Refused.Requests, s.Spread.Requests), interval(s.Refused.Clients, s.Spread.Clients), t.Confidence(s, r.suspicions), i == r.pick})
	}
	if r.policies.replay == nil {
		p.Document, p.DocumentNote = r.document.text, r.document.String()
	}
	if r.replay != nil {
		r.replayOn(p)
	}
	return p
}

// replayOn puts what was replayed on the page.
func (r *report) replayOn(p *page) {
	y := r.replay
	p.Limit, p.OverTime = y.name, y.timeChart()
	_, step := y.tally.Span()
	p.Step = short(time.Duration(step) * time.Microsecond)
	if y.needs != nil {
		p.Needs, p.NeedsRate, p.NeedsBurst, p.HasNeed = needsChart(y.needs, int64(y.limit.Capacity)), y.limit.Refill.String(), number(y.limit.Capacity), true
	} else if s := r.picked(); s != nil {
		for _, c := range r.curves {
			if c.Rate == s.Limit.Refill {
				p.Needs, p.NeedsRate, p.NeedsBurst = needsChart(c.Needs, int64(s.Limit.Capacity)), c.Rate.String()+", the rate of the suggestion", number(s.Limit.Capacity)
			}
		}
	}
	for _, route := range r.routes {
		row := routeRow{clip(route.name), number(route.requests), number(route.clients), number(y.tally.ByRoute[route.index]), "–", route.confidence}
		if route.suggestion != nil {
			row.Limit = route.suggestion.Limit.String()
		}
		p.Routes = append(p.Routes, row)
	}
	if r.compare != nil {
		c := &r.compare.stamped
		rows, _ := top(c.ByRoute, changed)
		for _, route := range rows {
			p.Changes = append(p.Changes, changeRow{clip(r.trace.Routes[route]), number(c.ByRoute[route].Refused), number(c.ByRoute[route].Admitted)})
		}
	}
	for _, h := range y.hit {
		p.Hit = append(p.Hit, hitRow{clip(h.name), number(h.Requests), number(h.Refused), percent(h.Succeeded, h.Requests), agents(h.agents), number(h.need)})
	}
}

// sentences say what was found.
func (r *report) sentences() []string {
	t, y := r.trace, r.replay
	if y == nil {
		return []string{"No limit is suggested: there are no requests, or their costs are too large to be counted."}
	}
	upTo := func(stamped, spread, all int) string {
		if stamped == spread {
			return percent(stamped, all)
		}
		return "up to " + percent(max(stamped, spread), all)
	}
	text := fmt.Sprintf("“%s” would have refused %s of %s requests (%s), of %s of %s clients (%s).", y.name,
		interval(y.stamped.Requests, y.spread.Requests), number(len(t.Requests)), upTo(y.stamped.Requests, y.spread.Requests, len(t.Requests)),
		interval(y.stamped.Clients, y.spread.Clients), number(len(t.Clients)), upTo(y.stamped.Clients, y.spread.Clients, len(t.Clients)))
	sentences := []string{text}
	if s := r.picked(); s != nil && r.policies.replay == nil {
		sentences[0] += fmt.Sprintf(" Of the limits that refuse %s it admits the least in a minute. Confidence: %s.", r.shares(), t.Confidence(s, r.suspicions))
	}
	if y.tally.Refused > 0 {
		sentences = append(sentences, fmt.Sprintf("The first refusal is at %s, the last at %s, and most in one minute are %s at %s.", at(y.tally.First), at(y.tally.Last), number(y.tally.InBusiest), at(y.tally.Busiest)))
	}
	if r.compare != nil {
		a, b := &r.compare.stamped, &r.compare.spread
		sentences = append(sentences, fmt.Sprintf("Compared with “%s”, newly refused: requests %s, clients %s; newly admitted: requests %s, clients %s.", r.policies.older,
			interval(a.Refused.Requests, b.Refused.Requests), interval(a.Refused.Clients, b.Refused.Clients),
			interval(a.Admitted.Requests, b.Admitted.Requests), interval(a.Admitted.Clients, b.Admitted.Clients)))
	}
	return sentences
}

// unknown says what the log cannot tell.
func (r *report) unknown() []string {
	t := r.trace
	var all []string
	if t.Resolution > time.Millisecond {
		all = append(all, fmt.Sprintf("Within %v: whether requests of one stamp came at once or spread. Where both give other figures, both are shown, and the truth is near or between them. To know more, %s.", t.Resolution, finerStamps))
	}
	all = append(all,
		"Clients that are refused try again, or stay away. A replay goes on with what they asked for when nobody refused them.",
		"What a CDN, a proxy or another limiter refused is not in the log. Attacks of the past are in it, and are left out only by choice.",
		"A client is the log's address. Behind one address may be an office or a carrier's customers, and one person may have several.",
		"A share of clients counts those with one request like those with thousands.")
	if r.policies.replay != nil && r.policies.replay.ChargeIf != nil {
		all = append(all, "Charges by status are as if each request were answered at once: those that are under way at the same time hold tokens longer.")
	}
	return all
}

// read says what was read.
func (r *report) read() []string {
	t := r.trace
	var all []string
	for _, f := range t.Formats {
		all = append(all, strings.TrimSuffix(f.File+": "+f.Format, ": "))
	}
	for _, m := range t.Missed {
		all = append(all, fmt.Sprintf("missed: %s line %d: %s", m.File, m.Line, m.Text))
	}
	all = append(all, t.Warnings...)
	if r.excluded.requests > 0 {
		all = append(all, r.excluded.String())
	}
	if b := t.Beyond; b.Requests > 0 {
		all = append(all, fmt.Sprintf("%s of further clients left out, those of %s first", counted(b.Requests, "request"), strings.Join(b.Clients, ", ")))
	}
	return all
}
