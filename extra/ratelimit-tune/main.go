// Command ratelimit-tune answers from an access log which limits to set.
//
//	ratelimit-tune access.log.gz                                    # the frontier of rate and burst, and suggestions
//	ratelimit-tune -limit "10/s burst 20" -limit 1000/h access.log  # what these would have refused together
package main

import (
	"flag"
	"fmt"
	"io"
	"os"
	"text/tabwriter"
	"time"

	"github.com/gin-ratelimit/ratelimit"
	"github.com/gin-ratelimit/ratelimit/extra/ratelimit-tune/tune"
)

// candidates are rates from one that a patient person keeps to, up to one that only programs reach.
var candidates = []ratelimit.Rate{
	{Tokens: 1, Per: time.Minute}, {Tokens: 1, Per: 30 * time.Second}, {Tokens: 1, Per: 20 * time.Second},
	{Tokens: 1, Per: 10 * time.Second}, {Tokens: 1, Per: 5 * time.Second}, {Tokens: 1, Per: 2 * time.Second},
	{Tokens: 1, Per: time.Second}, {Tokens: 2, Per: time.Second}, {Tokens: 3, Per: time.Second},
	{Tokens: 5, Per: time.Second}, {Tokens: 10, Per: time.Second}, {Tokens: 20, Per: time.Second},
	{Tokens: 50, Per: time.Second}, {Tokens: 100, Per: time.Second}, {Tokens: 200, Per: time.Second},
	{Tokens: 500, Per: time.Second},
}

func main() {
	var limits []ratelimit.Limit
	flag.Func("limit", `replay this limit instead, as in "10/s burst 20"; repeat it for several together`, func(text string) error {
		l, err := ratelimit.ParseLimit(text)
		limits = append(limits, l)
		return err
	})
	var most tune.Share
	flag.Float64Var(&most.Clients, "refuse-clients", 0.1, "percent of the clients that a suggestion may refuse")
	flag.Float64Var(&most.Requests, "refuse-requests", 0.1, "percent of the requests that a suggestion may refuse")
	input := inputFlags(flag.CommandLine)
	jsonFile := flag.String("json", "", "write the figures to this file as JSON, too")
	flag.Parse()
	if flag.NArg() == 0 {
		fmt.Fprintln(os.Stderr, "ratelimit-tune: no log given: name files, or - for standard input")
		os.Exit(2)
	}
	if most.Clients < 0 || most.Clients > 100 || most.Requests < 0 || most.Requests > 100 {
		fmt.Fprintln(os.Stderr, "ratelimit-tune: -refuse-clients and -refuse-requests are percentages: give 0 to 100")
		os.Exit(2)
	}
	most.Clients, most.Requests = most.Clients/100, most.Requests/100
	if err := run(os.Stdout, *input, flag.Args(), *jsonFile, limits, most); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// run reports what could be read, also where something could not, and then returns the error.
func run(out io.Writer, input tune.Options, files []string, jsonFile string, limits []ratelimit.Limit, most tune.Share) error {
	trace, readErr := readLogs(input, files)
	if trace == nil {
		return readErr
	}
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	describe(w, trace)
	report := suggest
	if len(limits) > 0 {
		report = func(w io.Writer, t *tune.Trace, _ tune.Share) error { return replay(w, t, limits) }
	}
	if len(trace.Requests) > 0 {
		if err := report(w, trace, most); err != nil {
			return err
		}
	}
	if err := w.Flush(); err != nil {
		return fmt.Errorf("ratelimit-tune: %w", err)
	}
	if jsonFile != "" {
		d, err := newDocument(trace, limits, most)
		if err == nil {
			err = d.write(jsonFile)
		}
		if err != nil {
			return err
		}
	}
	return readErr
}

func replay(w io.Writer, t *tune.Trace, limits []ratelimit.Limit) error {
	show := func(reading string, t *tune.Trace) error {
		r, err := tune.Replay(t, limits, nil)
		fmt.Fprintf(w, "%s:\trefused %d requests\tof %d clients\n", reading, r.Requests, r.Clients)
		return err
	}
	if err := show("as stamped", t); err != nil || !t.WholeSeconds() {
		return err
	}
	fmt.Fprintln(w, "The log has whole seconds. What it cannot tell is between the above and:")
	return show("evenly spread", t.Spread())
}

func suggest(w io.Writer, t *tune.Trace, most tune.Share) error {
	curves, err := tune.Frontier(t, candidates)
	if err != nil {
		return err
	}
	suggestions, err := tune.Suggest(t, curves, most)
	if err != nil {
		return err
	}
	fmt.Fprintln(w, "\nSmallest burst that suffices for a share of the clients, times as stamped:\nrate\t90 %\t95 %\t99 %\t99.9 %\tall")
	for _, c := range curves {
		fmt.Fprintf(w, "%v\t%d\t%d\t%d\t%d\t%d\n", c.Rate, c.Quantile(900), c.Quantile(950), c.Quantile(990), c.Quantile(999), c.Quantile(1000))
	}
	fmt.Fprintf(w, "\nLimits that refuse at most %g %% of clients and %g %% of requests:\n", most.Clients*100, most.Requests*100)
	for _, s := range suggestions {
		fmt.Fprintf(w, "%v\trefuses %d requests\tof %d clients\n", s.Limit, s.Refused.Requests, s.Refused.Clients)
	}
	return nil
}
