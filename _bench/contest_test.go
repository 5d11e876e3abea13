package main

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gin-ratelimit/ratelimit/internal/redistest"
	"github.com/redis/go-redis/v9"
)

// contestants runs a test for each peer that has what the test is about.
func contestants(t *testing.T, has func(peer) bool, test func(t *testing.T, p peer)) {
	for _, p := range peers {
		if has(p) {
			t.Run(strings.ReplaceAll(p.name, "/", "_"), func(t *testing.T) { test(t, p) })
		}
	}
}

// takeTimes counts the answers to n takes of key.
func takeTimes(take taker, key string, n int) (counted tally) {
	for range n {
		counted[take(key)]++
	}
	return counted
}

func wantTally(t *testing.T, got tally, wantAllowed, wantRefused int) {
	t.Helper()
	if want := (tally{allowed: wantAllowed, refused: wantRefused}); got != want {
		t.Errorf("allowed %d, refused %d, failed %d; want %d, %d, 0", got[allowed], got[refused], got[failed], wantAllowed, wantRefused)
	}
}

// limits checks that the burst is admitted, and no more, which all scenarios rely on.
func limits(t *testing.T, open func(limit) taker) {
	t.Helper()
	take := open(limit{10, time.Hour})
	wantTally(t, takeTimes(take, "010.000.000.001", 13), 10, 3)
	wantTally(t, takeTimes(take, "010.000.000.002", 13), 10, 3)
	wantTally(t, takeTimes(open(roomy), "010.000.000.001", 1000), 1000, 0)
	take = open(tight)
	wantTally(t, takeTimes(take, "010.000.000.001", 1000), 1, 999)
}

func TestMemoryAdmitsTheBurst(t *testing.T) {
	contestants(t, hasMemory, func(t *testing.T, p peer) { limits(t, p.memory) })
}

// Peers that are called exact refill evenly, and windows do not.
func TestMemoryRefills(t *testing.T) {
	contestants(t, hasMemory, func(t *testing.T, p peer) {
		t.Parallel()
		const per = 200 * time.Millisecond
		take := p.memory(limit{20, per})
		takeTimes(take, "010.000.000.001", 20)
		time.Sleep(per * 3 / 2)
		got := takeTimes(take, "010.000.000.001", 20)
		if p.kind == inexact {
			wantTally(t, got, 0, 20)
		} else if got[allowed] < 1 || got[allowed] > 5 { // More than one on a machine that is slow to wake it.
			t.Errorf("%d of 20 allowed after 1.5 tokens' time, want 1", got[allowed])
		}
	})
}

// Peers that are called exact count every caller. throttled may give up, but never admits too many.
func TestMemoryCountsEveryCaller(t *testing.T) {
	contestants(t, func(p peer) bool { return hasMemory(p) && p.kind != inexact }, func(t *testing.T, p peer) {
		const callers, each, capacity = 64, 500, 10_000
		take := p.memory(limit{capacity, time.Hour})
		var counted tally
		var mu sync.Mutex
		var done sync.WaitGroup
		for range callers {
			done.Go(func() {
				own := takeTimes(take, "010.000.000.001", each)
				mu.Lock()
				defer mu.Unlock()
				counted.add(own)
			})
		}
		done.Wait()
		if counted[allowed] != capacity {
			t.Errorf("%d of %d allowed, %d failed", counted[allowed], capacity, counted[failed])
		}
	})
}

func TestKeysAreKept(t *testing.T) {
	contestants(t, func(p peer) bool { return hasMemory(p) && p.kind != floor }, func(t *testing.T, p peer) {
		m := heap(p, options{keys: 20_000})
		if m[wrongOf("heap")] != 0 || m[wrongOf("heap/kept")] != 0 || m["heap"] <= 8 {
			t.Errorf("%v", m)
		}
	})
}

func TestWebAdmitsTheBurst(t *testing.T) {
	for _, c := range webCases {
		has := func(p peer) bool { return p.web != nil && p.kind != floor && (c.by == peerAddress || !p.direct) }
		t.Run(c.name, func(t *testing.T) {
			contestants(t, has, func(t *testing.T, p peer) {
				limits(t, func(l limit) taker {
					handler := p.web(l, c.by)
					clients := map[string]taker{}
					return func(key string) verdict {
						if clients[key] == nil {
							r := httptest.NewRequest(http.MethodGet, "/", nil)
							r.RemoteAddr = fmt.Sprintf("192.0.2.%d:1234", len(clients)+1)
							clients[key] = requests(handler, r)
						}
						return clients[key](key)
					}
				})
			})
		})
	}
}

