package hub

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"

	"github.com/tether-edge/tether/common/pki"
	"github.com/tether-edge/tether/common/transport"
	"github.com/tether-edge/tether/common/wire"
)

// Why Open opened no stream.
var (
	ErrAway     = errors.New("the node is not connected to this CloudCore")
	ErrNoTunnel = errors.New("the node's edgecore is of a version without a tunnel")
	ErrStreams  = errors.New("the node has as many streams open as it may")
)

const (
	// tunnelWait bounds the time in which an edge opens the connection that it is asked for.
	tunnelWait = 20 * time.Second
	// While there are streams an edge that was not heard for askAfter is asked for a sign of life, and one that was not heard
	// for goneAfter is gone: who reads logs wants to know.
	askAfter  = 3 * time.Second
	goneAfter = 15 * time.Second
	// tunnelIdle is how long such a connection stands without a stream.
	tunnelIdle = time.Minute
)

// tunnel is what carries a session's streams beside the sync, where the session's own connection cannot. The hub alone
// opens streams, and so it is the hub that closes the connection when there are none.
type tunnel struct {
	mu      sync.Mutex // guards all below
	streams int
	mux     *transport.Mux
	asked   chan struct{} // closed when the connection that was asked for is there, or is given up; nil if none was asked for
	idle    *time.Timer
	over    bool
	watched bool // a goroutine looks after the edge
}

// Holds reports whether the node has a session here.
func (h *Hub) Holds(node string) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.sessions[node] != nil
}

// Open opens a stream to what edge/tunnel serves on a node: its kubelet, without TLS. Errors are ErrAway, ErrNoTunnel,
// ErrStreams, the context's, or the network's.
func (h *Hub) Open(ctx context.Context, node string) (net.Conn, error) {
	h.mu.Lock()
	c := h.sessions[node]
	h.mu.Unlock()
	if c == nil {
		return nil, ErrAway
	}
	c.mu.Lock()
	welcomed, able := c.welcomed, c.tunnels
	c.mu.Unlock()
	switch {
	case !welcomed:
		return nil, ErrAway
	case !able:
		return nil, ErrNoTunnel
	}
	release, first, err := c.tunnel.reserve()
	if err != nil {
		return nil, err
	}
	if first {
		go c.watch()
	}
	carrier, err := c.carrier(ctx)
	if err != nil {
		release()
		return nil, err
	}
	stream, err := carrier.Open(ctx)
	if err != nil {
		release()
		return nil, err
	}
	h.metrics.streams.Inc()
	return &countedStream{Conn: stream, release: release}, nil
}

// countedStream gives its place back when it is closed.
type countedStream struct {
	net.Conn
	release func()
}

func (s *countedStream) Close() error {
	err := s.Conn.Close()
	s.release()
	return err
}

// reserve takes a stream's place; unwatched says that nobody looks after the edge, and that the caller is to.
func (t *tunnel) reserve() (release func(), unwatched bool, err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	switch {
	case t.over:
		return nil, false, ErrAway
	case t.streams >= transport.MaxStreams:
		return nil, false, ErrStreams
	}
	t.streams++
	if t.idle != nil {
		t.idle.Stop()
	}
	unwatched, t.watched = !t.watched, true
	return sync.OnceFunc(t.release), unwatched, nil
}

// unwatch reports whether there are no streams to look after the edge for.
func (t *tunnel) unwatch() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.watched = t.streams > 0
	return !t.watched
}

// watch ends the session of an edge that falls silent, while it has streams.
func (c *conn) watch() {
	tick := time.NewTicker(askAfter)
	defer tick.Stop()
	since, before := time.Now(), c.bytes.Load()
	for {
		select {
		case <-tick.C:
		case <-c.done:
			return
		}
		if c.tunnel.unwatch() {
			return
		}
		c.mu.Lock()
		waiting := c.waiting
		c.mu.Unlock()
		if now := c.bytes.Load(); now != before || waiting {
			since, before = time.Now(), now
		}
		silent := time.Since(since)
		switch {
		case silent >= goneAfter:
			c.end(wire.Reason_REASON_UNSPECIFIED, fmt.Sprintf("nothing was heard for %s while streams were open", silent.Round(time.Second)))
			return
		case silent >= askAfter:
			c.send(&wire.Frame{Body: &wire.Frame_Ping{Ping: &wire.Ping{LeaseAgeMs: -1}}})
		}
	}
}

