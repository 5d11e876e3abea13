package ratelimit_test

import (
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/gin-gonic/gin"
	"github.com/stretchr/testify/require"

	"github.com/gin-ratelimit/ratelimit"
)

type options = []ratelimit.Option

func panicOf(f func()) (text string) {
	defer func() { text = fmt.Sprint(recover()) }()
	f()
	return text
}

// mistakes are the errors that NewLimiter joins.
func mistakes(t *testing.T, opts ...ratelimit.Option) (texts []string) {
	l, err := ratelimit.NewLimiter(opts...)
	require.True(t, l == nil && err != nil)
	joined, ok := err.(interface{ Unwrap() []error })
	require.True(t, ok, "%v", err)
	for _, err := range joined.Unwrap() {
		texts = append(texts, err.Error())
	}
	require.Equal(t, strings.Join(texts, "\n"), err.Error())
	require.Equal(t, err.Error(), panicOf(func() { ratelimit.New(opts...) }))
	return texts
}

func TestWrongOptions(t *testing.T) {
	good := ratelimit.WithRefillRate(ratelimit.PerSecond(10))
	with := func(opts ...ratelimit.Option) options { return append(options{good}, opts...) }
	rate := func(r ratelimit.Rate) options { return options{ratelimit.WithRefillRate(r)} }
	const (
		badRate = "tokens and period must be positive, for example PerSecond(10)"
		badName = `; use printable ASCII without ':', '"' and '\'`
	)
	for _, c := range []struct {
		options options
		want    string
	}{
		{nil, "no limit is given; use WithLimit(PerMinute(100).Burst(200)), or WithRefillRate(PerSecond(10))"},
		{rate(ratelimit.Rate{}), "WithRefillRate(0/0s): " + badRate},
		{rate(ratelimit.PerSecond(0)), "WithRefillRate(0/s): " + badRate},
		{rate(ratelimit.PerMinute(-1)), "WithRefillRate(-1/m): " + badRate},
		{rate(ratelimit.PerDay(math.MinInt)), "WithRefillRate(" + strconv.Itoa(math.MinInt) + "/d): " + badRate},
		{rate(ratelimit.Every(0)), "WithRefillRate(1/0s): " + badRate},
		{rate(ratelimit.Every(-time.Second)), "WithRefillRate(1/-1s): " + badRate},

		{with(ratelimit.WithCapacity(0)), "WithCapacity(0): must be at least 1"},
		{with(ratelimit.WithCapacity(-5)), "WithCapacity(-5): must be at least 1"},

		{with(ratelimit.WithLimit()), "WithLimit(): needs a limit, for example PerMinute(100).Burst(200)"},
		{with(ratelimit.WithLimit(ratelimit.Unlimited...)),
			"WithLimit(unlimited): only a limit function returns Unlimited; leave the limiter out, or WithLimit"},
		{with(ratelimit.WithLimit(slices.Repeat([]ratelimit.Limit{ratelimit.PerHour(5).Burst(5)}, 32)...)),
			"WithLimit: 32 limits, that of WithRefillRate not counted: at most 32 in all"},
		{options{ratelimit.WithCapacity(5)},
			"WithCapacity(5) needs WithRefillRate, for how fast the bucket refills: for example WithRefillRate(PerSecond(10))"},
		{with(ratelimit.WithLimit(ratelimit.Limit{Capacity: -1, Refill: ratelimit.PerHour(5)})),
			`WithLimit(5/h burst -1): capacity -1 of limit "5/h burst -1": must be at least 1`},
		{with(ratelimit.WithLimit(ratelimit.Limit{Capacity: 5})),
			"WithLimit(0/0s burst 5): refill rate 0/0s: tokens must be at least 1, for example PerSecond(10)"},
		{with(ratelimit.WithLimit(ratelimit.Limit{Capacity: 5, Refill: ratelimit.Every(-1)})),
			"WithLimit(1/-1ns burst 5): refill rate 1/-1ns: the period must be positive, for example PerSecond(10)"},
		{with(ratelimit.WithLimit(ratelimit.Limit{Capacity: 60_000, Refill: ratelimit.Every(24*time.Hour + time.Microsecond)})),
			`WithLimit(1/86400.000001s burst 60000): capacity 60000 of limit "1/86400.000001s burst 60000": ` +
				`at this rate at most 52124 can be counted exactly; lower the capacity, or use a rate with rounder numbers`},

		{with(ratelimit.WithName("")), `WithName(""): must have 1 to 64 characters`},
		{with(ratelimit.WithName(strings.Repeat("n", 65))), `WithName("` + strings.Repeat("n", 64) + `…"): must have 1 to 64 characters`},
		{with(ratelimit.WithName("a:b")), `WithName("a:b"): must not contain ':'` + badName},
		{with(ratelimit.WithName(`a"b`)), `WithName("a\"b"): must not contain '"'` + badName},
		{with(ratelimit.WithName(`a\b`)), `WithName("a\\b"): must not contain '\\'` + badName},
		{with(ratelimit.WithName("café")), `WithName("café"): must not contain 'é'` + badName},
		{with(ratelimit.WithName("a\r\nX: y")), `WithName("a\r\nX: y"): must not contain '\r'` + badName},
		{with(ratelimit.WithName("a\x00")), `WithName("a\x00"): must not contain '\x00'` + badName},
		{with(ratelimit.WithName("a\x7f")), `WithName("a\x7f"): must not contain '\x7f'` + badName},
		{with(ratelimit.WithName("a\xff")), `WithName("a\xff"): must not contain '` + "\ufffd" + `'` + badName},
		{with(ratelimit.WithName("a"), ratelimit.WithName("b")), `WithName("b"): the limiter is already named "a"; give one name`},
		{with(ratelimit.WithName("a"), ratelimit.WithName("a")), `WithName("a"): the limiter is already named "a"; give one name`},
		{with(ratelimit.WithStore(ratelimit.NewMemoryStore())),
			`WithStore needs WithName: a store may serve many limiters, and the name keeps their buckets apart; for example WithName("login")`},

		{with(nil), "option 1 is nil"},
		{with(ratelimit.WithStore(nil)), "WithStore(nil): needs a Store, for example NewMemoryStore()"},
		{with(ratelimit.WithStore((*ratelimit.RedisStore)(nil))), "WithStore(nil): needs a Store, for example NewMemoryStore()"},
		{with(ratelimit.WithKeyFunc(nil)), "WithKeyFunc(nil): needs a KeyFunc, for example ByClientIP"},
		{with(ratelimit.WithLimitFunc(nil)), "WithLimitFunc(nil): needs a function"},
		{with(ratelimit.WithCost(nil)), "WithCost(nil): needs a function"},
		{with(ratelimit.WithHeaders()), "WithHeaders(): needs HeaderFuncs; WithHeaders(NoHeaders) sends none"},
		{with(ratelimit.WithHeaders(ratelimit.XHeaders, nil)), "WithHeaders(nil): needs HeaderFuncs, for example XHeaders"},
		{with(ratelimit.WithDeniedHandler(nil)), "WithDeniedHandler(nil): needs a function, for example DenyJSON"},
		{with(ratelimit.WithErrorHandler(nil)), "WithErrorHandler(nil): needs a function, for example FailClosed"},
		{with(ratelimit.WithObserver(nil)), "WithObserver(nil): needs a function, for example NewStats().Observe"},
	} {
		require.Equal(t, []string{"ratelimit: " + c.want}, mistakes(t, c.options...))
	}
}

