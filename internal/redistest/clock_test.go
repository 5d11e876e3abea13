package redistest

import (
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
)

func TestFrozenClock(t *testing.T) {
	s := Start(t, WithClock())
	client := s.Client()
	clock := s.Clock()
	for _, want := range []time.Time{
		time.UnixMicro(1_234_567_890_123_456),
		time.UnixMicro(1_234_567_890_000_001),
		time.Date(2255, 1, 1, 0, 0, 0, 999_999_000, time.UTC),
		time.Now().Truncate(time.Microsecond),
	} {
		clock.Freeze(want)
		for range 3 {
			wantTime(t, client, want)
		}
		if got := clock.Now(); !got.Equal(want) {
			t.Fatalf("Now is %v, not %v", got, want)
		}
	}
}

func TestAdvanceOfAFrozenClock(t *testing.T) {
	s := Start(t, WithClock())
	client := s.Client()
	start := time.UnixMicro(1_800_000_000_000_000)
	s.Clock().Freeze(start)
	s.Clock().Advance(time.Microsecond)
	wantTime(t, client, start.Add(time.Microsecond))
	s.Clock().Advance(25 * time.Hour)
	wantTime(t, client, start.Add(25*time.Hour+time.Microsecond))
	s.Clock().Advance(-26 * time.Hour)
	wantTime(t, client, start.Add(-time.Hour+time.Microsecond))
}

func TestRunningClock(t *testing.T) {
	s := Start(t, WithClock())
	client := s.Client()
	clock := s.Clock()
	check := func(shift time.Duration) {
		t.Helper()
		before := time.Now().Add(shift).Truncate(time.Microsecond)
		got := serverTime(t, client)
		now := clock.Now()
		after := time.Now().Add(shift)
		if got.Before(before) || now.Before(got) || after.Before(now) {
			t.Fatalf("shifted by %v: %v ≤ %v ≤ %v ≤ %v does not hold", shift, before, got, now, after)
		}
	}
	check(0)
	clock.Shift(-20 * time.Second)
	check(-20 * time.Second)
	clock.Advance(80 * time.Second)
	check(60 * time.Second)
	clock.Freeze(time.UnixMicro(1))
	wantTime(t, client, time.UnixMicro(1))
	clock.Shift(0)
	check(0)
}

func TestExpiryFollowsTheClock(t *testing.T) {
	s := Start(t, WithClock())
	client := s.Client()
	clock := s.Clock()
	clock.Freeze(time.UnixMicro(1_800_000_000_000_000))
	for range 100 {
		if err := client.Set(t.Context(), "k", "v", time.Second).Err(); err != nil {
			t.Fatal(err)
		}
		clock.Advance(999 * time.Millisecond)
		if ttl, err := client.PTTL(t.Context(), "k").Result(); ttl != time.Millisecond {
			t.Fatal(ttl, err)
		}
		get(t, client, "k", "v")
		clock.Advance(2 * time.Millisecond)
		get(t, client, "k", "")
	}
}

func TestClockOutlivesRestart(t *testing.T) {
	s := Start(t, WithClock())
	want := time.UnixMicro(1_800_000_000_000_001)
	s.Clock().Freeze(want)
	s.Kill()
	s.Restart()
	wantTime(t, s.Client(), want)
}

func TestClocksAreSeparate(t *testing.T) {
	a, b := Start(t, WithClock()), Start(t, WithClock())
	a.Clock().Freeze(time.UnixMicro(1))
	b.Clock().Freeze(time.UnixMicro(2))
	wantTime(t, a.Client(), time.UnixMicro(1))
	wantTime(t, b.Client(), time.UnixMicro(2))
}

func TestConcurrentAdvance(t *testing.T) {
	s := Start(t, WithClock())
	client := s.Client()
	start := time.UnixMicro(1_800_000_000_000_000)
	s.Clock().Freeze(start)
	var advancing sync.WaitGroup
	for range 4 {
		advancing.Go(func() {
			for range 250 {
				s.Clock().Advance(time.Microsecond)
			}
		})
	}
	advancing.Wait()
	wantTime(t, client, start.Add(time.Millisecond))
}

func TestClockNeedsWithClock(t *testing.T) {
	if tb := run(t, func(tb testing.TB) { Start(tb).Clock() }); tb.fatal == "" {
		t.Fatal("a server without a clock gave one")
	}
}

// wantTime fails the test unless TIME, alone and in a script, is want to the microsecond.
func wantTime(t *testing.T, client *redis.Client, want time.Time) {
	t.Helper()
	if got := serverTime(t, client); !got.Equal(want) {
		t.Fatalf("TIME is %v, not %v", got, want)
	}
	parts, err := client.Eval(t.Context(), "return redis.call('time')", nil).StringSlice()
	if err != nil {
		t.Fatal(err)
	}
	us := []string{strconv.FormatInt(want.Unix(), 10), strconv.Itoa(want.Nanosecond() / 1000)}
	if !slices.Equal(parts, us) {
		t.Fatalf("TIME in a script is %v, not %v", parts, us)
	}
}

func serverTime(t *testing.T, client *redis.Client) time.Time {
	t.Helper()
	now, err := client.Time(t.Context()).Result()
	if err != nil {
		t.Fatal(err)
	}
	return now
}
