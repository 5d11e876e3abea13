package main

import (
	"encoding/json"
	"io"
	"os"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/gin-ratelimit/ratelimit"
	"github.com/gin-ratelimit/ratelimit/extra/ratelimit-tune/internal/traffic"
	"github.com/gin-ratelimit/ratelimit/extra/ratelimit-tune/tune"
)

func TestJSON(t *testing.T) {
	log, name := t.TempDir()+"/access.log", t.TempDir()+"/out.json"
	f, err := os.Create(log)
	require.NoError(t, err)
	require.NoError(t, traffic.Write(f, "common", traffic.Handful(time.Date(2024, 2, 29, 23, 59, 30, 0, time.UTC))))
	require.NoError(t, f.Close())
	limits := []ratelimit.Limit{ratelimit.PerSecond(10).Burst(3)}
	require.NoError(t, run(io.Discard, tune.Options{}, []string{log}, name, limits, tune.Share{Clients: 0.001, Requests: 0.001}))
	text, err := os.ReadFile(name)
	require.NoError(t, err)
	var got map[string]any
	require.NoError(t, json.Unmarshal(text, &got))
	assert.Equal(t, map[string]any{
		"lines": 16., "requests": 16., "missed": 0., "clients": 4., "from": "2024-02-29T23:59:30Z", "to": "2024-03-01T00:00:30Z", "resolution_seconds": 1.,
	}, got["read"])
	assert.Equal(t, []any{map[string]any{
		"limit":            "10/s burst 3",
		"refused_requests": map[string]any{"stamped": 2., "min": 0., "max": 2.},
		"refused_clients":  map[string]any{"stamped": 1., "min": 0., "max": 1.},
	}}, got["replay"])
	assert.Contains(t, got["frontier"], map[string]any{
		"rate": "1/s", "burst": map[string]any{"p90": 8., "p95": 8., "p99": 8., "p999": 8., "max": 8.},
	})
	assert.Len(t, got["suggestions"], len(candidates))
}
