package ratelimit_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gin-ratelimit/ratelimit"
)

// logOf returns a LogObserver, and a function that returns the lines it has written since the last call.
func logOf(opts ...ratelimit.LogOption) (func(ratelimit.Event), func() []map[string]any) {
	var text bytes.Buffer
	handler := slog.NewJSONHandler(&text, &slog.HandlerOptions{ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
		if a.Key == slog.TimeKey {
			return slog.Attr{}
		}
		return a
	}})
	observe := ratelimit.LogObserver(slog.New(handler), opts...)
	return func(e ratelimit.Event) { observe(context.Background(), e) }, func() []map[string]any {
		var lines []map[string]any
		for decoder := json.NewDecoder(&text); ; {
			var line map[string]any
			if err := decoder.Decode(&line); err != nil {
				return lines
			}
			lines = append(lines, line)
		}
	}
}

// refusalOf is a refusal of a key by the limiter "login".
func refusalOf(key string) ratelimit.Event {
	return ratelimit.Event{
		Name:   "login",
		Route:  "/login",
		Key:    ratelimit.KeyOf(key),
		Cost:   1,
		Reason: ratelimit.ReasonRefused,
		Result: ratelimit.Result{
			Source:     ratelimit.SourceMemory,
			Limit:      ratelimit.Limit{Capacity: 5, Refill: ratelimit.PerMinute(5)},
			RetryAfter: 3 * time.Second,
		},
	}
}

func ExampleLogObserver() {
	logger := slog.New(slog.NewTextHandler(os.Stdout, &slog.HandlerOptions{ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
		if a.Key == slog.TimeKey || a.Key == "retry_after" {
			return slog.Attr{}
		}
		return a
	}}))
	login, err := ratelimit.NewLimiter(
		ratelimit.WithName("login"),
		ratelimit.WithRefillRate(ratelimit.PerMinute(5)),
		ratelimit.WithObserver(ratelimit.LogObserver(logger)),
	)
	if err != nil {
		panic(err)
	}
	for range 12 {
		_, _ = login.Take(context.Background(), "ann@example.org", 1)
	}
	_, _ = login.Take(context.Background(), "bob@example.org", 6)
	// Output:
	// level=INFO msg="rate limit refused" name=login route="" key=IS0Ah95clMc reason=refused cost=1 limit=5/m source=memory
	// level=INFO msg="rate limit refused" name=login route="" key=OYFDH9X23tV reason=cost cost=6 limit=5/m source=memory suppressed=6
}

