package ratelimit_test

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"

	"github.com/gin-gonic/gin"
	"github.com/stretchr/testify/require"

	"github.com/gin-ratelimit/ratelimit"
)

// newContext is a request on its way through router, before any handler.
func newContext(router *gin.Engine, edits ...edit) *gin.Context {
	c := gin.CreateTestContextOnly(httptest.NewRecorder(), router)
	c.Request = httptest.NewRequest(http.MethodGet, "/", nil)
	for _, edit := range edits {
		edit(c.Request)
	}
	return c
}

// behind is an engine that trusts the proxies at these addresses; nil is Gin's default, which trusts all.
func behind(proxies ...string) *gin.Engine {
	router := gin.New()
	if proxies != nil {
		if err := router.SetTrustedProxies(proxies); err != nil {
			panic(err)
		}
	}
	return router
}

const (
	proxyIP  = "10.0.0.1"
	clientIP = "198.51.100.7"
)

// Behind a proxy that adds the peer's address to X-Forwarded-For, or with none, nothing that a client sends
// changes its key.
func TestByClientIPWithHeadersOfTheClients(t *testing.T) {
	spoofs := map[string]string{
		"nothing":         "",
		"an address":      "6.6.6.6",
		"several":         "6.6.6.6, 7.7.7.7,8.8.8.8",
		"junk":            "junk",
		"an empty item":   ",",
		"with a port":     "6.6.6.6:80",
		"IPv6":            "2001:db8:6::6",
		"the proxy's own": proxyIP,
		"loopback":        "127.0.0.1, ::1",
		"1 MiB":           strings.Repeat("6", 1<<20),
		"10,000 entries":  strings.Repeat("6.6.6.6,", 10_000),
		"CRLF and NUL":    "6.6.6.6\r\nX: y\x00",
	}
	for name, spoof := range spoofs {
		t.Run(name, func(t *testing.T) {
			keyOf := func(router *gin.Engine, key ratelimit.KeyFunc, peerIP string, forwardedFor ...string) string {
				return key(newContext(router, peer(peerIP+":1"), header("X-Forwarded-For", forwardedFor...),
					header("X-Real-Ip", "9.9.9.9"), header("Forwarded", "for=9.9.9.9"),
					header("Cf-Connecting-Ip", "9.9.9.9"), header("True-Client-Ip", "9.9.9.9")))
			}
			require.Equal(t, clientIP, keyOf(engine(), ratelimit.ByClientIP, clientIP, spoof), "no proxy")
			require.Equal(t, clientIP, keyOf(behind(proxyIP), ratelimit.ByClientIP, clientIP, spoof), "around the proxy")
			require.Equal(t, clientIP, keyOf(behind(proxyIP), ratelimit.ByClientIP, proxyIP, spoof+", "+clientIP), "through it")
			require.Equal(t, clientIP, keyOf(behind(proxyIP), ratelimit.ByClientIP, proxyIP, spoof, clientIP), "in a line of its own")
			require.Equal(t, proxyIP, keyOf(behind(proxyIP), ratelimit.ByRemoteIP, proxyIP, spoof, clientIP))
			require.Equal(t, clientIP, keyOf(behind(), ratelimit.ByRemoteIP, clientIP, spoof))
		})
	}
}

func TestByClientIP(t *testing.T) {
	forwarded := func(value string) []edit { return []edit{peer(proxyIP + ":1"), header("X-Forwarded-For", value)} }
	for name, c := range map[string]struct {
		router *gin.Engine
		edits  []edit
		want   string
	}{
		"Gin's default believes anybody":  {behind(), forwarded("6.6.6.6"), "6.6.6.6"},
		"no header":                       {behind(proxyIP), []edit{peer(proxyIP + ":1")}, proxyIP},
		"two proxies":                     {behind("10.0.0.0/8"), forwarded("6.6.6.6, " + clientIP + ", 10.0.0.2"), clientIP},
		"in its IPv6 spelling":            {behind(proxyIP), forwarded("::ffff:198.51.100.7"), clientIP},
		"in hexadecimal":                  {behind(proxyIP), forwarded("::ffff:c633:6407"), clientIP},
		"IPv6 by its /64":                 {behind(proxyIP), forwarded("2001:DB8:0:1:2:3:4:5"), "2001:db8:0:1::/64"},
		"not an address: the proxy's own": {behind(proxyIP), forwarded("unknown"), proxyIP},
		"with a port":                     {behind(proxyIP), forwarded(clientIP + ":51234"), clientIP},
		"IPv6 with a port":                {behind(proxyIP), forwarded("[2001:db8:0:1::5]:443"), "2001:db8:0:1::/64"},
		"ports behind each other":         {behind("10.0.0.0/8"), forwarded("6.6.6.6:1, " + clientIP + ":2, 10.0.0.2:3"), clientIP},
		"X-Real-IP with a port":           {behind(proxyIP), []edit{peer(proxyIP + ":1"), header("X-Real-Ip", clientIP+":80")}, clientIP},
		"X-Real-IP where it is the only":  {behind(proxyIP), []edit{peer(proxyIP + ":1"), header("X-Real-Ip", clientIP)}, clientIP},
	} {
		t.Run(name, func(t *testing.T) {
			require.Equal(t, c.want, ratelimit.ByClientIP(newContext(c.router, c.edits...)))
		})
	}
}

