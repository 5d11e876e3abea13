package main

import (
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/gin-ratelimit/ratelimit/extra/ratelimit-tune/tune"
)

// write prints the report for a terminal. Names from logs come escaped.
func (r *report) write(out io.Writer) error {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	describe(w, r.trace)
	if r.excluded.requests > 0 {
		fmt.Fprintln(w, r.excluded)
	}
	for _, s := range r.suspicions {
		if s.Kind != tune.SuspectPartial { // That is said above.
			fmt.Fprintf(w, "note: %s\n", s.Text)
		}
	}
	if len(r.trace.Requests) > 0 {
		if r.policies.replay == nil {
			r.writeSuggestions(w)
		} else {
			r.writeReplay(w)
		}
	}
	if err := w.Flush(); err != nil {
		return fmt.Errorf("ratelimit-tune: %w", err)
	}
	return nil
}

func (r *report) writeSuggestions(w io.Writer) {
	fmt.Fprintln(w, "\nSmallest burst that suffices for a share of the clients, with what comes at one stamp at once:\nrate\t90 %\t95 %\t99 %\t99.9 %\tall")
	fast := false
	for _, c := range r.curves {
		mark := ""
		if r.trace.TooFast(c.Rate) {
			mark, fast = " *", true
		}
		fmt.Fprintf(w, "%v%s\t%d\t%d\t%d\t%d\t%d\n", c.Rate, mark, c.Quantile(900), c.Quantile(950), c.Quantile(990), c.Quantile(999), c.Quantile(1000))
	}
	if fast {
		fmt.Fprintf(w, "* The tokens of a request come back faster than the stamps step (%v), so the log cannot tell: %s.\n", r.trace.Resolution, finerStamps)
	}
	fmt.Fprintf(w, "\nLimits that refuse %s:\n", r.shares())
	if r.pick < 0 {
		fmt.Fprintln(w, "none: the costs are too large to be counted at these rates")
		return
	}
	fmt.Fprintln(w, "limit\trefused requests\tof clients\tconfidence")
	for i, s := range r.suggestions {
		mark := ""
		if i == r.pick {
			mark = "  <- admits the least in a minute"
		}
		fmt.Fprintf(w, "%v\t%s\t%s\t%s%s\n", s.Limit, interval(s.Refused.Requests, s.Spread.Requests), interval(s.Refused.Clients, s.Spread.Clients), r.trace.Confidence(&s, r.suspicions), mark)
	}
	r.writeRoutes(w)
	fmt.Fprintf(w, "\nFor extra/limitconfig:\n\n\t%s\n", strings.ReplaceAll(strings.TrimRight(r.document.text, "\n"), "\n", "\n\t"))
	if r.document.ofRoutes {
		fmt.Fprintf(w, "\n%v\n", &r.document)
	}
	r.writeHit(w)
}

// shares is what a suggestion may refuse.
func (r *report) shares() string {
	return fmt.Sprintf("at most %g %% of the clients and %g %% of the requests", r.most.Clients*100, r.most.Requests*100)
}

const finerStamps = `log milliseconds, as nginx does with $msec and Apache with %{usec}t`

func (r *report) writeRoutes(w io.Writer) {
	if len(r.routes) == 0 {
		return
	}
	fmt.Fprintln(w, "\nThe same by route, each with buckets of its own:\nroute\trequests\tclients\tlimit\tconfidence")
	for _, route := range r.routes {
		limit := "-"
		if route.suggestion != nil {
			limit = route.suggestion.Limit.String()
		}
		fmt.Fprintf(w, "%s\t%d\t%d\t%s\t%s\n", clip(route.name), route.requests, route.clients, limit, route.confidence)
	}
	if r.moreRoutes > 0 {
		fmt.Fprintf(w, "and %d more routes\n", r.moreRoutes)
	}
}

func (r *report) writeReplay(w io.Writer) {
	y := r.replay
	fmt.Fprintf(w, "\nReplay of %s:\n", y.name)
	fmt.Fprintf(w, "as stamped:\trefused %s\tof %s\n", share(y.stamped.Requests, len(r.trace.Requests), "request"), share(y.stamped.Clients, len(r.trace.Clients), "client"))
	if y.spread != y.stamped {
		fmt.Fprintf(w, "evenly spread:\trefused %s\tof %s\n", share(y.spread.Requests, len(r.trace.Requests), "request"), share(y.spread.Clients, len(r.trace.Clients), "client"))
		fmt.Fprintf(w, "The stamps step by %v. The truth is near or between these two; to know more, %s.\n", r.trace.Resolution, finerStamps)
	}
	if r.policies.replay.ChargeIf != nil {
		fmt.Fprintln(w, "Charged by status, as if each request were answered at once: those that are under way at the same time hold tokens longer.")
	}
	if y.tally.Refused > 0 {
		fmt.Fprintf(w, "first refused %s, last %s; most in one minute: %d at %s\n", at(y.tally.First), at(y.tally.Last), y.tally.InBusiest, at(y.tally.Busiest))
	}
	r.writeRefusedRoutes(w)
	r.writeComparison(w)
	r.writeHit(w)
}

