package tune

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"os"
)

// longestLine bounds the memory that a file without newlines takes. Longer lines are missed.
const longestLine = 1 << 20

// ReadFiles reads logs in the Common or Combined Log Format, gzipped or not; "-" is standard input. After an error the
// trace has what was read before it.
func ReadFiles(names ...string) (*Trace, error) {
	t := new(Trace)
	var errs []error
	for _, name := range names {
		errs = append(errs, t.readFile(name))
	}
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
				t.Requests = append(t.Requests, Request{t.client(parsed.host), parsed.status, parsed.tick})
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
		t.Missed = append(t.Missed, Miss{name, number})
	}
}