func (t *tunnel) release() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.streams--
	if t.streams > 0 || t.mux == nil {
		return
	}
	if t.idle == nil {
		t.idle = time.AfterFunc(tunnelIdle, t.closeIdle)
	} else {
		t.idle.Reset(tunnelIdle)
	}
}

func (t *tunnel) closeIdle() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.streams == 0 && t.mux != nil {
		_ = t.mux.Close()
		t.mux = nil
	}
}

// end closes the connection and its streams, with the session.
func (t *tunnel) end() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.endLocked()
}

// endUnused is end, unless there are streams; it reports whether it was.
func (t *tunnel) endUnused() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.streams > 0 {
		return false
	}
	t.endLocked()
	return true
}

func (t *tunnel) endLocked() {
	t.over = true
	if t.idle != nil {
		t.idle.Stop()
	}
	if t.mux != nil {
		_ = t.mux.Close()
		t.mux = nil
	}
}

// carrier returns what carries streams to the edge, and asks for it if need be.
func (c *conn) carrier(ctx context.Context) (transport.Carrier, error) {
	if carrier, ok := transport.CarrierOf(c.stream); ok {
		return carrier, nil
	}
	ctx, cancel := context.WithTimeout(ctx, tunnelWait)
	defer cancel()
	for {
		mux, asked, first := c.tunnel.get()
		if mux != nil {
			return mux, nil
		}
		if first {
			c.send(&wire.Frame{Body: &wire.Frame_OpenTunnel{OpenTunnel: &wire.OpenTunnel{}}})
		}
		select {
		case <-asked:
		case <-c.done:
			return nil, ErrAway
		case <-ctx.Done():
			c.tunnel.forget(asked)
			return nil, fmt.Errorf("wait for the edge to open a tunnel: %w", ctx.Err())
		}
	}
}

// get returns the connection, or what is closed when it is there; first says that it is to be asked for.
func (t *tunnel) get() (mux *transport.Mux, asked chan struct{}, first bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.mux != nil {
		select {
		case <-t.mux.Done():
			t.mux = nil
		default:
			return t.mux, nil, false
		}
	}
	if t.asked == nil {
		t.asked, first = make(chan struct{}), true
	}
	return nil, t.asked, first
}

// forget gives up on a connection that did not come: the next who wants one asks again.
func (t *tunnel) forget(asked chan struct{}) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.asked == asked && asked != nil {
		close(asked) // others who wait ask again
		t.asked = nil
	}
}

func (t *tunnel) wanted() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.asked != nil && !t.over
}

// take makes s the session's connection for streams.
func (t *tunnel) take(s *transport.TunnelConn) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.asked == nil || t.over {
		_ = s.Close()
		return
	}
	mux, err := transport.NewMux(s, true)
	if err != nil {
		_ = s.Close()
		return
	}
	t.mux = mux
	close(t.asked)
	t.asked = nil
	// An edge opens no streams. One that does would have the hub keep what it sends.
	go func() {
		if _, err := mux.Accept(context.Background()); err == nil {
			_ = mux.Close()
		}
	}()
}

// tunnelFor finds who waits for the second connection of a session: that node's session, by its certificate.
func (h *Hub) tunnelFor(peer *x509.Certificate, id string) func(*transport.TunnelConn) {
	node, err := pki.NodeName(peer)
	if err != nil || h.revoked(node, peer) {
		return nil
	}
	h.mu.Lock()
	c := h.sessions[node]
	h.mu.Unlock()
	if c == nil || c.id != id || !c.tunnel.wanted() {
		return nil
	}
	return c.tunnel.take
}
