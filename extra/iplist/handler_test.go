package iplist

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/gin-gonic/gin"
)

func TestMain(m *testing.M) {
	gin.SetMode(gin.TestMode)
	m.Run()
}

// request answers a request from peer by handlers, and behind them 200.
func request(peer, forwardedFor string, trusted []string, handlers ...gin.HandlerFunc) *httptest.ResponseRecorder {
	engine := gin.New()
	if err := engine.SetTrustedProxies(trusted); err != nil {
		panic(err)
	}
	engine.Use(handlers...)
	engine.GET("/", func(c *gin.Context) { c.String(http.StatusOK, "reached") })
	r := httptest.NewRequest(http.MethodGet, "/", nil)
	r.RemoteAddr = peer
	if forwardedFor != "" {
		r.Header.Set("X-Forwarded-For", forwardedFor)
	}
	w := httptest.NewRecorder()
	engine.ServeHTTP(w, r)
	return w
}

func teapot(c *gin.Context) { c.AbortWithStatus(http.StatusTeapot) }

func TestHandlers(t *testing.T) {
	list := MustNew("192.0.2.0/24", "2001:db8::/32")
	handlers := map[string]gin.HandlerFunc{
		"Deny": Deny(list), "Allow": Allow(list), "When": When(list, teapot), "Unless": Unless(list, teapot),
	}
	on := map[string]int{"Deny": 403, "Allow": 200, "When": 418, "Unless": 200}
	off := map[string]int{"Deny": 200, "Allow": 403, "When": 200, "Unless": 418}
	unknown := map[string]int{"Deny": 403, "Allow": 403, "When": 418, "Unless": 418}
	for peer, want := range map[string]map[string]int{
		"192.0.2.7:1234":            on,
		"[::ffff:192.0.2.7]:1234":   on,
		"[2001:db8::1%eth0]:1234":   on,
		"192.0.2.7":                 on, // set by middleware
		"2001:db8::a:b:c:d":         on,
		"198.51.100.1:1234":         off,
		"[::192.0.2.7]:1234":        off, // compatible is not mapped
		"":                          unknown,
		"@":                         unknown,
		"client.example.com:1234":   unknown,
		"192.0.2.7.example.com:123": unknown,
	} {
		for name, handler := range handlers {
			if got := request(peer, "", nil, handler).Code; got != want[name] {
				t.Errorf("%s from %q: %d, want %d", name, peer, got, want[name])
			}
		}
	}
}

func TestForbid(t *testing.T) {
	w := request("192.0.2.7:1234", "", nil, Forbid)
	if w.Code != 403 || w.Body.String() != `{"error":"forbidden"}` || !strings.HasPrefix(w.Header().Get("Content-Type"), "application/json") {
		t.Errorf("%d %s %v", w.Code, w.Body, w.Header())
	}
}

func TestReplaceTakesEffectOnHandlers(t *testing.T) {
	list := new(List)
	deny := Deny(list)
	if got := request("192.0.2.7:1", "", nil, deny).Code; got != 200 {
		t.Errorf("empty list: %d", got)
	}
	if err := list.Replace("192.0.2.7"); err != nil {
		t.Fatal(err)
	}
	if got := request("192.0.2.7:1", "", nil, deny).Code; got != 403 {
		t.Errorf("on the list: %d", got)
	}
}

