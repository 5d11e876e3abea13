package script

import (
	"context"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/gin-ratelimit/ratelimit/internal/bucket"
)

// Config configures a Runner.
type Config struct {
	Prefix string        // what every key in Redis begins with
	Budget time.Duration // how long one call may take
}

// Runner runs the script on a client's servers. It is safe for concurrent use.
type Runner struct {
	client redis.UniversalClient
	config Config
	router router
}

// New returns a runner on client, a *redis.Client, *redis.ClusterClient or *redis.Ring, whose calls must end with their
// context's deadline.
func New(client redis.UniversalClient, config Config) *Runner {
	return &Runner{client: client, config: config, router: newRouter(client, config)}
}

// Change makes a change to the buckets of a key. Its errors are [ErrForeignState], the client's, the server's, or about a
// malformed reply.
func (r *Runner) Change(ctx context.Context, key string, l *Limits, c *bucket.Change) (bucket.Outcome, error) {
	reply, err := r.run(ctx, key, l.args(c))
	if err != nil {
		return bucket.Outcome{}, err
	}
	return decode(reply, len(l.Scales), c.Ban != nil)
}

// Lend withdraws tokens from the buckets of a key for a lease, and returns how many each limit has granted.
func (r *Runner) Lend(ctx context.Context, key string, l *Limits, asks []bucket.Ask) (o bucket.Outcome, grants []int64, err error) {
	reply, err := r.run(ctx, key, l.lend(asks))
	if err != nil {
		return bucket.Outcome{}, nil, err
	}
	// In the reply, the grants follow the deficits.
	o, err = decode(reply, 2*len(l.Scales), false)
	if err != nil {
		return bucket.Outcome{}, nil, err
	}
	o.Deficits, grants = o.Deficits[:len(l.Scales)], o.Deficits[len(l.Scales):]
	return o, grants, nil
}

// Look returns what a key holds, by the limits l, or by the stored ones where l is nil, and how many ticks the server's
// clock is behind that state.
func (r *Runner) Look(ctx context.Context, key string, l *Limits) (state bucket.State, clockBehind int64, err error) {
	reply, err := r.run(ctx, key, l.look())
	if err != nil {
		return state, 0, err
	}
	return decodeLook(reply)
}

// Reset forgets a key, and reports whether there was anything to forget.
func (r *Runner) Reset(ctx context.Context, key string) (found bool, err error) {
	reply, err := r.run(ctx, key, reset)
	if err != nil {
		return false, err
	}
	o, err := decode(reply, 0, false)
	return o.Allowed, err
}

// Key is a key as it is called in Redis.
func (r *Runner) Key(key string) string { return r.config.Prefix + escapeKey(key) }

// run sends the script within the budget, and returns its reply.
func (r *Runner) run(ctx context.Context, key string, args []any) ([]int64, error) {
	deadline := time.Now().Add(r.config.Budget)
	key = r.Key(key)
	reply, err := r.send(ctx, key, args, deadline)
	for i, delay := range retryDelays {
		if err == nil || !mayRetry(err) || i > 0 && isDialError(err) || !pause(deadline, delay) {
			break // A server that is down stays down for longer than the delays. One retry is enough to find another node.
		}
		r.router.failed(err)
		reply, err = r.send(ctx, key, args, deadline)
	}
	if err != nil {
		r.router.failed(err)
	}
	return reply, err
}

// send runs the script on the server of the key.
func (r *Runner) send(ctx context.Context, key string, args []any, deadline time.Time) ([]int64, error) {
	n, err := r.router.route(key, deadline)
	if err != nil {
		return nil, err
	}
	t := &take{ctx: ctx, key: key, args: args, deadline: deadline}
	if err := n.do(t); err != nil {
		if err = r.router.redirect(t, err); err != nil {
			return nil, err
		}
	}
	return t.reply, nil
}

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
