package ratelimit

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"reflect"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/gin-gonic/gin"

	"github.com/gin-ratelimit/ratelimit/internal/lease"
)

// Warning is a mistake in how routes are limited; see [Check]. It is not an error, because the program runs. It prints as
// one line, and in structured logs as a group. Warnings are comparable.
type Warning struct {
	Code    WarningCode // its kind, the same in all versions
	Subject string      // where it is: "POST /login", or `limiter "login" on POST /login`
	Message string      // what is wrong
	Fix     string      // what to do about it
}

// WarningCode names a kind of [Warning].
type WarningCode string

// The kinds of warnings.
const (
	WarnForgeableKey   WarningCode = "forgeable_key"       // a header that anybody can send changes the key
	WarnCredentials    WarningCode = "made_up_credentials" // credentials that nobody has verified change the key
	WarnPlatformHeader WarningCode = "platform_header"     // the same, by engine.TrustedPlatform: right if only the platform can connect
	WarnBeforeCORS     WarningCode = "before_cors"         // the limiter runs before cors: browsers cannot read its refusals
	WarnUnstableKey    WarningCode = "unstable_key"        // two requests of one client have different keys
	WarnUnixSocket     WarningCode = "unix_socket"         // the key is "" for all clients on a unix socket, and their address elsewhere
	WarnDoubleCharge   WarningCode = "double_charge"       // a request is charged twice to the same buckets
	WarnSharedName     WarningCode = "shared_name"         // limiters with different limits share their buckets
	WarnEviction       WarningCode = "redis_eviction"      // Redis drops buckets when memory is short
	WarnReplicaRouting WarningCode = "redis_replicas"      // a cluster's client is set up to read from replicas
	WarnReplica        WarningCode = "redis_replica"       // the server is a replica, which takes no writes
	WarnBudget         WarningCode = "redis_budget"        // the time budget has no room for a round trip to Redis
	WarnTimeouts       WarningCode = "redis_timeouts"      // the client gives replies up before the time budget does
	WarnPool           WarningCode = "redis_pool"          // the client's pool is too small
	WarnLeasePeriod    WarningCode = "lease_period"        // WithLease's period is shorter than a call to Redis allows
	WarnNotLeased      WarningCode = "not_leased"          // WithLease does nothing for the limiter
	WarnUnlimited      WarningCode = "unlimited_route"     // no limiter stands on the route
	WarnUnreadable     WarningCode = "unreadable_routes"   // Gin's routes are not as this version knows them
)

// String returns the warning in one line.
func (w Warning) String() string {
	return fmt.Sprintf("ratelimit: %s: %s: %s; fix: %s", w.Code, w.Subject, w.Message, w.Fix)
}

// LogValue implements slog.LogValuer.
func (w Warning) LogValue() slog.Value {
	return slog.GroupValue(
		slog.String("code", string(w.Code)),
		slog.String("subject", w.Subject),
		slog.String("message", w.Message),
		slog.String("fix", w.Fix))
}

// Check finds mistakes in how the routes of an engine are limited. Call it at start-up, after the last route is registered:
//
//	for _, warning := range ratelimit.Check(router) {
//		slog.Warn("check your rate limits", "warning", warning)
//	}
//
// or in a test, which passes over what is intended by Code and Subject. It prints nothing, and returns nil if it finds
// nothing.
//
// It runs no handler. It calls the limiters' KeyFuncs, with made-up requests for "/" from addresses that are reserved for
// documentation, with made-up credentials or none. A KeyFunc that panics on them is not checked. Other middleware is
// known by the names of its functions.
//
// It asks the server of a [RedisStore] for its eviction policy and its role (INFO memory, INFO replication), and measures
// the round trip. All servers together have half a second. If they do not answer in time, or their ACL does not permit
// the question, Check reports nothing about them.
//
// It cannot see a limiter that another handler calls, as in if !internal(c) { limiter(c) }, and reports the route as
// unlimited. Use [WithSkip], [When] or [Stack] instead.
func Check(engine *gin.Engine) []Warning {
	i := inspection{engine: engine}
	routes, ok := routesOf(engine)
	i.run(routes, ok)
	return i.warnings
}

// inspection is a Check under way.
type inspection struct {
	engine   *gin.Engine
	limiters []placed
	warned   []warnedOf
	warnings []Warning
}

