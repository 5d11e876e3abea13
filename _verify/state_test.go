package verify

import (
	"context"
	"errors"
	"net/http"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/gin-gonic/gin"
	"github.com/redis/go-redis/v9"

	"github.com/gin-ratelimit/ratelimit"
	"github.com/gin-ratelimit/ratelimit/internal/redistest"
)

func TestF11ScriptFlush(t *testing.T) { nearAndFar(t, "F11", f11ScriptFlush) }

func f11ScriptFlush(t *testing.T, c *trial) {
	server := redistest.Start(t)
	admin := server.Client()
	spec := defaultSpec(server.Addr)
	spec.Budget = time.Second // What counts is whether there are errors, not how busy this machine is.
	l := startLoad(t, processes, spec)
	flushes := pick(100, 20)
	for range flushes {
		if err := admin.ScriptFlush(t.Context()).Err(); err != nil {
			t.Fatal(err)
		}
		l.run(100 * time.Millisecond)
	}
	log := l.stop()
	c.times(flushes)
	c.takes(log.latencies(), 50*time.Millisecond)
	c.exceeds(worstExcess(log.admissions(), spec.Limit), 0)
	c.note("%d errors of %d requests in %d flushes", log.count(failed), len(log), flushes)
	if n := log.count(failed); n > 0 {
		t.Errorf("%d of %d requests failed: %v", n, len(log), log.errors())
	}
	if reloads := server.CommandCalls("eval"); reloads < int64(flushes) {
		t.Errorf("%d flushes, and the script was sent %d times only", flushes, reloads)
	}
}

func TestF12FlushAll(t *testing.T) { nearAndFar(t, "F12", f12FlushAll) }

func f12FlushAll(t *testing.T, c *trial) {
	server := redistest.Start(t)
	admin := server.Client()
	spec := defaultSpec(server.Addr)
	spec.Budget = time.Second
	l := startLoad(t, processes, spec)
	flushes := pick(5, 2)
	for range flushes {
		l.run(400 * time.Millisecond)
		if err := admin.FlushAll(t.Context()).Err(); err != nil {
			t.Fatal(err)
		}
	}
	l.run(400 * time.Millisecond)
	log := l.stop()
	c.times(flushes)
	c.takes(log.latencies(), 50*time.Millisecond)
	c.exceeds(worstExcess(log.admissions(), spec.Limit), float64(flushes*spec.Limit.Capacity))
	if n := log.count(failed); n > 0 {
		t.Errorf("%d of %d requests failed: %v", n, len(log), log.errors())
	}
}

func TestF13MemoryFull(t *testing.T) { nearAndFar(t, "F13", f13MemoryFull) }

func f13MemoryFull(t *testing.T, c *trial) {
	server := redistest.Start(t, redistest.WithConfig("maxmemory-policy", "noeviction"))
	admin := server.Client()
	store := openStore(t, server.Addr, patient)
	limit := ratelimit.Limit{Capacity: 1, Refill: ratelimit.PerHour(1)}
	stats := ratelimit.NewStats()
	limiter, err := ratelimit.NewLimiter(ratelimit.WithName("full"), ratelimit.WithStore(store), ratelimit.WithRefillRate(limit.Refill),
		ratelimit.WithKeyFunc(func(c *gin.Context) string { return c.GetHeader("X-Key") }),
		ratelimit.WithErrorHandler(ratelimit.FailClosed), ratelimit.WithObserver(stats.Observe))
	if err != nil {
		t.Fatal(err)
	}
	engine := routed(limiter.Handle)
	if w := get(engine, "X-Key", "drained"); w.Code != http.StatusOK {
		t.Fatalf("status %d", w.Code)
	}
	if err := admin.ConfigSet(t.Context(), "maxmemory", "100kb").Err(); err != nil {
		t.Fatal(err)
	}
	times := pick(100, 20)
	for i := range times {
		if w := get(engine, "X-Key", "new"+strconv.Itoa(i)); w.Code != http.StatusServiceUnavailable {
			t.Fatalf("a take that cannot be stored: status %d", w.Code)
		}
		if w := get(engine, "X-Key", "drained"); w.Code != http.StatusTooManyRequests {
			t.Fatalf("a drained key: status %d", w.Code)
		}
	}
	counted := 0
	for _, name := range stats.Snapshot() {
		counted += int(name.Failed)
	}
	if counted != times {
		t.Errorf("%d failures, %d of them counted", times, counted)
	}
	if err := admin.ConfigSet(t.Context(), "maxmemory", "0").Err(); err != nil {
		t.Fatal(err)
	}
	if w := get(engine, "X-Key", "new0"); w.Code != http.StatusOK {
		t.Errorf("with memory again: status %d", w.Code)
	}
	c.times(times)
	c.exceeds(0, 0)
}

// A spray of keys overflows the memory, in which a victim under a limit is. Its bucket is refilled once each time that it is
// evicted, and no more often.
func TestF14Eviction(t *testing.T) { nearAndFar(t, "F14", f14Eviction) }

