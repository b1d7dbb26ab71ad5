package transport

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/gorilla/websocket"

	"github.com/tether-edge/tether/common/pki"
)

func TestBytesArriveBothWaysWholeAndInOrder(t *testing.T) {
	overBoth(t, nil, func(t *testing.T, s *server) {
		client, hub := s.pair(t, "edge-1")
		if name, err := pki.NodeName(hub.Peer()); err != nil || name != "edge-1" {
			t.Errorf("the server sees peer %q (%v), want edge-1", name, err)
		}
		if cn := client.Peer().Subject.CommonName; cn != "hub.example" {
			t.Errorf("the client sees peer %q, want hub.example", cn)
		}
		for _, size := range []int{1, 125, 126, 1 << 10, 64 << 10, 65 << 10, 4<<20 + 4} {
			data := make([]byte, size)
			rand.NewChaCha8([32]byte{byte(size)}).Read(data)
			for _, way := range []struct {
				name     string
				from, to Stream
			}{{"up", client, hub}, {"down", hub, client}} {
				sent := make(chan error, 1)
				go func() { _, err := way.from.Write(data); sent <- err }()
				got := make([]byte, size)
				if _, err := io.ReadFull(way.to, got); err != nil {
					t.Fatalf("%d bytes %s: %v", size, way.name, err)
				}
				if err := <-sent; err != nil {
					t.Fatal(err)
				}
				if !bytes.Equal(got, data) {
					t.Fatalf("%d bytes %s came back changed", size, way.name)
				}
			}
		}
	})
}

func TestAnOrderlyCloseIsEOF(t *testing.T) {
	overBoth(t, nil, func(t *testing.T, s *server) {
		client, hub := s.pair(t, "edge-1")
		if _, err := client.Write([]byte("last words")); err != nil {
			t.Fatal(err)
		}
		if err := client.Close(); err != nil {
			t.Fatal(err)
		}
		_ = client.Close() // more than once is fine
		if got, err := io.ReadAll(hub); err != nil || string(got) != "last words" {
			t.Errorf("got %q, %v, want the last words and a plain end", got, err)
		}
		if _, err := client.Write([]byte("x")); err == nil {
			t.Error("a closed stream could be written to")
		}

		// A connection that breaks is not an orderly end.
		client, hub = s.pair(t, "edge-2")
		snap(client)
		if _, err := hub.Read(make([]byte, 1)); err == nil || errors.Is(err, io.EOF) {
			t.Errorf("after a break: got %v, want an error other than io.EOF", err)
		}
	})
}

// snap breaks a connection without a word to the peer's stream.
func snap(s Stream) {
	switch s := s.(type) {
	case *webSocket:
		_ = s.ws.NetConn().(*tls.Conn).NetConn().Close()
	case *quicStream:
		_ = s.conn.CloseWithError(codeGarbage, "snap")
	}
}

func TestEachRefusalSaysWhyAndIsErrRefused(t *testing.T) {
	overBoth(t, nil, func(t *testing.T, s *server) {
		other := newAuthority(t)
		good := s.node("edge-1", 30*day)
		late := func() time.Time { return time.Now().Add(60 * day) }
		bare := s.tls(good)
		bare.GetClientCertificate = nil
		old := s.tls(good)
		old.MinVersion, old.MaxVersion = tls.VersionTLS12, tls.VersionTLS12
		for _, c := range []struct {
			name   string
			config *tls.Config
			clock  pki.Clock
			want   error
			says   string
		}{
			{"no client certificate", bare, time.Now, pki.ErrRefused, "expected a client certificate"},
			{"client of another CA", pki.ClientTLS(other.node("edge-1", 30*day), s.trust, "127.0.0.1", time.Now), time.Now, pki.ErrUntrusted, "the peer's CA file"},
			{"client expired", s.tls(s.node("edge-1", -time.Hour)), time.Now, pki.ErrExpired, "by the peer's clock"},
			{"server of another CA", pki.ClientTLS(good, other.trust, "127.0.0.1", time.Now), time.Now, pki.ErrUntrusted, "not in the CA file"},
			{"server expired by the edge's clock", pki.ClientTLS(good, s.trust, "127.0.0.1", late), late, pki.ErrExpired, "set the clock"},
			{"another server name", pki.ClientTLS(good, s.trust, "elsewhere.example", time.Now), time.Now, pki.ErrWrongName, "hub.example, 127.0.0.1"},
			{"TLS 1.2", old, time.Now, nil, "version"},
		} {
			t.Run(c.name, func(t *testing.T) {
				_, err := s.dial(t, c.config)
				if !errors.Is(err, ErrRefused) {
					t.Fatalf("got %v, want ErrRefused", err)
				}
				told := pki.Explain(err, c.clock)
				if (c.want != nil && !errors.Is(told, c.want)) || !strings.Contains(told.Error(), c.says) {
					t.Errorf("got %v, want it to match %v and to say %q", told, c.want, c.says)
				}
			})
		}
		select {
		case <-s.streams:
			t.Error("a refused connection was handed over")
		default:
		}
	})
}

