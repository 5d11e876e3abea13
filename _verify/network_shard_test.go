package verify

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/gin-ratelimit/ratelimit"
	"github.com/gin-ratelimit/ratelimit/internal/redistest"
)

// sharder is a proxy that is one server at first, and then spreads keys over two. It sends a command to the server of its
// first key.
type sharder struct {
	addr   string
	shards [2]*redis.Client
	two    atomic.Bool
	strict bool // replies CROSSSLOT to a command with keys of both, as Redis Cluster does
	mixed  atomic.Int64
}

func startSharder(t *testing.T, strict bool) *sharder {
	t.Helper()
	s := &sharder{strict: strict}
	for i := range s.shards {
		s.shards[i] = openClient(t, &redis.Options{Addr: redistest.Start(t).Addr, Protocol: 2, PoolSize: 100, MaxRetries: -1})
	}
	s.addr = redistest.Pretend(t, s.answer)
	return s
}

func (s *sharder) answer(command []string) (reply string, more bool) {
	name := strings.ToLower(command[0])
	if name != "eval" && name != "evalsha" {
		if name == "time" {
			return s.pass(0, command), true
		}
		return redistest.Handshake(command)
	}
	n, err := strconv.Atoi(command[2])
	if err != nil {
		return "-ERR " + err.Error() + "\r\n", true
	}
	shard := 0
	if s.two.Load() {
		shard = shardOf(command[3])
		for _, key := range command[3 : 3+n] {
			if shardOf(key) == shard {
				continue
			}
			s.mixed.Add(1)
			if s.strict {
				return "-CROSSSLOT Keys in request don't hash to the same slot\r\n", true
			}
			break
		}
	}
	return s.pass(shard, command), true
}

// shardOf spreads keys evenly.
func shardOf(key string) int {
	sum := 0
	for _, b := range []byte(key) {
		sum += int(b)
	}
	return sum % 2
}

// pass has a shard run a command, and returns its reply as bytes.
func (s *sharder) pass(shard int, command []string) string {
	args := make([]any, len(command))
	for i, arg := range command {
		args[i] = arg
	}
	value, err := s.shards[shard].Do(context.Background(), args...).Result()
	var said redis.Error
	switch {
	case errors.As(err, &said):
		return "-" + said.Error() + "\r\n"
	case err != nil:
		return "-ERR " + err.Error() + "\r\n"
	}
	return encode(value)
}

func encode(value any) string {
	switch v := value.(type) {
	case int64:
		return fmt.Sprintf(":%d\r\n", v)
	case string:
		return fmt.Sprintf("$%d\r\n%s\r\n", len(v), v)
	case []any:
		text := fmt.Sprintf("*%d\r\n", len(v))
		for _, element := range v {
			text += encode(element)
		}
		return text
	default:
		return "-ERR a reply of another kind\r\n"
	}
}

// Behind an address, keys are spread over two servers from some time on. If the proxy refuses commands with keys of both,
// nothing is charged twice, and nothing is admitted in excess. If it does not, the excess ends when the store next finds out
// whether there is one server.
func TestN03OneServerBecomesTwo(t *testing.T) {
	c := try(t, "N3")
	const callers, keys, capacity = 32, 64, 10
	limit := ratelimit.Limit{Capacity: capacity, Refill: ratelimit.PerHour(1)}
	for _, strict := range []bool{true, false} {
		s := startSharder(t, strict)
		store := storeOn(t, openClient(t, &redis.Options{Addr: s.addr, ContextTimeoutEnabled: true}), patient)
		// round takes of fresh keys, and returns how many takes beyond the capacity were admitted.
		rounds := 0
		round := func() (excess, failed, asked int) {
			rounds++
			var admitted [keys]atomic.Int64
			var failures atomic.Int64
			var taking sync.WaitGroup
			for range callers {
				taking.Go(func() {
					for k := range keys {
						r, err := store.Take(context.Background(), fmt.Sprint("round", rounds, "-", k), ratelimit.Take{N: 1, Limits: []ratelimit.Limit{limit}})
						if err != nil {
							failures.Add(1)
						} else if r.Allowed {
							admitted[k].Add(1)
						}
					}
				})
			}
			taking.Wait()
			for k := range admitted {
				n := int(admitted[k].Load())
				excess += max(0, n-capacity)
				if n < capacity {
					t.Errorf("strict %v: %d takes of a key with %d tokens were admitted: others were charged twice", strict, n, capacity)
				}
			}
			return excess, int(failures.Load()), callers * keys
		}
		for range 3 {
			if excess, failed, asked := round(); excess > 0 || failed > 0 {
				t.Errorf("one server: %d too many admitted, %d of %d failed", excess, failed, asked)
			}
		}
		s.two.Store(true)
		began := time.Now()
		excess, failed, asked, last := 0, 0, 0, time.Duration(0)
		lasts := 13 * time.Second // The answer is trusted for 10 s.
		if strict || testing.Short() {
			lasts = time.Second
		}
		for time.Since(began) < lasts {
			e, f, a := round()
			excess, failed, asked = excess+e, failed+f, asked+a
			if e > 0 {
				last = time.Since(began)
			}
			time.Sleep(20 * time.Millisecond)
		}
		c.times(asked)
		if strict {
			c.exceeds(float64(excess), 0)
			c.note("CROSSSLOT: %d of %d takes failed, %d too many admitted, %d commands refused", failed, asked, excess, s.mixed.Load())
		} else {
			c.note("a proxy that goes by the first key alone: %d of %d takes too many, the last one %.1f s after the change", excess, asked, last.Seconds())
			if last > 11*time.Second {
				t.Errorf("%v after the change takes were still merged", last)
			}
		}
		if failed > 0 {
			t.Errorf("strict %v: %d of %d takes failed", strict, failed, asked)
		}
		if s.mixed.Load() == 0 {
			t.Errorf("strict %v: no command had keys of both", strict)
		}
	}
}

