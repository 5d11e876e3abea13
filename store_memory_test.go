package ratelimit_test

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gin-ratelimit/ratelimit"
	"github.com/gin-ratelimit/ratelimit/storetest"
)

func memoryHarness(opts ...ratelimit.MemoryOption) storetest.Harness {
	return storetest.Harness{Open: func(*testing.T) ratelimit.Store { return ratelimit.NewMemoryStore(opts...) }}
}

func TestMemoryStore(t *testing.T) { storetest.Run(t, memoryHarness()) }

// A store for few keys has one shard, and searches for full buckets at nearly every new key. The suite uses no more than
// 400 keys at a time.
func TestMemoryStoreThatIsSmall(t *testing.T) {
	storetest.Run(t, memoryHarness(ratelimit.WithMaxKeys(400)))
}

func FuzzMemoryStore(f *testing.F) { storetest.Fuzz(f, memoryHarness()) }

var perHour = ratelimit.Limit{Capacity: 5, Refill: ratelimit.PerHour(5)}

// A flood of new keys must not reset drained ones, nor use more memory than is allowed.
func TestMemoryFlood(t *testing.T) {
	for _, maxKeys := range []int{1, 2, 10, 1000, 5000} {
		t.Run(fmt.Sprint(maxKeys), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				store := ratelimit.NewMemoryStore(ratelimit.WithMaxKeys(maxKeys))
				drained := make([]string, max(1, maxKeys/4)) // few enough for all shards to have room
				for i := range drained {
					drained[i] = fmt.Sprint("known", i)
					if r := mustTake(t, store, drained[i], 5, perHour); !r.Allowed || r.Source != ratelimit.SourceMemory {
						t.Fatalf("%s: %+v", drained[i], r)
					}
				}
				overflowed := 0
				for i := range 3*maxKeys + 1000 {
					if r := mustTake(t, store, fmt.Sprint("flood", i), 1, perHour); r.Source == ratelimit.SourceOverflow {
						overflowed++
					}
					if i%100 == 0 {
						if n := store.Len(); n > maxKeys {
							t.Fatalf("%d keys, of at most %d", n, maxKeys)
						}
						// Refused by its own bucket, not by one that it shares.
						want := ratelimit.Result{
							Source: ratelimit.SourceMemory, Limit: perHour, RetryAfter: 12 * time.Minute, ResetAfter: time.Hour,
						}
						if got := mustTake(t, store, drained[i%len(drained)], 1, perHour); got != want {
							t.Fatalf("a drained key, after %d new ones:\ngot  %+v\nwant %+v", i, got, want)
						}
					}
				}
				if overflowed == 0 {
					t.Error("no key found the store full")
				}
				for _, key := range drained {
					if r := mustTake(t, store, key, 1, perHour); r.Allowed || r.Source != ratelimit.SourceMemory {
						t.Fatalf("%s, after the flood: %+v", key, r)
					}
				}
			})
		})
	}
}

// Keys without room share a bucket for each set of limits: together they get what one key would.
func TestMemoryOverflow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := ratelimit.NewMemoryStore(ratelimit.WithMaxKeys(1))
		mustTake(t, store, "known", 1, perHour)
		mustTake(t, store, "known", 0, perHour)
		for i := range 20 {
			r := mustTake(t, store, fmt.Sprint("new", i), 1, perHour)
			if r.Source != ratelimit.SourceOverflow || r.Allowed != (i < 5) || r.Limit != perHour {
				t.Fatalf("new key %d: %+v", i, r)
			}
			if r.Remaining != max(0, 4-i) {
				t.Fatalf("new key %d: %d remain", i, r.Remaining)
			}
		}
		other := ratelimit.Limit{Capacity: 3, Refill: ratelimit.PerHour(1)}
		for i := range 6 {
			if r := mustTake(t, store, fmt.Sprint("new", i), 1, other); r.Allowed != (i < 3) || r.Source != ratelimit.SourceOverflow {
				t.Fatalf("by another limit, new key %d: %+v", i, r)
			}
		}
		if r := mustTake(t, store, "known", 1, perHour); !r.Allowed || r.Remaining != 3 || r.Source != ratelimit.SourceMemory {
			t.Errorf("known: %+v", r)
		}
		if n := store.Len(); n != 1 {
			t.Errorf("%d keys", n)
		}
		// A look at an unknown key needs no room.
		time.Sleep(time.Hour)
		if r := mustTake(t, store, "stranger", 0, perHour); !r.Allowed || r.Remaining != 5 {
			t.Errorf("stranger: %+v", r)
		}
		// The known key's bucket is full by now, so it gives way.
		if r := mustTake(t, store, "stranger", 5, perHour); !r.Allowed || r.Source != ratelimit.SourceMemory || store.Len() != 1 {
			t.Errorf("stranger: %+v, %d keys", r, store.Len())
		}
		if r := mustTake(t, store, "known", 1, perHour); r.Source != ratelimit.SourceOverflow {
			t.Errorf("known: %+v", r)
		}
	})
}

