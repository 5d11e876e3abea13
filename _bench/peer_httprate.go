package main

import (
	"net"
	"net/http"
	"net/http/httptest"

	"github.com/go-chi/httprate"
)

var httprateWindows = peer{
	name:   "go-chi/httprate",
	module: "github.com/go-chi/httprate",
	kind:   inexact,
	note:   "weighted windows, by a 64-bit hash of the key",
	memory: func(l limit) taker {
		// It decides on requests only, so it gets one. It gets no names of headers, so it writes none.
		limiter := httprate.NewRateLimiter(l.capacity, l.window(), httprate.WithResponseHeaders(httprate.ResponseHeaders{}))
		w, r := &writer{header: http.Header{}}, httptest.NewRequest(http.MethodGet, "/", nil)
		return func(key string) verdict { return verdictOf(!limiter.OnLimit(w, r, key), nil) }
	},
	web: func(l limit, by address) http.Handler {
		key := httprate.KeyByRealIP //nolint:staticcheck // Deprecated, but its only function for clients behind proxies.
		if by == peerAddress {
			key = func(r *http.Request) (string, error) {
				host, _, err := net.SplitHostPort(r.RemoteAddr)
				return httprate.CanonicalizeIP(host), err
			}
		}
		return httprate.LimitBy(l.capacity, l.window(), key)(app())
	},
}