// warnedOf is a warning of which one for each limiter is enough.
type warnedOf struct {
	code    WarningCode
	limiter *Limiter
}

func (i *inspection) run(routes []route, readable bool) {
	if !readable {
		routes = []route{{path: "every route", handlers: i.engine.Handlers}}
	}
	slices.SortFunc(routes, func(a, b route) int {
		return cmp.Or(cmp.Compare(a.path, b.path), cmp.Compare(a.method, b.method))
	})
	var unlimited []string
	for _, r := range routes {
		limiters := r.limiters()
		if len(limiters) == 0 && r.path != "" {
			unlimited = append(unlimited, r.name())
		}
		for _, l := range limiters {
			i.meet(l, r)
			i.checkCredentials(l, r)
			i.checkCORS(l, r)
		}
		i.checkRoute(r, limiters)
	}
	i.checkNames()
	i.checkStores()
	i.checkLeases()
	if !readable {
		i.warn(WarnUnreadable, "engine",
			"the handlers of its routes cannot be read, because this version of Gin keeps them differently; only limiters on the engine itself were checked",
			"use the version of Gin that this library's go.mod names, or update the library")
		return
	}
	for _, name := range unlimited {
		i.warn(WarnUnlimited, name, "it has no limiter",
			"register one on the engine, the group or the route; it applies to routes that are registered after it")
	}
}

// placed is a limiter, and the first route that has it.
type placed struct {
	*Limiter
	route string
}

func (p placed) String() string { return fmt.Sprintf("limiter %q on %s", p.name, p.route) }

// warn adds a warning, once.
func (i *inspection) warn(code WarningCode, subject, message, fix string) {
	if w := (Warning{code, subject, message, fix}); !slices.Contains(i.warnings, w) {
		i.warnings = append(i.warnings, w)
	}
}

// warnOnce adds a warning, if none of its code is there for the limiter.
func (i *inspection) warnOnce(code WarningCode, p placed, message, fix string) {
	if w := (warnedOf{code, p.Limiter}); !slices.Contains(i.warned, w) {
		i.warned = append(i.warned, w)
		i.warn(code, p.String(), message, fix)
	}
}

// meet checks a limiter that was not met before.
func (i *inspection) meet(l *Limiter, r route) {
	if slices.ContainsFunc(i.limiters, func(p placed) bool { return p.Limiter == l }) {
		return
	}
	p := placed{l, r.name()}
	i.limiters = append(i.limiters, p)
	i.checkKey(p)
}

// visitor is a made-up request: its peer, whether on a unix socket, and the headers that claim another address.
type visitor struct {
	peer   string
	unix   bool
	claims []string

	credential, value string // a header of its own, and what it says
}

const (
	someone       = "192.0.2.1:1024" // RFC 5737: nobody has it, so no proxy does
	someoneByIPv6 = "[2001:db8::1]:1024"
	someoneAgain  = "192.0.2.1:2048"
	somebodyElse  = "192.0.2.2:1024"
	claimed       = "198.51.100.7"
)

// key returns what a visitor is counted against. It is not ok if the KeyFunc panics.
func (v visitor) key(engine *gin.Engine, of KeyFunc) (key string, ok bool) {
	defer func() {
		if recover() != nil {
			key, ok = "", false
		}
	}()
	ctx := context.Background()
	if v.unix {
		ctx = context.WithValue(ctx, http.LocalAddrContextKey, net.Addr(&net.UnixAddr{Net: "unix"}))
	}
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, "/", http.NoBody)
	if err != nil {
		return "", false
	}
	r.RemoteAddr = v.peer
	for _, header := range v.claims {
		value := claimed
		if header == "Forwarded" {
			value = "for=" + claimed
		}
		r.Header.Set(header, value)
	}
	switch v.credential {
	case "":
	case "Authorization":
		r.Header.Set(v.credential, "Bearer "+v.value)
	case "Cookie":
		r.Header.Set(v.credential, "session="+v.value)
	default:
		r.Header.Set(v.credential, v.value)
	}
	c := gin.CreateTestContextOnly(nowhere{}, engine)
	c.Request = r
	return of(c), true
}

// nowhere discards a KeyFunc's response.
type nowhere struct{}

func (nowhere) Header() http.Header         { return http.Header{} }
func (nowhere) Write(p []byte) (int, error) { return len(p), nil }
func (nowhere) WriteHeader(int)             {}

