package ratelimit_test

import (
	"context"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/gin-ratelimit/ratelimit"
	"github.com/gin-ratelimit/ratelimit/internal/redistest"
)

func TestRedisKeysExpireWhenFull(t *testing.T) {
	server, clock := frozenRedis(t)
	client := server.Client()
	store := redisStore(t, client)
	for name, c := range map[string]struct {
		limits []ratelimit.Limit
		n      int
	}{
		"a token":           {ten, 1},
		"all":               {ten, 10},
		"not a millisecond": {[]ratelimit.Limit{{Capacity: 5, Refill: ratelimit.PerSecond(1e9)}}, 5},
		"odd":               {[]ratelimit.Limit{{Capacity: 7, Refill: ratelimit.Rate{Tokens: 7, Per: 3 * time.Second}}}, 5},
		"120 hours":         {[]ratelimit.Limit{{Capacity: 5000, Refill: ratelimit.Every(86400 * time.Millisecond)}}, 5000},
		"a century":         {[]ratelimit.Limit{{Capacity: 10, Refill: ratelimit.Every(10 * 365 * 24 * time.Hour)}}, 10},
		"the slower of two": {[]ratelimit.Limit{ten[0], {Capacity: 100, Refill: ratelimit.PerHour(100)}}, 3},
		"the slower first":  {[]ratelimit.Limit{{Capacity: 100, Refill: ratelimit.PerHour(100)}, ten[0]}, 3},
	} {
		t.Run(name, func(t *testing.T) {
			key := "ratelimit:" + escaped(name)
			mustTake(t, store, name, c.n, c.limits...)
			var full time.Duration
			for _, l := range c.limits { // TTL: ⌈n·per/tokens⌉ in µs
				per, tokens := l.Refill.Per.Microseconds(), int64(l.Refill.Tokens)
				full = max(full, time.Duration((int64(c.n)*per+tokens-1)/tokens)*time.Microsecond)
			}
			written := look(t, client, key)
			if written.ttl < full || written.ttl > full+3*time.Second {
				t.Fatalf("lives for %v, and is full after %v", written.ttl, full)
			}
			sets := server.CommandCalls("set")
			for range 5 {
				clock.Advance(time.Millisecond)
				mustTake(t, store, name, 0, c.limits...)
				mustTake(t, store, name, c.limits[0].Capacity+1, c.limits...)
				if r := mustTake(t, store, name, 0, c.limits[0]); r.ResetAfter > 0 {
					mustTake(t, store, name, c.limits[0].Capacity, c.limits...)
				}
				if _, err := store.Adjust(ctx, name, ratelimit.Adjustment{N: 0, Limits: c.limits}); err != nil {
					t.Fatal(err)
				}
			}
			if got, want := look(t, client, key), (keyIn{written.dump, written.ttl - 5*time.Millisecond}); got != want {
				t.Errorf("looks and refusals made of %q, %v: %q, %v", want.dump, want.ttl, got.dump, got.ttl)
			}
			if got := server.CommandCalls("set"); got != sets {
				t.Errorf("looks and refusals wrote %d times", got-sets)
			}
			clock.Advance(written.ttl - 6*time.Millisecond)
			if got := look(t, client, key); got.ttl < 0 {
				t.Error("gone too early")
			}
			clock.Advance(2 * time.Millisecond) // Redis keeps a key through its last millisecond.
			if got := look(t, client, key); got.ttl >= 0 {
				t.Errorf("still there for %v", got.ttl)
			}
		})
	}
	if err := client.FlushAll(ctx).Err(); err != nil {
		t.Fatal(err)
	}
	for i := range 200 {
		mustTake(t, store, fmt.Sprint("key", i), i%11, ten...)
		if _, err := store.Adjust(ctx, fmt.Sprint("adjusted", i), ratelimit.Adjustment{N: i%7 - 3, Limits: ten}); err != nil {
			t.Fatal(err)
		}
	}
	for _, key := range client.Keys(ctx, "*").Val() {
		if ttl := client.PTTL(ctx, key).Val(); ttl <= 0 {
			t.Errorf("%q never expires", key)
		}
	}
}