func f14Eviction(t *testing.T, c *trial) {
	server := redistest.Start(t, redistest.WithConfig("maxmemory", "2mb"), redistest.WithConfig("maxmemory-policy", "allkeys-lru"))
	admin := server.Client()
	store := openStore(t, server.Addr, patient)
	limit := ratelimit.Limit{Capacity: 5, Refill: ratelimit.PerHour(5)}
	evicted := 0
	var log []admission
	const spray = 500
	for i := range pick(120, 30) {
		fill(t, store, "spray"+strconv.Itoa(i)+"-", spray, limit)
		// Read in a way that does not count as a use, or lru would keep it.
		gone := admin.Exists(t.Context(), "ratelimit:victim").Val() == 0
		if gone {
			evicted++
		}
		for range 2 * limit.Capacity {
			start := monotonic()
			if take(t, store, "victim", 1, limit).Allowed {
				log = append(log, admission{"victim", 1, start, monotonic()})
			}
		}
	}
	c.times(evicted)
	c.exceeds(worstExcess(log, limit), float64(evicted*limit.Capacity))
	c.note("the victim was evicted %d times", evicted)
}

func TestF17ForeignState(t *testing.T) { nearAndFar(t, "F17", f17ForeignState) }

func f17ForeignState(t *testing.T, c *trial) {
	server := redistest.Start(t)
	admin := server.Client()
	store := openStore(t, server.Addr, patient)
	limit := ratelimit.Limit{Capacity: 5, Refill: ratelimit.PerHour(5)}
	limiter, err := ratelimit.NewLimiter(ratelimit.WithName("f17"), ratelimit.WithStore(store), ratelimit.WithRefillRate(limit.Refill),
		ratelimit.WithKeyFunc(func(*gin.Context) string { return "foreign" }), ratelimit.WithErrorHandler(ratelimit.FailClosed))
	if err != nil {
		t.Fatal(err)
	}
	engine := routed(limiter.Handle)
	const redisKey = "ratelimit:f17:foreign"
	ctx := t.Context()
	texts := []string{
		"", "garbage", "5", "\x00\xff", "b1", "b1 ", "b1 x", "b1 1 2", "b1 1 5 1 1", "b1 1 5 1 1 1 ", "b1 1 0 1 1 0", "b1 1 5 0 1 0",
		"b1 1 5 1 0 0", "b1 1 5 1 1 -1", "b1 1 5 1 1 1.5", "b1 1 5 1 1 9007199254740992", "b1 99999999999999999999 5 1 1 1",
		"b1 1 5 1 1 1 ban", "b1 1 5 1 1 1 ban 1 1 1 1", "b1 1 4503599627370496 2 1 1", "b0 1 5 1 1 1", "b2 1 5 1 1 1", "{\"tokens\":5}",
	}
	puts := map[string]func() error{
		"list": func() error { return admin.RPush(ctx, redisKey, "a", "b").Err() },
		"hash": func() error { return admin.HSet(ctx, redisKey, "tokens", 5).Err() },
		"set":  func() error { return admin.SAdd(ctx, redisKey, "a").Err() },
		"zset": func() error { return admin.ZAdd(ctx, redisKey, redis.Z{Score: 1, Member: "a"}).Err() },
	}
	for _, text := range texts {
		puts[strconv.Quote(text)] = func() error { return admin.Set(ctx, redisKey, text, 0).Err() }
	}
	for name, put := range puts {
		if err := put(); err != nil {
			t.Fatal(err)
		}
		before := admin.Dump(ctx, redisKey).Val()
		_, err := limiter.Take(ctx, "foreign", 1)
		if !errors.Is(err, ratelimit.ErrForeignState) {
			t.Errorf("%s: error %v", name, err)
		}
		if _, err := limiter.Reset(ctx, "foreign"); !errors.Is(err, ratelimit.ErrForeignState) {
			t.Errorf("%s: Reset: error %v", name, err)
		}
		if _, err := store.Adjust(ctx, "f17:foreign", ratelimit.Adjustment{N: 1, Limits: []ratelimit.Limit{limit}}); !errors.Is(err, ratelimit.ErrForeignState) {
			t.Errorf("%s: Adjust: error %v", name, err)
		}
		if w := get(engine); w.Code != http.StatusServiceUnavailable {
			t.Errorf("%s: status %d", name, w.Code)
		}
		if after := admin.Dump(ctx, redisKey).Val(); after != before {
			t.Errorf("%s: was changed", name)
		}
		if err := admin.Del(ctx, redisKey).Err(); err != nil {
			t.Fatal(err)
		}
	}
	c.times(len(puts))
	c.exceeds(0, 0)
}

// fill takes one token from each of so many keys, by many goroutines.
func fill(t *testing.T, store ratelimit.Store, prefix string, keys int, limit ratelimit.Limit) {
	t.Helper()
	const fillers = 64
	var filling sync.WaitGroup
	for i := range fillers {
		filling.Go(func() {
			for k := i; k < keys; k += fillers {
				if _, err := store.Take(context.Background(), prefix+strconv.Itoa(k), ratelimit.Take{N: 1, Limits: []ratelimit.Limit{limit}}); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	filling.Wait()
}
