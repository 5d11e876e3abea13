package storetest

import (
	"context"
	"fmt"
	"math/big"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/gin-ratelimit/ratelimit"
)

// oracle is a Store that is slow and certain. It follows the documentation of Store, and shares nothing
// with the stores that it judges: what they count in units, it keeps as rational numbers of tokens, and it
// rounds nothing but what the documentation says is rounded.
type oracle struct {
	mu   sync.Mutex
	now  int64 // µs
	keys map[string]entry
}

// entry is what there is under a key.
type entry struct {
	last    int64 // µs, of the last change
	buckets []bucket
}

type bucket struct {
	limit   ratelimit.Limit
	rate    *big.Rat // tokens per µs
	missing *big.Rat // tokens, from full; more than the capacity is a debt
	beyond  int      // tokens by which the bucket is larger than the limit that it is asked for by
}

var (
	maxUnits = new(big.Int).Lsh(big.NewInt(1), 52)                            // in a bucket
	maxDebt  = new(big.Int).Sub(new(big.Int).Lsh(maxUnits, 1), big.NewInt(1)) // units missing
)

func newOracle() *oracle { return &oracle{keys: make(map[string]entry)} }

func (o *oracle) Take(_ context.Context, key string, n int, limits []ratelimit.Limit) (ratelimit.Result, error) {
	if n < 0 {
		return ratelimit.Result{}, fmt.Errorf("cost %d: %w", n, ratelimit.ErrArgument)
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	asked, err := o.ask(key, limits)
	if err != nil {
		return ratelimit.Result{}, err
	}
	if n == 0 || !admits(asked, n) {
		return decision(asked, n), nil
	}
	for _, b := range asked {
		b.missing.Add(b.missing, tokens(n))
	}
	r := admitted(asked)
	o.write(key, asked)
	return r, nil
}

func (o *oracle) Adjust(_ context.Context, key string, n int, limits []ratelimit.Limit) (ratelimit.Result, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	asked, err := o.ask(key, limits)
	if err != nil {
		return ratelimit.Result{}, err
	}
	if n != 0 {
		for _, b := range asked {
			b.missing.Sub(b.missing, tokens(n))
			if b.missing.Sign() < 0 {
				b.missing.SetInt64(0)
			}
			b.boundDebt()
		}
	}
	r := decision(asked, 0)
	if n != 0 {
		o.write(key, asked)
	}
	return r, nil
}

func (o *oracle) Reset(_ context.Context, key string) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	delete(o.keys, key)
	return nil
}

// ask returns what is in the buckets now, by the limits that the caller has for them.
func (o *oracle) ask(key string, limits []ratelimit.Limit) ([]bucket, error) {
	if len(limits) == 0 {
		return nil, fmt.Errorf("no limits: %w", ratelimit.ErrArgument)
	}
	e := o.keys[key]
	asked := make([]bucket, len(limits))
	for i, limit := range limits {
		if !valid(limit) {
			return nil, fmt.Errorf("limit %v: %w", limit, ratelimit.ErrArgument)
		}
		asked[i] = bucket{limit: limit, rate: rateOf(limit), missing: new(big.Rat)}
		if i < len(e.buckets) && !e.buckets[i].full(o.now-e.last) {
			asked[i].takeOver(e.buckets[i], o.now-e.last)
		}
	}
	return asked, nil
}

// write keeps the buckets that were asked, and those of further positions as they are by now.
func (o *oracle) write(key string, asked []bucket) {
	for i := range asked {
		b := &asked[i]
		b.limit.Capacity += b.beyond
		b.missing.Add(b.missing, tokens(b.beyond))
		b.boundDebt()
		b.beyond = 0
	}
	e := o.keys[key]
	for i := len(asked); i < len(e.buckets); i++ {
		e.buckets[i].refill(o.now - e.last)
		asked = append(asked, e.buckets[i])
	}
	o.keys[strings.Clone(key)] = entry{o.now, asked}
}

// takeOver makes of an old limit's bucket, so many µs later, what it is for b's limit. Its tokens are kept, as far
// as b can hold them, and b is counted on by the larger capacity.
func (b *bucket) takeOver(old bucket, us int64) {
	b.missing.Set(old.missing)
	if b.token().Cmp(old.token()) != 0 { // Parts of a token are rounded up to whole units.
		whole := floor(b.missing)
		part := new(big.Rat).Sub(b.missing, new(big.Rat).SetInt(whole))
		part.Mul(part, new(big.Rat).SetInt(b.token()))
		b.missing.Add(new(big.Rat).SetInt(whole), new(big.Rat).SetFrac(ceil(part), b.token()))
		b.boundDebt()
	}
	if old.limit.Capacity > b.limit.Capacity {
		larger := new(big.Int).Mul(big.NewInt(int64(old.limit.Capacity)), b.token())
		if larger.Cmp(maxUnits) <= 0 {
			b.beyond = old.limit.Capacity - b.limit.Capacity
		} else if capacity := tokens(b.limit.Capacity); b.missing.Cmp(capacity) > 0 {
			b.missing.Set(capacity)
		}
	}
	b.refill(us)
	if b.missing.Sub(b.missing, tokens(b.beyond)); b.missing.Sign() < 0 {
		b.missing.SetInt64(0)
	}
}

func (b *bucket) boundDebt() {
	if most := new(big.Rat).SetFrac(maxDebt, b.token()); b.missing.Cmp(most) > 0 {
		b.missing.Set(most)
	}
}

