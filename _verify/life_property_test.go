package verify

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gin-gonic/gin"
	"pgregory.net/rapid"

	"github.com/gin-ratelimit/ratelimit"
	"github.com/gin-ratelimit/ratelimit/internal/redistest"
)

// visitor is one request of a random history: when it comes, how long it is served, when its client leaves, what it reserves,
// and what it costs in the end.
type visitor struct {
	comes, served, leaves time.Duration // leaves: 0 for never
	reserves, settles     int           // settles: -1 for never
	charged               bool          // by its outcome
}

// site is one or two limiters in a row.
type site struct {
	outer, inner       []ratelimit.Limit
	innerWait          time.Duration
	outcome            bool // the outer charges by outcome
	visitors           []visitor
	together, innerOff bool // in a Stack; the inner is in Shadow
}

// charges is what one request has cost one limiter in the end, and when it counts.
type charges struct {
	took, counts, ended time.Duration
	tokens, gaveBack    int
}

func sites(unit time.Duration, maxVisitors int) *rapid.Generator[site] {
	limit := rapid.SampledFrom([]ratelimit.Limit{
		{Capacity: 5, Refill: ratelimit.Rate{Tokens: 1, Per: 10 * unit}}, {Capacity: 1, Refill: ratelimit.Rate{Tokens: 1, Per: 5 * unit}},
		{Capacity: 8, Refill: ratelimit.Rate{Tokens: 3, Per: 20 * unit}}, {Capacity: 4, Refill: ratelimit.Rate{Tokens: 1, Per: 3 * unit}},
	})
	limits := rapid.SliceOfN(limit, 1, 2)
	return rapid.Custom(func(t *rapid.T) site {
		s := site{
			outer: limits.Draw(t, "outer"), inner: limits.Draw(t, "inner"), outcome: rapid.Bool().Draw(t, "by outcome"),
			together: rapid.Bool().Draw(t, "stack"), innerOff: rapid.IntRange(0, 5).Draw(t, "shadow") == 0,
		}
		if rapid.Bool().Draw(t, "wait") {
			s.innerWait = unit * time.Duration(rapid.IntRange(1, 60).Draw(t, "longest"))
		}
		s.visitors = rapid.SliceOfN(rapid.Custom(func(t *rapid.T) visitor {
			v := visitor{
				comes:    10 * unit * time.Duration(rapid.IntRange(0, 10).Draw(t, "comes")), // Many come together.
				served:   unit * time.Duration(rapid.IntRange(0, 60).Draw(t, "served")),
				reserves: rapid.IntRange(1, 4).Draw(t, "reserves"), settles: rapid.IntRange(-1, 5).Draw(t, "settles"),
				charged: rapid.Bool().Draw(t, "charged"),
			}
			if rapid.IntRange(0, 3).Draw(t, "leaves") == 0 {
				v.leaves = unit * time.Duration(rapid.IntRange(1, 40).Draw(t, "after"))
			}
			return v
		}), 1, maxVisitors).Draw(t, "visitors")
		return s
	})
}

type visitorKey struct{}

