package verify

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/gin-gonic/gin"

	"github.com/gin-ratelimit/ratelimit"
)

// byAddress is an engine that limits by ByClientIP and trusts some proxies, and the store to count its buckets in.
func byAddress(t *testing.T, proxies ...string) (*gin.Engine, *ratelimit.MemoryStore) {
	t.Helper()
	store := ratelimit.NewMemoryStore()
	engine := routed(ratelimit.New(ratelimit.WithName("address"), ratelimit.WithStore(store),
		ratelimit.WithCapacity(hoard.Capacity), ratelimit.WithRefillRate(hoard.Refill)))
	if err := engine.SetTrustedProxies(proxies); err != nil {
		t.Fatal(err)
	}
	return engine, store
}

// from sends a request from a peer, and returns how long that took.
func from(engine http.Handler, peer string, headers http.Header) time.Duration {
	req := httptest.NewRequest(http.MethodGet, "/", http.NoBody)
	req.RemoteAddr = peer
	if headers != nil {
		req.Header = headers
	}
	began := time.Now()
	engine.ServeHTTP(httptest.NewRecorder(), req)
	return time.Since(began)
}

func TestA01ForwardedFor(t *testing.T) {
	c := try(t, "A1")
	const times = 200
	const client, proxy = "203.0.113.7", "10.0.0.1:443"
	type headers = func(i int) http.Header
	forwarded := func(lines ...string) headers {
		return func(i int) http.Header {
			h := http.Header{}
			for _, line := range lines {
				h.Add("X-Forwarded-For", strings.ReplaceAll(line, "*", fmt.Sprint(i)))
			}
			return h
		}
	}
	with := func(h headers, name, value string) headers {
		return func(i int) http.Header {
			all := h(i)
			all.Set(name, strings.ReplaceAll(value, "*", fmt.Sprint(i)))
			return all
		}
	}
	for _, test := range []struct {
		name    string
		proxies []string
		peer    string
		headers headers
	}{
		{name: "spoofed, no proxy", peer: client + ":1", headers: forwarded("198.51.100.*")},
		{name: "X-Real-IP spoofed, no proxy", peer: client + ":1", headers: with(forwarded("junk"), "X-Real-IP", "198.51.100.*")},
		{name: "spoofed through a proxy", proxies: []string{"10.0.0.0/8"}, peer: proxy, headers: forwarded("198.51.100.*, " + client)},
		{name: "spoofed as a proxy", proxies: []string{"10.0.0.0/8"}, peer: proxy, headers: forwarded("198.51.100.*, 10.9.9.9, " + client)},
		{name: "several lines", proxies: []string{"10.0.0.0/8"}, peer: proxy, headers: forwarded("198.51.100.*", client)},
		{name: "junk before", proxies: []string{"10.0.0.0/8"}, peer: proxy, headers: forwarded("junk*, " + client)},
		{name: "port of the client", proxies: []string{"10.0.0.0/8"}, peer: proxy, headers: forwarded(client + ":*")},
		{name: "port of the client, X-Real-IP spoofed", proxies: []string{"10.0.0.0/8"}, peer: proxy, headers: with(forwarded(client+":443"), "X-Real-IP", "198.51.100.*")},
		{name: "junk alone, X-Real-IP by the proxy", proxies: []string{"10.0.0.0/8"}, peer: proxy, headers: with(forwarded("junk*"), "X-Real-IP", client)},
		{name: "10,000 entries", proxies: []string{"10.0.0.0/8"}, peer: proxy, headers: forwarded(strings.Repeat("198.51.100.*, ", 10_000) + client)},
		{name: "1 MiB", proxies: []string{"10.0.0.0/8"}, peer: proxy, headers: forwarded(strings.Repeat("x", 1<<20) + "*, " + client)},
		{name: "1 MiB, no proxy", peer: client + ":1", headers: forwarded(strings.Repeat("1", 1<<20))},
	} {
		t.Run(test.name, func(t *testing.T) {
			engine, store := byAddress(t, test.proxies...)
			var longest time.Duration
			for i := range pick(times, 50) {
				longest = max(longest, from(engine, test.peer, test.headers(i)))
			}
			if n := store.Len(); n != 1 {
				t.Errorf("one client has %d buckets", n)
			}
			if longest > 500*time.Millisecond {
				t.Errorf("a request took %v", longest)
			}
			c.times(1)
			c.exceeds(float64(store.Len()-1), 0)
		})
	}
	// Different peers have different buckets.
	engine, store := byAddress(t, "10.0.0.0/8")
	for i := range 100 {
		from(engine, proxy, forwarded("198.51.100.*")(i))
	}
	if n := store.Len(); n != 100 {
		t.Errorf("100 clients have %d buckets", n)
	}
}

func TestA02OneClientManyAddresses(t *testing.T) {
	c := try(t, "A2")
	for name, address := range map[string]func(i int) string{
		"a /64": func(i int) string { return fmt.Sprintf("[2001:db8:1:2:%x:%x::%x]:%d", i*7919%65536, i%65536, i, 1+i) },
		"spellings": func(i int) string {
			return []string{"192.0.2.1:1", "[::ffff:192.0.2.1]:1", "[::ffff:c000:201]:1", "[0:0:0:0:0:ffff:c000:0201]:9", "[::FFFF:c000:201%eth0]:1"}[i%5]
		},
		"zones": func(i int) string { return fmt.Sprintf("[fe80::1%%eth%d]:1", i) },
		"ports": func(i int) string { return fmt.Sprintf("192.0.2.1:%d", 1+i) },
	} {
		engine, store := byAddress(t)
		n := pick(10_000, 1000)
		for i := range n {
			from(engine, address(i), nil)
		}
		if got := store.Len(); got != 1 {
			t.Errorf("%s: %d buckets", name, got)
		}
		c.times(n)
	}
	c.exceeds(0, 0)
}

func TestA03Mapped(t *testing.T) {
	c := try(t, "A3")
	engine, store := byAddress(t)
	const clients = 1000
	for i := range clients {
		from(engine, fmt.Sprintf("[::ffff:10.0.%d.%d]:1", i/250, i%250), nil)
	}
	if got := store.Len(); got != clients {
		t.Errorf("%d clients have %d buckets", clients, got)
	}
	c.times(clients)
}
