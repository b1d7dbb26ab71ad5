package netem

import (
	"fmt"
	"net"
	"slices"
	"sync"
	"sync/atomic"
)

// A Fuse counts the bytes of a connection that is to be cut. A nil one never does.
type Fuse struct{ left atomic.Int64 }

// NewFuse returns a Fuse of n bytes.
func NewFuse(n int64) *Fuse {
	f := &Fuse{}
	f.left.Store(n)
	return f
}

// Burn reports whether the connection carries n bytes more.
func (f *Fuse) Burn(n int) bool { return f == nil || f.left.Add(-int64(n)) >= 0 }

// A Proxy stands between a client and a server of TCP in one process, and relays until it is told to swallow or to cut. It needs no
// rights, unlike a Relay.
type Proxy struct {
	l      net.Listener
	target string
	wg     sync.WaitGroup

	mu     sync.Mutex // guards all below
	silent bool
	closed bool
	budget func() int64
	conns  []net.Conn
}

// NewProxy listens on loopback for connections to target, a host:port. Close ends it.
func NewProxy(target string) (*Proxy, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, fmt.Errorf("make a proxy: %w", err)
	}
	p := &Proxy{l: l, target: target}
	p.wg.Go(p.accept)
	return p, nil
}

// Addr is where it listens.
func (p *Proxy) Addr() string { return p.l.Addr().String() }

// SetSilent swallows everything without a word, or relays again. Connections that lived through silence are for the dead.
func (p *Proxy) SetSilent(v bool) { p.mu.Lock(); defer p.mu.Unlock(); p.silent = v }

// SetBudget lets each connection that comes from now on carry as many bytes as draw says; nil is no bound.
func (p *Proxy) SetBudget(draw func() int64) { p.mu.Lock(); defer p.mu.Unlock(); p.budget = draw }

// Cut ends every connection.
func (p *Proxy) Cut() {
	p.mu.Lock()
	conns := slices.Clone(p.conns)
	p.conns = nil
	p.mu.Unlock()
	for _, c := range conns {
		_ = c.Close()
	}
}

// Close ends the proxy with its connections.
func (p *Proxy) Close() {
	p.mu.Lock()
	p.closed = true
	p.mu.Unlock()
	_ = p.l.Close()
	p.Cut()
	p.wg.Wait()
}

func (p *Proxy) accept() {
	for {
		a, err := p.l.Accept()
		if err != nil {
			return
		}
		b, err := net.Dial("tcp", p.target)
		p.mu.Lock()
		if p.closed {
			p.mu.Unlock()
			_ = a.Close()
			if err == nil {
				_ = b.Close()
			}
			return
		}
		p.conns = append(p.conns, a)
		if err != nil {
			// It is accepted already: closing it would look like a server that refuses, so it is left to silence.
			p.mu.Unlock()
			continue
		}
		p.conns = append(p.conns, b)
		var f *Fuse
		if p.budget != nil {
			f = NewFuse(p.budget())
		}
		p.mu.Unlock()
		p.wg.Go(func() { p.relay(a, b, f) })
		p.wg.Go(func() { p.relay(b, a, f) })
	}
}

func (p *Proxy) relay(from, to net.Conn, f *Fuse) {
	buf := make([]byte, 32<<10)
	for {
		n, err := from.Read(buf)
		p.mu.Lock()
		silent := p.silent
		p.mu.Unlock()
		if silent && err != nil {
			return // the other end is not told
		}
		cut := !f.Burn(n)
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
