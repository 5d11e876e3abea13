package ratelimit_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
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

func TestRedisForeignState(t *testing.T) {
	server, _ := frozenRedis(t)
	client := server.Client()
	store := redisStore(t, client)
	now := server.Clock().Now().UnixMicro()
	values := map[string]func(key string) error{
		"list":       func(key string) error { return client.RPush(ctx, key, "b1 1 10 100000 1 0").Err() },
		"hash":       func(key string) error { return client.HSet(ctx, key, "b1", "1").Err() },
		"set":        func(key string) error { return client.SAdd(ctx, key, "b1").Err() },
		"sorted set": func(key string) error { return client.ZAdd(ctx, key, redis.Z{Member: "b1"}).Err() },
		"stream": func(key string) error {
			return client.XAdd(ctx, &redis.XAddArgs{Stream: key, Values: []string{"b1", "1"}}).Err()
		},
		"counter":   func(key string) error { return client.Incr(ctx, key).Err() },
		"long text": func(key string) error { return client.Set(ctx, key, strings.Repeat("b1 1 ", 1<<18), 0).Err() },
	}
	bucket := " 10 100000 1 0"
	for _, text := range []string{
		"", " ", "garbage", "b1", "b1 ", "b10", "b1 x", "B1 1" + bucket, " b1 1" + bucket, "b1 1" + bucket + "\n", "\nb1 1" + bucket,
		"b0 1" + bucket, "b2 1" + bucket, "b1\x001" + bucket, "b1 1" + bucket + "\x00", "b1 1\t10 100000 1 0", "b1 1" + bucket + "\xff",
		"b1 1 10", "b1 1 10 100000", "b1 1 10 100000 1", "b1 1" + bucket + " 1", "b1 1" + bucket + " 10 100000 1", "b1" + bucket,
		"b1 -1" + bucket, "b1 +1" + bucket, "b1 1.5" + bucket, "b1 1e3" + bucket, "b1 0x1" + bucket, "b1 1 10 100000 1 -5", "b1 1 10 100000 1 0.5",
		"b1 nan" + bucket, "b1 inf" + bucket, "b1 1 10 100000 1 inf", "b1 1 ten 100000 1 0",
		"b1  1" + bucket, "b1 1 " + bucket, "b1 1" + bucket + " ", "b1 1  10 100000 1 0 ban" + bucket + bucket,
		"b1 9007199254740992" + bucket, "b1 1 9007199254740992 1 1 0", "b1 1 1 9007199254740992 1 0", "b1 1 1 1 9007199254740992 0",
		"b1 1 10 100000 1 9007199254740992", "b1 1" + bucket + " 10 100000 1 9007199254740992", "b1 1 10 100000 1 " + strings.Repeat("9", 400),
		"b1 1 0 100000 1 0", "b1 1 10 0 1 0", "b1 1 10 100000 0 0", "b1 1 4503599627370497 1 1 0", "b1 1 67108865 67108864 1 0",
		"b1 1" + bucket + " ban", "b1 1" + bucket + " ban 1", "b1 1" + bucket + " ban" + bucket, "b1 1" + bucket + " ban 1" + bucket + bucket,
		"b1 1" + bucket + " ban" + bucket + bucket + bucket, "b1 1 ban" + bucket + bucket + " ban" + bucket + bucket, "b1 1" + bucket + " bad" + bucket + bucket,
		`{"tokens":10,"last":1}`, fmt.Sprint(now), strconv.FormatFloat(float64(now), 'f', -1, 64), "\x80\x04\x95", strings.Repeat("9", 1<<16),
	} {
		values[fmt.Sprintf("%.60q", text)] = func(key string) error { return client.Set(ctx, key, text, 0).Err() }
	}
	two := []ratelimit.Limit{ten[0], still[0]}
	calls := map[string]func() error{
		"take":             func() error { _, err := store.Take(ctx, "key", ratelimit.Take{N: 1, Limits: ten}); return err },
		"take of too many": func() error { _, err := store.Take(ctx, "key", ratelimit.Take{N: 11, Limits: ten}); return err },
		"take of two":      func() error { _, err := store.Take(ctx, "key", ratelimit.Take{N: 1, Limits: two}); return err },
		"look":             func() error { _, err := store.Take(ctx, "key", ratelimit.Take{Limits: ten}); return err },
		"give back":        func() error { _, err := store.Adjust(ctx, "key", ratelimit.Adjustment{N: 1, Limits: ten}); return err },
		"charge":           func() error { _, err := store.Adjust(ctx, "key", ratelimit.Adjustment{N: -1, Limits: two}); return err },
		"adjust by none":   func() error { _, err := store.Adjust(ctx, "key", ratelimit.Adjustment{N: 0, Limits: ten}); return err },
		"reset":            func() error { _, err := store.Reset(ctx, "key"); return err },
	}
	for name, write := range values {
		for _, expiry := range []time.Duration{0, time.Hour} {
			client.Del(ctx, "ratelimit:key")
			if err := write("ratelimit:key"); err != nil {
				t.Fatal(err)
			}
			if expiry > 0 {
				client.PExpire(ctx, "ratelimit:key", expiry)
			}
			before := look(t, client, "ratelimit:key")
			for call, do := range calls {
				if err := do(); !errors.Is(err, ratelimit.ErrForeignState) || errors.Is(err, ratelimit.ErrArgument) {
					t.Errorf("%s: %s: error %v, want ErrForeignState", name, call, err)
				}
				if after := look(t, client, "ratelimit:key"); after != before {
					t.Fatalf("%s: %s made of %.100q, %v: %.100q, %v", name, call, before.dump, before.ttl, after.dump, after.ttl)
				}
			}
		}
	}
	client.Del(ctx, "ratelimit:key")
	mustTake(t, store, "key", 1, ten...)
}

