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
// are left alone. Implementations are safe for concurrent use, and copy key and limits if they keep them: the
// caller may reuse both.
//
// The context of a take that a [Limiter] makes for a request is the request's. A client that hangs up ends it, and a store
// decides all the same, within a time budget of its own: the handlers run, also where a store gives up by
// [context.Canceled], and then they have cost nothing.
//
// An error means that the store could not decide: it is unreachable, its state is not ours ([ErrForeignState]), or
// the arguments are wrong ([ErrArgument]).
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

	// MaxWait lets a take have tokens that refill within it. The bucket is left in debt, and Result.Wait says
	// when it is out of it, which is when to proceed. Rounded down to microseconds. 0: no wait.
	MaxWait time.Duration

	// Ban shuts the key out when it is refused too often. A refusal then changes the key's state. The zero Ban is none.
	Ban Ban
}

// Adjustment is a correction of an earlier take.
//
// N > 0 gives tokens back to each bucket, never above the capacity, and never what the bucket has refilled since: a
// token that was taken is void as soon as the bucket has refilled over it, or it would come back twice. Where a
// bucket lacked D tokens right after the take, and refills r a second, N tokens given back e seconds later are worth
// min(N, max(0, D - r·e)), for each limit on its own, by the limits of the take. So what stays charged within any W
// seconds is at most C + r·W, C being the capacity, and what takes from before gave back within them. If a part of a
// take is given back, what was used counts as its oldest part. After a take that could wait ([Take].MaxWait), a bucket
// that others wait for gets nothing back, because none of them would move up.
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

	// Leave gives up a place in the queue before its turn: a take whose Wait is not over. It is worth as much less as
	// others have reserved behind it, as with CancelAt of golang.org/x/time/rate: their places stay where they are.
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
	// ErrArgument is wrapped by the errors of stores about what they were asked: a negative cost, no
	// limits, or an invalid limit. The store is well.
	ErrArgument = errors.New("invalid argument")

	// ErrForeignState is wrapped by the errors of stores that found something under a key that is not
	// theirs. They leave it untouched.
	ErrForeignState = errors.New("state is not a rate limit's")
)

func negativeCost(n int) error {
	return argumentError(errorf("cost %d: must not be negative; Adjust gives tokens back", n))
}

// plain reports whether the take is of tokens alone, as nearly all are: change would be dearer than the take.
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

// change returns the adjustment in units, for a store that makes receipts as source.
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

// argumentError marks an error about a limit.
func argumentError(err error) error {
	if errors.Is(err, ErrArgument) {
		return err
	}
	return errorf("%w: %w", err, ErrArgument)
}

// errorf is fmt.Errorf for errors that leave the package. Each says "ratelimit: " once, at its beginning, however many
// of them it wraps.
func errorf(format string, args ...any) error {
	for i, arg := range args {
		if err, ok := arg.(prefixedError); ok { // Not one that is wrapped: that is printed as it is.
			args[i] = innerError{err}
		}
	}
	return prefixedError{fmt.Errorf(format, args...)}
}

// prefixedError is an error that says whose it is.
type prefixedError struct{ error }

func (e prefixedError) Error() string { return "ratelimit: " + e.error.Error() }
func (e prefixedError) Unwrap() error { return e.error }

// innerError is a prefixedError within another one.
type innerError struct{ outer prefixedError }

func (e innerError) Error() string { return e.outer.error.Error() }
func (e innerError) Unwrap() error { return e.outer }
