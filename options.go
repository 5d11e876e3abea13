package ratelimit

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/gin-gonic/gin"
)

// Option configures [New] and [NewLimiter].
type Option func(*config)

// settings are what options set and a limiter uses as it is. While options are read, nil and zero mean "not set".
type settings struct {
	store     Store
	limitFunc func(*gin.Context) []Limit
	key       KeyFunc
	cost      func(*gin.Context) int
	chargeIf  func(*gin.Context) bool
	maxWait   time.Duration
	ban       Ban
	headers   []HeaderFunc // nil: XHeaders, written into the decision's own buffer; empty: none
	denied    func(*gin.Context, Result)
	failed    func(*gin.Context, error)
	skips     []func(*gin.Context) bool
}

func (s settings) withDefaults() settings {
	if s.store == nil {
		s.store = NewMemoryStore()
	}
	if s.key == nil {
		s.key = ByClientIP
	}
	if s.denied == nil {
		s.denied = DenyJSON
	}
	if s.failed == nil {
		s.failed = FailOpen
	}
	return s
}

// config is what options set.
type config struct {
	settings

	refill      Rate
	hasRefill   bool
	capacity    int
	hasCapacity bool
	given       []Limit // by WithLimit
	names       []string
	observers   []func(context.Context, Event)
	mode        Mode
	debugSecret string
	mistakes    []error  // those that an option finds by itself
	nils        []string // options that were given nil
}

func (c *config) notNil(isNil bool, option, example string) {
	if isNil {
		c.nils = append(c.nils, option+"(nil): needs "+example)
	}
}

// Options is several options in one, for what a team sets alike on all its limiters. A nil option is a mistake.
func Options(opts ...Option) Option {
	return func(c *config) {
		for i, opt := range opts {
			if opt == nil {
				c.nils = append(c.nils, fmt.Sprintf("option %d is nil", i))
				continue
			}
			opt(c)
		}
	}
}

// WithRefillRate sets how fast a bucket refills, which is the rate in the long run: PerSecond(10). This option or
// [WithLimit] is required.
func WithRefillRate(rate Rate) Option {
	return func(c *config) { c.refill, c.hasRefill = rate, true }
}

// WithCapacity sets how many tokens a bucket holds, which is the largest burst. Default: the tokens of
// [WithRefillRate], so that PerSecond(10) holds 10.
func WithCapacity(tokens int) Option {
	return func(c *config) { c.capacity, c.hasCapacity = tokens, true }
}

// WithLimit adds buckets that must all hold enough: 10 a second, and no more than 1,000 an hour. A request is
// charged to all buckets or to none. It is enough alone; the bucket of [WithRefillRate] and [WithCapacity], if they are
// given, comes first. A capacity of 0 is the rate's tokens. Repeatable, up to [MaxLimits] limits in all.
//
//	ratelimit.WithLimit(ratelimit.PerSecond(10).Burst(20), ratelimit.PerHour(1000).Burst(1000))
func WithLimit(limits ...Limit) Option {
	return func(c *config) {
		if len(limits) == 0 {
			c.mistakes = append(c.mistakes, errorf("WithLimit(): needs a limit, for example PerMinute(100).Burst(200)"))
		}
		c.given = append(c.given, limits...)
	}
}

// WithLimitFunc sets limits by request, for example by the client's plan. Where f returns none, the static limits hold;
// where it returns [Unlimited], no limit holds. A capacity of 0 is the rate's tokens. A client whose limits change keeps
// its buckets, matched by position. f must be safe for concurrent use; the slice it returns is only read. An invalid limit
// goes to the error handler.
func WithLimitFunc(f func(*gin.Context) []Limit) Option {
	return func(c *config) {
		c.notNil(f == nil, "WithLimitFunc", "a function")
		c.limitFunc = f
	}
}

// WithKeyFunc sets what a request is counted against. Default: [ByClientIP].
func WithKeyFunc(key KeyFunc) Option {
	return func(c *config) {
		c.notNil(key == nil, "WithKeyFunc", "a KeyFunc, for example ByClientIP")
		c.key = key
	}
}

// WithStore sets where buckets live. Default: a [MemoryStore] of the limiter's own. A store may serve many
// limiters, so it requires [WithName], which keeps their buckets apart.
func WithStore(store Store) Option {
	return func(c *config) {
		c.notNil(isNil(store), "WithStore", "a Store, for example NewMemoryStore()")
		if !isNil(store) {
			c.store = store
		}
	}
}