// A key may lose its expiry: by PERSIST, or by a restore.
func TestRedisKeyWithoutExpiryHeals(t *testing.T) {
	server, clock := frozenRedis(t)
	client := server.Client()
	store := redisStore(t, client)
	mustTake(t, store, "key", 10, ten...)
	if !client.Persist(ctx, "ratelimit:key").Val() {
		t.Fatal("PERSIST did nothing")
	}
	mustTake(t, store, "key", 1, ten...)
	mustTake(t, store, "key", 0, ten...)
	if got := look(t, client, "ratelimit:key").ttl; got >= 0 {
		t.Errorf("a refusal wrote an expiry of %v", got)
	}
	clock.Advance(100 * time.Millisecond)
	mustTake(t, store, "key", 1, ten...)
	if got := look(t, client, "ratelimit:key").ttl; got < time.Second || got > 4*time.Second {
		t.Errorf("after an accepted take it lives for %v", got)
	}
	client.Persist(ctx, "ratelimit:key")
	if _, err := store.Reset(ctx, "key"); err != nil {
		t.Fatal(err)
	}
	clock.Advance(2 * time.Millisecond)
	if n := client.Exists(ctx, "ratelimit:key").Val(); n != 0 {
		t.Errorf("a reset key stays: %q", client.Get(ctx, "ratelimit:key").Val())
	}
}

func TestRedisKeyPrefix(t *testing.T) {
	server := redistest.Start(t)
	client := server.Client()
	for _, prefix := range []string{"ratelimit:", "", "a:b:", "{tag}:", "ü "} {
		client.FlushAll(ctx)
		var opts []ratelimit.RedisOption
		if prefix != "ratelimit:" { // the default
			opts = append(opts, ratelimit.WithKeyPrefix(prefix))
		}
		store := redisStore(t, client, opts...)
		mustTake(t, store, "k{e}y\r\n", 10, ten...)
		want := []string{prefix + "k%7Be%7Dy%0D%0A"}
		if got := client.Keys(ctx, "*").Val(); !slices.Equal(got, want) {
			t.Errorf("prefix %q: keys %q, want %q", prefix, got, want)
		}
		other := redisStore(t, client, ratelimit.WithKeyPrefix("other:"))
		if r := mustTake(t, other, "k{e}y\r\n", 10, ten...); !r.Allowed {
			t.Errorf("prefix %q shares a bucket with another", prefix)
		}
	}
}

// sentKeys is a hook that answers takes in place of Redis, and records their keys.
type sentKeys struct{ keys []string }

func (s *sentKeys) DialHook(next redis.DialHook) redis.DialHook { return next }

func (s *sentKeys) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return next
}

func (s *sentKeys) ProcessHook(redis.ProcessHook) redis.ProcessHook {
	return func(_ context.Context, cmd redis.Cmder) error {
		if cmd.Name() == "time" { // A connection is set up.
			return nil
		}
		s.keys = append(s.keys, cmd.Args()[3].(string))
		cmd.(interface{ SetVal([]int64) }).SetVal([]int64{1_900_000_000_000_000, 1, 0, 0})
		return nil
	}
}

func FuzzEscapeKey(f *testing.F) {
	for _, key := range []string{"", "192.0.2.1", "a{b}c", "%", "%7B", "\x00\r\n", "é", "\xff", "a b+c&d=e/f?g#h", strings.Repeat("{", 300)} {
		f.Add(key)
	}
	sent := &sentKeys{}
	client := redis.NewClient(&redis.Options{Addr: "127.0.0.1:1", ContextTimeoutEnabled: true})
	client.AddHook(sent)
	store, err := ratelimit.NewRedisStore(client, patient(), ratelimit.WithKeyPrefix("p:"))
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, key string) {
		sent.keys = nil
		mustTake(t, store, key, 1, ten...)
		if len(sent.keys) != 1 {
			t.Fatalf("%d keys were sent", len(sent.keys))
		}
		got, ok := strings.CutPrefix(sent.keys[0], "p:")
		if !ok || got != escaped(key) {
			t.Errorf("%q was sent as %q", key, sent.keys[0])
		}
		if i := strings.IndexFunc(got, func(r rune) bool { return r <= ' ' || r >= 0x7f || r == '{' || r == '}' }); i >= 0 {
			t.Errorf("%q was sent as %q, with a raw byte at %d", key, got, i)
		}
		// Escaping that can be undone is injective.
		if back, err := url.PathUnescape(got); err != nil || back != key {
			t.Errorf("%q was sent as %q, which says %q, %v", key, got, back, err)
		}
	})
}
