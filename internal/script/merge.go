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

// merger combines takes that ask the same about different keys, as the takes of one limiter mostly do, into one run of
// the script. A take that is one of many costs Redis half of what it costs alone.
//
// On a cluster it merges keys of one slot. Elsewhere it merges all keys, but only once it has found out that there is one
// server. A proxy may look like one server and spread keys over several (Envoy does): it sends a script to the server of
// its first key, where the other keys would not be found, and so would have full buckets. The finding expires, because
// the same address may lead to such a proxy tomorrow.
type merger struct {
	client   *redis.Client
	prefix   string
	sameSlot bool // the server is a node of a cluster
	tagged   bool // the prefix puts all keys in one slot

	oneServer atomic.Bool
	askAgain  atomic.Int64 // Unix time in nanoseconds
	asking    atomic.Bool
}

// How long an answer to the question whether there is one server is trusted. A wrong yes does harm, so it expires soon.
// A wrong no only costs speed. Without an answer, the question is asked again soon.
const (
	believeYes     = 10 * time.Second
	believeNo      = time.Minute
	believeUnknown = time.Second
)

// maxLegs bounds how often a flight sends takes, because some that did not run are sent again. A leg is one sending. A
// script that the server does not know takes two.
const maxLegs = 8

// send sends takes down one connection, and gives each its reply or error. It sends takes that certainly did not run
// again while their callers still wait. It returns how often it sent, and the connection's error if that is broken.
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
			case legs < maxLegs && redis.HasErrorPrefix(err, "NOSCRIPT"):
				unknown = true
				again = append(again, group...)
			case legs < maxLegs && len(group) > 1 && redis.HasErrorPrefix(err, "CROSSSLOT"):
				m.verdict(false, believeNo)
				again = append(again, group...)
			case legs < maxLegs && len(group) > 1 && redis.HasErrorPrefix(err, "TRYAGAIN"):
				// Their slot is moving, and some of the keys have moved. Asked one by one, the server answers for those
				// it has, and redirects the others.
				for _, t := range group {
					t.unmerged = true
				}
				again = append(again, group...)
			default:
				split(cmds[i], group)
			}
		}
		switch {
		case unknown && inFull == 0:
			inFull = 1 // Where there is one server, that makes the script known to it.
		case unknown:
			inFull = maxWork
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

// process sends commands in one go, and returns the connection's error if that is broken.
func (m *merger) process(ctx context.Context, cmds []onceCmd, asking bool) error {
	if len(cmds) == 1 && !asking {
		return breaks(m.client.Process(ctx, cmds[0]))
	}
	// The client's own pipelines have another pool, whose connections would have to be set up, too.
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

// group returns the takes in groups, each to be one run of the script: takes that may be merged, and differ in their
// keys only.
func (m *merger) group(takes []*take) (groups [][]*take) {
	if len(takes) == 1 {
		return [][]*take{takes}
	}
	merge := m.mayMerge()
	groupOf := map[string]int{} // index in groups, by question
	var buf [128]byte
	for _, t := range takes {
		if !merge || t.asking || t.unmerged || isLook(t.args) {
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
		i, ok := groupOf[string(question)]
		if !ok {
			i = len(groups)
			groupOf[string(question)] = i
			groups = append(groups, nil)
		}
		groups[i] = append(groups[i], t)
	}
	return groups
}

func appendString(b []byte, argument any) []byte {
	s, _ := argument.(string)
	return append(b, s...)
}

// split gives each take of a merged group its part of the reply.
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
		own := append(make([]int64, 0, 1+width), reply[0]) // A copy, or a single take would keep the whole reply alive.
		t.finish(append(own, reply[1+i*width:1+(i+1)*width]...), nil)
	}
}

// mayMerge reports whether keys may be merged at all.
func (m *merger) mayMerge() bool { return m.sameSlot || m.oneServer.Load() }

// due reports whether it is time to ask whether there is one server. A caller that gets true has to call ask.
func (m *merger) due(now time.Time) bool {
	return !m.sameSlot && now.UnixNano() >= m.askAgain.Load() && m.asking.CompareAndSwap(false, true)
}

// verdict notes the answer, and how long to trust it.
func (m *merger) verdict(one bool, lasts time.Duration) {
	m.oneServer.Store(one)
	m.askAgain.Store(time.Now().Add(lasts).UnixNano())
}

// ask finds out whether there is one server, and returns the connection's error if that is broken.
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

// isOneServer takes from a bucket of its own, and then looks at it 32 times, each time behind another key, which a proxy
// would choose the server by. If there are two servers, a look reaches the wrong one with a chance of one half, so the
// chance that all 32 find the bucket is 1 in 2³².
func (m *merger) isOneServer(ctx context.Context) (bool, error) {
	const looks = 32
	minute := NewLimits([]bucket.Scale{{Capacity: 1, Token: int64(time.Minute / time.Microsecond), PerTick: 1}})
	mark := m.prefix + "%" + rand.Text() // Never a caller's key: there, two hexadecimal digits follow each "%".

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
			return false, nil //nolint:nilerr // CROSSSLOT, or whatever error a proxy has for two keys, answers the question: no.
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
