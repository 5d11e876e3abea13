package script

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/gin-ratelimit/ratelimit/internal/bucket"
	"github.com/gin-ratelimit/ratelimit/internal/redistest"
)

// load has callers take for a time, each from keys of its own in turn, and counts the results.
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

// Over a link, connections are set up beside the takes, so that takes succeed. A take that had to set one up itself would
// take longer than the default budget.
func TestTakesOverALink(t *testing.T) {
	server := redistest.Start(t)
	for _, rtt := range []time.Duration{5 * time.Millisecond, 17 * time.Millisecond, 20 * time.Millisecond} {
		for _, callers := range []int{1, 64} {
			for _, db := range []int{0, 3} {
				t.Run(fmt.Sprintf("%v, %d callers, database %d", rtt, callers, db), func(t *testing.T) {
					t.Parallel()
					link := redistest.NewLink(t, server.Addr, rtt)
					client := redis.NewClient(&redis.Options{Addr: link.Addr, DB: db, ContextTimeoutEnabled: true})
					defer client.Close()
					runner := New(client, Config{Prefix: "p:", Budget: 50 * time.Millisecond})
					var cold load
					cold.run(runner, callers, 2*time.Second)
					// While other tests have the machine, more takes are late than the link alone would delay, so there are
					// several tries. Without set-ups beside the takes, all of them would fail in each.
					steady := func() bool {
						var l load
						opened := link.Opened()
						l.run(runner, callers, time.Second)
						ok, failed := l.ok.Load(), l.failed.Load()
						t.Logf("cold %d, of which %d failed; then %d, of which %d failed, %d connections and %d more",
							cold.ok.Load()+cold.failed.Load(), cold.failed.Load(), ok+failed, failed, opened, link.Opened()-opened)
						return ok > 0 && failed <= ok/5
					}
					tries := 5
					for tries > 0 && !steady() {
						tries--
					}
					require.Positive(t, tries)
				})
			}
		}
	}
}
