// Package limitconfig reads the limits of a rate limiter from a YAML or JSON document: in general, by route,
// by plan, by key. The document can be replaced while requests come in, and buckets stay as they are.
//
//	default: 100/m burst 200               # where nothing below applies
//
//	routes:                                # these have buckets of their own
//	  POST /login: 5/m
//	  /search: [10/s, 1000/h]              # every method; both limits must have tokens
//
//	plans:                                 # what WithPlan's function returns
//	  pro: 1000/m
//	  enterprise:
//	    default: [50/s burst 500, 100000/h]
//	    routes:
//	      /search: 100/s
//
//	keys:                                  # what the KeyFunc returns
//	  192.0.2.7: 1000/s
//	  2001:db8::/64: {default: 1/s, routes: {POST /login: 1/h}}
//
// It is loaded at start-up and put into a limiter by one option:
//
//	limits, err := limitconfig.Load(document, limitconfig.WithPlan(planOf))
//	…
//	router.Use(ratelimit.New(limits.Option(), ratelimit.WithName("api")))
//
// # The document
//
// A limit is text as ratelimit.Limit reads it: "10/s", "100/m burst 200", "1/86.4s". Limits are one or a list of
// them, and a request must find enough tokens in all.
//
//	default  limits               required
//	routes   route: limits        "POST /login", or "/login" for every method
//	plans    plan: limits, or a mapping of default and routes
//	keys     key: limits, or a mapping of default and routes
//
// Routes are written as they are registered, groups' prefixes and parameters included: "GET /users/:id". See
// [Config.Check]. A key is what the KeyFunc returns, to the letter: ratelimit.ByClientIP returns IPv6
// addresses as their /64. "" is requests without a key. For networks see the module extra/iplist.
//
// Everything else is a mistake: unknown fields, repeated names, text that is not a limit, tags and merge keys. Anchors and
// aliases are allowed. Mistakes are reported all at once, each with its line, its field and what to write instead (see
// [Mistake]); of more than 100, the first 100. If the syntax itself is broken, nothing behind the mistake can be read, so
// it is the only one. JSON is read as YAML, which it is; of its escapes, pairs like "\ud83d\ude00" are not supported.
//
// # Which limits apply
//
// The route comes first: the limits that the key's routes give it, or else the plan's routes, or else the document's. If
// none of them names the route, the default applies: the key's, or else the plan's, or else the document's. Within one
// list of routes "POST /login" goes before "/login". So a strict limit on /login applies to every plan and key that does
// not name /login itself.
//
// # Which buckets
//
// A client has one set of buckets for each route that the document names anywhere, and one more for all other routes
// together. If both "GET /x" and "/x" are named, GET has the first and all other methods the second. So five requests a
// minute to /login are five, whatever else the client does.
//
// Buckets outlive a change of limits, whether of the document or of the client's plan, and are matched by position: what
// was spent of the first bucket is spent of the new first limit. If the new list is longer, its last limits begin full; if
// it is shorter, the last buckets refill until they are used again. So keep limits of one kind in one position, as in
// [per second, per hour] for every plan; otherwise tokens that were spent of the hour's limit are missing from the
// second's. A route that is named for the first time begins full.
package limitconfig

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"

	"github.com/gin-gonic/gin"

	"github.com/gin-ratelimit/ratelimit"
)

// Config is the limits of a document. It is safe for concurrent use.
type Config struct {
	rules     atomic.Pointer[rules]             // never changed after they are stored
	static    atomic.Pointer[[]ratelimit.Limit] // of limiters that Option made; nil before
	key       ratelimit.KeyFunc
	customKey bool
	plan      func(*gin.Context) string // nil: there are no plans
	planNames []string                  // nil: any
}

// Option configures [Load].
type Option func(*Config) error

// WithKeyFunc sets what a request is counted against, and what it is looked up by under keys. It is called once for each
// request, or twice if the document has keys. Default: ratelimit.ByClientIP.
func WithKeyFunc(key ratelimit.KeyFunc) Option {
	return func(c *Config) error {
		if key == nil {
			return errors.New("limitconfig: WithKeyFunc(nil): needs a KeyFunc, for example ratelimit.ByClientIP")
		}
		c.key, c.customKey = key, true
		return nil
	}
}

// WithPlan sets the function that returns a request's plan, or "" if it has none. A plan that the document does not name
// has no limits of its own. If names are given, they are all the plans there are, and any other in the document is a
// mistake. The function must be safe for concurrent use, and is called at most once for each request. Default: there are
// no plans, and plans in a document are a mistake.
func WithPlan(plan func(*gin.Context) string, names ...string) Option {
	return func(c *Config) error {
		if plan == nil {
			return errors.New("limitconfig: WithPlan(nil): needs a function that returns a request's plan")
		}
		c.plan, c.planNames = plan, names
		return nil
	}
}

