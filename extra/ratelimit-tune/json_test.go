package main

import (
	"encoding/json"
	"io"
	"os"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/gin-ratelimit/ratelimit"
	"github.com/gin-ratelimit/ratelimit/extra/ratelimit-tune/tune"
)

func TestJSONOfNASA(t *testing.T) {
	name := t.TempDir() + "/out.json"
	limits := []ratelimit.Limit{ratelimit.PerSecond(10).Burst(3)}
	require.NoError(t, run(io.Discard, []string{"tune/testdata/nasa_19950801.log.gz"}, name, limits, tune.Share{Clients: 0.001, Requests: 0.001}))
	text, err := os.ReadFile(name)
	require.NoError(t, err)
	var got map[string]any
	require.NoError(t, json.Unmarshal(text, &got))
	read := got["read"].(map[string]any)
	assert.EqualValues(t, 30_969, read["requests"])
	assert.EqualValues(t, 1, read["resolution_seconds"])
	assert.Equal(t, []any{map[string]any{
		"limit":            "10/s burst 3",
		"refused_requests": map[string]any{"stamped": 493., "min": 0., "max": 493.},
		"refused_clients":  map[string]any{"stamped": 253., "min": 0., "max": 253.},
	}}, got["replay"])
	assert.Contains(t, got["frontier"], map[string]any{
		"rate": "1/10s", "burst": map[string]any{"p90": 8., "p95": 10., "p99": 16., "p999": 24., "max": 28.},
	})
	assert.Len(t, got["suggestions"], len(candidates))
}
