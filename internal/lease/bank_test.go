package lease

import (
	"cmp"
	"errors"
	"flag"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/gin-ratelimit/ratelimit/internal/bucket"
)

// bank is the shared buckets of one key, on the clock of a bubble. It audits all that is spent from them.
type bank struct {
	t      testing.TB
	scales []bucket.Scale
	began  time.Time

	mu      sync.Mutex
	state   bucket.State
	spent   []spent // in the order of the decisions
	granted []piece
	calls   int
}

// piece is a piece of a limit's tape, in units after tick 0 of the bank.
type piece struct {
	limit    int
	from, to int64
}

// spent is tokens that a take was allowed, and when. Give-backs are negative.
type spent struct {
	tick   int64
	n      int64
	pieces []piece
}

var errLost = errors.New("lost")

func newBank(t testing.TB, scales ...bucket.Scale) *bank {
	return &bank{t: t, scales: scales, began: time.Now()}
}

func (b *bank) tick() int64 { return int64(time.Since(b.began) / time.Microsecond) }

// link is a network between a book and the bank.
type link struct {
	there, back time.Duration
	lose        func() (request, reply bool)
}

// book returns a book on the bank, as another process has it.
func (b *bank) book(period time.Duration, l link) *Book[bucket.Scale] {
	book := New(Config[bucket.Scale]{
		Period: period,
		Budget: time.Second,
		Scales: func(s []bucket.Scale) ([]bucket.Scale, error) { return s, nil },
		Lend: func(_ string, scales []bucket.Scale, asks []bucket.Ask) (bucket.Outcome, []int64, error) {
			request, reply := false, false
			if l.lose != nil {
				request, reply = l.lose()
			}
			time.Sleep(l.there)
			if request {
				return bucket.Outcome{}, nil, errLost
			}
			o, grants := b.lend(asks, scales)
			time.Sleep(l.back)
			if reply {
				return bucket.Outcome{}, nil, errLost
			}
			return o, grants, nil
		},
	})
	book.audit = b.audit
	return book
}

// called returns how many calls for leases there were.
func (b *bank) called() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.calls
}

func (b *bank) lend(asks []bucket.Ask, scales []bucket.Scale) (bucket.Outcome, []int64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.calls++
	o, grants := b.state.Lend(b.tick(), asks, scales)
	for i, n := range grants {
		end := scales[i].RefillIn(o.At) + o.Deficits[i]
		b.granted = append(b.granted, piece{i, end - n*scales[i].Token, end})
	}
	return o, grants
}

// take takes from the bank, without a lease.
func (b *bank) take(n int64) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	o, _ := b.state.Apply(b.tick(), &bucket.Change{N: n}, b.scales)
	if o.Allowed {
		var pieces []piece
		for i := range b.scales {
			end := b.scales[i].RefillIn(o.At) + o.Deficits[i]
			pieces = append(pieces, piece{i, end - n*b.scales[i].Token, end})
		}
		b.spent = append(b.spent, spent{tick: o.At, n: n, pieces: pieces})
	}
	return o.Allowed
}

// audit checks each piece when a book spends it: the bucket must have granted it, and must not have refilled over it.
func (b *bank) audit(limit int, at, from, to int64, asked bool) {
	s := &b.scales[limit]
	moment := b.tick()
	if asked {
		moment = at // The bank has decided at that time.
	}
	from, to = from+s.RefillIn(at), to+s.RefillIn(at)
	b.mu.Lock()
	defer b.mu.Unlock()
	granted := slices.ContainsFunc(b.granted, func(p piece) bool { return p.limit == limit && p.from <= from && to <= p.to })
	assert.GreaterOrEqual(b.t, from, s.RefillIn(moment), "at %d: units %d to %d of limit %d are void since %d", moment, from, to, limit, from/s.PerTick)
	assert.LessOrEqual(b.t, to, s.RefillIn(moment)+s.Size(), "at %d: units %d to %d of limit %d are not there yet", moment, from, to, limit)
	assert.True(b.t, granted, "at %d: units %d to %d of limit %d were never granted", moment, from, to, limit)
	b.spent = append(b.spent, spent{tick: moment, pieces: []piece{{limit, from, to}}})
}

// disjoint checks that no unit was spent twice.
func (b *bank) disjoint() {
	b.mu.Lock()
	defer b.mu.Unlock()
	for limit := range b.scales {
		var pieces []piece
		for _, s := range b.spent {
			for _, p := range s.pieces {
				if p.limit == limit {
					pieces = append(pieces, p)
				}
			}
		}
		slices.SortFunc(pieces, func(p, q piece) int { return cmp.Compare(p.from, q.from) })
		for i := 1; i < len(pieces); i++ {
			if !assert.GreaterOrEqual(b.t, pieces[i].from, pieces[i-1].to, "limit %d: units %v and %v overlap", limit, pieces[i-1], pieces[i]) {
				return
			}
		}
	}
}

