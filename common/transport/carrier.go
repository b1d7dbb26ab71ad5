package transport

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"sync"
	"time"

	"github.com/hashicorp/yamux"
	"github.com/quic-go/quic-go"
	"golang.org/x/sys/unix"
)

// A Carrier carries any number of further streams between the two ends of a link. What is not read of one holds up
// nothing but that one: each has a window of its own, StreamWindow bytes. Its methods are safe for concurrent use.
type Carrier interface {
	// Open opens a stream. The peer may learn of it with the first bytes only that are written.
	Open(ctx context.Context) (net.Conn, error)
	// Accept waits for a stream that the peer opens.
	Accept(ctx context.Context) (net.Conn, error)
}

const (
	// StreamWindow bounds what a stream's peer may send that was not read yet, in bytes.
	StreamWindow = 1 << 20
	// MaxStreams bounds the streams that a carrier carries at one time.
	MaxStreams = 64
)

// errPurpose: a peer opened a stream for something that this version does not know.
var errPurpose = errors.New("unknown purpose of a stream")

// carry returns c once its purpose is said. What is said goes with the first bytes.
func carry(c net.Conn) net.Conn { return &announced{Conn: c} }

// announced is an outgoing stream that says its purpose before its first bytes.
type announced struct {
	net.Conn
	once sync.Once
}

func (a *announced) Write(p []byte) (n int, err error) {
	said := false
	a.once.Do(func() {
		said = true
		if n, err = a.Conn.Write(append([]byte{purposeTunnel}, p...)); n > 0 {
			n--
		}
	})
	if said {
		return n, err
	}
	return a.Conn.Write(p)
}

// Opened reads what an accepted stream is for, and returns an error if this version does not know it.
func Opened(c net.Conn) error {
	var b [1]byte
	_ = c.SetReadDeadline(time.Now().Add(attempt))
	if _, err := io.ReadFull(c, b[:]); err != nil {
		return err
	}
	if b[0] != purposeTunnel {
		return fmt.Errorf("%w: %#x", errPurpose, b[0])
	}
	return c.SetReadDeadline(time.Time{})
}

// CarrierOf returns the carrier that a sync stream is itself, if it is one: over QUIC further streams share its
// connection.
func CarrierOf(s Stream) (Carrier, bool) {
	q, ok := s.(*quicStream)
	return q, ok
}

func (s *quicStream) Open(ctx context.Context) (net.Conn, error) {
	stream, err := s.conn.OpenStreamSync(ctx)
	if err != nil {
		return nil, fmt.Errorf("open a stream: %w", err)
	}
	return carry(&sideStream{Stream: stream, conn: s.conn}), nil
}

func (s *quicStream) Accept(ctx context.Context) (net.Conn, error) {
	stream, err := s.conn.AcceptStream(ctx)
	if err != nil {
		return nil, fmt.Errorf("accept a stream: %w", err)
	}
	return &sideStream{Stream: stream, conn: s.conn}, nil
}

// sideStream is a stream beside the sync stream, as a net.Conn.
type sideStream struct {
	*quic.Stream
	conn    *quic.Conn
	writing sync.Mutex
	closing sync.Once
}

func (s *sideStream) Write(p []byte) (int, error) {
	s.writing.Lock()
	defer s.writing.Unlock()
	return s.Stream.Write(p)
}

// Close ends both directions. What was written before arrives.
func (s *sideStream) Close() error {
	var err error
	s.closing.Do(func() {
		s.CancelRead(0)
		_ = s.SetWriteDeadline(time.Now()) // a Write that is under way
		s.writing.Lock()
		defer s.writing.Unlock()
		err = s.Stream.Close()
	})
	return err
}

func (s *sideStream) LocalAddr() net.Addr  { return s.conn.LocalAddr() }
func (s *sideStream) RemoteAddr() net.Addr { return s.conn.RemoteAddr() }

const (
	// muxPing is how often something is sent at least.
	muxPing = 20 * time.Second
	// muxPatience is how long a frame may wait for those before it, and an answer for all of them.
	muxPatience = 15 * time.Minute
	// unacknowledged is for how long a peer's kernel may be silent to what was sent, or say that it has no room.
	unacknowledged = 2 * time.Minute
)

