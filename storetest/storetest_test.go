package storetest

import (
	"context"
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

// oracleHarness makes a store of an oracle, on a clock that stands still but for Advance.
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

// The transcripts and the rules judge the oracle too, and races and keys its use as a store.
func TestOracle(t *testing.T) {
	runCases(t, oracleHarness(func(s ratelimit.Store) ratelimit.Store { return s }))
}

func FuzzOracle(f *testing.F) {
	Fuzz(f, oracleHarness(func(s ratelimit.Store) ratelimit.Store { return s }))
}

// faulty is a store with one fault.
type faulty struct {
	ratelimit.Store
	take   func(s ratelimit.Store, key string, n int, limits []ratelimit.Limit) (ratelimit.Result, error)
	adjust func(s ratelimit.Store, key string, n int, limits []ratelimit.Limit) (ratelimit.Result, error)
}

var background = context.Background()

func (f faulty) Take(_ context.Context, key string, n int, limits []ratelimit.Limit) (ratelimit.Result, error) {
	if f.take == nil {
		return f.Store.Take(background, key, n, limits)
	}
	return f.take(f.Store, key, n, limits)
}

func (f faulty) Adjust(_ context.Context, key string, n int, limits []ratelimit.Limit) (ratelimit.Result, error) {
	if f.adjust == nil {
		return f.Store.Adjust(background, key, n, limits)
	}
	return f.adjust(f.Store, key, n, limits)
}

// changed is a store whose results are a little wrong.
func changed(change func(r *ratelimit.Result)) faulty {
	return faulty{take: func(s ratelimit.Store, key string, n int, limits []ratelimit.Limit) (ratelimit.Result, error) {
		r, err := s.Take(background, key, n, limits)
		if err == nil {
			change(&r)
		}
		return r, err
	}}
}

// rekeyed is a store that confuses keys.
func rekeyed(rename func(key string) string) faulty {
	return faulty{take: func(s ratelimit.Store, key string, n int, limits []ratelimit.Limit) (ratelimit.Result, error) {
		return s.Take(background, rename(key), n, limits)
	}}
}

// faults are what other limiters have been found to do.
func faults() map[string]faulty {
	type store = ratelimit.Store
	var mu sync.Mutex
	known := map[string]string{}
	return map[string]faulty{
		"a refusal costs a token": {take: func(s store, key string, n int, limits []ratelimit.Limit) (ratelimit.Result, error) {
			r, err := s.Take(background, key, n, limits)
			if err == nil && !r.Allowed && n <= r.Limit.Capacity {
				_, _ = s.Adjust(background, key, -1, limits)
			}
			return r, err
		}},
		"a refusal takes what there is": {take: func(s store, key string, n int, limits []ratelimit.Limit) (ratelimit.Result, error) {
			r, err := s.Take(background, key, n, limits)
			if err == nil && !r.Allowed && r.Remaining > 0 {
				_, _ = s.Take(background, key, r.Remaining, limits)
			}
			return r, err
		}},
		"a look costs a token": {take: func(s store, key string, n int, limits []ratelimit.Limit) (ratelimit.Result, error) {
			return s.Take(background, key, max(n, 1), limits)
		}},
		"each limit on its own": {take: func(s store, key string, n int, limits []ratelimit.Limit) (r ratelimit.Result, err error) {
			for i := range limits {
				if r, err = s.Take(background, key+strings.Repeat("\x00\x00", i), n, limits[i:i+1]); err != nil || !r.Allowed {
					break
				}
			}
			return r, err
		}},
		"only the first limit": {take: func(s store, key string, n int, limits []ratelimit.Limit) (ratelimit.Result, error) {
			return s.Take(background, key, n, limits[:min(1, len(limits))])
		}},
		"negative costs give tokens": {take: func(s store, key string, n int, limits []ratelimit.Limit) (ratelimit.Result, error) {
			if n < 0 {
				return s.Adjust(background, key, -max(n, -1000), limits)
			}
			return s.Take(background, key, n, limits)
		}},
		"costs are cut to 32 bits": {take: func(s store, key string, n int, limits []ratelimit.Limit) (ratelimit.Result, error) {
			return s.Take(background, key, max(n, -1)&0x7fffffff, limits)
		}},
		"looks and then takes": {take: func(s store, key string, n int, limits []ratelimit.Limit) (ratelimit.Result, error) {
			r, err := s.Take(background, key, 0, limits)
			if err != nil || n > r.Remaining {
				return s.Take(background, key, n, limits)
			}
			runtime.Gosched()
			_, _ = s.Adjust(background, key, -n, limits)
			return s.Take(background, key, 0, limits)
		}},
		"no debt": {adjust: func(s store, key string, n int, limits []ratelimit.Limit) (ratelimit.Result, error) {
			if r, err := s.Take(background, key, 0, limits); err != nil || n > -r.Remaining {
				return s.Adjust(background, key, n, limits)
			}
			return s.Take(background, key, 0, limits)
		}},
		"giving back fills": {adjust: func(s store, key string, n int, limits []ratelimit.Limit) (ratelimit.Result, error) {
			if n > 0 {
				_ = s.Reset(background, key)
			}
			return s.Adjust(background, key, n, limits)
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
			return faulty{take: func(s store, key string, n int, limits []ratelimit.Limit) (ratelimit.Result, error) {
				if r, err := s.Take(background, key, 0, limits); err != nil {
					return r, err
				}
				kept, _ := first.LoadOrStore(strings.Clone(key), limits)
				return s.Take(background, key, n, kept.([]ratelimit.Limit))
			}}
		}(),
	}
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

// A suite that cannot fail is worth nothing: here it has to.
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
