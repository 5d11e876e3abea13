package storetest

import (
	"context"
	"math/big"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gin-ratelimit/ratelimit"
)

// oracleHarness makes a store of an oracle, on a clock that only Advance moves.
func oracleHarness(wrap func(ratelimit.Store) ratelimit.Store) Harness {
	var o *oracle
	return Harness{
		Open: func(*testing.T) ratelimit.Store {
			o = newOracle()
			return wrap(o)
		},
		Advance: func(d time.Duration) {
			o.mu.Lock()
			defer o.mu.Unlock()
			o.now += d.Microseconds()
		},
		State: func(_ *testing.T, key string) *State { return o.state(key) },
	}
}

// The transcripts, rules, races and keys judge the oracle too.
func TestOracle(t *testing.T) {
	runCases(t, oracleHarness(func(s ratelimit.Store) ratelimit.Store { return s }))
}

func FuzzOracle(f *testing.F) {
	Fuzz(f, oracleHarness(func(s ratelimit.Store) ratelimit.Store { return s }))
}

// faulty is a store with one fault.
type faulty struct {
	ratelimit.Store
	take   func(s ratelimit.Store, key string, t ratelimit.Take) (ratelimit.Result, error)
	adjust func(s ratelimit.Store, key string, a ratelimit.Adjustment) (ratelimit.Result, error)
	look   func(s ratelimit.Store, key string, limits []ratelimit.Limit) (ratelimit.Usage, error)
	reset  func(s ratelimit.Store, key string) (bool, error)
}

var background = context.Background()

func (f faulty) Take(_ context.Context, key string, t ratelimit.Take) (ratelimit.Result, error) {
	if f.take == nil {
		return f.Store.Take(background, key, t)
	}
	return f.take(f.Store, key, t)
}

func (f faulty) Adjust(_ context.Context, key string, a ratelimit.Adjustment) (ratelimit.Result, error) {
	if f.adjust == nil {
		return f.Store.Adjust(background, key, a)
	}
	return f.adjust(f.Store, key, a)
}

func (f faulty) Look(_ context.Context, key string, limits []ratelimit.Limit) (ratelimit.Usage, error) {
	if f.look == nil {
		return f.Store.Look(background, key, limits)
	}
	return f.look(f.Store, key, limits)
}

func (f faulty) Reset(_ context.Context, key string) (bool, error) {
	if f.reset == nil {
		return f.Store.Reset(background, key)
	}
	return f.reset(f.Store, key)
}

// changed is a store whose results are a little wrong.
func changed(change func(r *ratelimit.Result)) faulty {
	return faulty{take: func(s ratelimit.Store, key string, t ratelimit.Take) (ratelimit.Result, error) {
		r, err := s.Take(background, key, t)
		if err == nil {
			change(&r)
		}
		return r, err
	}}
}

// rekeyed is a store that confuses keys.
func rekeyed(rename func(key string) string) faulty {
	return faulty{take: func(s ratelimit.Store, key string, t ratelimit.Take) (ratelimit.Result, error) {
		return s.Take(background, rename(key), t)
	}}
}

// asking is a store that takes something else than it was asked to.
func asking(change func(t *ratelimit.Take)) faulty {
	return faulty{take: func(s ratelimit.Store, key string, t ratelimit.Take) (ratelimit.Result, error) {
		change(&t)
		return s.Take(background, key, t)
	}}
}

// adjusting is a store that adjusts otherwise than it was asked to.
func adjusting(change func(a *ratelimit.Adjustment)) faulty {
	return faulty{adjust: func(s ratelimit.Store, key string, a ratelimit.Adjustment) (ratelimit.Result, error) {
		change(&a)
		return s.Adjust(background, key, a)
	}}
}

