package main

import (
	"errors"
	"flag"
	"io"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/gin-ratelimit/ratelimit/extra/ratelimit-tune/internal/traffic"
)

// document writes limits to a file.
func writeDocument(t *testing.T, text string) (name string) {
	t.Helper()
	f, err := os.Create(t.TempDir() + "/limits.yaml")
	require.NoError(t, err)
	_, err = f.WriteString(text)
	require.NoError(t, err)
	require.NoError(t, f.Close())
	return f.Name()
}

// printed is what the command prints.
func printed(t *testing.T, args ...string) string {
	t.Helper()
	var out strings.Builder
	require.NoError(t, run(&out, args))
	return out.String()
}

// get is one request on a path.
func get(client, path string, seconds int) traffic.Request {
	return traffic.Request{Client: client, Method: "GET", Path: path, Status: 200, Begin: leapDay.Add(time.Duration(seconds) * time.Second), Cost: 1}
}

func TestDocumentsHaveBucketsForRoutes(t *testing.T) {
	log := writeLog(t, "common", []traffic.Request{
		get("192.0.2.1", "/users/1", 0), get("192.0.2.1", "/users/2", 0), get("192.0.2.1", "/a", 0), get("192.0.2.1", "/a", 1), get("192.0.2.2", "/a", 1), get("192.0.2.2", "/a", 2),
	})
	limits := writeDocument(t, "default: 2/h\nroutes: {GET /users/:id: 1/h}\nkeys: {192.0.2.2: 1/h}")
	want := []any{map[string]any{"route": "GET /users/:id", "refused_requests": 1.}, map[string]any{"route": "(no route)", "refused_requests": 1.}}
	with(t, map[string]any{"refused_requests": interval3(2, 2, 2), "by_route": want}, figures(t, "-config", limits, log)["replay"].([]any)[0])
	routes := writeDocument(t, `[{"method": "GET", "path": "/users/:id", "limiters": []}, {"method": "", "path": "", "limiters": []}]`)
	with(t, map[string]any{"by_route": want}, figures(t, "-config", limits, "-routes", routes, log)["replay"].([]any)[0])
}

// The keys of a document are those of ByClientIP, which has one for all addresses of a network of IPv6.
func TestDocumentsNameNetworks(t *testing.T) {
	log := writeLog(t, "common", []traffic.Request{get("2001:db8::7", "/", 0), get("2001:db8::7", "/", 0), get("2001:db8:1::7", "/", 0), get("2001:db8:1::7", "/", 0)})
	got := figures(t, "-config", writeDocument(t, "default: 9/h\nkeys: {\"2001:db8::/64\": 1/h}"), log)
	with(t, map[string]any{"refused_requests": interval3(1, 1, 1), "refused_clients": interval3(1, 1, 1)}, got["replay"].([]any)[0])
}

func TestDocumentMustGoWithRoutes(t *testing.T) {
	limits := writeDocument(t, "default: 2/h\nroutes: {GET /user/:id: 1/h}")
	err := run(io.Discard, []string{"-config", limits, "-route", "GET /users/:id", "no.log"})
	require.ErrorContains(t, err, "line 2")
	require.ErrorContains(t, err, "matches no route")
	require.ErrorAs(t, err, new(*mistake))
}

func TestPlansAndCostsComeFromFields(t *testing.T) {
	log := writeDocument(t, `{"ip": "192.0.2.1", "at": 1709209845, "plan": "pro", "cost": 5}
{"ip": "192.0.2.1", "at": 1709209845, "plan": "pro", "cost": 6}
{"ip": "192.0.2.2", "at": 1709209845, "cost": 5}
`)
	limits := writeDocument(t, "default: 3/h\nplans: {pro: 10/h}")
	got := figures(t, "-fields", "client=ip,time=at,plan=plan,cost=cost", "-config", limits, log)
	with(t, map[string]any{"refused_requests": interval3(2, 2, 2), "refused_clients": interval3(2, 2, 2)}, got["replay"].([]any)[0])
	forgotten := `note: No request has a plan, and there are limits for "pro": name the field of the log that has it, as in -fields plan=…`
	assert.Contains(t, printed(t, "-fields", "client=ip,time=at", "-config", limits, log), forgotten)
	assert.NotContains(t, printed(t, "-fields", "client=ip,time=at,plan=plan", "-config", limits, log), forgotten)
}

