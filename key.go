package ratelimit

import (
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"reflect"
	"strconv"
	"strings"

	"github.com/gin-gonic/gin"
)

// KeyFunc returns what a request is counted against: an address, an account, a route. "" means that this request carries
// no such key. All requests without a key share one bucket of their own; they are never let through uncounted.
//
// A key may be anything, of any length. Long ones are digested before they reach a store. Secrets should
// be digested by the KeyFunc, as [ByHeader] and [ByBearerToken] do.
type KeyFunc func(*gin.Context) string

// ByClientIP is the client's address as c.ClientIP() returns it: IPv4 in full, IPv6 by its /64, because a
// client has at least that many addresses. Addresses are compared by their bits and not by their spelling:
// an IPv4-mapped address is the IPv4 address, zones and ports are dropped. Where the address is unknown (see
// [ClientAddr]) it is the peer's, never one from another header.
//
// By default Gin trusts X-Forwarded-For from every peer, so a client can choose its own key. Call
// engine.SetTrustedProxies first, with nil if no proxy is in front, or use [ByRemoteIP].
func ByClientIP(c *gin.Context) string {
	if addr, text, ok := clientAddr(c); ok {
		return addrKey(addr, text)
	}
	return ByRemoteIP(c)
}

// ByRemoteIP is the address of the connection's peer, in the form of [ByClientIP]. No header is trusted. Behind a proxy
// it is the proxy's address, one key for all clients. On a unix socket it is "".
func ByRemoteIP(c *gin.Context) string {
	addr, text, ok := remoteAddr(c)
	if !ok {
		return ""
	}
	return addrKey(addr, text)
}

// AddressKey is the key that [ByClientIP] and [ByRemoteIP] give an address, for [Limiter.Reset] and the like:
// AddressKey("2001:db8::1") is "2001:db8::/64". "" for what is not an address.
func AddressKey(text string) string {
	addr, err := netip.ParseAddr(text)
	if err != nil {
		return ""
	}
	return addrKey(addr.WithZone("").Unmap(), text)
}

// addrKey is the key of an address that was read from text and is unmapped. It must be unmapped before it is masked: the
// /64 of all mapped IPv4 addresses is the same (CVE-2026-30827).
func addrKey(addr netip.Addr, text string) string {
	if addr.Is4() {
		if !strings.Contains(text, ":") {
			return text // IPv4 has one spelling only, so text is it.
		}
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
// value itself, for example an API key, never leaves the process. Without the header it is "".
//
// An unverified key is the client's choice: a client that sends a new one with each request gets a new bucket each time.
// Authenticate first, or limit by address as well.
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

// ByBearerToken is a digest of the token in "Authorization: Bearer …" (RFC 6750), "" without one. The warning of
// [ByHeader] about unverified keys holds here too.
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

// ByValue is what an earlier handler has put into the context with c.Set, for example the user that it has verified:
// ByValue("user_id") is "user_id:42". The value may be a string, an integer or a fmt.Stringer. Any other value, "" and a
// missing value are no key, "". Prefer this key over credentials: a client can make those up, and they change when they
// are renewed. It panics if key is nil.
func ByValue(key any) KeyFunc {
	if key == nil {
		panic(`ratelimit: ByValue(nil): needs the key of a c.Set, for example "user_id"`)
	}
	return func(c *gin.Context) string {
		value, _ := c.Get(key)
		return ValueKey(key, value)
	}
}

// ValueKey is the key that [ByValue] gives a value, "" for one that is none.
func ValueKey(key, value any) string {
	var text string
	switch v := value.(type) {
	case nil:
		return ""
	case string:
		text = v
	case fmt.Stringer:
		if r := reflect.ValueOf(v); r.Kind() == reflect.Pointer && r.IsNil() {
			return ""
		}
		text = v.String()
	default:
		switch r := reflect.ValueOf(value); {
		case r.CanInt():
			text = strconv.FormatInt(r.Int(), 10)
		case r.CanUint():
			text = strconv.FormatUint(r.Uint(), 10)
		case r.Kind() == reflect.String:
			text = r.String()
		}
	}
	if text == "" {
		return ""
	}
	return fmt.Sprint(key) + ":" + text
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
	buf := make([]byte, 0, 128)
	buf = append(buf, kind...)
	buf = append(buf, 0)
	buf = append(buf, value...)
	sum := sha256.Sum256(buf)
	return base64.RawURLEncoding.EncodeToString(sum[:16])
}

// boundKey returns key, or, if it is long, a digest, which begins with a mark. A key that begins with the mark is digested
// too, so that no key can be mistaken for a digest.
func boundKey(key string) string {
	const (
		maxLength = 128
		mark      = '#'
	)
	if len(key) <= maxLength && (key == "" || key[0] != mark) {
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

// Reveal returns the raw key, for support and audits. It may be personal data or a secret, if the KeyFunc returns such.
func (k Key) Reveal() string { return k.raw }

// String returns the digest, "none" where the request had no key.
func (k Key) String() string {
	if k.raw == "" {
		return "none"
	}
	return digest("key", k.raw)[:11]
}

// Format writes the digest, whatever the verb. The only exception: fmt cannot call it for a Key in an unexported field of
// another type.
func (k Key) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, k.String()) }

// MarshalText returns the digest, for JSON and structured logs.
func (k Key) MarshalText() ([]byte, error) { return []byte(k.String()), nil }
