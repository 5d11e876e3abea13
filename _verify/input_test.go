package verify

import (
	"context"
	"errors"
	"math"
	"math/big"
	"math/rand/v2"
	"net/http"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gin-gonic/gin"
	"pgregory.net/rapid"

	"github.com/gin-ratelimit/ratelimit"
	"github.com/gin-ratelimit/ratelimit/internal/redistest"
)

func TestB01InvalidLimits(t *testing.T) {
	c := try(t, "B1")
	server := redistest.Start(t)
	stores := map[string]ratelimit.Store{"memory": ratelimit.NewMemoryStore(), "redis": openStore(t, server.Addr, patient)}
	for _, test := range []struct {
		capacity int
		rate     ratelimit.Rate
		names    []string // the field and the value, which the error must name
	}{
		{10, ratelimit.Rate{}, []string{"WithRefillRate", "0/0s"}},
		{10, ratelimit.PerSecond(0), []string{"WithRefillRate", "0/s"}},
		{10, ratelimit.PerSecond(-1), []string{"WithRefillRate", "-1/s"}},
		{10, ratelimit.Every(0), []string{"WithRefillRate", "1/0s"}},
		{10, ratelimit.Every(-time.Second), []string{"WithRefillRate", "-1s"}},
		{0, ratelimit.PerSecond(1), []string{"WithCapacity(0)", "at least 1"}},
		{-5, ratelimit.PerSecond(1), []string{"WithCapacity(-5)", "at least 1"}},
		{math.MinInt, ratelimit.PerSecond(1), []string{"WithCapacity", strconv.Itoa(math.MinInt)}},
		{math.MaxInt, ratelimit.PerSecond(1), []string{"capacity", strconv.Itoa(math.MaxInt), "at most"}},
		{1 << 40, ratelimit.PerDay(1), []string{"capacity", strconv.Itoa(1 << 40), "at most"}},
		{1, ratelimit.Rate{Tokens: math.MaxInt, Per: 1}, []string{"refill rate", strconv.Itoa(math.MaxInt), "too fast"}},
	} {
		limit := ratelimit.Limit{Capacity: test.capacity, Refill: test.rate}
		_, err := ratelimit.NewLimiter(ratelimit.WithCapacity(test.capacity), ratelimit.WithRefillRate(test.rate))
		for _, want := range test.names {
			if err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("%v: error %v does not tell %q", limit, err, want)
			}
		}
		// The same limit from a limit function: the policy decides. It never panics, and is never unlimited.
		for name, store := range stores {
			if r, err := store.Take(t.Context(), "key", ratelimit.Take{N: 1, Limits: []ratelimit.Limit{limit}}); !errors.Is(err, ratelimit.ErrArgument) || r.Allowed {
				t.Errorf("%s: %v: %+v, %v", name, limit, r, err)
			}
			engine := routed(ratelimit.New(ratelimit.WithName("b1"), ratelimit.WithStore(store), ratelimit.WithRefillRate(ratelimit.PerHour(1)),
				ratelimit.WithErrorHandler(ratelimit.FailClosed),
				ratelimit.WithLimitFunc(func(*gin.Context) []ratelimit.Limit { return []ratelimit.Limit{limit} })))
			want := http.StatusServiceUnavailable
			if limit.Capacity == 0 {
				want = http.StatusOK // To a limiter, 0 means the rate's tokens.
			}
			if w := get(engine); w.Code != want {
				t.Errorf("%s: %v: status %d, want %d", name, limit, w.Code, want)
			}
		}
		c.times(1)
	}
	// Any limit is valid and can be used, or it is an error.
	memory := stores["memory"]
	rapid.Check(t, func(t *rapid.T) {
		limit := ratelimit.Limit{Capacity: rapid.Int().Draw(t, "capacity"), Refill: ratelimit.Rate{
			Tokens: rapid.Int().Draw(t, "tokens"), Per: time.Duration(rapid.Int64().Draw(t, "per")),
		}}
		r, err := memory.Take(context.Background(), "any", ratelimit.Take{N: 1, Limits: []ratelimit.Limit{limit}})
		if valid := limit.Validate() == nil; valid != (err == nil) || !valid && r.Allowed {
			t.Fatalf("%v: valid %v, %+v, %v", limit, valid, r, err)
		}
	})
	c.times(100)
}