func TestChargeStatus(t *testing.T) {
	failed := get("192.0.2.1", "/login", 0)
	failed.Status = 401
	log := writeLog(t, "common", []traffic.Request{get("192.0.2.1", "/login", 0), failed, get("192.0.2.1", "/login", 1), failed, get("192.0.2.1", "/login", 2)})
	for charged, refused := range map[string]float64{"401": 2, "4xx": 2, "200": 1, "401,2xx": 3, "5xx": 0} {
		got := figures(t, "-limit", "2/h", "-charge-status", charged, log)
		with(t, map[string]any{"refused_requests": interval3(refused, refused, refused)}, got["replay"].([]any)[0])
	}
	assert.Contains(t, printed(t, "-limit", "2/h", "-charge-status", "401", log), "as if each request were answered at once")
}

func TestSeveralLimitsHoldTogether(t *testing.T) {
	got := figures(t, "-limit", "1/s burst 3", "-limit", "4/h", writeLog(t, "common", traffic.Handful(leapDay)))
	// By hand: of the first client's 10 requests the first limit admits 3, 1 and 1, and the second 4 in all.
	with(t, map[string]any{"limit": "1/s burst 3, 4/h", "refused_requests": interval3(6, 6, 6)}, got["replay"].([]any)[0])
}

func TestExitCodes(t *testing.T) {
	log := writeLog(t, "common", traffic.Handful(leapDay))
	older, newer := writeDocument(t, "default: 1/s burst 3"), writeDocument(t, "default: 1/s burst 2")
	for _, test := range []struct {
		name string
		args []string
		code int
		text string
	}{
		{"fine", []string{log}, 0, ""},
		{"help", []string{"-help"}, 0, ""},
		{"unread", []string{"no-such.log"}, 1, "no-such.log"},
		{"unwritten", []string{"-json", "/no-such/out.json", log}, 1, "ratelimit-tune: -json /no-such/out.json: "},
		{"no log", nil, 2, "ratelimit-tune: no log given: name files, or - for standard input (ratelimit-tune -help lists the flags)"},
		{"flag behind", []string{log, "-limit", "1/s"}, 2, "a flag stands behind a log: flags go before the logs"},
		{"flag", []string{"-limits", "1/s", log}, 2, "flag provided but not defined: -limits"},
		{"limit", []string{"-limit", "1", log}, 2, `rate "1": want tokens/period`},
		{"unlimited", []string{"-limit", "unlimited", log}, 2, "unlimited refuses nothing"},
		{"document", []string{"-config", writeDocument(t, "default: 1"), log}, 2, "limitconfig: line 1: default: "},
		{"no such document", []string{"-config", "no-such.yaml", log}, 2, "no-such.yaml"},
		{"percentage", []string{"-refuse-clients", "101", log}, 2, "give 0 to 100"},
		{"two replays", []string{"-limit", "1/s", "-config", older, log}, 2, "give one of them"},
		{"against nothing", []string{"-against", older, log}, 2, "give that, too"},
		{"nothing to judge", []string{"-max-refused-clients", "1", log}, 2, "give -limit or -config"},
		{"no allowance", []string{"-max-refused-clients", "1.5", "-limit", "1/s", log}, 2, "give a count as in 12, or a percentage as in 0.5%"},
		{"no status", []string{"-charge-status", "4x1", "-limit", "1/s", log}, 2, `"4x1" is no status`},
		{"no client", []string{"-exclude", "192.0.2.9", log}, 2, "the log has no such client"},
		{"nothing to judge in the log", []string{"-limit", "1/s", "-max-refused-clients", "1", writeDocument(t, "")}, 1, "the logs have no requests"},
		{"allowed", []string{"-limit", "1/s burst 3", "-max-refused-clients", "1", "-max-refused-requests", "31.25%", log}, 0, ""},
		{"more requests", []string{"-limit", "1/s burst 3", "-max-refused-requests", "4", log}, 3, "ratelimit-tune: 5 requests (31.2 %) refused, more than -max-refused-requests 4\n"},
		{"more clients", []string{"-limit", "1/s burst 3", "-max-refused-clients", "24.9%", log}, 3, "1 client (25 %) refused, more than -max-refused-clients 24.9%\n"},
		{"the worse reading", []string{"-limit", "10/s burst 3", "-max-refused-requests", "1", log}, 3, "2 requests (12.5 %) refused"},
		{"no more than of old", []string{"-config", older, "-against", older, "-max-refused-requests", "0", log}, 0, ""},
		{"more than of old", []string{"-config", newer, "-against", older, "-max-refused-requests", "1", log}, 3, "2 requests (12.5 %) newly refused"},
		{"more clients than of old", []string{"-config", newer, "-against", older, "-max-refused-clients", "0%", log}, 3, "1 client (25 %) newly refused"},
	} {
		t.Run(test.name, func(t *testing.T) {
			c := command(t, test.args...)
			var diagnostics strings.Builder
			c.Stderr = &diagnostics
			code := 0
			if exit := new(exec.ExitError); errors.As(c.Run(), &exit) {
				code = exit.ExitCode()
			}
			assert.Equal(t, test.code, code)
			if test.text == "" {
				assert.Empty(t, diagnostics.String())
			}
			assert.Contains(t, diagnostics.String(), test.text)
		})
	}
}

