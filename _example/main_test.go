package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/gin-ratelimit/ratelimit"
	"github.com/gin-ratelimit/ratelimit/internal/redistest"
)

// TestMain makes the test binary the example itself where a test starts it as that, so that the tests talk to whole
// processes.
func TestMain(m *testing.M) {
	if os.Getenv("RUN_EXAMPLE") != "1" {
		os.Exit(m.Run())
	}
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin) // It ends with the test.
		os.Exit(1)
	}()
	main()
}

// server is a running example.
type server struct {
	t   *testing.T
	url string
	cmd *exec.Cmd
	log bytes.Buffer // complete once it has stopped
}

func start(t *testing.T, args ...string) *server {
	t.Helper()
	binary, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	s := &server{t: t, cmd: exec.Command(binary, append([]string{"-addr", "127.0.0.1:0"}, args...)...)}
	s.cmd.Env = append(os.Environ(), "RUN_EXAMPLE=1", "GORACE=atexit_sleep_ms=50") // By default it sleeps for 1 s.
	s.cmd.Stderr = &s.log
	if _, err = s.cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	stdout, err := s.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := s.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.stop)
	line, err := bufio.NewReader(stdout).ReadString('\n')
	if err != nil {
		t.Fatalf("no line on stdout: %v", err)
	}
	s.url, _, _ = strings.Cut(strings.TrimPrefix(line, "listening on "), ";")
	return s
}

// stop interrupts it, as a terminal does, and waits for a good end.
func (s *server) stop() {
	if s.cmd.ProcessState != nil {
		return
	}
	if err := s.cmd.Process.Signal(os.Interrupt); err != nil {
		s.t.Errorf("interrupt: %v", err)
		_ = s.cmd.Process.Kill()
	}
	if err := s.cmd.Wait(); err != nil {
		s.t.Errorf("the server ended with %v", err)
	}
	if s.t.Failed() {
		s.t.Logf("log of %s:\n%s", s.url, s.log.String())
	}
}

type reply struct {
	*http.Response
	body string
}

// by reports whether the limiter of that name decided. On a machine under load a Redis may be too late for that.
func (r reply) by(name string) bool {
	return strings.Contains(r.Header.Get("RateLimit"), strconv.Quote(name))
}

// want fails the test unless the reply has that status and, where headers are given by name and value, those.
func (r reply) want(t *testing.T, status int, headers ...string) {
	t.Helper()
	if r.StatusCode != status {
		t.Errorf("%s: status %d, want %d: %s", r.Request.URL, r.StatusCode, status, r.body)
	}
	for i := 0; i < len(headers); i += 2 {
		if got := r.Header.Get(headers[i]); got != headers[i+1] {
			t.Errorf("%s: %s: %q, want %q", r.Request.URL, headers[i], got, headers[i+1])
		}
	}
}

// retryAfter is Retry-After in seconds, 0 without it.
func (r reply) retryAfter(t *testing.T) int {
	t.Helper()
	text := r.Header.Get("Retry-After")
	if text == "" {
		return 0
	}
	seconds, err := strconv.Atoi(text)
	if err != nil || seconds < 1 {
		t.Fatalf("Retry-After: %q", text)
	}
	return seconds
}

func (s *server) do(r *http.Request, headers ...string) reply {
	s.t.Helper()
	for i := 0; i < len(headers); i += 2 {
		r.Header.Set(headers[i], headers[i+1])
	}
	response, err := http.DefaultClient.Do(r)
	if err != nil {
		s.t.Fatal(err)
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		s.t.Fatal(err)
	}
	return reply{response, string(body)}
}

func (s *server) get(path string, headers ...string) reply {
	s.t.Helper()
	r, err := http.NewRequest(http.MethodGet, s.url+path, nil)
	if err != nil {
		s.t.Fatal(err)
	}
	return s.do(r, headers...)
}

func (s *server) login(account, password string) reply {
	s.t.Helper()
	form := url.Values{"account": {account}, "password": {password}}
	r, err := http.NewRequest(http.MethodPost, s.url+"/login", strings.NewReader(form.Encode()))
	if err != nil {
		s.t.Fatal(err)
	}
	return s.do(r, "Content-Type", "application/x-www-form-urlencoded")
}

// drain asks until it is refused, and returns the refusal and how many requests the limiter of that name admitted
// before. Those that were let through undecided may have been charged all the same.
func drain(t *testing.T, name string, ask func(i int) reply) (refusal reply, admitted, undecided int) {
	t.Helper()
	for i := 0; ; i++ {
		if i == 1000 {
			t.Fatalf("%q refused none of %d requests", name, i)
		}
		switch r := ask(i); {
		case !r.by(name):
			undecided++
		case r.StatusCode == http.StatusTooManyRequests:
			return r, admitted, undecided
		default:
			admitted++
		}
	}
}

