package verify

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gin-gonic/gin"
	"pgregory.net/rapid"

	"github.com/gin-ratelimit/ratelimit"
	"github.com/gin-ratelimit/ratelimit/internal/redistest"
)

func heap() uint64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

// The heap soak: ever more keys, each left with an empty bucket.
func TestA04SprayOnMemory(t *testing.T) {
	c := try(t, "A4")
	const known = 100
	maxKeys, spray := pick(100_000, 10_000), pick(10_000_000, 50_000)
	before := heap()
	store := ratelimit.NewMemoryStore(ratelimit.WithMaxKeys(maxKeys))
	limit := ratelimit.Limit{Capacity: 10, Refill: ratelimit.PerHour(10)}
	take(t, store, "victim", 10, limit)
	for i := range known {
		take(t, store, "known"+strconv.Itoa(i), 1, limit)
	}
	var spraying sync.WaitGroup
	for g := range 2 {
		spraying.Go(func() {
			var key []byte
			for i := g; i < spray; i += 2 {
				key = strconv.AppendInt(append(key[:0], "sprayed-key-"...), int64(i), 10)
				if _, err := store.Take(context.Background(), string(key), ratelimit.Take{N: 10, Limits: []ratelimit.Limit{limit}}); err != nil {
					t.Error(err)
					return
				}
				if i%10_000 == g {
					if r, _ := store.Take(context.Background(), "victim", ratelimit.Take{N: 1, Limits: []ratelimit.Limit{limit}}); r.Allowed {
						t.Error("the drained victim was admitted")
					}
				}
			}
		})
	}
	spraying.Wait()
	grown := int64(heap()) - int64(before)
	if n := store.Len(); n > maxKeys {
		t.Errorf("%d keys, want at most %d", n, maxKeys)
	}
	if grown > int64(200*maxKeys) { // 79 bytes a key, and twice that while a table grows.
		t.Errorf("the heap has grown by %d bytes", grown)
	}
	for i := range known {
		if r := take(t, store, "known"+strconv.Itoa(i), 1, limit); !r.Allowed || r.Remaining != 8 || r.Source != ratelimit.SourceMemory {
			t.Fatalf("a known client: %+v", r)
		}
	}
	c.times(spray)
	c.exceeds(0, 0)
	c.note("%d keys sprayed: %d held, %.1f MiB", spray, store.Len(), float64(grown)/(1<<20))
}

func TestA05SprayOnRedis(t *testing.T) {
	c := try(t, "A5")
	server := redistest.Start(t, redistest.WithClock())
	admin := server.Client()
	store := openStore(t, server.Addr, patient)
	keys := pick(1_000_000, 30_000)
	memory := func() int {
		text := admin.Info(t.Context(), "memory").Val()
		n, _ := strconv.Atoi(strings.TrimSpace(regexp.MustCompile(`used_memory:(\d+)`).FindStringSubmatch(text)[1]))
		return n
	}
	empty := memory()
	fill(t, store, "fill", keys, ratelimit.Limit{Capacity: 10, Refill: ratelimit.PerMinute(1)})
	full := memory()
	space := admin.Info(t.Context(), "keyspace").Val()
	// A few more are the store's own, by which it finds out whether there is one server: one each time it looks.
	_, counts, _ := strings.Cut(space, "db0:")
	var held, expire int
	_, err := fmt.Sscanf(counts, "keys=%d,expires=%d,", &held, &expire)
	if err != nil || held != expire || held <= keys || held > keys+10 {
		t.Errorf("%d keys: %s: %v", keys, space, err)
	}
	// A bucket is full again after a minute, and its key expires two seconds later.
	server.Clock().Advance(time.Minute + 2*time.Second)
	eventually(t, time.Minute, "all keys are gone", func() bool { return admin.DBSize(t.Context()).Val() == 0 })
	c.times(keys)
	c.exceeds(0, 0)
	c.note("%d keys: %.0f MiB, %.0f B each; %.1f MiB when they are full again", keys,
		float64(full-empty)/(1<<20), float64(full-empty)/float64(keys), float64(memory()-empty)/(1<<20))
}

