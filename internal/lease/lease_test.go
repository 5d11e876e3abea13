package lease

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/gin-ratelimit/ratelimit/internal/bucket"
)

const ten = 10 * time.Millisecond

// heat makes the key of a bank hot in a book, by so many takes a second for so long, and returns how many were allowed.
func (b *bank) heat(book *Book[bucket.Scale], perSecond int, lasts time.Duration) (allowed int) {
	for end := time.Now().Add(lasts); time.Now().Before(end); time.Sleep(time.Second / time.Duration(perSecond)) {
		if ok, _, _, err := b.taker(book, 1); err == nil && ok {
			allowed++
		}
	}
	return allowed
}

func (b *bank) held(book *Book[bucket.Scale]) int64 {
	held := make([]int64, len(b.scales))
	book.Held("key", b.scales, held)
	return held[0] / b.scales[0].Token
}

// A key is leased from 200 takes a second on, and calls then follow the period and not the takes.
func TestHotKeysAreLeased(t *testing.T) {
	for _, c := range []struct {
		name      string
		perSecond int
		leased    bool
	}{
		{name: "cold", perSecond: 150},
		{name: "warm", perSecond: 250, leased: true},
		{name: "hot", perSecond: 5_000, leased: true},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := newBank(t, rate(100_000, 100_000, time.Second))
				book := b.book(ten, link{there: time.Millisecond, back: time.Millisecond})
				b.heat(book, c.perSecond, 2*time.Second)
				before := b.called()
				allowed := b.heat(book, c.perSecond, 5*time.Second)
				time.Sleep(time.Second)
				calls := b.called() - before
				if !c.leased {
					require.Zero(t, calls)
					return
				}
				require.InDelta(t, 5*c.perSecond, allowed, float64(c.perSecond)/20)
				require.NotZero(t, calls)
				require.Less(t, calls, 5*300)
				stats := book.Stats()
				require.Equal(t, stats.Leased, stats.Spent+stats.Void+b.held(book), "%+v", stats)
			})
		})
	}
}

// A lease serves only the limits that it was made for, takes up to the capacity, and buckets that refill slowly enough.
func TestNotLeased(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		big, small := rate(1000, 1000, time.Second), rate(31, 31*100, time.Second)
		b := newBank(t, big)
		book := b.book(ten, link{})
		b.heat(book, 1000, time.Second)
		require.NotZero(t, b.called())
		deficits, places := make([]int64, 1), make([]int64, 1)
		for name, take := range map[string]struct {
			scales []bucket.Scale
			n      int64
		}{
			"more than the capacity": {scales: b.scales, n: 1001},
			"another limit":          {scales: []bucket.Scale{rate(1000, 999, time.Second)}, n: 1},
		} {
			_, ok, err := book.Take("key", take.scales, take.n, deficits, places)
			require.NoError(t, err)
			require.False(t, ok, name)
		}

		b = newBank(t, small)
		book = b.book(ten, link{})
		b.heat(book, 1000, time.Second)
		require.Zero(t, b.called(), "a bucket that is full after 10 ms")
	})
}

// The limits of a key change: the lease by the old ones ends, and the key is leased by the new ones.
func TestLimitsChange(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBank(t, rate(1000, 1000, time.Second))
		book := b.book(ten, link{})
		b.heat(book, 500, time.Second)
		before := b.called()
		b.scales = []bucket.Scale{rate(2000, 2000, time.Second)}
		b.heat(book, 500, 3*time.Second)
		require.Greater(t, b.called(), before+50)
		time.Sleep(time.Second)
	})
}

// Takes that wait while a block is fetched are counted into it: one call is enough for all of them.
func TestWaitersShareACall(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBank(t, rate(1_000_000, 1000, time.Second))
		book := b.book(ten, link{there: 40 * time.Millisecond, back: 40 * time.Millisecond})
		b.heat(book, 300, 1500*time.Millisecond)
		time.Sleep(1100 * time.Millisecond) // Until what was on lease is too old.
		b.heat(book, 1000, 250*time.Millisecond)
		time.Sleep(1100 * time.Millisecond)

		before, allowed := b.called(), 0
		var mu sync.Mutex
		var all sync.WaitGroup
		take := func() {
			ok, _, _, err := b.taker(book, 1)
			mu.Lock()
			defer mu.Unlock()
			if err == nil && ok {
				allowed++
			}
		}
		all.Go(take)
		time.Sleep(time.Millisecond) // The call for the first is under way.
		for range 500 {
			all.Go(take)
		}
		all.Wait()
		require.Equal(t, 501, allowed)
		require.LessOrEqual(t, b.called()-before, 3)
		time.Sleep(time.Second)
	})
}

