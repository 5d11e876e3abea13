package script

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/gin-ratelimit/ratelimit/internal/bucket"
)

// The arguments of a plain take are made once for a list of limits; those of every other change are its own.
func TestArgumentsArePrepared(t *testing.T) {
	l := NewLimits([]bucket.Scale{{Capacity: 10, Token: 100000, PerTick: 1}, {Capacity: 50, Token: 20000000, PerTick: 1}})
	plain := bucket.Change{N: 1}
	require.Equal(t, []any{
		"10 100000 1", "900000", "100000", "1",
		"50 20000000 1", "980000000", "20000000", "1",
	}, l.args(&plain))
	require.Zero(t, testing.AllocsPerRun(100, func() { l.args(&plain) }))

	ban, ok := bucket.NewBan(bucket.Scale{Capacity: 2, Token: 500000, PerTick: 1}, 1000000, 1000000)
	require.True(t, ok)
	for name, c := range map[string]*bucket.Change{
		"a look":     {},
		"two tokens": {N: 2},
		"a debt":     {N: 1, Debt: true},
		"given back": {N: 1, Back: &bucket.Back{Deficits: []int64{1, 2}}},
		"a wait":     {N: 1, MaxWait: 1},
		"a ban":      {N: 1, Ban: &ban},
	} {
		require.NotEqual(t, l.args(&plain), l.args(c), name)
	}
}
