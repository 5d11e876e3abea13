package ratelimit

import (
	"context"
	"crypto/sha1" //nolint:gosec // The name by which Redis knows a script.
	_ "embed"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/gin-ratelimit/ratelimit/internal/bucket"
)

//go:embed store_redis.lua
var redisScript string

var redisScriptSHA any = func() string {
	sum := sha1.Sum([]byte(redisScript)) //nolint:gosec // See the import.
	return hex.EncodeToString(sum[:])
}()

// RedisStore keeps buckets in Redis, for deployments of several instances. A decision is one script, run
// atomically in one round trip on the server's clock, so that clients with different clocks agree.
//
// It works with Redis 5 to 8 and what speaks its protocol, on one server, behind Sentinel, on a cluster
// and on a Ring (which hands out fresh buckets for the keys that move when it is rehashed). The smallest
// ACL is
//
//	~ratelimit:* nocommands +evalsha +eval +get +set +time
//
// and +cluster|slots on a cluster. Every key expires once its buckets are full. Run Redis with
// maxmemory-policy noeviction: a key that is evicted is a bucket refilled.
type RedisStore struct {
	client  redis.UniversalClient
	process func(context.Context, onceCmd) error
	denied  *denyCache
	limits  limitsMemo[*scriptLimits]
	prefix  string
	budget  time.Duration

	reloader *slotReloader // nil but on a cluster
}

// RedisOption configures [NewRedisStore].
type RedisOption func(*redisConfig)

type redisConfig struct {
	prefix  string
	timeout time.Duration
	denials int
}

// WithKeyPrefix sets what every key in Redis begins with. Default: "ratelimit:". A hash tag in it
// ("{ratelimit}:") puts all keys on one node of a cluster, which is rarely wanted.
func WithKeyPrefix(prefix string) RedisOption { return func(c *redisConfig) { c.prefix = prefix } }

// WithTimeout sets how long one decision may take, waiting for a connection included. What takes longer is
// an error, for the limiter's error handler. It replaces the client's own timeouts and the request's
// cancellation: a client that hangs up must not look like a store that fails. Default: 50 ms.
func WithTimeout(budget time.Duration) RedisOption {
	return func(c *redisConfig) { c.timeout = budget }
}

// WithDenyCache sets how many refused keys are remembered, rounded up to a power of two: a refusal is a fact
// until its retry time, so it is answered without asking Redis again, for a second at the most. A Reset or an
// Adjust by another process is seen after that second; those through this store at once. Default: 4096, which
// is about 1 MB when full. 0 turns it off.
func WithDenyCache(entries int) RedisOption { return func(c *redisConfig) { c.denials = entries } }

// NewRedisStore returns a store on client, which stays the caller's to close. Redis need not be up yet.
//
// A *redis.Client, for one server or by NewFailoverClient, works as it is; but if it has hooks, as for tracing, make
// it with ContextTimeoutEnabled: true, because otherwise the store works on a copy, and go-redis leaves hooks out of
// copies.
//
// A *redis.ClusterClient and a *redis.Ring must be made with ContextTimeoutEnabled: true, because without it go-redis
// waits for its own timeouts, which are seconds, and not for [WithTimeout]; otherwise the error says so. Whatever
// retries the client is configured for, a take is sent at most once.
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
		errs = append(errs, fmt.Errorf("ratelimit: WithTimeout(%v): must be positive, for example 50*time.Millisecond", config.timeout))
	}
	if config.denials < 0 || config.denials > 1<<24 {
		errs = append(errs, fmt.Errorf("ratelimit: WithDenyCache(%d): must be from 0, which turns it off, to %d", config.denials, 1<<24))
	}
	client, err := withBudget(client, config.timeout)
	if err := errors.Join(append(errs, err)...); err != nil {
		return nil, err
	}
	s := &RedisStore{
		client: client, denied: newDenyCache(config.denials), prefix: config.prefix, budget: config.timeout,
	}
	switch client := client.(type) {
	case *redis.Client:
		// Not on a cluster or a Ring, where a batch would wait for the slowest node.
		s.process = (&batcher{merger: merger{client: client, prefix: s.prefix}}).process
	case *redis.ClusterClient:
		s.process = func(ctx context.Context, cmd onceCmd) error {
			// As a pipeline of one: Process first asks a node what kind of command this is, which is not
			// bounded by the budget, and needs the right to COMMAND.
			pipe := client.Pipeline()
			_ = pipe.Process(ctx, cmd) // Only queues it.
			_, err := pipe.Exec(ctx)
			return err
		}
		s.reloader = &slotReloader{cluster: client}
	default:
		s.process = func(ctx context.Context, cmd onceCmd) error { return client.Process(ctx, cmd) }
	}
	return s, nil
}

