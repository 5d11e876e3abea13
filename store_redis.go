package ratelimit

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/gin-ratelimit/ratelimit/internal/bucket"
	"github.com/gin-ratelimit/ratelimit/internal/lease"
	"github.com/gin-ratelimit/ratelimit/internal/script"
)

// RedisStore keeps buckets in Redis, for deployments of several instances. A decision is one script, run
// atomically in one round trip on the server's clock, so that clients with different clocks agree.
//
// It works with Redis 6.2 to 8, Valkey 8 and 9, and what speaks their protocol, on one server, behind Sentinel, on a cluster
// and on a Ring (which hands out fresh buckets for the keys that move when it is rehashed). The smallest
// ACL is
//
//	~ratelimit:* nocommands +evalsha +eval +get +set +time
//
// and +cluster|slots on a cluster. Every key expires once its buckets are full. Run Redis with
// maxmemory-policy noeviction: a key that is evicted is a bucket refilled.
//
// Takes that come together are sent as one command, with the store's own context. A hook of the client, as for tracing,
// then sees one command for many takes, which is not linked to any one request. A take that is sent alone has the values
// of its request's context.
//
// The client begins each connection with HELLO. A proxy that closes the connection on it, as twemproxy does, cannot be
// used.
type RedisStore struct {
	client redis.UniversalClient
	script *script.Runner
	denied *denyCache
	limits limitsMemo[*script.Limits]
	lease  *lease.Book[Limit] // nil without WithLease
	prefix string
	budget time.Duration
}

// RedisOption configures [NewRedisStore].
type RedisOption func(*redisConfig)

type redisConfig struct {
	prefix  string
	timeout time.Duration
	denials int
	lease   *time.Duration
}

// WithKeyPrefix sets what every key in Redis begins with. Default: "ratelimit:". A hash tag in it
// ("{ratelimit}:") puts all keys on one node of a cluster, which is rarely wanted.
func WithKeyPrefix(prefix string) RedisOption { return func(c *redisConfig) { c.prefix = prefix } }

// WithTimeout sets how long one decision may take, including the wait for a connection. A decision that takes longer is an
// error, for the limiter's error handler. The timeout replaces the Redis client's own timeouts, and the cancellation of
// the request: an HTTP client that hangs up must not look like a store that fails. Default: 50 ms.
func WithTimeout(budget time.Duration) RedisOption {
	return func(c *redisConfig) { c.timeout = budget }
}

// WithDenyCache sets how many refused keys are remembered, rounded up to a power of two. A refusal holds until its retry
// time, so the same take is refused without asking Redis again, for a second at most. A Reset or an Adjust by another
// process is seen after that second; one through this store at once. Default: 4096, which is about 1 MB when full. 0 turns
// it off.
func WithDenyCache(entries int) RedisOption { return func(c *redisConfig) { c.denials = entries } }

// NewRedisStore returns a store on client, which stays the caller's to close. Redis need not be up yet.
//
// A *redis.Client, for one server or by NewFailoverClient, works as it is. But if it has hooks, as for tracing, make it
// with ContextTimeoutEnabled: true. Otherwise the store works on a copy, and go-redis leaves hooks out of copies.
//
// A *redis.ClusterClient or a *redis.Ring must be made with ContextTimeoutEnabled: true. Without it, go-redis waits for its
// own timeouts, which are seconds, and not for [WithTimeout], so NewRedisStore returns an error. Whatever retries the
// client is configured for, a take is sent at most once.
//
// DialerRetries: 1 is worth setting in the client's options: by default go-redis dials a server that is down five
// times, 100 ms apart, so that each take uses up its budget and reports a timeout instead of the refusal.
func NewRedisStore(client redis.UniversalClient, opts ...RedisOption) (*RedisStore, error) {
	config := redisConfig{prefix: "ratelimit:", timeout: 50 * time.Millisecond, denials: 4096}
	for _, opt := range opts {
		opt(&config)
	}
	var errs []error
	if config.timeout <= 0 {
		errs = append(errs, errorf("WithTimeout(%v): must be positive, for example 50*time.Millisecond", config.timeout))
	}
	if config.denials < 0 || config.denials > 1<<24 {
		errs = append(errs, errorf("WithDenyCache(%d): must be from 0, which turns it off, to %d", config.denials, 1<<24))
	}
	client, err := withBudget(client, config.timeout)
	if err := errors.Join(append(errs, checkLease(config.lease), err)...); err != nil {
		return nil, err
	}
	s := &RedisStore{
		client: client,
		script: script.New(client, script.Config{Prefix: config.prefix, Budget: config.timeout}),
		denied: newDenyCache(config.denials),
		prefix: config.prefix,
		budget: config.timeout,
	}
	s.lease = s.newLease(config.lease)
	return s, nil
}

