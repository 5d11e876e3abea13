package tune

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"
)

// Formats are the names of the formats that are known. "json" and "csv" need names of fields.
func Formats() []string {
	return []string{"common", "combined", "nginx", "traefik", "gin", "caddy", "envoy", "json", "csv"}
}

// longestLine bounds the memory that a file without newlines takes. Longer lines are missed.
const longestLine = 1 << 20

// parser reads the lines of a format. It leaves e undefined if it cannot.
type parser interface {
	name() string
	parse(line []byte, e *entry) (ok bool)
}

// entry is what a replay needs of a line. Its texts are good until the next line.
type entry struct {
	client, method, path, agent, plan []byte
	tick                              int64 // the stamp
	step                              int64 // that the stamp could show
	took                              int64 // from the begin of the request to the stamp
	cost                              int32
	status                            int16
}

// newParsers returns the parsers of a file, in the order in which they are tried. The one of CSV comes with its header.
func newParsers(o Options) (parsers []parser) {
	extents := map[string]commonFormat{"": traefik, "common": common, "combined": combined, "nginx": nginx, "traefik": traefik}
	if extent, ok := extents[o.Format]; ok {
		parsers = append(parsers, &commonParser{extent: extent, bytes: o.Fields.Cost == "bytes"})
	}
	for _, p := range append([]parser{new(ginParser)}, newJSONParsers(o.Fields)...) {
		if o.Format == "" || o.Format == p.name() {
			parsers = append(parsers, p)
		}
	}
	return parsers
}

// file is a file that is being read.
type file struct {
	reader  *reader
	name    string
	in      *bufio.Reader
	zipped  bool
	parsers []parser
	used    []*usedParser
	last    *usedParser // of the line before
	entry   entry       // of this line
	head    []string    // the fields of the first line, if it could not be read
	lines   int
	known   int // lines that were read as requests
	missed  int

	latest   int64 // stamp so far
	late     int   // lines that are earlier than one before them
	lateLine int   // the first of them
	lateBy   int64 // the most
	jump     int64 // the longest time between a line and the latest before it
	jumpLine int
}

// usedParser is a parser that has read lines of a file.
type usedParser struct {
	parser
	step int64 // the finest of its stamps so far
}

// read adds the lines of a file to the trace. What is left before an error may be a part of a line, and does not count.
func (f *file) read(from io.Reader) error {
	raw := bufio.NewReaderSize(from, 1<<16)
	f.in = bufio.NewReaderSize(raw, longestLine)
	if magic, _ := raw.Peek(2); bytes.Equal(magic, []byte{0x1f, 0x8b}) {
		unzipped, err := gzip.NewReader(raw)
		if err != nil {
			return fmt.Errorf("ratelimit-tune: %s: not a whole gzip file: %w", f.name, err)
		}
		f.zipped = true
		f.in.Reset(unzipped)
	}
	if mark, _ := f.in.Peek(3); bytes.Equal(mark, []byte("\xef\xbb\xbf")) {
		_, _ = f.in.Discard(len(mark)) // They are there.
	}
	for {
		line, err := f.in.ReadSlice('\n')
		var start []byte // of a line that is too long
		for errors.Is(err, bufio.ErrBufferFull) {
			if start == nil {
				start = bytes.Clone(line[:longestText+1])
			}
			line, err = f.in.ReadSlice('\n')
		}
		if err != nil && !errors.Is(err, io.EOF) {
			return fmt.Errorf("ratelimit-tune: %s: line %d: cannot be read: %w; the lines before it count", f.name, f.lines+1, err)
		}
		switch {
		case start != nil:
			f.lines++
			f.miss(start)
		case len(line) > 0:
			f.lines++
			if err := f.line(bytes.TrimSuffix(bytes.TrimSuffix(line, []byte{'\n'}), []byte{'\r'})); err != nil {
				return err
			}
		}
		if err != nil {
			return f.unknown()
		}
	}
}

