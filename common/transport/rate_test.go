package transport

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"io"
	"net"
	"syscall"
	"testing"
	"time"

	"github.com/quic-go/quic-go"

	"github.com/tether-edge/tether/common/pki"
)

// BenchmarkCarry moves bytes from an edge to a hub over loopback, both ends in this process, and says what a GiB costs the
// processors: by a stream beside the sync of either protocol, and by the least that TLS over TCP and quic-go as they are can
// do. One op is a MiB: -benchtime 1024x is a GiB.
func BenchmarkCarry(b *testing.B) {
	b.Run("websocket", func(b *testing.B) {
		hub, edge := overTCP(b)
		move(b, edge, hub)
	})
	b.Run("quic", func(b *testing.B) {
		hub, edge := overQUIC(b)
		move(b, edge, hub)
	})
	b.Run("bare TLS", func(b *testing.B) {
		server, client := bareTLS(b)
		move(b, client, server)
	})
	b.Run("bare quic-go", func(b *testing.B) {
		server, client := bareQUIC(b)
		move(b, client, server)
	})
}

// move writes b.N MiB to one end and reads them from the other, as the edge and the hub do.
func move(b *testing.B, from io.Writer, to io.Reader) {
	const piece = 64 << 10
	written := make(chan error, 1)
	before := processorTime(b)
	b.SetBytes(1 << 20)
	b.ResetTimer()
	go func() {
		p := make([]byte, piece)
		for range b.N << 20 / piece {
			if _, err := from.Write(p); err != nil {
				written <- err
				return
			}
		}
		written <- nil
	}()
	p := make([]byte, piece)
	for left := b.N << 20; left > 0; {
		n, err := to.Read(p[:min(left, piece)])
		if err != nil {
			b.Fatal(err)
		}
		left -= n
	}
	b.StopTimer()
	if err := <-written; err != nil {
		b.Fatal(err)
	}
	b.ReportMetric((processorTime(b)-before).Seconds()*1024/float64(b.N), "cpu-s/GiB")
}

// processorTime is what this process has used of the processors.
func processorTime(b *testing.B) time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// overTCP is a stream beside the sync of a link over WebSocket: both ends of it.
func overTCP(b *testing.B) (hub, edge net.Conn) {
	b.Helper()
	taken := make(chan *TunnelConn, 1)
	s := serve(b, func(c *ServerConfig) {
		c.Tunnel = func(*x509.Certificate, string) func(*TunnelConn) { return func(c *TunnelConn) { taken <- c } }
	})
	dialled, err := DialTunnel(b.Context(), nil, s.addr, "session", s.tls(s.node("edge-1", 30*day)))
	if err != nil {
		b.Fatal(err)
	}
	mux := func(c *TunnelConn, opener bool) *Mux {
		m, err := NewMux(c, opener)
		if err != nil {
			b.Fatal(err)
		}
		b.Cleanup(func() { _ = m.Close() })
		return m
	}
	return opened(b, mux(<-taken, true), mux(dialled, false))
}

// overQUIC is a stream beside the sync of a link over QUIC: both ends of it.
func overQUIC(b *testing.B) (hub, edge net.Conn) {
	b.Helper()
	s := serve(b, nil)
	s.protocol = QUIC
	client, server := s.pair(b, "edge-1")
	opener, _ := CarrierOf(server)
	accepter, _ := CarrierOf(client)
	return opened(b, opener, accepter)
}

func opened(b *testing.B, opener, accepter Carrier) (hub, edge net.Conn) {
	b.Helper()
	ctx, cancel := context.WithTimeout(b.Context(), 20*time.Second)
	defer cancel()
	hub, err := opener.Open(ctx)
	if err != nil {
		b.Fatal(err)
	}
	if _, err := hub.Write([]byte("request")); err != nil {
		b.Fatal(err)
	}
	if edge, err = accepter.Accept(ctx); err != nil {
		b.Fatal(err)
	}
	if err := Opened(edge); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _, _ = hub.Close(), edge.Close() })
	return hub, edge
}

func bareTLS(b *testing.B) (server, client net.Conn) {
	b.Helper()
	a := newAuthority(b)
	raw, accepted := tcpPair(b)
	server = tls.Server(accepted, bareConfig(b, a))
	client = tls.Client(raw, &tls.Config{InsecureSkipVerify: true})
	shaken := make(chan error, 1)
	go func() { shaken <- client.(*tls.Conn).Handshake() }()
	if err := server.(*tls.Conn).Handshake(); err != nil {
		b.Fatal(err)
	}
	if err := <-shaken; err != nil {
		b.Fatal(err)
	}
	return server, client
}

func bareConfig(b *testing.B, a *authority) *tls.Config {
	pair, err := a.ca.IssueServer([]string{pki.ServerName}, time.Hour)
	if err != nil {
		b.Fatal(err)
	}
	certificate, err := tls.X509KeyPair(pair.Cert, pair.Key)
	if err != nil {
		b.Fatal(err)
	}
	return &tls.Config{Certificates: []tls.Certificate{certificate}, NextProtos: []string{alpn}}
}

func bareQUIC(b *testing.B) (server, client *quic.Stream) {
	b.Helper()
	l, err := quic.ListenAddr("127.0.0.1:0", bareConfig(b, newAuthority(b)), nil)
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = l.Close() })
	near, err := quic.DialAddr(b.Context(), l.Addr().String(), &tls.Config{InsecureSkipVerify: true, NextProtos: []string{alpn}}, nil)
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = near.CloseWithError(0, "") })
	far, err := l.Accept(b.Context())
	if err != nil {
		b.Fatal(err)
	}
	if client, err = near.OpenStreamSync(b.Context()); err != nil {
		b.Fatal(err)
	}
	if _, err := client.Write([]byte{0}); err != nil {
		b.Fatal(err)
	}
	if server, err = far.AcceptStream(b.Context()); err != nil {
		b.Fatal(err)
	}
	if _, err := io.ReadFull(server, make([]byte, 1)); err != nil {
		b.Fatal(err)
	}
	return server, client
}
