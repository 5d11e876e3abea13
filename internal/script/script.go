// Package script runs the script that decides about buckets in Redis. It knows buckets and their units, and nothing of
// limits, results or requests.
package script

import (
	"context"
	"crypto/sha1" //nolint:gosec // The name by which Redis knows a script.
	_ "embed"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"

	"github.com/redis/go-redis/v9"

	"github.com/gin-ratelimit/ratelimit/internal/bucket"
)

// The script is sent as one: what nearly all calls are, and then everything else.
var (
	//go:embed fast.lua
	fast string
	//go:embed decide.lua
	decide string

	text = fast + decide

	// sha is of the type in which go-redis wants it, because to make one of the other allocates.
	sha any = func() string {
		sum := sha1.Sum([]byte(text)) //nolint:gosec // See the import.
		return hex.EncodeToString(sum[:])
	}()
)

// ErrForeignState says that a key holds something that is not a rate limit. It is left untouched.
var ErrForeignState = errors.New("state is not a rate limit's")

// call is one run of the script, by EVALSHA and its name, or by EVAL and its text. All are strings.
type call struct {
	command, script any
	keys            []string
	args            []any
}

// onceCmd is not sent again when its reply is lost: the script may have run, and a second run charges twice.
type onceCmd struct {
	*redis.IntSliceCmd
	call
}

func newOnceCmd(ctx context.Context, c call) onceCmd {
	args := make([]any, 0, 3+len(c.keys)+len(c.args))
	args = append(args, c.command, c.script, len(c.keys))
	for _, key := range c.keys {
		args = append(args, key)
	}
	args = append(args, c.args...)
	return onceCmd{redis.NewIntSliceCmd(ctx, args...), c}
}

// NoRetry implements redis.Cmder.
func (onceCmd) NoRetry() bool { return true }

// decode reads the script's reply about one key: an outcome of so many limits, and of a ban if one was asked for.
func decode(reply []int64, limits int, ban bool) (bucket.Outcome, error) {
	numbers := 2 + limits
	if ban {
		numbers++
	}
	switch {
	case len(reply) == numbers && reply[0] == -1:
		return bucket.Outcome{}, ErrForeignState
	case len(reply) != numbers, reply[0] > 1, slices.ContainsFunc(reply, func(n int64) bool { return n < 0 || n > bucket.MaxDeficit }):
		return bucket.Outcome{}, fmt.Errorf("reply %v: want %d numbers from 0 to %d, the first at most 1", reply, numbers, int64(bucket.MaxDeficit))
	}
	o := bucket.Outcome{Allowed: reply[0] == 1, Late: reply[1], Deficits: reply[2 : 2+limits]}
	if ban {
		o.Banned = reply[numbers-1]
	}
	return o, nil
}