// A program may use a store in a synctest bubble that was made outside of it. The clock in the bubble is years behind.
func TestMemoryStoreFromOutsideTheBubble(t *testing.T) {
	store, fast := ratelimit.NewMemoryStore(), ratelimit.Limit{Capacity: 2, Refill: ratelimit.PerSecond(2)}
	mustTake(t, store, "both", 1, perHour)
	synctest.Test(t, func(t *testing.T) {
		for _, want := range []int{1, 0} {
			if r := mustTake(t, store, "inside", 1, fast); !r.Allowed || r.Remaining != want {
				t.Fatalf("got %+v, want %d left", r, want)
			}
		}
		time.Sleep(499 * time.Millisecond)
		if r := mustTake(t, store, "inside", 1, fast); r.Allowed || r.RetryAfter != time.Millisecond {
			t.Errorf("a millisecond too early: got %+v", r)
		}
		time.Sleep(time.Millisecond)
		if r := mustTake(t, store, "inside", 1, fast); !r.Allowed || r.Remaining != 0 {
			t.Errorf("half a second later: got %+v", r)
		}
		for left := 3; left >= 0; left-- {
			if r := mustTake(t, store, "both", 1, perHour); !r.Allowed || r.Remaining != left {
				t.Fatalf("a key that was used outside: got %+v, want %d left", r, left)
			}
		}
		if r := mustTake(t, store, "both", 1, perHour); r.Allowed {
			t.Errorf("a key that was used outside: got %+v", r)
		}
	})
	if r := mustTake(t, store, "both", 1, perHour); r.Allowed {
		t.Errorf("outside again: got %+v", r)
	}
	if r := mustTake(t, store, "inside", 1, fast); !r.Allowed || r.Remaining != 1 {
		t.Errorf("years later: got %+v", r)
	}
	slow := ratelimit.Limit{Capacity: 2, Refill: ratelimit.PerHour(1)}
	if r := mustTake(t, store, "inside", 1, slow); !r.Allowed || r.Remaining != 0 {
		t.Errorf("years later, by another limit: got %+v", r)
	}
}

// Buckets that are full again are evicted as others come.
func TestMemoryIsReturned(t *testing.T) {
	second, two := ratelimit.Limit{Capacity: 10, Refill: ratelimit.PerSecond(10)}, perHour
	two.Refill = ratelimit.PerSecond(5)
	for name, limits := range map[string][]ratelimit.Limit{"one limit": {second}, "two": {second, two}} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				store := ratelimit.NewMemoryStore(ratelimit.WithMaxKeys(20_000))
				key := 0
				come := func(keys int) {
					for range keys {
						mustTake(t, store, fmt.Sprint(key), 5, limits...)
						key++
					}
					time.Sleep(time.Second)
				}
				come(5000)
				if n := store.Len(); n != 5000 {
					t.Errorf("%d keys, want 5000", n)
				}
				for range 5 {
					come(5000)
				}
				if n := store.Len(); n > 7500 {
					t.Errorf("%d keys, of which 5000 were in use at a time", n)
				}
				for range 100 {
					come(100)
				}
				if n := store.Len(); n > 500 {
					t.Errorf("%d keys, of which 100 were in use at a time, for long", n)
				}
			})
		})
	}
}

