package link

import (
	"errors"
	"math/rand/v2"
	"net"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/tether-edge/tether/common/transport"
)

// A proxy stands between an edge and the hub.
type proxy interface {
	addr() string
	// setSilent swallows everything, or relays again. Connections that lived through silence are for the dead.
	setSilent(bool)
	// cut ends every connection. Over UDP it can only swallow what is still sent for it.
	cut()
	// setBudget lets each connection that comes from now on carry at most n bytes, up to then chosen at random; 0 is no bound.
	setBudget(n int)
}

// fuse counts the bytes of a connection that is to be cut.
type fuse struct{ left atomic.Int64 }

// newFuse returns one of up to n bytes, nil for none.
func newFuse(n int) *fuse {
	if n == 0 {
		return nil
	}
	f := &fuse{}
	f.left.Store(rand.Int64N(int64(n)))
	return f
}

// burn reports whether the connection carries n bytes more.
func (f *fuse) burn(n int) bool { return f == nil || f.left.Add(-int64(n)) >= 0 }

func (w *world) proxy() proxy {
	if protocol == transport.QUIC {
		return w.udpProxy()
	}
	return w.tcpProxy()
}

// tcpProxy relays TCP to the hub, until it is told to swallow everything without a word.
type tcpProxy struct {
	l      net.Listener
	target string
	wg     sync.WaitGroup

	mu     sync.Mutex // guards all below
	silent bool
	budget int
	conns  []net.Conn
}

func (w *world) tcpProxy() *tcpProxy {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		w.t.Fatal(err)
	}
	p := &tcpProxy{l: l, target: w.addr}
	p.wg.Go(p.accept)
	w.t.Cleanup(func() { _ = l.Close(); p.cut(); p.wg.Wait() })
	return p
}

func (p *tcpProxy) addr() string { return p.l.Addr().String() }

func (p *tcpProxy) accept() {
	for {
		a, err := p.l.Accept()
		if err != nil {
			return
		}
		b, err := net.Dial("tcp", p.target)
		if err != nil {
			_ = a.Close()
			continue
		}
		p.mu.Lock()
		p.conns = append(p.conns, a, b)
		f := newFuse(p.budget)
		p.mu.Unlock()
		p.wg.Go(func() { p.relay(a, b, f) })
		p.wg.Go(func() { p.relay(b, a, f) })
	}
}

func (p *tcpProxy) relay(from, to net.Conn, f *fuse) {
	buf := make([]byte, 32<<10)
	for {
		n, err := from.Read(buf)
		p.mu.Lock()
		silent := p.silent
		p.mu.Unlock()
		if silent && err != nil {
			return // the other end is not told
		}
		cut := !f.burn(n)
		if !silent && !cut && n > 0 {
			_, _ = to.Write(buf[:n])
		}
		if err != nil || cut {
			_ = from.Close()
			_ = to.Close()
			return
		}
	}
}

func (p *tcpProxy) setSilent(v bool) { p.mu.Lock(); defer p.mu.Unlock(); p.silent = v }
func (p *tcpProxy) setBudget(n int)  { p.mu.Lock(); defer p.mu.Unlock(); p.budget = n }

func (p *tcpProxy) cut() {
	p.mu.Lock()
	conns := slices.Clone(p.conns)
	p.conns = nil
	p.mu.Unlock()
	for _, c := range conns {
		_ = c.Close()
	}
}

// udpProxy relays UDP to the hub: a socket for each of its clients.
type udpProxy struct {
	l      *net.UDPConn
	target string
	wg     sync.WaitGroup

	mu     sync.Mutex // guards all below
	silent bool
	budget int
	flows  map[string]*net.UDPConn // by the client's address; nil for one that was cut
	fuses  map[string]*fuse
}

func (w *world) udpProxy() *udpProxy {
	l, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		w.t.Fatal(err)
	}
	p := &udpProxy{l: l, target: w.addr, flows: map[string]*net.UDPConn{}, fuses: map[string]*fuse{}}
	p.wg.Go(p.run)
	w.t.Cleanup(func() { _ = l.Close(); p.cut(); p.wg.Wait() })
	return p
}

func (p *udpProxy) addr() string { return p.l.LocalAddr().String() }

func (p *udpProxy) run() {
	buf := make([]byte, 2048)
	for {
		n, from, err := p.l.ReadFromUDP(buf)
		if err != nil {
			return
		}
		p.mu.Lock()
		if to := p.flow(from); to != nil && !p.silent && p.fuses[from.String()].burn(n) {
			_, _ = to.Write(buf[:n]) // what is lost is lost
		}
		p.mu.Unlock()
	}
}

// flow returns the socket to the hub of a client, nil for one that was cut. It is called with mu held.
func (p *udpProxy) flow(client *net.UDPAddr) *net.UDPConn {
	f, known := p.flows[client.String()]
	if known {
		return f
	}
	far, err := net.Dial("udp", p.target)
	if err != nil {
		return nil
	}
	f = far.(*net.UDPConn)
	fuse := newFuse(p.budget)
	p.flows[client.String()], p.fuses[client.String()] = f, fuse
	p.wg.Go(func() { p.back(f, client, fuse) })
	return f
}

func (p *udpProxy) back(from *net.UDPConn, client *net.UDPAddr, fuse *fuse) {
	buf := make([]byte, 2048)
	for {
		n, err := from.Read(buf)
		if errors.Is(err, net.ErrClosed) {
			return
		}
		p.mu.Lock()
		silent := p.silent
		p.mu.Unlock()
		if err == nil && !silent && fuse.burn(n) {
			_, _ = p.l.WriteTo(buf[:n], client)
		}
	}
}

func (p *udpProxy) setSilent(v bool) { p.mu.Lock(); defer p.mu.Unlock(); p.silent = v }
func (p *udpProxy) setBudget(n int)  { p.mu.Lock(); defer p.mu.Unlock(); p.budget = n }

func (p *udpProxy) cut() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for client, f := range p.flows {
		if f != nil {
			_ = f.Close()
		}
		p.flows[client] = nil
	}
}
