package ratelimit

import "github.com/gin-ratelimit/ratelimit/internal/bucket"

// Receipt is what a [Store] has to know of a take in order to correct it later; see [Adjustment]. It comes with the
// [Result] of the take, is a value without secrets, and means something to the store that took only. The zero Receipt
// is of no take.
//
// Up to 4 limits it does not allocate.
type Receipt struct {
	at    int64           // µs on the store's own clock
	words [inWords]uint64 // the deficits of the first limits, and above them what the shifts below say
	more  *[inMore]int64  // the deficits of the other limits
}

const (
	inWords = 4
	inMore  = MaxLimits - inWords
)

// A deficit has 53 bits, so a word has room for 11 more. A field of its own for each would make a Result 8 bytes larger,
// and a take from memory a tenth slower.
const (
	deficitMask = bucket.MaxDeficit

	limitsShift, limitsMask = 53, 1<<6 - 1 // of word 0: how many limits
	sourceShift, sourceMask = 59, 1<<3 - 1 // of word 0: who took
	tookBit                 = 1 << 62      // of word 0: the take was allowed
	queuedBit               = 1 << 63      // of word 0: the take could wait
	sidesShift              = 53           // of word 1: the sides of nested FallbackStores, the outermost lowest
)

// NewReceipt returns a receipt, for implementations of [Store]: source is the store's word, at the time of the take in
// microseconds on the store's own clock, and deficits what each limit's bucket lacked right after the take, in units.
// Of a rate of N tokens in P microseconds, in lowest terms, a token is P units. queued is whether the take could wait.
// It panics if there are more deficits than [MaxLimits].
func NewReceipt(source Source, at int64, deficits []int64, queued bool) Receipt {
	var r Receipt
	r.sign(source, at, queued)
	r.set(deficits)
	return r
}

// At returns the time of the take, in microseconds on the clock of the store that took.
func (r *Receipt) At() int64 { return r.at }

// Len returns how many limits the take had.
func (r *Receipt) Len() int { return int(r.words[0] >> limitsShift & limitsMask) }

// Deficit returns what the bucket of limit i lacked right after the take, in units. What was given back since has been
// subtracted.
func (r *Receipt) Deficit(i int) int64 {
	if i < inWords {
		return int64(r.words[i] & deficitMask)
	}
	return r.more[i-inWords]
}

// Source returns which kind of store took.
func (r *Receipt) Source() Source { return Source(r.words[0] >> sourceShift & sourceMask) }

func (r *Receipt) took() bool { return r.words[0]&tookBit != 0 }

func (r *Receipt) queued() bool { return r.words[0]&queuedBit != 0 }

// set writes the deficits, and leaves the rest as it is.
func (r *Receipt) set(deficits []int64) {
	for i := range min(len(deficits), inWords) {
		r.words[i] = r.words[i]&^deficitMask | uint64(deficits[i])
	}
	r.words[0] = r.words[0]&^(limitsMask<<limitsShift) | uint64(len(deficits))<<limitsShift
	if len(deficits) > inWords {
		r.more = new([inMore]int64)
		if rest := deficits[inWords:]; copy(r.more[:], rest) < len(rest) {
			panic("ratelimit: NewReceipt: more deficits than MaxLimits")
		}
	}
}

// sign makes it the receipt of a take that was allowed: by whom, when, and whether it could wait.
func (r *Receipt) sign(source Source, at int64, queued bool) {
	r.at = at
	r.words[0] = tookBit | uint64(source)<<sourceShift
	if queued {
		r.words[0] |= queuedBit
	}
}

func (r *Receipt) deficits() []int64 {
	deficits := make([]int64, r.Len())
	for i := range deficits {
		deficits[i] = r.Deficit(i)
	}
	return deficits
}

// after returns what is left of the receipt after an adjustment.
func (r *Receipt) after(c *bucket.Change, scales []bucket.Scale) Receipt {
	left := *r
	if left.Len() != len(scales) {
		return left // A debt by other limits says nothing of the take's.
	}
	deficits := r.deficits()
	c.Left(scales, deficits)
	left.set(deficits)
	return left
}

// The sides of a FallbackStore. Stores may be nested, so a receipt notes which side took at each of them, the outermost
// last. The identity of the store would not do: a FallbackStore does not know what is wrapped in its sides.
const (
	primarySide  = 0
	fallbackSide = 1
)

func (r *Receipt) pushSide(side uint64) {
	sides := r.words[1] >> sidesShift
	r.words[1] = r.words[1]&deficitMask | (sides<<1|side)<<sidesShift
}

func (r *Receipt) popSide() (side uint64) {
	sides := r.words[1] >> sidesShift
	r.words[1] = r.words[1]&deficitMask | sides>>1<<sidesShift
	return sides & 1
}