// line adds a line to the trace.
func (f *file) line(line []byte) error {
	if f.last != nil && f.reads(f.last, line) {
		return f.add(&f.entry)
	}
	if f.lines == 1 {
		if found, err := f.header(line); found || err != nil {
			return err
		}
	}
	for _, p := range f.parsers {
		if f.reads(p, line) {
			f.use(p)
			return f.add(&f.entry)
		}
	}
	if f.known == 0 && f.head == nil {
		f.head = jsonKeys(line)
	}
	f.miss(line)
	return nil
}

// reads reads a line. A client or a plan that is longer than keys and tokens are would only fill the memory.
func (f *file) reads(p parser, line []byte) (ok bool) {
	const longest = 1 << 10
	f.entry = entry{cost: 1}
	return p.parse(line, &f.entry) && len(f.entry.client) <= longest && len(f.entry.plan) <= longest
}

// header looks whether the first line is that of a CSV.
func (f *file) header(line []byte) (found bool, err error) {
	o := &f.reader.o
	if o.Fields.Client == "" || o.Fields.Time == "" || o.Format != "" && o.Format != "csv" {
		return false, nil
	}
	if p := newCSVParser(line, o.Fields); p != nil {
		f.parsers = []parser{p}
		return true, nil
	}
	if o.Format == "csv" {
		return false, fmt.Errorf("ratelimit-tune: %s: line 1: the header lacks %q or %q, the fields of the client and of the time: name others", f.name, o.Fields.Client, o.Fields.Time)
	}
	return false, nil
}

// use makes p the parser that the next line is tried with first.
func (f *file) use(p parser) {
	i := slices.IndexFunc(f.used, func(u *usedParser) bool { return u.parser == p })
	if i < 0 {
		i = len(f.used)
		f.used = append(f.used, &usedParser{p, second})
	}
	f.last = f.used[i]
}

// add adds a request to the trace.
func (f *file) add(e *entry) error {
	r, t := f.reader, f.reader.trace
	f.known++
	f.clock(e)
	client, ok := r.clients.of(e.client)
	if !ok {
		return nil
	}
	if len(e.agent) > 0 {
		r.clients.agent(client, e.agent)
	}
	plan, err := r.plan(e.plan)
	if err != nil {
		return fmt.Errorf("ratelimit-tune: %s: line %d: %w", f.name, f.lines, err)
	}
	if len(t.Requests) == cap(t.Requests) {
		f.grow()
	}
	tick := e.tick
	if e.took > 0 {
		// In whole steps, so that a stamp of seconds stays one: its own error is a step, and Spread needs to see which share it.
		step := f.last.step
		tick -= (e.took + step/2) / step * step
	}
	t.Requests = append(t.Requests, Request{tick, client, r.routes.of(e.method, e.path), e.cost, e.status, plan})
	return nil
}

// clock looks at a line's stamp.
func (f *file) clock(e *entry) {
	f.last.step = min(f.last.step, e.step)
	if e.tick < f.latest && f.known > 1 {
		if f.late == 0 {
			f.lateLine = f.lines
		}
		f.late++
		f.lateBy = max(f.lateBy, f.latest-e.tick)
		return
	}
	if ahead := e.tick - f.latest; ahead > f.jump && f.known > 1 {
		f.jump, f.jumpLine = ahead, f.lines
	}
	f.latest = e.tick
}

// grow makes room for the requests that the rest of the files will have, if it is like what was read: append alone would
// copy them often and keep up to twice the memory.
func (f *file) grow() {
	t, r := f.reader.trace, f.reader
	const few = 1 << 16
	n := len(t.Requests)
	more := max(few, n/8)
	done := r.read
	if !f.zipped {
		done -= int64(f.in.Buffered())
	}
	if n >= few && r.total > done {
		more = max(more, int(1.01*float64(n)*float64(r.total-done)/float64(done)))
	}
	t.Requests = append(make([]Request, 0, n+more), t.Requests...)
}