// addressHeaders are the headers by which proxies report addresses, and clients forge them.
func addressHeaders(engine *gin.Engine) []string {
	headers := append([]string{
		"X-Forwarded-For", "X-Real-Ip", "Forwarded", "True-Client-Ip", "X-Client-Ip", "X-Cluster-Client-Ip",
		"Cf-Connecting-Ip", "Fastly-Client-Ip", "Fly-Client-Ip", appEngineHeader,
	}, engine.RemoteIPHeaders...)
	if engine.TrustedPlatform != "" {
		headers = append(headers, engine.TrustedPlatform)
	}
	for i, header := range headers {
		headers[i] = http.CanonicalHeaderKey(header)
	}
	slices.Sort(headers)
	return slices.Compact(headers)
}

const appEngineHeader = "X-Appengine-Remote-Addr"

// checkKey finds out what a limiter's key depends on, by comparing the keys of different visitors.
func (i *inspection) checkKey(p placed) {
	key, ok := visitor{peer: someone}.key(i.engine, p.key)
	again, okAgain := visitor{peer: someoneAgain}.key(i.engine, p.key)
	if !ok || !okAgain {
		return
	}
	if key != again {
		i.warn(WarnUnstableKey, p.String(),
			"two requests of one client have different keys, so no client is limited: the keys contain the port, the time or a random number",
			"use a key that a client cannot change: its address (ByClientIP) or its account (ByValue)")
		return
	}

	var byEngine, byPlatform, byKeyFunc []string
	for _, header := range addressHeaders(i.engine) {
		switch {
		case !i.believes(p.key, header):
		case !i.believes(ByClientIP, header):
			byKeyFunc = append(byKeyFunc, header)
		case header == http.CanonicalHeaderKey(i.engine.TrustedPlatform), header == appEngineHeader:
			byPlatform = append(byPlatform, header)
		default:
			byEngine = append(byEngine, header)
		}
	}
	const harm = " from every peer, so a client that makes up addresses is not limited"
	if len(byEngine) > 0 {
		i.warn(WarnForgeableKey, p.String(), "the engine trusts "+and(byEngine)+harm,
			"call engine.SetTrustedProxies with the addresses of your proxies, or with nil if there are none")
	}
	if len(byPlatform) > 0 {
		i.warn(WarnPlatformHeader, p.String(), "the engine trusts "+and(byPlatform)+harm,
			"make sure that only the platform can connect to this server, or leave engine.TrustedPlatform empty")
	}
	if len(byKeyFunc) > 0 {
		i.warn(WarnForgeableKey, p.String(), "its KeyFunc trusts "+and(byKeyFunc)+harm,
			"read the address by ByClientIP, and configure engine.SetTrustedProxies")
	}

	other, ok := visitor{peer: somebodyElse}.key(i.engine, p.key)
	if !ok || other == key {
		return // The key is not an address.
	}
	// All headers by which a proxy could report an address are set.
	onSocket := visitor{peer: "@", unix: true, claims: addressHeaders(i.engine)}
	if key, ok := onSocket.key(i.engine, p.key); ok && key == "" {
		i.warn(WarnUnixSocket, p.String(),
			`on a unix socket its key is "", whatever headers the proxy sends, so all clients share one bucket`,
			"use FirstOf(ByRemoteIP, ByClientIP) and set engine.ForwardedByClientIP; the key is then the peer's address if it has one, and otherwise the forwarded one")
	}
}

// checkCredentials finds limiters whose key made-up credentials change, on routes where nothing before them could have
// verified any.
func (i *inspection) checkCredentials(l *Limiter, r route) {
	if slices.ContainsFunc(r.before(l), mayAuthenticate) {
		return
	}
	for _, header := range []string{"Authorization", "X-Api-Key", "Api-Key", "X-Auth-Token", "Cookie"} {
		one, okOne := visitor{peer: someone, credential: header, value: "made-up-1"}.key(i.engine, l.key)
		again, _ := visitor{peer: someone, credential: header, value: "made-up-1"}.key(i.engine, l.key)
		other, okOther := visitor{peer: someone, credential: header, value: "made-up-2"}.key(i.engine, l.key)
		if okOne && okOther && one == again && one != other {
			i.warnOnce(WarnCredentials, placed{l, r.name()},
				"each value of "+header+" has a bucket of its own, and nothing before the limiter verifies it, so a client that makes values up is not limited",
				"register authentication before the limiter, and count by what it has verified, for example ByValue(\"user_id\")")
			return
		}
	}
}

