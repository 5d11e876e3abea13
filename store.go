package ratelimit

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"time"

	"github.com/gin-ratelimit/ratelimit/internal/bucket"
)

// Store is where buckets live. [MemoryStore] keeps them in this process, [RedisStore] in Redis, and both
// decide alike, bit for bit. A Store holds no configuration: limits come with every call, so one Store
// serves any number of limiters. Package storetest has the conformance suite for other implementations.
//
// A changed limit keeps its bucket. A new rate counts from the last take on. A larger capacity is there at once; a
// smaller one keeps of the tokens in the bucket what it can hold, and the store remembers the larger until
// the bucket is full by that. So versions of a program with different limits, side by side on one key, admit
// together no more than one with the largest capacity and rate.
//
// A key has one bucket per limit, matched by position. The buckets of positions that a call does not name
// are left alone. Implementations are safe for concurrent use, and copy key if they keep it: the caller
// may reuse its bytes.
type Store interface {
	// Take withdraws n tokens from each of key's buckets, one per limit, or, if any holds fewer, from
	// none. A bucket that does not exist is full. n == 0 looks and changes nothing.
	//
	// A refusal is a Result and changes nothing. An error means that the store could not decide: it is
	// unreachable, its state is not ours ([ErrForeignState]), or the arguments are wrong ([ErrArgument]).
	Take(ctx context.Context, key string, n int, limits []Limit) (Result, error)

	// Adjust corrects earlier takes once the real cost is known: n > 0 gives tokens back to each of key's
	// buckets, never above the capacity; n < 0 takes tokens that were already spent, without refusing,
	// which may leave a debt that has to refill before anything is admitted. n == 0 changes nothing.
	// A debt is at most 2^53 units (see [Limit]).
	//
	// The Result is the look afterwards.
	Adjust(ctx context.Context, key string, n int, limits []Limit) (Result, error)

	// Reset forgets key, which fills its buckets.
	Reset(ctx context.Context, key string) error
}

// OptionStore is a Store that can take with options. [MemoryStore], [RedisStore] and [FallbackStore] can.
type OptionStore interface {
	Store

	// TakeWith is Take with options, decided as atomically. Without any it is Take.
	TakeWith(ctx context.Context, key string, n int, limits []Limit, options TakeOptions) (Result, error)
}

// TakeOptions is what a take can ask for beyond its limits.
type TakeOptions struct {
	// MaxWait lets a take have tokens that refill within it. The bucket is left in debt, and Result.Wait says
	// when it is out of it, which is when to go on. Rounded down to microseconds.
	MaxWait time.Duration

	// Ban shuts the key out when it is refused too often. A refusal then changes the key's state.
	Ban Ban
}

var (
	// ErrArgument is wrapped by the errors of stores about what they were asked: a negative cost, no
	// limits, or an invalid limit. The store is well.
	ErrArgument = errors.New("invalid argument")

	// ErrForeignState is wrapped by the errors of stores that found something under a key that is not
	// theirs. They leave it untouched.
	ErrForeignState = errors.New("state is not a rate limit's")
)

func negativeCost(n int) error {
	return argumentError(fmt.Errorf("ratelimit: cost %d: must not be negative; Adjust gives tokens back", n))
}

// change is a take of n tokens with the options.
func (o TakeOptions) change(n int) (bucket.Change, error) {
	c := bucket.Change{N: int64(n)}
	if n < 0 {
		return c, negativeCost(n)
	}
	if o.MaxWait < 0 {
		return c, argumentError(fmt.Errorf("ratelimit: MaxWait %v: must not be negative", o.MaxWait))
	}
	c.MaxWait = int64(o.MaxWait / time.Microsecond)
	if o.Ban == (Ban{}) {
		return c, nil
	}
	var err error
	if c.Ban, err = o.Ban.scales(); err != nil {
		return c, argumentError(err)
	}
	return c, nil
}

// isNil reports whether there is no store, also where it is a nil *RedisStore, from a constructor whose error nobody
// has looked at.
func isNil(store Store) bool {
	v := reflect.ValueOf(store)
	return !v.IsValid() || v.Kind() == reflect.Pointer && v.IsNil()
}

// appendScales returns limits in units.
func appendScales(scales []bucket.Scale, limits []Limit) ([]bucket.Scale, error) {
	if len(limits) == 0 {
		return nil, fmt.Errorf("ratelimit: limits: %w: at least one is needed", ErrArgument)
	}
	for _, limit := range limits {
		s, err := scaleOf(limit)
		if err != nil {
			return nil, argumentError(err)
		}
		scales = append(scales, s)
	}
	return scales, nil
}

// argumentError marks an error about a limit.
func argumentError(err error) error { return fmt.Errorf("%w: %w", err, ErrArgument) }
