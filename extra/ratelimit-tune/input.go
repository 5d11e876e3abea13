package main

import (
	"fmt"
	"io"

	"github.com/gin-ratelimit/ratelimit/extra/ratelimit-tune/tune"
)

// describe reports what was read.
func describe(w io.Writer, t *tune.Trace) {
	fmt.Fprintf(w, "read %d lines, missed %d: %d requests of %d clients\n", t.Lines, t.Misses, len(t.Requests), len(t.Clients))
	for _, m := range t.Missed {
		fmt.Fprintf(w, "missed %q line %d\n", m.File, m.Line)
	}
	if refused := t.Refused(); refused > 0 {
		fmt.Fprintf(w, "%d answers are 429: a limiter refused them already, and the log may lack more that it held off\n", refused)
	}
}
