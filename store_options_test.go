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

// TestRedisTakesWithOptionsAsMemoryDoes makes the same random takes with options, adjustments and resets on a real Redis
// with a frozen clock, and on the arithmetic of the memory store.
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
	banned, waited, gaveBack, now := 0, 0, 0, int64(0)
	for trace := range 20 {
		key := fmt.Sprintf("trace-%d", trace)
		model := &bucket.State{}
		var receipts []*struct {
			Receipt
			limits []Limit
		}
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
			take := Take{N: random.IntN(4), Limits: asked, MaxWait: waits[random.IntN(len(waits))], Ban: bans[random.IntN(len(bans))]}

			var got Result
			var c bucket.Change
			switch op := random.IntN(14); {
			case op == 0:
				c = bucket.Change{N: int64(take.N), Debt: true}
				got, err = store.Adjust(context.Background(), key, Adjustment{N: -take.N, Limits: asked})
			case op == 1:
				_, looked := model.Apply(now, &bucket.Change{}, scales)
				require.False(t, looked)
				full := model.Full(now)
				model = &bucket.State{}
				found, err := store.Reset(context.Background(), key)
				require.NoError(t, err)
				require.Equal(t, !full, found)
				server.Clock().Advance(time.Millisecond)
				now += 1000
				continue
			case op == 2:
				usage, err := store.Look(context.Background(), key, asked)
				require.NoError(t, err)
				require.Equal(t, usageOf(SourceRedis, model.At(now, scales), asked, 0), usage)
				continue
			case op <= 4 && len(receipts) > 0:
				back := receipts[max(0, len(receipts)-1-random.IntN(5))]
				change := Adjustment{N: 1 + random.IntN(4), Limits: back.limits, Receipt: back.Receipt, Leave: random.IntN(3) == 0}
				c, err = change.change(SourceRedis)
				require.NoError(t, err)
				c.Back.At -= start.UnixMicro()
				asked = back.limits
				scales, err = appendScales(nil, asked)
				require.NoError(t, err)
				got, err = store.Adjust(context.Background(), key, change)
				back.Receipt = got.Receipt
				gaveBack++
			default:
				c, err = take.change()
				require.NoError(t, err)
				got, err = store.Take(context.Background(), key, take)
				if got.Receipt.took() {
					receipts = append(receipts, &struct {
						Receipt
						limits []Limit
					}{got.Receipt, asked})
				}
			}
			require.NoError(t, err)
			o, _ := model.Apply(now, &c, scales)
			want := resultOf(&c, SourceRedis, asked, scales, &o)
			where := fmt.Sprintf("seed %d, trace %d, step %d at %dµs: %+v of %v", seed, trace, step, now, c, asked)
			if c.Back == nil {
				require.Equal(t, want.Receipt.deficits(), got.Receipt.deficits(), where)
				require.Equal(t, want.Receipt.took(), got.Receipt.took(), where)
				if want.Receipt.took() {
					require.Equal(t, start.UnixMicro()+want.Receipt.at, got.Receipt.at, where)
				}
			}
			want.Receipt, got.Receipt = Receipt{}, Receipt{}
			require.Equal(t, want, got, where)
			if got.Banned {
				banned++
			}
			if got.Wait > 0 {
				waited++
			}
			if !model.Full(now) { // If it is full, it may have expired or not.
				text, err := client.Get(context.Background(), "ratelimit:"+key).Result()
				require.NoError(t, err, where)
				require.Equal(t, withoutFull(modelText(model, start)), withoutFull(text), where)
			}
		}
	}
	t.Logf("%d steps, of which %d found a ban, %d had to wait and %d gave back", steps, banned, waited, gaveBack)
	require.NotZero(t, banned)
	require.NotZero(t, waited)
	require.NotZero(t, gaveBack)
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

// withoutFull drops the full buckets at the end of a state, because they may have expired or not.
func withoutFull(state string) string {
	body, ban, _ := strings.Cut(state, " ban ")
	for fields := strings.Fields(body); len(fields) > 2 && fields[len(fields)-1] == "0"; fields = fields[:len(fields)-4] {
		body = strings.Join(fields[:len(fields)-4], " ")
	}
	return body + " ban " + ban
}

