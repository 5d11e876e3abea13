package verify

import (
	"cmp"
	"math"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/gin-ratelimit/ratelimit"
)

// The invariant: whatever fails, for each key and any window [s, e],
//
//	Σ cost admitted ≤ C + r·(e−s)
//
// A log knows only that each admission was decided between the request and its response. So a window counts the admissions
// that are in it as a whole. That never accuses a store wrongly, and is exact where responses are quick.

// admission is a take that was admitted, between two instants of the machine's monotonic clock in nanoseconds.
type admission struct {
	key        string
	cost       int
	start, end int64
}

// worstExcess returns how many tokens the admissions of a key exceed the invariant by, in the worst window. It is negative if
// they never do.
func worstExcess(log []admission, limit ratelimit.Limit) float64 {
	byKey := map[string][]admission{}
	for _, a := range log {
		byKey[a.key] = append(byKey[a.key], a)
	}
	worst := math.Inf(-1)
	for _, admissions := range byKey {
		worst = max(worst, keyExcess(admissions, limit))
	}
	return worst
}

// keyExcess sweeps e over the ends of admissions. The worst window up to an e begins at the start of an admission. A tree
// holds, for each start, what a window from there admits less what refills in it. Units are parts of a token, so that
// everything is exact.
func keyExcess(log []admission, limit ratelimit.Limit) float64 {
	token, perNano := int64(limit.Refill.Per), int64(limit.Refill.Tokens)
	origin := log[0].start
	starts := make([]int64, len(log))
	for i, a := range log {
		starts[i] = a.start
		origin = min(origin, a.start)
	}
	slices.Sort(starts)
	starts = slices.Compact(starts)
	slices.SortFunc(log, func(a, b admission) int { return cmp.Compare(a.end, b.end) })

	tree := newPrefixTree(len(starts))
	worst := int64(math.MinInt64)
	for _, a := range log {
		i, _ := slices.BinarySearch(starts, a.start)
		tree.raise(i, int64(a.cost)*token)
		tree.open(i, (a.start-origin)*perNano)
		worst = max(worst, tree.best()-(a.end-origin)*perNano)
	}
	return float64(worst)/float64(token) - float64(limit.Capacity)
}

// prefixTree is numbers that are closed at first. All numbers up to a given one can be raised at once.
type prefixTree struct {
	size   int
	maxima []int64 // of the open numbers below, less what is raised above
	raised []int64
}

const closed = math.MinInt64 / 4

func newPrefixTree(n int) *prefixTree {
	size := 1
	for size < n {
		size *= 2
	}
	t := &prefixTree{size: size, maxima: make([]int64, 2*size), raised: make([]int64, 2*size)}
	for i := range t.maxima {
		t.maxima[i] = closed
	}
	return t
}

// raise adds to the numbers 0 to last.
func (t *prefixTree) raise(last int, by int64) { t.raiseIn(1, 0, t.size-1, last, by) }

func (t *prefixTree) raiseIn(node, lo, hi, last int, by int64) {
	if hi <= last {
		t.maxima[node] += by
		t.raised[node] += by
		return
	}
	mid := (lo + hi) / 2
	t.raiseIn(2*node, lo, mid, last, by)
	if mid < last {
		t.raiseIn(2*node+1, mid+1, hi, last, by)
	}
	t.gather(node)
}

// open gives number i a value, on top of what it has been raised by. It is called once for each.
func (t *prefixTree) open(i int, value int64) {
	node := t.size + i
	if t.maxima[node] > closed/2 {
		return
	}
	t.maxima[node] = value + t.raised[node]
	for node /= 2; node > 0; node /= 2 {
		t.gather(node)
	}
}

func (t *prefixTree) gather(node int) {
	t.maxima[node] = max(t.maxima[2*node], t.maxima[2*node+1]) + t.raised[node]
}

func (t *prefixTree) best() int64 { return t.maxima[1] }

// slowExcess computes keyExcess by the definition.
func slowExcess(log []admission, limit ratelimit.Limit) float64 {
	worst := math.Inf(-1)
	for _, from := range log {
		for _, to := range log {
			if from.start > to.end {
				continue
			}
			admitted := 0
			for _, a := range log {
				if a.start >= from.start && a.end <= to.end {
					admitted += a.cost
				}
			}
			refilled := float64(to.end-from.start) * float64(limit.Refill.Tokens) / float64(limit.Refill.Per)
			if admitted > 0 {
				worst = max(worst, float64(admitted)-refilled-float64(limit.Capacity))
			}
		}
	}
	return worst
}

func TestInvariantCheckerMatchesDefinition(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		limit := ratelimit.Limit{
			Capacity: rapid.IntRange(1, 20).Draw(t, "capacity"),
			Refill:   ratelimit.Rate{Tokens: rapid.IntRange(1, 5).Draw(t, "tokens"), Per: time.Duration(rapid.IntRange(1, 50).Draw(t, "per"))},
		}
		log := rapid.SliceOfN(rapid.Custom(func(t *rapid.T) admission {
			start := rapid.Int64Range(1000, 1200).Draw(t, "start")
			return admission{
				cost: rapid.IntRange(1, 5).Draw(t, "cost"), start: start,
				end: start + rapid.Int64Range(0, 40).Draw(t, "took"),
			}
		}), 1, 30).Draw(t, "log")
		if got, want := keyExcess(slices.Clone(log), limit), slowExcess(log, limit); math.Abs(got-want) > 1e-9 {
			t.Fatalf("%v: excess %v, want %v", limit, got, want)
		}
	})
}

// A log of a perfect bucket passes, and one more admission anywhere in its busy time does not.
func TestInvariantCheckerNoticesOneToken(t *testing.T) {
	limit := ratelimit.Limit{Capacity: 10, Refill: ratelimit.PerSecond(100)}
	var log []admission
	const each = int64(10 * time.Millisecond)
	for i := range int64(500) {
		at := max(0, i-9) * each // The burst, and then each token as soon as it is there.
		log = append(log, admission{"k", 1, at, at})
	}
	if got := worstExcess(slices.Clone(log), limit); math.Abs(got) > 1e-9 {
		t.Fatalf("a perfect bucket exceeds by %v", got)
	}
	for i := 0; i < len(log); i += 37 {
		if got := worstExcess(append(slices.Clone(log), log[i]), limit); math.Abs(got-1) > 1e-9 {
			t.Fatalf("admission %d doubled: excess %v, want 1", i, got)
		}
	}
}
