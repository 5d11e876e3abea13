package script

import (
	"context"
	"fmt"
	"net"
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

// setupCounter counts the commands that set connections up.
type setupCounter struct{ atomic.Int64 }

func (*setupCounter) DialHook(next redis.DialHook) redis.DialHook { return next }

func (s *setupCounter) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error {
		if cmd.Name() == "time" {
			s.Add(1)
		}
		return next(ctx, cmd)
	}
}

func (*setupCounter) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return next
}

// Connections that are in the pool already need not be set up.
func TestConnectionsOfOthersAreUsed(t *testing.T) {
	server := redistest.Start(t)
	for _, conns := range []int{0, 8} {
		client := server.Client()
		setups := &setupCounter{}
		client.AddHook(setups)
		held := make([]*redis.Conn, conns)
		for i := range held {
			held[i] = client.Conn()
			require.NoError(t, held[i].Ping(t.Context()).Err())
		}
		for _, conn := range held {
			require.NoError(t, conn.Close())
		}
		_, err := New(client, patient).Change(t.Context(), "key", perDay(1, 1), one)
		require.NoError(t, err)
		require.Equal(t, conns == 0, setups.Load() > 0, "%d connections in the pool, %d set up", conns, setups.Load())
	}
}

// Connections that died in the pool do not hold up the one that is set up after them.
func TestDeadConnectionsInThePool(t *testing.T) {
	server := redistest.Start(t)
	link := redistest.NewLink(t, server.Addr, 0)
	const conns = 20
	client := redis.NewClient(&redis.Options{
		Addr: link.Addr, PoolSize: conns, ContextTimeoutEnabled: true,
		Dialer: func(ctx context.Context, network, addr string) (net.Conn, error) {
			conn, err := (&net.Dialer{}).DialContext(ctx, network, addr)
			return struct{ net.Conn }{conn}, err // As with TLS, go-redis cannot see whether it is alive.
		},
	})
	defer client.Close()
	held := make([]*redis.Conn, conns)
	for i := range held {
		held[i] = client.Conn()
		require.NoError(t, held[i].Ping(t.Context()).Err())
	}
	for _, conn := range held {
		require.NoError(t, conn.Close())
	}
	link.Cut()
	runner := New(client, patient)
	_, _ = runner.Change(t.Context(), "key", perDay(1, 1), one) // It may fail on a dead connection.
	_, err := runner.Change(t.Context(), "key", perDay(1, 1), one)
	require.NoError(t, err)
	runner.router.(single).node.mu.Lock()
	defer runner.router.(single).node.mu.Unlock()
	require.Zero(t, runner.router.(single).node.setups.failed)
}

// Takes that are redirected to a node that none has gone to so far all get there, even if there are more of them than the
// client redirects at a time.
func TestRedirectedTakesTakeTurns(t *testing.T) {
	nodes := redistest.Cluster(t, 3)
	runner := New(nodes.Client(), patient)
	const callers = 4 * maxFollowing
	limits := perDay(callers+1, 1)
	_, err := runner.Change(t.Context(), "key", limits, one)
	require.NoError(t, err)
	to := nodes.Nodes()[0]
	if key := runner.Key("key"); nodes.MasterOf(key) == to {
		to = nodes.Nodes()[1]
	}
	moved := nodes.BeginMigration(runner.Key("key"), to)
	moved.MoveKeys()
	var failed atomic.Int64
	var takes sync.WaitGroup
	for range callers {
		takes.Go(func() {
			if o, err := runner.Change(context.Background(), "key", limits, one); err != nil || !o.Allowed {
				failed.Add(1)
			}
		})
	}
	takes.Wait()
	moved.Finish()
	require.Zero(t, failed.Load())
	require.Zero(t, remaining(t, runner, "key", limits), "each take is charged once")
}

// While a slot moves, some of its keys are on one node and some on the other, and a run for keys of both is refused.
func TestMergedTakesOfAMovingSlot(t *testing.T) {
	nodes := redistest.Cluster(t, 3)
	runner := New(nodes.Client(), Config{Prefix: "{slot}:", Budget: patient.Budget})
	limits := perDay(10, 1)
	const keys, rounds = 64, 20
	for k := range keys { // Keys of even numbers exist before the slot moves.
		_, err := runner.Change(t.Context(), fmt.Sprint(2*k), limits, one)
		require.NoError(t, err)
	}
	to := nodes.Nodes()[0]
	if nodes.MasterOf("{slot}:") == to {
		to = nodes.Nodes()[1]
	}
	moved := nodes.BeginMigration("{slot}:", to)
	for range rounds {
		var failed atomic.Int64
		var takes sync.WaitGroup
		for k := range 2 * keys {
			takes.Go(func() {
				if _, err := runner.Change(context.Background(), fmt.Sprint(k), limits, &bucket.Change{}); err != nil {
					failed.Add(1)
					t.Log(err)
				}
			})
		}
		takes.Wait()
		require.Zero(t, failed.Load())
	}
	moved.MoveKeys()
	moved.Finish()
}

// The error about a server that closes new connections names the cause.
func TestHangingUpOnHello(t *testing.T) {
	addr := redistest.Pretend(t, func(command []string) (string, bool) { return "", !strings.EqualFold(command[0], "hello") })
	client := redis.NewClient(&redis.Options{Addr: addr, ContextTimeoutEnabled: true})
	defer client.Close()
	_, err := New(client, patient).Change(t.Context(), "key", perDay(1, 1), one)
	require.ErrorContains(t, err, "HELLO")
}

// The estimate of what a take costs Redis is never less than its number of limits.
func TestWorkOfATake(t *testing.T) {
	var scales []bucket.Scale
	for n := 1; n <= 32; n++ {
		scales = append(scales, rate(100, int64(n), time.Second))
		l := NewLimits(scales)
		for name, args := range map[string][]any{
			"a token":    l.args(one),
			"two":        l.args(&bucket.Change{N: 2}),
			"given back": l.args(&bucket.Change{N: 1, Back: &bucket.Back{Deficits: make([]int64, n)}}),
		} {
			work := (&take{args: args}).work()
			require.GreaterOrEqual(t, work, n, "%s, %d limits", name, n)
			require.LessOrEqual(t, work, n+1, "%s, %d limits", name, n)
		}
	}
}

// The less time a round trip leaves of the budget, the less a take waits for its flight.
func TestFlightsLeaveCloserWhereTimeIsShort(t *testing.T) {
	for _, c := range []struct {
		rtt           time.Duration
		conns, atOnce int
		apart         time.Duration
	}{
		{rtt: 20 * time.Millisecond, conns: 100, atOnce: 16, apart: 1250 * time.Microsecond},
		{rtt: 30 * time.Millisecond, conns: 100, atOnce: 16, apart: 1875 * time.Microsecond},
		{rtt: 40 * time.Millisecond, conns: 100, atOnce: 32, apart: 1250 * time.Microsecond},
		{rtt: 40 * time.Millisecond, conns: 20, atOnce: 20, apart: 2 * time.Millisecond},
		{rtt: 60 * time.Millisecond, conns: 100, atOnce: 16, apart: 3750 * time.Microsecond},
	} {
		t.Run(fmt.Sprint(c.rtt, ", ", c.conns, " connections"), func(t *testing.T) {
			n := &node{config: Config{Budget: 50 * time.Millisecond}, conns: c.conns, ready: c.conns}
			n.roundTrip.add(time.Now(), c.rtt)
			atOnce, apart := n.schedule()
			require.Equal(t, c.atOnce, atOnce)
			require.Equal(t, c.apart, apart)
		})
	}
}
