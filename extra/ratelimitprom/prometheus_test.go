package ratelimitprom_test

import (
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

// startPrometheus starts a Prometheus that scrapes a server, ends it with the test, and returns its address.
func startPrometheus(t *testing.T, program, target string, flags ...string) string {
	t.Helper()
	rules, err := filepath.Abs("alerts.yml")
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	config, logs := filepath.Join(dir, "prometheus.yml"), filepath.Join(dir, "log")
	if err := os.WriteFile(config, fmt.Appendf(nil, `
global: {scrape_interval: 250ms, evaluation_interval: 1s}
rule_files: [%q]
scrape_configs:
  - job_name: shop
    static_configs: [{targets: [%q]}]
`, rules, strings.TrimPrefix(target, "http://")), 0o600); err != nil {
		t.Fatal(err)
	}
	address := freeAddress(t)
	log, err := os.Create(logs)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), program, append([]string{
		"--config.file=" + config, "--storage.tsdb.path=" + filepath.Join(dir, "data"), "--web.listen-address=" + address,
	}, flags...)...)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) } // t.Context ends before cleanups run.
	cmd.WaitDelay = 10 * time.Second                                         // Then it is killed.
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Wait() // An error means that it ended by the signal.
		if t.Failed() {
			text, _ := os.ReadFile(logs)
			t.Logf("the log of Prometheus:\n%s", text)
		}
		_ = log.Close()
	})
	eventually(t, "Prometheus is ready", func() bool {
		response, err := http.Get("http://" + address + "/-/ready")
		if err != nil {
			return false
		}
		return response.Body.Close() == nil && response.StatusCode == http.StatusOK
	})
	return "http://" + address
}

// freeAddress returns a loopback address that no process listens on.
func freeAddress(t *testing.T) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	return listener.Addr().String()
}

// eventually waits until something is true of another process.
func eventually(t *testing.T, what string, isTrue func() bool) {
	t.Helper()
	deadline, tick := time.After(20*time.Second), time.NewTicker(100*time.Millisecond)
	defer tick.Stop()
	for !isTrue() {
		select {
		case <-deadline:
			t.Fatalf("after 20 s it is still not so that %s", what)
		case <-tick.C:
		}
	}
}

// ask calls Prometheus's HTTP API and reads its data.
func ask(t *testing.T, prometheus, path string, data any) {
	t.Helper()
	got := get(t, prometheus+"/api/v1/"+path)
	answer := struct{ Data any }{data}
	if err := json.Unmarshal(got.body, &answer); err != nil || got.status != http.StatusOK {
		t.Fatalf("%s: %d, %v\n%s", path, got.status, err, got.body)
	}
}

// samples returns how many series with a number a query returns.
func samples(t *testing.T, prometheus, query string) (n int) {
	t.Helper()
	var data struct {
		Result []struct{ Value [2]any }
	}
	ask(t, prometheus, "query?query="+url.QueryEscape(query), &data)
	for _, series := range data.Result {
		if series.Value[1] != "NaN" {
			n++
		}
	}
	return n
}

// keepVisiting puts a small load on a server until the test ends.
func keepVisiting(t *testing.T, server string) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		tick := time.NewTicker(50 * time.Millisecond)
		defer tick.Stop()
		for i := 0; ; i++ {
			for _, path := range []string{"/login/ann", "/full", "/broken", "/degraded", "/held", "/dry"} {
				request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, server+path, nil)
				if err != nil {
					return
				}
				request.Header.Set("Account", fmt.Sprint(i))
				response, err := http.DefaultClient.Do(request)
				if err != nil {
					return // The test is over.
				}
				_ = response.Body.Close()
			}
			select {
			case <-tick.C:
			case <-t.Context().Done():
				return
			}
		}
	}()
	t.Cleanup(func() { <-done })
}

// A real Prometheus scrapes a server under load, and every query of the dashboard and the rules returns data.
func TestEveryQueryGivesData(t *testing.T) {
	program, server := tool(t, "prometheus"), newServer(t)
	keepVisiting(t, server.URL)
	prometheus := startPrometheus(t, program, server.URL)

	queries := map[string]string{}
	for _, panel := range readDashboard(t).Panels {
		for _, target := range panel.Targets {
			queries["panel "+panel.Title+" "+target.RefID] = strings.NewReplacer(
				"$policy", ".*", "$job", ".*", "$__rate_interval", "1m", "$__range", "1m").Replace(target.Expr)
		}
	}
	var loaded struct {
		Groups []struct {
			Rules []struct{ Name, Query, State string }
		}
	}
	ask(t, prometheus, "rules", &loaded)
	for _, group := range loaded.Groups {
		for _, rule := range group.Rules {
			queries["rule "+rule.Name] = rule.Query
		}
	}
	if len(queries) < 4+7 {
		t.Fatalf("only %d queries", len(queries))
	}
	for name, query := range queries {
		eventually(t, name+" gives data: "+query, func() bool { return samples(t, prometheus, query) > 0 })
	}
	eventually(t, "all five alerts are pending", func() bool {
		ask(t, prometheus, "rules", &loaded)
		return !slices.ContainsFunc(loaded.Groups[0].Rules, func(r struct{ Name, Query, State string }) bool { return r.State != "pending" })
	})
}

// A Prometheus that is configured for them scrapes the native histograms.
func TestNativeHistogramsArriveInPrometheus(t *testing.T) {
	program, server := tool(t, "prometheus"), newServer(t)
	keepVisiting(t, server.URL)
	prometheus := startPrometheus(t, program, server.URL, "--enable-feature=native-histograms")
	for _, name := range []string{"ratelimit_store_duration_seconds", "ratelimit_wait_duration_seconds"} {
		query := fmt.Sprintf("histogram_quantile(0.99, sum by (policy) (rate(%s[1m]))) > 0", name)
		eventually(t, query, func() bool { return samples(t, prometheus, query) > 0 })
	}
}
