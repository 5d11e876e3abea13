package storetest

import (
	"encoding/binary"
	"fmt"
	"math"
	"math/bits"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/gin-ratelimit/ratelimit"
)

// seedVariable in the environment repeats a trace.
const seedVariable = "STORETEST_SEED"

const (
	traceBytes = 2048 // of randomness in a trace: about 200 calls
	minCalls   = 40_000
	shortCalls = 4_000 // instead of minCalls with -short
)

// runTraces makes random calls with random keys at random times. Each trace has a store of its own.
func runTraces(t *testing.T, h Harness) {
	wanted := minCalls
	if testing.Short() {
		wanted = shortCalls
	}
	if _, ok := givenSeed(t); ok {
		wanted = 1
	}
	traces, calls := 0, 0
	for ; calls < wanted && !t.Failed(); traces++ {
		h.open(t, func(s *session) {
			seed := newSeed(t)
			s.note = seedNote(t, seed)
			s.trace(newDice(seedBytes(seed, traceBytes)))
			calls += len(s.log)
		})
	}
	t.Logf("%d calls in %d traces", calls, traces)
}

// trace makes calls until the dice have no more bytes.
func (s *session) trace(d *dice) {
	s.t.Helper()
	limits := make(map[string][]ratelimit.Limit)
	for left := 100 * year; !d.spent; {
		key := d.key()
		if limits[key] == nil || d.n(40) == 0 {
			limits[key] = d.limits()
		}
		asked := limits[key]
		if d.n(8) == 0 {
			asked = d.change(asked)
			if d.n(2) == 0 {
				limits[key] = asked
			}
		}
		c := s.roll(d, key, asked)
		if d.spent {
			return
		}
		if wait := d.wait(s.oracle.peek(key, max(0, c.n), asked)); wait <= left {
			s.wait(wait)
			left -= wait
		}
		s.do(c)
		if s.state == nil {
			// With one unit a microsecond, ResetAfter shows what is missing to the unit.
			s.look(key, slowed(asked[:1+d.n(len(asked))])...)
		}
	}
}

// roll returns a call of any kind.
func (s *session) roll(d *dice, key string, asked []ratelimit.Limit) call {
	c := call{op: take, key: key, limits: asked, n: d.tokens(s.oracle.peek(key, 0, asked), asked)}
	switch d.n(16) {
	case 0:
		c.op, c.n = adjust, -c.n
	case 1, 2, 3:
		// An adjustment of one of the last takes, whatever its key.
		if len(s.takes) == 0 {
			break
		}
		c.of = s.takes[max(0, len(s.takes)-1-d.n(6))]
		c.op, c.key, c.limits = adjust, c.of.key, c.of.limits
		c.leave = d.n(3) == 0
		if d.n(4) == 0 {
			c.n = -c.n
		}
	case 4:
		c.op, c.n = look, 0
		if d.n(2) == 0 {
			c.limits = nil
		}
	case 5, 6, 7:
		c.maxWait = us * time.Duration(d.size(int64(day/us)))
	case 8:
		c.n = 0
		if d.n(3) == 0 {
			c.op = reset
		}
	}
	return c
}

// slowed returns limits whose tokens have the same number of units, of which one comes back each microsecond.
func slowed(limits []ratelimit.Limit) []ratelimit.Limit {
	limits = slices.Clone(limits)
	for i, l := range limits {
		limits[i].Refill = ratelimit.Every(time.Duration(rateOf(l).Denom().Int64()) * us)
	}
	return limits
}

// peek returns the decision about a take of n, and changes nothing.
func (o *oracle) peek(key string, n int, limits []ratelimit.Limit) ratelimit.Result {
	asked, err := o.ask(key, limits)
	if err != nil {
		panic(err)
	}
	return decision(asked, n)
}

// dice makes random choices from bytes, a seed's or a fuzzer's, until they are spent. After that, each choice is the first.
type dice struct {
	data  []byte
	spent bool
}

func newDice(data []byte) *dice { return &dice{data: data} }

func (d *dice) byte() byte {
	if len(d.data) == 0 {
		d.spent = true
		return 0
	}
	b := d.data[0]
	d.data = d.data[1:]
	return b
}

// n returns a number from 0 to below-1; below is at most 256.
func (d *dice) n(below int) int { return int(d.byte()) % below }

// size returns a number from 1 to upTo, each order of magnitude as likely as the next, and upTo itself often.
func (d *dice) size(upTo int64) int64 {
	n := uint64(1)
	for range d.n(bits.Len64(uint64(upTo))) {
		n <<= 1
	}
	var low [8]byte
	for i := 0; i < bits.Len64(n-1); i += 8 {
		low[i/8] = d.byte()
	}
	n |= binary.LittleEndian.Uint64(low[:]) & (n - 1)
	return int64(min(n, uint64(upTo)))
}

// int is size for tokens.
func (d *dice) int(upTo int64) int { return int(d.size(min(upTo, math.MaxInt))) }

// key returns one of a few keys, so that traces come back to them.
func (d *dice) key() string { return [...]string{"", "k", "kk", "k:k", "{k}"}[d.n(5)] }

