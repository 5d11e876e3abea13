package ratelimit

import (
	"maps"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"

	"github.com/gin-gonic/gin"

	"github.com/gin-ratelimit/ratelimit/internal/ginroutes"
)

// ClientAddr is the client's address as [ByClientIP] and the lists of extra/iplist see it: as c.ClientIP() returns it,
// IPv4 where it is an IPv4-mapped address, and without its zone. Headers count as far as Gin trusts them;
// see engine.SetTrustedProxies. A port behind the address, as some gateways send it ("203.0.113.7:51234",
// "[2001:db8::1]:443"), is dropped.
//
// It is not ok where the client's address is unknown: a trusted header holds something that is not an address, or the
// peer has none, as on a unix socket. An unknown client is not the proxy, so a list of exceptions must not let it in.
func ClientAddr(c *gin.Context) (addr netip.Addr, ok bool) {
	addr, _, ok = clientAddr(c)
	return addr, ok
}

// clientAddr also returns the text that the address was read from.
func clientAddr(c *gin.Context) (addr netip.Addr, text string, ok bool) {
	ip := c.ClientIP()
	engine := ginroutes.Engine(c)
	if engine != nil && engine.TrustedPlatform != "" && c.GetHeader(engine.TrustedPlatform) == ip && ip != "" {
		return forwardedAddr(ip)
	}
	names := defaultHeaders
	if engine != nil {
		names = engine.RemoteIPHeaders
	}
	for _, name := range names {
		lines := headerLines(c.Request.Header, name)
		if len(lines) == 0 {
			continue
		}
		switch reach(lines, ip) {
		case reached:
			return forwardedAddr(ip)
		case passed:
			continue // Gin does not read this header.
		case stuck:
		}
		if ipWith(c, name, example) != example {
			continue // Gin does not read this one either.
		}
		readable := withoutPorts(lines)
		ip := ipWith(c, name, readable...)
		if reach(readable, ip) != reached {
			return netip.Addr{}, "", false
		}
		return forwardedAddr(ip)
	}
	if ip == "" {
		return remoteAddr(c)
	}
	return forwardedAddr(ip) // The peer's address, or one from a platform's header.
}

// forwardedAddr reads an address that may have a port.
func forwardedAddr(text string) (netip.Addr, string, bool) {
	addr, err := netip.ParseAddr(text)
	if err != nil {
		addr, err = netip.ParseAddr(withoutPort(text))
	}
	if err != nil {
		return netip.Addr{}, "", false
	}
	return addr.WithZone("").Unmap(), text, true
}

// remoteAddr reads the address of the connection's peer, which some middleware sets without a port.
func remoteAddr(c *gin.Context) (netip.Addr, string, bool) {
	host := c.Request.RemoteAddr
	if bracketed, ok := strings.CutPrefix(host, "["); ok {
		host, _, _ = strings.Cut(bracketed, "]")
	} else if i := strings.IndexByte(host, ':'); i == strings.LastIndexByte(host, ':') && i >= 0 {
		host = host[:i] // With more colons it is IPv6 without a port.
	}
	addr, err := netip.ParseAddr(host)
	if err != nil {
		return netip.Addr{}, "", false
	}
	return addr.WithZone("").Unmap(), host, true
}

// progress is how far a walk through a header's addresses comes. It goes from the right to the left, as Gin reads them,
// because proxies append.
type progress int

const (
	reached progress = iota // the address that Gin has taken
	stuck                   // something that is not an address to Gin, which then reads another header, where the client may have put anything
	passed                  // the end of the header, with neither: Gin has taken an address from elsewhere
)

func reach(lines []string, ip string) progress {
	for _, line := range slices.Backward(lines) {
		for more := true; more; {
			element := line
			i := strings.LastIndexByte(line, ',')
			if more = i >= 0; more {
				line, element = line[:i], line[i+1:]
			}
			element = strings.TrimSpace(element)
			if element == ip {
				return reached
			}
			if net.ParseIP(element) == nil {
				return stuck
			}
		}
	}
	return passed
}

// withoutPorts returns the lines of a header with the ports dropped.
func withoutPorts(lines []string) []string {
	lines = slices.Clone(lines)
	for i, line := range lines {
		elements := strings.Split(line, ",")
		for j := range elements {
			elements[j] = withoutPort(strings.TrimSpace(elements[j]))
		}
		lines[i] = strings.Join(elements, ",")
	}
	return lines
}

// withoutPort returns the address of "192.0.2.1:80" and "[2001:db8::1]:80", and other text as it is.
func withoutPort(text string) string {
	if peer, err := netip.ParseAddrPort(text); err == nil {
		return peer.Addr().WithZone("").String()
	}
	return text
}

const example = "192.0.2.1" // Reserved for documentation (RFC 5737), so no proxy has it.

// ipWith is what Gin would take for the client's address if a header had this value.
func ipWith(c *gin.Context, name string, lines ...string) string {
	request, changed := c.Request, *c.Request
	changed.Header = maps.Clone(request.Header)
	changed.Header[http.CanonicalHeaderKey(name)] = lines
	c.Request = &changed
	defer func() { c.Request = request }()
	return c.ClientIP()
}

var defaultHeaders = []string{"X-Forwarded-For", "X-Real-IP"} // Gin's

// headerLines is h.Values(name), which allocates for the second of Gin's headers on each request.
func headerLines(h http.Header, name string) []string {
	if name == "X-Real-IP" {
		return h["X-Real-Ip"]
	}
	return h.Values(name)
}
