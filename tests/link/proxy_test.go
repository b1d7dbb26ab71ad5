package link

import (
	"errors"
	"math/rand/v2"
	"net"
	"sync"

	"github.com/tether-edge/tether/common/transport"
	"github.com/tether-edge/tether/tests/netem"
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

func (w *world) proxy() proxy {
	if protocol == transport.QUIC {
		return w.udpProxy()
	}
	return w.tcpProxy()
}

// tcpProxy relays TCP to the hub.
type tcpProxy struct{ *netem.Proxy }

func (w *world) tcpProxy() tcpProxy {
	p, err := netem.NewProxy(w.addr)
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(p.Close)
	return tcpProxy{p}
}

func (p tcpProxy) addr() string     { return p.Addr() }
func (p tcpProxy) setSilent(v bool) { p.SetSilent(v) }
func (p tcpProxy) cut()             { p.Cut() }

func (p tcpProxy) setBudget(n int) {
	if n == 0 {
		p.SetBudget(nil)
		return
	}
	p.SetBudget(func() int64 { return rand.Int64N(int64(n)) })
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
	fuses  map[string]*netem.Fuse
}

func (w *world) udpProxy() *udpProxy {
	l, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		w.t.Fatal(err)
	}
	p := &udpProxy{l: l, target: w.addr, flows: map[string]*net.UDPConn{}, fuses: map[string]*netem.Fuse{}}
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
		if to := p.flow(from); to != nil && !p.silent && p.fuses[from.String()].Burn(n) {
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
	var fuse *netem.Fuse
	if p.budget > 0 {
		fuse = netem.NewFuse(rand.Int64N(int64(p.budget)))
	}
	p.flows[client.String()], p.fuses[client.String()] = f, fuse
	p.wg.Go(func() { p.back(f, client, fuse) })
	return f
}

func (p *udpProxy) back(from *net.UDPConn, client *net.UDPAddr, fuse *netem.Fuse) {
	buf := make([]byte, 2048)
	for {
		n, err := from.Read(buf)
		if errors.Is(err, net.ErrClosed) {
			return
		}
		p.mu.Lock()
		silent := p.silent
		p.mu.Unlock()
		if err == nil && !silent && fuse.Burn(n) {
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