// within fails the test unless a bucket admitted what it held and, at the most, what has refilled since.
func within(t *testing.T, admitted, undecided int, limit ratelimit.Limit, start time.Time) {
	t.Helper()
	refilled := float64(limit.Refill.Tokens) * float64(time.Since(start)) / float64(limit.Refill.Per)
	if admitted+undecided < limit.Capacity || float64(admitted) > float64(limit.Capacity)+refilled {
		t.Errorf("%d admitted and %d undecided; the bucket held %d, and got %.2f more", admitted, undecided, limit.Capacity, refilled)
	}
}

// onBothStores runs a test on a new example with its buckets in memory, and on one with them in Redis.
func onBothStores(t *testing.T, test func(t *testing.T, s *server)) {
	t.Parallel()
	t.Run("memory", func(t *testing.T) {
		t.Parallel()
		test(t, start(t))
	})
	t.Run("redis", func(t *testing.T) {
		t.Parallel()
		test(t, start(t, "-redis", redistest.Start(t).Addr))
	})
}

func TestGlobalLimit(t *testing.T) {
	onBothStores(t, func(t *testing.T, s *server) {
		begin := time.Now()
		refusal, admitted, undecided := drain(t, "global", func(i int) reply {
			return s.get("/", "X-Forwarded-For", fmt.Sprintf("192.0.2.%d", i)) // Believed, it would be a new client each time.
		})
		within(t, admitted, undecided, ratelimit.Limit{Capacity: 20, Refill: ratelimit.PerSecond(10)}, begin)
		refusal.want(t, http.StatusTooManyRequests,
			"Retry-After", "1",
			"Cache-Control", "no-store",
			"Content-Type", "application/json; charset=utf-8",
			"X-RateLimit-Limit", "20",
			"X-RateLimit-Remaining", "0",
			"RateLimit-Policy", `"global";q=10;w=1;tb-burst=20`,
			"RateLimit", `"global";r=0;t=1`)
		if want := `{"error":"rate limit exceeded","retry_after":1}`; refusal.body != want {
			t.Errorf("body %s, want %s", refusal.body, want)
		}
		reset, err := strconv.ParseInt(refusal.Header.Get("X-RateLimit-Reset"), 10, 64)
		if in := time.Until(time.Unix(reset, 0)); err != nil || in > 4*time.Second {
			t.Errorf("X-RateLimit-Reset is in %v, %v", in, err)
		}

		time.Sleep(time.Duration(refusal.retryAfter(t)) * time.Second)
		s.get("/").want(t, http.StatusOK)
	})
}

func TestLogin(t *testing.T) {
	onBothStores(t, func(t *testing.T, s *server) {
		for range 7 { // Right ones do not count.
			if r := s.login("ada", "lovelace"); r.by("login") {
				r.want(t, http.StatusOK)
			}
		}
		begin := time.Now()
		refusal, admitted, undecided := drain(t, "login", func(int) reply { return s.login("ada", "guess") })
		within(t, admitted, undecided, ratelimit.Limit{Capacity: 5, Refill: ratelimit.Every(time.Minute)}, begin)
		refusal.want(t, http.StatusTooManyRequests, "X-RateLimit-Limit", "5", "X-RateLimit-Remaining", "0")
		if seconds, most := refusal.retryAfter(t), 60; seconds > most || seconds < most-1-int(time.Since(begin).Seconds()) {
			t.Errorf("Retry-After: %d, %v after the first attempt", seconds, time.Since(begin))
		}

		s.login("ada", "lovelace").want(t, http.StatusTooManyRequests)
		s.login(" ADA", "guess").want(t, http.StatusTooManyRequests)
		if r := s.login("grace", "guess"); r.by("login") {
			r.want(t, http.StatusUnauthorized)
		}
	})
}

func TestReports(t *testing.T) {
	onBothStores(t, func(t *testing.T, s *server) {
		for _, days := range []string{"21", "1000000", "99999999999999999999"} {
			if r := s.get("/reports?days=" + days); r.by("reports") {
				r.want(t, http.StatusTooManyRequests, "Retry-After", "", "Content-Type", "application/problem+json")
			}
		}
		if r := s.get("/reports?days=-5"); r.by("reports") {
			r.want(t, http.StatusOK, "X-RateLimit-Remaining", "19") // Of one day.
		}
		// 20 and 20, a second apart, leave 9 of the hour's 50.
		total, seconds := 0, 0
		for seconds <= 60 {
			refusal, admitted, undecided := drain(t, "reports", func(int) reply { return s.get("/reports?days=20") })
			if total += admitted + undecided; total > 10 {
				t.Fatalf("%d reports of 20 days", total)
			}
			if seconds = refusal.retryAfter(t); seconds <= 60 {
				time.Sleep(time.Duration(seconds) * time.Second)
			}
		}
		if most := 11 * 72; total < 2 || seconds > most || seconds < most-20 {
			t.Errorf("after %d reports, 11 more of 50 an hour: Retry-After: %d", total, seconds)
		}
	})
}