// Each value is valid by itself, but together they are too large.
func TestTooLargeOptions(t *testing.T) {
	for name, c := range map[string]struct {
		options options
		says    []string
	}{
		"capacity": {
			options{ratelimit.WithRefillRate(ratelimit.Every(24*time.Hour + time.Microsecond)), ratelimit.WithCapacity(60_000)},
			[]string{"WithCapacity(60000)", "at most 52124"},
		},
		"rate as a capacity": {
			options{ratelimit.WithRefillRate(ratelimit.Rate{Tokens: 60_000, Per: 24*time.Hour + time.Microsecond})},
			[]string{"WithRefillRate(60000/86400.000001s)", "at most 52124"},
		},
		"rate": {
			options{ratelimit.WithRefillRate(ratelimit.Rate{Tokens: math.MaxInt, Per: 1})},
			[]string{"WithRefillRate(" + strconv.Itoa(math.MaxInt) + "/1ns)", "use a slower rate"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			if name == "rate" && strconv.IntSize == 32 {
				t.Skip("no int is too large a rate")
			}
			texts := mistakes(t, c.options...)
			require.Len(t, texts, 1)
			for _, part := range c.says {
				require.Contains(t, texts[0], part)
			}
		})
	}
}

func TestEveryMistakeAtOnce(t *testing.T) {
	var about []string
	for _, text := range mistakes(t,
		ratelimit.WithLimit(ratelimit.Limit{}), ratelimit.WithObserver(nil), ratelimit.WithName("a:b"), ratelimit.WithKeyFunc(nil),
		ratelimit.WithLimit(ratelimit.Limit{Capacity: 1}), ratelimit.WithCost(nil), nil, ratelimit.WithStore(nil),
	) {
		option, ok := strings.CutPrefix(text, "ratelimit: ")
		require.True(t, ok)
		about = append(about, option[:strings.IndexAny(option, "( ")])
	}
	slices.Sort(about)
	require.Equal(t, []string{
		"WithCost", "WithKeyFunc", "WithLimit", "WithLimit", "WithName", "WithObserver", "WithStore", "option",
	}, about)
}

