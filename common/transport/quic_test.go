package transport

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/quic-go/quic-go"

	"github.com/tether-edge/tether/common/pki"
)

// path is the network between a client and a server: one UDP socket to each side, and the client's side can move.
type path struct {
	t      *testing.T
	near   net.PacketConn
	target *net.UDPAddr

	mu     sync.Mutex
	client net.Addr
	far    *net.UDPConn
	done   sync.WaitGroup
}

func newPath(t *testing.T, target string) *path {
	t.Helper()
	addr, err := net.ResolveUDPAddr("udp", target)
	if err != nil {
		t.Fatal(err)
	}
	near, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &path{t: t, near: near, target: addr}
	p.move()
	p.done.Go(func() {
		b := make([]byte, 2048)
		for {
			n, from, err := near.ReadFrom(b)
			if err != nil {
				return
			}
			p.mu.Lock()
			p.client = from
			_, _ = p.far.Write(b[:n]) // what is lost is lost
			p.mu.Unlock()
		}
	})
	t.Cleanup(func() {
		_ = near.Close()
		p.mu.Lock()
		_ = p.far.Close()
		p.mu.Unlock()
		p.done.Wait()
	})
	return p
}

// move makes the client come from another port from now on, as behind a NAT that forgot it, and forgets the former one.
func (p *path) move() {
	far, err := net.DialUDP("udp", nil, p.target)
	if err != nil {
		p.t.Fatal(err)
	}
	p.mu.Lock()
	if p.far != nil {
		_ = p.far.Close()
	}
	p.far = far
	p.mu.Unlock()
	p.done.Go(func() {
		b := make([]byte, 2048)
		for {
			n, err := far.Read(b)
			if errors.Is(err, net.ErrClosed) {
				return
			}
			p.mu.Lock()
			client := p.client
			p.mu.Unlock()
			if err == nil && client != nil {
				_, _ = p.near.WriteTo(b[:n], client)
			}
		}
	})
}

func (p *path) addr() string { return p.near.LocalAddr().String() }

// quicPair returns both ends of a stream that runs over the path.
func (s *server) quicPair(t *testing.T, addr string) (client, hub Stream) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	client, err := DialQUIC(ctx, addr, s.tls(s.node("edge-1", 30*day)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = client.Close() })
	hub = <-s.streams
	t.Cleanup(func() { _ = hub.Close() })
	return client, hub
}

// exchange sends data both ways.
func exchange(t *testing.T, client, hub Stream) {
	t.Helper()
	data := make([]byte, 100<<10)
	rand.NewChaCha8([32]byte{1}).Read(data)
	for _, way := range [][2]Stream{{client, hub}, {hub, client}} {
		sent := make(chan error, 1)
		go func() { _, err := way[0].Write(data); sent <- err }()
		_ = way[1].SetReadDeadline(time.Now().Add(20 * time.Second))
		got := make([]byte, len(data))
		if _, err := io.ReadFull(way[1], got); err != nil {
			t.Fatal(err)
		}
		if err := <-sent; err != nil || !bytes.Equal(got, data) {
			t.Fatalf("the data came changed, %v", err)
		}
	}
}

func TestLinksGoOverIPv6(t *testing.T) {
	s := serveAt(t, "[::1]:0", nil)
	for _, s.protocol = range []Protocol{WebSocket, QUIC} {
		client, hub := s.pair(t, "edge-1")
		exchange(t, client, hub)
		if !strings.HasPrefix(hub.RemoteAddr(), "[::1]:") || client.Protocol() != s.protocol {
			t.Errorf("the stream is of %s, by %s", hub.RemoteAddr(), client.Protocol())
		}
	}
}

func TestAStreamOutlivesItsClientsAddress(t *testing.T) {
	s := serve(t, nil)
	p := newPath(t, s.udp)
	client, hub := s.quicPair(t, p.addr())
	exchange(t, client, hub)
	before := hub.RemoteAddr()
	for range 2 {
		p.move()
		exchange(t, client, hub)
	}
	if after := hub.RemoteAddr(); after == before {
		t.Errorf("the server still says %s: the path was not moved", after)
	}
}

// A gateway that changes its network has no route for a moment: to QUIC that is loss, as it is to TCP.
func TestNoRouteIsLoss(t *testing.T) {
	of := func(e syscall.Errno) error { return &net.OpError{Op: "write", Err: os.NewSyscallError("sendmsg", e)} }
	for _, e := range []syscall.Errno{syscall.ENETUNREACH, syscall.EHOSTUNREACH, syscall.ENETDOWN, syscall.EADDRNOTAVAIL, syscall.EPERM} {
		if !lost(of(e)) {
			t.Errorf("%v ends a connection", e)
		}
	}
	// What quic-go has to know: too long a packet, no segmentation offload, a closed socket.
	for _, err := range []error{nil, of(syscall.EMSGSIZE), of(syscall.EIO), net.ErrClosed} {
		if lost(err) {
			t.Errorf("%v is taken for loss", err)
		}
	}
}

