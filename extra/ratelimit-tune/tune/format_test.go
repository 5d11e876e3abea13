package tune

import (
	"bytes"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/gin-ratelimit/ratelimit/extra/ratelimit-tune/internal/traffic"
)

// namedFields are those of traffic's formats without names of their own.
var namedFields = map[string]Fields{
	"json": {Client: "http.client", Time: "at", Status: "http.status", Method: "http.method", Path: "url", Agent: "ua", Duration: "elapsed_ms:ms", Plan: "account.plan", Cost: "cost"},
	"csv":  {Client: "ip", Time: "begin", Status: "status", Method: "method", Path: "path", Agent: "agent", Plan: "plan", Cost: "cost"},
}

// begins says what a format tells of the begin of a request.
func begins(format string, r *traffic.Request) time.Time {
	switch format {
	case "common", "combined", "traefik":
		return r.Begin.Truncate(time.Second)
	case "gin", "gin-color": // The error of the stamp is a second anyway.
		return r.Begin.Add(r.Took).Truncate(time.Second).Add(-r.Took.Round(time.Second))
	case "nginx", "envoy":
		return r.Begin.Truncate(time.Millisecond)
	default:
		return r.Begin
	}
}

// What is written in a format is what is read, request by request.
func TestEveryFormatIsReadBack(t *testing.T) {
	day := traffic.Day(1, time.Date(2024, 2, 29, 0, 0, 0, 0, time.UTC), 30)
	agents := make(map[string]map[string]bool)
	for _, r := range day {
		if agents[r.Client] == nil {
			agents[r.Client] = make(map[string]bool)
		}
		agents[r.Client][r.Agent] = true
	}
	require.Len(t, agents[traffic.Office], 40)
	for _, format := range traffic.Formats() {
		t.Run(format, func(t *testing.T) {
			var log bytes.Buffer
			require.NoError(t, traffic.Write(&log, format, day))
			trace, err := readText(t.Context(), Options{Fields: namedFields[format]}, log.String())
			require.NoError(t, err)
			name, _, _ := strings.Cut(format, "-")
			assert.Equal(t, []FileFormat{{"access.log", name}}, trace.Formats)
			assert.Zero(t, trace.Misses)

			var want, got []string
			hasPlans := namedFields[format].Plan != ""
			for _, r := range day {
				route := "/" + strings.Split(r.Path, "/")[1]
				if !hasPlans {
					r.Plan = ""
				}
				want = append(want, fmt.Sprint(begins(format, &r).UnixMicro(), r.Client, route, r.Status, r.Cost, r.Plan))
			}
			for _, r := range trace.Requests {
				got = append(got, fmt.Sprint(r.Tick, trace.Clients[r.Client], trace.Routes[r.Route], r.Status, r.Cost, trace.Plans[r.Plan]))
			}
			slices.Sort(want)
			slices.Sort(got)
			require.Equal(t, want, got)

			resolution := time.Microsecond
			switch format {
			case "common", "combined", "traefik", "gin", "gin-color":
				resolution = time.Second
			case "nginx", "envoy":
				resolution = time.Millisecond
			}
			assert.Equal(t, resolution, trace.Resolution)
			if !strings.HasPrefix(format, "gin") && format != "common" {
				for i, client := range trace.Clients {
					assert.EqualValues(t, len(agents[client]), trace.Agents[i], client)
				}
			}
		})
	}
}