// What the bucket has decided for the takes that waited is final, even if it has refilled over their tokens meanwhile.
func TestWaitersAreDecidedByTheBucket(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBank(t, rate(100_000, 100_000, time.Second))
		book := b.book(ten, link{there: 100 * time.Millisecond, back: 100 * time.Millisecond})
		b.heat(book, 400, 3*time.Second)
		time.Sleep(1100 * time.Millisecond)
		b.heat(book, 400, 700*time.Millisecond) // So that it stays hot.
		before := b.called()
		ok, a, _, err := b.taker(book, 1000)
		require.NoError(t, err)
		require.True(t, ok && a.Asked)
		require.LessOrEqual(t, b.called()-before, 2)
		time.Sleep(time.Second)
	})
}

// After a Reset, nothing that was withdrawn before may be spent, because the bucket will grant it again. That includes what
// a call under way brings, except for the takes that wait for it.
func TestForget(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBank(t, rate(20_000, 1000, time.Second))
		book := b.book(500*time.Millisecond, link{there: 5 * time.Millisecond, back: 50 * time.Millisecond})
		b.heat(book, 2000, 2*time.Second)
		require.NotZero(t, b.held(book))
		book.Forget("key")
		require.Zero(t, b.held(book))

		var waited sync.WaitGroup
		waited.Go(func() {
			ok, a, _, err := b.taker(book, 1)
			require.NoError(t, err)
			require.True(t, ok && a.Asked)
		})
		time.Sleep(20 * time.Millisecond) // The tokens are withdrawn, and on their way here.
		book.Forget("key")
		waited.Wait()
		synctest.Wait()
		require.Zero(t, b.held(book))
		time.Sleep(time.Second)
	})
}

// Tokens of a take go back to their lease, as far as they are not void, and no further than where the lease begins.
func TestGiveBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBank(t, rate(100_000, 100_000, time.Minute)) // 1.67 a millisecond
		book := b.book(ten, link{})
		for range 2000 { // Empties the bucket in part, so that what is leased lives long.
			require.True(t, b.take(10))
		}
		b.heat(book, 2000, time.Second)
		var a Answer
		var places []int64
		e, _ := book.lock("key")
		for { // Until a take is of one segment.
			segments := e.tapes[0].segments[:e.tapes[0].count]
			e.unlock()
			var ok bool
			var err error
			ok, a, places, err = b.taker(book, 3)
			require.NoError(t, err)
			require.True(t, ok)
			e.lock(0)
			if slices.ContainsFunc(segments, func(g segment) bool { return g.at == a.At && places[0]-3*b.scales[0].Token >= g.start }) {
				break
			}
		}
		e.unlock()
		held, deficits := b.held(book), make([]int64, 1)

		require.True(t, book.GiveBack("key", b.scales, 3, a.At, places, deficits))
		require.Equal(t, held+3, b.held(book))

		e.lock(0)
		g := e.tapes[0].segments[0]
		e.unlock()
		require.False(t, book.GiveBack("key", b.scales, 3, g.at, []int64{g.start + 2*b.scales[0].Token}, deficits), "beyond the start")
		require.Equal(t, held+3, b.held(book))
		require.False(t, book.GiveBack("key", b.scales, 3, a.At+10_000_000, places, deficits), "of another lease")

		time.Sleep(1001 * time.Millisecond)
		require.False(t, book.GiveBack("key", b.scales, 3, a.At, places, deficits), "too old to be on lease")
	})
}