// lossy forwards connections to a server. While it is armed, a script's reply is lost: the script has run, and the
// connection is reset.
type lossy struct {
	addr  string
	armed atomic.Bool
	lost  atomic.Int64
}

func newLossy(t *testing.T, to string) *lossy {
	t.Helper()
	l := &lossy{}
	l.addr = redistest.Listen(t, func(client net.Conn) {
		server, err := net.Dial("tcp", to)
		if err != nil {
			return
		}
		defer server.Close()
		l.forward(client, server)
	})
	return l
}

func (l *lossy) forward(client, server net.Conn) {
	var script atomic.Bool // whether the reply to come is a script's
	go func() {
		buffer := make([]byte, 1<<16)
		for {
			n, err := client.Read(buffer)
			if err != nil {
				_ = server.Close()
				return
			}
			script.Store(l.armed.Load() && bytes.Contains(buffer[:n], []byte("eval")))
			_, _ = server.Write(buffer[:n])
		}
	}()
	buffer := make([]byte, 1<<16)
	for {
		n, err := server.Read(buffer)
		if err != nil {
			return
		}
		if script.Load() {
			l.lost.Add(1)
			_ = client.(*net.TCPConn).SetLinger(0)
			return
		}
		_, _ = client.Write(buffer[:n])
	}
}

// By default go-redis repeats a command whose reply is lost, up to three times, and each would charge.
func TestRedisLostReplyChargesOnce(t *testing.T) {
	server := redistest.Start(t)
	proxy := newLossy(t, server.Addr)
	for name, client := range map[string]redis.UniversalClient{
		"client": redis.NewClient(&redis.Options{Addr: proxy.addr}),
		"ring":   redis.NewRing(&redis.RingOptions{Addrs: map[string]string{"a": proxy.addr}, ContextTimeoutEnabled: true}),
		"cluster": redis.NewClusterClient(&redis.ClusterOptions{
			ContextTimeoutEnabled: true,
			ClusterSlots: func(context.Context) ([]redis.ClusterSlot, error) {
				return []redis.ClusterSlot{{End: 16383, Nodes: []redis.ClusterNode{{Addr: proxy.addr}}}}, nil
			},
		}),
	} {
		t.Run(name, func(t *testing.T) {
			defer client.Close()
			store := redisStore(t, client)
			mustTake(t, store, name, 1, still...)
			proxy.armed.Store(true)
			lost := proxy.lost.Load()
			_, err := store.Take(ctx, name, ratelimit.Take{N: 1, Limits: still})
			proxy.armed.Store(false)
			if err == nil {
				t.Error("decided without a reply")
			}
			if proxy.lost.Load() == lost {
				t.Error("no reply was lost: the test tests nothing")
			}
			if r := mustTake(t, store, name, 0, still...); r.Remaining != still[0].Capacity-2 {
				t.Errorf("after 2 takes, of which one never had its reply, %d are missing", still[0].Capacity-r.Remaining)
			}

			// Concurrent takes are sent together. Each is charged as often as it was answered, or once more.
			proxy.armed.Store(true)
			var answered, failed atomic.Int64
			var crowd sync.WaitGroup
			for range 50 {
				crowd.Go(func() {
					if _, err := store.Take(ctx, name+" crowd", ratelimit.Take{N: 1, Limits: still}); err != nil {
						failed.Add(1)
					} else {
						answered.Add(1)
					}
				})
			}
			crowd.Wait()
			proxy.armed.Store(false)
			charged := int64(still[0].Capacity - mustTake(t, store, name+" crowd", 0, still...).Remaining)
			if charged < answered.Load() || charged > answered.Load()+failed.Load() || failed.Load() == 0 {
				t.Errorf("%d takes were answered and %d failed; charged %d", answered.Load(), failed.Load(), charged)
			}
		})
	}
}

