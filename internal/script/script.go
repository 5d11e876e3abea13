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

// The script has two files, sent as one text: the fast path, which nearly all calls take, and the general path.
var (
	//go:embed fast.lua
	fast string
	//go:embed decide.lua
	decide string

	text = fast + decide

	// sha is of type any, as go-redis takes it, because converting a string on each call would allocate.
	sha any = func() string {
		sum := sha1.Sum([]byte(text)) //nolint:gosec // See the import.
		return hex.EncodeToString(sum[:])
	}()
)

// ErrForeignState means that a key holds something that is not a rate limit. It is left untouched.
var ErrForeignState = errors.New("state is not a rate limit's")

// call is one run of the script, by EVALSHA and its hash, or by EVAL and its text. All values are strings.
type call struct {
	command, script any
	keys            []string
	args            []any
}

// onceCmd is a command that go-redis does not repeat when its reply is lost: the script may have run, and a second run
// would charge twice.
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

// checkReply returns what is wrong with a reply that should have so many numbers, or any number of them for 0.
func checkReply(reply []int64, numbers int) error {
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
	if err := checkReply(reply, numbers); err != nil {
		return bucket.Outcome{}, err
	}
	o := bucket.Outcome{Allowed: reply[1] == 1, At: reply[0] + reply[2], ClockBehind: reply[2], Deficits: reply[3 : 3+limits]}
	if ban {
		o.Banned = reply[numbers-1]
	}
	return o, nil
}

// decodeLook reads the reply to a look: the state, as it is at its own tick, and how many ticks the clock is behind it.
func decodeLook(reply []int64) (state bucket.State, clockBehind int64, err error) {
	if err := checkReply(reply, 0); err != nil {
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
	if rest := len(levels) - limits; rest != 0 && rest != bans {
		return state, 0, fmt.Errorf("reply %v to a look", reply)
	}
	state = bucket.State{Last: reply[0] + reply[2], Levels: levels[:limits]}
	if len(levels) > limits {
		state.Ban = &bucket.Bans{Strikes: levels[limits], Memory: levels[limits+1]}
	}
	return state, reply[2], nil
}
