package transport

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"log/slog"
	"net"
	"path/filepath"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/tether-edge/tether/common/pki"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const day = 24 * time.Hour

func quiet() *slog.Logger { return slog.New(slog.DiscardHandler) }

// authority is an edge CA with what it issued.
type authority struct {
	t     testing.TB
	ca    *pki.CA
	trust *pki.Authorities
}

func newAuthority(t testing.TB) *authority {
	t.Helper()
	ca, err := pki.NewCA("edge CA", 3650*day, time.Now)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	if err := ca.Save(dir); err != nil {
		t.Fatal(err)
	}
	trust, err := pki.NewAuthorities(filepath.Join(dir, pki.CACertFile), quiet())
	if err != nil {
		t.Fatal(err)
	}
	return &authority{t, ca, trust}
}

func (a *authority) identity(p pki.Pair, err error) *pki.Identity {
	a.t.Helper()
	if err != nil {
		a.t.Fatal(err)
	}
	dir := a.t.TempDir()
	cert, key := filepath.Join(dir, "tls.crt"), filepath.Join(dir, "tls.key")
	if err := p.Save(cert, key); err != nil {
		a.t.Fatal(err)
	}
	id, err := pki.NewIdentity(cert, key, quiet())
	if err != nil {
		a.t.Fatal(err)
	}
	return id
}

func (a *authority) node(name string, validity time.Duration) *pki.Identity {
	return a.identity(a.ca.IssueNode(name, validity))
}

// server is a Server on loopback, at a TCP and a UDP port, whose accepted streams come out of a channel.
type server struct {
	*authority
	addr, udp string
	protocol  Protocol       // of pair and dial; WebSocket if empty
	packets   net.PacketConn // at udp
	streams   chan Stream
}

// overBoth runs a test once for each protocol.
func overBoth(t *testing.T, change func(*ServerConfig), test func(t *testing.T, s *server)) {
	for _, p := range []Protocol{WebSocket, QUIC} {
		t.Run(string(p), func(t *testing.T) {
			s := serve(t, change)
			s.protocol = p
			test(t, s)
		})
	}
}

// serve runs a Server until the test ends. change edits its configuration.
func serve(t testing.TB, change func(*ServerConfig)) *server {
	t.Helper()
	return serveAt(t, "127.0.0.1:0", change)
}

func serveAt(t testing.TB, address string, change func(*ServerConfig)) *server {
	t.Helper()
	a := newAuthority(t)
	cfg := ServerConfig{TLS: pki.ServerTLS(a.identity(a.ca.IssueServer([]string{"hub.example", "127.0.0.1"}, 30*day)), a.trust, time.Now),
		MaxHandshakes: 16, HandshakeTimeout: 10 * time.Second, Admit: func(*x509.Certificate) time.Duration { return 0 }, Log: quiet()}
	if change != nil {
		change(&cfg)
	}
	l, err := net.Listen("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	packets, err := net.ListenPacket("udp", address)
	if err != nil {
		t.Fatal(err)
	}
	s := &server{authority: a, addr: l.Addr().String(), udp: packets.LocalAddr().String(), packets: packets, streams: make(chan Stream, 64)}
	ctx, cancel := context.WithCancel(context.Background())
	srv := NewServer(cfg, func(st Stream, greeted func()) { greeted(); s.streams <- st })
	done := make(chan error, 2)
	go func() { done <- srv.Serve(ctx, l) }()
	go func() { done <- srv.ServeQUIC(ctx, packets, &[32]byte{1}) }()
	t.Cleanup(func() {
		cancel()
		for range 2 {
			if err := <-done; err != nil {
				t.Errorf("Serve: %v", err)
			}
		}
		defer func() {
			if err := srv.Close(); err != nil {
				t.Errorf("Close: %v", err)
			}
		}()
		for {
			select {
			case st := <-s.streams:
				_ = st.Close()
				continue
			default:
			}
			return
		}
	})
	return s
}

// tls is a client's configuration for the server's address.
func (s *server) tls(id *pki.Identity) *tls.Config {
	return pki.ClientTLS(id, s.trust, "127.0.0.1", time.Now)
}

func (s *server) dial(t testing.TB, config *tls.Config) (Stream, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	var st Stream
	var err error
	if s.protocol == QUIC {
		st, err = DialQUIC(ctx, s.udp, config)
	} else {
		st, err = Dial(ctx, s.addr, config)
	}
	if err == nil {
		t.Cleanup(func() { _ = st.Close() })
	}
	return st, err
}

// pair returns both ends of one stream.
func (s *server) pair(t testing.TB, node string) (client, hub Stream) {
	t.Helper()
	client, err := s.dial(t, s.tls(s.node(node, 30*day)))
	if err != nil {
		t.Fatal(err)
	}
	select {
	case hub = <-s.streams:
		t.Cleanup(func() { _ = hub.Close() })
		return client, hub
	case <-time.After(10 * time.Second):
		t.Fatal("the server did not hand over the stream that was dialled")
		return nil, nil
	}
}
