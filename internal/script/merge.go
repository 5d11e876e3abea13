package script

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/gin-ratelimit/ratelimit/internal/bucket"
)

// merger makes one run of the script of takes that ask the same about different keys, as the takes of one limiter
// mostly do. One of many then costs Redis half of one alone.
//
// On a cluster it does so for keys of one slot. Elsewhere it does so for all, but only after it has seen that there is
// one server. A proxy may look like one, and spread keys over several (Envoy does): it sends a script to where its
// first key lives, and there the others would be strangers, with full buckets. What was seen is a guess with a date:
// an address may lead to such a proxy tomorrow.
type merger struct {
	client   *redis.Client
	prefix   string
	sameSlot bool // the server is a node of a cluster
	tagged   bool // the prefix puts all keys in one slot

	oneServer atomic.Bool
	askAgain  atomic.Int64 // Unix time in nanoseconds
	asking    atomic.Bool
}

// How long an answer to the question whether there is one server is believed. A wrong yes does harm; a no only costs
// speed; and no answer is no reason to wait long.
const (
	believeYes     = 10 * time.Second
	believeNo      = time.Minute
	believeUnknown = time.Second
)

// mostLegs bounds how often a flight sends what did not run. A script that the server does not know takes two legs.
const mostLegs = 8

// send sends takes down one connection, and gives each its reply or error. What certainly did not run is sent again,
// as long as somebody waits for it. It returns how often it had to, and the error of the connection if that is no
// good any more.
func (m *merger) send(ctx context.Context, takes []*take, stillWaits func(*take) bool) (legs int, broken error) {
	inFull := 0 // commands of the next leg that carry the whole script
	for {
		legs++
		groups := m.group(takes)
		cmds := make([]onceCmd, len(groups))
		for i, group := range groups {
			c := call{"evalsha", sha, make([]string, len(group)), group[0].args}
			if i < inFull {
				c.command, c.script = "eval", text
			}
			for j, t := range group {
				c.keys[j] = t.key
			}
			cmds[i] = newOnceCmd(ctx, c)
		}
		// Where the slot is not moving, ASKING changes nothing.
		asking := slices.ContainsFunc(takes, func(t *take) bool { return t.asking })
		broken = m.process(ctx, cmds, asking)

		var again []*take
		unknown := false
		for i, group := range groups {
			err := cmds[i].Err()
			switch {
			case legs < mostLegs && redis.HasErrorPrefix(err, "NOSCRIPT"):
				unknown = true
				again = append(again, group...)
			case legs < mostLegs && len(group) > 1 && redis.HasErrorPrefix(err, "CROSSSLOT"):
				m.verdict(false, believeNo)
				again = append(again, group...)
			case legs < mostLegs && len(group) > 1 && redis.HasErrorPrefix(err, "TRYAGAIN"):
				// Their slot is moving, and some of the keys have moved. Each alone is told where it is.
				for _, t := range group {
					t.alone = true
				}
				again = append(again, group...)
			default:
				split(cmds[i], group)
			}
		}
		switch {
		case unknown && inFull == 0:
			inFull = 1 // Which makes the script known, where there is one server.
		case unknown:
			inFull = mostWork
		}
		takes = again[:0]
		for _, t := range again {
			if stillWaits(t) {
				takes = append(takes, t)
			}
		}
		if len(takes) == 0 || broken != nil {
			for _, t := range takes {
				t.finish(nil, broken)
			}
			return legs, broken
		}
	}
}

// process sends commands in one go, and returns the error of the connection if that is no good any more.
func (m *merger) process(ctx context.Context, cmds []onceCmd, asking bool) error {
	if len(cmds) == 1 && !asking {
		return breaks(m.client.Process(ctx, cmds[0]))
	}
	// Not by the client's own pipelines: those have another pool, so its connections would have to be set up, too.
	conn := m.client.Conn()
	defer conn.Close()
	pipe := conn.Pipeline()
	for _, cmd := range cmds {
		if asking {
			_ = pipe.Process(ctx, redis.NewCmd(ctx, "asking"))
		}
		_ = pipe.Process(ctx, cmd) // Only queues it.
	}
	_, _ = pipe.Exec(ctx) // Each command has its own error.
	for _, cmd := range cmds {
		if err := breaks(cmd.Err()); err != nil {
			return err
		}
	}
	return nil
}

// breaks returns err if go-redis closes the connection for it.
func breaks(err error) error {
	var reply redis.Error
	if err == nil || errors.As(err, &reply) && !redis.HasErrorPrefix(err, "READONLY") {
		return nil
	}
	return err
}