// windows returns how many units the worst window of each limit is above C + r·t.
func (b *bank) windows() []int64 {
	b.mu.Lock()
	sorted := slices.Clone(b.spent)
	b.mu.Unlock()
	slices.SortStableFunc(sorted, func(p, q spent) int { return cmp.Compare(p.tick, q.tick) })
	worst := make([]int64, len(b.scales))
	for i := range b.scales {
		s := &b.scales[i]
		deficit, last := int64(0), int64(0)
		for _, spent := range sorted {
			deficit, last = s.Refill(deficit, spent.tick-last), spent.tick
			for _, p := range spent.pieces {
				if p.limit == i {
					deficit += p.to - p.from
				}
			}
			worst[i] = max(worst[i], deficit-s.Size())
		}
	}
	return worst
}

func rate(capacity, tokens int64, per time.Duration) bucket.Scale {
	s, maxCapacity := bucket.NewScale(capacity, tokens, int64(per))
	if capacity > maxCapacity {
		panic("not a limit")
	}
	return s
}

// taker takes from a book, or, if that has no lease, from the bank.
func (b *bank) taker(book *Book[bucket.Scale], n int64) (allowed bool, a Answer, places []int64, err error) {
	deficits, places := make([]int64, len(b.scales)), make([]int64, len(b.scales))
	if s, at, place, _ := book.Spend("key", b.scales, n); s != nil {
		return true, Answer{Allowed: true, At: at, Scales: b.scales}, []int64{place}, nil
	}
	a, ok, err := book.Take("key", b.scales, n, deficits, places)
	if !ok {
		return b.take(n), a, nil, nil
	}
	return a.Allowed, a, places, err
}

// histories is how many random histories are tried; _verify runs more.
var histories = flag.Int("histories", 60, "how many random histories of leases are tried")

// Whatever processes that lease from one bucket do, each unit is spent at most once, by one of them, and only while it is
// valid: over links that delay and lose, with crashes, and with takes of any size.
func TestHistories(t *testing.T) {
	calls := 0
	for seed := range *histories {
		synctest.Test(t, func(t *testing.T) {
			defer func() {
				if t.Failed() {
					t.Logf("seed %d", seed)
				}
			}()
			calls += randomHistory(t, rand.New(rand.NewPCG(uint64(seed), 1)))
		})
		require.False(t, t.Failed())
	}
	t.Logf("%d histories with %d calls for leases", *histories, calls)
	require.Greater(t, calls, 20**histories)
}

func randomHistory(t *testing.T, r *rand.Rand) (leased int) {
	period := []time.Duration{time.Millisecond, 5 * time.Millisecond, 10 * time.Millisecond, 50 * time.Millisecond}[r.IntN(4)]
	scales := make([]bucket.Scale, 1+r.IntN(2)*r.IntN(3))
	for i := range scales {
		full := time.Duration(Shortest+r.IntN(1+1<<r.IntN(9))) * period * 21 / 20
		capacity := int64(1 + r.IntN(1<<(1+r.IntN(12))))
		scales[i] = rate(capacity, capacity, full.Round(time.Microsecond))
	}
	b := newBank(t, scales...)
	ends := b.began.Add(time.Duration(1+r.IntN(3)) * 700 * time.Millisecond)
	var all sync.WaitGroup
	for range 1 + r.IntN(5) {
		rtt := time.Duration(r.IntN(1<<(4+r.IntN(14)))) * time.Microsecond
		there := time.Duration(r.Int64N(int64(rtt) + 1))
		loses, random := r.IntN(3) == 0, rand.New(rand.NewPCG(r.Uint64(), 2))
		var mu sync.Mutex
		l := link{there: there, back: rtt - there, lose: func() (request, reply bool) {
			mu.Lock()
			defer mu.Unlock()
			return loses && random.IntN(10) == 0, loses && random.IntN(10) == 0
		}}
		book, crashes := b.book(period, l), r.IntN(4) == 0
		maxTake := int64(1 + r.IntN(3)*r.IntN(4))
		for range 1 + r.IntN(4) {
			pause, busy := time.Duration(1+r.IntN(4000))*time.Microsecond, rand.New(rand.NewPCG(r.Uint64(), 3))
			all.Go(func() {
				book := book
				for time.Now().Before(ends) {
					switch busy.IntN(400) {
					case 0:
						time.Sleep(time.Duration(busy.IntN(400)) * time.Millisecond) // calm
					case 1:
						if crashes {
							book = b.book(period, l)
						}
					default:
						time.Sleep(time.Duration(busy.Int64N(int64(pause))))
					}
					b.taker(book, 1+busy.Int64N(maxTake))
				}
			})
		}
	}
	all.Wait()
	time.Sleep(2 * time.Second) // until the calls that are under way have ended
	b.disjoint()
	for i, over := range b.windows() {
		require.LessOrEqual(t, over, int64(0), "limit %d: %+v", i, scales[i])
	}
	return b.called()
}
