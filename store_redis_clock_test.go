package ratelimit_test

import (
	"math"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/gin-ratelimit/ratelimit"
)

// At a failover, the clocks of two masters differ a little. RetryAfter includes that time.
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
			// Neither a microsecond more nor less than RetryAfter.
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

// If a clock goes back by more than a second, waiting for it would starve keys.
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
	for range 50 { // to and fro, never later than at first
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

// A debt is bounded to the unit: beyond 2^53 - 1, Redis' numbers are not all integers.
func TestRedisDebtIsBounded(t *testing.T) {
	if strconv.IntSize == 32 {
		t.Skip("an int of 32 bits holds no such debt")
	}
	server, _ := frozenRedis(t)
	client := server.Client()
	store := redisStore(t, client)
	unit := []ratelimit.Limit{ratelimit.PerSecond(1_000_000).Burst(10)} // A token is one unit.
	for _, n := range []int{math.MinInt, -1} {
		_, err := store.Adjust(t.Context(), "debtor", ratelimit.Adjustment{N: n, Limits: unit})
		require.NoError(t, err)
		state := strings.Fields(client.Get(t.Context(), "ratelimit:debtor").Val())
		require.Equal(t, "9007199254740991", state[len(state)-1], "after a debt of %d", n)
	}
}
