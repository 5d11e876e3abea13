package ratelimit

import (
	"context"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/gin-ratelimit/ratelimit/internal/bucket"
	"github.com/gin-ratelimit/ratelimit/internal/redistest"
)

// TestRedisTakesWithOptionsAsMemoryDoes runs the same random takes with options, adjustments and resets on a
// real Redis, whose clock stands still but for the trace, and on the arithmetic of the memory store.
func TestRedisTakesWithOptionsAsMemoryDoes(t *testing.T) {
	server := redistest.Start(t, redistest.WithClock())
	start := time.Unix(1_900_000_000, 0)
	server.Clock().Freeze(start)
	client := server.Client()
	store, err := NewRedisStore(client, WithDenyCache(0), WithTimeout(10*time.Second))
	require.NoError(t, err)

	seed := rand.Uint64()
	random := rand.New(rand.NewPCG(seed, 0))
	limits := []Limit{
		{10, PerSecond(10)}, {3, PerMinute(7)}, {1, Every(time.Hour)}, {20, Rate{7, 3 * time.Second}}, {5, Rate{1_000_003, time.Second}},
	}
	bans := []Ban{
		{},
		{After: 3, Within: time.Second, For: time.Second, Max: 5 * time.Second},
		{After: 1, Within: time.Minute, For: 100 * time.Millisecond},
		{After: 7, Within: 3 * time.Second, For: 2 * time.Second, Max: time.Hour},
	}
	waits := []time.Duration{0, 0, time.Millisecond, 700 * time.Millisecond, time.Minute}

	steps := 6000
	if testing.Short() {
		steps = 600
	}
	banned, waited, now := 0, 0, int64(0)
	for trace := range 20 {
		key := fmt.Sprintf("trace-%d", trace)
		model := &bucket.State{}
		for step := range steps / 20 {
			gap := time.Duration(random.ExpFloat64() * float64([]time.Duration{time.Microsecond, time.Millisecond, 300 * time.Millisecond, 10 * time.Second}[random.IntN(4)])).Truncate(time.Microsecond)
			server.Clock().Advance(gap)
			now += gap.Microseconds()

			asked := []Limit{limits[random.IntN(len(limits))]}
			if random.IntN(3) == 0 {
				asked = append(asked, limits[random.IntN(len(limits))])
			}
			scales, err := appendScales(nil, asked)
			require.NoError(t, err)
			options := TakeOptions{MaxWait: waits[random.IntN(len(waits))], Ban: bans[random.IntN(len(bans))]}
			n := random.IntN(4)

			var got Result
			c := bucket.Change{N: int64(n - 2), Adjust: true}
			switch random.IntN(12) {
			case 0:
				got, err = store.Adjust(context.Background(), key, n-2, asked)
			case 1:
				model = &bucket.State{}
				require.NoError(t, store.Reset(context.Background(), key))
				server.Clock().Advance(time.Millisecond)
				now += 1000
				continue
			default:
				c, err = options.change(n)
				require.NoError(t, err)
				got, err = store.TakeWith(context.Background(), key, n, asked, options)
			}
			require.NoError(t, err)
			o, _ := model.Apply(now, &c, scales)
			want := resultOf(&c, SourceRedis, asked, scales, o)
			where := fmt.Sprintf("seed %d, trace %d, step %d at %dµs: %+v of %v with %+v", seed, trace, step, now, c, asked, options)
			require.Equal(t, want, got, where)
			if got.Banned {
				banned++
			}
			if got.Wait > 0 {
				waited++
			}
			if !model.Full(now) { // Else it may have expired, or not yet.
				text, err := client.Get(context.Background(), "ratelimit:"+key).Result()
				require.NoError(t, err, where)
				require.Equal(t, withoutFull(modelText(model, start)), withoutFull(text), where)
			}
		}
	}
	t.Logf("%d steps, of which %d found a ban and %d had to wait", steps, banned, waited)
	require.NotZero(t, banned)
	require.NotZero(t, waited)
}