func TestAnUnreachableServerIsNotARefusal(t *testing.T) {
	s := serve(t, nil)
	config := s.tls(s.node("edge-1", 30*day))
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	closed := l.Addr().String()
	_ = l.Close()
	if _, err := Dial(t.Context(), closed, config); err == nil || errors.Is(err, ErrRefused) {
		t.Errorf("nobody listens: got %v, want an error that is not ErrRefused", err)
	}

	// It accepts and then says nothing: the time ends, which is not a refusal either.
	mute, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer mute.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	if _, err := Dial(ctx, mute.Addr().String(), config); err == nil || errors.Is(err, ErrRefused) {
		t.Errorf("it says nothing: got %v, want an error that is not ErrRefused", err)
	}

	// It closes inside the handshake: somebody answered, and did not want us.
	go func() {
		for {
			c, err := mute.Accept()
			if err != nil {
				return
			}
			_ = c.Close()
		}
	}()
	if _, err := Dial(t.Context(), mute.Addr().String(), config); !errors.Is(err, ErrRefused) {
		t.Errorf("closed inside the handshake: got %v, want ErrRefused", err)
	}
}

func TestAFullServerSaysWhenToComeBack(t *testing.T) {
	overBoth(t, func(c *ServerConfig) { c.Admit = func(*x509.Certificate) time.Duration { return 7 * time.Second } }, func(t *testing.T, s *server) {
		_, err := s.dial(t, s.tls(s.node("edge-1", 30*day)))
		var refused *RefusedError
		if !errors.As(err, &refused) || refused.RetryAfter != 7*time.Second {
			t.Errorf("got %v (%+v), want a refusal with a retry after 7s", err, refused)
		}
		if s.protocol == WebSocket && refused.Status != http.StatusServiceUnavailable {
			t.Errorf("got status %d, want 503", refused.Status)
		}
	})
}

func TestOtherPathsAndOriginsAreRefused(t *testing.T) {
	s := serve(t, nil)
	config := s.tls(s.node("edge-1", 30*day))
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: config}}
	defer client.CloseIdleConnections()
	resp, err := client.Get("https://" + s.addr + "/elsewhere")
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != http.StatusNotFound {
		t.Errorf("another path: got %s, want 404", resp.Status)
	}
	d := websocket.Dialer{TLSClientConfig: config, Subprotocols: []string{subprotocol}}
	_, resp, err = d.Dial("wss://"+s.addr+Path, http.Header{"Origin": {"https://site.example"}})
	if err == nil || resp == nil || resp.StatusCode != http.StatusForbidden {
		t.Errorf("a browser's origin: got %v, want 403", err)
	}
}

// A revoked peer may learn why over the stream that it opens; all else ends without a word.
func TestARevokedPeerGetsItsStreamAndNoOtherAnswer(t *testing.T) {
	s := serve(t, func(c *ServerConfig) {
		c.Revoked = func(peer *x509.Certificate) bool { return peer.Subject.CommonName == "system:node:stolen" }
	})
	ask := func(node, path string) (status int, err error) {
		client := &http.Client{Transport: &http.Transport{TLSClientConfig: s.tls(s.node(node, day))}}
		defer client.CloseIdleConnections()
		resp, err := client.Get("https://" + s.addr + path)
		if err != nil {
			return 0, err
		}
		return resp.StatusCode, resp.Body.Close()
	}
	for _, path := range []string{"/x", TunnelPath} {
		if status, err := ask("stolen", path); !errors.Is(err, io.EOF) {
			t.Errorf("%s: a revoked peer got status %d, %v, expected an end without a word", path, status, err)
		}
		if status, err := ask("honest", path); err != nil || status == 0 {
			t.Errorf("%s: an honest peer got %v, expected an answer", path, err)
		}
	}
	if st, err := s.dial(t, s.tls(s.node("stolen", day))); err != nil || st == nil {
		t.Errorf("the stream on which it is told: %v", err)
	}
}

// Each connection holds a place: who asks again and again must not keep it.
func TestAConnectionGetsOneAnswer(t *testing.T) {
	s := serve(t, nil)
	c, err := tls.Dial("tcp", s.addr, s.tls(s.node("edge-1", day)))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := io.WriteString(c, strings.Repeat("GET /x HTTP/1.1\r\nHost: a\r\n\r\n", 3)); err != nil {
		t.Fatal(err)
	}
	_ = c.SetReadDeadline(time.Now().Add(20 * time.Second))
	b, err := io.ReadAll(c)
	if err != nil && !errors.Is(err, syscall.ECONNRESET) || strings.Count(string(b), "HTTP/1.1 404") != 1 {
		t.Errorf("three requests at once got %d answers, %v, expected one and the end", strings.Count(string(b), "HTTP/1.1 404"), err)
	}
}