func TestLogLines(t *testing.T) {
	const secret = "203.0.113.7"
	with := func(change func(*ratelimit.Event)) ratelimit.Event {
		e := refusalOf(secret)
		change(&e)
		return e
	}
	failure := func(reason ratelimit.Reason, err error) ratelimit.Event {
		return with(func(e *ratelimit.Event) {
			e.Reason, e.Err, e.Result, e.Elapsed = reason, err, ratelimit.Result{}, 50*time.Millisecond
		})
	}
	reason := func(reason ratelimit.Reason) ratelimit.Event {
		return with(func(e *ratelimit.Event) { e.Reason = reason })
	}
	refusal := func(level, message, reason string) string {
		return fmt.Sprintf(`{"cost":1,"key":"%s","level":"%s","limit":"5/m","msg":"%s","name":"login","reason":"%s",`+
			`"retry_after":3000000000,"route":"/login","source":"memory"}`, ratelimit.KeyOf(secret), level, message, reason)
	}
	undecided := func(reason, kind, err string) string {
		return fmt.Sprintf(`{"cost":1,"elapsed":50000000,"error":"%s","key":"%s","kind":"%s","level":"ERROR",`+
			`"msg":"rate limit undecided","name":"login","reason":"%s","route":"/login"}`, err, ratelimit.KeyOf(secret), kind, reason)
	}
	cases := map[string]struct {
		event ratelimit.Event
		want  string
	}{
		"allowed":  {reason(ratelimit.ReasonAllowed), ""},
		"refused":  {reason(ratelimit.ReasonRefused), refusal("INFO", "rate limit refused", "refused")},
		"no key":   {reason(ratelimit.ReasonNoKey), refusal("INFO", "rate limit refused", "no_key")},
		"overflow": {reason(ratelimit.ReasonOverflow), refusal("WARN", "rate limit refused", "overflow")},
		"banned":   {reason(ratelimit.ReasonBanned), refusal("WARN", "rate limit refused", "banned")},
		"gone":     {reason(ratelimit.ReasonGone), refusal("INFO", "rate limit refused", "gone")},
		"shadow":   {reason(ratelimit.ReasonShadow), refusal("INFO", "rate limit would have refused", "shadow")},
		"never admitted": {
			with(func(e *ratelimit.Event) { e.Reason, e.Result.RetryAfter = ratelimit.ReasonCost, ratelimit.Never }),
			strings.Replace(refusal("INFO", "rate limit refused", "cost"), `"retry_after":3000000000,`, "", 1),
		},
		"store": {
			failure(ratelimit.ReasonStore, fmt.Errorf("ratelimit: redis: %w", context.DeadlineExceeded)),
			undecided("store", "timeout", "ratelimit: redis: context deadline exceeded"),
		},
		"argument": {
			failure(ratelimit.ReasonArgument, fmt.Errorf("cost -1: %w", ratelimit.ErrArgument)),
			undecided("argument", "argument", "cost -1: invalid argument"),
		},
		"foreign, whose error names the key": {
			failure(ratelimit.ReasonForeign, fmt.Errorf("redis key %q: %w", secret, ratelimit.ErrForeignState)),
			undecided("foreign", "foreign", "state is not a rate limit's"),
		},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			observe, lines := logOf()
			observe(c.event)
			var got []byte
			for _, line := range lines() {
				got, _ = json.Marshal(line)
			}
			if string(got) != c.want {
				t.Errorf("got  %s\nwant %s", got, c.want)
			}
			if strings.Contains(string(got), secret) {
				t.Error("the key is in the log")
			}
		})
	}
}

func TestLogOncePerKeyAndPeriod(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		observe, lines := logOf(ratelimit.WithLogPeriod(5 * time.Second))
		expect := func(moment string, want ...any) { // the suppressed of each line, nil for none
			t.Helper()
			var got []any
			for _, line := range lines() {
				got = append(got, line["suppressed"])
			}
			if !slices.Equal(got, want) {
				t.Errorf("%s: suppressed %v, want %v", moment, got, want)
			}
		}
		time.Sleep(300 * time.Millisecond) // Periods begin at any time.
		for range 100 {
			observe(refusalOf("a"))
		}
		expect("a hammers", nil)
		observe(refusalOf("b"))
		expect("b comes", 99.0)
		banned := refusalOf("a")
		banned.Reason = ratelimit.ReasonBanned
		observe(banned)
		elsewhere := refusalOf("a")
		elsewhere.Name = "api"
		observe(elsewhere)
		expect("a is refused for another reason, and elsewhere", nil, nil)
		time.Sleep(5*time.Second - 1)
		observe(refusalOf("a"))
		expect("just within the period")
		time.Sleep(time.Nanosecond)
		observe(refusalOf("a"))
		observe(refusalOf("b"))
		expect("the period is over", 1.0, nil)
	})
}

func TestLogFailuresOnceForAllKeys(t *testing.T) {
	observe, lines := logOf()
	for i := range 1000 {
		e := refusalOf(fmt.Sprint("client ", i))
		e.Reason, e.Err = ratelimit.ReasonStore, io.EOF
		observe(e)
	}
	if got := len(lines()); got != 1 {
		t.Errorf("%d lines about one store, want 1", got)
	}
}

func TestLogRate(t *testing.T) {
	for name, c := range map[string]struct {
		options []ratelimit.LogOption
		want    int
	}{
		"10 by default": {nil, 10},
		"3":             {[]ratelimit.LogOption{ratelimit.WithLogRate(3)}, 3},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				observe, lines := logOf(c.options...)
				total, told := 0, 0
				for second := range 20 {
					for i := range 50 {
						observe(refusalOf(fmt.Sprint(second, i)))
						total++
						time.Sleep(20 * time.Millisecond)
					}
					got := lines()
					if len(got) != c.want {
						t.Errorf("second %d: %d lines, want %d", second, len(got), c.want)
					}
					for _, line := range got {
						suppressed, _ := line["suppressed"].(float64)
						told += 1 + int(suppressed)
					}
				}
				if pending := total - told; pending != 50-c.want {
					t.Errorf("%d events are neither logged nor counted, want those of the last second, %d", pending, 50-c.want)
				}
			})
		})
	}
}

