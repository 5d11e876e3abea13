package script

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/gin-ratelimit/ratelimit/internal/bucket"
	"github.com/gin-ratelimit/ratelimit/internal/redistest"
)

// load has callers take for so long, each of keys of its own in turn, and counts what came of it.
type load struct{ ok, failed atomic.Int64 }

func (l *load) run(runner *Runner, callers int, lasts time.Duration) {
	limits := NewLimits([]bucket.Scale{rate(1_000_000, 1_000_000, time.Second)})
	end := time.Now().Add(lasts)
	var calling sync.WaitGroup
	for caller := range callers {
		calling.Go(func() {
			for i := 0; time.Now().Before(end); i++ {
				if _, err := runner.Change(context.Background(), fmt.Sprint(caller, "-", i%10), limits, one); err != nil {
					l.failed.Add(1)
				} else {
					l.ok.Add(1)
				}
			}
		})
	}
	calling.Wait()
}

func TestExperiment(t *testing.T) {
	server := redistest.Start(t)
	for _, rtt := range []time.Duration{20, 40} {
		for _, callers := range []int{1, 16, 64, 240} {
			link := redistest.NewLink(t, server.Addr, rtt*time.Millisecond)
			client := redis.NewClient(&redis.Options{Addr: link.Addr, ContextTimeoutEnabled: true})
			runner := New(client, Config{Prefix: "p:", Budget: 50 * time.Millisecond})
			var warm, steady load
			warm.run(runner, callers, 2*time.Second)
			opened := link.Opened()
			steady.run(runner, callers, time.Second)
			n := runner.router.(single).node
			t.Logf("rtt %dms %d callers: cold ok %d failed %d, then ok %d failed %d; conns %d +%d; rtt %v ready %d", rtt, callers,
				warm.ok.Load(), warm.failed.Load(), steady.ok.Load(), steady.failed.Load(), opened, link.Opened()-opened, n.roundTrip.value(), n.ready)
			client.Close()
		}
	}
}