func TestWebSendsHeaders(t *testing.T) {
	contestants(t, func(p peer) bool { return p.web != nil && p.kind != floor && p.kind != aid }, func(t *testing.T, p peer) {
		w := httptest.NewRecorder()
		p.web(roomy, peerAddress).ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/", nil))
		found := 0
		for name := range w.Header() {
			if strings.Contains(strings.ToLower(name), "rate") {
				found++
			}
		}
		if found < 3 {
			t.Errorf("%d headers: %v", found, w.Header())
		}
	})
}

func TestRedisAdmitsTheBurst(t *testing.T) {
	contestants(t, func(p peer) bool { return hasRedis(p) && p.kind != floor }, func(t *testing.T, p peer) {
		server := redistest.Start(t)
		limits(t, func(l limit) taker {
			client := redis.NewClient(&redis.Options{Addr: server.Addr})
			t.Cleanup(func() { client.Close() })
			if err := client.FlushAll(t.Context()).Err(); err != nil {
				t.Fatal(err)
			}
			return p.redis(client, l)
		})
	})
}

func TestMain(m *testing.M) {
	code := 0
	if err := runOrServe(func() error { code = m.Run(); return nil }); err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}

// Every scenario runs with each of its contestants, and every table finds its metrics.
func TestScenarios(t *testing.T) {
	o := options{lasts: 2 * time.Millisecond, keys: 2000, redis: redistest.Start(t).Addr}
	r := newReport(o)
	r.passes = 1
	for _, s := range scenarios {
		for _, p := range peers {
			if s.has(p) {
				r.add(p, s.run(p, o), nil)
			}
		}
	}
	text := r.markdown()
	for _, tables := range [][]table{memoryTables(), webTables(), socketTables(), redisTables(), linkTables()} {
		for _, table := range tables {
			if title := strings.ReplaceAll(table.title, "{keys}", "2,000"); !strings.Contains(text, "\n## "+title+"\n") {
				t.Errorf("no table %q", title)
			}
			for _, c := range table.columns {
				if _, ok := r.values[oursByStore.name][c.metric]; !ok {
					t.Errorf("%s: no metric %q of this library", table.title, c.metric)
				}
			}
		}
	}
	for metric, values := range r.values[oursByStore.name] {
		if strings.HasSuffix(metric, wrongSuffix) && values[0] != 0 { // But Redis may be late on a busy machine.
			t.Errorf("this library: %s = %v", metric, values[0])
		}
	}
	if len(r.figures()) < 32 {
		t.Errorf("%d figures of some 35", len(r.figures()))
	}
}

func TestHistogram(t *testing.T) {
	var h histogram
	for i := range 100_000 {
		h.add(time.Duration(i) * time.Microsecond / 10)
	}
	for _, q := range []float64{0, .001, .5, .99, .999, .99999, 1} {
		got, want := float64(h.quantile(q)), q*(1e7-100)
		if got < want || got > want*1.032+100 {
			t.Errorf("quantile(%g) = %v, want %v", q, time.Duration(got), time.Duration(want))
		}
	}
}

func TestKeys(t *testing.T) {
	ordered, shuffled := newKeys(70_000, false), newKeys(70_000, true)
	seen := map[string]bool{}
	same := 0
	for i := range ordered.n {
		seen[ordered.at(i)] = true
		if ordered.at(i) == shuffled.at(i) {
			same++
		}
	}
	for i := range shuffled.n {
		delete(seen, shuffled.at(i))
	}
	if len(seen) != 0 || same > 10 {
		t.Errorf("%d keys are missing, %d are in place", len(seen), same)
	}
	if first, last := ordered.part(0, 3), ordered.part(2, 3); first.at(0) != "010.000.000.000" || last.at(last.n-1) != ordered.at(69_999) {
		t.Errorf("parts are from %q to %q", first.at(0), last.at(last.n-1))
	}
}