// Keys that are in one shard in one process are spread over shards in any other, because each has a seed of its own. A full
// store shows which keys are in one shard, because new keys share one bucket per shard.
func TestA06AimedAtOneShard(t *testing.T) {
	c := try(t, "A6")
	const maxKeys, shards, aimed = 1 << 14, 8, 500
	limit := ratelimit.Limit{Capacity: 1, Refill: ratelimit.PerHour(1)}
	full := func() *ratelimit.MemoryStore {
		store := ratelimit.NewMemoryStore(ratelimit.WithMaxKeys(maxKeys))
		for i := 0; take(t, store, "fill"+strconv.Itoa(i), 1, ratelimit.Limit{Capacity: 1, Refill: ratelimit.PerDay(1)}).Source == ratelimit.SourceMemory; i++ {
		}
		return store
	}
	seen, victim := full(), full()
	take(t, seen, "shard", 1, limit)
	var keys []string
	looks := 0
	for ; len(keys) < aimed; looks++ {
		key := "aimed" + strconv.Itoa(looks)
		if take(t, seen, key, 0, limit).Remaining == 0 {
			keys = append(keys, key)
		}
	}
	if looks < 2*aimed {
		t.Fatalf("%d of %d keys are in one shard: there is only one", aimed, looks)
	}
	hit := 0
	for _, key := range keys {
		if take(t, victim, key, 1, limit).Allowed {
			hit++
		}
	}
	if hit < shards/2 {
		t.Errorf("keys aimed at one shard hit %d in another process", hit)
	}
	c.times(aimed)
	c.exceeds(0, 0)
	c.note("%d keys of one shard are in %d of another process", aimed, hit)
}

var hostileKeys = []string{
	"", "\x00", "a\x00b", "\r\n", "x\r\nX-Injected: 1", "{}", "{a}", "{a}b", "}{", ":", "::", "a:b", "verify:a", "%", "%00", "%7B", "\xff\xfe", "\xc3\x28",
	"é", "e\u0301", "\u202e", "#", "#a", " ", "\t", "\"", "\\", "*", "?", "[a-z]", strings.Repeat("a", 128), strings.Repeat("a", 129), strings.Repeat("a", 1<<20),
	"ratelimit:", "k 1", "k\n1", "1:a1:b", "1:a", "-", "nil", "undefined", "/64", "b1 1 1 1 1 1",
}

func TestA07HostileKeys(t *testing.T) {
	c := try(t, "A7")
	server := redistest.Start(t)
	admin := server.Client()
	var logged bytes.Buffer
	var mu sync.Mutex
	logger := slog.New(slog.NewTextHandler(writerFunc(func(p []byte) (int, error) {
		mu.Lock()
		defer mu.Unlock()
		return logged.Write(p)
	}), nil))
	observe := ratelimit.LogObserver(logger)
	keys := slices.Clone(hostileKeys)
	// A long key and its digest are two keys.
	memory := ratelimit.NewMemoryStore()
	for name, store := range map[string]ratelimit.Store{"redis": openStore(t, server.Addr, patient), "memory": memory} {
		limiter, err := ratelimit.NewLimiter(ratelimit.WithName("a7"), ratelimit.WithStore(store), ratelimit.WithCapacity(1),
			ratelimit.WithRefillRate(ratelimit.PerHour(1)), ratelimit.WithObserver(observe), ratelimit.WithHeaders(ratelimit.XHeaders, ratelimit.IETFHeaders),
			ratelimit.WithKeyFunc(func(c *gin.Context) string { return c.MustGet("key").(string) }))
		if err != nil {
			t.Fatal(err)
		}
		for _, key := range keys {
			engine := routed(func(c *gin.Context) { c.Set("key", key) }, limiter.Handle)
			for i, want := range []int{http.StatusOK, http.StatusTooManyRequests} {
				w := get(engine)
				if w.Code != want {
					t.Errorf("%s: key %.20q: request %d: status %d", name, key, i, w.Code)
				}
				checkHeaders(t, w, key)
			}
		}
		c.times(len(keys))
	}
	if got := admin.DBSize(t.Context()).Val(); got != int64(len(keys)) {
		t.Errorf("%d keys are %d in Redis", len(keys), got)
	}
	if got := memory.Len(); got != len(keys) {
		t.Errorf("%d keys are %d in memory", len(keys), got)
	}
	for _, key := range admin.Keys(t.Context(), "*").Val() {
		if !regexp.MustCompile(`^ratelimit:a7:[!-z|~]*$`).MatchString(key) || len(key) > 600 {
			t.Errorf("Redis key %q", key)
		}
	}
	for _, key := range keys {
		if len(key) > 3 && strings.Contains(logged.String(), key) && key != "undefined" {
			t.Errorf("the log discloses key %.20q", key)
		}
	}
	c.exceeds(0, 0)
}

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(p []byte) (int, error) { return f(p) }