// modelText is the state that Redis should hold.
func modelText(b *bucket.State, start time.Time) string {
	fields := []string{fmt.Sprintf("b1 %d", start.UnixMicro()+b.Last)}
	for _, l := range b.Levels {
		fields = append(fields, levelText(&l))
	}
	if b.Ban != nil && b.Ban.Strikes.Deficit+b.Ban.Memory.Deficit > 0 {
		fields = append(fields, "ban", levelText(&b.Ban.Strikes), levelText(&b.Ban.Memory))
	}
	return strings.Join(fields, " ")
}

func levelText(l *bucket.Level) string {
	return fmt.Sprintf("%d %d %d %d", l.Capacity, l.Token, l.PerTick, l.Deficit)
}

// withoutFull drops the full buckets at the end of a state: whether they are still there is up to expiry.
func withoutFull(state string) string {
	body, ban, _ := strings.Cut(state, " ban ")
	for fields := strings.Fields(body); len(fields) > 2 && fields[len(fields)-1] == "0"; fields = fields[:len(fields)-4] {
		body = strings.Join(fields[:len(fields)-4], " ")
	}
	return body + " ban " + ban
}

// eachOptionStore runs a test on the stores that can take with options. advance moves their clock.
func eachOptionStore(t *testing.T, test func(t *testing.T, store OptionStore, advance func(time.Duration))) {
	t.Run("memory", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) { test(t, NewMemoryStore(), time.Sleep) })
	})
	t.Run("redis", func(t *testing.T) {
		server := redistest.Start(t, redistest.WithClock())
		server.Clock().Freeze(time.Unix(1_900_000_000, 0))
		store, err := NewRedisStore(server.Client(), WithDenyCache(0), WithTimeout(10*time.Second))
		require.NoError(t, err)
		test(t, store, server.Clock().Advance)
	})
}

func TestBanGrowsAndIsForgiven(t *testing.T) {
	eachOptionStore(t, func(t *testing.T, store OptionStore, advance func(time.Duration)) {
		limits := []Limit{{1, Every(time.Hour)}}
		options := TakeOptions{Ban: Ban{After: 3, Within: time.Minute, For: 10 * time.Second, Max: 35 * time.Second}}
		take := func() Result {
			r, err := store.TakeWith(context.Background(), "key", 1, limits, options)
			require.NoError(t, err)
			return r
		}
		require.True(t, take().Allowed)
		require.False(t, take().Banned, "the first refusal")
		require.False(t, take().Banned, "the second refusal")
		for i, length := range []time.Duration{10 * time.Second, 20 * time.Second, 35 * time.Second, 35 * time.Second} {
			require.True(t, take().Banned, "refusal that starts ban %d", i)
			look, err := store.TakeWith(context.Background(), "key", 0, []Limit{{1, PerSecond(1)}}, options)
			require.NoError(t, err)
			require.True(t, look.Banned, "a look sees the ban, whatever is in the bucket")
			require.Equal(t, length, look.RetryAfter, "ban %d", i)
			require.Zero(t, look.Remaining)
			advance(length - time.Microsecond)
			require.True(t, take().Banned, "to the last microsecond")
			advance(time.Microsecond)
		}
		// What is missing at the end of a ban is twice its length, and refills in as much time; the strikes
		// refill in Within.
		advance(70 * time.Second)
		for range 2 {
			require.False(t, take().Banned)
		}
		require.True(t, take().Banned)
		look, err := store.TakeWith(context.Background(), "key", 0, []Limit{{1, PerSecond(1)}}, options)
		require.NoError(t, err)
		require.Equal(t, 10*time.Second, look.RetryAfter, "forgiven")

		require.NoError(t, store.Reset(context.Background(), "key"))
		advance(time.Millisecond) // Redis forgets a millisecond later.
		require.True(t, take().Allowed, "Reset lifts a ban")
	})
}