func TestHelpNamesEveryFlagOnce(t *testing.T) {
	text, err := command(t, "-help").Output()
	require.NoError(t, err)
	for _, name := range []string{"limit", "config", "against", "routes", "route", "exclude", "html", "json", "charge-status", "anonymize"} {
		assert.Equal(t, 1, strings.Count(string(text), "\n  -"+name+" ")+strings.Count(string(text), "\n  -"+name+"\n"), name)
	}
	require.ErrorIs(t, run(io.Discard, []string{"-h"}), flag.ErrHelp)
}

func TestSuggestionIsADocument(t *testing.T) {
	log := writeLog(t, "nginx", traffic.Day(1, leapDay, 100))
	args := []string{"-route", "GET /articles/:id", "-route", "GET /assets/*file", "-route", "POST /login", "-exclude", traffic.Attacker}
	text := printed(t, append(args, log)...)
	_, after, found := strings.Cut(text, "For extra/limitconfig:\n\n")
	require.True(t, found, text)
	suggested, rest, found := strings.Cut(after, "\n\n")
	require.True(t, found)
	assert.Contains(t, suggested, "\n    \"GET /articles/:id\": ")
	got := figures(t, append(args, "-config", writeDocument(t, strings.ReplaceAll("\n"+suggested, "\n  ", "\n")), log)...)
	refused := got["replay"].([]any)[0].(map[string]any)
	sentence, _, _ := strings.Cut(rest, "\n")
	var requests, clients float64
	requests, clients = refused["refused_requests"].(map[string]any)["stamped"].(float64), refused["refused_clients"].(map[string]any)["stamped"].(float64)
	assert.Equal(t, "Together they would have refused "+counted(int(requests), "request")+" of "+counted(int(clients), "client")+".", sentence)
}

func TestExcludedClientsAreSaid(t *testing.T) {
	log := writeLog(t, "common", traffic.Day(1, leapDay, 100))
	assert.Contains(t, printed(t, log), "note: "+traffic.Attacker+": a burst of up to ")
	text := printed(t, "-exclude", traffic.Attacker, log)
	assert.Contains(t, text, "6,000 requests of "+traffic.Attacker+" left out by choice.")
	assert.NotContains(t, text, "note: "+traffic.Attacker)
}

func TestHostileTextDoesNotReachTheTerminal(t *testing.T) {
	hostile := get("192.0.2.1\x1b]0;owned\x07", "/\x1b[31m\u202e", 0)
	log := writeLog(t, "common", []traffic.Request{hostile, hostile, get("192.0.2.2", "/", 0)})
	for _, args := range [][]string{{log}, {"-limit", "1/h", log}} {
		text := printed(t, args...)
		assert.NotContains(t, text, "\x1b")
		assert.NotContains(t, text, "\u202e")
		assert.Contains(t, text, `192.0.2.1\x1b]0;owned\a`)
	}
}
