package tune

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"time"
)

// longestLine bounds the memory that a file without newlines takes. Longer lines are missed.
const longestLine = 1 << 20

// Options say how logs are read. The zero value detects the format.
type Options struct {
	// Format is that of all files, as in "combined"; "" detects it for each.
	Format string
	// Fields are the names of fields in JSON and CSV.
	Fields Fields
	// Route names the route of a request by its method and its path, without the query; nil takes the first segment of
	// the path, as in "/api". It is called with arguments that it must not keep.
	Route func(method, path []byte) string
	// Anonymize replaces clients by hashes under a key of this run, and keeps no text of lines.
	Anonymize bool
	// MaxClients bounds the clients that are kept; 0 does not. Requests of further ones are counted in Trace.Beyond.
	MaxClients int
	// Progress is told how many bytes of the files have been read, of how many; 0 if that is unknown.
	Progress func(read, total int64)
}

// Fields are the names of fields, as in "ts" or, within objects of JSON, "request.remote_ip".
type Fields struct {
	Client, Time, Status, Method, Path, Agent, Duration, Plan, Cost string
}

// Read reads logs, gzipped or not; "-" is standard input. After an error the trace has what was read before it. If ctx is
// cancelled, the trace is partial, and that is no error.
func Read(ctx context.Context, o Options, names ...string) (*Trace, error) {
	t := &Trace{Plans: []string{""}, Routes: []string{""}, Resolution: time.Second}
	var errs []error
	for _, name := range names {
		if ctx.Err() != nil {
			t.Partial = true
			break
		}
		errs = append(errs, t.readFile(name))
	}
	t.Agents = make([]uint16, len(t.Clients))
	t.sort()
	return t, errors.Join(errs...)
}

func (t *Trace) readFile(name string) error {
	if name == "-" {
		return t.read("standard input", os.Stdin)
	}
	f, err := os.Open(name)
	if err != nil {
		return fmt.Errorf("ratelimit-tune: %w", err)
	}
	defer func() { _ = f.Close() }() // It was only read.
	return t.read(name, f)
}

// read reads one log. The name is for messages.
func (t *Trace) read(name string, from io.Reader) error {
	in := bufio.NewReaderSize(from, longestLine)
	if magic, _ := in.Peek(2); bytes.Equal(magic, []byte{0x1f, 0x8b}) {
		unzipped, err := gzip.NewReader(in)
		if err != nil {
			return fmt.Errorf("ratelimit-tune: %s: not a whole gzip file: %w", name, err)
		}
		in = bufio.NewReaderSize(unzipped, longestLine)
	}
	var parser commonParser
	for number := 1; ; number++ {
		line, err := in.ReadSlice('\n')
		tooLong := false
		for errors.Is(err, bufio.ErrBufferFull) {
			tooLong = true
			line, err = in.ReadSlice('\n')
		}
		if err != nil && !errors.Is(err, io.EOF) {
			return fmt.Errorf("ratelimit-tune: %s: line %d: cannot be read: %w; the lines before it count", name, number, err)
		}
		if len(line) > 0 || tooLong {
			t.Lines++
			if parsed, ok := parser.parse(bytes.TrimRight(line, "\r\n")); ok && !tooLong {
				t.Requests = append(t.Requests, Request{Tick: parsed.tick, Client: t.client(parsed.host), Cost: 1, Status: parsed.status})
			} else {
				t.miss(name, number)
			}
		}
		if err != nil {
			return nil //nolint:nilerr // The end of the file.
		}
	}
}

func (t *Trace) miss(name string, number int) {
	const shown = 5
	t.Misses++
	if len(t.Missed) < shown {
		t.Missed = append(t.Missed, Miss{File: name, Line: number})
	}
}