func TestByClientIPBehindAJunkHeader(t *testing.T) {
	for _, junk := range []string{"junk", "unknown", "[v6]:443", "6.6.6.6, junk", "junk, " + proxyIP} {
		c := newContext(behind(proxyIP), peer(proxyIP+":1"), header("X-Forwarded-For", junk), header("X-Real-Ip", "9.9.9.9"))
		require.Equal(t, proxyIP, ratelimit.ByClientIP(c), junk)
	}
}

// An invalid address in a header that Gin does not read must not move a client to its proxy's bucket.
func TestByClientIPWithJunkThatGinDoesNotRead(t *testing.T) {
	platform := behind(proxyIP)
	platform.TrustedPlatform = "X-Platform"
	realIP := behind(proxyIP)
	realIP.RemoteIPHeaders = []string{"X-Real-IP"}
	for name, router := range map[string]*gin.Engine{"X-Platform": platform, "X-Real-IP": realIP} {
		t.Run(name, func(t *testing.T) {
			for _, junk := range []string{"junk", "6.6.6.6, junk", "junk, 6.6.6.6"} {
				c := newContext(router, peer(proxyIP+":1"), header(name, clientIP), header("X-Forwarded-For", junk))
				require.Equal(t, clientIP, ratelimit.ByClientIP(c), junk)
			}
		})
	}
}

// A client whose address is unknown is not counted as the proxy that has sent its request.
func TestClientAddr(t *testing.T) {
	platform := behind(proxyIP)
	platform.TrustedPlatform = "X-Platform"
	realIP := behind(proxyIP)
	realIP.RemoteIPHeaders = []string{"X-Real-IP"}
	custom := behind(proxyIP)
	custom.RemoteIPHeaders = []string{"x-client"}
	deaf := behind(proxyIP)
	deaf.ForwardedByClientIP = false
	through := func(headers ...edit) []edit { return append(headers, peer(proxyIP+":1")) }
	xff := func(lines ...string) edit { return header("X-Forwarded-For", lines...) }
	for name, c := range map[string]struct {
		router *gin.Engine
		edits  []edit
		want   string // "" for unknown
	}{
		"the peer":                                  {behind(proxyIP), []edit{peer("[2001:db8::1%eth0]:443")}, "2001:db8::1"},
		"a peer without a port":                     {behind(proxyIP), []edit{peer("2001:db8::1")}, "2001:db8::1"},
		"no peer":                                   {behind(proxyIP), []edit{peer("@")}, ""},
		"forwarded":                                 {behind(proxyIP), through(xff(clientIP)), clientIP},
		"mapped":                                    {behind(proxyIP), through(xff("::ffff:" + clientIP)), clientIP},
		"unreadable":                                {behind(proxyIP), through(xff("unknown")), ""},
		"unreadable, and X-Real-IP":                 {behind(proxyIP), through(xff("unknown"), header("X-Real-Ip", "9.9.9.9")), ""},
		"unreadable X-Real-IP":                      {behind(proxyIP), through(header("X-Real-Ip", "9.9.9.9, 8.8.8.x")), ""},
		"an obfuscated port":                        {behind(proxyIP), through(xff(clientIP + ":_gazonk")), ""},
		"with a port":                               {behind(proxyIP), through(xff(clientIP + ":51234")), clientIP},
		"IPv6 with a port":                          {behind(proxyIP), through(xff("[2001:db8::1]:443")), "2001:db8::1"},
		"junk of the client's on the left":          {behind(proxyIP), through(xff("junk", "6.6.6.6:7:8, "+clientIP)), clientIP},
		"the proxy's own requests":                  {behind(proxyIP), through(), proxyIP},
		"junk from a peer that is not believed":     {behind(proxyIP), []edit{peer(clientIP + ":1"), xff("junk")}, clientIP},
		"junk that nobody reads":                    {deaf, through(xff("junk")), proxyIP},
		"junk in a header that is not read":         {realIP, through(xff("junk"), header("X-Real-Ip", clientIP)), clientIP},
		"a header of one's own":                     {custom, through(header("X-Client", clientIP+":80")), clientIP},
		"junk in a header of one's own":             {custom, through(header("X-Client", "junk")), ""},
		"a platform":                                {platform, through(header("X-Platform", clientIP), xff("junk")), clientIP},
		"a platform that sends ports":               {platform, through(header("X-Platform", clientIP+":80")), clientIP},
		"junk from a platform":                      {platform, through(header("X-Platform", "junk")), ""},
		"a platform that says nothing, and a proxy": {platform, through(xff(clientIP + ":9")), clientIP},
	} {
		t.Run(name, func(t *testing.T) {
			addr, ok := ratelimit.ClientAddr(newContext(c.router, c.edits...))
			require.Equal(t, c.want != "", ok)
			if ok {
				require.Equal(t, c.want, addr.String())
			} else {
				require.False(t, addr.IsValid())
			}
			key := ratelimit.ByClientIP(newContext(c.router, c.edits...))
			if want := ratelimit.AddressKey(c.want); ok {
				require.Equal(t, want, key)
			} else {
				require.Equal(t, ratelimit.ByRemoteIP(newContext(c.router, c.edits...)), key, "the peer's")
			}
		})
	}
}

