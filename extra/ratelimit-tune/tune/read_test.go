package tune

import (
	"bytes"
	"compress/gzip"
	"context"
	"os"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

const line = `192.0.2.7 - - [01/Aug/1995:02:00:00 -0400] "GET / HTTP/1.0" 200 1713`

// readText reads a log that needs no file.
func readText(ctx context.Context, o Options, text string) (*Trace, error) {
	r, err := newReader(ctx, o)
	if err != nil {
		return nil, err
	}
	err = r.file("access.log", strings.NewReader(text))
	return r.finish(), err
}

func TestReadLines(t *testing.T) {
	for _, test := range []struct {
		name             string
		log              string
		requests, misses int
	}{
		{name: "empty", log: ""},
		{name: "common", log: line + "\n", requests: 1},
		{name: "without a last newline", log: line, requests: 1},
		{name: "Windows", log: line + "\r\n", requests: 1},
		{name: "combined", log: line + ` "-" "curl \"8\""` + "\n", requests: 1},
		{name: "quote in the request", log: strings.Replace(line, "GET /", `GET /"x"`, 1), requests: 1},
		{name: "binary", log: "\x00\xff\x1b[31m\n", misses: 1},
		{name: "no such day", log: strings.Replace(line, "01/Aug", "32/Aug", 1), misses: 1},
		{name: "1 MiB", log: line + strings.Repeat("x", longestLine) + "\n" + line, requests: 1, misses: 1},
		{name: "a line between", log: line + "\n\n" + line, requests: 2, misses: 1},
	} {
		t.Run(test.name, func(t *testing.T) {
			trace, err := readText(t.Context(), Options{}, test.log)
			if test.requests == 0 && test.misses > 0 {
				require.ErrorContains(t, err, "ratelimit-tune: access.log: none of 1 lines could be read: ")
			} else {
				require.NoError(t, err)
			}
			assert.Len(t, trace.Requests, test.requests)
			assert.Equal(t, test.misses, trace.Misses)
			assert.Equal(t, test.requests+test.misses, trace.Lines)
		})
	}
}

func TestReadTruncatedGzip(t *testing.T) {
	var zipped bytes.Buffer
	w := gzip.NewWriter(&zipped)
	_, err := w.Write([]byte(strings.Repeat(line+"\n", 1000)))
	require.NoError(t, err)
	require.NoError(t, w.Flush())
	trace, err := readText(t.Context(), Options{}, zipped.String())
	require.ErrorContains(t, err, "ratelimit-tune: access.log: line 1001: cannot be read")
	assert.Len(t, trace.Requests, 1000)
}

func TestFilesAreMergedByTime(t *testing.T) {
	dir := t.TempDir()
	late, early := dir+"/late.log", dir+"/early.log"
	require.NoError(t, os.WriteFile(late, []byte(strings.Replace(line, "02:00:00", "03:00:00", 1)), 0o600))
	require.NoError(t, os.WriteFile(early, []byte(line), 0o600))
	trace, err := Read(t.Context(), Options{}, late, early)
	require.NoError(t, err)
	require.Len(t, trace.Requests, 2)
	assert.EqualValues(t, 3_600_000_000, trace.Requests[1].Tick-trace.Requests[0].Tick)
}

func TestRefusedAreCounted(t *testing.T) {
	trace, err := readText(t.Context(), Options{}, line+"\n"+strings.Replace(line, " 200 ", " 429 ", 1))
	require.NoError(t, err)
	assert.Equal(t, 1, trace.Refused())
}

func FuzzCommon(f *testing.F) {
	f.Add([]byte(line))
	f.Add([]byte(line + ` "-" "agent"`))
	f.Fuzz(func(t *testing.T, text []byte) {
		var e entry
		if (&commonParser{extent: traefik}).parse(text, &e) {
			assert.NotEmpty(t, e.client)
			assert.InDelta(t, 500, e.status, 500)
		}
	})
}