// checkCORS finds limiters that run before cors.
func (i *inspection) checkCORS(l *Limiter, r route) {
	if slices.ContainsFunc(r.handlers[len(r.before(l)):], func(h gin.HandlerFunc) bool { return isFrom(h, corsPackages) }) {
		i.warnOnce(WarnBeforeCORS, placed{l, r.name()},
			"it runs before cors, so it counts preflights, and a browser cannot read its refusals, which have no Access-Control-Allow-Origin",
			"register cors before the limiter")
	}
}

// noAuthentication is the packages whose handlers verify nobody.
var noAuthentication = append([]string{
	"github.com/gin-ratelimit/ratelimit", "github.com/gin-gonic/gin",
	"github.com/gin-contrib/gzip", "github.com/gin-contrib/requestid",
	"github.com/gin-contrib/timeout", "github.com/gin-contrib/sessions",
	"go.opentelemetry.io/contrib/instrumentation/github.com/gin-gonic/gin/otelgin",
}, corsPackages...)

// corsPackages is the packages whose handlers answer preflights.
var corsPackages = []string{"github.com/gin-contrib/cors"}

// mayAuthenticate reports whether a handler may be one that authenticates: any that is not known to do something else.
func mayAuthenticate(handler gin.HandlerFunc) bool {
	return strings.HasPrefix(nameOf(handler), "github.com/gin-gonic/gin.BasicAuth") || !isFrom(handler, noAuthentication)
}

// isFrom reports whether a handler is a function of one of the packages, or of one below.
func isFrom(handler gin.HandlerFunc, packages []string) bool {
	name := nameOf(handler)
	return slices.ContainsFunc(packages, func(pkg string) bool {
		rest, ok := strings.CutPrefix(name, pkg)
		return ok && (strings.HasPrefix(rest, ".") || strings.HasPrefix(rest, "/"))
	})
}

// nameOf is the name of a handler's function, such as "github.com/gin-gonic/gin.Logger.LoggerWithConfig.func1".
func nameOf(handler gin.HandlerFunc) string {
	return runtime.FuncForPC(reflect.ValueOf(handler).Pointer()).Name()
}

// believes reports whether a header changes the key of a peer that nobody trusts.
func (i *inspection) believes(of KeyFunc, header string) bool {
	for _, peer := range []string{someone, someoneByIPv6} {
		honest, ok := visitor{peer: peer}.key(i.engine, of)
		forged, okForged := visitor{peer: peer, claims: []string{header}}.key(i.engine, of)
		if ok && okForged && honest != forged {
			return true
		}
	}
	return false
}

// and joins words as a sentence does.
func and(words []string) string {
	last := len(words) - 1
	if last == 0 {
		return words[0]
	}
	return strings.Join(words[:last], ", ") + " and " + words[last]
}

// checkRoute finds limiters that charge the same buckets for the same request.
func (i *inspection) checkRoute(r route, limiters []*Limiter) {
	for n, l := range limiters {
		for _, earlier := range limiters[:n] {
			switch {
			case l == earlier:
				i.warn(WarnDoubleCharge, r.name(),
					fmt.Sprintf("limiter %q is on it more than once, and charges a request each time", l.name),
					"register it once: on the engine, on the group or on the route")
			case sameBuckets(l, earlier) && i.sameKey(l, earlier):
				i.warn(WarnDoubleCharge, r.name(),
					fmt.Sprintf("two limiters named %q share buckets in one store, so a request is charged twice", l.name),
					"remove one, or give it another name by WithName")
			}
		}
	}
}

// sameKey reports whether two limiters have the same key for a made-up client.
func (i *inspection) sameKey(a, b *Limiter) bool {
	keyOfA, okA := visitor{peer: someone}.key(i.engine, a.key)
	keyOfB, okB := visitor{peer: someone}.key(i.engine, b.key)
	return okA && okB && keyOfA == keyOfB
}