func TestAServerOfSomethingElseIsRefused(t *testing.T) {
	s := serve(t, nil)
	l, err := tls.Listen("tcp", "127.0.0.1:0", pki.ServerTLS(s.identity(s.ca.IssueServer([]string{"127.0.0.1"}, day)), s.trust, time.Now))
	if err != nil {
		t.Fatal(err)
	}
	up := websocket.Upgrader{Subprotocols: []string{"chat"}}
	srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if ws, err := up.Upgrade(w, r, nil); err == nil {
			ws.Close()
		}
	})}
	done := make(chan error, 1)
	go func() { done <- srv.Serve(l) }()
	_, err = Dial(t.Context(), l.Addr().String(), s.tls(s.node("edge-1", day)))
	if !errors.Is(err, ErrRefused) || !strings.Contains(err.Error(), "subprotocol") {
		t.Errorf("got %v, want ErrRefused that names the subprotocol", err)
	}
	_ = srv.Close()
	<-done
}

// Whoever races several dials gives up all but one, and waits for them.
func TestADialThatIsGivenUpEndsThoughTheServerIsSilent(t *testing.T) {
	s := newAuthority(t)
	l, err := tls.Listen("tcp", "127.0.0.1:0", pki.ServerTLS(s.identity(s.ca.IssueServer([]string{"127.0.0.1"}, day)), s.trust, time.Now))
	if err != nil {
		t.Fatal(err)
	}
	ctx, giveUp := context.WithCancel(t.Context())
	silent := make(chan struct{})
	srv := &http.Server{Handler: http.HandlerFunc(func(http.ResponseWriter, *http.Request) { giveUp(); <-silent })}
	done := make(chan error, 1)
	go func() { done <- srv.Serve(l) }()
	dialled := make(chan error, 1)
	go func() {
		_, err := Dial(ctx, l.Addr().String(), pki.ClientTLS(s.node("edge-1", day), s.trust, "127.0.0.1", time.Now))
		dialled <- err
	}()
	select {
	case err := <-dialled:
		if err == nil || errors.Is(err, ErrRefused) {
			t.Errorf("the dial that was given up returned %v, want an error that is no refusal", err)
		}
	case <-time.After(30 * time.Second):
		t.Error("a dial that was given up still waits for the server's answer")
	}
	close(silent)
	_ = srv.Close()
	<-done
}

func TestHandshakesAreBoundedBeforeTLSAndAnHonestEdgeGetsIn(t *testing.T) {
	const most = 3
	s := serve(t, func(c *ServerConfig) { c.MaxHandshakes, c.HandshakeTimeout = most, 2*time.Second })
	var held []net.Conn
	for range most {
		c, err := net.Dial("tcp", s.addr)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		held = append(held, c)
	}
	start := time.Now()
	client, err := s.dial(t, s.tls(s.node("edge-1", 30*day)))
	if err != nil {
		t.Fatalf("the honest edge did not get in: %v", err)
	}
	if waited := time.Since(start); waited < time.Second {
		t.Errorf("the honest edge was served after %s, beside %d connections in their handshake: the limit is %d", waited, len(held), most)
	}
	_ = client.Close()
	// Those in the handshake were closed by the server, and accepted streams hold no place.
	for _, c := range held {
		_ = c.SetReadDeadline(time.Now().Add(10 * time.Second))
		if _, err := io.Copy(io.Discard, c); err != nil {
			t.Errorf("a connection that never spoke was not closed: %v", err)
		}
	}
	for i := range 2 * most {
		s.pair(t, fmt.Sprintf("edge-%d", i))
	}
}