func TestPlans(t *testing.T) {
	onBothStores(t, func(t *testing.T, s *server) {
		whoami := func(token string) reply {
			if token == "" {
				return s.get("/api/whoami")
			}
			return s.get("/api/whoami", "Authorization", "Bearer "+token)
		}
		whoami("made-up").want(t, http.StatusUnauthorized)

		begin := time.Now()
		_, admitted, undecided := drain(t, "api", func(int) reply { return whoami("") })
		within(t, admitted, undecided, ratelimit.Limit{Capacity: 5, Refill: ratelimit.PerMinute(5)}, begin)

		for token, policy := range map[string]string{
			"free-token": `"global";q=10;w=1;tb-burst=20, "api";q=10;w=60`,
			"pro-token":  `"global";q=10;w=1;tb-burst=20, "api";q=100;w=60`,
		} {
			r := whoami(token)
			if !r.by("global") || !r.by("api") {
				continue
			}
			r.want(t, http.StatusOK, "RateLimit-Policy", policy)
			if want := `"plan":"` + strings.TrimSuffix(token, "-token") + `"`; !strings.Contains(r.body, want) {
				t.Errorf("%s: %s", token, r.body)
			}
		}
	})
}

func TestStatsAndLog(t *testing.T) {
	t.Parallel()
	s := start(t)
	_, admitted, _ := drain(t, "global", func(int) reply { return s.get("/") })
	s.get("/api/whoami", "Authorization", "Bearer free-token")

	r := s.get("/stats")
	r.want(t, http.StatusOK)
	var stats []ratelimit.NameStats
	if err := json.Unmarshal([]byte(r.body), &stats); err != nil {
		t.Fatal(err)
	}
	for _, n := range stats {
		if n.Name == "global" && n.Accepted >= uint64(admitted) && n.Refused >= 1 && n.Ratio > 0 {
			s.stop()
			for text, want := range map[string]bool{
				"rate limit refused name=global":                true,
				"more than 5 % refused in a minute name=global": true,
				"check your rate limits":                        false,
				"free-token":                                    false,
				"key=127":                                       false,
			} {
				if strings.Contains(s.log.String(), text) != want {
					t.Errorf("whether %q is in the log should be %v:\n%s", text, want, s.log.String())
				}
			}
			return
		}
	}
	t.Errorf("stats %s", r.body)
}

func TestInstancesShareARedis(t *testing.T) {
	t.Parallel()
	addr := redistest.Start(t).Addr
	instances := []*server{start(t, "-redis", addr), start(t, "-redis", addr)}
	begin := time.Now()
	_, admitted, undecided := drain(t, "login", func(i int) reply { return instances[i%2].login("ada", "guess") })
	within(t, admitted, undecided, ratelimit.Limit{Capacity: 5, Refill: ratelimit.Every(time.Minute)}, begin)
}

// Redis is down when the example starts, comes up, is killed, and comes back.
func TestRedisOutages(t *testing.T) {
	t.Parallel()
	redis := redistest.Start(t)
	redis.Kill()
	s := start(t, "-redis", redis.Addr)
	for outage := range 2 {
		account := fmt.Sprintf("account-%d", outage) // What Redis has refused is known for another second.
		s.login(account, "guess").want(t, http.StatusServiceUnavailable,
			"Retry-After", "1", "Cache-Control", "no-store", "Content-Type", "application/problem+json")
		s.get("/").want(t, http.StatusOK, "X-RateLimit-Limit", "")
		s.get("/reports?days=20").want(t, http.StatusOK)
		s.get("/api/whoami").want(t, http.StatusOK)

		redis.Restart()
		begin, closed := time.Now(), 0
		for ; !s.login(account, "guess").by("login"); closed++ {
			if time.Since(begin) > 5*time.Second {
				t.Fatal("the login is still closed 5 s after the restart")
			}
			time.Sleep(20 * time.Millisecond)
		}
		_, admitted, undecided := drain(t, "login", func(int) reply { return s.login(account, "guess") })
		within(t, 1+admitted, closed+undecided, ratelimit.Limit{Capacity: 5, Refill: ratelimit.Every(time.Minute)}, begin)
		redis.Kill()
	}
}