// A look, a refusal and a give-back leave nothing behind.
func TestMemoryKeepsNoFullBuckets(t *testing.T) {
	store := ratelimit.NewMemoryStore()
	for i := range 100 {
		key := fmt.Sprint(i)
		mustTake(t, store, key, 0, perHour)
		mustTake(t, store, key, 6, perHour)
		mustTake(t, store, key, 0, perHour, perHour)
		mustTake(t, store, key, 6, perHour, perHour)
		for _, limits := range [][]ratelimit.Limit{{perHour}, {perHour, perHour}} {
			if _, err := store.Adjust(ctx, key, ratelimit.Adjustment{N: 3, Limits: limits}); err != nil {
				t.Fatal(err)
			}
		}
	}
	if n := store.Len(); n != 0 {
		t.Errorf("%d keys", n)
	}
	mustTake(t, store, "key", 1, perHour)
	mustTake(t, store, "wide", 1, perHour, perHour)
	if n := store.Len(); n != 2 {
		t.Errorf("%d keys, want 2", n)
	}
	for _, key := range []string{"key", "wide"} {
		if _, err := store.Reset(ctx, key); err != nil {
			t.Fatal(err)
		}
	}
	if n := store.Len(); n != 0 {
		t.Errorf("%d keys after resets", n)
	}
}

// A client cannot choose keys that meet in one shard: which of them share an overflow bucket, and find it empty, is
// different in each store.
func TestMemoryShardsAreRandom(t *testing.T) {
	admitted := func() (pattern string) {
		const maxKeys = 4096 // of several shards
		store := ratelimit.NewMemoryStore(ratelimit.WithMaxKeys(maxKeys))
		for i := range 2 * maxKeys {
			r := mustTake(t, store, fmt.Sprint(i), 1, perHour)
			if r.Source == ratelimit.SourceOverflow {
				pattern += fmt.Sprintf(" %d: %v", i, r.Allowed)
			}
		}
		return pattern
	}
	if a, b := admitted(), admitted(); a == b || !strings.Contains(a, "true") {
		t.Errorf("two stores treat a flood alike: %.1000s", a)
	}
}

func TestNewMemoryStorePanics(t *testing.T) {
	for _, keys := range []int{0, -1} {
		func() {
			defer func() {
				want := fmt.Sprintf("ratelimit: WithMaxKeys(%d): must be at least 1", keys)
				if got := recover(); got != want {
					t.Errorf("panic %v, want %q", got, want)
				}
			}()
			ratelimit.NewMemoryStore(ratelimit.WithMaxKeys(keys))
		}()
	}
}

// Many goroutines on few keys, while time really passes: never more than C + r·t.
func TestMemoryHammered(t *testing.T) {
	const goroutines, keys = 64, 3
	limit := ratelimit.Limit{Capacity: 100, Refill: ratelimit.PerSecond(1000)}
	store := ratelimit.NewMemoryStore()
	var admitted, refused [keys]atomic.Int64
	var taking sync.WaitGroup
	start := time.Now()
	for key := range keys {
		// A first take holds the shard's lock, and its goroutine may lose the processor to the others for all this time.
		mustTake(t, store, fmt.Sprint(key), 1, limit)
		admitted[key].Add(1)
	}
	for g := range goroutines {
		taking.Go(func() {
			for time.Since(start) < 300*time.Millisecond {
				r, err := store.Take(ctx, fmt.Sprint(g%keys), ratelimit.Take{N: 1, Limits: []ratelimit.Limit{limit}})
				if err != nil {
					t.Error(err)
					return
				}
				if r.Allowed {
					admitted[g%keys].Add(1)
				} else {
					refused[g%keys].Add(1)
				}
			}
		})
	}
	taking.Wait()
	took := time.Since(start)
	bound := int64(limit.Capacity) + took.Milliseconds() + 1
	for key := range admitted {
		got := admitted[key].Load()
		if refused[key].Load() == 0 {
			t.Errorf("key %d: none of %d takes was refused: the test tests nothing", key, got)
		}
		t.Logf("key %d: %d admitted in %v; bound %d, slack %d", key, got, took, bound, bound-got)
		if got > bound {
			t.Errorf("key %d: %d were admitted in %v, and no more than %d may be", key, got, took, bound)
		}
	}
}