func TestLines(t *testing.T) {
	at := time.Date(2023, 10, 10, 13, 55, 36, 0, time.FixedZone("", 2*60*60))
	tick := at.UnixMicro()
	local := time.Date(2023, 10, 10, 13, 55, 36, 0, time.Local).UnixMicro()
	const head = `192.0.2.7 - alice [10/Oct/2023:13:55:36 +0200] "GET /a/b?x=1 HTTP/2.0" 200 612`
	for _, test := range []struct {
		name, line string
		format     string
		fields     Fields
		client     string
		tick, took int64
		status     int16
		path       string
		agent      string
	}{
		{name: "common", line: head, format: "common", client: "192.0.2.7", tick: tick, status: 200, path: "/a/b?x=1"},
		{name: "IPv6", line: strings.Replace(head, "192.0.2.7", "[2001:db8::7]", 1), format: "common", client: "[2001:db8::7]", tick: tick, status: 200, path: "/a/b?x=1"},
		{name: "virtual host before", line: "example.com:443 " + head, format: "common", client: "192.0.2.7", tick: tick, status: 200, path: "/a/b?x=1"},
		{name: "user with spaces", line: strings.Replace(head, "alice", "a b c", 1), format: "common", client: "192.0.2.7", tick: tick, status: 200, path: "/a/b?x=1"},
		{name: "HTTP/0.9", line: `192.0.2.7 - - [10/Oct/2023:13:55:36 +0200] "GET /a" 200 -`, format: "common", client: "192.0.2.7", tick: tick, status: 200, path: "/a"},
		{name: "no request", line: `192.0.2.7 - - [10/Oct/2023:13:55:36 +0200] "-" 408 -`, format: "common", client: "192.0.2.7", tick: tick, status: 408},
		{name: "combined", line: head + ` "http://example.com/\"" "a \"quoted\" agent"`, format: "combined", client: "192.0.2.7", tick: tick, status: 200, path: "/a/b?x=1", agent: `a \"quoted\" agent`},
		{name: "Apache with microseconds", line: strings.Replace(head, ":36", ":36.123456", 1), format: "common", client: "192.0.2.7", tick: tick + 123_456, status: 200, path: "/a/b?x=1"},
		{name: "nginx with request_time", line: head + ` "-" "curl/8" 1.250`, format: "nginx", client: "192.0.2.7", tick: tick, took: 1_250_000, status: 200, path: "/a/b?x=1", agent: "curl/8"},
		{name: "nginx with names and upstream", line: head + ` "-" "curl/8" "192.0.2.1, 192.0.2.2" uct=0.001 uht="0.002, 0.003" rt=0.250 urt="0.249"`, format: "nginx", client: "192.0.2.7", tick: tick, took: 250_000, status: 200, path: "/a/b?x=1", agent: "curl/8"},
		{name: "nginx with msec", line: head + ` "-" "curl/8" 1696938936.987`, format: "nginx", client: "192.0.2.7", tick: tick + 987_000, status: 200, path: "/a/b?x=1", agent: "curl/8"},
		{name: "nginx, two durations", line: head + ` "-" "curl/8" 0.250 0.100`, format: "nginx", client: "192.0.2.7", tick: tick, took: 250_000, status: 200, path: "/a/b?x=1", agent: "curl/8"},
		{name: "nginx main", line: head + ` "-" "curl/8" "192.0.2.9"`, format: "combined", client: "192.0.2.7", tick: tick, status: 200, path: "/a/b?x=1", agent: "curl/8"},
		{name: "nginx, msec for the stamp", line: strings.Replace(head, "10/Oct/2023:13:55:36 +0200", "1696938936.987", 1), format: "common", client: "192.0.2.7", tick: tick + 987_000, status: 200, path: "/a/b?x=1"},
		{name: "Traefik", line: head + ` "-" "-" 17 "web@docker" "http://10.0.0.2:80" 45ms`, format: "traefik", client: "192.0.2.7", tick: tick, status: 200, path: "/a/b?x=1", agent: "-"},
		{name: "Traefik in JSON", line: `{"ClientAddr":"192.0.2.7:1234","ClientHost":"192.0.2.7","Duration":45000000,"DownstreamStatus":404,"RequestMethod":"GET","RequestPath":"/a","StartUTC":"2023-10-10T11:55:36.123456789Z","time":"2023-10-10T11:55:37Z"}`, format: "traefik", client: "192.0.2.7", tick: tick + 123_456, status: 404, path: "/a"},
		{name: "Gin", line: `[GIN] 2023/10/10 - 13:55:36 | 200 |    1.2345ms |       192.0.2.7 | GET      "/a \"b\""`, format: "gin", client: "192.0.2.7", tick: local, took: 1234, status: 200, path: `/a "b"`},
		{name: "Gin behind another logger", line: `Oct 10 13:55:36 host app[7]: [GIN] 2023/10/10 - 13:55:36 | 404 |       1m30s |    2001:db8::7 | GET      "/"`, format: "gin", client: "2001:db8::7", tick: local, took: 90_000_000, status: 404, path: "/"},
		{name: "Gin with colors", line: "[GIN] 2023/10/10 - 13:55:36 |\x1b[97;42m 200 \x1b[0m|\x1b[90;47m    120µs \x1b[0m|       192.0.2.7 |\x1b[97;44m GET     \x1b[0m \"/a\"", format: "gin", client: "192.0.2.7", tick: local, took: 120, status: 200, path: "/a"},
		{name: "Caddy", line: `{"level":"info","ts":1696938936.5,"logger":"http.log.access","msg":"handled request","request":{"remote_ip":"192.0.2.7","remote_port":"41342","proto":"HTTP/2.0","method":"GET","host":"localhost","uri":"/a","headers":{"User-Agent":["curl/7.82.0"]}},"user_id":"","duration":0.000929675,"size":10900,"status":200}`, format: "caddy", client: "192.0.2.7", tick: tick + 500_000, took: 930, status: 200, path: "/a", agent: "curl/7.82.0"},
		{name: "Caddy behind a proxy", line: `{"ts":"2023-10-10T13:55:36+02:00","request":{"remote_ip":"10.0.0.1","client_ip":"192.0.2.7","uri":"/"},"duration":"1.5s","status":200}`, format: "caddy", client: "192.0.2.7", tick: tick, took: 1_500_000, status: 200, path: "/"},
		{name: "Envoy", line: `{"start_time":"2023-10-10T11:55:36.123Z","response_code":"503","duration":"12","downstream_remote_address":"[2001:db8::7]:1234","path":"/a","method":"GET","user_agent":null}`, format: "envoy", client: "2001:db8::7", tick: tick + 123_000, status: 503, path: "/a"},
		{name: "other names in a known format", line: `{"start_time":"2023-10-10T11:55:36.123Z","response_code":200,"downstream_remote_address":"10.0.0.1:1234","who":"k1"}`, fields: Fields{Client: "who"}, format: "envoy", client: "k1", tick: tick + 123_000, status: 200},
		{name: "JSON", line: `{"t":1696938936123,"a.b":{"c":["192.0.2.7:80"]},"x":{"s":201}}`, fields: Fields{Client: "k", Time: "t", Status: "x.s"}, format: ""},
		{name: "JSON by names", line: `{"t":1696938936123,"a":{"b":["192.0.2.7:80"]},"x.s":201,"d":1.5}`, fields: Fields{Client: "a.b", Time: "t", Status: "x.s", Duration: "d"}, format: "json", client: "192.0.2.7", tick: tick + 123_000, took: 1_500_000, status: 201},
		{name: "JSON without the time", line: `{"t":null,"a":"192.0.2.7"}`, fields: Fields{Client: "a", Time: "t"}, format: ""},
		{name: "JSON with a wrong duration", line: `{"t":1696938936,"a":"192.0.2.7","d":"soon"}`, fields: Fields{Client: "a", Time: "t", Duration: "d"}, format: ""},
		{name: "JSON with a negative cost", line: `{"t":1696938936,"a":"192.0.2.7","c":-1}`, fields: Fields{Client: "a", Time: "t", Cost: "c"}, format: ""},
		{name: "half of JSON", line: `{"t":1696938936,"a":"192.0`, fields: Fields{Client: "a", Time: "t"}, format: ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			format := ""
			var e entry
			for _, p := range newParsers(Options{Fields: test.fields}) {
				if e = (entry{cost: 1}); p.parse([]byte(test.line), &e) {
					format = p.name()
					break
				}
			}
			require.Equal(t, test.format, format)
			if format == "" {
				return
			}
			assert.Equal(t, test.client, string(e.client))
			assert.Equal(t, test.tick, e.tick)
			assert.Equal(t, test.took, e.took)
			assert.Equal(t, test.status, e.status)
			assert.Equal(t, test.path, string(e.path))
			assert.Equal(t, test.agent, string(e.agent))
		})
	}
}

