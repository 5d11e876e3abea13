package tune

import (
	"bytes"
	"cmp"
	"compress/gzip"
	"context"
	"fmt"
	"os"
	"slices"
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
		{name: "byte order mark", log: "\xef\xbb\xbf" + line + "\n", requests: 1},
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

func TestReadGzipWithSomethingBehind(t *testing.T) {
	var zipped bytes.Buffer
	w := gzip.NewWriter(&zipped)
	_, err := w.Write([]byte(line + "\n"))
	require.NoError(t, err)
	require.NoError(t, w.Close())
	trace, err := readText(t.Context(), Options{}, zipped.String()+zipped.String())
	require.NoError(t, err, "as logrotate appends them")
	assert.Len(t, trace.Requests, 2)
	trace, err = readText(t.Context(), Options{}, zipped.String()+"garbage, and more of it")
	require.ErrorContains(t, err, "access.log: line 2: cannot be read")
	assert.Len(t, trace.Requests, 1)
}

func TestMissedLinesAreShown(t *testing.T) {
	log := line + "\n\x1b[2Jevil\x00\u202e\n" + strings.Repeat("y", longestLine+1) + "\n" + strings.Repeat("ä", 60) + "\n" + strings.Repeat("nothing\n", 10) + line
	trace, err := readText(t.Context(), Options{}, log)
	require.NoError(t, err)
	assert.Equal(t, 13, trace.Misses)
	assert.Len(t, trace.Requests, 2)
	assert.Equal(t, []Miss{
		{"access.log", 2, `\x1b[2Jevil\x00\u202e`},
		{"access.log", 3, strings.Repeat("y", 100) + "…"},
		{"access.log", 4, strings.Repeat("ä", 50) + "…"},
		{"access.log", 5, "nothing"},
		{"access.log", 6, "nothing"},
	}, trace.Missed)
}

func TestWarnings(t *testing.T) {
	at := func(clock string) string { return strings.Replace(line, "01/Aug/1995:02:00:00", clock, 1) }
	for _, test := range []struct {
		name, log, warning string
	}{
		{name: "empty", log: "", warning: "access.log: the file is empty"},
		{
			name: "a clock that goes back", log: line + "\n" + at("01/Aug/1995:01:59:30") + "\n" + at("01/Aug/1995:01:59:00") + "\n" + line,
			warning: "access.log: 2 lines are earlier than one before them, the first is line 2, by up to 1m0s: requests are sorted by time",
		},
		{
			name: "years in the past", log: at("01/Jan/1970:00:00:00") + "\n\n" + line,
			warning: "access.log: line 3 is 25 years after a line before it: was the clock set only then?",
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			trace, err := readText(t.Context(), Options{}, test.log)
			require.NoError(t, err)
			assert.Equal(t, []string{test.warning}, trace.Warnings)
			assert.True(t, slices.IsSortedFunc(trace.Requests, func(a, b Request) int { return cmp.Compare(a.Tick, b.Tick) }))
		})
	}
	trace, err := readText(t.Context(), Options{}, line+"\n"+line)
	require.NoError(t, err)
	assert.Empty(t, trace.Warnings)
}

func TestErrorsNameTheFix(t *testing.T) {
	for _, test := range []struct {
		options    Options
		log, wrong string
	}{
		{options: Options{Format: "apache"}, wrong: `ratelimit-tune: format "apache" is unknown: give one of common, combined`},
		{options: Options{Format: "json", Fields: Fields{Client: "a"}}, wrong: "ratelimit-tune: format json: name at least the fields of the client and of the time"},
		{options: Options{MaxClients: -1}, wrong: "ratelimit-tune: at most -1 clients: give 0 for no bound, or more"},
		{log: `{"at":1,"ip":"192.0.2.7"}`, wrong: "access.log: none of 1 lines could be read: its lines are JSON: name the fields of the client and of the time, two of at, ip"},
		{log: "at,ip\n1,192.0.2.7", wrong: "access.log: none of 2 lines could be read: name the format if it is one of common"},
		{options: Options{Format: "gin"}, log: line, wrong: "access.log: none of 1 lines could be read: is the format gin? Leave it out, and it is detected"},
		{options: Options{Anonymize: true}, log: `{"alice":1}`, wrong: "access.log: none of 1 lines could be read: name the format if it is one of common"},
	} {
		_, err := readText(t.Context(), test.options, test.log)
		require.ErrorContains(t, err, test.wrong)
	}
	trace, err := Read(t.Context(), Options{}, t.TempDir()+"/none.log")
	require.ErrorIs(t, err, os.ErrNotExist)
	require.NotNil(t, trace)
}

func TestPlansAreBounded(t *testing.T) {
	var log strings.Builder
	for i := range 1 << 16 {
		fmt.Fprintf(&log, `{"t":%d,"c":"a","p":%d}`+"\n", i+1, i)
	}
	trace, err := readText(t.Context(), Options{Fields: Fields{Client: "c", Time: "t", Plan: "p"}}, log.String())
	require.EqualError(t, err, "ratelimit-tune: access.log: line 65536: more than 65,535 plans: name a field that has fewer values")
	assert.Len(t, trace.Requests, 1<<16-1)
	assert.Equal(t, "65534", trace.Plans[trace.Requests[1<<16-2].Plan])
}

func TestProgressAndCancelling(t *testing.T) {
	dir := t.TempDir()
	log := []byte(strings.Repeat(line+"\n", 2*longestLine/len(line)))
	var names []string
	for _, name := range []string{dir + "/a.log", dir + "/b.log"} {
		require.NoError(t, os.WriteFile(name, log, 0o600))
		names = append(names, name)
	}
	var last int64
	progress := func(read, total int64) {
		assert.EqualValues(t, 2*len(log), total)
		assert.GreaterOrEqual(t, read, last)
		last = read
	}
	trace, err := Read(t.Context(), Options{Progress: progress}, names...)
	require.NoError(t, err)
	assert.EqualValues(t, 2*len(log), last)
	assert.False(t, trace.Partial)
	all := len(trace.Requests)

	ctx, cancel := context.WithCancel(t.Context())
	trace, err = Read(ctx, Options{Progress: func(read, _ int64) {
		if read > int64(len(log)) {
			cancel()
		}
	}}, names...)
	require.NoError(t, err)
	assert.True(t, trace.Partial)
	assert.Greater(t, len(trace.Requests), all/2)
	assert.Less(t, len(trace.Requests), all)
	assert.Zero(t, trace.Misses, "no part of a line counts")
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