// group puts together the takes that are to be one run of the script: those that differ in their keys only, and may
// be merged.
func (m *merger) group(takes []*take) (groups [][]*take) {
	if len(takes) == 1 {
		return [][]*take{takes}
	}
	merge := m.mayMerge()
	places := map[string]int{}
	var buf [128]byte
	for _, t := range takes {
		if !merge || t.asking || t.alone || isLook(t.args) {
			groups = append(groups, []*take{t})
			continue
		}
		question := buf[:0]
		if m.sameSlot && !m.tagged {
			question = append(question, t.key...)
		}
		for _, arg := range t.args {
			question = appendString(append(question, '\n'), arg) // No argument has a line feed.
		}
		place, ok := places[string(question)]
		if !ok {
			place = len(groups)
			places[string(question)] = place
			groups = append(groups, nil)
		}
		groups[place] = append(groups[place], t)
	}
	return groups
}

func appendString(b []byte, argument any) []byte {
	s, _ := argument.(string)
	return append(b, s...)
}

// split gives each of those that were merged its part of the reply.
func split(cmd onceCmd, group []*take) {
	reply, err := cmd.Result()
	if len(group) == 1 {
		group[0].finish(reply, err)
		return
	}
	if err == nil && (len(reply) == 0 || (len(reply)-1)%len(group) != 0) {
		err = fmt.Errorf("%d numbers for %d keys", len(reply), len(group))
	}
	for i, t := range group {
		if err != nil {
			t.finish(nil, err)
			continue
		}
		width := (len(reply) - 1) / len(group)
		own := append(make([]int64, 0, 1+width), reply[0]) // Or one of them would keep the numbers of all.
		t.finish(append(own, reply[1+i*width:1+(i+1)*width]...), nil)
	}
}

// mayMerge reports whether keys may be merged at all.
func (m *merger) mayMerge() bool { return m.sameSlot || m.oneServer.Load() }

// due reports whether it is time to ask whether there is one server. Who is told so asks.
func (m *merger) due(now time.Time) bool {
	return !m.sameSlot && now.UnixNano() >= m.askAgain.Load() && m.asking.CompareAndSwap(false, true)
}

// verdict notes the answer, and for how long it is believed.
func (m *merger) verdict(one bool, lasts time.Duration) {
	m.oneServer.Store(one)
	m.askAgain.Store(time.Now().Add(lasts).UnixNano())
}

// ask finds out whether there is one server, and returns the error of the connection if that is no good any more.
func (m *merger) ask(ctx context.Context) error {
	defer m.asking.Store(false)
	before := m.askAgain.Load()
	one, err := m.isOneServer(ctx)
	switch {
	case m.askAgain.Load() != before:
		// Revoked meanwhile.
	case err != nil:
		m.verdict(m.oneServer.Load(), believeUnknown)
	case one:
		m.verdict(true, believeYes)
	default:
		m.verdict(false, believeNo)
	}
	return breaks(err)
}

// isOneServer takes from a bucket of its own, and has a number of other keys come first in a look at it. If there
// are two servers, a look misses it with a chance of one half; that none of them does has one of 1 in 2³².
func (m *merger) isOneServer(ctx context.Context) (bool, error) {
	const looks = 32
	minute := NewLimits([]bucket.Scale{{Capacity: 1, Token: int64(time.Minute / time.Microsecond), PerTick: 1}})
	mark := m.prefix + "%" + rand.Text() // No caller's key: their percent signs are followed by two digits.

	take := newOnceCmd(ctx, call{"eval", text, []string{mark}, minute.args(&bucket.Change{N: 1})})
	if err := m.client.Process(ctx, take); err != nil {
		return false, err
	}
	cmds := make([]onceCmd, looks)
	for i := range cmds {
		keys := []string{mark + strconv.Itoa(i), mark}
		cmds[i] = newOnceCmd(ctx, call{"evalsha", sha, keys, minute.args(&bucket.Change{})})
	}
	if err := m.process(ctx, cmds, false); err != nil {
		return false, err
	}
	for _, cmd := range cmds {
		reply, err := cmd.Result()
		if err != nil {
			return false, nil //nolint:nilerr // CROSSSLOT, or whatever a proxy says to two keys: an answer, and it is no.
		}
		const deficit = 6 // the last number of the second key
		if len(reply) <= deficit || reply[deficit] == 0 {
			return false, nil
		}
	}
	return true, nil
}

// hasHashTag reports whether a prefix puts all keys in one slot of a cluster. Keys themselves have no braces.
func hasHashTag(prefix string) bool {
	_, tag, open := strings.Cut(prefix, "{")
	tag, _, closed := strings.Cut(tag, "}")
	return open && closed && tag != ""
}