// After a flood of new keys, only those that got a line within the period are remembered.
// An outage gets its lines however many clients are refused and banned, and each line counts its own level.
func TestLogOutageAmongRefusals(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out bytes.Buffer
		observe := ratelimit.LogObserver(slog.New(slog.NewTextHandler(&out, nil)))
		for second := range 60 {
			for i := range 12 {
				e := refusalOf(fmt.Sprint("client-", second, "-", i))
				observe(t.Context(), e)
				e.Reason = ratelimit.ReasonBanned
				observe(t.Context(), e)
			}
			for range 5 {
				observe(t.Context(), ratelimit.Event{Name: "login", Reason: ratelimit.ReasonStore, Err: errors.New("redis is down")})
			}
			time.Sleep(time.Second)
		}
		lines := strings.Split(out.String(), "\n")
		counts, errorLines := map[string]int{}, []string{}
		for _, line := range lines {
			for _, level := range []string{"INFO", "WARN", "ERROR"} {
				if strings.Contains(line, "level="+level) {
					counts[level]++
				}
			}
			if strings.Contains(line, "level=ERROR") {
				errorLines = append(errorLines, line)
			}
		}
		if counts["INFO"] != 600 || counts["WARN"] != 600 || counts["ERROR"] != 6 {
			t.Errorf("lines by level: %v", counts)
		}
		for i, line := range errorLines[1:] {
			if !strings.HasSuffix(line, " suppressed=49") {
				t.Errorf("outage line %d counts other levels: %s", i+1, line)
			}
		}
	})
}

func TestLogMemoryIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		observe := ratelimit.LogObserver(slog.New(slog.NewTextHandler(io.Discard, nil)),
			ratelimit.WithLogPeriod(time.Second), ratelimit.WithLogRate(1000))
		before := heap()
		for second := range 30 {
			for i := range 1000 {
				observe(context.Background(), refusalOf(fmt.Sprintf("%d %0100d", second, i)))
			}
			time.Sleep(time.Second)
		}
		if after := heap(); after > before+300_000 {
			t.Errorf("the heap grew from %d to %d bytes over 30,000 keys", before, after)
		}
		runtime.KeepAlive(observe)
	})
}

// heap returns how many bytes are in use.
func heap() uint64 {
	var m runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

// A level that the handler does not want is neither formatted nor counted as suppressed.
func TestLogLevelOff(t *testing.T) {
	var text bytes.Buffer
	observe := ratelimit.LogObserver(slog.New(slog.NewTextHandler(&text, &slog.HandlerOptions{Level: slog.LevelWarn})))
	for range 20 {
		observe(context.Background(), refusalOf("a"))
	}
	banned := refusalOf("a")
	banned.Reason = ratelimit.ReasonBanned
	observe(context.Background(), banned)
	if got := text.String(); strings.Count(got, "\n") != 1 || strings.Contains(got, "suppressed") {
		t.Errorf("got %s", got)
	}
}

// contextHandler passes on the context that it is given, which must be the request's, with no lock held.
type contextHandler struct {
	slog.Handler
	handle func(context.Context)
}

func (h contextHandler) Handle(ctx context.Context, _ slog.Record) error {
	h.handle(ctx)
	return nil
}

func TestLogHandlerGetsContextAndNoLock(t *testing.T) {
	type requestID struct{}
	var observe func(context.Context, ratelimit.Event)
	var ids []any
	observe = ratelimit.LogObserver(slog.New(contextHandler{slog.NewTextHandler(io.Discard, nil), func(ctx context.Context) {
		ids = append(ids, ctx.Value(requestID{}))
		observe(ctx, refusalOf("a")) // Suppressed; would deadlock under a lock.
	}}))
	observe(context.WithValue(context.Background(), requestID{}, 7), refusalOf("a"))
	if fmt.Sprint(ids) != "[7]" {
		t.Errorf("got %v", ids)
	}
}

func TestLogConcurrently(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		lines := 0
		observe := ratelimit.LogObserver(slog.New(contextHandler{slog.NewTextHandler(io.Discard, nil), func(context.Context) {
			mu.Lock()
			defer mu.Unlock()
			lines++
		}}))
		var all sync.WaitGroup
		for range 8 {
			all.Go(func() {
				for i := range 500 {
					observe(context.Background(), refusalOf(fmt.Sprint(i)))
				}
			})
		}
		all.Wait()
		if lines != 10 {
			t.Errorf("%d lines in one second, want 10", lines)
		}
	})
}

