package verify

import (
	"bytes"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// proxy is in front of Redis, and loses or delays the replies to takes that Redis has executed. toxiproxy cannot do that: it
// does not know which bytes are the reply to what.
type proxy struct {
	addr     string
	upstream atomic.Pointer[string]
	fault    atomic.Pointer[func(reply []byte) action]
	dials    atomic.Int64 // connections that came
	lost     atomic.Int64 // replies that did not arrive

	mu       sync.Mutex // guards the rest
	refusing bool       // new connections are cut at once
	conns    map[net.Conn]bool
}

// action is what happens to a reply: wait, pass so many bytes (-1: all), and cut the connection.
type action struct {
	delay time.Duration
	pass  int
	cut   bool
}

var passOn = action{pass: -1}

func startProxy(t *testing.T, upstream string) *proxy {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &proxy{addr: listener.Addr().String(), conns: map[net.Conn]bool{}}
	p.lead(upstream)
	var serving sync.WaitGroup
	serving.Go(func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			p.dials.Add(1)
			serving.Go(func() { p.serve(conn) })
		}
	})
	t.Cleanup(func() {
		_ = listener.Close()
		p.refuse(true)
		serving.Wait()
	})
	return p
}

// with sets what happens to the replies of takes from now on; nil lets them pass.
func (p *proxy) with(fault func(reply []byte) action) {
	if fault == nil {
		p.fault.Store(nil)
		return
	}
	p.fault.Store(&fault)
}

// lead sets the server that new connections go to.
func (p *proxy) lead(upstream string) { p.upstream.Store(&upstream) }

// refuse makes Redis unreachable, or reachable again.
func (p *proxy) refuse(refuse bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.refusing = refuse
	for conn := range p.conns {
		reset(conn)
	}
}

// admit records a connection, unless none is let in.
func (p *proxy) admit(conn net.Conn) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.refusing {
		p.conns[conn] = true
	}
	return !p.refusing
}

func (p *proxy) forget(conn net.Conn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.conns, conn)
}

func (p *proxy) serve(conn net.Conn) {
	defer reset(conn)
	if !p.admit(conn) {
		return
	}
	defer p.forget(conn)
	server, err := net.Dial("tcp", *p.upstream.Load())
	if err != nil {
		return
	}
	defer server.Close()
	var taking atomic.Bool // whether the next reply is that of a take
	var forwarding sync.WaitGroup
	forwarding.Go(func() {
		defer server.Close()
		forward(server, conn, func(request []byte) action {
			taking.Store(bytes.Contains(request, []byte("eval")))
			return passOn
		})
	})
	forward(conn, server, func(reply []byte) action {
		if fault := p.fault.Load(); fault != nil && taking.Load() {
			a := (*fault)(reply)
			if a.pass >= 0 {
				p.lost.Add(1)
			}
			return a
		}
		return passOn
	})
	reset(conn)
	forwarding.Wait()
}

// forward copies until either side is gone, or decide ends it.
func forward(to, from net.Conn, decide func([]byte) action) {
	room := make([]byte, 64<<10)
	for {
		n, err := from.Read(room)
		if err != nil {
			return
		}
		a := decide(room[:n])
		time.Sleep(a.delay)
		chunk := room[:n]
		if a.pass >= 0 {
			chunk = chunk[:min(n, a.pass)]
		}
		if _, err := io.Copy(to, bytes.NewReader(chunk)); err != nil || a.cut {
			return
		}
	}
}

// reset ends a connection by RST.
func reset(conn net.Conn) {
	if tcp, ok := conn.(*net.TCPConn); ok {
		_ = tcp.SetLinger(0)
	}
	_ = conn.Close()
}
