package bucket

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func TestAskGrant(t *testing.T) {
	s := Scale{Capacity: 100, Token: 10, PerTick: 3}
	for _, c := range []struct {
		name    string
		ask     Ask
		deficit int64
		tokens  int64
		refused bool
	}{
		{name: "what is wanted", ask: Ask{Need: 1, Want: 5}, tokens: 5},
		{name: "what there is, in whole tokens", ask: Ask{Need: 1, Want: 5}, deficit: 961, tokens: 3},
		{name: "what is needed and not wanted", ask: Ask{Need: 4}, tokens: 4},
		{name: "fewer than are needed", ask: Ask{Need: 4, Want: 9}, deficit: 961, refused: true},
		{name: "nothing, of which there is enough", ask: Ask{Want: 9}, deficit: 1000},
		{name: "nothing of a debt", ask: Ask{Want: 9}, deficit: 5000},
		{name: "left alone", ask: Ask{Floor: 500}},
		{name: "raised to the floor", ask: Ask{Want: 1, Floor: 200}, deficit: 50, tokens: 15},
		{name: "raised by whole tokens, rounded up", ask: Ask{Want: 1, Floor: 201}, deficit: 50, tokens: 16},
		{name: "raised to what there is", ask: Ask{Want: 1, Floor: 1000}, deficit: 55, tokens: 94},
		{name: "over the floor already", ask: Ask{Want: 2, Floor: 100}, deficit: 100, tokens: 2},
	} {
		t.Run(c.name, func(t *testing.T) {
			tokens, ok := c.ask.Grant(&s, c.deficit)
			require.Equal(t, c.tokens, tokens)
			require.Equal(t, !c.refused, ok)
		})
	}
}

// A lease of several limits is granted by all of them or by none, and a lease of nothing changes nothing.
func TestLendAllOrNothing(t *testing.T) {
	scales := []Scale{{Capacity: 10, Token: 100, PerTick: 1}, {Capacity: 5, Token: 1000, PerTick: 1}}
	var s State
	o, grants := s.Lend(1_000, []Ask{{Need: 1, Want: 8}, {Need: 1, Want: 8}}, scales)
	require.True(t, o.Allowed)
	require.Equal(t, []int64{8, 5}, grants)
	require.Equal(t, []int64{800, 5000}, o.Deficits)

	before := s
	o, grants = s.Lend(1_500, []Ask{{Need: 1}, {Need: 1}}, scales)
	require.False(t, o.Allowed)
	require.Equal(t, []int64{0, 0}, grants)
	require.Equal(t, []int64{300, 4500}, o.Deficits)
	require.Equal(t, before, s)

	o, grants = s.Lend(1_500, []Ask{{Need: 2}, {}}, scales)
	require.True(t, o.Allowed, "the second limit is left alone")
	require.Equal(t, []int64{2, 0}, grants)
	require.Equal(t, []int64{500, 4500}, o.Deficits)
}