// faults are what other limiters have been found to do.
func faults() map[string]faulty {
	type store = ratelimit.Store
	var mu sync.Mutex
	known := map[string]string{}
	return map[string]faulty{
		"a refusal costs a token": {take: func(s store, key string, t ratelimit.Take) (ratelimit.Result, error) {
			r, err := s.Take(background, key, t)
			if err == nil && !r.Allowed && t.N <= r.Limit.Capacity {
				_, _ = s.Adjust(background, key, ratelimit.Adjustment{N: -1, Limits: t.Limits})
			}
			return r, err
		}},
		"a refusal takes what there is": {take: func(s store, key string, t ratelimit.Take) (ratelimit.Result, error) {
			r, err := s.Take(background, key, t)
			if err == nil && !r.Allowed && r.Remaining > 0 {
				_, _ = s.Take(background, key, ratelimit.Take{N: r.Remaining, Limits: t.Limits})
			}
			return r, err
		}},
		"a look costs a token": asking(func(t *ratelimit.Take) {
			if t.N == 0 {
				t.N = 1
			}
		}),
		"each limit on its own": {take: func(s store, key string, t ratelimit.Take) (r ratelimit.Result, err error) {
			for i := range t.Limits {
				one := t
				one.Limits = t.Limits[i : i+1]
				if r, err = s.Take(background, key+strings.Repeat("\x00\x00", i), one); err != nil || !r.Allowed {
					break
				}
			}
			return r, err
		}},
		"only the first limit": asking(func(t *ratelimit.Take) { t.Limits = t.Limits[:min(1, len(t.Limits))] }),
		"negative costs give tokens": {take: func(s store, key string, t ratelimit.Take) (ratelimit.Result, error) {
			if t.N < 0 {
				_, _ = s.Reset(background, key)
				t.N = 0
			}
			return s.Take(background, key, t)
		}},
		"costs are cut to 32 bits": asking(func(t *ratelimit.Take) { t.N = max(t.N, -1) & 0x7fffffff }),
		"looks and then takes": {take: func(s store, key string, t ratelimit.Take) (ratelimit.Result, error) {
			free := t
			free.N = 0
			r, err := s.Take(background, key, free)
			if err != nil || t.N > r.Remaining {
				return s.Take(background, key, t)
			}
			runtime.Gosched()
			_, _ = s.Adjust(background, key, ratelimit.Adjustment{N: -t.N, Limits: t.Limits})
			return s.Take(background, key, free)
		}},
		"does not wait": asking(func(t *ratelimit.Take) { t.MaxWait = 0 }),
		"waits for longer than it may": asking(func(t *ratelimit.Take) {
			if t.MaxWait > 0 {
				t.MaxWait += us
			}
		}),
		"no debt": {adjust: func(s store, key string, a ratelimit.Adjustment) (ratelimit.Result, error) {
			if r, err := s.Take(background, key, ratelimit.Take{Limits: a.Limits}); err != nil || a.N > -r.Remaining {
				return s.Adjust(background, key, a)
			}
			return s.Take(background, key, ratelimit.Take{Limits: a.Limits})
		}},
		"giving back fills": {adjust: func(s store, key string, a ratelimit.Adjustment) (ratelimit.Result, error) {
			r, err := s.Adjust(background, key, a)
			if err == nil && a.N > 0 {
				_, _ = s.Reset(background, key)
			}
			return r, err
		}},
		"what has refilled comes back, too": {adjust: func(s store, key string, a ratelimit.Adjustment) (ratelimit.Result, error) {
			if r := &a.Receipt; a.N > 0 && r.At() != 0 && r.Len() == len(a.Limits) {
				s.(*oracle).forgetAge(r)
			}
			return s.Adjust(background, key, a)
		}},
		"giving back takes no receipt": {adjust: func(s store, key string, a ratelimit.Adjustment) (ratelimit.Result, error) {
			if r := &a.Receipt; a.N > 0 && r.At() == 0 {
				_, _ = s.Reset(background, key)
			}
			return s.Adjust(background, key, a)
		}},
		"a receipt can be used again": {adjust: func(s store, key string, a ratelimit.Adjustment) (ratelimit.Result, error) {
			r := a.Receipt
			if t := s.(*oracle).ticket(&r); t != nil && len(t.left) == len(a.Limits) {
				a.Receipt = s.(*oracle).copyOf(t)
			}
			result, err := s.Adjust(background, key, a)
			result.Receipt = r
			return result, err
		}},
		"leaving the queue makes room in front": adjusting(func(a *ratelimit.Adjustment) { a.Leave = false }),
		"giving back leaves the queue":          adjusting(func(a *ratelimit.Adjustment) { a.Leave = true }),
		"reset always finds something": {reset: func(s store, key string) (bool, error) {
			_, err := s.Reset(background, key)
			return true, err
		}},
		"a look sees the first limit alone": {look: func(s store, key string, limits []ratelimit.Limit) (ratelimit.Usage, error) {
			u, err := s.Look(background, key, limits)
			u.Limits = u.Limits[:min(1, len(u.Limits))]
			return u, err
		}},
		"debts are rounded down": {look: func(s store, key string, limits []ratelimit.Limit) (ratelimit.Usage, error) {
			u, err := s.Look(background, key, limits)
			for i := range u.Limits {
				if l := &u.Limits[i]; l.Debt > 0 && l.NextToken%(100*ms) != 0 {
					l.Debt--
				}
			}
			return u, err
		}},
		"waits are cut to milliseconds": changed(func(r *ratelimit.Result) {
			if r.RetryAfter != ratelimit.Never {
				r.RetryAfter = r.RetryAfter.Truncate(ms)
			}
		}),
		"waits are a microsecond long": changed(func(r *ratelimit.Result) {
			if !r.Allowed && r.RetryAfter != ratelimit.Never {
				r.RetryAfter += us
			}
		}),
		"too costly looks like busy": changed(func(r *ratelimit.Result) {
			if r.RetryAfter == ratelimit.Never {
				r.RetryAfter = r.ResetAfter
			}
		}),
		"one more remains":        changed(func(r *ratelimit.Result) { r.Remaining++ }),
		"keys end at NUL":         rekeyed(func(key string) string { head, _, _ := strings.Cut(key, "\x00"); return head }),
		"keys end at 64 KiB":      rekeyed(func(key string) string { return key[:min(len(key), 1<<16)] }),
		"keys are case-blind":     rekeyed(strings.ToLower),
		"keys are trimmed":        rekeyed(strings.TrimSpace),
		"keys are valid UTF-8":    rekeyed(func(key string) string { return strings.ToValidUTF8(key, "�") }),
		"keys are without braces": rekeyed(strings.NewReplacer("{", "", "}", "").Replace),
		"keys are the caller's": rekeyed(func(key string) string {
			mu.Lock()
			defer mu.Unlock()
			if known[key] == "" {
				known[key] = strconv.Itoa(len(known)) // key may change
			}
			return known[key]
		}),
		"limits are the first ones": func() faulty {
			var first sync.Map
			return faulty{take: func(s store, key string, t ratelimit.Take) (ratelimit.Result, error) {
				if r, err := s.Take(background, key, ratelimit.Take{Limits: t.Limits}); err != nil {
					return r, err
				}
				kept, _ := first.LoadOrStore(strings.Clone(key), t.Limits)
				t.Limits = kept.([]ratelimit.Limit)
				return s.Take(background, key, t)
			}}
		}(),
	}
}