// At another rate, the debt that a ban is would be another time.
func TestBanUnderOtherOptions(t *testing.T) {
	eachOptionStore(t, func(t *testing.T, store OptionStore, advance func(time.Duration)) {
		limits := []Limit{{1, Every(time.Hour)}}
		take := func(ban Ban) Result {
			r, err := store.TakeWith(context.Background(), "key", 1, limits, TakeOptions{Ban: ban})
			require.NoError(t, err)
			return r
		}
		short := Ban{After: 2, Within: time.Minute, For: 10 * time.Minute}
		long := Ban{After: 2, Within: time.Hour, For: 10 * time.Hour}
		require.True(t, take(short).Allowed)
		require.False(t, take(short).Banned)
		require.True(t, take(short).Banned)
		r := take(long)
		require.True(t, r.Banned, "the strikes are kept, so this refusal is one too many")
		require.Equal(t, 10*time.Hour, r.RetryAfter)
		advance(10*time.Hour - time.Microsecond)
		require.True(t, take(long).Banned)
		advance(time.Microsecond)
		require.True(t, take(long).Allowed)
	})
}

func TestRefusalsNowAndThenAreNoReasonForABan(t *testing.T) {
	eachOptionStore(t, func(t *testing.T, store OptionStore, advance func(time.Duration)) {
		options := TakeOptions{Ban: Ban{After: 5, Within: time.Minute, For: time.Hour}}
		for range 100 { // Four refusals a minute, spread in the worst way.
			for range 4 {
				r, err := store.TakeWith(context.Background(), "key", 2, []Limit{{1, PerSecond(1)}}, options)
				require.NoError(t, err)
				require.False(t, r.Allowed)
				require.False(t, r.Banned)
			}
			advance(time.Minute)
		}
	})
}

func TestTakesThatWaitQueueUp(t *testing.T) {
	eachOptionStore(t, func(t *testing.T, store OptionStore, advance func(time.Duration)) {
		limits := []Limit{{2, PerSecond(10)}}
		options := TakeOptions{MaxWait: 300 * time.Millisecond}
		for i, want := range []int{0, 0, 100, 200, 300} {
			r, err := store.TakeWith(context.Background(), "key", 1, limits, options)
			require.NoError(t, err)
			require.True(t, r.Allowed, "take %d", i)
			require.Equal(t, int64(want), r.Wait.Milliseconds(), "take %d", i)
		}
		r, err := store.TakeWith(context.Background(), "key", 1, limits, options)
		require.NoError(t, err)
		require.False(t, r.Allowed, "the queue is full")
		require.Equal(t, 100*time.Millisecond, r.RetryAfter)
		r, err = store.Take(context.Background(), "key", 1, limits)
		require.NoError(t, err)
		require.False(t, r.Allowed, "who does not wait does not overtake")
		require.Equal(t, 400*time.Millisecond, r.RetryAfter)

		advance(99_999 * time.Microsecond)
		r, err = store.TakeWith(context.Background(), "key", 1, limits, options)
		require.NoError(t, err)
		require.False(t, r.Allowed)
		advance(time.Microsecond)
		r, err = store.TakeWith(context.Background(), "key", 1, limits, options)
		require.NoError(t, err)
		require.True(t, r.Allowed)
		require.Equal(t, 300*time.Millisecond, r.Wait)
	})
}

func TestWrongTakeOptions(t *testing.T) {
	for _, options := range []TakeOptions{
		{MaxWait: -1},
		{Ban: Ban{After: 0, Within: time.Minute, For: time.Minute}},
		{Ban: Ban{After: 1, Within: 0, For: time.Minute}},
		{Ban: Ban{After: 1, Within: time.Minute}},
		{Ban: Ban{After: 1, Within: time.Minute, For: time.Minute, Max: time.Second}},
		{Ban: Ban{After: 1, Within: time.Minute, For: time.Minute, Max: 11 * 365 * 24 * time.Hour}},
	} {
		_, err := NewMemoryStore().TakeWith(context.Background(), "key", 1, []Limit{{1, PerSecond(1)}}, options)
		require.ErrorIs(t, err, ErrArgument, "%+v", options)
		if options.Ban != (Ban{}) {
			require.Error(t, options.Ban.Validate(), "%+v", options)
		}
	}
	require.NoError(t, Ban{}.Validate())
}