func TestWhatWasWrittenBeforeACloseArrives(t *testing.T) {
	overBoth(t, nil, func(t *testing.T, s *server) {
		client, hub := s.pair(t, "edge-1")
		data := make([]byte, 300<<10)
		rand.NewChaCha8([32]byte{2}).Read(data)
		go func() {
			_, _ = hub.Write(data) // what does not arrive is seen below
			_ = hub.Close()
		}()
		if got, err := io.ReadAll(client); err != nil || !bytes.Equal(got, data) {
			t.Errorf("%d of %d bytes arrived, %v", len(got), len(data), err)
		}
		if _, err := hub.Read(make([]byte, 1)); err == nil {
			t.Error("a closed stream can be read")
		}
		if _, err := hub.Write([]byte{1}); err == nil {
			t.Error("a closed stream can be written to")
		}
		_ = client.Close()
		select {
		case <-Gone(hub):
		case <-time.After(10 * time.Second):
			t.Error("the stream's last words take for ever")
		}
	})
}

// A hub that is killed says nothing. One that is started in its place does, to the first packet.
func TestAStreamOfAHubThatIsGoneEndsAtItsNextPacket(t *testing.T) {
	a := newAuthority(t)
	cfg := ServerConfig{TLS: pki.ServerTLS(a.identity(a.ca.IssueServer([]string{"127.0.0.1"}, 30*day)), a.trust, time.Now),
		MaxHandshakes: 16, HandshakeTimeout: 10 * time.Second, Admit: func(*x509.Certificate) time.Duration { return 0 }, Log: quiet()}
	key := &[32]byte{7}
	start := func(at string) (packets net.PacketConn, streams chan Stream, stop func()) {
		streams = make(chan Stream, 1)
		srv := NewServer(cfg, func(s Stream, greeted func()) { greeted(); streams <- s })
		packets, err := net.ListenPacket("udp", at)
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(context.Background())
		done := make(chan struct{})
		go func() { defer close(done); _ = srv.ServeQUIC(ctx, packets, key) }() // of a killed one, the socket fails
		return packets, streams, func() { cancel(); <-done; _ = srv.Close() }
	}
	packets, streams, stop := start("127.0.0.1:0")
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	client, err := DialQUIC(ctx, packets.LocalAddr().String(), pki.ClientTLS(a.node("edge-1", 30*day), a.trust, "127.0.0.1", time.Now))
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	hub := <-streams
	_ = packets.Close() // nothing that the hub says arrives any more
	_ = hub.Close()
	stop()
	_, _, stop = start(packets.LocalAddr().String())
	defer stop()
	if _, err := client.Write([]byte("are you there?")); err != nil {
		t.Fatal(err)
	}
	_ = client.SetReadDeadline(time.Now().Add(10 * time.Second))
	var reset *quic.StatelessResetError
	if _, err := client.Read(make([]byte, 1)); !errors.As(err, &reset) {
		t.Errorf("got %v, want a stateless reset", err)
	}
}

// rawQUIC is a client with a good certificate and bad manners.
func (s *server) rawQUIC(t *testing.T) *quic.Conn {
	t.Helper()
	config := s.tls(s.node("edge-1", 30*day))
	config.NextProtos = []string{alpn}
	conn, err := quic.DialAddr(t.Context(), s.udp, config, &quic.Config{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.CloseWithError(0, "") })
	return conn
}