// A wrong rate does not hide other mistakes.
func TestEveryMistakeAtOnceWithAWrongRate(t *testing.T) {
	for _, rate := range []options{nil, {ratelimit.WithRefillRate(ratelimit.PerSecond(0))}} {
		texts := mistakes(t, append(rate, ratelimit.WithCapacity(-1))...)
		require.Len(t, texts, 2)
		require.Contains(t, texts[0], "WithRefillRate")
		require.Equal(t, "ratelimit: WithCapacity(-1): must be at least 1", texts[1])
	}
}

func TestDefaults(t *testing.T) {
	h := serving(ratelimit.New(ratelimit.WithRefillRate(ratelimit.PerMinute(2)), ratelimit.WithHeaders(ratelimit.XHeaders, ratelimit.IETFHeaders)))
	a := ask(h)
	require.Equal(t, "2", a.header.Get("X-RateLimit-Limit"), "the capacity is the rate's tokens")
	require.Equal(t, "1", a.header.Get("X-RateLimit-Remaining"), "a request costs one")
	require.Equal(t, `"default";q=2;w=60`, a.header.Get("RateLimit-Policy"))
	require.Equal(t, 200, ask(h).status)
	require.Equal(t, 429, ask(h).status)
	require.Equal(t, 200, ask(h, peer("192.0.2.2:1")).status, "the key is the client's address")
}

// A list of options may be used for several limiters, and changing its slices later changes none of them.
func TestOptionsAreReusable(t *testing.T) {
	opts := options{
		ratelimit.WithRefillRate(ratelimit.PerMinute(5)),
		ratelimit.WithName("a"),
		ratelimit.WithLimit(ratelimit.Limit{Capacity: 1, Refill: ratelimit.PerMinute(1)}),
	}
	for range 2 {
		h := serving(ratelimit.New(opts...))
		require.Equal(t, []int{200, 429}, statuses(h, "/", "/"))
	}
}

func TestLongestNames(t *testing.T) {
	for _, name := range []string{"a", strings.Repeat("n", 64), "log in (v2) {x} %s ~!#$&'*+-.^_`|"} {
		h := serving(perMinute(1, ratelimit.WithName(name), ratelimit.WithHeaders(ratelimit.IETFHeaders),
			ratelimit.WithKeyFunc(func(*gin.Context) string { return "" })))
		fields, err := parseFields(ask(h).header.Get("RateLimit-Policy"))
		require.NoError(t, err)
		require.Equal(t, name, fields[0].name)
	}
}