// A client that announces a body and never sends it, and one that upgrades and never says who it is, hold a place for a
// bounded time.
func TestNobodyHoldsAPlaceForEver(t *testing.T) {
	const most = 2
	silent := make(chan Stream, most)
	a := newAuthority(t)
	cfg := ServerConfig{TLS: pki.ServerTLS(a.identity(a.ca.IssueServer([]string{"127.0.0.1"}, 30*day)), a.trust, time.Now),
		MaxHandshakes: most, HandshakeTimeout: time.Second, Admit: func(*x509.Certificate) time.Duration { return 0 }, Log: quiet()}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ungreeted := make(chan struct{})
	srv := NewServer(cfg, func(s Stream, _ func()) { silent <- s; <-ungreeted; _ = s.Close() })
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- srv.Serve(ctx, l) }()
	defer func() { cancel(); <-done }()
	config := pki.ClientTLS(a.node("edge-1", 30*day), a.trust, "127.0.0.1", time.Now)
	for range most {
		c, err := tls.Dial("tcp", l.Addr().String(), config)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		if _, err := io.WriteString(c, "POST /x HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\n"); err != nil {
			t.Fatal(err)
		}
	}
	var streams []Stream
	for range most {
		dctx, stop := context.WithTimeout(t.Context(), 10*time.Second)
		s, err := Dial(dctx, l.Addr().String(), config)
		stop()
		if err != nil {
			t.Fatalf("places were held for ever by requests without their body: %v", err)
		}
		streams = append(streams, s)
		<-silent
	}
	// Both places are held by streams that have said nothing.
	dctx, stop := context.WithTimeout(t.Context(), 500*time.Millisecond)
	if s, err := Dial(dctx, l.Addr().String(), config); err == nil {
		t.Error("streams that said nothing do not count as handshakes")
		_ = s.Close()
	}
	stop()
	close(ungreeted)
	dctx, stop = context.WithTimeout(t.Context(), 10*time.Second)
	defer stop()
	s, err := Dial(dctx, l.Addr().String(), config)
	if err != nil {
		t.Fatalf("their places were not given back: %v", err)
	}
	for _, s := range append(streams, s) {
		_ = s.Close()
	}
}

func TestATextMessageIsRefused(t *testing.T) {
	s := serve(t, nil)
	client, hub := s.pair(t, "edge-1")
	if err := client.(*webSocket).ws.WriteMessage(websocket.TextMessage, []byte("hello")); err != nil {
		t.Fatal(err)
	}
	if _, err := hub.Read(make([]byte, 5)); err == nil || !strings.Contains(err.Error(), "text message") {
		t.Errorf("got %v, want an error that names the text message", err)
	}
}

// Several goroutines write, and set deadlines, as a goodbye does while a batch is being written.
func TestWritersMayShareAStream(t *testing.T) {
	overBoth(t, nil, func(t *testing.T, s *server) {
		client, hub := s.pair(t, "edge-1")
		const writers, lines = 8, 200
		var wg sync.WaitGroup
		for w := range writers {
			wg.Go(func() {
				for i := range lines {
					_ = client.SetWriteDeadline(time.Now().Add(30 * time.Second))
					if _, err := fmt.Fprintf(client, "%d %d %s\n", w, i, strings.Repeat("x", 100*w)); err != nil {
						t.Error(err)
						return
					}
				}
			})
		}
		next := make([]int, writers)
		r := bufio.NewReader(hub)
		for range writers * lines {
			line, err := r.ReadString('\n')
			if err != nil {
				t.Fatal(err)
			}
			var w, i int
			var x string
			fmt.Sscan(line, &w, &i, &x)
			if i != next[w] || len(x) != 100*w {
				t.Fatalf("writer %d: got line %d of %d bytes, want line %d of %d: messages were mixed", w, i, len(x), next[w], 100*w)
			}
			next[w]++
		}
		wg.Wait()
	})
}

// A peer that does not read must not hold up who wants to be rid of it.
func TestADeadlineEndsAWriteThatIsBlockedAlready(t *testing.T) {
	overBoth(t, nil, func(t *testing.T, s *server) {
		client, _ := s.pair(t, "edge-1")
		began, failed := make(chan struct{}, 1024), make(chan error, 1)
		go func() {
			data := make([]byte, 1<<20)
			for {
				began <- struct{}{}
				if _, err := client.Write(data); err != nil {
					failed <- err
					return
				}
			}
		}()
		for blocked := false; !blocked; {
			select {
			case <-began:
			case <-time.After(500 * time.Millisecond):
				blocked = true
			}
		}
		_ = client.SetWriteDeadline(time.Now().Add(100 * time.Millisecond))
		select {
		case err := <-failed:
			var ne net.Error
			if !errors.As(err, &ne) || !ne.Timeout() {
				t.Errorf("got %v, want a timeout", err)
			}
		case <-time.After(10 * time.Second):
			t.Error("the write is still blocked 10 s after its deadline")
		}
	})
}

func TestAPipeIsAStreamToo(t *testing.T) {
	a, b := Pipe(nil, nil)
	go func() { _, _ = a.Write([]byte("hi")); _ = a.Close() }()
	if got, err := io.ReadAll(b); err != nil || string(got) != "hi" {
		t.Errorf("got %q, %v", got, err)
	}
	if a.RemoteAddr() == "" || a.Peer() != nil {
		t.Errorf("got peer %v at %q", a.Peer(), a.RemoteAddr())
	}
}
