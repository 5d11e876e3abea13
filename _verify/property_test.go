package verify

import (
	"context"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"

	"github.com/gin-ratelimit/ratelimit"
	"github.com/gin-ratelimit/ratelimit/internal/redistest"
)

// Memory and Redis return the same, to the microsecond, whatever the calls: with several limits that change, waits, bans,
// give-backs and resets.
func TestMemoryAgreesWithRedis(t *testing.T) {
	proves(t, "Memory and Redis answer alike on random histories of all calls (rapid)", figure("100 histories of up to 60 calls"))
	server := redistest.Start(t, redistest.WithClock())
	clock := server.Clock()
	admin := server.Client()
	redisStore := openStore(t, server.Addr, patient)
	limits := rapid.SliceOfN(rapid.SampledFrom([]ratelimit.Limit{
		{Capacity: 5, Refill: ratelimit.PerSecond(10)}, {Capacity: 5, Refill: ratelimit.Rate{Tokens: 7, Per: 3 * time.Second}},
		{Capacity: 12, Refill: ratelimit.PerSecond(10)}, {Capacity: 3, Refill: ratelimit.Every(86400 * time.Millisecond)},
		{Capacity: 1, Refill: ratelimit.PerSecond(1_000_000)},
	}), 1, 3)
	ban := ratelimit.Ban{After: 3, Within: time.Second, For: 2 * time.Second, Max: 9 * time.Second}
	rapid.Check(t, func(rt *rapid.T) {
		type call struct {
			pause   time.Duration
			kind, n int
			of      int // how many takes before the latest is the one that is given back
			take    ratelimit.Take
		}
		calls := rapid.SliceOfN(rapid.Custom(func(t *rapid.T) call {
			c := call{
				pause: time.Duration(rapid.IntRange(0, 3_000_000).Draw(t, "µs")) * time.Microsecond,
				kind:  rapid.IntRange(0, 12).Draw(t, "kind"), n: rapid.IntRange(0, 7).Draw(t, "n"), of: rapid.IntRange(1, 4).Draw(t, "of"),
				take: ratelimit.Take{Limits: limits.Draw(t, "limits")},
			}
			c.take.N = c.n
			if rapid.Bool().Draw(t, "wait") {
				c.take.MaxWait = time.Duration(rapid.IntRange(0, 2_000_000).Draw(t, "longest")) * time.Microsecond
			}
			if rapid.Bool().Draw(t, "ban") {
				c.take.Ban = ban
			}
			return c
		}), 1, 60).Draw(rt, "calls")
		run := func(store ratelimit.Store, advance func(time.Duration)) (answers []string) {
			type taken struct {
				limits  []ratelimit.Limit
				receipt ratelimit.Receipt
			}
			var takes []taken
			say := func(of any, err error) { answers = append(answers, fmt.Sprintf("%+v %v", of, err)) }
			result := func(r ratelimit.Result, err error) {
				r.Source, r.Receipt = ratelimit.SourceUnknown, ratelimit.Receipt{}
				say(r, err)
			}
			for _, c := range calls {
				advance(c.pause)
				switch {
				case c.kind == 0:
					found, err := store.Reset(context.Background(), "key")
					say(found, err)
				case c.kind == 1:
					result(store.Adjust(context.Background(), "key", ratelimit.Adjustment{N: -c.n, Limits: c.take.Limits}))
				case c.kind <= 4 && len(takes) >= c.of:
					t := &takes[len(takes)-c.of]
					r, err := store.Adjust(context.Background(), "key", ratelimit.Adjustment{
						N: c.n - 1, Limits: t.limits, Receipt: t.receipt, Leave: c.kind == 4,
					})
					t.receipt = r.Receipt
					result(r, err)
				case c.kind == 5:
					usage, err := store.Look(context.Background(), "key", c.take.Limits)
					usage.Source = ratelimit.SourceUnknown
					say(usage, err)
				default:
					r, err := store.Take(context.Background(), "key", c.take)
					if r.Allowed && c.n > 0 {
						takes = append(takes, taken{c.take.Limits, r.Receipt})
					}
					result(r, err)
				}
			}
			return answers
		}
		if err := admin.FlushAll(t.Context()).Err(); err != nil {
			rt.Fatal(err)
		}
		clock.Freeze(time.Unix(1_800_000_000, 0))
		inRedis := run(redisStore, clock.Advance)
		var inMemory []string
		synctest.Test(t, func(*testing.T) { inMemory = run(ratelimit.NewMemoryStore(), time.Sleep) })
		for i := range calls {
			if inRedis[i] != inMemory[i] {
				rt.Fatalf("call %d, %+v:\nredis  %s\nmemory %s", i, calls[i], inRedis[i], inMemory[i])
			}
		}
	})
}

// A limiter, whatever its store, admits exactly what an exact bucket admits.
func TestStoresAgreeWithModel(t *testing.T) {
	proves(t, "Memory and Redis agree with a bucket in rational numbers on random limits (rapid)", figure("100 limits, 30 takes each"))
	server := redistest.Start(t, redistest.WithClock())
	clock := server.Clock()
	clock.Freeze(time.Unix(1_800_000_000, 0))
	redisStore := openStore(t, server.Addr, patient)
	limit := rapid.Custom(func(t *rapid.T) ratelimit.Limit {
		return ratelimit.Limit{Capacity: rapid.IntRange(1, 1000).Draw(t, "capacity"), Refill: ratelimit.Rate{
			Tokens: rapid.IntRange(1, 1000).Draw(t, "tokens"), Per: time.Duration(rapid.Int64Range(1, int64(time.Hour)).Draw(t, "per")),
		}}
	}).Filter(func(l ratelimit.Limit) bool { return l.Validate() == nil })
	round := 0
	rapid.Check(t, func(rt *rapid.T) {
		l := limit.Draw(rt, "limit")
		round++
		agrees(t, prefixed{redisStore, fmt.Sprint(round)}, l, 30, clock.Advance)
		synctest.Test(t, func(t *testing.T) { agrees(t, ratelimit.NewMemoryStore(), l, 30, time.Sleep) })
	})
}

// prefixed keeps the keys of one round apart from the others'.
type prefixed struct {
	ratelimit.Store
	prefix string
}

func (s prefixed) Take(ctx context.Context, key string, take ratelimit.Take) (ratelimit.Result, error) {
	return s.Store.Take(ctx, s.prefix+key, take)
}
