package main

import (
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/stretchr/testify/assert"

	"github.com/gin-ratelimit/ratelimit"
)

func TestConsoleIsLocal(t *testing.T) {
	router := newRouter(ratelimit.NewMemoryStore())
	for _, test := range []struct {
		peer, host string
		code       int
	}{
		{peer: "127.0.0.1:5000", host: "localhost:8080", code: http.StatusOK},
		{peer: "[::1]:5000", host: "[::1]:8080", code: http.StatusOK},
		{peer: "127.0.0.1:5000", host: "127.0.0.1", code: http.StatusOK},
		{peer: "127.0.0.1:5000", host: "evil.example", code: http.StatusForbidden},
		{peer: "127.0.0.1:5000", host: "localhost.evil.example:8080", code: http.StatusForbidden},
		{peer: "127.0.0.1:5000", host: "", code: http.StatusForbidden},
		{peer: "192.0.2.1:5000", host: "localhost:8080", code: http.StatusForbidden},
	} {
		r := httptest.NewRequest(http.MethodGet, "/debug/ratelimit/", http.NoBody)
		r.RemoteAddr, r.Host = test.peer, test.host
		w := httptest.NewRecorder()
		router.ServeHTTP(w, r)
		assert.Equal(t, test.code, w.Code, "%s %s", test.peer, test.host)
	}
}
