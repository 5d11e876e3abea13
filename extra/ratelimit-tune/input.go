package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/gin-ratelimit/ratelimit/extra/ratelimit-tune/tune"
)

// inputFlags defines the flags that say how logs are read.
func inputFlags(flags *flag.FlagSet) *tune.Options {
	o := new(tune.Options)
	flags.StringVar(&o.Format, "format", "", "format of the logs, one of "+strings.Join(tune.Formats(), ", ")+"; detected if not given")
	flags.Func("fields", "`names` of fields of JSON or CSV, as in client=request.ip,time=ts: "+strings.Join(fieldNames, ", "), func(text string) error {
		return setFields(&o.Fields, text)
	})
	flags.BoolVar(&o.Anonymize, "anonymize", false, "show clients as hashes, and no text of the log")
	flags.IntVar(&o.MaxClients, "max-clients", 0, "bound on the clients that are kept; 0 for none")
	return o
}

var fieldNames = []string{"client", "time", "status", "method", "path", "agent", "duration", "plan", "cost"}

// setFields reads "client=a,time=b".
func setFields(f *tune.Fields, text string) error {
	own := []*string{&f.Client, &f.Time, &f.Status, &f.Method, &f.Path, &f.Agent, &f.Duration, &f.Plan, &f.Cost}
	for pair := range strings.SplitSeq(text, ",") {
		name, field, _ := strings.Cut(pair, "=")
		i := slices.Index(fieldNames, name)
		if i < 0 || field == "" {
			return fmt.Errorf("%q: give pairs as in client=request.ip, of %s", pair, strings.Join(fieldNames, ", "))
		}
		*own[i] = field
	}
	return nil
}

// readLogs reads until the end or an interrupt, and shows on a terminal how far it is.
func readLogs(o tune.Options, names []string) (*tune.Trace, error) {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	context.AfterFunc(ctx, stop) // A second interrupt ends the program.
	if info, err := os.Stderr.Stat(); err == nil && info.Mode()&os.ModeCharDevice != 0 {
		p := &progress{out: os.Stderr, start: time.Now()}
		o.Progress = func(read, total int64) { p.show(time.Now(), read, total) }
		defer p.clear()
	}
	trace, err := tune.Read(ctx, o, names...)
	if trace != nil && trace.Partial {
		err = errors.Join(err, errors.New("ratelimit-tune: interrupted: the result is of what was read until then"))
	}
	return trace, err
}

// progress is a line that is written over and over.
type progress struct {
	out          io.Writer
	start, shown time.Time
}

func (p *progress) show(now time.Time, read, total int64) {
	if now.Sub(p.shown) < 200*time.Millisecond {
		return
	}
	p.shown = now
	if total == 0 || read == 0 {
		fmt.Fprintf(p.out, "\r\x1b[Kread %d MB", read/1e6)
		return
	}
	left := time.Duration(float64(now.Sub(p.start)) * float64(total-read) / float64(read))
	fmt.Fprintf(p.out, "\r\x1b[Kread %d %% of %d MB, %v left", read*100/total, total/1e6, left.Round(time.Second))
}

func (p *progress) clear() {
	if !p.shown.IsZero() {
		fmt.Fprint(p.out, "\r\x1b[K")
	}
}

// describe reports what was read.
func describe(w io.Writer, t *tune.Trace) {
	var memory runtime.MemStats
	runtime.ReadMemStats(&memory)
	fmt.Fprintf(w, "read %d lines, missed %d: %d requests of %d clients, in %d MiB of memory\n", t.Lines, t.Misses, len(t.Requests), len(t.Clients), memory.Sys>>20)
	if t.Partial {
		fmt.Fprintln(w, "PARTIAL: interrupted before the end of the logs")
	}
	if n := len(t.Requests); n > 0 {
		at := func(tick int64) string { return time.UnixMicro(tick).UTC().Format(time.RFC3339) }
		fmt.Fprintf(w, "from %s to %s, in stamps of %v\n", at(t.Requests[0].Tick), at(t.Requests[n-1].Tick), t.Resolution)
	}
	for _, f := range t.Formats {
		if f.Format != "" {
			fmt.Fprintf(w, "%s: %s\n", f.File, f.Format)
		}
	}
	for _, m := range t.Missed {
		text := ""
		if m.Text != "" {
			text = ": " + m.Text
		}
		fmt.Fprintf(w, "missed %s line %d%s\n", m.File, m.Line, text)
	}
	for _, warning := range t.Warnings {
		fmt.Fprintln(w, warning)
	}
	if b := t.Beyond; b.Requests > 0 {
		fmt.Fprintf(w, "%d requests of further clients are left out, those of %s first\n", b.Requests, strings.Join(b.Clients, ", "))
	}
}