// giveUpUnacknowledged has the kernel end a connection whose peer acknowledges nothing any more or takes nothing, where it is one of TCP.
func giveUpUnacknowledged(c *TunnelConn) error {
	t, ok := c.wide.Conn.(*net.TCPConn)
	if !ok {
		return nil
	}
	raw, err := t.SyscallConn()
	if err != nil {
		return err
	}
	var refused error
	err = raw.Control(func(fd uintptr) {
		refused = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int(unacknowledged/time.Millisecond))
	})
	return errors.Join(err, refused)
}

// NewMux carries streams over c, which it owns; opener says which of the two ends this is. Close ends it and all of its
// streams.
func NewMux(c *TunnelConn, opener bool) (*Mux, error) {
	if err := giveUpUnacknowledged(c); err != nil {
		return nil, fmt.Errorf("carry streams: bound the silence of the peer: %w", err)
	}
	return newMux(c, opener, muxConfig(opener))
}

func muxConfig(opener bool) *yamux.Config {
	cfg := yamux.DefaultConfig()
	cfg.MaxStreamWindowSize = StreamWindow
	cfg.AcceptBacklog = MaxStreams
	// The link's own pings go another way. This connection stands only while there are streams, or were a minute ago. A ping waits behind all
	// that streams have under way, for minutes where the link is thin; that it is acknowledged is TCP's to see.
	cfg.EnableKeepAlive, cfg.KeepAliveInterval = true, muxPing
	cfg.ConnectionWriteTimeout, cfg.StreamOpenTimeout = muxPatience, muxPatience
	// Who opened a stream and closes it reads no more of it. What the other end has written before it closes is there to be read for as long
	// as the opener likes.
	cfg.StreamCloseTimeout = 0
	if opener {
		cfg.StreamCloseTimeout = 30 * time.Second
	}
	cfg.LogOutput, cfg.Logger = nil, log.New(io.Discard, "", 0) // what it says comes as errors, too
	return cfg
}

func newMux(c *TunnelConn, opener bool, cfg *yamux.Config) (*Mux, error) {
	start := yamux.Server
	if opener {
		start = yamux.Client
	}
	session, err := start(&framed{TunnelConn: c}, cfg)
	if err != nil {
		return nil, fmt.Errorf("carry streams: %w", err)
	}
	return &Mux{session}, nil
}

// framed sends the header of a frame of yamux and its body, which come in two Writes, at once. yamux writes from one
// goroutine.
type framed struct {
	*TunnelConn
	body bool // it comes next
}

// A header of yamux has 12 bytes: version, type, flags, stream and, last, the body's length where the type is data.
const (
	yamuxHeader = 12
	yamuxData   = 0
)

func (f *framed) Write(p []byte) (int, error) {
	if !f.body {
		if f.body = len(p) == yamuxHeader && p[1] == yamuxData && binary.BigEndian.Uint32(p[8:]) > 0; f.body {
			f.wide.Hold()
		}
		return f.ReadWriteCloser.Write(p)
	}
	f.body = false
	n, err := f.ReadWriteCloser.Write(p)
	if err == nil {
		err = f.wide.Flush()
	}
	return n, err
}

// Mux is a Carrier over a TunnelConn.
type Mux struct{ session *yamux.Session }

// Open opens a stream. It waits while the peer has accepted none of the last MaxStreams, until ctx is done.
func (m *Mux) Open(ctx context.Context) (net.Conn, error) {
	type result struct {
		c   net.Conn
		err error
	}
	opened := make(chan result)
	go func() { // yamux knows no context
		c, err := m.session.Open()
		select {
		case opened <- result{c, err}:
		case <-ctx.Done():
			if err == nil {
				_ = c.Close() // it came too late
			}
		}
	}()
	select {
	case r := <-opened:
		if r.err != nil {
			return nil, fmt.Errorf("open a stream: %w", r.err)
		}
		return carry(r.c), nil
	case <-ctx.Done():
		return nil, fmt.Errorf("open a stream: %w", ctx.Err())
	}
}

// Accept waits for a stream that the peer opens.
func (m *Mux) Accept(ctx context.Context) (net.Conn, error) {
	c, err := m.session.AcceptStreamWithContext(ctx)
	if err != nil {
		return nil, fmt.Errorf("accept a stream: %w", err)
	}
	return c, nil
}

// Done is closed once the carrier carries no more.
func (m *Mux) Done() <-chan struct{} { return m.session.CloseChan() }

// Close ends the carrier and all of its streams.
func (m *Mux) Close() error { return m.session.Close() }