// checkHeaders fails if a response's headers contain text of a key, or bytes that no header may have.
func checkHeaders(t *testing.T, w *httptest.ResponseRecorder, key string) {
	t.Helper()
	for name, values := range w.Header() {
		for _, value := range values {
			if strings.ContainsFunc(value, func(r rune) bool { return r < ' ' || r > '~' }) {
				t.Errorf("header %s: %q", name, value)
			}
			if len(key) > 3 && strings.Contains(value, key) {
				t.Errorf("header %s discloses key %.20q", name, key)
			}
		}
	}
	if w.Header().Get("X-Injected") != "" {
		t.Errorf("a header was injected by key %.20q", key)
	}
}

// Two lists of parts make one key only if they are the same list.
func TestA07CompositesAreInjective(t *testing.T) {
	c := try(t, "A7")
	parts := rapid.SliceOfN(rapid.OneOf(rapid.SampledFrom([]string{"", ":", "1:", "1:a", "a", "0:", "2:ab", "{", "%", "#"}), rapid.String()), 1, 4)
	join := func(list []string) string {
		keys := make([]ratelimit.KeyFunc, len(list))
		for i, part := range list {
			keys[i] = func(*gin.Context) string { return part }
		}
		return ratelimit.Join(keys...)(nil)
	}
	empty := func(list []string) bool { return strings.Join(list, "") == "" }
	rapid.Check(t, func(t *rapid.T) {
		a, b := parts.Draw(t, "a"), parts.Draw(t, "b")
		if same := slices.Equal(a, b) || empty(a) && empty(b); (join(a) == join(b)) != same {
			t.Fatalf("%q and %q: keys %q and %q", a, b, join(a), join(b))
		}
	})
	c.times(100)
}

// Requests without a key share a bucket, and so do keys without room. No other request uses these buckets.
func TestA11SharedBucketDrained(t *testing.T) {
	c := try(t, "A11")
	reasons := map[ratelimit.Reason]int{}
	observe := func(_ context.Context, e ratelimit.Event) { reasons[e.Reason]++ }
	store := ratelimit.NewMemoryStore(ratelimit.WithMaxKeys(10))
	engine := routed(ratelimit.New(ratelimit.WithName("a11"), ratelimit.WithStore(store), ratelimit.WithCapacity(5),
		ratelimit.WithRefillRate(ratelimit.PerHour(5)), ratelimit.WithObserver(observe),
		ratelimit.WithKeyFunc(func(c *gin.Context) string { return c.GetHeader("X-Key") })))
	for range 20 {
		get(engine)
	}
	for i := range 9 {
		get(engine, "X-Key", "early"+strconv.Itoa(i))
	}
	for i := range 50 {
		get(engine, "X-Key", "late"+strconv.Itoa(i))
	}
	for i := range 9 {
		if w := get(engine, "X-Key", "early"+strconv.Itoa(i)); w.Code != http.StatusOK || w.Header().Get("X-Ratelimit-Remaining") != "3" {
			t.Errorf("a key with a bucket of its own: status %d, headers %v", w.Code, w.Header())
		}
	}
	if reasons[ratelimit.ReasonNoKey] != 15 || reasons[ratelimit.ReasonOverflow] != 45 {
		t.Errorf("counted: %v", reasons)
	}
	c.times(79)
	c.exceeds(0, 0)
}