// WithName names the limiter: the namespace of its keys in the store, its policy in headers, its label in
// metrics. Up to 64 printable ASCII characters without ':', '"' and '\'. Limiters of one name on one store
// share their buckets. Default: "default".
func WithName(name string) Option {
	return func(c *config) { c.names = append(c.names, name) }
}

// WithCost sets how many tokens a request takes. Default: 1. A request of cost 0 is let through as long as
// the bucket is not in debt, one above the capacity is refused for good, and a negative cost goes to the
// error handler.
func WithCost(cost func(*gin.Context) int) Option {
	return func(c *config) {
		c.notNil(cost == nil, "WithCost", "a function")
		c.cost = cost
	}
}

// WithHeaders sets which headers describe the decisions: any of [XHeaders], [IETFHeaders] and your own, or [NoHeaders].
// Default: XHeaders. Retry-After is sent on every refusal, whatever is set here.
func WithHeaders(write ...HeaderFunc) Option {
	return func(c *config) {
		c.notNil(slices.ContainsFunc(write, func(w HeaderFunc) bool { return w == nil }), "WithHeaders", "HeaderFuncs, for example XHeaders")
		if len(write) == 0 {
			c.mistakes = append(c.mistakes, errorf("WithHeaders(): needs HeaderFuncs; WithHeaders(NoHeaders) sends none"))
		}
		c.headers = withoutNoHeaders(write)
	}
}

// WithDeniedHandler sets what answers a refused request: [DenyJSON], [DenyProblem] or your own. The request
// is aborted afterwards in any case. Default: DenyJSON.
func WithDeniedHandler(denied func(*gin.Context, Result)) Option {
	return func(c *config) {
		c.notNil(denied == nil, "WithDeniedHandler", "a function, for example DenyJSON")
		c.denied = denied
	}
}

// WithErrorHandler sets what happens to a request that could not be decided: [FailOpen], [FailClosed] or your
// own, which aborts c or lets the request through. Default: FailOpen.
func WithErrorHandler(failed func(*gin.Context, error)) Option {
	return func(c *config) {
		c.notNil(failed == nil, "WithErrorHandler", "a function, for example FailClosed")
		c.failed = failed
	}
}

// WithObserver calls observe with every decision, for metrics and logs: [Stats.Observe], [LogObserver]. It is called on
// the request's goroutine, with no locks held, and must be safe for concurrent use. Repeatable.
func WithObserver(observe func(context.Context, Event)) Option {
	return func(c *config) {
		c.notNil(observe == nil, "WithObserver", "a function, for example NewStats().Observe")
		c.observers = append(c.observers, observe)
	}
}

// WithChargeIf charges a request only if charge returns true after its handler has run: only failed logins, only
// successes. The tokens are taken before, so that no more requests than the bucket allows are under way. If charge returns
// false they are given back, as far as the bucket has not refilled them by then; see [Adjustment]. A request whose handler
// panics is charged. Default: every request is.
func WithChargeIf(charge func(*gin.Context) bool) Option {
	return func(c *config) {
		c.notNil(charge == nil, "WithChargeIf", "a function")
		c.chargeIf = charge
	}
}

// WithMaxWait holds back a request that finds too few tokens, up to longest, instead of refusing it, if the tokens will be
// there by then. That shapes traffic as a leaky bucket does: requests go on at the refill rate, in order of arrival, and
// only a request that would wait longer is refused. Meanwhile each holds a goroutine and a connection: per key, up to the
// refill rate times longest of them. A request whose deadline would come before its turn is refused at once. If a client
// leaves, its request gives its place back, less what others have reserved behind it. Default: 0, which refuses at once.
func WithMaxWait(longest time.Duration) Option {
	return func(c *config) {
		if longest < time.Microsecond || longest > day {
			c.mistakes = append(c.mistakes, errorf("WithMaxWait(%v): must be from 1µs to 24h", longest))
		}
		c.maxWait = longest
	}
}

// WithBan shuts out clients that ignore Retry-After: each ban is longer than the last; see [Ban]. A ban is decided
// together with the take, so all instances on one store keep it. [Limiter.Reset] lifts it. Default: none, and then a
// refusal changes nothing in the store.
func WithBan(ban Ban) Option {
	return func(c *config) {
		if err := ban.Validate(); err != nil {
			c.mistakes = append(c.mistakes, errorf("%w (given to WithBan)", err))
		}
		c.ban = ban
	}
}