// What time has passed over is worth nothing when it is given back.
func TestGiveBackVoid(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBank(t, rate(10_000, 10_000, time.Second))
		book := b.book(ten, link{})
		b.heat(book, 2000, time.Second)
		ok, a, places, err := b.taker(book, 2)
		require.NoError(t, err)
		require.True(t, ok)
		time.Sleep(15 * time.Millisecond)
		deficits := make([]int64, 1)
		before := b.held(book)
		book.GiveBack("key", b.scales, 2, a.At, places, deficits)
		require.Equal(t, before, b.held(book))
		time.Sleep(time.Second)
	})
}

// A call that fails leaves nothing to spend, fails the takes that wait for it, and no others.
func TestLostCalls(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBank(t, rate(100_000, 100_000, time.Second))
		lost := false
		book := b.book(ten, link{there: time.Millisecond, lose: func() (request, reply bool) { return false, lost }})
		b.heat(book, 1000, 2*time.Second)
		lost = true
		failed := 0
		for range 2000 {
			if _, _, _, err := b.taker(book, 1); err != nil {
				require.ErrorIs(t, err, errLost)
				failed++
			}
			time.Sleep(time.Millisecond)
		}
		require.Greater(t, failed, 100)
		require.Zero(t, b.held(book))
		lost = false
		require.InDelta(t, 1000, b.heat(book, 1000, time.Second), 20)
		time.Sleep(time.Second)
	})
}

// A refusal lasts until the bucket may have tokens again, and calls are as rare as that, however many takes come.
func TestDry(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBank(t, rate(20, 20, 20*time.Second))
		book := b.book(ten, link{})
		b.heat(book, 1000, 2*time.Second)
		before := b.called()
		allowed := b.heat(book, 1000, 10*time.Second)
		require.InDelta(t, 10, allowed, 1)
		require.LessOrEqual(t, b.called()-before, 25)
		ok, a, _, err := b.taker(book, 1)
		require.NoError(t, err)
		if !ok {
			require.Positive(t, a.Void)
		}
		time.Sleep(2 * time.Second)
	})
}

// Keys that come once do not drive out a hot one.
func TestFloodOfKeys(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBank(t, rate(100_000, 100_000, time.Second))
		book := b.book(ten, link{})
		r := rand.New(rand.NewPCG(3, 4))
		deficits, places := make([]int64, 1), make([]int64, 1)
		for i := range 3_000 {
			b.taker(book, 1)
			for range 20 {
				_, ok, err := book.Take(fmt.Sprint(i, r.Uint64()), b.scales, 1, deficits, places)
				require.False(t, ok)
				require.NoError(t, err)
			}
			time.Sleep(time.Millisecond)
		}
		require.Greater(t, b.called(), 100)
		require.NotZero(t, b.held(book))
		time.Sleep(time.Second)
	})
}

// Two processes that want all tokens share them evenly.
func TestShares(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBank(t, rate(1000, 1000, time.Second))
		const processes = 8
		var got [processes]float64
		var all sync.WaitGroup
		for i := range processes {
			book := b.book(ten, link{there: 300 * time.Microsecond, back: 300 * time.Microsecond})
			all.Go(func() {
				time.Sleep(time.Duration(i) * 100 * time.Microsecond)
				got[i] = float64(b.heat(book, 2000, 8*time.Second))
			})
		}
		all.Wait()
		sum, squares := 0.0, 0.0
		for _, n := range got {
			sum, squares = sum+n, squares+n*n
		}
		require.GreaterOrEqual(t, sum*sum/(processes*squares), 0.99, "Jain's index of %v", got)
		require.GreaterOrEqual(t, sum, 0.99*(1000+8*1000))
		require.LessOrEqual(t, sum, float64(1000+8*1000)+1)
		time.Sleep(time.Second)
	})
}

// Time is counted too long rather than too short: in whole ticks, and with a margin for clocks that differ.
func TestTimeIsCountedTooLong(t *testing.T) {
	s := bucket.Scale{Capacity: 1000, Token: 1000, PerTick: 3}
	for elapsed, ticks := range map[time.Duration]int64{
		0: 1, 1: 1, 999: 1, time.Microsecond: 2, 1500: 2, time.Millisecond: 1001, time.Second: 1_000_977,
	} {
		require.Equal(t, 3*ticks, refilledAfter(&s, int64(elapsed)), "%v", elapsed)
	}
}