// Load reads a document. The error joins all mistakes in it, each a [*Mistake], or else those in the options.
func Load(document []byte, opts ...Option) (*Config, error) {
	c := &Config{key: ratelimit.ByClientIP}
	var errs []error
	for i, opt := range opts {
		if opt == nil {
			errs = append(errs, fmt.Errorf("limitconfig: option %d is nil", i))
			continue
		}
		errs = append(errs, opt(c))
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	if err := c.Replace(document); err != nil {
		return nil, err
	}
	return c, nil
}

// Replace replaces the document, for all requests that come from then on. The error is that of [Load], and leaves the
// document before in force.
func (c *Config) Replace(document []byte) error {
	rules, err := c.parse(document)
	if err != nil {
		return err
	}
	c.rules.Store(rules)
	return nil
}

// Option puts the limits into a limiter. It is the same as WithKeyFunc([Config.Key]), WithLimitFunc([Config.Limits]) and,
// because a limiter has limits of its own too, WithLimit with the present default. Limiter.Take and Limiter.Limits go by
// the latter, even after the document is replaced. To see which limits apply to a client now, use Limiter.Usage in a
// handler, or Limiter.Peek, which goes by what the store holds. Do not use any of these options beside it.
func (c *Config) Option() ratelimit.Option {
	static := slices.Clone(c.rules.Load().everybody.limits)
	c.static.CompareAndSwap(nil, &static)
	return ratelimit.Options(
		ratelimit.WithLimit(*c.static.Load()...),
		ratelimit.WithKeyFunc(c.Key),
		ratelimit.WithLimitFunc(c.Limits),
	)
}

// Limits is the limits that apply to a request, at least one. It is for ratelimit.WithLimitFunc, beside [Config.Key];
// [Config.Option] sets both. The slice is shared: do not change it.
func (c *Config) Limits(gc *gin.Context) []ratelimit.Limit {
	rules := c.rules.Load()
	var key, plan *section
	if len(rules.keys) > 0 {
		key = rules.keys[c.key(gc)]
	}
	if len(rules.plans) > 0 {
		plan = rules.plans[c.plan(gc)]
	}
	return rules.limits(key, plan, routeOf(gc))
}

// Key is the key of the buckets that a request is counted against: [RouteKey] of the KeyFunc's key, and of the route if the
// document names it. It is a ratelimit.KeyFunc.
//
// A request that comes while the document is replaced may be counted by the limits of one document in the buckets of the
// other.
func (c *Config) Key(gc *gin.Context) string {
	return RouteKey(c.rules.Load().bucket(routeOf(gc)), c.key(gc))
}

// Lookup returns what [Config.Limits] and [Config.Key] say of a request, for tools that have no request: the limits that
// hold, and the route whose buckets it is counted in, which is for [RouteKey] and is "" where the document names none. The
// pattern is that of the route, as in "/users/:id", or "" where the request matches none. The slice is shared: do not
// change it.
func (c *Config) Lookup(method, pattern, plan, key string) (limits []ratelimit.Limit, buckets string) {
	rules, route := c.rules.Load(), route{method, pattern}
	return rules.limits(rules.keys[key], rules.plans[plan], route), rules.bucket(route)
}

// Routes returns the routes that the document names, sorted: "/search" for every method, "POST /login".
func (c *Config) Routes() []string {
	return slices.Sorted(maps.Values(c.rules.Load().named))
}

// Plans returns the names of the plans in the document, sorted: "enterprise", "pro".
func (c *Config) Plans() []string {
	return slices.Sorted(maps.Keys(c.rules.Load().plans))
}

// RouteKey is the key of a client's buckets on a route that the document names, for Limiter.Reset:
//
//	limiter.Reset(ctx, limitconfig.RouteKey("POST /login", "192.0.2.7"))
//
// Without a route it is the key of the buckets for all other routes. That is the client's key, unless it begins with '@'.
func RouteKey(route, key string) string {
	// No two pairs make the same key: after the mark comes the route's length.
	const mark = "@"
	if route == "" && !strings.HasPrefix(key, mark) {
		return key
	}
	return mark + strconv.Itoa(len(route)) + ":" + route + key
}

func (c *Config) knowsPlan(name string) bool {
	return c.planNames == nil || slices.Contains(c.planNames, name)
}