func TestTrustedPlatform(t *testing.T) {
	router := engine()
	router.TrustedPlatform = "X-Platform"
	for value, want := range map[string]string{
		"":                                       clientIP,
		"203.0.113.5":                            "203.0.113.5",
		" 203.0.113.5":                           clientIP,
		"203.0.113.5, 1.1.1.1":                   clientIP,
		"2001:db8::1":                            "2001:db8::/64",
		"garbage":                                clientIP,
		strings.Repeat("6", 64<<10):              clientIP,
		strings.Repeat("::", 32<<10):             clientIP,
		"1.1.1.1%" + strings.Repeat("z", 64<<10): clientIP,
		"fe80::1%" + strings.Repeat("z", 64<<10): "fe80::/64",
	} {
		require.Equal(t, want, ratelimit.ByClientIP(newContext(router, peer(clientIP+":1"), header("X-Platform", value))), "%.40q", value)
	}
}

func TestByRemoteIP(t *testing.T) {
	for remote, want := range map[string]string{
		"192.0.2.1:1":                  "192.0.2.1",
		"192.0.2.1":                    "192.0.2.1",
		"[::ffff:192.0.2.1]:1":         "192.0.2.1",
		"[::ffff:c000:201]:1":          "192.0.2.1",
		"[0:0:0:0:0:ffff:c000:0201]:1": "192.0.2.1",
		"[2001:db8::1]:1":              "2001:db8::/64",
		"[2001:0DB8:0:0:ffff::]:1":     "2001:db8::/64",
		"[2001:db8:0:1::1]:1":          "2001:db8:0:1::/64",
		"[fe80::1%eth0]:1":             "fe80::/64",
		"[fe80::2%eth1]:1":             "fe80::/64",
		"[::1]:1":                      "::/64",
		"::1":                          "::/64",
		"2001:db8::1":                  "2001:db8::/64",
		"[fe80::1%]:1":                 "",
		"":                             "",
		"@":                            "",
		"@/run/app.sock":               "",
		"/run/app.sock":                "",
		":1":                           "",
		"[]:1":                         "",
		"[":                            "",
		"localhost:1":                  "",
		"192.0.2.256:1":                "",
		"192.0.2.01:1":                 "",
		"3221225985:1":                 "",
		"0x7f.1:1":                     "",
		strings.Repeat("1:", 1<<16):    "",
	} {
		c := newContext(engine(), peer(remote), header("X-Forwarded-For", "6.6.6.6"))
		require.Equal(t, want, ratelimit.ByRemoteIP(c), "%.40q", remote)
		require.Equal(t, want, ratelimit.ByClientIP(c), "%.40q", remote)
	}
}