// A client's pool has one connection, and a cluster whose slots move redirects takes.
func TestN11WhatDidNotRunIsSentAgain(t *testing.T) {
	c := try(t, "N11")
	const callers, each = 64, 20
	server := redistest.Start(t)
	store := storeOn(t, openClient(t, &redis.Options{Addr: server.Addr, MaxActiveConns: 1}), patient)
	failed := takeTogether(store, callers, each)
	if got := charged(t, store, "key"); failed != 0 || got != callers*each {
		t.Errorf("one connection: %d of %d failed, %d charged", failed, callers*each, got)
	}
	c.times(callers * each)
	c.note("MaxActiveConns 1: %d of %d takes failed", failed, callers*each)

	var met atomic.Int64
	admin := openClient(t, &redis.Options{Addr: server.Addr, Protocol: 2})
	proxy := &sharder{shards: [2]*redis.Client{admin, admin}}
	old := redistest.Pretend(t, func(command []string) (string, bool) {
		if strings.EqualFold(command[0], "evalsha") && met.Add(1)%3 == 1 {
			return "-ERR Error running script (call to f_0): @user_script:1: -READONLY You can't write against a read only replica.\r\n", true
		}
		return proxy.answer(command)
	})
	store = storeOn(t, openClient(t, &redis.Options{Addr: old}), patient)
	for range 30 {
		take(t, store, "wrapped", 1, hoard)
	}
	if got := charged(t, store, "wrapped"); got != 30 {
		t.Errorf("30 takes that met READONLY in an older server's words were charged %d times", got)
	}
	c.times(30)

	nodes := redistest.Cluster(t, 3)
	client := nodes.Client()
	store = storeOn(t, client, patient)
	take(t, store, "key", 1, hoard)
	moves := pick(6, 2)
	var moving sync.WaitGroup
	stop := make(chan struct{})
	var made, lost atomic.Int64
	for range callers {
		moving.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				if _, err := store.Take(context.Background(), "key", ratelimit.Take{N: 1, Limits: []ratelimit.Limit{hoard}}); err != nil {
					if lost.Add(1) == 1 {
						t.Error(err)
					}
				} else {
					made.Add(1)
				}
			}
		})
	}
	for i := range moves {
		to := nodes.Nodes()[i%3]
		if to == nodes.MasterOf("ratelimit:key") {
			to = nodes.Nodes()[(i+1)%3]
		}
		nodes.MigrateSlot("ratelimit:key", to)
		time.Sleep(200 * time.Millisecond)
	}
	close(stop)
	moving.Wait()
	if got := charged(t, store, "key"); lost.Load() != 0 || got != int(made.Load())+1 {
		t.Errorf("%d moves: %d of %d takes failed, %d charged", moves, lost.Load(), made.Load()+1, got)
	}
	c.times(moves)
	c.note("MOVED and ASK: %d of %d takes failed in %d moves of their slot", lost.Load(), made.Load(), moves)
	c.exceeds(0, 0)
}

// takeTogether has callers take of one key, and returns how many failed.
func takeTogether(store ratelimit.Store, callers, each int) int {
	var failed atomic.Int64
	var taking sync.WaitGroup
	for range callers {
		taking.Go(func() {
			for range each {
				if _, err := store.Take(context.Background(), "key", ratelimit.Take{N: 1, Limits: []ratelimit.Limit{hoard}}); err != nil {
					failed.Add(1)
				}
			}
		})
	}
	taking.Wait()
	return int(failed.Load())
}