// withBudget returns client, or one on the same connections, that gives up when a call's context does.
func withBudget(client redis.UniversalClient, budget time.Duration) (redis.UniversalClient, error) {
	kept, kind := false, ""
	switch c := client.(type) {
	case nil:
		return nil, errorf("NewRedisStore(nil): needs a client, for example redis.NewClient(&redis.Options{Addr: \"localhost:6379\"})")
	case *redis.Client:
		if c == nil {
			return withBudget(nil, budget)
		}
		if c.Options().ContextTimeoutEnabled {
			return c, nil
		}
		// The clone has its own copy of the options, so changing them does not change the client. A read may take as long
		// as the client's options allow, so that a late reply does not cost the connection, and no less than the budget.
		read, write := c.Options().ReadTimeout, c.Options().WriteTimeout
		clone := c.WithTimeout(budget)
		options := clone.Options()
		options.ContextTimeoutEnabled = true
		if read <= 0 || read > budget {
			options.ReadTimeout = read
		}
		if write <= 0 || write > budget {
			options.WriteTimeout = write
		}
		return clone, nil
	case *redis.ClusterClient:
		kept, kind = c.Options().ContextTimeoutEnabled, "redis.ClusterOptions"
	case *redis.Ring:
		kept, kind = c.Options().ContextTimeoutEnabled, "redis.RingOptions"
	default:
		return nil, errorf("NewRedisStore(%T): a client of this type may not keep WithTimeout; "+
			"pass the *redis.Client, *redis.ClusterClient or *redis.Ring itself", client)
	}
	if !kept {
		return nil, errorf("NewRedisStore(%T): it waits for its own timeouts instead of WithTimeout's; "+
			"make it with ContextTimeoutEnabled: true in %s", client, kind)
	}
	return client, nil
}

// Take implements [Store].
func (s *RedisStore) Take(ctx context.Context, key string, take Take) (r Result, err error) {
	if s.lease != nil && take.N > 0 && take.plain() {
		if ok, err := s.takeLeased(&r, key, &take); ok {
			return r, err
		}
	}
	return s.takeFromRedis(ctx, key, take)
}

// takeFromRedis is Take without a lease.
func (s *RedisStore) takeFromRedis(ctx context.Context, key string, take Take) (Result, error) {
	c, err := take.change()
	if err != nil {
		return Result{}, err
	}
	if r, ok := s.denied.find(key, &take, &c); ok {
		return r, nil
	}
	changes, sent := s.denied.changes(key), time.Now()
	scales, o, err := s.change(ctx, key, &c, take.Limits)
	if err != nil {
		return Result{}, err
	}
	if take.N == 0 {
		s.lessHeld(key, scales, o.Deficits)
	}
	r := resultOf(&c, SourceRedis, take.Limits, scales, &o)
	if !o.Allowed {
		lasts := r.RetryAfter
		if c.Ban != nil {
			lasts = ticksToDuration(o.Banned) // After the ban, refusals count as strikes, so takes must reach Redis.
		}
		s.denied.add(key, &denial{take: take, scales: scales, outcome: o, changes: changes}, sent, lasts)
	}
	return r, nil
}

// Adjust implements [Store].
func (s *RedisStore) Adjust(ctx context.Context, key string, change Adjustment) (Result, error) {
	c, err := change.change(SourceRedis)
	if err != nil {
		return Result{}, err
	}
	rest := c
	if s.lease != nil && c.N > 0 {
		var r Result
		if r, rest.N, err = s.adjustLease(key, &change, &c); rest.N == 0 || err != nil {
			return r, err
		}
	}
	scales, o, err := s.change(ctx, key, &rest, change.Limits)
	if err != nil {
		return Result{}, err
	}
	s.denied.forget(key)
	if s.lease != nil {
		s.lease.Doubt(key)
		s.lessHeld(key, scales, o.Deficits)
	}
	r := resultOf(&c, SourceRedis, change.Limits, scales, &o)
	if change.Receipt.took() {
		r.Receipt = change.Receipt.after(&c, scales)
	}
	return r, nil
}

// Look implements [Store].
func (s *RedisStore) Look(ctx context.Context, key string, limits []Limit) (Usage, error) {
	var l *script.Limits // nil: those that are stored
	if len(limits) > 0 {
		var err error
		if l, err = s.limits.of(limits, newScriptLimits); err != nil {
			return Usage{}, err
		}
	}
	state, clockBehind, err := s.script.Look(ctx, key, l)
	if err != nil {
		return Usage{}, s.redisError(key, err)
	}
	s.lookThroughLease(key, &state)
	return usageOf(SourceRedis, state, limits, clockBehind), nil
}

// Reset implements [Store].
func (s *RedisStore) Reset(ctx context.Context, key string) (found bool, err error) {
	if s.lease != nil {
		s.lease.Forget(key)
		defer s.lease.Forget(key) // Again, or a block that was withdrawn just before the reset could be spent after it.
	}
	found, err = s.script.Reset(ctx, key)
	s.denied.forget(key)
	return found, s.redisError(key, err)
}

// change makes a change in Redis.
func (s *RedisStore) change(ctx context.Context, key string, c *bucket.Change, limits []Limit) ([]bucket.Scale, bucket.Outcome, error) {
	l, err := s.limits.of(limits, newScriptLimits)
	if err != nil {
		return nil, bucket.Outcome{}, err
	}
	o, err := s.script.Change(ctx, key, l, c)
	return l.Scales, o, s.redisError(key, err)
}

