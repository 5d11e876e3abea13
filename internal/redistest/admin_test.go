package redistest

import (
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
)

func TestSetACL(t *testing.T) {
	s := Start(t)
	s.SetACL("app", "on", ">secret", "~rl:*", "+get", "+set")
	s.SetACL("default", "off")

	app := redis.NewClient(&redis.Options{Addr: s.Addr, Username: "app", Password: "secret"})
	defer app.Close()
	set(t, app, "rl:k", "v")
	get(t, app, "rl:k", "v")
	if err := app.Get(t.Context(), "other").Err(); err == nil || !strings.HasPrefix(err.Error(), "NOPERM") {
		t.Fatal(err)
	}
	if err := s.Client().Get(t.Context(), "rl:k").Err(); err == nil || !strings.HasPrefix(err.Error(), "NOAUTH") {
		t.Fatal(err)
	}

	// The package's own user is not affected.
	if got := s.CommandCalls("set"); got != 1 {
		t.Fatal(got)
	}
	s.Restart()
	set(t, s.Client(), "k", "v")
}

func TestCommandCalls(t *testing.T) {
	s := Start(t)
	client := s.Client()
	if got := s.CommandCalls("incr"); got != 0 {
		t.Fatal(got)
	}
	for range 3 {
		if err := client.Incr(t.Context(), "n").Err(); err != nil {
			t.Fatal(err)
		}
	}
	if err := client.Eval(t.Context(), "return redis.call('incr', KEYS[1])", []string{"n"}).Err(); err != nil {
		t.Fatal(err)
	}
	if got := s.CommandCalls("INCR"); got != 4 {
		t.Fatal(got)
	}
	if err := client.ClientID(t.Context()).Err(); err != nil {
		t.Fatal(err)
	}
	if got := s.CommandCalls("client|id"); got != 1 {
		t.Fatal(got)
	}
}

func TestCPU(t *testing.T) {
	s := Start(t)
	before := s.CPU()
	start := time.Now()
	if err := s.Client().Eval(t.Context(), "for _ = 1, 1e7 do end return 1", nil).Err(); err != nil {
		t.Fatal(err)
	}
	elapsed := time.Since(start)
	spent := s.CPU() - before
	if spent < time.Millisecond || spent > elapsed+50*time.Millisecond {
		t.Fatalf("%v in %v", spent, elapsed)
	}
}
