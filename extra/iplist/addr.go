package iplist

import (
	"net/netip"

	"github.com/gin-gonic/gin"
)

// ClientAddr is the address of the client as c.ClientIP() tells it, or, where that is no address, the
// peer's, as with ratelimit.ByClientIP. Mapped IPv4 addresses are IPv4, zones are dropped. The zero Addr
// means that there is none. Which headers are believed is Gin's matter: see the package documentation.
func ClientAddr(c *gin.Context) netip.Addr {
	if addr, err := netip.ParseAddr(c.ClientIP()); err == nil {
		return canonical(addr)
	}
	return RemoteAddr(c)
}

// RemoteAddr is the address of the peer of the connection, in the form of [ClientAddr], as with
// ratelimit.ByRemoteIP. No header is believed. Behind a proxy it is the proxy's address. On a unix socket
// it is the zero Addr.
func RemoteAddr(c *gin.Context) netip.Addr {
	if peer, err := netip.ParseAddrPort(c.Request.RemoteAddr); err == nil {
		return canonical(peer.Addr())
	}
	addr, _ := netip.ParseAddr(c.Request.RemoteAddr) // Middleware may have set one without a port.
	return canonical(addr)
}

func canonical(addr netip.Addr) netip.Addr { return addr.WithZone("").Unmap() }
