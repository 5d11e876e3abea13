package ratelimit_test

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/gin-ratelimit/ratelimit"
	"github.com/gin-ratelimit/ratelimit/internal/redistest"
	"github.com/gin-ratelimit/ratelimit/storetest"
)

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

// Redis does not know the script at first, after a failover, and after SCRIPT FLUSH.
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

func TestNewRedisStoreErrors(t *testing.T) {
	const addr = "127.0.0.1:1" // no server listens there, and none is asked
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
		key := fmt.Sprintf("{a}%d{}}{", i) // All have the same hash tag, unless braces are escaped.
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
		// A command that is not permitted would cost each take a round trip.
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

// The rights that the comment of RedisStore lists are enough.
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
