package transport

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"time"

	"github.com/quic-go/quic-go"
)

// quicServer is a Server's side that QUIC needs: all of its streams share one socket.
type quicServer struct {
	// places are of handshakes, apart from those of TCP: a flood of one does not shut out the other.
	places *Places
	mu     sync.Mutex
	// transports, guarded by mu, outlive ServeQUIC until Close.
	transports []*quic.Transport
	conns      sync.WaitGroup
}

// silentHandshake ends a handshake in which nothing came for so long, and any after twice that.
const silentHandshake = 5 * time.Second

// greetedKey is the key of the func that gives a handshake's place back, in a connection's context.
type greetedKey struct{}

// ServeQUIC accepts streams over QUIC from packets until ctx is done. reset, if not nil, makes the peers of an earlier
// process with the same key notice at their next packet that it is gone. Streams that were accepted go on until Close.
func (s *Server) ServeQUIC(ctx context.Context, packets net.PacketConn, reset *[32]byte) error {
	if udp, ok := packets.(*net.UDPConn); ok {
		packets = merge(udp)
	}
	// A reset token is a function of the key and the connection's id: ids must not come twice (RFC 9000, section 10.3.2).
	t := &quic.Transport{Conn: packets, ConnectionIDLength: 12, StatelessResetKey: (*quic.StatelessResetKey)(reset), ConnContext: s.quicContext,
		// From half of the handshakes on, only addresses that answer cost more than a packet.
		VerifySourceAddress: func(net.Addr) bool { return s.quic.places.free() <= s.cfg.MaxHandshakes/2 }}
	l, err := t.Listen(s.quicTLS(), s.quicConfig())
	if err != nil {
		return errors.Join(fmt.Errorf("listen for QUIC at %s: %w", packets.LocalAddr(), err), t.Close(), packets.Close())
	}
	s.quic.mu.Lock()
	s.quic.transports = append(s.quic.transports, t)
	s.quic.mu.Unlock()
	defer turnAway(l)
	for {
		conn, err := l.Accept(ctx)
		if ctx.Err() != nil {
			if conn != nil {
				_ = conn.CloseWithError(codeEnd, "")
			}
			return nil
		}
		if err != nil {
			return fmt.Errorf("accept QUIC at %s: %w", packets.LocalAddr(), err)
		}
		s.quic.conns.Add(1)
		context.AfterFunc(conn.Context(), s.quic.conns.Done)
		go s.acceptQUIC(conn)
	}
}

// turnAway closes a listener and the connections that it had accepted and nobody took.
func turnAway(l *quic.Listener) {
	_ = l.Close()
	for {
		conn, err := l.Accept(context.Background()) // a closed one does not block
		if err != nil {
			return
		}
		_ = conn.CloseWithError(codeEnd, "")
	}
}

// Close ends what ServeQUIC left: the sockets, once the streams over them have said their last words.
func (s *Server) Close() error {
	said := make(chan struct{})
	go func() { s.quic.conns.Wait(); close(said) }()
	select {
	case <-said:
	case <-time.After(2 * lingering):
	}
	s.quic.mu.Lock()
	defer s.quic.mu.Unlock()
	var errs []error
	for _, t := range s.quic.transports {
		errs = append(errs, t.Close(), t.Conn.Close())
	}
	s.quic.transports = nil
	return errors.Join(errs...)
}

func (s *Server) quicConfig() *quic.Config {
	// An edge whose attempt was overtaken just falls silent, where TCP would say so: its place must not be held for long.
	c := quicConfig(min(s.cfg.HandshakeTimeout, silentHandshake))
	c.MaxIncomingStreams = 1
	return c
}

// quicTLS is the server's TLS with the name of our protocol in every configuration that it may choose.
func (s *Server) quicTLS() *tls.Config {
	config := s.cfg.TLS.Clone()
	config.NextProtos = []string{alpn}
	if choose := config.GetConfigForClient; choose != nil {
		config.GetConfigForClient = func(hello *tls.ClientHelloInfo) (*tls.Config, error) {
			chosen, err := choose(hello)
			if chosen != nil {
				chosen = chosen.Clone()
				chosen.NextProtos = []string{alpn}
			}
			return chosen, err
		}
	}
	return config
}

// quicContext takes a handshake's place before TLS costs anything. Unlike TCP's, the kernel keeps no queue of those who
// wait: they are told at once, and try again.
func (s *Server) quicContext(ctx context.Context, peer *quic.ClientInfo) (context.Context, error) {
	who := AddressGroup(peer.RemoteAddr.String())
	if !s.quic.places.Take(who) {
		return nil, errors.New("too many handshakes")
	}
	greeted := sync.OnceFunc(func() { s.quic.places.Give(who) })
	context.AfterFunc(ctx, greeted)
	return context.WithValue(ctx, greetedKey{}, greeted), nil
}

// acceptQUIC waits for the stream, answers its opening and hands it over.
func (s *Server) acceptQUIC(conn *quic.Conn) {
	greeted := conn.Context().Value(greetedKey{}).(func())
	defer greeted()
	stream, err := s.openedQUIC(conn)
	if err != nil {
		s.cfg.Log.Info("QUIC connection ended before its stream was opened", "remote", conn.RemoteAddr(), "error", err)
		return
	}
	s.accept(stream, greeted)
}

func (s *Server) openedQUIC(conn *quic.Conn) (Stream, error) {
	fail := func(code quic.ApplicationErrorCode, err error) (Stream, error) {
		return nil, errors.Join(err, conn.CloseWithError(code, err.Error()))
	}
	until := time.Now().Add(s.cfg.HandshakeTimeout)
	ctx, cancel := context.WithDeadline(conn.Context(), until)
	defer cancel()
	stream, err := conn.AcceptStream(ctx)
	if err != nil {
		return fail(codeGarbage, err)
	}
	if err := stream.SetDeadline(until); err != nil {
		return fail(codeGarbage, err)
	}
	var purpose [1]byte
	if _, err := io.ReadFull(stream, purpose[:]); err != nil {
		return fail(codeGarbage, err)
	}
	if purpose[0] != purposeSync {
		return fail(codeGarbage, fmt.Errorf("got a stream for purpose %#x, expected %#x", purpose[0], purposeSync))
	}
	state := conn.ConnectionState().TLS
	if wait := s.cfg.Admit(peer(&state)); wait > 0 {
		return nil, errors.Join(errors.New("not now"), conn.CloseWithError(codeNotNow, wholeSeconds(wait)))
	}
	if _, err := stream.Write([]byte{accepted}); err != nil {
		return fail(codeGarbage, err)
	}
	if err := stream.SetDeadline(time.Time{}); err != nil {
		return fail(codeGarbage, err)
	}
	qs, err := newQUIC(conn, stream)
	if err != nil {
		return fail(codeGarbage, err)
	}
	return qs, nil
}
