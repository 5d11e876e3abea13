package tune

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/gin-ratelimit/ratelimit/extra/ratelimit-tune/internal/traffic"
)

// fuzzParser feeds lines to a parser that a new one is made of for each. What it reads makes sense.
func fuzzParser(f *testing.F, newParser func() parser, format string) {
	for _, r := range traffic.Handful(time.Unix(1709209845, 0))[:1] {
		f.Add([]byte(traffic.Line(format, &r)))
	}
	f.Fuzz(func(t *testing.T, line []byte) {
		e := entry{cost: 1}
		if !newParser().parse(line, &e) {
			return
		}
		assert.NotEmpty(t, e.client)
		assert.GreaterOrEqual(t, e.status, int16(0))
		assert.LessOrEqual(t, e.status, int16(999))
		assert.GreaterOrEqual(t, e.cost, int32(0))
		assert.GreaterOrEqual(t, e.took, int64(0))
		assert.Contains(t, []int64{second, millisecond, microsecond}, e.step)
		assert.Less(t, e.tick, int64(3e17), "beyond the year 9999")
	})
}

func FuzzCommon(f *testing.F) {
	f.Add([]byte(line + ` "-" "agent" 0.250 1709209845.123`))
	f.Add([]byte(line + ` "-" "agent" 1 "a" "b" 5ms`))
	f.Add([]byte(`192.0.2.7 - - [] "GET / HTTP/1.0" 200 1713`))
	fuzzParser(f, func() parser { return &commonParser{extent: traefik, bytes: true} }, "combined")
}

func FuzzGin(f *testing.F) {
	fuzzParser(f, func() parser { return new(ginParser) }, "gin-color")
}

func FuzzJSON(f *testing.F) {
	fields := namedFields["json"]
	fuzzParser(f, func() parser { return newJSONParsers(fields)[0] }, "json")
}

func FuzzCaddy(f *testing.F) {
	fuzzParser(f, func() parser { return newJSONParsers(Fields{})[0] }, "caddy")
}

func FuzzCSV(f *testing.F) {
	header := newCSVParser([]byte(traffic.CSVHeader), namedFields["csv"])
	fuzzParser(f, func() parser { return header }, "csv")
}

func FuzzCSVHeader(f *testing.F) {
	f.Add([]byte(traffic.CSVHeader))
	f.Fuzz(func(t *testing.T, header []byte) {
		if p := newCSVParser(header, namedFields["csv"]); p != nil {
			assert.False(t, p.parse(header, &entry{}), "a name is no time")
		}
	})
}

// Every line of a file is read or missed, whatever it is.
func FuzzFile(f *testing.F) {
	f.Add([]byte(line + "\n\xef\xbb\xbf\r\n\x00\n" + line))
	f.Add([]byte("\x1f\x8b\x08"))
	f.Fuzz(func(t *testing.T, text []byte) {
		trace, _ := readText(context.Background(), Options{}, string(text))
		assert.Equal(t, trace.Lines, len(trace.Requests)+trace.Misses)
		assert.Len(t, trace.Agents, len(trace.Clients))
		for _, m := range trace.Missed {
			assert.Equal(t, m.Text, printable(m.Text))
		}
	})
}

// What is written in a format is what is read, also if clients write it.
func FuzzReadBack(f *testing.F) {
	f.Add("192.0.2.7", int64(1709209845123456), int64(250), uint16(200), `/a"b\|c,d?e`, `agent "x" \`)
	f.Add("2001:db8::7", int64(0), int64(0), uint16(999), "/", "")
	f.Fuzz(func(t *testing.T, client string, tick, took int64, status uint16, path, agent string) {
		if !isAddress([]byte(client)) || tick < 1e15 || tick > 4e15 || took < 0 || took > 1e6 || status < 100 || status > 999 {
			t.Skip()
		}
		r := &traffic.Request{
			Begin: time.UnixMicro(tick).UTC(), Took: time.Duration(took) * time.Millisecond, Client: client, Method: "GET",
			Path: "/" + traffic.Escape(path), Agent: traffic.Escape(agent), Status: int(status), Cost: 1,
		}
		for _, format := range traffic.Formats() {
			fields := namedFields[format]
			parsers := newParsers(Options{Fields: fields})
			if format == "csv" {
				parsers = []parser{newCSVParser([]byte(traffic.CSVHeader), fields)}
			}
			line := traffic.Line(format, r)
			var e entry
			known := false
			for _, p := range parsers {
				if e = (entry{cost: 1}); p.parse([]byte(line), &e) {
					known = true
					break
				}
			}
			require.True(t, known, line)
			require.Equal(t, client, string(e.client), line)
			require.EqualValues(t, status, e.status, line)
			begin := e.tick - (e.took+e.step/2)/e.step*e.step
			require.Equal(t, begins(format, r).UnixMicro(), begin, line)
			switch format {
			case "common", "combined", "nginx", "traefik":
				require.Equal(t, traffic.Escape(r.Path), string(e.path), line)
			default:
				require.Equal(t, r.Path, string(e.path), line)
			}
		}
	})
}
