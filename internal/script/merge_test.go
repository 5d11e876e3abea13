package script

import (
	"context"
	"fmt"
	"hash/fnv"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/gin-ratelimit/ratelimit/internal/bucket"
	"github.com/gin-ratelimit/ratelimit/internal/redistest"
)

// merging returns a merger that may merge, on a server that knows the script.
func merging(t *testing.T, client *redis.Client) *merger {
	t.Helper()
	require.NoError(t, client.ScriptLoad(t.Context(), text).Err())
	m := &merger{client: client}
	m.oneServer.Store(true)
	return m
}

func newTake(key string, args []any) *take {
	return &take{ctx: context.Background(), key: key, args: args, done: make(chan struct{})}
}

func always(*take) bool { return true }

func rate(capacity, tokens int64, per time.Duration) bucket.Scale {
	s, _ := bucket.NewScale(capacity, tokens, int64(per))
	return s
}

// TestMergedTakesAreDecidedAsSingleOnes gives the same random calls to two sets of keys, merged and one by one.
func TestMergedTakesAreDecidedAsSingleOnes(t *testing.T) {
	ctx := context.Background()
	server := redistest.Start(t, redistest.WithClock())
	clock := server.Clock()
	clock.Freeze(time.Unix(1_800_000_000, 0))
	client := server.Client()
	m := merging(t, client)

	common := rate(5, 10, time.Second)
	var lists []*Limits
	for _, scales := range [][]bucket.Scale{
		{common}, {common}, {common}, {rate(9, 10, time.Second)}, {rate(5, 7, time.Second)}, {common, rate(50, 100, time.Minute)},
	} {
		lists = append(lists, NewLimits(scales))
	}
	ban, ok := bucket.NewBan(rate(3, 3, time.Second), 1e6, 60e6)
	require.True(t, ok)
	key := func() string { return fmt.Sprint(rand.IntN(24)) }
	random := func() []any {
		limits, n := lists[rand.IntN(len(lists))], rand.Int64N(3)
		args := reset
		switch rand.IntN(20) {
		case 0:
		case 1:
			args = limits.args(&bucket.Change{N: n, Debt: true})
		case 2:
			args = limits.args(&bucket.Change{N: n, Ban: &ban})
		default:
			args = limits.args(&bucket.Change{N: n})
		}
		return args
	}
	foreign := func(prefix string) {
		require.NoError(t, client.Set(ctx, prefix+"1", "somebody's", 0).Err())
		require.NoError(t, client.HSet(ctx, prefix+"2", "field", "value").Err())
	}
	foreign("merged:")
	foreign("alone:")

	merged, refused, notOurs := 0, 0, 0
	for round := range 300 {
		clock.Advance(time.Duration(rand.IntN(200_000)) * time.Microsecond)
		var takes []*take
		for range 1 + rand.IntN(40) {
			takes = append(takes, newTake("merged:"+key(), random()))
		}
		groups := m.group(takes)
		legs, err := m.send(ctx, takes, always)
		require.NoError(t, err)
		require.Equal(t, 1, legs)
		for _, group := range groups {
			merged += len(group) - 1
			for _, got := range group {
				require.NoError(t, got.err)
				c := call{"evalsha", sha, []string{strings.Replace(got.key, "merged:", "alone:", 1)}, got.args}
				alone := newOnceCmd(ctx, c)
				require.NoError(t, client.Process(ctx, alone))
				require.Equal(t, alone.Val(), got.reply, "%v", c)
				switch got.reply[1] {
				case 0:
					refused++
				case -1:
					notOurs++
				}
			}
		}
		if round%10 > 0 {
			continue
		}
		for i := range 24 {
			merged, alone := fmt.Sprint("merged:", i), fmt.Sprint("alone:", i)
			require.Equal(t, client.Dump(ctx, alone).Val(), client.Dump(ctx, merged).Val())
			require.Equal(t, client.PTTL(ctx, alone).Val(), client.PTTL(ctx, merged).Val())
		}
	}
	t.Logf("%d merged, %d refused, %d of keys that are not ours", merged, refused, notOurs)
	require.Greater(t, merged, 1000)
	require.Greater(t, refused, 100)
	require.Greater(t, notOurs, 100)
}

