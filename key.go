package ratelimit

import (
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/gin-gonic/gin"
)

// KeyFunc says what a request is counted against: an address, an account, a route. "" means that this
// request carries no such key. All requests without any key share one bucket of their own; they are never
// let through uncounted.
//
// A key may be anything, of any length. Long ones are digested before they reach a store. Secrets should
// be digested by the KeyFunc, as [ByHeader] and [ByBearerToken] do.
type KeyFunc func(*gin.Context) string

// ByClientIP is the client's address as c.ClientIP() tells it: IPv4 in full, IPv6 by its /64, because a
// client has at least that many addresses. Addresses are compared by their bits and not by their spelling:
// an IPv4-mapped address is the IPv4 address, and zones are dropped. What is not an address falls back to
// the peer's, never to another header.
//
// Until engine.SetTrustedProxies is called, Gin believes X-Forwarded-For from everybody, and then the
// client chooses its own key. Call SetTrustedProxies(nil) where no proxy is in front, or use [ByRemoteIP].
func ByClientIP(c *gin.Context) string {
	ip := c.ClientIP()
	key := AddressKey(ip)
	if key == "" || junkBefore(ip, c.Request.Header[forwardedFor]) && readsForwardedFor(c) {
		return ByRemoteIP(c)
	}
	return key
}

const forwardedFor = "X-Forwarded-For"

// readsForwardedFor reports whether Gin would take the client's address from X-Forwarded-For if it held one. It may
// be told to prefer other headers, which junk in this one must not discredit.
func readsForwardedFor(c *gin.Context) bool {
	const example = "192.0.2.1" // RFC 5737: nobody's.
	request, changed := c.Request, *c.Request
	changed.Header = maps.Clone(request.Header)
	changed.Header[forwardedFor] = []string{example}
	c.Request = &changed
	defer func() { c.Request = request }()
	return c.ClientIP() == example
}

// junkBefore reports whether the addresses in X-Forwarded-For, read from the right as proxies append to it, have
// something else before ip: then Gin has given up on them and taken ip from X-Real-IP, where the client may have
// put it.
func junkBefore(ip string, lines []string) bool {
	for _, line := range slices.Backward(lines) {
		for more := true; more; {
			element := line
			i := strings.LastIndexByte(line, ',')
			if more = i >= 0; more {
				line, element = line[:i], line[i+1:]
			}
			element = strings.TrimSpace(element)
			if element == ip {
				return false
			}
			if addr, err := netip.ParseAddr(element); err != nil || addr.Zone() != "" {
				return true
			}
		}
	}
	return false // No such header, or Gin is told to read another.
}

// ByRemoteIP is the address of the peer of the connection, in the form of [ByClientIP]. No header is
// believed. Behind a proxy it is the proxy's address, one key for everybody. On a unix socket it is "".
func ByRemoteIP(c *gin.Context) string {
	host := c.Request.RemoteAddr
	if bracketed, ok := strings.CutPrefix(host, "["); ok {
		host, _, _ = strings.Cut(bracketed, "]")
	} else if i := strings.IndexByte(host, ':'); i == strings.LastIndexByte(host, ':') && i >= 0 {
		host = host[:i] // With more colons it is IPv6 without a port, which some middleware sets.
	}
	return AddressKey(host)
}

// AddressKey is the key that [ByClientIP] and [ByRemoteIP] give an address, for [Limiter.Reset] and the like:
// AddressKey("2001:db8::1") is "2001:db8::/64". "" for what is not an address.
func AddressKey(text string) string {
	addr, err := netip.ParseAddr(text)
	if err != nil {
		return ""
	}
	if addr.Is4() {
		return text // ParseAddr takes IPv4 in one spelling only, so there is nothing to print.
	}
	// Unmapped before masked: the /64 of every mapped IPv4 address is the same (CVE-2026-30827).
	if addr = addr.WithZone("").Unmap(); addr.Is4() {
		return addr.String()
	}
	prefix, _ := addr.Prefix(64) // No error: the address is IPv6 without a zone.
	return prefix.String()
}

// ByRoute is the method and pattern of the route, "GET /users/:id": one bucket for all clients. Requests
// that match no route share the key "no route", since their paths and methods are unbounded.
func ByRoute(c *gin.Context) string {
	if c.FullPath() == "" {
		return "no route"
	}
	return c.Request.Method + " " + c.FullPath()
}