// Some middleware writes the client's address, without a port, where the peer's was.
func TestByRemoteIPWithoutPort(t *testing.T) {
	for remote, want := range map[string]string{
		"192.0.2.1":           "192.0.2.1",
		"2001:db8::1":         "2001:db8::/64",
		"2001::3:4:5:6:7":     "2001:0:0:3::/64",
		"::ffff:192.0.2.1":    "192.0.2.1",
		"::ffff:192.0.2.2":    "192.0.2.2",
		"2001:db8:0:1:2:3:4:": "",
	} {
		require.Equal(t, want, ratelimit.ByRemoteIP(newContext(engine(), peer(remote))), remote)
	}
}

func TestAddressesAsClients(t *testing.T) {
	h := serving(perMinute(5))
	admitted := func(address func(i int) string) (n int) {
		for i := range 200 {
			if ask(h, peer(net.JoinHostPort(address(i), "1"))).status == 200 {
				n++
			}
		}
		return n
	}
	require.Equal(t, 5, admitted(func(i int) string { return fmt.Sprintf("2001:db8::%x:%x:%x:%x", i, i*i, i^7, i) }), "one /64")
	require.Equal(t, 200, admitted(func(i int) string { return fmt.Sprintf("2001:db8:1:%x::1", i) }), "many of them")
	require.Equal(t, 200, admitted(func(i int) string { return fmt.Sprintf("::ffff:203.0.113.%d", i) }), "IPv4 mapped")
	require.Equal(t, 5, admitted(func(i int) string {
		return []string{"::ffff:192.0.2.9", "192.0.2.9", "::ffff:c000:209", "0:0:0:0:0:FFFF:192.0.2.9"}[i%4]
	}), "one address in its spellings")
}

func FuzzAddressKey(f *testing.F) {
	for _, seed := range []string{
		"", "192.0.2.1", "::ffff:192.0.2.1", "::ffff:c000:201", "2001:DB8::1", "fe80::1%eth0", "::ffff:192.0.2.1%eth0",
		"::", "0.0.0.0", "1.2.3.04", "2001:db8::/64", "::%", "[::1]", "\x00", "\xff",
	} {
		f.Add(seed)
	}
	// Gin returns the header of its platform as it is, and there is no peer to use instead.
	router := engine()
	router.TrustedPlatform = "X-Platform"
	keyOf := func(text string) string {
		return ratelimit.ByClientIP(newContext(router, peer(""), header("X-Platform", text)))
	}
	f.Fuzz(func(t *testing.T, text string) {
		key := keyOf(text)
		addr, err := netip.ParseAddr(text)
		if err != nil {
			require.Empty(t, key)
			return
		}
		bits := 64
		if addr = addr.WithZone("").Unmap(); addr.Is4() {
			bits = 32
		}
		prefix, err := addr.Prefix(bits)
		require.NoError(t, err)
		require.Equal(t, strings.TrimSuffix(prefix.String(), "/32"), key, "one spelling")
		require.Equal(t, key, keyOf(prefix.Addr().String()), "the first address of the network has its key")
		require.Equal(t, key, keyOf(addr.StringExpanded()), "so has every other spelling")
		require.Equal(t, key, keyOf(netip.AddrFrom16(addr.As16()).String()))
	})
}

func TestByRoute(t *testing.T) {
	var keys []string
	router := engine()
	router.Use(func(c *gin.Context) { keys = append(keys, ratelimit.ByRoute(c)) })
	router.GET("/users/:id", hello)
	router.DELETE("/users/:id", hello)
	router.GET("/files/*path", hello)
	for _, r := range [][2]string{
		{"GET", "/users/1"},
		{"GET", "/users/2?x=y"},
		{"DELETE", "/users/1"},
		{"GET", "/files/a/b"},
		{"GET", "/nowhere"},
		{"BREW", "/nowhere/else"},
	} {
		send(router, r[0], r[1])
	}
	require.Equal(t, []string{
		"GET /users/:id", "GET /users/:id", "DELETE /users/:id", "GET /files/*path", "no route", "no route",
	}, keys)
}

