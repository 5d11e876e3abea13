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

// checked returns what is wrong with a reply of so many numbers, or of any number of them for 0.
func checked(reply []int64, numbers int) error {
	if len(reply) == max(2, numbers) && reply[1] == -1 {
		return ErrForeignState
	}
	if numbers > 0 && len(reply) != numbers || len(reply) < 3 || reply[1] > 1 ||
		slices.ContainsFunc(reply, func(n int64) bool { return n < 0 || n > bucket.MaxDeficit }) {
		return fmt.Errorf("reply %v: want %d numbers from 0 to %d, the second at most 1", reply, numbers, int64(bucket.MaxDeficit))
	}
	return nil
}

// decode reads the script's reply about one key: an outcome of so many limits, and of a ban if one was asked for.
func decode(reply []int64, limits int, ban bool) (bucket.Outcome, error) {
	numbers := 3 + limits
	if ban {
		numbers++
	}
	if err := checked(reply, numbers); err != nil {
		return bucket.Outcome{}, err
	}
	o := bucket.Outcome{Allowed: reply[1] == 1, At: reply[0] + reply[2], ClockBehind: reply[2], Deficits: reply[3 : 3+limits]}
	if ban {
		o.Banned = reply[numbers-1]
	}
	return o, nil
}

// decodeLook reads the reply to a look: the state, as it is at its own tick, and how far the clock is behind it.
func decodeLook(reply []int64) (state bucket.State, late int64, err error) {
	if err := checked(reply, 0); err != nil {
		return state, 0, err
	}
	const head, each, bans = 4, 4, 2
	if len(reply) < head || (len(reply)-head)%each != 0 {
		return state, 0, fmt.Errorf("reply %v to a look", reply)
	}
	var levels []bucket.Level
	for i := head; i < len(reply); i += each {
		levels = append(levels, bucket.Level{
			Scale: bucket.Scale{Capacity: reply[i], Token: reply[i+1], PerTick: reply[i+2]}, Deficit: reply[i+3],
		})
	}
	limits := int(reply[3])
	if beyond := len(levels) - limits; beyond != 0 && beyond != bans {
		return state, 0, fmt.Errorf("reply %v to a look", reply)
	}
	state = bucket.State{Last: reply[0] + reply[2], Levels: levels[:limits]}
	if len(levels) > limits {
		state.Ban = &bucket.Bans{Strikes: levels[limits], Memory: levels[limits+1]}
	}
	return state, reply[2], nil
}