func TestLogMistakes(t *testing.T) {
	for want, mistake := range map[string]func(){
		"ratelimit: LogObserver(nil): needs a logger, for example slog.Default()":      func() { ratelimit.LogObserver(nil) },
		"ratelimit: WithLogPeriod(0s): must be positive, for example 10*time.Second":   func() { ratelimit.WithLogPeriod(0) },
		"ratelimit: WithLogRate(0): must be at least 1 line a second, for example 10":  func() { ratelimit.WithLogRate(0) },
		"ratelimit: WithLogRate(-3): must be at least 1 line a second, for example 10": func() { ratelimit.WithLogRate(-3) },
		"ratelimit: WithLogPeriod(-1s): must be positive, for example 10*time.Second":  func() { ratelimit.WithLogPeriod(-time.Second) },
	} {
		expectPanic(t, want, mistake)
	}
}

func TestLogDoesNotAllocateWithoutALine(t *testing.T) {
	observe, ctx := ratelimit.LogObserver(slog.New(slog.NewTextHandler(io.Discard, nil))), context.Background()
	suppressed := refusalOf("a")
	allowed := suppressed
	allowed.Reason, allowed.Result.Allowed = ratelimit.ReasonAllowed, true
	observe(ctx, suppressed)
	for _, e := range []ratelimit.Event{allowed, suppressed} {
		if allocs := testing.AllocsPerRun(1000, func() { observe(ctx, e) }); allocs != 0 {
			t.Errorf("%s: %v allocations", e.Reason, allocs)
		}
	}
}

// redisReply is an error that go-redis marks as the server's.
type redisReply string

func (e redisReply) Error() string { return string(e) }
func (redisReply) RedisError()     {}

func TestErrorKind(t *testing.T) {
	refusedDial := &net.OpError{Op: "dial", Net: "tcp", Err: errors.New("connection refused")}
	for err, want := range map[error]string{
		nil:                          "",
		ratelimit.ErrArgument:        "argument",
		ratelimit.ErrForeignState:    "foreign",
		context.DeadlineExceeded:     "timeout",
		os.ErrDeadlineExceeded:       "timeout",
		context.Canceled:             "canceled",
		refusedDial:                  "network",
		io.EOF:                       "network",
		net.ErrClosed:                "network",
		redisReply("LOADING"):        "reply",
		errors.New("something else"): "other",
		errors.Join(ratelimit.ErrForeignState, redisReply("WRONGTYPE")): "foreign",
	} {
		if got := ratelimit.ErrorKind(err); got != want {
			t.Errorf("ErrorKind(%v) = %q, want %q", err, got, want)
		}
		if err == nil {
			continue
		}
		if got := ratelimit.ErrorKind(fmt.Errorf("ratelimit: redis: %w", err)); got != want {
			t.Errorf("ErrorKind of wrapped %v = %q, want %q", err, got, want)
		}
	}
}

func BenchmarkLogObserver(b *testing.B) {
	observe, ctx := ratelimit.LogObserver(slog.New(slog.NewTextHandler(io.Discard, nil))), b.Context()
	suppressed := refusalOf("a")
	allowed := suppressed
	allowed.Reason, allowed.Result.Allowed = ratelimit.ReasonAllowed, true
	for name, e := range map[string]ratelimit.Event{"allowed": allowed, "suppressed": suppressed} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				observe(ctx, e)
			}
		})
	}
}
