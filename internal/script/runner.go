package script

import (
	"context"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/gin-ratelimit/ratelimit/internal/bucket"
)

// Config is what a Runner is told.
type Config struct {
	Prefix string        // what every key in Redis begins with
	Budget time.Duration // how long one call may take
}

// Runner has the script run on a client's servers. It is safe for concurrent use.
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

// Change has the script make a change to the buckets of a key. Errors but [ErrForeignState] are the client's or the
// server's, or say what is wrong with a reply.
func (r *Runner) Change(ctx context.Context, key string, l *Limits, c *bucket.Change) (bucket.Outcome, error) {
	reply, err := r.run(ctx, key, l.args(c))
	if err != nil {
		return bucket.Outcome{}, err
	}
	return decode(reply, len(l.Scales), c.Ban != nil)
}

// Lend has the script withdraw tokens from the buckets of a key, and returns how many each limit has granted.
func (r *Runner) Lend(ctx context.Context, key string, l *Limits, asks []bucket.Ask) (o bucket.Outcome, grants []int64, err error) {
	reply, err := r.run(ctx, key, l.lend(asks))
	if err != nil {
		return bucket.Outcome{}, nil, err
	}
	// The grants are more numbers of the same kind.
	o, err = decode(reply, 2*len(l.Scales), false)
	if err != nil {
		return bucket.Outcome{}, nil, err
	}
	o.Deficits, grants = o.Deficits[:len(l.Scales)], o.Deficits[len(l.Scales):]
	return o, grants, nil
}

// Look has the script say what a key holds, by limits or, where l is nil, by its own, and how far the server's clock is
// behind that.
func (r *Runner) Look(ctx context.Context, key string, l *Limits) (state bucket.State, late int64, err error) {
	reply, err := r.run(ctx, key, l.look())
	if err != nil {
		return state, 0, err
	}
	return decodeLook(reply)
}

// Reset has the script forget a key, and reports whether there was anything to forget.
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
			break // A server that is down is not up again in some milliseconds; one more try is for another node.
		}
		r.router.failed(err)
		reply, err = r.send(ctx, key, args, deadline)
	}
	if err != nil {
		r.router.failed(err)
	}
	return reply, err
}

// send has the script run where the key lives.
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
