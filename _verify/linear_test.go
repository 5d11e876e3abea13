package verify

import (
	"context"
	"maps"
	"math/rand/v2"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"

	"github.com/gin-ratelimit/ratelimit"
	"github.com/gin-ratelimit/ratelimit/internal/redistest"
)

// Concurrent takes are linearizable: there is an order, within the times between call and return, in which a plain counter
// returns the same. The limit does not refill meanwhile.

type operation struct {
	key    string
	n      int
	adjust bool
}

type answer struct {
	allowed   bool
	remaining int
}

var linearLimit = ratelimit.Limit{Capacity: 10, Refill: ratelimit.PerDay(1)}

// counterModel is a bucket that does not refill, one for each key.
var counterModel = porcupine.Model{
	Init: func() any { return linearLimit.Capacity },
	Partition: func(history []porcupine.Operation) [][]porcupine.Operation {
		byKey := map[string][]porcupine.Operation{}
		for _, op := range history {
			key := op.Input.(operation).key
			byKey[key] = append(byKey[key], op)
		}
		return slices.Collect(maps.Values(byKey))
	},
	Step: func(state, input, output any) (bool, any) {
		level, op := state.(int), input.(operation)
		want := answer{allowed: true}
		switch {
		case op.adjust:
			level = min(level+op.n, linearLimit.Capacity)
		case op.n <= level:
			level -= op.n
		default:
			want.allowed = false
		}
		want.remaining = level
		return output == want, level
	},
}

// concurrent has goroutines take and give back at random, and returns the history.
func concurrent(t *testing.T, store ratelimit.Store, prefix string) []porcupine.Operation {
	t.Helper()
	const goroutines, each = 6, 20
	histories := make([][]porcupine.Operation, goroutines)
	var running sync.WaitGroup
	for g := range goroutines {
		running.Go(func() {
			taken := map[string]ratelimit.Receipt{} // by key: of the latest take that was not given back
			for range each {
				op := operation{key: prefix + strconv.Itoa(rand.IntN(2)), n: rand.IntN(5)}
				receipt, ok := taken[op.key]
				op.adjust = ok && rand.IntN(3) == 0
				call := monotonic()
				var r ratelimit.Result
				var err error
				if op.adjust {
					// A day is so long that what is taken in this test can be given back in full, as far as it is missing.
					op.n = 1
					r, err = store.Adjust(context.Background(), op.key, ratelimit.Adjustment{
						N: op.n, Limits: []ratelimit.Limit{linearLimit}, Receipt: receipt,
					})
					delete(taken, op.key)
				} else {
					r, err = store.Take(context.Background(), op.key, ratelimit.Take{N: op.n, Limits: []ratelimit.Limit{linearLimit}})
					if r.Allowed && op.n > 0 {
						taken[op.key] = r.Receipt
					}
				}
				if err != nil {
					t.Error(err)
					return
				}
				histories[g] = append(histories[g], porcupine.Operation{
					ClientId: g, Input: op, Call: call, Output: answer{r.Allowed, r.Remaining}, Return: monotonic(),
				})
			}
		})
	}
	running.Wait()
	return slices.Concat(histories...)
}

func TestLinearizable(t *testing.T) {
	rounds := pick(100, 15)
	operations, rejected, unknown := 0, 0, 0
	proves(t, "Concurrent takes and returns are linearizable (porcupine), memory and Redis; one answer changed to an extra admission is not", func() string {
		return figure("%d operations; %d of %d changed histories rejected; %d undecided in time", operations, rejected, 2*rounds, unknown)()
	})
	server := redistest.Start(t)
	for name, store := range map[string]ratelimit.Store{"memory": ratelimit.NewMemoryStore(), "redis": openStore(t, server.Addr, patient)} {
		for round := range rounds {
			history := concurrent(t, store, name+strconv.Itoa(round)+":")
			operations += len(history)
			switch porcupine.CheckOperationsTimeout(counterModel, history, 10*time.Second) {
			case porcupine.Illegal:
				t.Fatalf("%s: round %d is not linearizable", name, round)
			case porcupine.Unknown:
				unknown++
			case porcupine.Ok:
			}
			if admitOneMore(history) && porcupine.CheckOperationsTimeout(counterModel, history, 10*time.Second) == porcupine.Illegal {
				rejected++
			}
		}
	}
	if rejected < 2*rounds*9/10 {
		t.Errorf("of %d histories with an extra admission %d were rejected", 2*rounds, rejected)
	}
}

// admitOneMore changes the first refusal of a positive cost into an admission.
func admitOneMore(history []porcupine.Operation) bool {
	for i, op := range history {
		if got := op.Output.(answer); !got.allowed && op.Input.(operation).n > 0 {
			history[i].Output = answer{true, got.remaining}
			return true
		}
	}
	return false
}
