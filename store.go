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
// A changed limit keeps its bucket. A new rate counts from the last take on. A larger capacity is there at once. A smaller
// one keeps as many of the bucket's tokens as it can hold, and the store remembers the larger capacity until the bucket is
// full by that. So versions of a program with different limits, side by side on one key, together admit no more than one
// version with the largest capacity and rate.
//
// A key has one bucket per limit, matched by position. The buckets of positions that a call does not name
// are left alone. Implementations are safe for concurrent use, and copy key and limits if they keep them: the
// caller may reuse both.
//
// A [Limiter]'s take for a request has the request's context. It ends when the client hangs up, but a store should decide
// all the same, within a time budget of its own. If a store gives up with [context.Canceled] instead, the handlers still
// run, and the request costs nothing.
//
// An error means that the store could not decide: it is unreachable, the key holds something that is not a rate limit
// ([ErrForeignState]), or the arguments are wrong ([ErrArgument]).
type Store interface {
	// Take withdraws tokens from each of key's buckets, one per limit, or, if any holds too few, from none. A bucket
	// that does not exist is full. A refusal is a Result, and changes nothing but the strikes of take.Ban.
	Take(ctx context.Context, key string, take Take) (Result, error)

	// Adjust corrects an earlier take once the real cost is known, and never refuses. The Result is the look
	// afterwards; its Receipt is for further adjustments of the same take.
	Adjust(ctx context.Context, key string, change Adjustment) (Result, error)

	// Look returns what key's buckets hold, and changes nothing. Without limits it returns the buckets that the store
	// holds for key: none where it holds nothing, because that equals full buckets.
	Look(ctx context.Context, key string, limits []Limit) (Usage, error)

	// Reset forgets key, which fills its buckets and lifts its ban. It reports whether there was anything to forget:
	// a token, a strike or a ban.
	Reset(ctx context.Context, key string) (found bool, err error)
}

// MaxLimits is how many limits one call may name. More is an [ErrArgument].
const MaxLimits = 32

// Take is what a [Store] is asked to withdraw.
type Take struct {
	// N is how many tokens. 0 takes none, and is refused only while a bucket is in debt or the key is banned.
	N int

	// Limits is one bucket each, 1 to MaxLimits of them.
	Limits []Limit

	// MaxWait lets a take have tokens that refill within this time. The bucket is then in debt, and Result.Wait is the time
	// until it is not, which the caller has to wait. Rounded down to microseconds. 0: no wait.
	MaxWait time.Duration

	// Ban shuts the key out when it is refused too often. A refusal then changes the key's state. The zero Ban is none.
	Ban Ban
}

// Adjustment is a correction of an earlier take.
//
// N > 0 gives tokens back to each bucket, never above the capacity, and never what the bucket has refilled since: a
// token that was taken is void as soon as the bucket has refilled over it, or it would come back twice. If a bucket lacked
// D tokens right after the take, and refills r a second, N tokens given back e seconds later are worth
// min(N, max(0, D - r·e)), for each limit on its own, by the limits of the take. So what stays charged within any W
// seconds is at most C + r·W, with C the capacity, and what earlier takes gave back within them. If a part of a take is
// given back, what was used counts as its oldest part. After a take that could wait ([Take].MaxWait), a bucket that others
// wait for gets nothing back, because none of them would move up.
//
// Without the Receipt of a take that was allowed there is nothing to give back, and nothing changes. A Receipt of another
// store, or of another number of limits, is an [ErrArgument].
//
// A Receipt from before a Reset, from before an eviction, or of a Redis that has lost its data since, may be worth as
// much as N.
//
// N < 0 takes tokens that were already spent, which may leave a debt that has to refill before anything is admitted.
// A debt is at most 2^53 units (see [Limit]). It is added to the take of the Receipt; without one, it is a take of its
// own, and the Result has its Receipt. N == 0 changes nothing.
type Adjustment struct {
	N       int
	Limits  []Limit // those of the take
	Receipt Receipt // the take's, or that of the adjustment before

	// Leave gives up a place in the queue before its turn: a take whose Wait is not over. What others have reserved behind
	// it is subtracted from its worth, because their places stay where they are, as with CancelAt of golang.org/x/time/rate.
	Leave bool
}

// Usage is what a key's buckets hold.
type Usage struct {
	Limits    []LimitUsage  // by position
	BannedFor time.Duration // until the key is no longer shut out by a Ban; 0 if it is not
	Strikes   int           // refusals that count towards the next ban, rounded up
	Static    bool          // the limits are the limiter's own, because the store holds none for the key
	Source    Source        // which store was asked
}