func TestByHeader(t *testing.T) {
	const secret = "sk_live_4242"
	key := ratelimit.ByHeader("x-api-key")
	of := func(values ...string) string { return key(newContext(engine(), header("X-API-Key", values...))) }

	require.Len(t, of(secret), 22)
	require.NotContains(t, of(secret), secret)
	require.Equal(t, of(secret), of(secret, "another"), "the first, as Header.Get has it")
	require.Equal(t, of(secret), ratelimit.ByHeader("X-API-KEY")(newContext(engine(), header("X-API-Key", secret))))
	require.NotEqual(t, of(secret), of(strings.ToUpper(secret)))
	require.NotEqual(t, of(secret), of(secret+" "))
	require.Len(t, of(strings.Repeat("x", 1<<20)), 22)
	for _, none := range [][]string{nil, {}, {""}, {"", secret}} {
		require.Empty(t, of(none...), "%q", none)
	}
	both := newContext(engine(), header("A", secret), header("B", secret))
	require.NotEqual(t, ratelimit.ByHeader("A")(both), ratelimit.ByHeader("B")(both), "other header, other key")
	require.Equal(t, `ratelimit: ByHeader(""): needs the name of a header, for example "X-API-Key"`, panicOf(func() { ratelimit.ByHeader("") }))
}

func TestByBearerToken(t *testing.T) {
	of := func(values ...string) string {
		return ratelimit.ByBearerToken(newContext(engine(), header("Authorization", values...)))
	}
	token := of("Bearer s3cret")
	require.Len(t, token, 22)
	require.NotContains(t, token, "s3cret")
	for _, same := range []string{"bearer s3cret", "BEARER s3cret", "Bearer  s3cret", "Bearer s3cret "} {
		require.Equal(t, token, of(same), same)
	}
	require.Equal(t, token, of("Bearer s3cret", "Bearer other"))
	require.NotEqual(t, token, of("Bearer S3CRET"))
	require.NotEqual(t, token, ratelimit.ByHeader("Authorization")(newContext(engine(), header("Authorization", "s3cret"))))
	for _, none := range []string{"", "Bearer", "Bearer ", "Bearer   ", "Basic s3cret", "s3cret", "Bearers3cret", "Bearer:s3cret"} {
		require.Empty(t, of(none), none)
	}
}

// fixed is a KeyFunc of one key.
func fixed(key string) ratelimit.KeyFunc { return func(*gin.Context) string { return key } }

func TestFirstOf(t *testing.T) {
	never := func(*gin.Context) string { panic("asked for nothing") }
	for _, c := range []struct {
		keys []ratelimit.KeyFunc
		want string
	}{
		{[]ratelimit.KeyFunc{fixed("a")}, "a"},
		{[]ratelimit.KeyFunc{fixed("a"), never}, "a"},
		{[]ratelimit.KeyFunc{fixed(""), fixed(""), fixed("c"), never}, "c"},
		{[]ratelimit.KeyFunc{fixed(""), fixed("")}, ""},
	} {
		require.Equal(t, c.want, ratelimit.FirstOf(c.keys...)(nil))
	}
	require.Equal(t, "ratelimit: FirstOf: needs at least one KeyFunc", panicOf(func() { ratelimit.FirstOf() }))
	require.Equal(t, "ratelimit: FirstOf: KeyFunc 1 is nil", panicOf(func() { ratelimit.FirstOf(fixed(""), nil) }))
}

func join(keys ...string) string {
	var fs []ratelimit.KeyFunc
	for _, key := range keys {
		fs = append(fs, fixed(key))
	}
	return ratelimit.Join(fs...)(nil)
}

func TestJoin(t *testing.T) {
	seen := map[string][]string{}
	for _, keys := range [][]string{
		{"a", "bc"}, {"ab", "c"}, {"abc"}, {"abc", ""}, {"", "abc"}, {"", "", "abc"}, {"a", "b", "c"},
		{"1:a", "2:bc"}, {join("a", "bc")}, {join("a"), "bc"}, {"a:2", "bc"}, {"a|bc", ""}, {"a\x00bc"}, {"\xff", "\xfe"}, {"\ufffd", "\ufffd"},
		{"1", "aaaaaaaaa", ""}, {"9aaaaaaaaa0"},
	} {
		joined := join(keys...)
		require.NotEmpty(t, joined)
		require.NotContains(t, seen, joined, "joined like %q", keys)
		seen[joined] = keys
	}
	require.Empty(t, join(""))
	require.Empty(t, join("", "", ""), "no key at all is no key")
	require.Equal(t, "ratelimit: Join: needs at least one KeyFunc", panicOf(func() { ratelimit.Join() }))
	require.Equal(t, "ratelimit: Join: KeyFunc 0 is nil", panicOf(func() { ratelimit.Join(nil) }))
}