// withBudget returns client, or one on the same connections, that gives up when a call's context does.
func withBudget(client redis.UniversalClient, budget time.Duration) (redis.UniversalClient, error) {
	kept, kind := false, ""
	switch c := client.(type) {
	case nil:
		return nil, errors.New("ratelimit: NewRedisStore(nil): needs a client, for example redis.NewClient(&redis.Options{Addr: \"localhost:6379\"})")
	case *redis.Client:
		if c == nil {
			return withBudget(nil, budget)
		}
		if c.Options().ContextTimeoutEnabled {
			return c, nil
		}
		// WithTimeout's options are a copy of the client's, so that setting one there changes nothing else.
		// The timeout alone would not do: it is granted anew to each write and read of a take.
		clone := c.WithTimeout(budget)
		clone.Options().ContextTimeoutEnabled = true
		return clone, nil
	case *redis.ClusterClient:
		kept, kind = c.Options().ContextTimeoutEnabled, "redis.ClusterOptions"
	case *redis.Ring:
		kept, kind = c.Options().ContextTimeoutEnabled, "redis.RingOptions"
	default:
		return nil, fmt.Errorf("ratelimit: NewRedisStore(%T): whether it keeps a time budget cannot be seen; "+
			"pass the *redis.Client, *redis.ClusterClient or *redis.Ring itself", client)
	}
	if !kept {
		return nil, fmt.Errorf("ratelimit: NewRedisStore(%T): it waits for its own timeouts instead of WithTimeout's; "+
			"make it with ContextTimeoutEnabled: true in %s", client, kind)
	}
	return client, nil
}

// Take implements [Store].
func (s *RedisStore) Take(ctx context.Context, key string, take Take) (Result, error) {
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
	r := resultOf(&c, SourceRedis, take.Limits, scales, &o)
	if !o.Allowed {
		lasts := r.RetryAfter
		if c.Ban != nil {
			lasts = ticksToDuration(o.Banned) // After the ban, refusals count, and must reach Redis.
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
	scales, o, err := s.change(ctx, key, &c, change.Limits)
	if err != nil {
		return Result{}, err
	}
	s.denied.forget(key)
	r := resultOf(&c, SourceRedis, change.Limits, scales, &o)
	if change.Receipt.took() {
		r.Receipt = change.Receipt.after(&c, scales)
	}
	return r, nil
}

// Look implements [Store].
func (s *RedisStore) Look(ctx context.Context, key string, limits []Limit) (Usage, error) {
	state, late, err := s.look(ctx, key, limits)
	if err != nil {
		return Usage{}, err
	}
	return usageOf(SourceRedis, state, limits, late), nil
}

// Reset implements [Store].
func (s *RedisStore) Reset(ctx context.Context, key string) (found bool, err error) {
	reply, err := s.run(ctx, 3, key, []any{"reset"})
	s.denied.forget(key)
	return err == nil && reply[1] == 1, err
}

// change has the script make a change.
func (s *RedisStore) change(ctx context.Context, key string, c *bucket.Change, limits []Limit) ([]bucket.Scale, bucket.Outcome, error) {
	l, err := s.limits.of(limits, newScriptLimits)
	if err != nil {
		return nil, bucket.Outcome{}, err
	}
	numbers := 3 + len(l.scales)
	if c.Ban != nil {
		numbers++
	}
	reply, err := s.run(ctx, numbers, key, l.args(c))
	if err != nil {
		return nil, bucket.Outcome{}, err
	}
	o := bucket.Outcome{Allowed: reply[1] == 1, At: reply[0] + reply[2], Late: reply[2], Deficits: reply[3 : 3+len(l.scales)]}
	if c.Ban != nil {
		o.Banned = reply[numbers-1]
	}
	return l.scales, o, nil
}

// look has the script say what a key holds.
func (s *RedisStore) look(ctx context.Context, key string, limits []Limit) (state bucket.State, late int64, err error) {
	args := make([]any, 0, len(limits)+1)
	if len(limits) > 0 {
		l, err := s.limits.of(limits, newScriptLimits)
		if err != nil {
			return state, 0, err
		}
		for _, fixed := range l.fixed {
			args = append(args, fixed.text)
		}
	}
	reply, err := s.run(ctx, 0, key, append(args, "look"))
	if err != nil {
		return state, 0, err
	}
	if n := len(reply); n < 4 || n%4 != 0 || (reply[3] != int64(n/4-1) && reply[3] != int64(n/4-3)) {
		return state, 0, fmt.Errorf("ratelimit: redis: reply %v to a look", reply)
	}
	levels := make([]bucket.Level, 0, len(reply)/4)
	for i := 4; i < len(reply); i += 4 {
		levels = append(levels, bucket.Level{
			Scale: bucket.Scale{Capacity: reply[i], Token: reply[i+1], PerTick: reply[i+2]}, Deficit: reply[i+3],
		})
	}
	state = bucket.State{Last: reply[0] + reply[2], Levels: levels[:reply[3]]}
	if bans := levels[reply[3]:]; len(bans) == 2 {
		state.Ban = &bucket.Bans{Strikes: bans[0], Memory: bans[1]}
	}
	return state, reply[2], nil
}

// run sends the script within the budget, and returns its reply of so many numbers, or of any many for 0.
func (s *RedisStore) run(ctx context.Context, numbers int, key string, args []any) ([]int64, error) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), s.budget)
	defer cancel()
	key = s.prefix + escapeKey(key)
	reply, err := s.send(ctx, key, args)
	for i, delay := range retryDelays {
		if err == nil || !mayRetry(err) || i > 0 && isDialError(err) || !pause(ctx, delay) {
			break // A server that is down is not up again in some milliseconds; one more try is for another node.
		}
		s.reloader.failed(err)
		reply, err = s.send(ctx, key, args)
	}
	s.reloader.failed(err)
	if err != nil {
		return nil, fmt.Errorf("ratelimit: redis: %w", err)
	}
	if len(reply) == max(2, numbers) && reply[1] == -1 {
		return nil, fmt.Errorf("ratelimit: redis key %q: %w; delete it, or use another WithKeyPrefix", clip(key), ErrForeignState)
	}
	if numbers > 0 && len(reply) != numbers || len(reply) < 3 || reply[1] > 1 ||
		slices.ContainsFunc(reply, func(n int64) bool { return n < 0 || n > bucket.MaxDeficit }) {
		return nil, fmt.Errorf("ratelimit: redis: reply %v: want %d numbers from 0 to %d, the second at most 1", reply, numbers, int64(bucket.MaxDeficit))
	}
	return reply, nil
}

