package tunnel

import (
	"context"
	"io"
	"net"
	"strconv"
	"sync"
	"time"

	"github.com/tether-edge/tether/common/transport"
)

const (
	// maxPassed bounds the connections that are passed on to other CloudCores.
	maxPassed = 1024
	// maxPassing bounds those of them of whose callers nothing is known yet. To the holder they all are of one address, this
	// CloudCore's: with half of what that address may have there, they hold up nobody.
	maxPassing = (maxHandshakes - maxHandshakes/4) / 2
	// passTimeout bounds the time to find out who holds a node, and to reach it.
	passTimeout = 5 * time.Second
	// strangerLife is for how long the holder has to do with a stranger, and a moment.
	strangerLife = 2*handshakeTimeout + time.Second
	// passingLife bounds the time from a connection's turn until nothing of this is going on any more.
	passingLife = handshakeTimeout + passTimeout + strangerLife + time.Second
	// holderLife is for how long the holder of a node counts as known.
	holderLife = 2 * time.Second
)

// take takes a connection to a node's port: it is served here, or passed on as it is to the same port of the CloudCore
// that holds the node, which judges the caller. What the Node shows stays true whoever holds it.
func (s *Server) take(c connOf) {
	if s.deps.Holds(c.node) {
		s.merged.offer(c)
		return
	}
	s.passing.offer(c)
}

// passOn passes on what l accepts until that ends, and then waits for what is passed on, which ends with ctx.
func (s *Server) passOn(ctx context.Context, l net.Listener) {
	var all sync.WaitGroup
	defer all.Wait()
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		all.Go(func() { s.pass(ctx, c) })
	}
}

// pass passes one connection on once its caller has spoken: silence costs the holder nothing. Where nobody else holds the
// node, it is served here, where that is said.
func (s *Server) pass(ctx context.Context, c net.Conn) {
	stop := context.AfterFunc(ctx, func() { _ = c.Close() })
	defer stop()
	inner, leave := transport.Place(c)
	of := inner.(connOf) // nothing else is offered
	first := make([]byte, 4<<10)
	_ = c.SetReadDeadline(time.Now().Add(handshakeTimeout))
	n, err := c.Read(first)
	if err != nil || c.SetReadDeadline(time.Time{}) != nil {
		_ = c.Close() // it said nothing
		return
	}
	if s.toHolder(ctx, c, of, first[:n]) {
		return
	}
	leave()
	of.Conn = &begun{of.Conn, first[:n]}
	s.merged.offer(of)
}

// toHolder relays a connection to the holder of the node until it ends, and gives up its place when its caller is no stranger
// any more. It reports false, and has done nothing, if there is no other holder or no room, or the connection has been here before.
func (s *Server) toHolder(ctx context.Context, c net.Conn, of connOf, first []byte) bool {
	who := transport.AddressGroup(c.RemoteAddr().String())
	if !s.passed.Take(who) {
		return false
	}
	defer s.passed.Give(who)
	left, known := s.circles.enter(first)
	if known {
		return false
	}
	defer left()
	holder := s.reach(ctx, of)
	if holder == nil {
		return false
	}
	stop := context.AfterFunc(ctx, func() { _ = holder.Close() })
	defer stop()
	s.m.requests.WithLabelValues("passed").Inc()
	defer c.Close()
	var a answered
	_, leave := transport.Place(c)
	over := a.expire(leave, func() { _ = c.Close() })
	defer over.Stop()
	splice(of.Conn, holder, first, &a, leave)
	return true
}

// begun is a connection of which something was read before.
type begun struct {
	net.Conn
	first []byte
}

func (b *begun) Read(p []byte) (int, error) {
	if len(b.first) == 0 {
		return b.Conn.Read(p)
	}
	n := copy(p, b.first)
	b.first = b.first[n:]
	return n, nil
}

// reach connects to the holder of a node; nil if there is none but this one, or it is the one who asks.
func (s *Server) reach(ctx context.Context, c connOf) net.Conn {
	ctx, cancel := context.WithTimeout(ctx, passTimeout)
	defer cancel()
	host, err := s.holder(ctx, c.node)
	if err != nil {
		s.deps.Log.Warn("cannot learn which CloudCore holds a node", "node", c.node, "error", err)
		return nil
	}
	from, _, _ := net.SplitHostPort(c.RemoteAddr().String())
	if host == "" || host == from {
		return nil
	}
	holder, err := (&net.Dialer{}).DialContext(ctx, "tcp", net.JoinHostPort(host, strconv.Itoa(c.number)))
	if err != nil {
		s.deps.Log.Warn("cannot reach the CloudCore that holds a node", "node", c.node, "holder", host, "error", err)
		return nil
	}
	return holder
}

// holder asks for the holder of a node, at most once in holderLife.
func (s *Server) holder(ctx context.Context, node string) (string, error) {
	s.mu.Lock()
	p := s.port(node)
	host, at := p.holder, p.asked
	s.mu.Unlock()
	if time.Since(at) < holderLife {
		return host, nil
	}
	host, err := s.deps.Holder(ctx, node)
	if err != nil {
		return "", err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	p.holder, p.asked = host, time.Now()
	return host, nil
}

// splice relays both directions, first what the caller said already, until both have ended; the second has a moment after
// the first. It calls known once the holder has answered a request.
func splice(caller, holder net.Conn, first []byte, a *answered, known func()) {
	done := make(chan struct{}, 2)
	one := func(to, from net.Conn, p []byte, settled func([]byte) bool) {
		relay(to, from, p, settled) // the end of either direction is told to the other end
		if t, ok := to.(*net.TCPConn); ok {
			_ = t.CloseWrite()
		}
		_ = to.SetReadDeadline(time.Now().Add(passTimeout))
		done <- struct{}{}
	}
	go one(holder, caller, first, a.caller)
	go one(caller, holder, nil, func(p []byte) bool {
		settled := a.holder(p)
		if settled {
			known()
		}
		return settled
	})
	<-done
	<-done
	_ = caller.Close()
	_ = holder.Close()
}

// relay writes p and what comes after it from the one to the other. settled sees all of it before it is written, until it
// says that it has seen enough: the rest is the kernel's to copy.
func relay(to, from net.Conn, p []byte, settled func([]byte) bool) {
	buffer := make([]byte, 16<<10)
	for {
		enough := settled(p)
		if _, err := to.Write(p); err != nil {
			return
		}
		if enough {
			_, _ = io.Copy(to, from)
			return
		}
		n, err := from.Read(buffer)
		if err != nil {
			return
		}
		p = buffer[:n]
	}
}