// writeRefusedRoutes prints what is refused by route, if there are several.
func (r *report) writeRefusedRoutes(w io.Writer) {
	if r.replay.tally.Refused == 0 || len(r.trace.Routes) < 2 {
		return
	}
	fmt.Fprintln(w, "\nroute\trefused requests")
	rows, more := top(r.replay.tally.ByRoute, func(refused int) int { return refused })
	for _, route := range rows {
		fmt.Fprintf(w, "%s\t%d\n", clip(r.trace.Routes[route]), r.replay.tally.ByRoute[route])
	}
	if more > 0 {
		fmt.Fprintf(w, "and %d more routes\n", more)
	}
}

func (r *report) writeComparison(w io.Writer) {
	if r.compare == nil {
		return
	}
	c, s := r.compare.stamped, r.compare.spread
	fmt.Fprintf(w, "\nAgainst %s:\trequests\tclients\n", r.policies.older)
	fmt.Fprintf(w, "newly refused\t%s\t%s\n", interval(c.Refused.Requests, s.Refused.Requests), interval(c.Refused.Clients, s.Refused.Clients))
	fmt.Fprintf(w, "newly admitted\t%s\t%s\n", interval(c.Admitted.Requests, s.Admitted.Requests), interval(c.Admitted.Clients, s.Admitted.Clients))
	rows, more := top(c.ByRoute, changed)
	if len(rows) > 0 {
		fmt.Fprintln(w, "\nroute\tnewly refused\tnewly admitted")
	}
	for _, route := range rows {
		fmt.Fprintf(w, "%s\t%d\t%d\n", clip(r.trace.Routes[route]), c.ByRoute[route].Refused, c.ByRoute[route].Admitted)
	}
	if more > 0 {
		fmt.Fprintf(w, "and %d more routes\n", more)
	}
}

func (r *report) writeHit(w io.Writer) {
	if len(r.replay.hit) == 0 {
		return
	}
	need := ""
	if r.replay.needs != nil {
		need = fmt.Sprintf("\tneeds burst at %v", r.replay.limit.Refill)
	}
	fmt.Fprintf(w, "\nClients that %s hits most:\nclient\trequests\trefused\tanswered 2xx\tuser agents%s\n", r.replay.name, need)
	for _, h := range r.replay.hit {
		fmt.Fprintf(w, "%s\t%d\t%d\t%s\t%s", clip(h.name), h.Requests, h.Refused, percent(h.Succeeded, h.Requests), agents(h.agents))
		if r.replay.needs != nil {
			fmt.Fprintf(w, "\t%d", h.need)
		}
		fmt.Fprintln(w)
	}
}

// changed is the requests on a route that are decided otherwise.
func changed(c tune.RouteComparison) int { return c.Refused + c.Admitted }

// interval is a figure by both readings.
func interval(stamped, spread int) string {
	if stamped == spread {
		return number(stamped)
	}
	return number(min(stamped, spread)) + " to " + number(max(stamped, spread))
}

// counted is a number of things, as in "1 client" and "2 clients".
func counted(n int, thing string) string {
	if n == 1 {
		return "1 " + thing
	}
	return number(n) + " " + thing + "s"
}

func share(part, all int, thing string) string {
	return counted(part, thing) + " (" + percent(part, all) + ")"
}

func percent(part, all int) string {
	if all == 0 {
		return "-"
	}
	return fmt.Sprintf("%.3g %%", float64(part)*100/float64(all))
}

// agents is a number of user agents, as far as they are counted.
func agents(n uint16) string {
	switch n {
	case 0:
		return "-" // The lines have none.
	case tune.MaxAgents:
		return fmt.Sprintf("%d or more", n)
	default:
		return fmt.Sprint(n)
	}
}

func at(tick int64) string { return time.UnixMicro(tick).UTC().Format("2006-01-02 15:04:05 UTC") }

// short is a duration without what is 0 at its end: "10m" for "10m0s".
func short(d time.Duration) string {
	text := d.String()
	if strings.HasSuffix(text, "m0s") {
		text = strings.TrimSuffix(text, "0s")
	}
	if strings.HasSuffix(text, "h0m") {
		text = strings.TrimSuffix(text, "0m")
	}
	return text
}

// clip keeps what comes from logs short.
func clip(text string) string {
	const most = 60
	if runes := []rune(text); len(runes) > most {
		return string(runes[:most]) + "…"
	}
	return text
}