func TestB02Costs(t *testing.T) {
	c := try(t, "B2")
	server := redistest.Start(t)
	limit := ratelimit.Limit{Capacity: 10, Refill: ratelimit.PerHour(10)}
	for name, store := range map[string]ratelimit.Store{"memory": ratelimit.NewMemoryStore(), "redis": openStore(t, server.Addr, patient)} {
		for cost, want := range map[int]int{
			0: http.StatusOK, 10: http.StatusOK, 11: http.StatusTooManyRequests, math.MaxInt: http.StatusTooManyRequests,
			math.MaxInt/3_600_000_000 + 1: http.StatusTooManyRequests, -1: http.StatusServiceUnavailable, math.MinInt: http.StatusServiceUnavailable,
		} {
			key := "b2:" + strconv.Itoa(cost)
			engine := routed(ratelimit.New(ratelimit.WithName("b2"), ratelimit.WithStore(store), ratelimit.WithRefillRate(limit.Refill),
				ratelimit.WithKeyFunc(func(*gin.Context) string { return strconv.Itoa(cost) }),
				ratelimit.WithCost(func(*gin.Context) int { return cost }), ratelimit.WithErrorHandler(ratelimit.FailClosed)))
			w := get(engine)
			if w.Code != want {
				t.Errorf("%s: cost %d: status %d, want %d", name, cost, w.Code, want)
			}
			if retry := w.Header().Get("Retry-After"); retry != "" && w.Code == http.StatusTooManyRequests {
				t.Errorf("%s: cost %d: Retry-After %s", name, cost, retry)
			}
			left := limit.Capacity
			if cost == 10 {
				left = 0
			}
			if r := take(t, store, key, 0, limit); r.Remaining != left {
				t.Errorf("%s: cost %d: %d tokens remain", name, cost, r.Remaining)
			}
			// Give-backs and debts saturate.
			taken, err := store.Take(t.Context(), key, ratelimit.Take{N: 1, Limits: []ratelimit.Limit{limit}})
			if err != nil {
				t.Fatal(err)
			}
			for _, n := range []int{math.MaxInt, math.MinInt} {
				r, err := store.Adjust(t.Context(), key, ratelimit.Adjustment{N: n, Limits: []ratelimit.Limit{limit}, Receipt: taken.Receipt})
				if err != nil || r.Remaining < 0 || r.Remaining > limit.Capacity || r.ResetAfter < 0 || r.Wait < 0 {
					t.Errorf("%s: Adjust(%d): %+v, %v", name, n, r, err)
				}
			}
			c.times(1)
		}
	}
}

// exact is one bucket in rational numbers.
type exact struct {
	limit ratelimit.Limit
	level *big.Rat // tokens
	rate  *big.Rat // tokens a microsecond
}

func newExact(limit ratelimit.Limit) *exact {
	rate := big.NewRat(int64(limit.Refill.Tokens), 1)
	rate.Mul(rate, big.NewRat(1000, int64(limit.Refill.Per)))
	return &exact{limit, big.NewRat(int64(limit.Capacity), 1), rate}
}

func (e *exact) advance(d time.Duration) {
	came := new(big.Rat).SetInt64(d.Microseconds())
	e.level.Add(e.level, came.Mul(came, e.rate))
	if full := big.NewRat(int64(e.limit.Capacity), 1); e.level.Cmp(full) > 0 {
		e.level = full
	}
}

// take returns what a take must return: whether it is admitted, the whole tokens left, and the microseconds to wait, rounded
// up.
func (e *exact) take(n int) (allowed bool, remaining int, retry time.Duration) {
	cost := big.NewRat(int64(n), 1)
	if allowed = e.level.Cmp(cost) >= 0; allowed {
		e.level.Sub(e.level, cost)
	} else {
		wait := new(big.Rat).Sub(cost, e.level)
		wait.Quo(wait, e.rate)
		us := new(big.Int).Add(wait.Num(), new(big.Int).Sub(wait.Denom(), big.NewInt(1)))
		retry = time.Duration(us.Quo(us, wait.Denom()).Int64()) * time.Microsecond
	}
	return allowed, int(new(big.Int).Quo(e.level.Num(), e.level.Denom()).Int64()), retry
}

