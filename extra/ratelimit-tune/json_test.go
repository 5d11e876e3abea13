package main

import (
	"encoding/json"
	"io"
	"os"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/gin-ratelimit/ratelimit/extra/ratelimit-tune/internal/traffic"
)

// writeLog writes a log of the format to a file.
func writeLog(t *testing.T, format string, requests []traffic.Request) (name string) {
	t.Helper()
	f, err := os.Create(t.TempDir() + "/access.log")
	require.NoError(t, err)
	require.NoError(t, traffic.Write(f, format, requests))
	require.NoError(t, f.Close())
	return f.Name()
}

var leapDay = time.Date(2024, 2, 29, 23, 59, 30, 0, time.UTC)

// figures runs the command, and returns what -json writes.
func figures(t *testing.T, args ...string) (got map[string]any) {
	t.Helper()
	name := t.TempDir() + "/out.json"
	require.NoError(t, run(io.Discard, append([]string{"-json", name}, args...)))
	text, err := os.ReadFile(name)
	require.NoError(t, err)
	require.NoError(t, json.Unmarshal(text, &got))
	return got
}

// with reports whether an object has these members.
func with(t *testing.T, want map[string]any, object any) {
	t.Helper()
	got, ok := object.(map[string]any)
	require.True(t, ok, object)
	for name, value := range want {
		assert.Equal(t, value, got[name], name)
	}
}

func interval3(stamped, low, high float64) map[string]any {
	return map[string]any{"stamped": stamped, "min": low, "max": high}
}

func TestJSONOfAReplay(t *testing.T) {
	got := figures(t, "-limit", "10/s burst 3", writeLog(t, "common", traffic.Handful(leapDay)))
	with(t, map[string]any{
		"lines": 16., "requests": 16., "missed": 0., "clients": 4., "from": "2024-02-29T23:59:30Z", "to": "2024-03-01T00:00:30Z", "resolution_seconds": 1.,
	}, got["read"])
	require.Len(t, got["replay"], 1)
	with(t, map[string]any{
		"limit": "10/s burst 3", "refused_requests": interval3(2, 0, 2), "refused_clients": interval3(1, 0, 1),
		"first": "2024-02-29T23:59:30Z", "last": "2024-02-29T23:59:30Z",
		"busiest_minute": map[string]any{"at": "2024-02-29T23:59:00Z", "refused_requests": 2.},
		"by_route":       []any{map[string]any{"route": "/", "refused_requests": 2.}},
	}, got["replay"].([]any)[0])
	assert.Contains(t, got["frontier"], map[string]any{
		"rate": "1/s", "burst": map[string]any{"p90": 8., "p95": 8., "p99": 8., "p999": 8., "max": 8.}, "below_resolution": false,
	})
	with(t, map[string]any{"client": "192.0.2.1", "requests": 10., "refused_requests": 2., "answered_2xx": 10., "user_agents": 0., "needed_burst": 5.}, got["clients"].([]any)[0])
}

func TestJSONOfSuggestions(t *testing.T) {
	got := figures(t, "-refuse-clients", "25", "-refuse-requests", "20", writeLog(t, "common", traffic.Handful(leapDay)))
	assert.Empty(t, got["replay"])
	require.Len(t, got["suggestions"], len(candidates))
	picked := 0
	for _, s := range got["suggestions"].([]any) {
		if s.(map[string]any)["picked"] == true {
			picked++
			// By hand: 3 of the 16 requests may be refused, all of one client. At 1/m a burst of 7 refuses its last 3.
			with(t, map[string]any{"limit": "1/m burst 7", "confidence": "low", "refused_requests": interval3(3, 3, 3), "refused_clients": interval3(1, 1, 1)}, s)
		}
	}
	assert.Equal(t, 1, picked)
	kinds := make([]string, 0, 2)
	for _, s := range got["read"].(map[string]any)["suspicions"].([]any) {
		kinds = append(kinds, s.(map[string]any)["kind"].(string))
	}
	assert.Equal(t, []string{"short", "few"}, kinds)
}

// The names are what scripts rely on, so they are here once more.
func TestNamesInJSON(t *testing.T) {
	got := figures(t, "-config", writeDocument(t, "default: 1/s burst 3"), "-against", writeDocument(t, "default: 1/s burst 2"), writeLog(t, "common", traffic.Handful(leapDay)))
	names := func(object any) (names []string) {
		for name := range object.(map[string]any) {
			names = append(names, name)
		}
		return names
	}
	assert.ElementsMatch(t, []string{"read", "frontier", "replay", "compare", "suggestions", "routes", "clients"}, names(got))
	assert.ElementsMatch(t, []string{"lines", "requests", "missed", "clients", "from", "to", "resolution_seconds", "partial", "requests_of_further_clients", "warnings", "suspicions"}, names(got["read"]))
	assert.ElementsMatch(t, []string{"rate", "burst", "below_resolution"}, names(got["frontier"].([]any)[0]))
	assert.ElementsMatch(t, []string{"limit", "refused_requests", "refused_clients", "first", "last", "busiest_minute", "by_route"}, names(got["replay"].([]any)[0]))
	assert.ElementsMatch(t, []string{"limit", "refused_requests", "refused_clients", "confidence", "picked"}, names(got["suggestions"].([]any)[0]))
	assert.ElementsMatch(t, []string{
		"against", "newly_refused_requests", "newly_refused_clients", "newly_admitted_requests", "newly_admitted_clients", "by_route",
	}, names(got["compare"]))
	with(t, map[string]any{"newly_refused_requests": interval3(0, 0, 0), "newly_admitted_requests": interval3(2, 2, 2), "newly_admitted_clients": interval3(1, 1, 1)}, got["compare"])
}
