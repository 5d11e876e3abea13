package main

import (
	"bytes"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/gin-gonic/gin"
)

// One client hammers the login, and everything that watches says so.
func TestObserved(t *testing.T) {
	gin.SetMode(gin.ReleaseMode)
	var telemetry, log bytes.Buffer
	flush, err := startTelemetry(&telemetry, 1)
	if err != nil {
		t.Fatal(err)
	}
	router, err := newRouter(slog.New(slog.NewTextHandler(&log, nil)))
	if err != nil {
		t.Fatal(err)
	}
	ask := func(method, path string) (int, string) {
		answer := httptest.NewRecorder()
		router.ServeHTTP(answer, httptest.NewRequestWithContext(t.Context(), method, path, nil))
		return answer.Code, answer.Body.String()
	}
	statuses := map[int]int{}
	for range 120 {
		status, _ := ask(http.MethodPost, "/login")
		statuses[status]++
	}
	if statuses[http.StatusOK] != 5 || statuses[http.StatusTooManyRequests] != 115 {
		t.Errorf("statuses %v, want 5 OK and 115 refusals", statuses)
	}
	_, metrics := ask(http.MethodGet, "/metrics")
	_, stats := ask(http.MethodGet, "/stats")
	if err := flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ where, text, want string }{
		{"/metrics", metrics, `ratelimit_requests_total{decision="allowed",policy="login",reason="allowed",route="/login",source="memory"} 5`},
		{"/metrics", metrics, `ratelimit_store_keys{store="main"} 2`},
		{"/stats", stats, `"name":"login","accepted":5,"refused":`},
		{"the log", log.String(), `msg="rate limit refused" name=login route=/login key=`},
		{"the log", log.String(), `msg="refusal ratio" name=login above=true`},
		{"OpenTelemetry", telemetry.String(), `"Name":"gin.ratelimit.requests"`},
		{"OpenTelemetry", telemetry.String(), `"Name":"ratelimit.decision"`},
	} {
		if !strings.Contains(c.text, c.want) {
			t.Errorf("%s lacks %s:\n%.2000s", c.where, c.want, c.text)
		}
	}
	if n := strings.Count(log.String(), "rate limit refused"); n != 1 {
		t.Errorf("%d lines about one client within the period, want 1", n)
	}
}