var extremes = []ratelimit.Limit{
	{Capacity: 1, Refill: ratelimit.Every(10 * 365 * 24 * time.Hour)},
	{Capacity: 14, Refill: ratelimit.Every(10 * 365 * 24 * time.Hour)},
	{Capacity: 1, Refill: ratelimit.Every(86400 * time.Millisecond)},
	{Capacity: 50_000_000, Refill: ratelimit.Every(86400 * time.Millisecond)},
	{Capacity: 1, Refill: ratelimit.Rate{Tokens: 7, Per: 3 * time.Second}},
	{Capacity: 1_000_000_000, Refill: ratelimit.Rate{Tokens: 7, Per: 3 * time.Second}},
	{Capacity: 1, Refill: ratelimit.PerSecond(1_000_000_000)},
	{Capacity: 1_000_000_000, Refill: ratelimit.PerSecond(1_000_000_000)},
	{Capacity: 1_000_000_000, Refill: ratelimit.PerSecond(1)},
}

func TestB03Extremes(t *testing.T) {
	c := try(t, "B3")
	steps := pick(2000, 300)
	for _, limit := range extremes {
		t.Run(limit.String(), func(t *testing.T) {
			server := redistest.Start(t, redistest.WithClock())
			server.Clock().Freeze(time.Now())
			agrees(t, openStore(t, server.Addr, patient), limit, steps, server.Clock().Advance)
			synctest.Test(t, func(t *testing.T) { agrees(t, ratelimit.NewMemoryStore(), limit, steps, time.Sleep) })
		})
		c.times(2 * steps)
	}
	c.exceeds(0, 0)
}

// agrees compares a store with the exact bucket over random takes and pauses.
func agrees(t *testing.T, store ratelimit.Store, limit ratelimit.Limit, steps int, advance func(time.Duration)) {
	t.Helper()
	oracle := newExact(limit)
	full := time.Duration(min(float64(limit.Capacity)*float64(limit.Refill.Per)/float64(limit.Refill.Tokens), 20*365*24*float64(time.Hour)))
	total := time.Duration(0)
	for range steps {
		pause := time.Microsecond * time.Duration(rand.Int64N(1+int64(full/time.Microsecond)/int64(1+rand.IntN(1000))))
		if total+pause < 80*365*24*time.Hour {
			oracle.advance(pause)
			advance(pause)
			total += pause
		}
		n := 1 + rand.IntN(limit.Capacity)
		allowed, remaining, retry := oracle.take(n)
		r := take(t, store, "key", n, limit)
		if r.Allowed != allowed || r.Remaining != remaining || r.RetryAfter != retry {
			t.Fatalf("%T: %v: take %d: %+v, want %v, %d left, retry %v", store, limit, n, r, allowed, remaining, retry)
		}
	}
}

func TestB04Names(t *testing.T) {
	c := try(t, "B4")
	limiter := func(names ...string) (*ratelimit.Limiter, error) {
		options := []ratelimit.Option{ratelimit.WithRefillRate(ratelimit.PerHour(10)), ratelimit.WithHeaders(ratelimit.IETFHeaders)}
		for _, name := range names {
			options = append(options, ratelimit.WithName(name))
		}
		return ratelimit.NewLimiter(options...)
	}
	for _, names := range [][]string{
		{""}, {`a"b`}, {`"`}, {`a\b`}, {"é"}, {"a\r\nb"}, {"a\nX-Injected: 1"}, {"a\x00"}, {"a:b"}, {"\x7f"}, {"\xff"}, {strings.Repeat("a", 65)}, {"a", "b"}, {"a", "a"},
	} {
		if _, err := limiter(names...); err == nil || !strings.Contains(err.Error(), "WithName") {
			t.Errorf("%q: error %v", names, err)
		}
		c.times(1)
	}
	// A name is refused, or its headers are valid: an item of one string and integers.
	item := regexp.MustCompile(`^"[ !#-\[\]-~]+"(;[a-z-]+=\d+)+$`)
	rapid.Check(t, func(t *rapid.T) {
		name := rapid.OneOf(rapid.String(), rapid.StringMatching(`[ -~]{1,64}`)).Draw(t, "name")
		l, err := limiter(name)
		if err != nil {
			return
		}
		w := get(routed(l.Handle))
		for _, header := range []string{"Ratelimit", "Ratelimit-Policy"} {
			if value := w.Header().Get(header); !item.MatchString(value) {
				t.Fatalf("name %q: %s: %s", name, header, value)
			}
		}
	})
	c.times(100)
}
