package lease

import (
	"flag"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/gin-ratelimit/ratelimit/internal/bucket"
)

// The simulation behind docs/scale.md: many processes on one key, in virtual time, with links and loads that do not fit
// one machine. Print its table with
//
//	go test ./internal/lease -run TestScale -v -scale.seed 1 -scale.seconds 10
var (
	scaleSeed    = flag.Uint64("scale.seed", 1, "seed of the simulated loads")
	scaleSeconds = flag.Int("scale.seconds", 0, "how many seconds are simulated; 0 for no simulation")
)

// scenario is some processes and their load on one key.
type scenario struct {
	name      string
	processes int
	rtt       time.Duration
	period    time.Duration
	limit     bucket.Scale
	// load is the takes a second of a process at a time, in parts of the limit's rate.
	load func(process int, at float64) float64

	admitted float64 // at least this part of what one bucket would admit
	held     float64 // at most this part of the capacity on lease
	local    float64 // at least this part of the takes are decided here
	fair     bool    // Jain's index of what processes get is at least 0.99
}

func evenly(processes int, load float64) func(int, float64) float64 {
	return func(int, float64) float64 { return load / float64(processes) }
}

func scenarios() []scenario {
	ends := float64(*scaleSeconds)
	perSecond := func(n, capacity int64) bucket.Scale { return rate(capacity, n, time.Second) }
	return []scenario{
		{
			name: "half of the rate", processes: 50, rtt: 500 * time.Microsecond, period: ten, limit: perSecond(40_000, 40_000),
			load: evenly(50, 0.5), admitted: 0.999, held: 0.05, local: 0.8, fair: true,
		},
		{
			name: "twice the rate", processes: 50, rtt: 500 * time.Microsecond, period: ten, limit: perSecond(20_000, 20_000),
			load: evenly(50, 2), admitted: 0.99, held: 0.05, local: 0.9, fair: true,
		},
		{
			name: "twelve times the rate, a large bucket", processes: 50, rtt: 500 * time.Microsecond, period: ten, limit: perSecond(5_000, 50_000),
			load: evenly(50, 12), admitted: 0.99, held: 0.02, local: 0.9, fair: true,
		},
		{
			name: "twice the rate, by Zipf", processes: 50, rtt: 500 * time.Microsecond, period: ten, limit: perSecond(20_000, 20_000),
			load: func(process int, _ float64) float64 { return 2 / (float64(process+1) * 4.5) }, admitted: 0.99, held: 0.05,
		},
		{
			name: "twice the rate, from one half of them to the other each second", processes: 20, rtt: 500 * time.Microsecond, period: ten,
			limit: perSecond(20_000, 20_000), admitted: 0.99, held: 0.05,
			load: func(process int, at float64) float64 {
				if int(at)%2 == process%2 {
					return 0.2
				}
				return 0
			},
		},
		{
			name: "calm, then 30 times as much", processes: 20, rtt: 500 * time.Microsecond, period: ten, limit: perSecond(20_000, 7_000),
			admitted: 0.98, held: 0.1,
			load: func(_ int, at float64) float64 {
				if at < ends/2 {
					return 0.2 / 20
				}
				return 6.0 / 20
			},
		},
		{
			name: "another region", processes: 5, rtt: 80 * time.Millisecond, period: 500 * time.Millisecond, limit: perSecond(2000, 120_000),
			load: evenly(5, 0.9), admitted: 0.999, held: 0.02, local: 0.9, fair: true,
		},
	}
}

func TestScale(t *testing.T) {
	if *scaleSeconds == 0 {
		t.Skip("-scale.seconds 10 simulates for a minute; _verify does so")
	}
	table := []string{"| load | processes | RTT | period | limit | admitted ÷ one bucket | by syncing each 10 ms | too many at worst, of the burst | decided here | calls/s a process | on lease, most | wait p99 | Jain |",
		"|---|---:|---:|---:|---|---:|---:|---:|---:|---:|---:|---:|---:|"}
	for i, s := range scenarios() {
		t.Run(s.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				table = append(table, s.run(t, rand.New(rand.NewPCG(*scaleSeed, uint64(i)))))
			})
		})
	}
	t.Log("\n" + strings.Join(table, "\n"))
}

