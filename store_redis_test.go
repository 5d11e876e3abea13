package ratelimit_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/gin-ratelimit/ratelimit"
	"github.com/gin-ratelimit/ratelimit/internal/redistest"
	"github.com/gin-ratelimit/ratelimit/storetest"
	"github.com/redis/go-redis/v9"
)

var (
	ctx = context.Background()

	ten = []ratelimit.Limit{{Capacity: 10, Refill: ratelimit.PerSecond(10)}}
	// still has no token to give for as long as a test takes.
	still = []ratelimit.Limit{{Capacity: 1_000_000, Refill: ratelimit.Every(time.Hour)}}
)

// patient is a budget for tests that are not about the budget, on a machine that may be busy.
func patient() ratelimit.RedisOption { return ratelimit.WithTimeout(20 * time.Second) }

// redisStore returns a store that asks Redis every time: what is remembered by this process's clock would be wrong by
// one that stands still.
func redisStore(t *testing.T, client redis.UniversalClient, opts ...ratelimit.RedisOption) *ratelimit.RedisStore {
	t.Helper()
	store, err := ratelimit.NewRedisStore(client, append([]ratelimit.RedisOption{patient(), ratelimit.WithDenyCache(0)}, opts...)...)
	if err != nil {
		t.Fatal(err)
	}
	return store
}

// frozenRedis is a server whose clock stands still but for Advance.
func frozenRedis(tb testing.TB) (*redistest.Server, *redistest.Clock) {
	tb.Helper()
	server := redistest.Start(tb, redistest.WithClock())
	server.Clock().Freeze(time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC))
	return server, server.Clock()
}

func mustTake(t *testing.T, store ratelimit.Store, key string, n int, limits ...ratelimit.Limit) ratelimit.Result {
	t.Helper()
	r, err := store.Take(ctx, key, ratelimit.Take{N: n, Limits: limits})
	if err != nil {
		t.Fatalf("Take(%q, %d): %v", key, n, err)
	}
	return r
}

// escaped is a key as it stands in Redis after the prefix.
func escaped(key string) string {
	var text strings.Builder
	for _, b := range []byte(key) {
		if b <= ' ' || b >= 0x7f || strings.IndexByte("{}%", b) >= 0 {
			fmt.Fprintf(&text, "%%%02X", b)
		} else {
			text.WriteByte(b)
		}
	}
	return text.String()
}

// redisHarness also compares the text in Redis with the oracle's state.
func redisHarness(tb testing.TB) storetest.Harness {
	server, clock := frozenRedis(tb)
	client := server.Client()
	start := clock.Now()
	return storetest.Harness{
		Open: func(t *testing.T) ratelimit.Store {
			if err := client.FlushAll(ctx).Err(); err != nil {
				t.Fatal(err)
			}
			clock.Freeze(start)
			return redisStore(t, client)
		},
		Advance: clock.Advance,
		State: func(t *testing.T, key string) *storetest.State {
			text, err := client.Get(ctx, "ratelimit:"+escaped(key)).Result()
			if errors.Is(err, redis.Nil) {
				return nil
			}
			if err != nil {
				t.Fatal(err)
			}
			return parseState(t, text, clock.Now())
		},
	}
}

// parseState reads "b1 last", then for each bucket " capacity token pertick deficit".
func parseState(t *testing.T, text string, now time.Time) *storetest.State {
	t.Helper()
	fields := strings.Split(text, " ")
	if fields[0] != "b1" || len(fields)%4 != 2 {
		t.Fatalf("state %q", text)
	}
	var numbers []int64
	for _, field := range fields[1:] {
		n, err := strconv.ParseInt(field, 10, 64)
		if err != nil {
			t.Fatalf("state %q: %v", text, err)
		}
		numbers = append(numbers, n)
	}
	state := &storetest.State{Age: now.Sub(time.UnixMicro(numbers[0]))}
	for bucket := range slices.Chunk(numbers[1:], 4) {
		state.Buckets = append(state.Buckets, storetest.Bucket{
			Capacity: bucket[0], Token: bucket[1], PerTick: bucket[2], Deficit: bucket[3],
		})
	}
	return state
}

