package ratelimit

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/gin-ratelimit/ratelimit/internal/bucket"
)

// The arguments of a plain take are made once for a list of limits; those of every other change are its own.
func TestRedisArgumentsArePrepared(t *testing.T) {
	var memo limitsMemo[*scriptLimits]
	limits := []Limit{{10, PerSecond(10)}, {50, PerMinute(3)}}
	plain := bucket.Change{N: 1}
	args := func(c *bucket.Change) []any {
		l, err := memo.of(limits, newScriptLimits)
		require.NoError(t, err)
		return l.args(c)
	}
	require.Equal(t, []any{
		"10 100000 1", "900000", "100000", "1",
		"50 20000000 1", "980000000", "20000000", "1",
	}, args(&plain))
	require.Zero(t, testing.AllocsPerRun(100, func() { args(&plain) }))

	ban, err := Ban{After: 2, Within: time.Second, For: time.Second}.scales()
	require.NoError(t, err)
	for name, c := range map[string]*bucket.Change{
		"a look":     {},
		"two tokens": {N: 2},
		"a debt":     {N: 1, Debt: true},
		"a wait":     {N: 1, MaxWait: 1},
		"a ban":      {N: 1, Ban: ban},
	} {
		require.NotEqual(t, args(&plain), args(c), name)
	}

	limits[0].Capacity = 20 // The caller's slice is the caller's.
	require.Equal(t, "20 100000 1", args(&plain)[0])
}
