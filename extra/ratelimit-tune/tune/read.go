package tune

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"
)

// Options say how logs are read. The zero value detects the format.
type Options struct {
	// Format is that of all files, one of [Formats]; "" detects it for each line.
	Format string
	// Fields are the names of fields in JSON and CSV.
	Fields Fields
	// Route names the route of a request by its method and its path, without the query; nil takes the first segment of
	// the path, as in "/api". It must not keep its arguments. Its answers are kept for a while.
	Route func(method, path []byte) string
	// Anonymize replaces clients by hashes under a key of this run, and keeps no text of lines.
	Anonymize bool
	// MaxClients bounds the clients that are kept; 0 does not. Requests of further ones are counted in Trace.Beyond.
	MaxClients int
	// Progress is told how many bytes of the files have been read, of how many; 0 if that is unknown.
	Progress func(read, total int64)
}

// Read reads logs, gzipped or not; "-" is standard input. After an error the trace has what was read before it. If ctx is
// cancelled, the trace is partial, and that is no error.
func Read(ctx context.Context, o Options, names ...string) (*Trace, error) {
	r, err := newReader(ctx, o)
	if err != nil {
		return nil, err
	}
	for _, name := range names {
		info, err := os.Stat(name)
		if err != nil || !info.Mode().IsRegular() {
			r.total = 0
			break
		}
		r.total += info.Size()
	}
	var errs []error
	for _, name := range names {
		errs = append(errs, r.open(name))
	}
	return r.finish(), errors.Join(errs...)
}

// reader adds files to a trace.
type reader struct {
	ctx   context.Context
	o     Options
	trace *Trace

	read, total int64 // bytes of the files
	clients     *clients
	routes      *routes
	plans       map[string]uint16
}

func newReader(ctx context.Context, o Options) (*reader, error) {
	if o.Format != "" && !slices.Contains(Formats(), o.Format) {
		return nil, fmt.Errorf("ratelimit-tune: format %q is unknown: give one of %s, or none to detect it", o.Format, strings.Join(Formats(), ", "))
	}
	if named := o.Fields.Client != "" && o.Fields.Time != ""; !named && (o.Format == "json" || o.Format == "csv") {
		return nil, fmt.Errorf("ratelimit-tune: format %s: name at least the fields of the client and of the time", o.Format)
	}
	if o.MaxClients < 0 {
		return nil, fmt.Errorf("ratelimit-tune: at most %d clients: give 0 for no bound, or more", o.MaxClients)
	}
	t := &Trace{Plans: []string{""}}
	return &reader{ctx: ctx, o: o, trace: t, clients: newClients(t, o), routes: newRoutes(t, o.Route), plans: map[string]uint16{"": 0}}, nil
}

func (r *reader) finish() *Trace {
	t := r.trace
	if t.Resolution == 0 {
		t.Resolution = time.Second
	}
	t.sort()
	return t
}

func (r *reader) open(name string) error {
	if r.ctx.Err() != nil {
		r.trace.Partial = true
		return nil
	}
	if name == "-" {
		// A read of standard input may wait for ever. The pipe ends that when the context is cancelled.
		in, out := io.Pipe()
		stop := context.AfterFunc(r.ctx, func() { _ = out.CloseWithError(r.ctx.Err()) })
		defer stop()
		defer func() { _ = in.Close() }() // It never fails.
		go func() {
			_, err := io.Copy(out, os.Stdin)
			_ = out.CloseWithError(err)
		}()
		return r.file("standard input", in)
	}
	f, err := os.Open(name)
	if err != nil {
		return fmt.Errorf("ratelimit-tune: %w", err)
	}
	defer func() { _ = f.Close() }() // It was only read.
	return r.file(name, f)
}

// source counts the bytes of a file for those who watch, and ends with the context.
type source struct {
	*reader
	from io.Reader
}

func (s *source) Read(p []byte) (int, error) {
	if err := s.ctx.Err(); err != nil {
		return 0, err
	}
	const few = 1 << 16 // What is read at once pushes what is known of clients out of the processor's cache.
	n, err := s.from.Read(p[:min(len(p), few)])
	s.read += int64(n)
	if s.o.Progress != nil {
		s.o.Progress(s.read, s.total)
	}
	return n, err
}

// file reads one log. The name is for messages.
func (r *reader) file(name string, from io.Reader) error {
	f := &file{reader: r, name: printable(name), parsers: newParsers(r.o)}
	err := f.read(&source{r, from})
	if r.ctx.Err() != nil && errors.Is(err, r.ctx.Err()) {
		r.trace.Partial = true
		err = nil
	}
	f.finish(err)
	return err
}