// full reports whether b is full after so many µs, by its own limit. If it is, it equals one that does not
// exist, whatever limit it is asked for by: a store may have forgotten it.
func (b *bucket) full(us int64) bool { return b.wait(b.missing) <= time.Duration(us)*time.Microsecond }

func (b *bucket) refill(us int64) {
	came := new(big.Rat).SetInt64(us)
	b.missing.Sub(b.missing, came.Mul(came, b.rate))
	if b.missing.Sign() < 0 {
		b.missing.SetInt64(0)
	}
}

// token is the size of a token in units: the period of the rate in lowest terms, in µs.
func (b *bucket) token() *big.Int { return b.rate.Denom() }

// lacks returns the tokens that have to come back before n can be taken.
func (b *bucket) lacks(n int) *big.Rat {
	most := new(big.Rat).Sub(tokens(b.limit.Capacity), tokens(n))
	lack := new(big.Rat).Sub(b.missing, most)
	if lack.Sign() < 0 {
		lack.SetInt64(0)
	}
	return lack
}

// wait returns how long it takes for so many tokens to come back, rounded up to the microsecond.
func (b *bucket) wait(tokens *big.Rat) time.Duration {
	us := ceil(new(big.Rat).Quo(tokens, b.rate))
	return time.Duration(us.Int64()) * time.Microsecond
}

// retry returns how long it takes until n can be taken.
func (b *bucket) retry(n int) time.Duration {
	if n > b.limit.Capacity {
		return ratelimit.Never
	}
	return b.wait(b.lacks(n))
}

// remaining returns the whole tokens in the bucket.
func (b *bucket) remaining() int {
	left := floor(new(big.Rat).Sub(tokens(b.limit.Capacity), b.missing))
	if left.Sign() < 0 {
		return 0
	}
	return int(left.Int64())
}

func admits(asked []bucket, n int) bool {
	return !slices.ContainsFunc(asked, func(b bucket) bool { return n > b.limit.Capacity || b.lacks(n).Sign() > 0 })
}

// decision describes a take of n that changed nothing.
func decision(asked []bucket, n int) ratelimit.Result {
	if admits(asked, n) {
		return admitted(asked)
	}
	return refused(asked, n)
}

// admitted describes an accepted take: the bucket with the fewest tokens speaks for all, the first of equals.
func admitted(asked []bucket) ratelimit.Result {
	by := asked[0]
	for _, b := range asked {
		if b.remaining() < by.remaining() {
			by = b
		}
	}
	return ratelimit.Result{
		Allowed: true, Limit: by.limit, Remaining: by.remaining(), ResetAfter: by.wait(by.missing),
	}
}

// refused describes a refused take: the bucket with the longest wait speaks for all, the first of equals.
func refused(asked []bucket, n int) ratelimit.Result {
	by := asked[0]
	for _, b := range asked {
		if b.retry(n) > by.retry(n) {
			by = b
		}
	}
	return ratelimit.Result{
		Limit: by.limit, Remaining: by.remaining(), RetryAfter: by.retry(n), ResetAfter: by.wait(by.missing),
	}
}

// state returns what a store holds that did what the oracle did.
func (o *oracle) state(key string) *State {
	e, ok := o.keys[key]
	if !ok {
		return nil
	}
	s := &State{Age: time.Duration(o.now-e.last) * time.Microsecond}
	for _, b := range e.buckets {
		deficit := new(big.Rat).Mul(b.missing, new(big.Rat).SetInt(b.token()))
		if !deficit.IsInt() {
			panic(fmt.Sprintf("oracle: a deficit of %v units", deficit))
		}
		s.Buckets = append(s.Buckets, Bucket{
			Capacity: int64(b.limit.Capacity), Token: b.token().Int64(),
			PerTick: b.rate.Num().Int64(), Deficit: deficit.Num().Int64(),
		})
	}
	return s
}

// full reports whether all buckets of key have refilled, which is the same as if there were none.
func (o *oracle) full(key string) bool {
	e := o.keys[key]
	return !slices.ContainsFunc(e.buckets, func(b bucket) bool { return !b.full(o.now - e.last) })
}

// valid reports whether a limit can be counted exactly, in 2^52 units.
func valid(l ratelimit.Limit) bool {
	if l.Capacity < 1 || l.Refill.Tokens < 1 || l.Refill.Per <= 0 {
		return false
	}
	rate := rateOf(l)
	size := new(big.Int).Mul(big.NewInt(int64(l.Capacity)), rate.Denom())
	return size.Cmp(maxUnits) <= 0 && rate.Num().Cmp(maxUnits) <= 0
}

// rateOf returns a limit's rate in tokens per µs, in lowest terms, as a Rat always is.
func rateOf(l ratelimit.Limit) *big.Rat {
	perNano := big.NewRat(int64(l.Refill.Tokens), int64(l.Refill.Per))
	return perNano.Mul(perNano, big.NewRat(1000, 1))
}

func tokens(n int) *big.Rat { return new(big.Rat).SetInt64(int64(n)) }

// floor works because Div rounds down for the positive denominator that a Rat has.
func floor(r *big.Rat) *big.Int { return new(big.Int).Div(r.Num(), r.Denom()) }

func ceil(r *big.Rat) *big.Int {
	f := floor(new(big.Rat).Neg(r))
	return f.Neg(f)
}
