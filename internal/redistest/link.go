package redistest

import (
	"context"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// Link is a network between a client and a server: a proxy that delivers every byte after a delay.
//
// TCP's own handshake is not delayed, because the kernel answers it; instead the proxy accepts the first bytes of a
// connection one round trip later than the others.
type Link struct {
	// Addr is what clients connect to.
	Addr string

	upstream atomic.Pointer[string]
	oneWay   atomic.Int64 // nanoseconds
	opened   atomic.Int64

	mu    sync.Mutex // guards the rest
	down  bool
	conns map[net.Conn]bool
}

// NewLink returns a link to upstream (a host:port) whose round trip takes rtt, half of it each way. It ends with the
// test.
func NewLink(tb testing.TB, upstream string, rtt time.Duration) *Link {
	tb.Helper()
	l := &Link{conns: map[net.Conn]bool{}}
	l.Lead(upstream)
	l.SetRTT(rtt)
	l.Addr = Listen(tb, l.serve)
	tb.Cleanup(func() { l.SetDown(true) })
	return l
}

// SetRTT changes the round trip of the bytes that come from now on.
func (l *Link) SetRTT(rtt time.Duration) { l.oneWay.Store(int64(rtt / 2)) }

// Lead sets the server that new connections go to.
func (l *Link) Lead(upstream string) { l.upstream.Store(&upstream) }

// Opened returns how many connections have come so far.
func (l *Link) Opened() int { return int(l.opened.Load()) }

// Cut resets every connection; new ones may come.
func (l *Link) Cut() {
	l.mu.Lock()
	defer l.mu.Unlock()
	for conn := range l.conns {
		resetConn(conn)
	}
}

// CutOne resets one connection, of those that are open.
func (l *Link) CutOne() {
	l.mu.Lock()
	defer l.mu.Unlock()
	for conn := range l.conns {
		resetConn(conn)
		return
	}
}

// SetDown resets every connection and new ones at once, or lets them come again.
func (l *Link) SetDown(down bool) {
	l.mu.Lock()
	l.down = down
	l.mu.Unlock()
	if down {
		l.Cut()
	}
}

// resetConn closes a connection with an RST, as a host does that has lost it.
func resetConn(conn net.Conn) {
	if tcp, ok := conn.(*net.TCPConn); ok {
		_ = tcp.SetLinger(0)
	}
	_ = conn.Close()
}

func (l *Link) admit(conn net.Conn) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.down {
		l.conns[conn] = true
	}
	return !l.down
}

func (l *Link) forget(conn net.Conn) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.conns, conn)
}

func (l *Link) serve(conn net.Conn) {
	l.opened.Add(1)
	if !l.admit(conn) {
		resetConn(conn)
		return
	}
	defer l.forget(conn)
	server, err := net.Dial("tcp", *l.upstream.Load())
	if err != nil {
		resetConn(conn)
		return
	}
	defer server.Close()
	var sending sync.WaitGroup
	sending.Go(func() {
		l.carry(server, conn, l.roundTrip())
		_ = server.Close()
	})
	l.carry(conn, server, 0)
	resetConn(conn)
	sending.Wait()
}

func (l *Link) roundTrip() time.Duration { return 2 * time.Duration(l.oneWay.Load()) }

// carry copies what comes, each piece with the delay of the link, until either side is gone. The first piece is delayed by
// handshake more.
func (l *Link) carry(to io.Writer, from io.Reader, handshake time.Duration) {
	type piece struct {
		due  time.Time
		data []byte
	}
	pieces := make(chan piece, 4096)
	var delivering sync.WaitGroup
	delivering.Go(func() {
		failed := false
		for p := range pieces {
			time.Sleep(time.Until(p.due))
			if !failed {
				_, err := to.Write(p.data)
				failed = err != nil
			}
		}
	})
	defer delivering.Wait()
	defer close(pieces)
	buf := make([]byte, 64<<10)
	due := time.Now().Add(handshake)
	for {
		n, err := from.Read(buf)
		if n > 0 {
			arrives := time.Now().Add(time.Duration(l.oneWay.Load()))
			if first := due.Add(time.Duration(l.oneWay.Load())); first.After(arrives) {
				arrives = first // Later pieces do not overtake the first.
			}
			pieces <- piece{arrives, append([]byte(nil), buf[:n]...)}
		}
		if err != nil {
			return
		}
	}
}

// Links are links to several servers. Clients still use the servers' own addresses.
type Links struct {
	tb  testing.TB
	rtt time.Duration

	mu sync.Mutex
	to map[string]*Link
}

// NewLinks returns links of the same round trip to whatever is dialed. They end with the test.
func NewLinks(tb testing.TB, rtt time.Duration) *Links {
	tb.Helper()
	return &Links{tb: tb, rtt: rtt, to: map[string]*Link{}}
}

// To returns the link to a server.
func (l *Links) To(addr string) *Link {
	l.tb.Helper()
	l.mu.Lock()
	defer l.mu.Unlock()
	link := l.to[addr]
	if link == nil {
		link = NewLink(l.tb, addr, l.rtt)
		l.to[addr] = link
	}
	return link
}

// Dial is for the Dialer of a client's options.
func (l *Links) Dial(ctx context.Context, network, addr string) (net.Conn, error) {
	var dialer net.Dialer
	return dialer.DialContext(ctx, network, l.To(addr).Addr)
}

// Opened returns how many connections have come so far, over all links.
func (l *Links) Opened() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	opened := 0
	for _, link := range l.to {
		opened += link.Opened()
	}
	return opened
}

// Cut resets every connection of every link.
func (l *Links) Cut() {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, link := range l.to {
		link.Cut()
	}
}