// play runs a history on limiters of a store, and returns what stayed charged at the outer and at the inner limiter.
func (s site) play(t *testing.T, store ratelimit.Store) (outer, inner []charges) {
	key := ratelimit.WithKeyFunc(func(*gin.Context) string { return "key" })
	of := func(c *gin.Context) *visitor { v, _ := c.Request.Context().Value(visitorKey{}).(*visitor); return v }
	options := []ratelimit.Option{key, ratelimit.WithStore(store)}
	first := append([]ratelimit.Option{ratelimit.WithName("outer"), ratelimit.WithLimit(s.outer...)}, options...)
	if s.outcome {
		first = append(first, ratelimit.WithChargeIf(func(c *gin.Context) bool { return of(c).charged }))
	}
	second := append([]ratelimit.Option{ratelimit.WithName("inner"), ratelimit.WithLimit(s.inner...),
		ratelimit.WithCost(func(c *gin.Context) int { return of(c).reserves })}, options...)
	if s.innerWait > 0 {
		second = append(second, ratelimit.WithMaxWait(s.innerWait))
	}
	a, b := ratelimit.Must(ratelimit.NewLimiter(first...)), ratelimit.Must(ratelimit.NewLimiter(second...))
	if s.innerOff {
		b.SetMode(ratelimit.Shadow)
	}
	begin := time.Now()
	var mu sync.Mutex
	engine := gin.New()
	handlers := []gin.HandlerFunc{a.Handle, b.Handle}
	if s.together {
		handlers = []gin.HandlerFunc{ratelimit.Stack(a, b)}
	}
	engine.GET("/", append(append([]gin.HandlerFunc{func(c *gin.Context) {
		v := of(c)
		took := time.Since(begin)
		counts := took
		c.Set("ran", func() { counts = time.Since(begin) })
		c.Next()
		ended := time.Since(begin)
		mu.Lock()
		defer mu.Unlock()
		for _, e := range ratelimit.Explain(c) {
			if !e.Result.Allowed && e.Charged == 0 && e.Result.RetryAfter != 0 {
				continue // refused
			}
			charge := charges{took: took, counts: took, ended: ended, tokens: min(e.Charged, e.Cost), gaveBack: e.Cost - min(e.Charged, e.Cost)}
			if e.Name == "inner" {
				charge.counts = counts
				inner = append(inner, charge)
			} else {
				outer = append(outer, charge)
			}
		}
		if c.Writer.Status() == 499 { // The request has given up its place at the inner limiter, which is in no explanation.
			inner = append(inner, charges{took: took, counts: took, ended: ended, gaveBack: v.reserves})
		}
	}}, handlers...), func(c *gin.Context) {
		v := of(c)
		c.MustGet("ran").(func())()
		time.Sleep(v.served)
		if v.settles >= 0 && !s.innerOff {
			if err := b.Settle(c, v.settles); err != nil {
				t.Error(err)
			}
		}
	})...)
	var all sync.WaitGroup
	for i := range s.visitors {
		all.Go(func() {
			v := &s.visitors[i]
			time.Sleep(v.comes)
			ctx := context.WithValue(context.Background(), visitorKey{}, v)
			if v.leaves > 0 {
				left, leave := context.WithCancel(ctx)
				defer time.AfterFunc(v.leaves, leave).Stop()
				defer leave()
				ctx = left
			}
			engine.ServeHTTP(httptest.NewRecorder(), httptest.NewRequestWithContext(ctx, http.MethodGet, "/", http.NoBody))
		})
	}
	all.Wait()
	return outer, inner
}

// excess returns how many tokens the worst window exceeds its bound by: capacity + rate·window + what requests that were under
// way at its beginning gave back later, as far as the bucket had not refilled it by then.
func excess(all []charges, limit ratelimit.Limit, maxWait time.Duration) (worst float64, text string) {
	rate := float64(limit.Refill.Tokens) / limit.Refill.Per.Seconds()
	for _, first := range all {
		begin := first.counts
		bound := float64(limit.Capacity)
		for _, c := range all {
			if c.took < begin && c.ended >= begin {
				fresh := float64(limit.Capacity) - rate*(c.ended-c.took-maxWait).Seconds()
				bound += min(float64(c.gaveBack), max(0, fresh))
			}
		}
		for _, last := range all {
			if last.counts < begin {
				continue
			}
			sum := 0
			for _, c := range all {
				if c.counts >= begin && c.counts <= last.counts {
					sum += c.tokens
				}
			}
			if over := float64(sum) - bound - rate*(last.counts-begin).Seconds(); over > worst {
				worst, text = over, fmt.Sprintf("%d charged from %v to %v, %.2f are due", sum, begin, last.counts, float64(sum)-over)
			}
		}
	}
	return worst, text
}

func (s site) check(fail func(string, ...any), outer, inner []charges, grain float64) {
	for _, l := range s.outer {
		if over, text := excess(outer, l, 0); over > grain {
			fail("outer, %v: %s:\n%+v\n%+v", l, text, s, outer)
		}
	}
	for _, l := range s.inner {
		if over, text := excess(inner, l, s.innerWait); over > grain && !s.innerOff {
			fail("inner, %v: %s:\n%+v\n%+v", l, text, s, inner)
		}
	}
}

// What stays charged in any window is at most what the bucket allows, plus what requests from before it gave back.
func TestWhatStaysChargedIsBounded(t *testing.T) {
	proves(t, "Random histories of requests (delays, cancels, outcomes, stacked limiters, several limits, waits, settles): in any window W at most C + r·W stays charged, and what requests under way at its beginning gave back (rapid)",
		figure("100 histories of up to 40 requests on memory, %d of 30 on Redis", pick(10, 2)))
	rapid.Check(t, func(rt *rapid.T) {
		s := sites(100*time.Millisecond, 40).Draw(rt, "site")
		synctest.Test(t, func(t *testing.T) {
			outer, inner := s.play(t, ratelimit.NewMemoryStore())
			s.check(rt.Fatalf, outer, inner, 1e-6)
		})
	})
	server := redistest.Start(t)
	admin := server.Client()
	for range pick(10, 2) {
		if err := admin.FlushAll(t.Context()).Err(); err != nil {
			t.Fatal(err)
		}
		s := sites(10*time.Millisecond, 30).Example()
		outer, inner := s.play(t, openStore(t, server.Addr, patient))
		s.check(t.Errorf, outer, inner, 0.5) // Redis decides some time after a request came.
	}
}