// send has the script run, by its name, or in full where it is not known: then nothing ran, and EVAL makes it
// known on that node, too.
func (s *RedisStore) send(ctx context.Context, key string, args []any) ([]int64, error) {
	call := scriptCall{"evalsha", redisScriptSHA, []string{key}, args}
	reply, err := s.reply(ctx, call)
	if redis.HasErrorPrefix(err, "NOSCRIPT") {
		call.command, call.script = "eval", redisScript
		return s.reply(ctx, call)
	}
	return reply, err
}

func (s *RedisStore) reply(ctx context.Context, call scriptCall) ([]int64, error) {
	cmd := newOnceCmd(ctx, call)
	if err := s.process(ctx, cmd); err != nil {
		return nil, err
	}
	return cmd.Val(), nil
}

// scriptCall is one run of the script, by EVALSHA and its name, or by EVAL and its text. All are strings; those that
// calls share are of the type in which go-redis wants them, for to make one of the other allocates.
type scriptCall struct {
	command, script any
	keys            []string
	args            []any
}

// onceCmd is not sent again when its reply is lost: the script may have run, and a second run charges twice.
type onceCmd struct {
	*redis.IntSliceCmd
	scriptCall
}

func newOnceCmd(ctx context.Context, call scriptCall) onceCmd {
	args := make([]any, 0, 3+len(call.keys)+len(call.args))
	args = append(args, call.command, call.script, len(call.keys))
	for _, key := range call.keys {
		args = append(args, key)
	}
	args = append(args, call.args...)
	return onceCmd{redis.NewIntSliceCmd(ctx, args...), call}
}

// NoRetry implements redis.Cmder.
func (onceCmd) NoRetry() bool { return true }

// escapeKey makes a key safe for Redis Cluster, where braces choose the slot, and legible in a terminal. It
// is injective: what it changes is escaped as in URLs, "%" included.
func escapeKey(key string) string {
	plain := func(b byte) bool { return b > ' ' && b < 0x7f && b != '{' && b != '}' && b != '%' }
	i := 0
	for i < len(key) && plain(key[i]) {
		i++
	}
	if i == len(key) {
		return key
	}
	var escaped strings.Builder
	escaped.WriteString(key[:i])
	for ; i < len(key); i++ {
		if plain(key[i]) {
			escaped.WriteByte(key[i])
		} else {
			const hexDigits = "0123456789ABCDEF"
			escaped.WriteByte('%')
			escaped.WriteByte(hexDigits[key[i]>>4])
			escaped.WriteByte(hexDigits[key[i]&15])
		}
	}
	return escaped.String()
}
