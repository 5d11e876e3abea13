package iplist

import (
	"net/netip"

	"github.com/gin-gonic/gin"

	"github.com/gin-ratelimit/ratelimit"
)

// ClientAddr is ratelimit.ClientAddr, and the zero Addr for a client whose address is unknown.
func ClientAddr(c *gin.Context) netip.Addr {
	addr, _ := ratelimit.ClientAddr(c)
	return addr
}

// RemoteAddr is the address of the connection's peer, in the form of ratelimit.ClientAddr, as with
// ratelimit.ByRemoteIP. No header is trusted. Behind a proxy it is the proxy's address. On a unix socket
// it is the zero Addr.
func RemoteAddr(c *gin.Context) netip.Addr {
	if peer, err := netip.ParseAddrPort(c.Request.RemoteAddr); err == nil {
		return canonical(peer.Addr())
	}
	addr, _ := netip.ParseAddr(c.Request.RemoteAddr) // Middleware may have set an address without a port.
	return canonical(addr)
}

func canonical(addr netip.Addr) netip.Addr { return addr.WithZone("").Unmap() }

// restricted reports whether a restriction applies to the client of a request: it is on the list, or its address is unknown.
func (l *List) restricted(c *gin.Context) bool {
	addr, ok := ratelimit.ClientAddr(c)
	return !ok || l.Contains(addr)
}
