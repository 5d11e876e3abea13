package storetest

import (
	"context"
	"fmt"
	"math"
	"math/big"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/gin-ratelimit/ratelimit"
)

// oracle is a Store that is slow and simple enough to be certainly right. It follows the documentation of Store, and
// shares no code with the stores that it judges: what they count in units, it keeps as rational numbers of tokens. It
// rounds only what is rounded by the documentation.
type oracle struct {
	mu      sync.Mutex
	now     int64 // µs
	keys    map[string]entry
	tickets []ticket
}

// entry is what is stored under a key.
type entry struct {
	last    int64 // µs, of the last change
	buckets []bucket
}

type bucket struct {
	limit   ratelimit.Limit
	rate    *big.Rat // tokens per µs
	missing *big.Rat // tokens, from full; more than the capacity is a debt
	surplus int      // how many tokens larger the bucket is than the limit that is asked for
	maxWait int64    // µs that a take may wait for tokens
}

var (
	maxUnits = new(big.Int).Lsh(big.NewInt(1), 52)                            // in a bucket
	maxDebt  = new(big.Int).Sub(new(big.Int).Lsh(maxUnits, 1), big.NewInt(1)) // units missing
)

func newOracle() *oracle { return &oracle{keys: make(map[string]entry)} }

func (o *oracle) Take(_ context.Context, key string, take ratelimit.Take) (ratelimit.Result, error) {
	if take.N < 0 || take.MaxWait < 0 {
		return ratelimit.Result{}, fmt.Errorf("take of %d, waiting up to %v: %w", take.N, take.MaxWait, ratelimit.ErrArgument)
	}
	if take.Ban != (ratelimit.Ban{}) {
		panic("storetest: the oracle knows no bans")
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	asked, err := o.ask(key, take.Limits)
	if err != nil {
		return ratelimit.Result{}, err
	}
	for i := range asked {
		asked[i].maxWait = take.MaxWait.Microseconds()
	}
	if !admits(asked, take.N) {
		return refused(asked, take.N), nil
	}
	for _, b := range asked {
		b.missing.Add(b.missing, tokens(take.N))
	}
	r := admitted(asked)
	if take.N > 0 {
		r.Receipt = o.receipt(asked, take.MaxWait >= us)
		o.write(key, asked)
	}
	return r, nil
}

func (o *oracle) Adjust(_ context.Context, key string, change ratelimit.Adjustment) (ratelimit.Result, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	asked, err := o.ask(key, change.Limits)
	if err != nil {
		return ratelimit.Result{}, err
	}
	n := change.N
	t := o.ticket(&change.Receipt)
	if n > 0 && t != nil && len(t.left) != len(asked) {
		return ratelimit.Result{}, fmt.Errorf("giving %d back: %w", n, ratelimit.ErrArgument)
	}
	changed := false
	for i := range asked {
		b := &asked[i]
		delta := tokens(n)
		switch {
		case n > 0 && t == nil:
			delta.SetInt64(0) // No take, so nothing can come back.
		case n > 0:
			delta = t.worth(o.now, i, b, n, change.Leave)
		}
		before := new(big.Rat).Set(b.missing)
		b.missing = b.debt(b.missing, delta)
		changed = changed || b.missing.Cmp(before) != 0
		if t != nil && i < len(t.left) {
			t.left[i] = b.debt(t.left[i], tokens(n))
		}
	}
	r := decision(asked, 0)
	r.Receipt = change.Receipt
	if t == nil && n < 0 {
		r.Receipt = o.receipt(asked, false) // A debt of its own.
	}
	if changed {
		o.write(key, asked)
	}
	return r, nil
}

// ticket is the take that a receipt of the oracle's is of, and what of it can still be given back. The receipt's At is the
// ticket's index, plus 1.
type ticket struct {
	at     int64      // µs
	left   []*big.Rat // tokens, one per limit
	queued bool
}

func (o *oracle) receipt(asked []bucket, queued bool) ratelimit.Receipt {
	t := ticket{at: o.now, queued: queued}
	for _, b := range asked {
		t.left = append(t.left, new(big.Rat).Set(b.missing))
	}
	o.tickets = append(o.tickets, t)
	return ratelimit.NewReceipt(ratelimit.SourceUnknown, int64(len(o.tickets)), make([]int64, len(asked)), queued)
}

func (o *oracle) ticket(r *ratelimit.Receipt) *ticket {
	if r.At() == 0 {
		return nil
	}
	return &o.tickets[r.At()-1]
}

// worth returns how many tokens a give-back of n is worth: no more than the bucket has not refilled yet of what was missing
// after the take.
func (t *ticket) worth(now int64, i int, b *bucket, n int, leave bool) *big.Rat {
	left := new(big.Rat).Mul(new(big.Rat).SetInt64(now-t.at), b.rate)
	left.Sub(t.left[i], left)
	if left.Sign() < 0 {
		left.SetInt64(0)
	}
	worth := new(big.Rat).Set(left)
	if tokens(n).Cmp(left) < 0 {
		worth = tokens(n)
	}
	behind := new(big.Rat).Sub(b.missing, left) // what others have reserved since
	switch {
	case leave && behind.Sign() > 0:
		worth.Sub(worth, behind)
	case !leave && t.queued && b.missing.Cmp(tokens(b.limit.Capacity)) > 0:
		worth.SetInt64(0)
	}
	if worth.Sign() < 0 {
		worth.SetInt64(0)
	}
	return worth
}

// debt returns missing less what is given back, no less than 0, and no more than the largest debt.
func (b *bucket) debt(missing, back *big.Rat) *big.Rat {
	d := *b
	d.missing = new(big.Rat).Sub(missing, back)
	if d.missing.Sign() < 0 {
		d.missing.SetInt64(0)
	}
	d.boundDebt()
	return d.missing
}

// Look implements ratelimit.Store.
func (o *oracle) Look(_ context.Context, key string, limits []ratelimit.Limit) (ratelimit.Usage, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	usage := ratelimit.Usage{}
	e := o.keys[key]
	var asked []bucket
	if len(limits) > 0 {
		var err error
		if asked, err = o.ask(key, limits); err != nil {
			return usage, err
		}
	} else if !o.full(key) {
		for _, b := range e.buckets {
			b.missing = new(big.Rat).Set(b.missing)
			b.refill(o.now - e.last)
			b.limit = normal(b.limit)
			asked = append(asked, b)
		}
	}
	for _, b := range asked {
		debt := new(big.Rat).Sub(b.missing, tokens(b.limit.Capacity))
		if debt.Sign() < 0 {
			debt.SetInt64(0)
		}
		u := ratelimit.LimitUsage{Limit: b.limit, Remaining: b.remaining(), Debt: int(ceil(debt).Int64()), ResetAfter: b.wait(b.missing)}
		if b.missing.Sign() > 0 {
			more := tokens(b.limit.Capacity - u.Remaining - 1)
			u.NextToken = b.wait(new(big.Rat).Sub(b.missing, more))
		}
		usage.Limits = append(usage.Limits, u)
	}
	return usage, nil
}

// normal is the same limit with its rate's period changed to the first of a second, a minute, an hour and a day in which
// whole tokens come back, or else to the shortest in whole microseconds.
func normal(l ratelimit.Limit) ratelimit.Limit {
	perMicro := rateOf(l)
	l.Refill = ratelimit.Rate{Tokens: int(perMicro.Num().Int64()), Per: time.Duration(perMicro.Denom().Int64()) * us}
	for _, per := range []time.Duration{sec, time.Minute, time.Hour, day} {
		n := new(big.Rat).Mul(perMicro, new(big.Rat).SetInt64(per.Microseconds()))
		if n.IsInt() && n.Num().IsInt64() && n.Num().Int64() <= math.MaxInt {
			l.Refill = ratelimit.Rate{Tokens: int(n.Num().Int64()), Per: per}
			break
		}
	}
	return l
}

// Reset implements ratelimit.Store.
func (o *oracle) Reset(_ context.Context, key string) (found bool, err error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	found = !o.full(key)
	delete(o.keys, key)
	return found, nil
}

// ask returns the buckets as they are now, by the caller's limits.
func (o *oracle) ask(key string, limits []ratelimit.Limit) ([]bucket, error) {
	if len(limits) == 0 || len(limits) > 32 {
		return nil, fmt.Errorf("%d limits: %w", len(limits), ratelimit.ErrArgument)
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

// write stores the buckets that were asked for, and those of further positions as they are now.
func (o *oracle) write(key string, asked []bucket) {
	for i := range asked {
		b := &asked[i]
		b.limit.Capacity += b.surplus
		b.missing.Add(b.missing, tokens(b.surplus))
		b.boundDebt()
		b.surplus = 0
	}
	e := o.keys[key]
	for i := len(asked); i < len(e.buckets); i++ {
		e.buckets[i].refill(o.now - e.last)
		asked = append(asked, e.buckets[i])
	}
	o.keys[strings.Clone(key)] = entry{o.now, asked}
}

// takeOver makes b the bucket of an old limit, so many µs later. The tokens are kept, as far as b can hold them, and b goes
// on counting by the larger capacity.
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
			b.surplus = old.limit.Capacity - b.limit.Capacity
		} else if capacity := tokens(b.limit.Capacity); b.missing.Cmp(capacity) > 0 {
			b.missing.Set(capacity)
		}
	}
	b.refill(us)
	if b.missing.Sub(b.missing, tokens(b.surplus)); b.missing.Sign() < 0 {
		b.missing.SetInt64(0)
	}
}