func (s *scenario) run(t *testing.T, r *rand.Rand) string {
	b := newBank(t, s.limit)
	books := make([]*Book[bucket.Scale], s.processes)
	for i := range books {
		books[i] = b.book(s.period, link{there: s.rtt / 2, back: s.rtt / 2})
	}
	perSecond := float64(s.limit.PerTick) / float64(s.limit.Token) * 1e6
	var mu sync.Mutex
	var arrivals []time.Duration
	var waits []time.Duration
	got, asked, local := make([]float64, s.processes), 0, 0
	lasts := time.Duration(*scaleSeconds) * time.Second
	var all sync.WaitGroup
	for p, book := range books {
		random := rand.New(rand.NewPCG(r.Uint64(), r.Uint64()))
		all.Go(func() {
			for {
				at := time.Since(b.began)
				if at >= lasts {
					return
				}
				rate := s.load(p, at.Seconds()) * perSecond
				if rate == 0 {
					time.Sleep(10 * time.Millisecond)
					continue
				}
				time.Sleep(time.Duration(random.ExpFloat64() / rate * float64(time.Second)))
				arrived := time.Since(b.began)
				mu.Lock()
				arrivals = append(arrivals, arrived)
				mu.Unlock()
				all.Go(func() {
					allowed, a, _, err := b.taker(book, 1)
					if err != nil {
						t.Error(err)
					}
					mu.Lock()
					defer mu.Unlock()
					if arrived >= time.Second { // Until then keys become hot.
						asked++
						waits = append(waits, time.Since(b.began)-arrived)
						if len(a.Scales) > 0 && !a.Asked {
							local++
						}
					}
					if allowed {
						got[p]++
					}
				})
			}
		})
	}
	held := int64(0)
	for range lasts / (5 * time.Millisecond) {
		time.Sleep(5 * time.Millisecond)
		now := int64(0)
		for _, book := range books {
			now += b.held(book)
		}
		held = max(held, now)
	}
	all.Wait()
	time.Sleep(2 * time.Second)

	b.disjoint()
	require.LessOrEqual(t, b.windows()[0], int64(0))
	slices.Sort(arrivals)
	slices.Sort(waits)
	admitted, sum, squares := 0.0, 0.0, 0.0
	for _, n := range got {
		admitted, sum, squares = admitted+n, sum+n, squares+n*n
	}
	exact := s.oneBucket(arrivals)
	share, jain := admitted/exact, sum*sum/(float64(s.processes)*squares)
	onLease, here := float64(held)/float64(s.limit.Capacity), float64(local)/float64(asked)
	calls := float64(b.called()) / lasts.Seconds() / float64(s.processes)
	// Waits move takes in time, so of the same arrivals one bucket may refuse other takes.
	require.LessOrEqual(t, share, 1.0005)
	require.GreaterOrEqual(t, share, s.admitted)
	require.LessOrEqual(t, onLease, s.held)
	require.GreaterOrEqual(t, here, s.local)
	require.LessOrEqual(t, calls, 300.0)
	if s.fair {
		require.GreaterOrEqual(t, jain, 0.99, "%v", got)
	}
	synced, excess := s.bySyncing(arrivals, r)
	return fmt.Sprintf("| %s | %d | %v | %v | %.0f/s burst %d | %.4f | %.3f | %.1f %% | %.3f | %.0f | %.1f %% | %v | %.3f |",
		s.name, s.processes, s.rtt, s.period, perSecond, s.limit.Capacity, share, synced/exact, 100*excess, here, calls,
		100*onLease, waits[len(waits)*99/100].Round(10*time.Microsecond), jain)
}

// oneBucket is how many of the arrivals a single bucket admits.
func (s *scenario) oneBucket(arrivals []time.Duration) (admitted float64) {
	deficit, last := int64(0), int64(0)
	for _, at := range arrivals {
		tick := int64(at / time.Microsecond)
		deficit, last = s.limit.Refill(deficit, tick-last), tick
		if deficit+s.limit.Token <= s.limit.Size() {
			deficit += s.limit.Token
			admitted++
		}
	}
	return admitted
}

// bySyncing is how many of the arrivals are admitted if each process decides by a copy of the bucket, and every 10 ms adds
// its takes to the shared count and reads those of the others. That is the usual way where leases are not exact. The excess
// is how much is admitted in some window beyond the capacity and what refills in it, at the worst, in parts of the capacity.
func (s *scenario) bySyncing(arrivals []time.Duration, r *rand.Rand) (admitted, excess float64) {
	type copied struct{ deficit, last, own, next int64 }
	shared, sharedLast := int64(0), int64(0)
	exact, exactLast, worst := int64(0), int64(0), int64(0) // a bucket that is charged for everything that is admitted
	copies := make([]copied, s.processes)
	const each = int64(ten / time.Microsecond)
	for i := range copies {
		copies[i].next = r.Int64N(each)
	}
	weights := make([]float64, s.processes)
	for _, at := range arrivals {
		tick, total := int64(at/time.Microsecond), 0.0
		for i := range copies {
			c := &copies[i]
			for c.next <= tick {
				shared, sharedLast = s.limit.Refill(shared, c.next-sharedLast), c.next
				shared += c.own
				c.deficit, c.last, c.own, c.next = shared, c.next, 0, c.next+each
			}
			weights[i] = s.load(i, at.Seconds())
			total += weights[i]
		}
		chosen, at := 0, r.Float64()*total
		for at > weights[chosen] && chosen < s.processes-1 {
			at -= weights[chosen]
			chosen++
		}
		c := &copies[chosen]
		c.deficit, c.last = s.limit.Refill(c.deficit, tick-c.last), tick
		if c.deficit+s.limit.Token <= s.limit.Size() {
			c.deficit += s.limit.Token
			c.own += s.limit.Token
			admitted++
			exact, exactLast = s.limit.Refill(exact, tick-exactLast)+s.limit.Token, tick
			worst = max(worst, exact)
		}
	}
	return admitted, float64(max(0, worst-s.limit.Size())) / float64(s.limit.Size())
}