var hardRates = []ratelimit.Rate{
	ratelimit.PerSecond(10),
	ratelimit.PerSecond(1),
	ratelimit.PerSecond(3),
	ratelimit.PerMinute(100),
	ratelimit.PerDay(1000),
	{Tokens: 7, Per: 3 * sec},
	ratelimit.PerSecond(1e9),
	ratelimit.PerSecond(999_999_937),
	ratelimit.Every(10 * year),
	ratelimit.Every(30 * day),
	ratelimit.Every(time.Nanosecond),
	ratelimit.Every(1500 * time.Nanosecond),
	ratelimit.Every(us),
	{Tokens: math.MaxInt32, Per: time.Nanosecond},
}

func (d *dice) rate() ratelimit.Rate {
	switch d.n(6) {
	case 0, 1:
		return hardRates[d.n(len(hardRates))]
	case 2:
		return ratelimit.PerSecond(d.int(1e9))
	case 3:
		return ratelimit.Every(time.Duration(d.size(int64(10*year/us))) * us)
	case 4:
		return ratelimit.Rate{Tokens: d.int(1e9), Per: time.Duration(d.size(int64(10 * year)))}
	default:
		return ratelimit.Rate{Tokens: d.int(1e4), Per: sec * time.Duration(d.size(1e6))}
	}
}

// limit returns any limit that is valid.
func (d *dice) limit() ratelimit.Limit {
	for {
		rate := d.rate()
		token := rateOf(ratelimit.Limit{Refill: rate}).Denom()
		if token.Cmp(maxUnits) > 0 {
			continue
		}
		maxCapacity := min(maxUnits.Int64()/token.Int64(), math.MaxInt)
		var capacity int64
		switch d.n(6) {
		case 0:
			capacity = int64(rate.Tokens)
		case 1:
			capacity = 1
		case 2:
			capacity = d.size(maxCapacity)
		case 3:
			capacity = d.size(1e9)
		default:
			capacity = d.size(20)
		}
		if l := limit(int(min(capacity, maxCapacity)), rate); valid(l) {
			return l
		}
	}
}

func (d *dice) limits() []ratelimit.Limit {
	limits := []ratelimit.Limit{d.limit()}
	for len(limits) < 4 && d.n(3) == 0 {
		limits = append(limits, d.limit())
	}
	return limits
}

// change returns limits with one of them changed, added or left out.
func (d *dice) change(limits []ratelimit.Limit) []ratelimit.Limit {
	limits = slices.Clone(limits)
	i := d.n(len(limits))
	l := limits[i]
	switch d.n(8) {
	case 0:
		l.Capacity += 1 - d.n(3)
	case 1:
		l.Capacity = d.int(math.MaxInt)
	case 2:
		l.Refill.Tokens = d.int(1e9)
	case 3:
		l.Refill.Per = time.Duration(d.size(int64(10 * year)))
	case 4:
		l.Refill.Per *= 2
	case 5:
		return limits[:i+1]
	case 6:
		return append(limits, d.limit())[:min(4, len(limits)+1)]
	default:
		l = d.limit()
	}
	if valid(l) {
		limits[i] = l
	}
	return limits
}

// tokens returns how many to take, given what there is.
func (d *dice) tokens(look ratelimit.Result, limits []ratelimit.Limit) int {
	capacity := int64(limits[d.n(len(limits))].Capacity)
	switch d.n(10) {
	case 0:
		return look.Remaining
	case 1:
		return int(min(int64(look.Remaining)+1, math.MaxInt))
	case 2:
		return int(capacity)
	case 3:
		return int(min(capacity+1, math.MaxInt))
	case 4:
		return [...]int{0, math.MaxInt, math.MaxInt32, math.MaxInt - 1}[d.n(4)]
	case 5, 6:
		return d.int(capacity)
	case 7:
		return d.int(max(1, int64(look.Remaining)))
	default:
		return 1
	}
}

// wait returns how long to wait before a take that would now have the result r.
func (d *dice) wait(r ratelimit.Result) time.Duration {
	switch d.n(16) {
	case 0:
		return us
	case 1:
		return us * time.Duration(d.size(1e3))
	case 2:
		return us * time.Duration(d.size(1e6))
	case 3:
		return us * time.Duration(d.size(int64(day/us)))
	case 4:
		return us * time.Duration(d.size(int64(10*year/us)))
	case 5, 6:
		if r.RetryAfter != ratelimit.Never {
			return r.RetryAfter
		}
		return 0
	case 7, 8:
		if r.RetryAfter != ratelimit.Never {
			return max(0, r.RetryAfter-us)
		}
		return 0
	case 9:
		return r.ResetAfter
	case 10:
		return max(0, r.ResetAfter-us)
	default:
		return 0
	}
}

// givenSeed returns the seed in the environment.
func givenSeed(t *testing.T) (seed uint64, ok bool) {
	text := os.Getenv(seedVariable)
	if text == "" {
		return 0, false
	}
	seed, err := strconv.ParseUint(text, 10, 64)
	if err != nil {
		t.Fatalf("%s: %v", seedVariable, err)
	}
	return seed, true
}

func newSeed(t *testing.T) uint64 {
	if seed, ok := givenSeed(t); ok {
		return seed
	}
	return rand.Uint64()
}

func seedNote(t *testing.T, seed uint64) string {
	return fmt.Sprintf("to repeat it: %s=%d go test -run '^%s$'", seedVariable, seed, t.Name())
}

func seedBytes(seed uint64, n int) []byte {
	var key [32]byte
	binary.LittleEndian.PutUint64(key[:], seed)
	data := make([]byte, n)
	_, _ = rand.NewChaCha8(key).Read(data) // It never fails.
	return data
}
