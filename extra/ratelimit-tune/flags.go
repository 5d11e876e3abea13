package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/gin-ratelimit/ratelimit"
	"github.com/gin-ratelimit/ratelimit/extra/ratelimit-tune/tune"
)

// settings are what the command line asks for.
type settings struct {
	input tune.Options
	files []string

	routes   []tune.Route
	excluded []string   // clients
	most     tune.Share // that a suggestion may refuse

	limits          []ratelimit.Limit
	config, against string // names of documents
	chargeStatus    *statuses

	allowed allowances
	json    string
	html    string
}

// parseFlags reads the command line. The error is flag.ErrHelp if the flags were to be listed, and out has the list then.
func parseFlags(out io.Writer, arguments []string) (*settings, error) {
	s := new(settings)
	flags := flag.NewFlagSet("ratelimit-tune", flag.ContinueOnError)
	flags.SetOutput(io.Discard)

	input := inputFlags(flags)
	flags.Func("routes", "`file` of JSON that lists the application's routes, as ratelimit.Routes returns them; not given: first segments of paths", s.addRoutes)
	flags.Func("route", `a route of the application, as in "GET /users/:id"; repeatable`, s.addRoute)

	flags.Func("exclude", "leave out this `client`, as in an attack of the past; repeatable", func(client string) error {
		s.excluded = append(s.excluded, client)
		return nil
	})

	flags.Float64Var(&s.most.Clients, "refuse-clients", 0.1, "`percent` of the clients that a suggestion may refuse")
	flags.Float64Var(&s.most.Requests, "refuse-requests", 0.1, "`percent` of the requests that a suggestion may refuse")

	flags.Func("limit", `replay this limit instead, as in "10/s burst 20"; repeatable: all must have room`, s.addLimit)
	flags.StringVar(&s.config, "config", "", "replay this `file` of extra/limitconfig instead")
	flags.StringVar(&s.against, "against", "", "compare -config with this `file`, the limits of today")
	flags.Func("charge-status", "charge only requests with these `statuses`, as in 401,5xx", func(text string) (err error) {
		s.chargeStatus, err = parseStatuses(text)
		return err
	})

	flags.Var(&s.allowed.clients, "max-refused-clients", "exit with 3 if the replay refuses more clients, or -against which more are refused: a count or a percentage, as in 0.5%")
	flags.Var(&s.allowed.requests, "max-refused-requests", "the same for requests")

	flags.StringVar(&s.html, "html", "", "write a report to this `file`, which needs no other")
	flags.StringVar(&s.json, "json", "", "write the figures to this `file` as JSON")

	switch err := flags.Parse(arguments); {
	case errors.Is(err, flag.ErrHelp):
		flags.SetOutput(out)
		usage(flags)
		return nil, err
	case err != nil:
		return nil, fmt.Errorf("ratelimit-tune: %w (%w)", err, errUsage)
	}
	s.input, s.files = *input, flags.Args()
	return s, s.check()
}

func usage(flags *flag.FlagSet) {
	fmt.Fprint(flags.Output(), `ratelimit-tune finds rate limits from access logs.

	ratelimit-tune access.log.gz                                     suggest limits
	ratelimit-tune -limit "10/s burst 20" access.log                 what would these have refused?
	ratelimit-tune -config limits.yaml access.log                    what would this document have refused?
	ratelimit-tune -config new.yaml -against old.yaml access.log     what would change?

Flags go before the logs:
`)
	flags.PrintDefaults()
}

var errUsage = errors.New("ratelimit-tune -help lists the flags")

// check finds what the flags contradict.
func (s *settings) check() error {
	percent := func(p float64) bool { return p >= 0 && p <= 100 }
	problem := ""
	switch {
	case len(s.files) == 0:
		problem = "no log given: name files, or - for standard input"
	case slices.ContainsFunc(s.files, func(name string) bool { return len(name) > 1 && name[0] == '-' }):
		problem = "a flag stands behind a log: flags go before the logs, and a file whose name begins with - is ./-…"
	case !percent(s.most.Clients) || !percent(s.most.Requests):
		problem = "-refuse-clients and -refuse-requests are percentages: give 0 to 100"
	case len(s.limits) > 0 && s.config != "":
		problem = "-limit and -config are two replays: give one of them"
	case s.against != "" && s.config == "":
		problem = "-against compares with -config: give that, too"
	case s.allowed.given() && !s.replays():
		problem = "-max-refused-clients and -max-refused-requests judge a replay: give -limit or -config"
	case s.chargeStatus != nil && !s.replays():
		problem = "-charge-status is for a replay: give -limit or -config"
	}
	if problem != "" {
		return fmt.Errorf("ratelimit-tune: %s (%w)", problem, errUsage)
	}
	s.most.Clients, s.most.Requests = s.most.Clients/100, s.most.Requests/100
	return nil
}

// replays reports whether limits were given. Otherwise some are suggested.
func (s *settings) replays() bool { return len(s.limits) > 0 || s.config != "" }

func (s *settings) addLimit(text string) error {
	l, err := ratelimit.ParseLimit(text)
	if err == nil && l == ratelimit.Unlimited[0] {
		return errors.New(`unlimited refuses nothing: give a limit, as in "10/s burst 20"`)
	}
	s.limits = append(s.limits, l)
	return err
}

func (s *settings) addRoute(text string) error {
	r, err := tune.ParseRoute(text)
	s.routes = append(s.routes, r)
	return err
}

func (s *settings) addRoutes(name string) error {
	text, err := os.ReadFile(name)
	if err != nil {
		return err
	}
	routes, err := tune.ParseRoutes(text)
	s.routes = append(s.routes, routes...)
	return err
}

// statuses is a set of statuses, as in 401,5xx.
type statuses [1000]bool

func parseStatuses(text string) (*statuses, error) {
	var s statuses
	for one := range strings.SplitSeq(text, ",") {
		low, lowErr := strconv.Atoi(strings.ReplaceAll(one, "x", "0"))
		high, highErr := strconv.Atoi(strings.ReplaceAll(one, "x", "9"))
		if lowErr != nil || highErr != nil || len(one) != 3 || low < 100 || strings.Contains(strings.TrimRight(one, "x"), "x") {
			return nil, fmt.Errorf("%q is no status: give some as in 401,5xx", one)
		}
		for status := low; status <= high; status++ {
			s[status] = true
		}
	}
	return &s, nil
}

// chargeIf is for tune.Policy.
func (s *statuses) chargeIf() func(status int) bool {
	if s == nil {
		return nil
	}
	return func(status int) bool { return status >= 0 && status < len(s) && s[status] }
}