func (b *bucket) boundDebt() {
	if maxTokens := new(big.Rat).SetFrac(maxDebt, b.token()); b.missing.Cmp(maxTokens) > 0 {
		b.missing.Set(maxTokens)
	}
}

// full reports whether b is full after so many µs, by its own limit. If it is, it equals one that does not exist, whatever
// limit is asked for next, because a store may have forgotten it.
func (b *bucket) full(us int64) bool { return b.wait(b.missing) <= time.Duration(us)*time.Microsecond }

func (b *bucket) refill(us int64) {
	refilled := new(big.Rat).SetInt64(us)
	b.missing.Sub(b.missing, refilled.Mul(refilled, b.rate))
	if b.missing.Sign() < 0 {
		b.missing.SetInt64(0)
	}
}

// token is the size of a token in units: the period of the rate in lowest terms, in µs.
func (b *bucket) token() *big.Int { return b.rate.Denom() }

// lacks returns the tokens that have to come back before n can be taken. What comes back within the time that the take may
// wait need not be there, as far as a debt can be counted.
func (b *bucket) lacks(n int) *big.Rat {
	ceiling := new(big.Rat).Sub(tokens(b.limit.Capacity), tokens(n))
	if b.maxWait > 0 {
		size := new(big.Int).Mul(big.NewInt(int64(b.limit.Capacity)), b.token())
		wait := new(big.Int).Div(new(big.Int).Sub(maxDebt, size), b.rate.Num())
		if maxWait := big.NewInt(b.maxWait); maxWait.Cmp(wait) < 0 {
			wait = maxWait
		}
		ceiling.Add(ceiling, new(big.Rat).Mul(new(big.Rat).SetInt(wait), b.rate))
	}
	lack := new(big.Rat).Sub(b.missing, ceiling)
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

// admitted describes an accepted take by the bucket with the longest wait, or else by the one with the fewest tokens, the
// first of equals.
func admitted(asked []bucket) ratelimit.Result {
	by, longest := asked[0], asked[0].solvent()
	for _, b := range asked {
		if wait := b.solvent(); wait > longest || longest == 0 && b.remaining() < by.remaining() {
			by, longest = b, wait
		}
	}
	return ratelimit.Result{
		Allowed: true, Limit: by.limit, Remaining: by.remaining(), ResetAfter: by.wait(by.missing), Wait: longest,
	}
}

// solvent returns how long it takes until the bucket is in no debt.
func (b *bucket) solvent() time.Duration {
	debt := new(big.Rat).Sub(b.missing, tokens(b.limit.Capacity))
	if debt.Sign() <= 0 {
		return 0
	}
	return b.wait(debt)
}

// refused describes a refused take by the bucket with the longest wait, the first of equals.
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

// state returns the state that a store must hold after the same calls.
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
