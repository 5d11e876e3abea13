package verify

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/gin-ratelimit/ratelimit/internal/redistest"
)

// On a cluster that is far away, more callers than are needed for the best goodput do not reduce it by much.
func TestN02GoodputOfACluster(t *testing.T) {
	c := try(t, "N2")
	nodes := redistest.Cluster(t, 3)
	const rtt, lasts = 4 * time.Millisecond, 2 * time.Second
	loads := []int{30, 60, 120, 240}
	if testing.Short() {
		loads = []int{60, 240}
	}
	goodput := make([]float64, len(loads))
	text := ""
	for i, callers := range loads {
		links := redistest.NewLinks(t, rtt)
		client := redis.NewClusterClient(&redis.ClusterOptions{Addrs: nodes.Addrs(), Dialer: links.Dial, ContextTimeoutEnabled: true})
		defer client.Close()
		store := storeOn(t, client)
		press(callers, lasts, takeOne(store))
		opened := links.Opened()
		got := press(callers, lasts, takeOne(store))
		goodput[i] = float64(got.ok) / lasts.Seconds()
		text += fmt.Sprintf("; %d callers %.0f/s, %.1f failed a second, %.1f new connections a second", callers, goodput[i],
			float64(got.tried-got.ok)/lasts.Seconds(), float64(links.Opened()-opened)/lasts.Seconds())
		_ = client.Close()
		c.times(1)
	}
	best := slices.Max(goodput)
	c.note("240 callers have %.2f of the best goodput%s", goodput[len(goodput)-1]/best, text)
	if goodput[len(goodput)-1] < 0.8*best {
		t.Errorf("240 callers have %.0f takes/s, the best is %.0f", goodput[len(goodput)-1], best)
	}
}

// Concurrent callers of a Redis that is far away succeed no less often than single ones.
func TestN04CallersThatComeTogether(t *testing.T) {
	c := try(t, "N4")
	server := redistest.Start(t)
	for _, load := range []struct {
		rtt     time.Duration
		callers int
		pool    int // connections, 0 for go-redis' default
	}{
		{rtt: 15 * time.Millisecond, callers: 64, pool: 0},
		{rtt: 20 * time.Millisecond, callers: 64, pool: 0},
		{rtt: 20 * time.Millisecond, callers: 240, pool: 0},
		{rtt: 30 * time.Millisecond, callers: 64, pool: 128},
		{rtt: 40 * time.Millisecond, callers: 64, pool: 0},
	} {
		if testing.Short() && (load.rtt != 20*time.Millisecond || load.callers != 64) {
			continue
		}
		var cold, warm [2]share
		for i := range 2 {
			for _, ready := range []bool{false, true} {
				link := redistest.NewLink(t, server.Addr, load.rtt)
				client := openClient(t, &redis.Options{Addr: link.Addr, ContextTimeoutEnabled: true, PoolSize: load.pool})
				if ready {
					connect(t, client, client.Options().PoolSize)
				}
				take := bare(client)
				if i == 0 {
					take = takeOne(storeOn(t, client))
				} else if err := server.Client().ScriptLoad(t.Context(), bareText).Err(); err != nil {
					t.Fatal(err)
				}
				lasts := time.Second
				if ready {
					lasts = 3 * time.Second
				}
				got := press(load.callers, lasts, take)
				if ready {
					warm[i] = got
				} else {
					cold[i] = got
				}
				c.times(1)
			}
		}
		c.note("RTT %v, %d callers, PoolSize %d, in the first second %v decided, a bare EVALSHA each %v; in 3 s with connections in the pool %v, %v", load.rtt, load.callers, load.pool,
			cold[0], cold[1], warm[0], warm[1])
		for name, got := range map[string][2]share{"cold": cold, "warm": warm} {
			// If the machine holds up a flight, all of its takes are late; of single takes, only some are.
			wave := 100 * float64(load.callers) / float64(max(got[0].tried, 1))
			if got[0].percent() < got[1].percent()-1-wave {
				t.Errorf("RTT %v, %d callers, %s: %v were decided, alone %v", load.rtt, load.callers, name, got[0], got[1])
			}
		}
	}
}

// connect fills the client's pool.
func connect(t *testing.T, client *redis.Client, conns int) {
	t.Helper()
	held := make([]*redis.Conn, conns)
	for i := range held {
		held[i] = client.Conn()
		if err := held[i].Ping(t.Context()).Err(); err != nil {
			t.Fatal(err)
		}
	}
	for _, conn := range held {
		_ = conn.Close()
	}
}
