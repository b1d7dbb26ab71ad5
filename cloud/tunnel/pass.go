package tunnel

import (
	"context"
	"io"
	"net"
	"strconv"
	"time"
)

const (
	// maxPassed bounds the connections that are passed on to other CloudCores.
	maxPassed = 1024
	// passTimeout bounds the time to find out who holds a node, and to reach it.
	passTimeout = 5 * time.Second
	// holderLife is for how long the holder of a node counts as known.
	holderLife = 2 * time.Second
)

// take takes a connection to a node's port: it is served here, or passed on as it is to the same port of the CloudCore
// that holds the node, which judges the caller. What the Node shows stays true whoever holds it.
func (s *Server) take(c net.Conn, node string, number int) {
	if s.deps.Holds(node) {
		s.merged.offer(c, node)
		return
	}
	select {
	case s.passing <- struct{}{}:
		go func() {
			defer func() { <-s.passing }()
			if holder := s.reach(c, node, number); holder != nil {
				s.m.requests.WithLabelValues("passed").Inc()
				splice(c, holder)
				return
			}
			s.merged.offer(c, node) // where it is said that nobody holds it
		}()
	default:
		s.merged.offer(c, node)
	}
}

// reach connects to the holder of a node; nil if there is none but this one, or it is the one who asks.
func (s *Server) reach(c net.Conn, node string, number int) net.Conn {
	ctx, cancel := context.WithTimeout(context.Background(), passTimeout)
	defer cancel()
	host, err := s.holder(ctx, node)
	if err != nil {
		s.deps.Log.Warn("cannot learn which CloudCore holds a node", "node", node, "error", err)
		return nil
	}
	from, _, _ := net.SplitHostPort(c.RemoteAddr().String())
	if host == "" || host == from {
		return nil
	}
	holder, err := (&net.Dialer{}).DialContext(ctx, "tcp", net.JoinHostPort(host, strconv.Itoa(number)))
	if err != nil {
		s.deps.Log.Warn("cannot reach the CloudCore that holds a node", "node", node, "holder", host, "error", err)
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

// splice relays both directions until both have ended; the second has a moment after the first.
func splice(a, b net.Conn) {
	done := make(chan struct{}, 2)
	one := func(to, from net.Conn) {
		_, _ = io.Copy(to, from) // the end of either direction is told to the other end
		if t, ok := to.(*net.TCPConn); ok {
			_ = t.CloseWrite()
		}
		_ = to.SetReadDeadline(time.Now().Add(passTimeout))
		done <- struct{}{}
	}
	go one(a, b)
	go one(b, a)
	<-done
	<-done
	_ = a.Close()
	_ = b.Close()
}