// LimitUsage is what one bucket holds. Times count from the look, are exact to the microsecond, and rounded up.
type LimitUsage struct {
	Limit      Limit
	Remaining  int           // whole tokens, rounded down, never negative
	Debt       int           // tokens that have to come back before there is anything to take, rounded up
	NextToken  time.Duration // until Remaining grows by one; 0 if the bucket is full
	ResetAfter time.Duration // until the bucket is full; 0 if it is
}

var (
	// ErrArgument is wrapped by a store's errors about its arguments: a negative cost, no limits, or an invalid limit. The
	// store itself works.
	ErrArgument = errors.New("invalid argument")

	// ErrForeignState is wrapped by a store's errors about a key that holds something that is not a rate limit. The store
	// leaves it untouched.
	ErrForeignState = errors.New("state is not a rate limit's")
)

func negativeCost(n int) error {
	return argumentError(errorf("cost %d: must not be negative; Adjust gives tokens back", n))
}

// plain reports whether the take has no wait and no ban, as nearly all takes. For these, calling change would cost more
// than the take itself.
func (t *Take) plain() bool { return t.N >= 0 && t.MaxWait == 0 && t.Ban == (Ban{}) }

// change returns the take in units.
func (t *Take) change() (bucket.Change, error) {
	c := bucket.Change{N: int64(t.N)}
	if t.N < 0 {
		return c, negativeCost(t.N)
	}
	if t.MaxWait < 0 {
		return c, argumentError(errorf("MaxWait %v: must not be negative", t.MaxWait))
	}
	c.MaxWait = int64(t.MaxWait / time.Microsecond)
	if t.Ban == (Ban{}) {
		return c, nil
	}
	var err error
	if c.Ban, err = t.Ban.scales(); err != nil {
		return c, argumentError(err)
	}
	return c, nil
}

// change returns the adjustment in units, for a store whose receipts are of source.
func (a *Adjustment) change(source Source) (bucket.Change, error) {
	if a.N <= 0 {
		return bucket.Change{N: -max(int64(a.N), -bucket.MaxDeficit), Debt: true}, nil
	}
	r := &a.Receipt
	switch {
	case !r.took():
		return bucket.Change{N: int64(a.N), Back: &bucket.Back{Deficits: make([]int64, len(a.Limits))}}, nil
	case r.Source() != source && !(source == SourceMemory && r.Source() == SourceOverflow) &&
		!(source == SourceRedis && r.Source() == SourceLease):
		return bucket.Change{}, argumentError(errorf("Adjust by %d: the Receipt is of another store (%v); "+
			"give back to the store that took", a.N, r.Source()))
	case r.Len() != len(a.Limits):
		return bucket.Change{}, argumentError(errorf("Adjust by %d: the Receipt is of %d limits, and %d are given; "+
			"give back by the limits of the take", a.N, r.Len(), len(a.Limits)))
	}
	return bucket.Change{N: int64(a.N), Back: &bucket.Back{
		At: r.at, Deficits: r.deficits(), Leave: a.Leave, Queued: r.queued(), Shared: r.Source() == SourceOverflow,
	}}, nil
}

// isNil reports whether there is no store. A nil *RedisStore counts as none: it comes from a constructor whose error
// was ignored.
func isNil(store Store) bool {
	v := reflect.ValueOf(store)
	return !v.IsValid() || v.Kind() == reflect.Pointer && v.IsNil()
}

// appendScales returns limits in units.
func appendScales(scales []bucket.Scale, limits []Limit) ([]bucket.Scale, error) {
	switch {
	case len(limits) == 0:
		return nil, argumentError(errorf("no limits: at least one is needed"))
	case len(limits) > MaxLimits:
		return nil, argumentError(errorf("%d limits: at most %d", len(limits), MaxLimits))
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

// argumentError makes an error wrap ErrArgument.
func argumentError(err error) error {
	if errors.Is(err, ErrArgument) {
		return err
	}
	return errorf("%w: %w", err, ErrArgument)
}

// errorf is fmt.Errorf for errors that leave the package. Their text has "ratelimit: " once, at its beginning, however many
// such errors they wrap.
func errorf(format string, args ...any) error {
	for i, arg := range args {
		if err, ok := arg.(prefixedError); ok { // A prefixedError within another error keeps its prefix.
			args[i] = innerError{err}
		}
	}
	return prefixedError{fmt.Errorf(format, args...)}
}

// prefixedError is an error whose text begins with the package's name.
type prefixedError struct{ error }

func (e prefixedError) Error() string { return "ratelimit: " + e.error.Error() }
func (e prefixedError) Unwrap() error { return e.error }

// innerError is a prefixedError within another one.
type innerError struct{ outer prefixedError }

func (e innerError) Error() string { return e.outer.error.Error() }
func (e innerError) Unwrap() error { return e.outer }
