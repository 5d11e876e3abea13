// Command ratelimit-tune finds rate limits from access logs, by the arithmetic that decides later.
//
//	ratelimit-tune access.log.gz                                     # suggest limits
//	ratelimit-tune -limit "10/s burst 20" access.log                 # what would these have refused?
//	ratelimit-tune -config limits.yaml access.log                    # what would this document have refused?
//	ratelimit-tune -config new.yaml -against old.yaml access.log     # what would change?
package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"os"

	"github.com/gin-gonic/gin"
)

// The exit codes.
const (
	exitFailed   = 1 // a log could not be read to its end, or a file not be written
	exitUsage    = 2 // flags or documents are wrong
	exitExceeded = 3 // more is refused than -max-refused-clients or -max-refused-requests
)

func main() {
	gin.SetMode(gin.ReleaseMode) // Or making an engine prints.
	switch err := run(os.Stdout, os.Args[1:]); {
	case err == nil, errors.Is(err, flag.ErrHelp):
	case errors.As(err, new(*exceeded)):
		fail(err, exitExceeded)
	case errors.As(err, new(*mistake)):
		fail(err, exitUsage)
	default:
		fail(err, exitFailed)
	}
}

func fail(err error, code int) {
	fmt.Fprintln(os.Stderr, err)
	os.Exit(code)
}

// run reports what could be read, also where something could not, and then returns the error.
func run(out io.Writer, arguments []string) error {
	s, err := parseFlags(out, arguments)
	if err != nil {
		return &mistake{err}
	}
	p, err := s.policies()
	if err != nil {
		return &mistake{err}
	}
	if p.router != nil {
		s.input.Route = p.router.Route
	}
	trace, readErr := readLogs(s.input, s.files)
	if trace == nil {
		return &mistake{readErr}
	}
	r, err := newReport(trace, s, p)
	if err != nil {
		return errors.Join(readErr, err)
	}
	errs := []error{readErr, r.write(out)}
	if s.json != "" {
		errs = append(errs, r.writeJSON(s.json))
	}
	if s.html != "" {
		errs = append(errs, r.writeHTML(s.html))
	}
	if err := errors.Join(errs...); err != nil {
		return err
	}
	return s.allowed.judge(r)
}

// mistake is in the flags or in a document.
type mistake struct{ error }

func (m *mistake) Unwrap() error { return m.error }
