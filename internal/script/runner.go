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
	client   redis.UniversalClient
	config   Config
	process  func(context.Context, onceCmd) error
	reloader *slotReloader // nil but on a cluster
}

// New returns a runner on client, whose calls must end with their context's deadline.
func New(client redis.UniversalClient, config Config) *Runner {
	r := &Runner{client: client, config: config}
	switch client := client.(type) {
	case *redis.Client:
		// Not on a cluster or a Ring, where a batch would wait for the slowest node.
		r.process = (&batcher{merger: merger{client: client, prefix: config.Prefix}}).process
	case *redis.ClusterClient:
		r.process = func(ctx context.Context, cmd onceCmd) error {
			// As a pipeline of one: Process first asks a node what kind of command this is, which is not
			// bounded by the budget, and needs the right to COMMAND.
			pipe := client.Pipeline()
			_ = pipe.Process(ctx, cmd) // Only queues it.
			_, err := pipe.Exec(ctx)
			return err
		}
		r.reloader = &slotReloader{cluster: client}
	default:
		r.process = func(ctx context.Context, cmd onceCmd) error { return client.Process(ctx, cmd) }
	}
	return r
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

// Reset has the script forget a key.
func (r *Runner) Reset(ctx context.Context, key string) error {
	reply, err := r.run(ctx, key, nil)
	if err == nil {
		_, err = decode(reply, 0, false)
	}
	return err
}

// Key is a key as it is called in Redis.
func (r *Runner) Key(key string) string { return r.config.Prefix + escapeKey(key) }

// run sends the script within the budget, and returns its reply.
func (r *Runner) run(ctx context.Context, key string, args []any) ([]int64, error) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), r.config.Budget)
	defer cancel()
	key = r.Key(key)
	reply, err := r.send(ctx, key, args)
	for i, delay := range retryDelays {
		if err == nil || !mayRetry(err) || i > 0 && isDialError(err) || !pause(ctx, delay) {
			break // A server that is down is not up again in some milliseconds; one more try is for another node.
		}
		r.reloader.failed(err)
		reply, err = r.send(ctx, key, args)
	}
	r.reloader.failed(err)
	return reply, err
}

// send has the script run, by its name, or in full where it is not known: then nothing ran, and EVAL makes it
// known on that node, too.
func (r *Runner) send(ctx context.Context, key string, args []any) ([]int64, error) {
	c := call{"evalsha", sha, []string{key}, args}
	reply, err := r.reply(ctx, c)
	if redis.HasErrorPrefix(err, "NOSCRIPT") {
		c.command, c.script = "eval", text
		return r.reply(ctx, c)
	}
	return reply, err
}

func (r *Runner) reply(ctx context.Context, c call) ([]int64, error) {
	cmd := newOnceCmd(ctx, c)
	if err := r.process(ctx, cmd); err != nil {
		return nil, err
	}
	return cmd.Val(), nil
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