// ByHeader is a digest of the header's value, 22 characters that differ for each header and value; the
// value itself, for example an API key, leaves the process nowhere. Without the header it is "".
//
// A key that nobody has verified is the client's choice: who sends a new one with each request gets a new
// bucket each time. Authenticate first, or limit by address as well.
func ByHeader(name string) KeyFunc {
	if name == "" {
		panic(`ratelimit: ByHeader(""): needs the name of a header, for example "X-API-Key"`)
	}
	name = http.CanonicalHeaderKey(name)
	return func(c *gin.Context) string {
		values := c.Request.Header[name]
		if len(values) == 0 {
			return ""
		}
		return HeaderKey(name, values[0])
	}
}

// HeaderKey is the key that [ByHeader] gives a header's value, "" for "".
func HeaderKey(name, value string) string {
	if value == "" {
		return ""
	}
	return digest(http.CanonicalHeaderKey(name), value)
}

// ByBearerToken is a digest of the token in "Authorization: Bearer …" (RFC 6750), "" without one. What
// [ByHeader] says of unverified keys holds here too.
func ByBearerToken(c *gin.Context) string {
	const scheme = "Bearer "
	value := c.Request.Header.Get("Authorization")
	if len(value) < len(scheme) || !strings.EqualFold(value[:len(scheme)], scheme) {
		return ""
	}
	return BearerKey(strings.TrimSpace(value[len(scheme):]))
}

// BearerKey is the key that [ByBearerToken] gives a token, "" for "".
func BearerKey(token string) string {
	if token == "" {
		return ""
	}
	return digest("Bearer", token)
}

// FirstOf is the first key that is not "": FirstOf(ByBearerToken, ByClientIP). Keys of different kinds
// must not look alike; digests and addresses never do, so give your own a prefix: "account:" + name.
func FirstOf(keys ...KeyFunc) KeyFunc {
	checkKeys("FirstOf", keys)
	return func(c *gin.Context) string {
		for _, key := range keys {
			if k := key(c); k != "" {
				return k
			}
		}
		return ""
	}
}

// Join is all the keys together, each with its length, so that no two lists of keys are joined alike. A key
// that is missing counts as empty; where all are, so is their join.
func Join(keys ...KeyFunc) KeyFunc {
	checkKeys("Join", keys)
	return func(c *gin.Context) string {
		joined := make([]string, len(keys))
		for i, key := range keys {
			joined[i] = key(c)
		}
		return JoinKeys(joined...)
	}
}

// JoinKeys is the key that [Join] makes of several.
func JoinKeys(keys ...string) string {
	var joined []byte
	found := false
	for _, key := range keys {
		found = found || key != ""
		joined = strconv.AppendInt(joined, int64(len(key)), 10)
		joined = append(joined, ':')
		joined = append(joined, key...)
	}
	if !found {
		return ""
	}
	return string(joined)
}

func checkKeys(name string, keys []KeyFunc) {
	if len(keys) == 0 {
		panic("ratelimit: " + name + ": needs at least one KeyFunc")
	}
	for i, key := range keys {
		if key == nil {
			panic("ratelimit: " + name + ": KeyFunc " + strconv.Itoa(i) + " is nil")
		}
	}
}

// digest is 128 bits of SHA-256 over a value and what kind of value it is. It is the same on all instances,
// so it cannot be salted: a value that can be guessed can be recognised.
func digest(kind, value string) string {
	room := make([]byte, 0, 128)
	room = append(room, kind...)
	room = append(room, 0)
	room = append(room, value...)
	sum := sha256.Sum256(room)
	return base64.RawURLEncoding.EncodeToString(sum[:16])
}

// boundKey returns key, or, for one that is long, a digest no key can be mistaken for: nothing else that
// reaches a store begins with its mark.
func boundKey(key string) string {
	const (
		longest = 128
		mark    = '#'
	)
	if len(key) <= longest && (key == "" || key[0] != mark) {
		return key
	}
	sum := sha256.Sum256([]byte(key))
	return string(mark) + base64.RawURLEncoding.EncodeToString(sum[:])
}

// Key is what a request was counted against. It prints as a digest, so that no address, account or token
// gets into a log or a label by accident: 11 characters, the same on all instances.
type Key struct{ raw string }

// KeyOf is the Key under which events of the raw key appear, to look for it in logs.
func KeyOf(raw string) Key { return Key{raw} }

// String returns the digest, "none" where the request had no key.
func (k Key) String() string {
	if k.raw == "" {
		return "none"
	}
	return digest("key", k.raw)[:11]
}

// Format writes the digest, whatever the verb. Only from within an unexported field of another type fmt cannot
// call it.
func (k Key) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, k.String()) }

// MarshalText returns the digest, for JSON and structured logs.
func (k Key) MarshalText() ([]byte, error) { return []byte(k.String()), nil }