func TestBadMannersOverQUICEndTheConnection(t *testing.T) {
	s := serve(t, func(c *ServerConfig) { c.MaxHandshakes, c.HandshakeTimeout = 2, time.Second })
	// Silence: no stream, or one without a word. Both places are given back.
	silent := []*quic.Conn{s.rawQUIC(t), s.rawQUIC(t)}
	if _, err := silent[1].OpenStreamSync(t.Context()); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
	if st, err := DialQUIC(ctx, s.udp, s.tls(s.node("edge-2", 30*day))); err == nil || errors.Is(err, ErrRefused) {
		t.Errorf("a third handshake beside two: got %v, %v, want an error that is no refusal", st, err)
	}
	cancel()
	for _, c := range silent {
		select {
		case <-c.Context().Done():
		case <-time.After(10 * time.Second):
			t.Error("a silent connection is not ended")
		}
	}
	// A purpose that nobody knows.
	conn := s.rawQUIC(t)
	stream, err := conn.OpenStreamSync(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := stream.Write([]byte{9}); err != nil {
		t.Fatal(err)
	}
	var app *quic.ApplicationError
	if _, err := io.ReadAll(stream); !errors.As(err, &app) || !strings.Contains(app.ErrorMessage, "purpose 0x9") {
		t.Errorf("an unknown purpose: got %v", err)
	}
	s.protocol = QUIC
	client, hub := s.pair(t, "edge-1")
	exchange(t, client, hub)
	// One stream is all that there is.
	conn = client.(*quicStream).conn
	if _, err := conn.OpenStream(); err == nil {
		t.Error("a second stream could be opened")
	}
	// Another protocol over QUIC is not served.
	config := s.tls(s.node("edge-1", 30*day))
	config.NextProtos = []string{"h3"}
	if _, err := quic.DialAddr(t.Context(), s.udp, config, &quic.Config{}); err == nil {
		t.Error("a client of another protocol got in")
	}
}

// Nobody listens, or somebody who says nothing: that is the network's fault and no refusal.
func TestUDPThatIsDroppedIsNotARefusal(t *testing.T) {
	s := serve(t, nil)
	mute, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer mute.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	if _, err := DialQUIC(ctx, mute.LocalAddr().String(), s.tls(s.node("edge-1", day))); err == nil || errors.Is(err, ErrRefused) {
		t.Errorf("got %v, want an error that is not ErrRefused", err)
	}
	for _, bad := range []string{"nowhere", "127.0.0.1:x"} {
		if _, err := DialQUIC(t.Context(), bad, s.tls(s.node("edge-1", day))); err == nil || errors.Is(err, ErrRefused) {
			t.Errorf("%s: got %v", bad, err)
		}
	}
}

// Garbage on the port costs nothing, and those who speak QUIC are served beside it.
func TestGarbagePacketsAreIgnored(t *testing.T) {
	s := serve(t, nil)
	c, err := net.Dial("udp", s.udp)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	rnd := rand.NewChaCha8([32]byte{3})
	for i := range 500 {
		b := make([]byte, 1+i*3)
		rnd.Read(b)
		if i%2 == 0 {
			b[0] |= 0xc0 // a long header
		}
		if _, err := c.Write(b); err != nil {
			t.Fatal(err)
		}
	}
	s.protocol = QUIC
	client, hub := s.pair(t, "edge-1")
	exchange(t, client, hub)
}

// What was sent before the hub knew that the certificate is still good could be sent again by anybody.
func TestOverQUICNothingIsResumedAndNothingSentEarly(t *testing.T) {
	s := serve(t, nil)
	config := s.tls(s.node("edge-1", 30*day))
	config.NextProtos, config.ClientSessionCache = []string{alpn}, tls.NewLRUClientSessionCache(4)
	for range 2 {
		conn, err := quic.DialAddrEarly(t.Context(), s.udp, config, &quic.Config{})
		if err != nil {
			t.Fatal(err)
		}
		stream, err := openSync(t.Context(), conn)
		if err != nil {
			t.Fatal(err)
		}
		if state := conn.ConnectionState(); state.Used0RTT || state.TLS.DidResume {
			t.Errorf("0-RTT %t, resumed %t, expected neither", state.Used0RTT, state.TLS.DidResume)
		}
		if uni, err := conn.OpenUniStream(); err == nil {
			t.Errorf("a stream of one direction could be opened: %d", uni.StreamID())
		}
		if err := conn.SendDatagram([]byte("x")); err == nil {
			t.Error("a datagram could be sent")
		}
		_, _ = (<-s.streams).Close(), stream.Close()
	}
}

// A hub that keeps an edge waiting holds what its window says, whatever the edge would send.
func TestOverQUICAPeerSendsNoMoreThanItsWindow(t *testing.T) {
	s := serve(t, nil)
	s.protocol = QUIC
	client, hub := s.pair(t, "edge-1")
	sent, stuck := 0, false
	for chunk := make([]byte, 16<<10); !stuck && sent < 16<<20; sent += len(chunk) {
		_ = client.SetWriteDeadline(time.Now().Add(500 * time.Millisecond))
		_, err := client.Write(chunk)
		stuck = errors.Is(err, os.ErrDeadlineExceeded)
		if err != nil && !stuck {
			t.Fatal(err)
		}
		if sent == 0 { // the window grows with what is read
			_ = hub.SetReadDeadline(time.Now().Add(10 * time.Second))
			if _, err := io.ReadFull(hub, make([]byte, len(chunk))); err != nil {
				t.Fatal(err)
			}
		}
	}
	if most := StreamWindow + 64<<10; sent > most {
		t.Errorf("%d bytes were sent to a hub that reads none, expected at most %d", sent, most)
	}
}