func TestRedisStore(t *testing.T) { storetest.Run(t, redisHarness(t)) }

func FuzzRedisStore(f *testing.F) { storetest.Fuzz(f, redisHarness(f)) }

// The script's cache is empty at first, after a failover, and whenever somebody flushes it.
func TestRedisScriptFlushed(t *testing.T) {
	server := redistest.Start(t)
	client := server.Client()
	store := redisStore(t, client)
	const takers, takes = 8, 300
	done := make(chan struct{})
	var taking, flushing sync.WaitGroup
	flushes := 0
	flushing.Go(func() {
		for ; ; flushes++ {
			select {
			case <-done:
				return
			default:
			}
			if err := client.ScriptFlush(ctx).Err(); err != nil {
				t.Error(err)
			}
		}
	})
	for range takers {
		taking.Go(func() {
			for range takes {
				if _, err := store.Take(ctx, "key", ratelimit.Take{N: 1, Limits: still}); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	taking.Wait()
	close(done)
	flushing.Wait()
	if got := still[0].Capacity - mustTake(t, store, "key", 0, still...).Remaining; got != takers*takes {
		t.Errorf("%d takes were charged %d times", takers*takes, got)
	}
	if evals := server.CommandCalls("eval"); evals < 10 {
		t.Errorf("of %d takes %d found the script gone, in %d flushes: the test tests nothing", takers*takes, evals, flushes)
	}
}

// keyIn is what Redis holds under a key.
type keyIn struct {
	dump string
	ttl  time.Duration
}

func look(t *testing.T, client *redis.Client, key string) keyIn {
	t.Helper()
	dump, err := client.Dump(ctx, key).Result()
	if err != nil && !errors.Is(err, redis.Nil) {
		t.Fatal(err)
	}
	ttl, err := client.PTTL(ctx, key).Result()
	if err != nil {
		t.Fatal(err)
	}
	return keyIn{dump, ttl}
}

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
			for _, l := range c.limits { // ⌈n·per/tokens⌉ in µs
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
			clock.Advance(2 * time.Millisecond) // Redis keeps a key through the last one
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

// Somebody ran PERSIST, or restored a key without its expiry.
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

// Two masters' clocks differ a little at a failover. A client waits for that as long as it is told to.
func TestRedisClockALittleBackwards(t *testing.T) {
	for _, back := range []time.Duration{time.Microsecond, 500 * time.Millisecond, time.Second} {
		t.Run(back.String(), func(t *testing.T) {
			server, clock := frozenRedis(t)
			client := server.Client()
			store := redisStore(t, client)
			mustTake(t, store, "drained", 10, ten...)
			mustTake(t, store, "half", 5, ten...)
			last := strings.Fields(client.Get(ctx, "ratelimit:half").Val())[1]
			clock.Advance(-back)

			want := ratelimit.Result{
				Source: ratelimit.SourceRedis, Limit: ten[0],
				RetryAfter: back + 100*time.Millisecond, ResetAfter: back + time.Second,
			}
			if got := mustTake(t, store, "drained", 1, ten...); got != want {
				t.Errorf("drained:\ngot  %+v\nwant %+v", got, want)
			}
			for range 5 {
				mustTake(t, store, "half", 1, ten...)
			}
			want.RetryAfter, want.ResetAfter = back+100*time.Millisecond, back+time.Second
			if got := mustTake(t, store, "half", 1, ten...); got != want {
				t.Errorf("half, after five more:\ngot  %+v\nwant %+v", got, want)
			}
			state := client.Get(ctx, "ratelimit:half").Val()
			if got := strings.Fields(state)[1]; got != last {
				t.Errorf("the last write was moved from %s to %s", last, got)
			}
			if ttl := client.PTTL(ctx, "ratelimit:half").Val(); ttl < want.ResetAfter {
				t.Errorf("lives for %v, and is full after %v", ttl, want.ResetAfter)
			}
			// Neither a microsecond more nor less than was said.
			clock.Advance(back + 100*time.Millisecond - time.Microsecond)
			for _, key := range []string{"drained", "half"} {
				if r := mustTake(t, store, key, 1, ten...); r.Allowed || r.RetryAfter != time.Microsecond {
					t.Errorf("%s: a microsecond early: %+v", key, r)
				}
			}
			clock.Advance(time.Microsecond)
			for _, key := range []string{"drained", "half"} {
				if r := mustTake(t, store, key, 1, ten...); !r.Allowed {
					t.Errorf("%s: waited as told: %+v", key, r)
				}
			}
		})
	}
}

// More than a second would starve keys until the clock is back where it was.
func TestRedisClockFarBackwards(t *testing.T) {
	for _, back := range []time.Duration{time.Second + time.Microsecond, time.Minute, 5 * 365 * 24 * time.Hour} {
		t.Run(back.String(), func(t *testing.T) {
			server, clock := frozenRedis(t)
			client := server.Client()
			store := redisStore(t, client)
			mustTake(t, store, "drained", 10, ten...)
			mustTake(t, store, "half", 5, ten...)
			mustTake(t, store, "two", 10, ten[0], still[0])
			clock.Advance(-back)

			if r := mustTake(t, store, "drained", 1, ten...); r.Allowed || r.RetryAfter != 100*time.Millisecond || r.ResetAfter != time.Second {
				t.Errorf("drained: %+v", r)
			}
			if r := mustTake(t, store, "half", 0, ten...); r.Remaining != 5 || r.ResetAfter != 500*time.Millisecond {
				t.Errorf("half: %+v", r)
			}
			if r := mustTake(t, store, "two", 1, ten[0], still[0]); r.Allowed || r.RetryAfter != 100*time.Millisecond {
				t.Errorf("two: %+v", r)
			}
			for _, key := range []string{"drained", "half", "two"} {
				text := client.Get(ctx, "ratelimit:"+key).Val()
				if state := parseState(t, text, clock.Now()); state.Age != 0 {
					t.Errorf("%s does not start again from now: %q", key, text)
				}
				if ttl := client.PTTL(ctx, "ratelimit:"+key).Val(); ttl < time.Second/2 {
					t.Errorf("%s lives for %v", key, ttl)
				}
			}
			clock.Advance(100*time.Millisecond - time.Microsecond)
			for _, key := range []string{"drained", "two"} {
				if r := mustTake(t, store, key, 1, ten...); r.Allowed || r.RetryAfter != time.Microsecond {
					t.Errorf("%s: a microsecond early: %+v", key, r)
				}
			}
			clock.Advance(time.Microsecond)
			for _, key := range []string{"drained", "two"} {
				if r := mustTake(t, store, key, 1, ten...); !r.Allowed {
					t.Errorf("%s: waited as told: %+v", key, r)
				}
			}
		})
	}
}

func TestRedisClockThatJitters(t *testing.T) {
	server, clock := frozenRedis(t)
	store := redisStore(t, server.Client())
	admitted := 0
	take := func() {
		for mustTake(t, store, "key", 1, ten...).Allowed {
			admitted++
		}
	}
	take()
	for range 50 { // to and fro, at no time later than at first
		clock.Advance(-900 * time.Millisecond)
		take()
		clock.Advance(900 * time.Millisecond)
		take()
		clock.Advance(-time.Microsecond)
		take()
		clock.Advance(time.Microsecond)
		take()
	}
	for range 50 { // and back only
		clock.Advance(-time.Minute)
		take()
	}
	if admitted != 10 {
		t.Errorf("%d were admitted of 10, in no time", admitted)
	}
}

// One that hangs costs the budget, whatever the client's own timeouts, which are seconds by default.
func TestRedisBudget(t *testing.T) {
	const budget = 50 * time.Millisecond
	hanging := redistest.Start(t)
	addrs := map[string]func() string{
		"black hole": func() string { return redistest.Silent(t) },
		"paused":     func() string { return hanging.Addr },
	}
	clients := map[string]func(addr string) redis.UniversalClient{
		"plain": func(addr string) redis.UniversalClient { return redis.NewClient(&redis.Options{Addr: addr}) },
		"no retries": func(addr string) redis.UniversalClient {
			return redis.NewClient(&redis.Options{Addr: addr, MaxRetries: -1})
		},
		"context": func(addr string) redis.UniversalClient {
			return redis.NewClient(&redis.Options{Addr: addr, ContextTimeoutEnabled: true})
		},
		"no timeouts": func(addr string) redis.UniversalClient {
			return redis.NewClient(&redis.Options{Addr: addr, ReadTimeout: -1, WriteTimeout: -1})
		},
		"one at a time": func(addr string) redis.UniversalClient {
			return redis.NewClient(&redis.Options{Addr: addr, PoolSize: 1})
		},
		"ring": func(addr string) redis.UniversalClient {
			return redis.NewRing(&redis.RingOptions{Addrs: map[string]string{"a": addr}, ContextTimeoutEnabled: true})
		},
		"cluster": func(addr string) redis.UniversalClient {
			return redis.NewClusterClient(&redis.ClusterOptions{
				ContextTimeoutEnabled: true,
				ClusterSlots: func(context.Context) ([]redis.ClusterSlot, error) {
					return []redis.ClusterSlot{{End: 16383, Nodes: []redis.ClusterNode{{Addr: addr}}}}, nil
				},
			})
		},
	}
	for place, addr := range addrs {
		for kind, connect := range clients {
			t.Run(place+"/"+kind, func(t *testing.T) {
				client := connect(addr())
				defer client.Close()
				store, err := ratelimit.NewRedisStore(client)
				if err != nil {
					t.Fatal(err)
				}
				if place == "paused" {
					mustTakeEventually(t, store)
					hanging.Pause()
					defer hanging.Resume()
				}
				// The machine may be busy; what is not kept at all is never kept.
				best, worst := time.Hour, time.Duration(0)
				for range 5 {
					start := time.Now()
					_, err := store.Take(ctx, "key", ratelimit.Take{N: 1, Limits: ten})
					took := time.Since(start)
					best, worst = min(best, took), max(worst, took)
					if err == nil {
						t.Fatal("decided without Redis")
					}
				}
				if best > 3*budget || worst > 20*budget {
					t.Errorf("5 takes took from %v to %v, with a budget of %v", best, worst, budget)
				}
				// Those that come together do not wait for one another.
				var waiting sync.WaitGroup
				start := time.Now()
				for range 100 {
					waiting.Go(func() { _, _ = store.Take(ctx, "key", ratelimit.Take{N: 1, Limits: ten}) })
				}
				waiting.Wait()
				if took := time.Since(start); took > 20*budget {
					t.Errorf("100 takes at once took %v", took)
				}
			})
		}
	}
}

// Each answer comes in time, and all together too late: a new connection has several to wait for.
func TestRedisBudgetIsForAllRoundTrips(t *testing.T) {
	const budget = 200 * time.Millisecond
	replies := newReplies(t, "-NOSCRIPT no\r\n")
	replies.delay = budget * 3 / 4
	for name, options := range map[string]redis.Options{
		"plain":   {},
		"context": {ContextTimeoutEnabled: true},
	} {
		t.Run(name, func(t *testing.T) {
			options.Addr = replies.addr
			client := redis.NewClient(&options)
			defer client.Close()
			store, err := ratelimit.NewRedisStore(client, ratelimit.WithTimeout(budget))
			if err != nil {
				t.Fatal(err)
			}
			best := time.Hour
			for range 3 {
				start := time.Now()
				if _, err := store.Take(ctx, "key", ratelimit.Take{N: 1, Limits: ten}); err == nil {
					t.Fatal("decided without a reply")
				}
				best = min(best, time.Since(start))
			}
			if best > budget*3/2 {
				t.Errorf("a take took %v, with a budget of %v", best, budget)
			}
		})
	}
}

// mustTakeEventually waits for a store that is starting or recovering, for a while.
func mustTakeEventually(t *testing.T, store ratelimit.Store) {
	t.Helper()
	deadline := time.Now().Add(10 * time.Second)
	for {
		_, err := store.Take(ctx, "eventually", ratelimit.Take{N: 1, Limits: still})
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatal(err)
		}
	}
}

// CLIENT PAUSE holds commands back while everything else looks well.
func TestRedisClientPause(t *testing.T) {
	for _, mode := range []string{"all", "write"} {
		t.Run(mode, func(t *testing.T) {
			server := redistest.Start(t)
			client := redis.NewClient(&redis.Options{Addr: server.Addr})
			defer client.Close()
			store, err := ratelimit.NewRedisStore(client)
			if err != nil {
				t.Fatal(err)
			}
			mustTakeEventually(t, store)
			const pause = 1500 // ms
			if err := server.Client().Do(ctx, "client", "pause", pause, mode).Err(); err != nil {
				t.Fatal(err)
			}
			start := time.Now()
			_, err = store.Take(ctx, "key", ratelimit.Take{N: 1, Limits: ten})
			if took := time.Since(start); err == nil || took > time.Second {
				t.Errorf("error %v after %v, with a budget of 50 ms", err, took)
			}
			mustTakeEventually(t, store)
			// It was charged once or not at all, and a retry would be twice.
			if r := mustTake(t, redisStore(t, client), "key", 0, ten...); r.Remaining < 9 {
				t.Errorf("%d of 10 remain after one take", r.Remaining)
			}
		})
	}
}

// A client that hangs up must not look like a store that fails.
func TestRedisContextOfTheRequest(t *testing.T) {
	server := redistest.Start(t)
	store := redisStore(t, server.Client())
	cancelled, cancel := context.WithCancel(ctx)
	cancel()
	expired, cancel := context.WithDeadline(ctx, time.Unix(0, 0))
	defer cancel()
	var receipts []ratelimit.Receipt
	for i, gone := range []context.Context{cancelled, expired} {
		r, err := store.Take(gone, "key", ratelimit.Take{N: 1, Limits: still})
		receipts = append(receipts, r.Receipt)
		if want := still[0].Capacity - 1 - i; err != nil || r.Remaining != want {
			t.Errorf("%d remaining, want %d; %v", r.Remaining, want, err)
		}
	}
	if r, err := store.Adjust(cancelled, "key", ratelimit.Adjustment{N: 2, Limits: still, Receipt: receipts[1]}); err != nil || r.Remaining != still[0].Capacity {
		t.Errorf("%d remaining, %v", r.Remaining, err)
	}
	if _, err := store.Reset(cancelled, "key"); err != nil {
		t.Error(err)
	}
}

func TestNewRedisStoreErrors(t *testing.T) {
	const addr = "127.0.0.1:1" // nobody listens, and nobody is asked
	var nilClient *redis.Client
	plain := redis.NewClient(&redis.Options{Addr: addr})
	for name, c := range map[string]struct {
		client  redis.UniversalClient
		options []ratelimit.RedisOption
		want    []string
	}{
		"nil":         {nil, nil, []string{"NewRedisStore(nil)", "redis.NewClient"}},
		"nil pointer": {nilClient, nil, []string{"NewRedisStore(nil)", "redis.NewClient"}},
		"cluster": {
			redis.NewClusterClient(&redis.ClusterOptions{Addrs: []string{addr}}), nil,
			[]string{"*redis.ClusterClient", "ContextTimeoutEnabled: true", "redis.ClusterOptions"},
		},
		"ring": {
			redis.NewRing(&redis.RingOptions{Addrs: map[string]string{"a": addr}}), nil,
			[]string{"*redis.Ring", "ContextTimeoutEnabled: true", "redis.RingOptions"},
		},
		"somebody's own": {struct{ redis.UniversalClient }{plain}, nil, []string{"*redis.Client", "struct"}},
		"no budget":      {plain, []ratelimit.RedisOption{ratelimit.WithTimeout(0)}, []string{"WithTimeout(0s)", "50*time.Millisecond"}},
		"both": {
			redis.NewRing(&redis.RingOptions{Addrs: map[string]string{"a": addr}}), []ratelimit.RedisOption{ratelimit.WithTimeout(-time.Second)},
			[]string{"WithTimeout(-1s)", "ContextTimeoutEnabled: true"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			store, err := ratelimit.NewRedisStore(c.client, c.options...)
			if err == nil || store != nil {
				t.Fatalf("got %v, %v", store, err)
			}
			for _, want := range append(c.want, "ratelimit: ") {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("error %q does not say %q", err, want)
				}
			}
			for line := range strings.Lines(err.Error()) {
				if !strings.HasPrefix(line, "ratelimit: ") {
					t.Errorf("line %q without the package's name", line)
				}
			}
		})
	}
	if _, err := ratelimit.NewRedisStore(plain); err != nil {
		t.Error(err)
	}
	if plain.Options().ContextTimeoutEnabled || plain.Options().ReadTimeout == 50*time.Millisecond {
		t.Error("the caller's client was changed")
	}
}

func TestRedisCluster(t *testing.T) {
	cluster := redistest.Cluster(t, 3)
	for _, node := range cluster.Nodes() {
		node.SetACL("limiter", "on", ">secret", "~ratelimit:*", "nocommands", "+evalsha", "+eval", "+get", "+set", "+time", "+cluster|slots")
	}
	client := redis.NewClusterClient(&redis.ClusterOptions{
		Addrs: cluster.Addrs(), ContextTimeoutEnabled: true, Username: "limiter", Password: "secret",
	})
	defer client.Close()
	store := redisStore(t, client)
	slots := make(map[string]bool)
	for i := range 60 {
		key := fmt.Sprintf("{a}%d{}}{", i) // the same hash tag, if braces got through
		for n := range 6 {
			if r := mustTake(t, store, key, 2, ten[0], still[0]); r.Allowed != (n < 5) {
				t.Fatalf("take %d of %q: %+v", n+1, key, r)
			}
		}
		if _, err := store.Adjust(ctx, key, ratelimit.Adjustment{N: 3, Limits: ten}); err != nil {
			t.Fatal(err)
		}
		slots[cluster.MasterOf("ratelimit:"+escaped(key)).Addr] = true
	}
	if len(slots) != 3 {
		t.Errorf("60 keys are on %d of 3 masters", len(slots))
	}
	for _, node := range cluster.Nodes() {
		// Asking for what is not allowed costs a round trip, at each take.
		if denials := fmt.Sprint(node.Client().Do(ctx, "acl", "log").Val()); strings.Contains(denials, "object:command ") {
			t.Errorf("the client asked for COMMAND, which the smallest ACL does not allow: %s", denials)
		}
	}
	var racing sync.WaitGroup
	var admitted atomic.Int64
	for range 16 {
		racing.Go(func() {
			for range 10 {
				if r, err := store.Take(ctx, "race", ratelimit.Take{N: 1, Limits: []ratelimit.Limit{{Capacity: 50, Refill: ratelimit.PerHour(1)}}}); err != nil {
					t.Error(err)
				} else if r.Allowed {
					admitted.Add(1)
				}
			}
		})
	}
	racing.Wait()
	if admitted.Load() != 50 {
		t.Errorf("%d of 50 were admitted", admitted.Load())
	}
	if _, err := store.Reset(ctx, "race"); err != nil {
		t.Error(err)
	}
}

func TestRedisRing(t *testing.T) {
	a, b := redistest.Start(t), redistest.Start(t)
	ring := redis.NewRing(&redis.RingOptions{
		Addrs: map[string]string{"a": a.Addr, "b": b.Addr}, ContextTimeoutEnabled: true,
	})
	defer ring.Close()
	store := redisStore(t, ring)
	for i := range 50 {
		key := fmt.Sprint("key", i)
		for n := range 3 {
			if r := mustTake(t, store, key, 400_000, still...); r.Allowed != (n < 2) {
				t.Fatalf("take %d of %q: %+v", n+1, key, r)
			}
		}
	}
	onA, onB := a.Client().DBSize(ctx).Val(), b.Client().DBSize(ctx).Val()
	if onA+onB != 50 || onA == 0 || onB == 0 {
		t.Errorf("50 keys: %d on one server, %d on the other", onA, onB)
	}
}

func TestRedisDownAtFirst(t *testing.T) {
	server := redistest.Start(t)
	server.Stop()
	client := redis.NewClient(&redis.Options{Addr: server.Addr})
	defer client.Close()
	store, err := ratelimit.NewRedisStore(client)
	if err != nil {
		t.Fatalf("Redis need not be up: %v", err)
	}
	for range 3 {
		if _, err := store.Take(ctx, "key", ratelimit.Take{N: 1, Limits: ten}); err == nil {
			t.Fatal("decided without Redis")
		}
	}
	for range 2 {
		server.Restart()
		mustTakeEventually(t, store)
		server.Kill()
		if _, err := store.Take(ctx, "key", ratelimit.Take{N: 1, Limits: ten}); err == nil {
			t.Fatal("decided without Redis")
		}
	}
}

func TestRedisClientClosed(t *testing.T) {
	server := redistest.Start(t)
	client := redis.NewClient(&redis.Options{Addr: server.Addr})
	store := redisStore(t, client)
	mustTake(t, store, "key", 1, ten...)
	_ = client.Close()
	if _, err := store.Take(ctx, "key", ratelimit.Take{N: 1, Limits: ten}); err == nil {
		t.Error("no error from a closed client")
	}
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

// By default go-redis sends a command again when its reply is lost, up to three times: each of them would charge.
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

			// In a crowd, takes are sent together. Each is charged as often as it was answered, or once more.
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

// sentKeys answers takes in place of Redis, and notes the keys.
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
		// What can be undone is injective.
		if back, err := url.PathUnescape(got); err != nil || back != key {
			t.Errorf("%q was sent as %q, which says %q, %v", key, got, back, err)
		}
	})
}

// A proxy or a script of the same name may answer anything.
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

// The comment of RedisStore says what is enough.
func TestRedisSmallestACL(t *testing.T) {
	server := redistest.Start(t)
	rules := []string{"on", ">secret", "~ratelimit:*", "nocommands", "+evalsha", "+eval", "+get", "+set", "+time"}
	connect := func(t *testing.T, user string, rules []string) ratelimit.Store {
		server.SetACL(user, rules...)
		client := redis.NewClient(&redis.Options{Addr: server.Addr, Username: user, Password: "secret"})
		t.Cleanup(func() { _ = client.Close() })
		return redisStore(t, client)
	}
	t.Run("is enough", func(t *testing.T) {
		store := connect(t, "limiter", rules)
		for range 2 {
			server.Client().ScriptFlush(ctx)
			mustTake(t, store, "key", 6, ten...)
		}
		mustTake(t, store, "key", 1, ten[0], still[0])
		if _, err := store.Adjust(ctx, "key", ratelimit.Adjustment{N: -5, Limits: ten}); err != nil {
			t.Error(err)
		}
		if _, err := store.Reset(ctx, "key"); err != nil {
			t.Error(err)
		}
		if r := mustTake(t, store, "key", 0, ten...); r.Remaining != 10 {
			t.Errorf("%d of 10 remain after a reset", r.Remaining)
		}
		if _, err := redisStore(t, server.Client(), ratelimit.WithKeyPrefix("x")).Take(ctx, "key", ratelimit.Take{N: 1, Limits: ten}); err != nil {
			t.Error(err)
		}
	})
	for i, rule := range rules {
		if i < 2 || rule == "nocommands" {
			continue
		}
		t.Run("without "+rule, func(t *testing.T) {
			store := connect(t, fmt.Sprint("user", i), slices.Delete(slices.Clone(rules), i, i+1))
			server.Client().ScriptFlush(ctx)
			before := server.CommandCalls("set")
			r, err := store.Take(ctx, "other", ratelimit.Take{N: 1, Limits: ten})
			if err == nil || r.Allowed || errors.Is(err, ratelimit.ErrForeignState) {
				t.Fatalf("got %+v, %v", r, err)
			}
			text := strings.ToLower(err.Error())
			if !strings.Contains(text, "noperm") && !strings.Contains(text, "can't run this command") && !strings.Contains(text, "permission") {
				t.Errorf("error %q does not say what is wrong", err)
			}
			if server.CommandCalls("set") != before {
				t.Error("something was written")
			}
		})
	}
}