// Gin writes no zone: it is the machine's.
func TestGinIsInLocalTime(t *testing.T) {
	zone := time.Local
	time.Local = time.FixedZone("", 5*60*60)
	t.Cleanup(func() { time.Local = zone })
	var e entry
	require.True(t, new(ginParser).parse([]byte(`[GIN] 2023/10/10 - 13:55:36 | 200 | 1ms | 192.0.2.7 | GET "/"`), &e))
	assert.Equal(t, time.Date(2023, 10, 10, 8, 55, 36, 0, time.UTC).UnixMicro(), e.tick)
}

// Caddy's numbers have no zeros at their end, so that one may look as if it were of a whole second.
func TestCaddyHasMicroseconds(t *testing.T) {
	trace, err := readText(t.Context(), Options{}, `{"ts":1696938936,"request":{"remote_ip":"192.0.2.7"},"duration":0.25}`)
	require.NoError(t, err)
	assert.Equal(t, time.Microsecond, trace.Resolution)
	assert.EqualValues(t, 1696938935_750_000, trace.Requests[0].Tick)
}

func TestStamps(t *testing.T) {
	at := time.Date(2024, 2, 29, 12, 30, 45, 0, time.UTC).UnixMicro()
	for _, test := range []struct {
		text       string
		tick, step int64
	}{
		{"29/Feb/2024:12:30:45 +0000", at, second},
		{"[29/Feb/2024:13:30:45 +0100]", at, second},
		{"29/Feb/2024:08:00:45 -0430", at, second},
		{"29/Feb/2024:12:30:45.5 +0000", at + 500_000, millisecond},
		{"29/Feb/2024:12:30:45,123456 +0000", at + 123_456, microsecond},
		{"2024-02-29T12:30:45Z", at, second},
		{"2024-02-29T14:30:45.123+02:00", at + 123_000, millisecond},
		{"2024-02-29 12:30:45.123456789 +0000", at + 123_456, microsecond},
		{"2024-02-29 12:30:45", at, second},
		{"1709209845", at, second},
		{"1709209845.25", at + 250_000, millisecond},
		{"1709209845.1234567", at + 123_456, microsecond},
		{"1709209845123", at + 123_000, millisecond},
		{"1709209845123.456", at + 123_456, microsecond},
		{"1709209845123456", at + 123_456, microsecond},
		{"1709209845123456789", at + 123_456, microsecond},
		{"0", 0, second},
		{"30/Feb/2024:12:30:45 +0000", 0, 0},
		{"29/Feb/2023:12:30:45 +0000", 0, 0},
		{"29/Feb/2024:24:30:45 +0000", 0, 0},
		{"29/Feb/2024:12:60:45 +0000", 0, 0},
		{"29/Feb/2024:12:30:45", 0, 0},
		{"29/Fab/2024:12:30:45 +0000", 0, 0},
		{"2024-02-29T12:30:45+24:00", 0, 0},
		{"2024-13-29T12:30:45Z", 0, 0},
		{"2024-02-29T12:30:45Zz", 0, 0},
		{"99999999999999999999", 0, 0},
		{"9999999999999999999", 0, 0},
		{"-1", 0, 0},
		{"1e9", 0, 0},
		{"1.", 0, 0},
		{"", 0, 0},
		{"[]", 0, 0},
	} {
		tick, step, ok := parseStamp([]byte(test.text))
		require.Equal(t, test.step > 0, ok, test.text)
		if ok {
			assert.Equal(t, test.tick, tick, test.text)
			assert.Equal(t, test.step, step, test.text)
		}
	}
}