// sameBuckets reports whether equal keys of two limiters are the same buckets.
func sameBuckets(a, b *Limiter) bool {
	x, y := reflect.ValueOf(a.store), reflect.ValueOf(b.store)
	return a.namespace == b.namespace && x.Comparable() && y.Comparable() && a.store == b.store
}

// checkNames finds limiters that share buckets and do not agree on the limits.
func (i *inspection) checkNames() {
	for n, p := range i.limiters {
		for _, earlier := range i.limiters[:n] {
			if sameBuckets(p.Limiter, earlier.Limiter) && !slices.Equal(p.limits, earlier.limits) {
				i.warn(WarnSharedName, p.String(),
					fmt.Sprintf("it shares buckets with the %v, but has other limits: %v instead of %v", earlier, p.limits, earlier.limits),
					"give one of them another name by WithName, or both the same limits")
				break
			}
		}
	}
}

// checker is a Store that can check itself.
type checker interface {
	check(ctx context.Context) []Warning
}

func (i *inspection) checkStores() {
	const budget = 500 * time.Millisecond
	ctx, cancel := context.WithTimeout(context.Background(), budget)
	defer cancel()
	var seen []checker
	for _, p := range i.limiters {
		store, ok := p.store.(checker)
		if !ok || slices.Contains(seen, store) {
			continue
		}
		seen = append(seen, store)
		for _, w := range store.check(ctx) {
			i.warn(w.Code, w.Subject, w.Message, w.Fix)
		}
	}
}

// leaser is a Store that may keep leases; see WithLease.
type leaser interface {
	// leases returns for how long, and whether it keeps any.
	leases() (period time.Duration, ok bool)
}

// checkLeases finds limiters that WithLease does nothing for.
func (i *inspection) checkLeases() {
	for _, p := range i.limiters {
		store, ok := p.store.(leaser)
		if !ok {
			continue
		}
		period, ok := store.leases()
		if !ok {
			continue
		}
		why, fix := "", "that is safe; if the key is not busy, ignore this"
		for _, limit := range p.limits {
			if s, err := scaleOf(limit); err == nil && !lease.LongEnough(&s, period) {
				why = fmt.Sprintf("the limit %v refills in less than %d periods of %v", limit, lease.Shortest, period)
				fix = "a shorter WithLease or a larger capacity; " + fix
			}
		}
		switch {
		case p.ban != (Ban{}):
			why = "it has WithBan, and refusals that count towards a ban must reach Redis"
		case p.maxWait > 0:
			why = "it has WithMaxWait, and the queue is in Redis"
		}
		if why != "" {
			i.warn(WarnNotLeased, p.String(), "each take is a call to Redis in spite of WithLease: "+why, fix)
		}
	}
}

// route is a route of an engine with its handlers. The one for requests that match no route has no method and no path;
// some programs do all their work there.
type route struct {
	method, path string
	handlers     gin.HandlersChain
}

func (r route) name() string {
	switch {
	case r.path == "":
		return "no route"
	case r.method == "":
		return r.path
	default:
		return r.method + " " + r.path
	}
}

// limiters returns the route's limiters, in order.
func (r route) limiters() []*Limiter {
	p := &probe{}
	for _, handler := range r.handlers {
		p.look(handler)
	}
	return p.found
}

// before returns the handlers that run before the limiter, which is on the route.
func (r route) before(l *Limiter) gin.HandlersChain {
	return r.handlers[:slices.IndexFunc(r.handlers, func(h gin.HandlerFunc) bool {
		p := &probe{}
		p.look(h)
		return slices.Contains(p.found, l)
	})]
}

// probe is a response writer to which a limiter adds itself.
type probe struct {
	gin.ResponseWriter
	found []*Limiter
}

// look calls a handler if it is one of this package's, which recognises the probe and does nothing else.
func (p *probe) look(handler gin.HandlerFunc) {
	switch reflect.ValueOf(handler).Pointer() {
	case codeOfHandle, codeOfStack, codeOfWhen:
		handler(&gin.Context{Writer: p})
	}
}

var codeOfHandle, codeOfStack, codeOfWhen uintptr

func init() { // Not where they are declared: When looks for them itself.
	codeOfHandle = reflect.ValueOf((*Limiter)(nil).Handle).Pointer()
	codeOfStack = reflect.ValueOf(stack(nil).handle).Pointer()
	codeOfWhen = reflect.ValueOf(when{}.handle).Pointer()
}