// WithShadow makes the limiter begin in [Shadow], where it decides but refuses no request. [Limiter.SetMode] ends it.
func WithShadow() Option { return func(c *config) { c.mode = Shadow } }

// WithDebugHeader explains decisions, as [Explain] does, in the response header X-RateLimit-Explain to those
// requests that carry secret in X-RateLimit-Debug. The secret has at least 16 characters; a client that knows it sees
// what its requests are counted against. Default: no such header.
func WithDebugHeader(secret string) Option {
	return func(c *config) {
		const shortest = 16
		if len(secret) < shortest {
			c.mistakes = append(c.mistakes, errorf("WithDebugHeader: the secret has %d characters: must have at least %d", len(secret), shortest))
		}
		c.debugSecret = secret
	}
}

// validate returns every mistake at once, with the fix.
func (c *config) validate() error {
	errs := slices.Clone(c.mistakes)
	mistake := func(format string, args ...any) {
		errs = append(errs, errorf(format, args...))
	}
	check := func(limit Limit, given string) {
		if limit == noLimit {
			mistake("%s: only a limit function returns Unlimited; leave the limiter out, or WithLimit", given)
		} else if err := limit.Validate(); err != nil {
			mistake("%s: %w", given, err)
		}
	}
	switch {
	case c.hasRefill && c.refill.validate() != nil:
		mistake("WithRefillRate(%v): tokens and period must be positive, for example PerSecond(10)", c.refill)
	case c.hasRefill && c.hasCapacity:
		if c.capacity > 0 {
			check(c.refill.Burst(c.capacity), fmt.Sprintf("WithCapacity(%d) and WithRefillRate(%v)", c.capacity, c.refill))
		}
	case c.hasRefill:
		check(c.refill.Burst(c.refill.Tokens), fmt.Sprintf("WithRefillRate(%v)", c.refill))
	case c.hasCapacity:
		mistake("WithCapacity(%d) needs WithRefillRate, for how fast the bucket refills: for example WithRefillRate(PerSecond(10))", c.capacity)
	case len(c.given) == 0:
		mistake("no limit is given; use WithLimit(PerMinute(100).Burst(200)), or WithRefillRate(PerSecond(10))")
	}
	if c.hasCapacity && c.capacity < 1 {
		mistake("WithCapacity(%d): must be at least 1", c.capacity)
	}
	for i, limit := range withCapacities(c.given) {
		check(limit, fmt.Sprintf("WithLimit(%v)", c.given[i]))
	}
	if n := len(c.given); n > MaxLimits || n == MaxLimits && c.hasRefill {
		mistake("WithLimit: %d limits, that of WithRefillRate not counted: at most %d in all", n, MaxLimits)
	}
	switch {
	case len(c.names) > 1:
		mistake("WithName(%q): the limiter is already named %q; give one name", clip(c.names[1]), clip(c.names[0]))
	case len(c.names) == 1:
		if reason := checkName(c.names[0]); reason != "" {
			mistake("WithName(%q): %s", clip(c.names[0]), reason)
		}
	case c.store != nil:
		mistake("WithStore needs WithName: a store may serve many limiters, and the name keeps their buckets apart; " +
			"for example WithName(\"login\")")
	}
	for _, text := range c.nils {
		mistake("%s", text)
	}
	return errors.Join(errs...)
}

// limits are the buckets of WithRefillRate and WithCapacity, if given, and of WithLimit.
func (c *config) limits() []Limit {
	var limits []Limit
	if c.hasRefill {
		limits = append(limits, c.refill.Burst(c.capacity))
	}
	return withCapacities(append(limits, c.given...))
}

// checkName returns what is wrong with a name, or "". Names are used unescaped in structured fields, and before a ':' in
// keys.
func checkName(name string) string {
	const maxLength = 64
	if name == "" || len(name) > maxLength {
		return fmt.Sprintf("must have 1 to %d characters", maxLength)
	}
	for _, r := range name {
		if r < ' ' || r > '~' || r == ':' || r == '"' || r == '\\' {
			return fmt.Sprintf("must not contain %q; use printable ASCII without ':', '\"' and '\\'", r)
		}
	}
	return ""
}