func TestCSV(t *testing.T) {
	fields := Fields{Client: "client ip", Time: "time", Path: "path", Cost: "cost"}
	for _, test := range []struct {
		name, log        string
		requests, misses int
		fails            string
	}{
		{name: "commas", log: "time,client ip,path,cost\r\n1709209845,192.0.2.7,/a,0.5\r\n", requests: 1},
		{name: "semicolons", log: "time;path;client ip;cost\n1709209845;/a,b;192.0.2.7;1\n", requests: 1},
		{name: "tabs", log: "time\tpath\tclient ip\tcost\n1709209845\t/a\t192.0.2.7\t1\n", requests: 1},
		{name: "quotes", log: "\"time\",\"client ip\",\"path\",\"cost\"\n\"1709209845\",\"192.0.2.7\",\"/a\"\"b,\",\"1\"\n", requests: 1},
		{name: "too few and too many", log: "time,client ip\n1709209845\n1709209845,192.0.2.7,\n1709209845,192.0.2.7\n", requests: 1, misses: 2},
		{name: "an open quote", log: "time,client ip\n1709209845,\"192.0.2.7\n1709209845,\"192.0.2.7\"x\n", misses: 2, fails: "none of 2 lines"},
		{name: "a header alone", log: "time,client ip\n"},
		{name: "another header", log: "when,who\n1709209845,192.0.2.7\n", fails: `line 1: the header lacks "client ip" or "time"`},
	} {
		t.Run(test.name, func(t *testing.T) {
			trace, err := readText(t.Context(), Options{Format: "csv", Fields: fields}, test.log)
			if test.fails != "" {
				require.ErrorContains(t, err, test.fails)
			} else {
				require.NoError(t, err)
			}
			assert.Len(t, trace.Requests, test.requests)
			assert.Equal(t, test.misses, trace.Misses)
			for _, r := range trace.Requests {
				assert.EqualValues(t, 1, r.Cost)
				assert.Equal(t, []string{"192.0.2.7"}, trace.Clients)
			}
			if test.name == "quotes" {
				assert.Equal(t, []string{`/a"b,`}, trace.Routes)
			}
		})
	}
}

