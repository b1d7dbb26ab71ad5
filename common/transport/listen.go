package transport

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"strconv"
	"time"

	"github.com/gorilla/websocket"
)

// ServerConfig parametrizes a Server.
type ServerConfig struct {
	// TLS demands and verifies client certificates (pki.ServerTLS).
	TLS *tls.Config
	// MaxHandshakes bounds the connections between accept and the end of their first words, three quarters of it those of
	// one address; more wait (FairListener). As many again over QUIC, where more are told to try again.
	MaxHandshakes int
	// HandshakeTimeout bounds the time of one of them until its stream is accepted.
	HandshakeTimeout time.Duration
	// Admit is asked before a stream is accepted of the peer with that certificate, nil if it showed none. A non-zero duration refuses it and says when to come back.
	Admit func(peer *x509.Certificate) time.Duration
	// Tunnel, if not nil, is asked for the taker of a session's second connection, by a session of that peer. Nil refuses it.
	Tunnel func(peer *x509.Certificate, session string) (take func(*TunnelConn))
	// Revoked, if not nil, tells a peer that gets no answer over HTTP. Its stream is accepted: who takes it says why it ends,
	// which a TLS alert cannot.
	Revoked func(peer *x509.Certificate) bool
	// Waiting, if not nil, is how many connections over TCP may wait for a place; 4,096 if it is nil. It does not block.
	Waiting func() int
	// Left, if not nil, hears of each connection over TCP that its peer closed while it waited for a place. It does not block.
	Left func()
	Log  *slog.Logger
}

// Server accepts streams from edges.
type Server struct {
	cfg      ServerConfig
	accept   func(s Stream, greeted func())
	upgrader websocket.Upgrader
	quic     quicServer
}

// NewServer returns a Server that hands each accepted stream to accept, in a goroutine of its own; accept owns the
// stream. It counts as a handshake until greeted is called or accept returns.
func NewServer(cfg ServerConfig, accept func(s Stream, greeted func())) *Server {
	return &Server{cfg: cfg, accept: accept,
		quic: quicServer{places: NewPlaces(cfg.MaxHandshakes)}, upgrader: websocket.Upgrader{
			HandshakeTimeout: cfg.HandshakeTimeout, ReadBufferSize: readBuffer, WriteBufferPool: writeBuffers,
			Subprotocols: []string{subprotocol},
			// Browsers are not expected, and a certificate is demanded anyway.
			CheckOrigin: func(r *http.Request) bool { return r.Header.Get("Origin") == "" },
		}}
}

// Serve accepts streams from l until ctx is done, then closes l. It does not close accepted streams.
func (s *Server) Serve(ctx context.Context, l net.Listener) error {
	config := s.cfg.TLS.Clone()
	mux := http.NewServeMux()
	mux.HandleFunc(Path, s.upgrade)
	mux.HandleFunc(TunnelPath, s.tunnel)
	srv := &http.Server{
		Handler: s.answer(mux), TLSConfig: config,
		ConnContext: func(ctx context.Context, c net.Conn) context.Context { return context.WithValue(ctx, connKey{}, c) },
		// The whole request, a body that never comes included. An upgrade clears it.
		ReadTimeout: s.cfg.HandshakeTimeout, MaxHeaderBytes: 8 << 10,
		ErrorLog: slog.NewLogLogger(s.cfg.Log.Handler(), slog.LevelInfo),
	}
	// One request a connection: with more, who asks for nothing again and again would keep its place.
	srv.SetKeepAlivesEnabled(false)
	if err := serveHTTPS(ctx, srv, newFairListener(l, s.cfg.MaxHandshakes, s.cfg.HandshakeTimeout, s.cfg.Waiting, s.cfg.Left)); err != nil {
		return fmt.Errorf("serve %s: %w", l.Addr(), err)
	}
	return nil
}

// ServeHTTPS serves by HTTP/1.1 over TLS, until ctx is done, what comes to l, most connections at once, each for life until it
// has left its place (FairListener). It closes l and what it serves, but not what was hijacked. srv has its TLSConfig.
func ServeHTTPS(ctx context.Context, srv *http.Server, l net.Listener, most int, life time.Duration) error {
	return serveHTTPS(ctx, srv, NewFairListener(l, most, life))
}

func serveHTTPS(ctx context.Context, srv *http.Server, l *FairListener) error {
	srv.Protocols, srv.TLSConfig.NextProtos = HTTP1(), []string{"http/1.1"} // what is upgraded needs a connection of its own
	stop := context.AfterFunc(ctx, func() { _ = srv.Close() })
	defer stop()
	err := srv.ServeTLS(l, "", "")
	if ctx.Err() != nil || errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	return err
}

// answer closes the connection of a revoked peer that asks for anything but the sync stream.
func (s *Server) answer(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != Path && s.cfg.Revoked != nil && len(r.TLS.PeerCertificates) > 0 && s.cfg.Revoked(r.TLS.PeerCertificates[0]) {
			s.cfg.Log.Warn("request of a revoked peer", "remote", r.RemoteAddr, "peer", r.TLS.PeerCertificates[0].Subject)
			panic(http.ErrAbortHandler) // net/http's way to close without an answer
		}
		next.ServeHTTP(w, r)
	})
}

// HTTP1 are the protocols of a server that speaks HTTP/1.1 alone.
func HTTP1() *http.Protocols {
	var p http.Protocols
	p.SetHTTP1(true)
	return &p
}

// peer is the certificate that the other end showed, nil if it showed none.
func peer(state *tls.ConnectionState) *x509.Certificate {
	if len(state.PeerCertificates) == 0 {
		return nil
	}
	return state.PeerCertificates[0]
}

// connKey is the key of a request's connection in its context.
type connKey struct{}

func (s *Server) upgrade(w http.ResponseWriter, r *http.Request) {
	if wait := s.cfg.Admit(peer(r.TLS)); wait > 0 {
		w.Header().Set("Retry-After", wholeSeconds(wait))
		http.Error(w, "not now", http.StatusServiceUnavailable)
		return
	}
	ws, err := s.upgrader.Upgrade(w, r, nil)
	if err != nil {
		s.cfg.Log.Info("upgrade to WebSocket failed", "remote", r.RemoteAddr, "error", err)
		return
	}
	stream, err := newWebSocket(ws)
	if err != nil {
		s.cfg.Log.Warn("stream refused", "remote", r.RemoteAddr, "error", err)
		_ = ws.NetConn().Close()
		return
	}
	// A goroutine of its own: the HTTP server's has a deep stack and buffers that an idle stream need not hold.
	greeted := func() {}
	if tc, ok := r.Context().Value(connKey{}).(*tls.Conn); ok {
		if p, ok := tc.NetConn().(*placed); ok {
			p.over.Stop() // from here on whoever accepts it bounds its time
			greeted = p.leave
		}
	}
	go func() {
		defer greeted()
		s.accept(stream, greeted)
	}()
}

// wholeSeconds is how long a peer is told to stay away: not less than it should, and never 0, which says nothing.
func wholeSeconds(d time.Duration) string {
	return strconv.Itoa(int(max(1, (d+time.Second-1)/time.Second)))
}
