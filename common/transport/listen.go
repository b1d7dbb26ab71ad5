package transport

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"strconv"
	"sync"
	"time"

	"github.com/gorilla/websocket"
)

// ServerConfig parametrizes a Server.
type ServerConfig struct {
	// TLS demands and verifies client certificates (pki.ServerTLS).
	TLS *tls.Config
	// MaxHandshakes bounds the connections between accept and the end of their first words; more wait in the kernel's
	// queue. As many again over QUIC, where more are told to try again.
	MaxHandshakes int
	// HandshakeTimeout bounds the time of one of them.
	HandshakeTimeout time.Duration
	// Admit is asked before a stream is accepted. A non-zero duration refuses it and says when to come back.
	Admit func() time.Duration
	Log   *slog.Logger
}

// Server accepts streams from edges.
type Server struct {
	cfg      ServerConfig
	accept   func(s Stream, greeted func())
	limit    *handshakes
	upgrader websocket.Upgrader
	quic     quicServer
}

// NewServer returns a Server that hands each accepted stream to accept, in a goroutine of its own; accept owns the
// stream. It counts as a handshake until greeted is called or accept returns.
func NewServer(cfg ServerConfig, accept func(s Stream, greeted func())) *Server {
	return &Server{cfg: cfg, accept: accept, limit: newHandshakes(cfg.MaxHandshakes),
		quic: quicServer{slots: make(chan struct{}, cfg.MaxHandshakes)}, upgrader: websocket.Upgrader{
			HandshakeTimeout: cfg.HandshakeTimeout, ReadBufferSize: readBuffer, WriteBufferPool: writeBuffers,
			Subprotocols: []string{subprotocol},
			// Browsers are not expected, and a certificate is demanded anyway.
			CheckOrigin: func(r *http.Request) bool { return r.Header.Get("Origin") == "" },
		}}
}

// Serve accepts streams from l until ctx is done, then closes l. It does not close accepted streams.
func (s *Server) Serve(ctx context.Context, l net.Listener) error {
	config := s.cfg.TLS.Clone()
	config.NextProtos = []string{"http/1.1"}
	mux := http.NewServeMux()
	mux.HandleFunc(Path, s.upgrade)
	srv := &http.Server{
		Handler: mux, TLSConfig: config, ConnState: s.limit.track,
		ConnContext: func(ctx context.Context, c net.Conn) context.Context { return context.WithValue(ctx, connKey{}, c) },
		// The whole request, a body that never comes included. An upgrade clears it.
		ReadTimeout: s.cfg.HandshakeTimeout, MaxHeaderBytes: 8 << 10,
		IdleTimeout: time.Second,
		ErrorLog:    slog.NewLogLogger(s.cfg.Log.Handler(), slog.LevelInfo),
	}
	stop := context.AfterFunc(ctx, func() { _ = srv.Close() })
	defer stop()
	err := srv.ServeTLS(&boundedListener{Listener: l, limit: s.limit, done: ctx.Done()}, "", "")
	if ctx.Err() != nil || errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	return fmt.Errorf("serve %s: %w", l.Addr(), err)
}

// connKey is the key of a request's connection in its context.
type connKey struct{}

func (s *Server) upgrade(w http.ResponseWriter, r *http.Request) {
	if wait := s.cfg.Admit(); wait > 0 {
		w.Header().Set("Retry-After", strconv.Itoa(int(wait.Round(time.Second)/time.Second)))
		http.Error(w, "not now", http.StatusServiceUnavailable)
		return
	}
	// A hijacked connection is no longer the HTTP server's: its slot is given back here. One that was not keeps it.
	conn, _ := r.Context().Value(connKey{}).(net.Conn)
	release := sync.OnceFunc(func() { s.limit.release(conn) })
	ws, err := s.upgrader.Upgrade(w, r, nil)
	if err != nil {
		if s.limit.wasHijacked(conn) {
			release()
		}
		s.cfg.Log.Info("upgrade to WebSocket failed", "remote", r.RemoteAddr, "error", err)
		return
	}
	stream, err := newWebSocket(ws)
	if err != nil {
		s.cfg.Log.Warn("stream refused", "remote", r.RemoteAddr, "error", err)
		_ = ws.NetConn().Close()
		release()
		return
	}
	// A goroutine of its own: the HTTP server's has a deep stack and buffers that an idle stream need not hold.
	go func() {
		defer release()
		s.accept(stream, release)
	}()
}

// handshakes counts the connections that have not said who they are.
type handshakes struct {
	slots chan struct{}
	mu    sync.Mutex
	// held, guarded by mu, are the connections that hold a slot; true once the HTTP server has given one away.
	held map[net.Conn]bool
}

func newHandshakes(n int) *handshakes {
	return &handshakes{slots: make(chan struct{}, n), held: map[net.Conn]bool{}}
}

// release gives a connection's slot back, once.
func (h *handshakes) release(c net.Conn) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if _, ok := h.held[c]; ok {
		delete(h.held, c)
		<-h.slots
	}
}

func (h *handshakes) wasHijacked(c net.Conn) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.held[c]
}

func (h *handshakes) track(c net.Conn, state http.ConnState) {
	switch state {
	case http.StateNew:
		h.mu.Lock()
		h.held[c] = false
		h.mu.Unlock()
	case http.StateHijacked:
		h.mu.Lock()
		h.held[c] = true
		h.mu.Unlock()
	case http.StateClosed:
		h.release(c)
	}
}

// boundedListener accepts a connection only when there is room for its handshake, before TLS costs anything.
type boundedListener struct {
	net.Listener
	limit *handshakes
	done  <-chan struct{}
}

func (l *boundedListener) Accept() (net.Conn, error) {
	select {
	case l.limit.slots <- struct{}{}:
	case <-l.done:
		return nil, net.ErrClosed
	}
	c, err := l.Listener.Accept()
	if err != nil {
		<-l.limit.slots
		return nil, err
	}
	if t, ok := c.(*net.TCPConn); ok {
		// Pings find dead peers; the kernel's probes would only wake idle radios.
		_ = t.SetKeepAlive(false)
	}
	return c, nil
}