// redisError adds to an error that it is about Redis, or about a key there. It is nil for nil.
func (s *RedisStore) redisError(key string, err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, script.ErrForeignState):
		return errorf("redis key %q: %w; delete it, or use another WithKeyPrefix", clip(s.script.Key(key)), ErrForeignState)
	default:
		return errorf("redis: %w", err)
	}
}

func newScriptLimits(limits []Limit) (*script.Limits, error) {
	scales, err := appendScales(make([]bucket.Scale, 0, len(limits)), limits)
	if err != nil {
		return nil, err
	}
	return script.NewLimits(scales), nil
}

// check implements checker. It returns what is wrong with the client, and with those of its servers that answer within
// ctx.
func (s *RedisStore) check(ctx context.Context) []Warning {
	var warnings []Warning
	subject := fmt.Sprintf("RedisStore %q", s.prefix)
	// RouteByLatency and RouteRandomly set ReadOnly.
	if cluster, ok := s.client.(*redis.ClusterClient); ok && cluster.Options().ReadOnly {
		warnings = append(warnings, Warning{
			Code:    WarnReplicaRouting,
			Subject: subject,
			Message: "the client is set up to read from replicas: takes write, so they go to the masters all the same, " +
				"and under the smallest ACL they fail, because the client then sends READONLY",
			Fix: "make the client without ReadOnly, RouteByLatency and RouteRandomly in redis.ClusterOptions",
		})
	}
	if size, timeout := poolOf(s.client); size > 0 && size < script.FewestConnections { // 0: go-redis' default, which is more.
		warnings = append(warnings, Warning{
			Code:    WarnPool,
			Subject: subject,
			Message: fmt.Sprintf("the client may have %d connections to a server: takes that come together wait for each other", size),
			Fix:     fmt.Sprintf("make the client with a PoolSize and a MaxActiveConns of at least %d", script.FewestConnections),
		})
	} else if timeout > 0 && timeout < s.budget {
		warnings = append(warnings, Warning{
			Code:    WarnTimeouts,
			Subject: subject,
			Message: fmt.Sprintf("the client gives a reply up after %v, before WithTimeout's %v, and then closes the connection", timeout, s.budget),
			Fix:     "make the client with a ReadTimeout of several times WithTimeout, or leave go-redis' default of 3s",
		})
	}
	for _, server := range s.script.Inspect(ctx) {
		warnings = append(warnings, s.checkServer(subject, &server)...)
	}
	return warnings
}

// poolOf returns how many connections a client may have to each server, and how long it waits for a reply.
func poolOf(client redis.UniversalClient) (size int, timeout time.Duration) {
	var maxActive int
	switch c := client.(type) {
	case *redis.Client:
		size, maxActive, timeout = c.Options().PoolSize, c.Options().MaxActiveConns, c.Options().ReadTimeout
	case *redis.ClusterClient:
		size, maxActive, timeout = c.Options().PoolSize, c.Options().MaxActiveConns, c.Options().ReadTimeout
	case *redis.Ring:
		size, maxActive, timeout = c.Options().PoolSize, c.Options().MaxActiveConns, c.Options().ReadTimeout
	}
	if maxActive > 0 {
		size = min(size, maxActive)
	}
	return size, timeout
}

// checkServer returns what is wrong with a server.
func (s *RedisStore) checkServer(subject string, server *script.Server) (warnings []Warning) {
	warn := func(code WarningCode, message, fix string) {
		warnings = append(warnings, Warning{code, subject, message, fix})
	}
	if server.Replica {
		warn(WarnReplica, server.Addr+" is a replica: takes write, so each of them fails, while looks succeed",
			"give the client the master's address, or make it by NewFailoverClient without ReplicaOnly")
	}
	if server.Eviction != "" && server.Eviction != "noeviction" {
		warn(WarnEviction, "maxmemory-policy is "+server.Eviction+": when memory is short Redis drops buckets, and a bucket that is dropped is full again",
			"set maxmemory-policy noeviction, or keep the buckets in a Redis of their own")
	}
	if period, ok := s.leases(); ok && period < 4*server.RoundTrip {
		warn(WarnLeasePeriod, fmt.Sprintf("a call to %s takes %v, and a lease is to last %v: it is used up before the next one comes", server.Addr, server.RoundTrip.Round(10*time.Microsecond), period),
			fmt.Sprintf("WithLease(%v) or more", min(time.Second, (4*server.RoundTrip+time.Millisecond).Truncate(time.Millisecond))))
	}
	if rtt := server.RoundTrip.Round(time.Millisecond); rtt > s.budget*3/4 {
		warn(WarnBudget, fmt.Sprintf("a round trip to %s takes %v, and a take may take %v: under load takes will time out", server.Addr, rtt, s.budget),
			fmt.Sprintf("WithTimeout(%v), or a Redis that is nearer", (3*rtt).Round(10*time.Millisecond)))
	}
	return warnings
}
