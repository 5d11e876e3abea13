package script

import (
	"context"
	"crypto/rand"
	"fmt"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/gin-ratelimit/ratelimit/internal/bucket"
)

// merger makes one run of the script of takes that ask the same about different keys, as the takes of one limiter
// mostly do. One of many then costs Redis half of one alone.
//
// It does so only after it has seen that there is one server. A proxy may look like one, and spread keys over
// several (Envoy and twemproxy do): it sends a script to where its first key lives, and there the others would be
// strangers, with full buckets.
type merger struct {
	client *redis.Client
	prefix string

	oneServer atomic.Bool
	askAgain  atomic.Int64 // Unix time in nanoseconds
}

// askOneServerEvery is how long a doubt lasts: the server may have been unreachable.
const askOneServerEvery = time.Minute

// send sends commands that the script answers down one connection, and gives each its reply or error.
func (m *merger) send(ctx context.Context, cmds []onceCmd) {
	if !m.mayMerge(ctx) {
		m.pipeline(ctx, cmds)
		return
	}
	groups := groupAlike(cmds)
	merged := make([]onceCmd, len(groups))
	for i, group := range groups {
		merged[i] = group[0]
		if len(group) > 1 {
			first := group[0].call
			first.keys = make([]string, len(group))
			for j, cmd := range group {
				first.keys[j] = cmd.keys[0]
			}
			merged[i] = newOnceCmd(ctx, first)
		}
	}
	m.pipeline(ctx, merged)
	for i, group := range groups {
		if len(group) > 1 {
			merged[i].split(group)
		}
	}
}

func (m *merger) pipeline(ctx context.Context, cmds []onceCmd) {
	pipe := m.client.Pipeline()
	for _, cmd := range cmds {
		_ = pipe.Process(ctx, cmd) // Only queues it.
	}
	_, _ = pipe.Exec(ctx) // Each command has its own error.
}

// groupAlike puts together the commands that differ in their keys only.
func groupAlike(cmds []onceCmd) (groups [][]onceCmd) {
	places := map[string]int{}
	var room [128]byte
	for _, cmd := range cmds {
		question := appendString(room[:0], cmd.command)
		for _, arg := range cmd.args {
			question = appendString(append(question, '\n'), arg) // No argument has a line feed.
		}
		place, ok := places[string(question)]
		if !ok {
			place = len(groups)
			places[string(question)] = place
			groups = append(groups, nil)
		}
		groups[place] = append(groups[place], cmd)
	}
	return groups
}

func appendString(b []byte, argument any) []byte {
	s, _ := argument.(string)
	return append(b, s...)
}

// split gives each of those that were merged its part of the reply.
func (c onceCmd) split(group []onceCmd) {
	reply, err := c.Result()
	if err == nil && len(reply)%len(group) != 0 {
		err = fmt.Errorf("%d numbers for %d keys", len(reply), len(group))
	}
	width := len(reply) / len(group)
	for i, cmd := range group {
		if err != nil {
			cmd.SetErr(err)
		} else {
			cmd.SetVal(reply[i*width : (i+1)*width])
		}
	}
}

// mayMerge reports whether there is one server, and finds it out by the first batch.
func (m *merger) mayMerge(ctx context.Context) bool {
	if m.oneServer.Load() {
		return true
	}
	now, next := time.Now().UnixNano(), m.askAgain.Load()
	if now < next || !m.askAgain.CompareAndSwap(next, now+int64(askOneServerEvery)) {
		return false
	}
	seen := m.isOneServer(ctx)
	m.oneServer.Store(seen)
	return seen
}

// isOneServer takes from a bucket of its own, and has a number of other keys come first in a look at it. If there
// are two servers, a look misses it with a chance of one half; that none of them does has one of 1 in 2³².
func (m *merger) isOneServer(ctx context.Context) bool {
	const looks = 32
	minute := bucket.Scale{Capacity: 1, Token: int64(time.Minute / time.Microsecond), PerTick: 1}
	limit, token, perTick := scaleText(&minute), decimal(minute.Token), decimal(minute.PerTick)
	mark := m.prefix + "%" + rand.Text() // No caller's key: their percent signs are followed by two digits.

	take := newOnceCmd(ctx, call{"eval", text, []string{mark}, []any{limit, "0", token, perTick}})
	if m.client.Process(ctx, take) != nil {
		return false
	}
	cmds := make([]onceCmd, looks)
	for i := range cmds {
		keys := []string{mark + strconv.Itoa(i), mark}
		cmds[i] = newOnceCmd(ctx, call{"evalsha", sha, keys, []any{limit, token, "0", perTick}})
	}
	m.pipeline(ctx, cmds)
	for _, cmd := range cmds {
		const deficit = 5 // the last number of the second key
		if reply := cmd.Val(); len(reply) <= deficit || reply[deficit] == 0 {
			return false
		}
	}
	return true
}
