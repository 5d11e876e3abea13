package iplist

import (
	"net/http"
	"net/http/httptest"
	"net/netip"
	"testing"

	"github.com/gin-gonic/gin"

	"github.com/gin-ratelimit/ratelimit"
)

// FuzzAddressesAgree checks that a list looks up the same address that the limiter counts by.
func FuzzAddressesAgree(f *testing.F) {
	for _, text := range []string{
		"192.0.2.7", "::ffff:192.0.2.7", "::ffff:c000:207", "2001:db8::1", "fe80::1%eth0", "::1", "", "@", "x",
		"::ffff:192.0.2.7%eth0", "192.0.2.7:80", "[2001:db8::1]:80", "1.2.3.4, 5.6.7.8",
	} {
		f.Add(text, text, text)
	}
	f.Fuzz(func(t *testing.T, peer, forwardedFor, platform string) {
		if _, err := netip.ParseAddr(peer); err == nil {
			peer = netip.AddrPortFrom(netip.MustParseAddr(peer), 1234).String() // as net/http writes it
		}
		c, engine := gin.CreateTestContext(httptest.NewRecorder())
		engine.TrustedPlatform = "X-Client"
		c.Request = &http.Request{RemoteAddr: peer, Header: http.Header{
			"X-Forwarded-For": {forwardedFor}, "X-Client": {platform},
		}}
		if _, err := netip.ParseAddrPort(peer); err != nil && ratelimit.ByRemoteIP(c) != "" {
			t.Skip() // net/http never writes such a peer.
		}
		for _, addr := range []netip.Addr{ClientAddr(c), RemoteAddr(c)} {
			if addr.Zone() != "" || addr.Is4In6() {
				t.Errorf("%v is not canonical", addr)
			}
		}
		if got, want := keyOf(ClientAddr(c)), ratelimit.ByClientIP(c); got != want && (got != "" || want != ratelimit.ByRemoteIP(c)) {
			t.Errorf("ClientAddr %q, ByClientIP %q", got, want)
		}
		if got, want := keyOf(RemoteAddr(c)), ratelimit.ByRemoteIP(c); got != want {
			t.Errorf("RemoteAddr %q, ByRemoteIP %q", got, want)
		}
	})
}

// keyOf is the limiter's key for an address.
func keyOf(addr netip.Addr) string {
	switch {
	case !addr.IsValid():
		return ""
	case addr.Is4():
		return addr.String()
	default:
		prefix, _ := addr.Prefix(64)
		return prefix.String()
	}
}

// The cost of a lookup to a request is mostly what Gin takes to find the address.
func BenchmarkContainsClient(b *testing.B) {
	c, engine := gin.CreateTestContext(httptest.NewRecorder())
	if err := engine.SetTrustedProxies(nil); err != nil {
		b.Fatal(err)
	}
	c.Request = httptest.NewRequest(http.MethodGet, "/", nil)
	list := MustNew("10.0.0.0/8", "2001:db8::/32")
	for _, peer := range []string{"192.0.2.7:1234", "[2001:db8::1]:1234"} {
		c.Request.RemoteAddr = peer
		b.Run("gin/"+peer, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				c.ClientIP()
			}
		})
		b.Run("list/"+peer, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				list.ContainsClient(c)
			}
		})
	}
}