// eachStore runs a test on memory and on Redis. advance moves their clock.
func eachStore(t *testing.T, test func(t *testing.T, store Store, advance func(time.Duration))) {
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
	eachStore(t, func(t *testing.T, store Store, advance func(time.Duration)) {
		limits := []Limit{{1, Every(time.Hour)}}
		options := Take{Ban: Ban{After: 3, Within: time.Minute, For: 10 * time.Second, Max: 35 * time.Second}}
		take := func() Result {
			r, err := store.Take(context.Background(), "key", Take{N: 1, Limits: limits, MaxWait: options.MaxWait, Ban: options.Ban})
			require.NoError(t, err)
			return r
		}
		require.True(t, take().Allowed)
		require.False(t, take().Banned, "the first refusal")
		require.False(t, take().Banned, "the second refusal")
		for i, length := range []time.Duration{10 * time.Second, 20 * time.Second, 35 * time.Second, 35 * time.Second} {
			require.True(t, take().Banned, "refusal that starts ban %d", i)
			look, err := store.Take(context.Background(), "key", Take{Limits: []Limit{{1, PerSecond(1)}}, MaxWait: options.MaxWait, Ban: options.Ban})
			require.NoError(t, err)
			require.True(t, look.Banned, "a look sees the ban, whatever is in the bucket")
			require.Equal(t, length, look.RetryAfter, "ban %d", i)
			require.Zero(t, look.Remaining)
			advance(length - time.Microsecond)
			require.True(t, take().Banned, "to the last microsecond")
			advance(time.Microsecond)
		}
		// At the end of a ban, twice its length is missing, which refills in as much time. The strikes refill in Within.
		advance(70 * time.Second)
		for range 2 {
			require.False(t, take().Banned)
		}
		require.True(t, take().Banned)
		look, err := store.Take(context.Background(), "key", Take{Limits: []Limit{{1, PerSecond(1)}}, MaxWait: options.MaxWait, Ban: options.Ban})
		require.NoError(t, err)
		require.Equal(t, 10*time.Second, look.RetryAfter, "forgiven")

		_, err = store.Reset(context.Background(), "key")
		require.NoError(t, err)
		advance(time.Millisecond) // Redis forgets a millisecond later.
		require.True(t, take().Allowed, "Reset lifts a ban")
	})
}

// The debt of a ban would be another time at another rate.
func TestBanUnderOtherOptions(t *testing.T) {
	eachStore(t, func(t *testing.T, store Store, advance func(time.Duration)) {
		limits := []Limit{{1, Every(time.Hour)}}
		take := func(ban Ban) Result {
			r, err := store.Take(context.Background(), "key", Take{N: 1, Limits: limits, Ban: ban})
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
	eachStore(t, func(t *testing.T, store Store, advance func(time.Duration)) {
		options := Take{Ban: Ban{After: 5, Within: time.Minute, For: time.Hour}}
		for range 100 { // Four refusals a minute, at the worst times.
			for range 4 {
				r, err := store.Take(context.Background(), "key", Take{N: 2, Limits: []Limit{{1, PerSecond(1)}}, MaxWait: options.MaxWait, Ban: options.Ban})
				require.NoError(t, err)
				require.False(t, r.Allowed)
				require.False(t, r.Banned)
			}
			advance(time.Minute)
		}
	})
}

func TestTakesThatWaitQueueUp(t *testing.T) {
	eachStore(t, func(t *testing.T, store Store, advance func(time.Duration)) {
		limits := []Limit{{2, PerSecond(10)}}
		options := Take{MaxWait: 300 * time.Millisecond}
		for i, want := range []int{0, 0, 100, 200, 300} {
			r, err := store.Take(context.Background(), "key", Take{N: 1, Limits: limits, MaxWait: options.MaxWait, Ban: options.Ban})
			require.NoError(t, err)
			require.True(t, r.Allowed, "take %d", i)
			require.Equal(t, int64(want), r.Wait.Milliseconds(), "take %d", i)
		}
		r, err := store.Take(context.Background(), "key", Take{N: 1, Limits: limits, MaxWait: options.MaxWait, Ban: options.Ban})
		require.NoError(t, err)
		require.False(t, r.Allowed, "the queue is full")
		require.Equal(t, 100*time.Millisecond, r.RetryAfter)
		r, err = store.Take(context.Background(), "key", Take{N: 1, Limits: limits})
		require.NoError(t, err)
		require.False(t, r.Allowed, "a take that does not wait does not overtake")
		require.Equal(t, 400*time.Millisecond, r.RetryAfter)

		advance(99_999 * time.Microsecond)
		r, err = store.Take(context.Background(), "key", Take{N: 1, Limits: limits, MaxWait: options.MaxWait, Ban: options.Ban})
		require.NoError(t, err)
		require.False(t, r.Allowed)
		advance(time.Microsecond)
		r, err = store.Take(context.Background(), "key", Take{N: 1, Limits: limits, MaxWait: options.MaxWait, Ban: options.Ban})
		require.NoError(t, err)
		require.True(t, r.Allowed)
		require.Equal(t, 300*time.Millisecond, r.Wait)
	})
}

func TestWrongTakes(t *testing.T) {
	for _, options := range []Take{
		{MaxWait: -1},
		{Ban: Ban{After: 0, Within: time.Minute, For: time.Minute}},
		{Ban: Ban{After: 1, Within: 0, For: time.Minute}},
		{Ban: Ban{After: 1, Within: time.Minute}},
		{Ban: Ban{After: 1, Within: time.Minute, For: time.Minute, Max: time.Second}},
		{Ban: Ban{After: 1, Within: time.Minute, For: time.Minute, Max: 11 * 365 * 24 * time.Hour}},
	} {
		_, err := NewMemoryStore().Take(context.Background(), "key", Take{N: 1, Limits: []Limit{{1, PerSecond(1)}}, MaxWait: options.MaxWait, Ban: options.Ban})
		require.ErrorIs(t, err, ErrArgument, "%+v", options)
		if options.Ban != (Ban{}) {
			require.Error(t, options.Ban.Validate(), "%+v", options)
		}
	}
	require.NoError(t, Ban{}.Validate())
}