// A proxy may reply anything.
func TestRedisRepliesAreChecked(t *testing.T) {
	replies := newReplies(t, "*4\r\n:1900000000000000\r\n:1\r\n:0\r\n:100000\r\n")
	client := redis.NewClient(&redis.Options{Addr: replies.addr, Protocol: 2, DisableIdentity: true})
	defer client.Close()
	store := redisStore(t, client)
	if r := mustTake(t, store, "key", 1, ten...); !r.Allowed || r.Remaining != 9 {
		t.Fatalf("a good reply: %+v", r)
	}
	for _, bad := range []string{
		"+OK\r\n", ":1\r\n", "$3\r\nabc\r\n", "$-1\r\n", "*-1\r\n", "*0\r\n", "*1\r\n:1\r\n", "*4\r\n:9007199254740992\r\n:1\r\n:0\r\n:0\r\n", "*4\r\n:-1\r\n:1\r\n:0\r\n:0\r\n", "*3\r\n:1900000000000000\r\n:1\r\n:0\r\n",
		"*5\r\n:1900000000000000\r\n:1\r\n:0\r\n:0\r\n:0\r\n", "*4\r\n:1900000000000000\r\n:1\r\n:0\r\n$3\r\nabc\r\n", "*4\r\n:1900000000000000\r\n:1\r\n:0\r\n*1\r\n:0\r\n",
		"*4\r\n:1900000000000000\r\n+OK\r\n:0\r\n:0\r\n", "*4\r\n:1900000000000000\r\n:2\r\n:0\r\n:0\r\n", "*4\r\n:1900000000000000\r\n:-2\r\n:0\r\n:0\r\n", "*3\r\n:1900000000000000\r\n:-1\r\n:0\r\n", "*4\r\n:1900000000000000\r\n:1\r\n:-1\r\n:0\r\n",
		"*4\r\n:1900000000000000\r\n:1\r\n:0\r\n:-1\r\n", "*4\r\n:1900000000000000\r\n:1\r\n:0\r\n:9007199254740992\r\n", "*4\r\n:1900000000000000\r\n:0\r\n:9223372036854775807\r\n:0\r\n", "-ERR no\r\n", "-NOSCRIPT no\r\n", "-LOADING no\r\n", "-OOM no\r\n", "-BUSY no\r\n", "-READONLY no\r\n",
		"-MISCONF no\r\n", "-NOAUTH no\r\n", "!\r\n", "\r\n",
	} {
		replies.script.Store(&bad)
		for name, call := range map[string]func() (ratelimit.Result, error){
			"Take": func() (ratelimit.Result, error) { return store.Take(ctx, "key", ratelimit.Take{N: 1, Limits: ten}) },
			"Adjust": func() (ratelimit.Result, error) {
				return store.Adjust(ctx, "key", ratelimit.Adjustment{N: 1, Limits: ten})
			},
		} {
			if r, err := call(); err == nil || r != (ratelimit.Result{}) || errors.Is(err, ratelimit.ErrForeignState) || errors.Is(err, ratelimit.ErrArgument) {
				t.Errorf("reply %q: %s: %+v, %v", bad, name, r, err)
			}
		}
	}
}

// replies is a server that gives all scripts one reply, some time later.
type replies struct {
	addr   string
	script atomic.Pointer[string]
	delay  time.Duration
}

func newReplies(t *testing.T, script string) *replies {
	t.Helper()
	r := &replies{}
	r.script.Store(&script)
	r.addr = redistest.Pretend(t, func(command []string) (string, bool) {
		<-time.After(r.delay)
		if strings.HasPrefix(command[0], "eval") {
			return *r.script.Load(), true
		}
		return redistest.Handshake(command)
	})
	return r
}