// forgetAge makes a take look as if it had just been made.
func (o *oracle) forgetAge(r *ratelimit.Receipt) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.ticket(r).at = o.now
}

// copyOf returns a receipt of the same take, with all that is left of it now.
func (o *oracle) copyOf(t *ticket) ratelimit.Receipt {
	o.mu.Lock()
	defer o.mu.Unlock()
	copied := ticket{at: t.at, queued: t.queued}
	for _, left := range t.left {
		copied.left = append(copied.left, new(big.Rat).Set(left))
	}
	o.tickets = append(o.tickets, copied)
	return ratelimit.NewReceipt(ratelimit.SourceUnknown, int64(len(o.tickets)), make([]int64, len(t.left)), t.queued)
}

const faultVariable = "STORETEST_FAULT"

// TestFault runs the suite on a store with a fault. It is for TestFaultsAreFound.
func TestFault(t *testing.T) {
	f, ok := faults()[os.Getenv(faultVariable)]
	if !ok {
		t.Skip("TestFaultsAreFound runs it in a process of its own, where it has to fail")
	}
	Run(t, oracleHarness(func(s ratelimit.Store) ratelimit.Store {
		f.Store = s
		return f
	}))
}

// A suite that cannot fail proves nothing. Here it has to fail for each fault.
func TestFaultsAreFound(t *testing.T) {
	for name := range faults() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			cmd := exec.Command(os.Args[0], "-test.run=^TestFault$", "-test.short", "-test.failfast")
			cmd.Env = append(os.Environ(), faultVariable+"="+name)
			out, err := cmd.CombinedOutput()
			if err == nil || !strings.Contains(string(out), "--- FAIL: TestFault/") {
				t.Fatalf("not found: %v\n%s", err, out)
			}
		})
	}
}