// TestMergedTakesThatRedisRefusesAreNotCharged: where memory is short, the first write fails, and so do all.
func TestMergedTakesThatRedisRefusesAreNotCharged(t *testing.T) {
	ctx := context.Background()
	client := redistest.Start(t).Client()
	m := merging(t, client)
	require.NoError(t, client.HSet(ctx, "ratelimit:3", "field", "value").Err())
	ten := func() (takes []*take) {
		for i := range 10 {
			takes = append(takes, newTake(fmt.Sprint("ratelimit:", i), perDay(5, 5).args(one)))
		}
		_, err := m.send(ctx, takes, always)
		require.NoError(t, err)
		return takes
	}
	require.NoError(t, client.ConfigSet(ctx, "maxmemory", "1").Err())
	for _, got := range ten() {
		require.True(t, redis.HasErrorPrefix(got.err, "OOM"), "%v: %v", got.key, got.err)
	}
	require.NoError(t, client.ConfigSet(ctx, "maxmemory", "0").Err())
	require.EqualValues(t, 1, client.DBSize(ctx).Val())
	for i, got := range ten() {
		require.NoError(t, got.err)
		require.Equal(t, i != 3, got.reply[1] == 1)
	}
	require.EqualValues(t, 10, client.DBSize(ctx).Val())
}

// TestMergingNeedsOneServer has many callers take from many keys, on one server and through a proxy that sends each script
// to the server of its first key.
func TestMergingNeedsOneServer(t *testing.T) {
	shards := []*redis.Client{redistest.Start(t).Client(), redistest.Start(t).Client()}
	proxy := func(shards []*redis.Client) string {
		return redistest.Pretend(t, func(command []string) (string, bool) {
			if !strings.HasPrefix(command[0], "eval") {
				return redistest.Handshake(command)
			}
			hash := fnv.New32a()
			hash.Write([]byte(command[3]))
			args := make([]any, len(command))
			for i, arg := range command {
				args[i] = arg
			}
			numbers, err := shards[hash.Sum32()%uint32(len(shards))].Do(context.Background(), args...).Int64Slice()
			if err != nil {
				return "-" + err.Error() + "\r\n", true
			}
			reply := fmt.Sprintf("*%d\r\n", len(numbers))
			for _, n := range numbers {
				reply += fmt.Sprintf(":%d\r\n", n)
			}
			return reply, true
		})
	}
	for name, shards := range map[string][]*redis.Client{"one": shards[:1], "two": shards} {
		client := redis.NewClient(&redis.Options{Addr: proxy(shards), ContextTimeoutEnabled: true})
		defer client.Close()
		counter := &wireCounter{}
		client.AddHook(counter)
		runner := New(client, Config{Prefix: name + ":", Budget: patient.Budget})
		const callers, takes, keys, capacity = 32, 60, 64, 10
		var admitted atomic.Int64
		var taking sync.WaitGroup
		for range callers {
			taking.Go(func() {
				for range takes {
					r, err := runner.Change(context.Background(), fmt.Sprint(rand.IntN(keys)), perDay(capacity, 1), one)
					if err != nil {
						t.Error(err)
						return
					}
					if r.Allowed {
						admitted.Add(1)
					}
				}
			})
		}
		taking.Wait()
		require.LessOrEqual(t, admitted.Load(), int64(keys*capacity), name)
		require.Greater(t, admitted.Load(), int64(keys*capacity*9/10), name)
		t.Logf("%s: %d keys in %d runs in %d flights", name, counter.keys.Load(), counter.runs.Load(), counter.flights.Load())
		require.Greater(t, counter.flights.Load(), int64(1), name)
		merges := counter.keys.Load() > 2*counter.runs.Load()
		require.Equal(t, len(shards) == 1, merges, "%s: %d keys in %d runs", name, counter.keys.Load(), counter.runs.Load())
	}
}
