package ratelimit

import (
	"errors"
	"testing"

	"github.com/stretchr/testify/require"
)

// However deep errors of this package wrap one another, the text has "ratelimit: " once, and errors.Is finds all of them.
func TestErrorsSayThePackageOnce(t *testing.T) {
	cause := errors.New("connection refused")
	inner := errorf("redis: %w", cause)
	outer := argumentError(errorf("circuit open: %w", inner))
	require.EqualError(t, outer, "ratelimit: circuit open: redis: connection refused: invalid argument")
	for _, err := range []error{cause, inner, ErrArgument} {
		require.ErrorIs(t, outer, err)
	}
}
