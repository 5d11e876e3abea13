package verify

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/gin-ratelimit/ratelimit"
	"github.com/gin-ratelimit/ratelimit/internal/redistest"
)

// The ACL of RedisStore's documentation, with some rights taken away.
func TestF16Access(t *testing.T) { nearAndFar(t, "F16", f16Access) }

func f16Access(t *testing.T, c *trial) {
	server := redistest.Start(t)
	smallest := []string{"reset", "on", ">secret", "~ratelimit:*", "nocommands", "+evalsha", "+eval", "+get", "+set", "+time"}
	server.SetACL("app", smallest...)
	limit := ratelimit.Limit{Capacity: 1000, Refill: ratelimit.PerHour(1000)}
	store := openStoreAs(t, server.Addr, "app", "secret")
	if r := take(t, store, "key", 1, limit); !r.Allowed || r.Remaining != 999 {
		t.Fatalf("with the smallest ACL: %+v", r)
	}
	texts := map[string]bool{}
	for _, withdrawn := range []struct {
		name  string
		rules []string
		want  string
	}{
		{"all", []string{"nocommands"}, "NOPERM"},
		{"keys", []string{"resetkeys"}, "NOPERM"},
		{"time", []string{"-time"}, "can't run this command"},
	} {
		server.SetACL("app", withdrawn.rules...)
		text := storm(c, server, store, limit)
		if !strings.Contains(text, withdrawn.want) || texts[text] {
			t.Errorf("%s withdrawn: error %q", withdrawn.name, text)
		}
		texts[text] = true
		server.SetACL("app", smallest...)
		began := monotonic()
		eventually(t, 5*time.Second, "the store works again", func() bool {
			_, err := store.Take(t.Context(), "key", ratelimit.Take{Limits: []ratelimit.Limit{limit}})
			return err == nil
		})
		c.recovers(time.Duration(monotonic()-began), time.Second)
	}
	if text := storm(c, server, openStoreAs(t, server.Addr, "app", "wrong", ratelimit.WithTimeout(defaultBudget)), limit); !strings.Contains(text, "WRONGPASS") || strings.Contains(text, "wrong ") {
		t.Errorf("wrong password: error %q", text)
	}
	for text := range texts {
		if strings.Contains(text, "secret") {
			t.Errorf("the error discloses the password: %q", text)
		}
	}
	c.exceeds(0, 0)
}

func openStoreAs(t *testing.T, addr, user, password string, opts ...ratelimit.RedisOption) *ratelimit.RedisStore {
	t.Helper()
	opts = append([]ratelimit.RedisOption{patient}, opts...)
	return storeOn(t, openClient(t, &redis.Options{Addr: addr, Username: user, Password: password}), opts...)
}

// storm makes 100 takes that fail, and returns the error. They must not ask Redis much more than 100 times.
func storm(c *trial, server *redistest.Server, store ratelimit.Store, limit ratelimit.Limit) (text string) {
	c.t.Helper()
	const takes = 100
	calls := func() int64 {
		return server.CommandCalls("evalsha") + server.CommandCalls("eval") + server.CommandCalls("hello") + server.CommandCalls("auth")
	}
	before := calls()
	var latencies []time.Duration
	for range takes {
		began := time.Now()
		_, err := store.Take(context.Background(), "key", ratelimit.Take{N: 1, Limits: []ratelimit.Limit{limit}})
		latencies = append(latencies, time.Since(began))
		if err == nil {
			c.t.Error("a take that is not allowed was made")
			return ""
		}
		text = err.Error()
	}
	if asked := calls() - before; asked > 4*takes {
		c.t.Errorf("%d takes asked Redis %d times", takes, asked)
	}
	c.times(1)
	c.takes(latencies, 50*time.Millisecond)
	return text
}

// A server that becomes a replica refuses writes. When it is a master again, the store works again.
func TestF18ReadOnly(t *testing.T) { nearAndFar(t, "F18", f18ReadOnly) }

func f18ReadOnly(t *testing.T, c *trial) {
	server, other := redistest.Start(t), redistest.Start(t)
	admin := server.Client()
	host, port, _ := strings.Cut(other.Addr, ":")
	spec := defaultSpec(server.Addr)
	l := startLoad(t, processes, spec)
	// Not a replica at once, because it would copy the other's empty data.
	for range pick(3, 1) {
		l.run(300 * time.Millisecond)
		other.Pause()
		demoted := monotonic()
		if err := admin.ReplicaOf(t.Context(), host, port).Err(); err != nil {
			t.Fatal(err)
		}
		l.told("READONLY", demoted, 5*time.Second)
		l.run(300 * time.Millisecond)
		if err := admin.ReplicaOf(t.Context(), "NO", "ONE").Err(); err != nil {
			t.Fatal(err)
		}
		c.recovers(l.recovered(monotonic(), 5*time.Second), time.Second)
		other.Resume()
		c.times(1)
	}
	log := l.stop()
	c.takes(log.latencies(), spec.Budget)
	c.exceeds(worstExcess(log.admissions(), spec.Limit), 0)
	// A demotion that is shorter than the budget fails no take.
	short := openStore(t, server.Addr, patient)
	if err := admin.ReplicaOf(t.Context(), host, port).Err(); err != nil {
		t.Fatal(err)
	}
	other.Pause()
	back := make(chan error, 1)
	go func() {
		time.Sleep(5 * time.Millisecond)
		back <- admin.ReplicaOf(context.Background(), "NO", "ONE").Err()
	}()
	_, err := short.Take(t.Context(), "bridged", ratelimit.Take{N: 1, Limits: []ratelimit.Limit{hoard}})
	if err := <-back; err != nil {
		t.Fatal(err)
	}
	if got := charged(t, short, "bridged"); err == nil && got != 1 || err != nil && got != 0 {
		t.Errorf("a take that met READONLY (%v) was charged %d times", err, got)
	}
	other.Resume()
}
