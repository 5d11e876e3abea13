// Package iplist is lists of client addresses for Gin: clients that are refused, clients that alone are let in, clients
// that are not limited.
//
//	office := iplist.MustNew("10.0.0.0/8", "192.0.2.7", "2001:db8::/32")
//	blocked, err := iplist.Read(file)
//
//	router.Use(iplist.Deny(blocked))           // 403 to those on the list
//	router.Use(iplist.Unless(office, limiter)) // those on the list are not limited
//	admin.Use(iplist.Allow(office))            // 403 to all but those on the list
//
// A list can be replaced at run time, with [List.Replace] or [List.ReplaceFrom], while requests use it. A
// request takes no lock and sees the old list or the new one, never a part. A mistake in the new list leaves
// the old one in force. A lookup allocates nothing, and takes from 10 ns among ten prefixes to 50 ns among
// 100,000.
//
// # Entries
//
// An entry is an address ("192.0.2.7", "2001:db8::1") or a prefix ("192.0.2.0/24", "2001:db8::/32"). Order
// and repetition mean nothing. Addresses are compared by their bits and not by their spelling:
// "::ffff:192.0.2.7" is 192.0.2.7, and "::ffff:192.0.2.0/120" is 192.0.2.0/24. "0.0.0.0/0" is all of IPv4,
// "::/0" all of IPv6, and neither is both.
//
// A prefix with bits set behind its length, "192.0.2.7/24", is a mistake, because it may mean one address or 256. So is a
// zone, because addresses are looked up without theirs. All mistakes are reported at once, each with its position and what
// to write instead; of more than 100, the first 100.
//
// # Which address
//
// The address is that of ratelimit.ClientAddr, which ratelimit.ByClientIP counts by too. By default Gin trusts
// X-Forwarded-For from every peer, so a client can choose which list it is on. Configure trusted proxies first:
//
//	router.SetTrustedProxies(nil)                     // no proxy is in front, or
//	router.SetTrustedProxies([]string{"10.1.2.0/24"}) // these are
//
// To trust no header at all, look up [RemoteAddr]:
//
//	if !office.Contains(iplist.RemoteAddr(c)) {
//		limiter(c)
//	}
//
// # Unknown clients
//
// A client's address is unknown if a trusted proxy has sent something that is not an address, on a unix socket without
// X-Forwarded-For, and in a test without a RemoteAddr. An unknown client is on no list, and is not the proxy. Every
// restriction applies to it, and no exemption: [Allow] and [Deny] refuse it, and [Unless] and [When] run their handler. To
// let it pass a deny list, write:
//
//	if blocked.ContainsClient(c) {
//		iplist.Forbid(c)
//	}
package iplist

import (
	"io"
	"net/netip"
	"sync/atomic"

	"github.com/gaissmai/bart"
	"github.com/gin-gonic/gin"

	"github.com/gin-ratelimit/ratelimit"
)

// List is a set of addresses and prefixes. It is safe for concurrent use. The zero List is empty. A List
// must not be copied.
type List struct {
	table atomic.Pointer[bart.Lite] // never changed after it is stored; nil: empty
}

// New returns a list of addresses and prefixes. Its error joins all mistakes, by the position of the entry,
// counted from 1.
func New(entries ...string) (*List, error) {
	list := new(List)
	if err := list.Replace(entries...); err != nil {
		return nil, err
	}
	return list, nil
}

// MustNew is [New] for lists that are written in the program. It panics on mistakes.
func MustNew(entries ...string) *List {
	list, err := New(entries...)
	if err != nil {
		panic(err)
	}
	return list
}

// Read returns a list read from r, as [List.ReplaceFrom] reads it.
func Read(r io.Reader) (*List, error) {
	list := new(List)
	if err := list.ReplaceFrom(r); err != nil {
		return nil, err
	}
	return list, nil
}

// Replace replaces all entries of the list; without entries the list is then empty. The error is that of [New], and leaves
// the list as it was.
func (l *List) Replace(entries ...string) error {
	return l.replace(func(b *builder) error {
		for i, entry := range entries {
			b.add("entry", i+1, entry)
		}
		return nil
	})
}

// ReplaceFrom replaces all entries of the list by those in r: an entry a line, with blank lines, and comments from '#' or
// ';' to the end of the line. The error joins all mistakes, by line, or is that of r, and leaves the list as it was.
//
// An empty r is a valid, empty list. A file that is read while it is written may be cut short at the end of a line, which
// cannot be noticed: write another file and rename it.
func (l *List) ReplaceFrom(r io.Reader) error {
	return l.replace(func(b *builder) error { return b.read(r) })
}

func (l *List) replace(fill func(*builder) error) error {
	b := builder{table: new(bart.Lite)}
	if err := fill(&b); err != nil {
		return err
	}
	if err := b.err(); err != nil {
		return err
	}
	l.table.Store(b.table)
	return nil
}

// Contains reports whether addr is on the list, by itself or within a prefix. The zero Addr never is.
func (l *List) Contains(addr netip.Addr) bool {
	table := l.table.Load()
	return table != nil && table.Contains(addr.Unmap())
}

// ContainsClient reports whether the client of a request is on the list, by ratelimit.ClientAddr. A client whose address is
// unknown is on none.
func (l *List) ContainsClient(c *gin.Context) bool {
	addr, ok := ratelimit.ClientAddr(c)
	return ok && l.Contains(addr)
}

// Len is the number of different entries.
func (l *List) Len() int {
	if table := l.table.Load(); table != nil {
		return table.Size()
	}
	return 0
}