// A client cannot choose its address, unless Gin trusts it as a proxy, as by default.
func TestSpoofedHeaders(t *testing.T) {
	office := MustNew("10.0.0.0/8")
	everybody := []string{"0.0.0.0/0", "::/0"} // Gin's default
	proxy := []string{"192.0.2.1"}
	for _, test := range []struct {
		name, peer, forwardedFor string
		trusted                  []string
		want                     int
	}{
		{name: "no proxies", peer: "198.51.100.1:1", forwardedFor: "10.0.0.1", want: 403},
		{name: "another proxy", peer: "198.51.100.1:1", forwardedFor: "10.0.0.1", trusted: proxy, want: 403},
		{name: "through the proxy", peer: "192.0.2.1:1", forwardedFor: "198.51.100.1", trusted: proxy, want: 403},
		{name: "through the proxy, spoofed before", peer: "192.0.2.1:1", forwardedFor: "10.0.0.1, 198.51.100.1", trusted: proxy, want: 403},
		{name: "through the proxy, from the office", peer: "192.0.2.1:1", forwardedFor: "198.51.100.1, 10.0.0.1", trusted: proxy, want: 200},
		{name: "through the proxy, mapped", peer: "192.0.2.1:1", forwardedFor: "::ffff:10.0.0.1", trusted: proxy, want: 200},
		{name: "no address", peer: "192.0.2.1:1", forwardedFor: "10.0.0.1.example.com", trusted: proxy, want: 403},
		{name: "no address, through a proxy that is listed", peer: "10.9.9.9:1", forwardedFor: "unknown", trusted: []string{"10.9.9.9"}, want: 403},
		{name: "with a port, through a proxy that is listed", peer: "10.9.9.9:1", forwardedFor: "203.0.113.7:51234", trusted: []string{"10.9.9.9"}, want: 403},
		{name: "with a port, from the office", peer: "192.0.2.1:1", forwardedFor: "10.0.0.1:51234", trusted: proxy, want: 200},
		{name: "everybody is trusted: documented", peer: "198.51.100.1:1", forwardedFor: "10.0.0.1", trusted: everybody, want: 200},
	} {
		if got := request(test.peer, test.forwardedFor, test.trusted, Allow(office)).Code; got != test.want {
			t.Errorf("%s: %d, want %d", test.name, got, test.want)
		}
		remote := func(c *gin.Context) {
			if !office.Contains(RemoteAddr(c)) {
				Forbid(c)
			}
		}
		want := 403
		if strings.HasPrefix(test.peer, "10.") {
			want = 200
		}
		if got := request(test.peer, test.forwardedFor, test.trusted, remote).Code; got != want {
			t.Errorf("%s, by RemoteAddr: %d, want %d", test.name, got, want)
		}
	}
}

// If the address cannot be read, restrictions apply to the client, and exemptions do not.
func TestUnreadableForwardedAddress(t *testing.T) {
	list := MustNew("10.0.0.0/8", "203.0.113.0/24")
	proxy := []string{"10.1.2.3"}
	for forwarded, want := range map[string]struct{ allow, deny, when, unless int }{
		"203.0.113.7:51234":    {allow: 200, deny: 403, when: 418, unless: 200},
		"198.51.100.1:51234":   {allow: 403, deny: 200, when: 200, unless: 418},
		"[2001:db8::1]:443":    {allow: 403, deny: 200, when: 200, unless: 418},
		"unknown":              {allow: 403, deny: 403, when: 418, unless: 418},
		"[v6]:443":             {allow: 403, deny: 403, when: 418, unless: 418},
		"203.0.113.7, _hidden": {allow: 403, deny: 403, when: 418, unless: 418},
	} {
		for name, c := range map[string]struct {
			handler gin.HandlerFunc
			want    int
		}{
			"Allow": {Allow(list), want.allow}, "Deny": {Deny(list), want.deny},
			"When": {When(list, teapot), want.when}, "Unless": {Unless(list, teapot), want.unless},
		} {
			if got := request("10.1.2.3:1", forwarded, proxy, c.handler).Code; got != c.want {
				t.Errorf("%s, forwarded for %q: %d, want %d", name, forwarded, got, c.want)
			}
		}
	}
}

func TestTrustedPlatformIsRaw(t *testing.T) {
	engine := gin.New()
	engine.TrustedPlatform = "X-Client"
	engine.Use(Deny(MustNew("192.0.2.7", "198.51.100.1")))
	for header, want := range map[string]int{
		"192.0.2.7":               403,
		"::ffff:192.0.2.7":        403,
		"203.0.113.1":             404,
		"192.0.2.7:443":           403,
		strings.Repeat("1", 9999): 403, // unknown
		"203.0.113.1, 192.0.2.7":  403, // unknown
	} {
		r := httptest.NewRequest(http.MethodGet, "/", nil)
		r.RemoteAddr = "198.51.100.1:1"
		r.Header.Set("X-Client", header)
		w := httptest.NewRecorder()
		engine.ServeHTTP(w, r)
		if w.Code != want {
			t.Errorf("%.20s: %d, want %d", header, w.Code, want)
		}
	}
}

func TestNilArgumentsPanic(t *testing.T) {
	for want, build := range map[string]func(){
		"iplist: Deny: the list is nil":      func() { Deny(nil) },
		"iplist: Allow: the list is nil":     func() { Allow(nil) },
		"iplist: When: the list is nil":      func() { When(nil, teapot) },
		"iplist: Unless: the list is nil":    func() { Unless(nil, teapot) },
		"iplist: When: the handler is nil":   func() { When(new(List), nil) },
		"iplist: Unless: the handler is nil": func() { Unless(new(List), nil) },
	} {
		func() {
			defer func() {
				if got, _ := recover().(string); !strings.HasPrefix(got, want) {
					t.Errorf("panic %q, want %q", got, want)
				}
			}()
			build()
		}()
	}
}