// While keys come, fill the table, move and go, what each key in use admits stays exact.
func TestMemoryGrowsWhileInUse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := ratelimit.NewMemoryStore(ratelimit.WithMaxKeys(30_000))
		const counted, takers = 50, 8
		var admitted [counted]atomic.Int64
		var taking sync.WaitGroup
		wide := []ratelimit.Limit{perHour, {Capacity: 1000, Refill: ratelimit.PerHour(1)}}
		for g := range takers {
			random := rand.New(rand.NewPCG(1, uint64(g)))
			taking.Go(func() {
				for i := range 3000 {
					k := random.IntN(counted)
					limits := wide[:1]
					if random.IntN(20) == 0 {
						limits = wide // the key moves out of its slot
					}
					r, err := store.Take(ctx, fmt.Sprint("counted", k), ratelimit.Take{N: 1, Limits: limits})
					if r.Allowed {
						admitted[k].Add(1)
					}
					_, floodErr := store.Take(ctx, fmt.Sprint("flood", g, i), ratelimit.Take{N: 1, Limits: wide[:1]})
					if random.IntN(10) == 0 {
						_, _ = store.Reset(ctx, fmt.Sprint("flood", g, random.IntN(i+1)))
					}
					if err := errors.Join(err, floodErr); err != nil {
						t.Error(err)
						return
					}
				}
			})
		}
		taking.Wait()
		for k := range admitted {
			if got := admitted[k].Load(); got != 5 {
				t.Errorf("key %d: %d of 5 were admitted", k, got)
			}
		}
	})
}

// Long keys are stored as hashes, and must not be confused; nor must keys that are just as long as fits a slot.
func TestMemoryKeysOfAllLengths(t *testing.T) {
	store := ratelimit.NewMemoryStore()
	var keys []string
	for n := range 40 {
		for _, b := range []string{"\x00", "a", "\xff"} {
			keys = append(keys, strings.Repeat(b, n), strings.Repeat(b, n)+"x")
		}
	}
	slices.Sort(keys)
	keys = slices.Compact(keys)
	for _, key := range keys {
		if r := mustTake(t, store, key, 5, perHour); !r.Allowed {
			t.Errorf("%q shares a bucket", key)
		}
	}
	if n := store.Len(); n != len(keys) {
		t.Errorf("%d keys, want %d", n, len(keys))
	}
}

// A give-back goes to the bucket that took: tokens of a key's own bucket do not fill the overflow bucket that other keys
// share, and tokens of the overflow bucket go back there.
func TestMemoryStoreGiveBackAmongOverflow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		limits := []ratelimit.Limit{perHour}
		store := ratelimit.NewMemoryStore(ratelimit.WithMaxKeys(1))
		own := mustTake(t, store, "own", 5, perHour)
		if _, err := store.Reset(ctx, "own"); err != nil {
			t.Fatal(err)
		}
		var shared ratelimit.Result
		for i := range 100 { // Fills all places, and then the overflow buckets of all shards.
			for range 6 {
				if r := mustTake(t, store, fmt.Sprint("flood", i), 1, perHour); r.Allowed && r.Source == ratelimit.SourceOverflow {
					shared = r
				}
			}
		}
		if r := mustTake(t, store, "own", 1, perHour); r.Allowed || r.Source != ratelimit.SourceOverflow {
			t.Fatalf("%+v: want a refusal of the overflow bucket", r)
		}
		if _, err := store.Adjust(ctx, "own", ratelimit.Adjustment{N: 5, Limits: limits, Receipt: own.Receipt}); err != nil {
			t.Fatal(err)
		}
		if r := mustTake(t, store, "own", 1, perHour); r.Allowed {
			t.Errorf("%+v: a give-back of a key's own bucket has filled the one that all share", r)
		}
		if _, err := store.Adjust(ctx, "own", ratelimit.Adjustment{N: 1, Limits: limits, Receipt: shared.Receipt}); err != nil {
			t.Fatal(err)
		}
		if r := mustTake(t, store, "own", 1, perHour); !r.Allowed || r.Source != ratelimit.SourceOverflow {
			t.Errorf("%+v: a give-back of the overflow bucket has not come back to it", r)
		}
	})
}