// Parts of the same text, cut in two ways, must not be joined alike.
func FuzzJoin(f *testing.F) {
	f.Add("abc", uint64(1), "abc", uint64(2))
	f.Add("1:a1:b", uint64(0), "ab", uint64(1))
	f.Add("1:a1:b", uint64(0b100), "1:a1:b", uint64(0b1000))
	f.Add("11:1", uint64(0b10), "11:1", uint64(0b1))
	f.Add("", uint64(0), "0:", uint64(0))
	f.Fuzz(func(t *testing.T, a string, cutsA uint64, b string, cutsB uint64) {
		listA, listB := cut(a, cutsA), cut(b, cutsB)
		if fmt.Sprintf("%q", listA) == fmt.Sprintf("%q", listB) {
			require.Equal(t, join(listA...), join(listB...))
			return
		}
		joined := join(listA...)
		require.Equal(t, strings.Join(listA, "") == "", joined == "")
		if joined != "" {
			require.NotEqual(t, joined, join(listB...), "%q and %q", listA, listB)
		}
	})
}

// cut splits text behind each byte whose bit is set.
func cut(text string, bits uint64) []string {
	list, from := []string{}, 0
	for i := range min(len(text), 64) {
		if bits>>i&1 == 1 {
			list, from = append(list, text[from:i+1]), i+1
		}
	}
	return append(list, text[from:])
}

// storedKeys takes from each key through a limiter, and returns the keys that reach its store.
func storedKeys(t *testing.T, keys ...string) (stored []string) {
	l, err := ratelimit.NewLimiter(ratelimit.WithName("n"), ratelimit.WithRefillRate(ratelimit.PerSecond(1)),
		storeOption(func(_ context.Context, key string, take ratelimit.Take) (ratelimit.Result, error) {
			stored = append(stored, key)
			return ratelimit.Result{Allowed: true, Limit: take.Limits[0]}, nil
		}))
	require.NoError(t, err)
	for _, key := range keys {
		_, err := l.Take(t.Context(), key, 1)
		require.NoError(t, err)
	}
	for i, key := range stored {
		require.True(t, strings.HasPrefix(key, "n:"))
		stored[i] = key[2:]
	}
	return stored
}

func TestStoredKeys(t *testing.T) {
	long := strings.Repeat("x", 129)
	keys := append(hostileKeys(), long, long+"x", long[:128], "#", "#"+long, "192.0.2.1")
	stored := storedKeys(t, keys...)
	seen := map[string]bool{}
	for i, key := range stored {
		require.LessOrEqual(t, len(key), 128)
		require.False(t, seen[key], "%.40q shares its bucket", keys[i])
		seen[key] = true
		if len(keys[i]) <= 128 && !strings.HasPrefix(keys[i], "#") {
			require.Equal(t, keys[i], key, "short keys stay readable")
		}
	}
	require.Equal(t, stored, storedKeys(t, keys...), "the same in every process")
}

func FuzzStoredKeys(f *testing.F) {
	long := strings.Repeat("x", 200)
	f.Add("a", "b")
	f.Add(long, long+"x")
	f.Add("#", "##")
	f.Add("", "\x00")
	f.Fuzz(func(t *testing.T, a, b string) {
		stored := storedKeys(t, a, b)
		require.Equal(t, a == b, stored[0] == stored[1])
		require.LessOrEqual(t, len(stored[0]), 128)
		// Another client must not be able to send a digest as its key.
		again := storedKeys(t, stored[0])
		require.Equal(t, a == stored[0], again[0] == stored[0])
	})
}

func hostileKeys() []string {
	return []string{
		"", " ", "\x00", "a\x00b", "\r\nX-Injected: yes", "\n", "{}", "{a}", "a:b", ":", "\"", "\\", "\xff\xfe", "é", "\u202e",
		"%s%n%d", "*", "ratelimit:x", strings.Repeat("{", 1<<10), strings.Repeat("\xff", 1<<20), strings.Repeat("\r\n", 1<<10),
	}
}

func TestHostileKeysStayOutOfAnswers(t *testing.T) {
	key := ""
	h := serving(perMinute(1,
		ratelimit.WithKeyFunc(func(*gin.Context) string { return key }),
		ratelimit.WithHeaders(ratelimit.IETFHeaders),
		ratelimit.WithDeniedHandler(ratelimit.DenyProblem)))
	key = "tame"
	allowed, refused := ask(h), ask(h)
	require.Equal(t, 429, refused.status)
	for _, key = range hostileKeys() {
		require.Equal(t, allowed, ask(h), "%.40q", key)
		require.Equal(t, refused, ask(h), "%.40q", key)
	}
}