// plan returns the index of a plan.
func (r *reader) plan(name []byte) (uint16, error) {
	if len(name) == 0 {
		return 0, nil
	}
	plan, known := r.plans[string(name)]
	if !known {
		if len(r.plans) > math.MaxUint16 {
			return 0, errors.New("more than 65,535 plans: name a field that has fewer values")
		}
		plan = uint16(len(r.plans))
		r.plans[string(name)] = plan
		r.trace.Plans = append(r.trace.Plans, printable(string(name)))
	}
	return plan, nil
}

func (f *file) miss(line []byte) {
	const shown = 5
	t := f.reader.trace
	f.missed++
	t.Misses++
	if len(t.Missed) < shown {
		m := Miss{File: f.name, Line: f.lines}
		if !f.reader.o.Anonymize {
			m.Text = shortened(line)
		}
		t.Missed = append(t.Missed, m)
	}
}

// unknown is an error if no line was read.
func (f *file) unknown() error {
	if f.known > 0 || f.missed == 0 {
		return nil
	}
	advice := "name the format if it is one of " + strings.Join(Formats(), ", ")
	switch o := &f.reader.o; {
	case o.Format != "":
		advice = "is the format " + o.Format + "? Leave it out, and it is detected"
	case f.head != nil && !o.Anonymize:
		advice = "its lines are JSON: name the fields of the client and of the time, two of " + shortened([]byte(strings.Join(f.head, ", ")))
	}
	return fmt.Errorf("ratelimit-tune: %s: none of %d lines could be read: %s", f.name, f.missed, advice)
}

// finish says in the trace what was seen of the file, of which all was read if there is no error.
func (f *file) finish(err error) {
	t := f.reader.trace
	t.Lines += f.lines
	names := make([]string, len(f.used))
	for i, p := range f.used {
		names[i] = p.name()
		t.Resolution = max(t.Resolution, time.Duration(p.step)*time.Microsecond)
	}
	t.Formats = append(t.Formats, FileFormat{f.name, strings.Join(names, ", ")})
	warn := func(format string, values ...any) {
		t.Warnings = append(t.Warnings, f.name+": "+fmt.Sprintf(format, values...))
	}
	if f.lines == 0 && err == nil && !t.Partial {
		warn("the file is empty")
	}
	if f.late > 0 {
		warn("%d lines are earlier than one before them, the first is line %d, by up to %v: requests are sorted by time",
			f.late, f.lateLine, time.Duration(f.lateBy)*time.Microsecond)
	}
	const year = 365 * 24 * 60 * 60 * int64(second)
	if f.jump > year {
		warn("line %d is %d years after a line before it: was the clock set only then?", f.jumpLine, f.jump/year)
	}
}

// longestText is how many bytes of a line are shown.
const longestText = 100

// shortened is the start of a line for a terminal.
func shortened(line []byte) string {
	if len(line) <= longestText {
		return printable(string(line))
	}
	return printable(strings.ToValidUTF8(string(line[:longestText]), "")) + "…"
}

// printable escapes what a terminal would obey or not show.
func printable(text string) string {
	for _, r := range text {
		if r == utf8.RuneError || !unicode.IsGraphic(r) {
			quoted := strconv.QuoteToGraphic(text)
			return strings.ReplaceAll(quoted[1:len(quoted)-1], `\"`, `"`)
		}
	}
	return text
}

// withoutQuery returns a path without its query, and without scheme and host if a proxy was asked.
func withoutQuery(path []byte) []byte {
	if end := bytes.IndexByte(path, '?'); end >= 0 {
		path = path[:end]
	}
	if len(path) == 0 || path[0] == '/' {
		return path
	}
	if _, rest, ok := bytes.Cut(path, []byte("://")); ok {
		if slash := bytes.IndexByte(rest, '/'); slash >= 0 {
			return rest[slash:]
		}
		return []byte{'/'}
	}
	return path
}
