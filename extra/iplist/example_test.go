package iplist_test

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"

	"github.com/gin-gonic/gin"

	"github.com/gin-ratelimit/ratelimit"
	"github.com/gin-ratelimit/ratelimit/extra/iplist"
)

// The office is not limited, and a blocked network is not served at all.
func Example() {
	office := iplist.MustNew("10.0.0.0/8", "2001:db8::/32")
	blocked := iplist.MustNew("198.51.100.0/24")

	router := gin.New()
	router.SetTrustedProxies(nil) // No proxy is in front, so no header is trusted for the client's address.
	router.Use(iplist.Deny(blocked))
	router.Use(iplist.Unless(office, ratelimit.New(ratelimit.WithRefillRate(ratelimit.PerHour(1)))))
	router.GET("/", func(c *gin.Context) { c.Status(http.StatusOK) })

	for _, peer := range []string{"10.1.2.3", "10.1.2.3", "192.0.2.7", "192.0.2.7", "198.51.100.9"} {
		fmt.Println(peer, get(router, peer))
	}
	// Output:
	// 10.1.2.3 200
	// 10.1.2.3 200
	// 192.0.2.7 200
	// 192.0.2.7 429
	// 198.51.100.9 403
}

// All mistakes are reported at once.
func ExampleNew() {
	_, err := iplist.New("10.0.0.0/8", "192.0.2.7/24", "fe80::1%eth0")
	fmt.Println(err)
	// Output:
	// iplist: entry 2: "192.0.2.7/24": has bits set behind its length: write "192.0.2.7" for the address, or "192.0.2.0/24" for the network
	// iplist: entry 3: "fe80::1%eth0": addresses are looked up without their zone: write "fe80::1"
}

// A list from a file, read again on demand. If the new file has mistakes, the old list stays in force.
func ExampleList_ReplaceFrom() {
	blocked := new(iplist.List)
	reload := func() error {
		file, err := os.Open("blocked.txt")
		if err != nil {
			return err
		}
		defer file.Close()
		return blocked.ReplaceFrom(file)
	}
	if err := reload(); err != nil { // And again at a signal, or from an admin's route.
		fmt.Println("the list stays as it was:", err)
	}

	router := gin.New()
	router.Use(iplist.Deny(blocked))
}

func ExampleRead() {
	list, err := iplist.Read(strings.NewReader(`
# Blocked since the weekend.
198.51.100.0/24
2001:db8::/32   ; with a reason
`))
	fmt.Println(list.Len(), err)
	// Output: 2 <nil>
}

// A response of your own is a handler that aborts.
func ExampleWhen() {
	embargo := iplist.MustNew("198.51.100.0/24")

	router := gin.New()
	router.SetTrustedProxies(nil)
	router.Use(iplist.When(embargo, func(c *gin.Context) {
		c.AbortWithStatus(http.StatusUnavailableForLegalReasons)
	}))
	router.GET("/", func(c *gin.Context) { c.Status(http.StatusOK) })

	fmt.Println(get(router, "198.51.100.9"), get(router, "192.0.2.7"))
	// Output: 451 200
}

// Only a load balancer may connect to this server: the peer's address is looked up, and no header.
func ExampleRemoteAddr() {
	balancers := iplist.MustNew("10.1.2.0/24")

	router := gin.New()
	router.Use(func(c *gin.Context) {
		if !balancers.Contains(iplist.RemoteAddr(c)) {
			iplist.Forbid(c)
		}
	})
	router.GET("/", func(c *gin.Context) { c.Status(http.StatusOK) })

	fmt.Println(get(router, "10.1.2.3"), get(router, "192.0.2.7"))
	// Output: 200 403
}

func get(router http.Handler, peer string) int {
	r := httptest.NewRequest(http.MethodGet, "/", nil)
	r.RemoteAddr = peer + ":1234"
	w := httptest.NewRecorder()
	router.ServeHTTP(w, r)
	return w.Code
}