// The parsers of a file take turns, so that no line of another format is lost.
func TestMixedFormats(t *testing.T) {
	const caddy = `{"ts":1696938936.5,"request":{"remote_ip":"192.0.2.7","uri":"/a"},"status":200}`
	trace, err := readText(t.Context(), Options{}, strings.Join([]string{line, "[GIN-debug] Listening", caddy, line, caddy}, "\n"))
	require.NoError(t, err)
	assert.Len(t, trace.Requests, 4)
	assert.Equal(t, []Miss{{"access.log", 2, "[GIN-debug] Listening"}}, trace.Missed)
	assert.Equal(t, []FileFormat{{"access.log", "common, caddy"}}, trace.Formats)
	assert.Equal(t, time.Second, trace.Resolution, "some stamps are of microseconds, but not all")

	trace, err = readText(t.Context(), Options{Format: "caddy"}, line+"\n"+caddy)
	require.NoError(t, err)
	assert.Len(t, trace.Requests, 1)
	assert.Equal(t, 1, trace.Misses)
}

func TestCostIsTheSizeOfTheAnswer(t *testing.T) {
	trace, err := readText(t.Context(), Options{Fields: Fields{Cost: "bytes"}}, line+"\n"+strings.Replace(line, "1713", "-", 1))
	require.NoError(t, err)
	assert.EqualValues(t, 1713, trace.Requests[0].Cost)
	assert.Zero(t, trace.Requests[1].Cost)
}
