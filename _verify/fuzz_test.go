package verify

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/gin-ratelimit/ratelimit"
	"github.com/gin-ratelimit/ratelimit/internal/redistest"
)

// FuzzReply has a server reply anything to takes. The result is an error or a possible decision, never a panic.
func FuzzReply(f *testing.F) {
	replies := make(chan string, 1)
	addr := redistest.Pretend(f, func(command []string) (string, bool) {
		if strings.HasPrefix(command[0], "eval") {
			return <-replies, false // Closed if the take gave up before its reply was put in, and the test is over.
		}
		return redistest.Handshake(command)
	})
	f.Cleanup(func() { close(replies) })
	limit := ratelimit.Limit{Capacity: 5, Refill: ratelimit.PerSecond(1)}
	f.Fuzz(func(t *testing.T, reply string) {
		client := redis.NewClient(&redis.Options{
			Addr: addr, Protocol: 2, DisableIdentity: true, MaxRetries: -1, PoolSize: 1,
		})
		defer client.Close()
		store, err := ratelimit.NewRedisStore(client, ratelimit.WithTimeout(20*time.Millisecond))
		if err != nil {
			t.Fatal(err)
		}
		replies <- reply
		r, err := store.Take(t.Context(), "key", ratelimit.Take{N: 1, Limits: []ratelimit.Limit{limit}})
		select {
		case <-replies:
		default:
		}
		if reply == "*4\r\n:1900000000000000\r\n:1\r\n:0\r\n:0\r\n" && !r.Allowed {
			t.Errorf("a good reply: %v", err)
		}
		if err == nil && (r.Remaining < 0 || r.Remaining > limit.Capacity || r.Limit != limit || r.RetryAfter < 0 || r.ResetAfter < 0) {
			t.Errorf("reply %q: %+v", reply, r)
		}
	})
}

// FuzzState stores anything under a key. Either it is foreign, and stays as it is; or it has the form of a state, and then a
// take has a possible result.
func FuzzState(f *testing.F) {
	server := redistest.Start(f)
	client := server.Client()
	store, err := ratelimit.NewRedisStore(client, patient, ratelimit.WithDenyCache(0))
	if err != nil {
		f.Fatal(err)
	}
	limits := []ratelimit.Limit{{Capacity: 5, Refill: ratelimit.PerSecond(1)}, {Capacity: 7, Refill: ratelimit.PerMinute(3)}}
	f.Fuzz(func(t *testing.T, state string) {
		ctx := context.Background()
		for n := 1; n <= 2; n++ {
			if err := client.Set(ctx, "ratelimit:key", state, 0).Err(); err != nil {
				t.Fatal(err)
			}
			r, err := store.Take(ctx, "key", ratelimit.Take{N: 1, Limits: limits[:n]})
			switch {
			case errors.Is(err, ratelimit.ErrForeignState):
				if got := client.Get(ctx, "ratelimit:key").Val(); got != state {
					t.Errorf("foreign state %q became %q", state, got)
				}
			case err != nil:
				t.Errorf("state %q: %v", state, err)
			case !strings.HasPrefix(state, "b1 ") || r.Remaining < 0 || r.Remaining > 7 || r.RetryAfter < 0 || r.ResetAfter < 0:
				t.Errorf("state %q: %+v", state, r)
			}
		}
	})
}
