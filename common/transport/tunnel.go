package transport

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"time"
)

// TunnelPath is the URL path of a session's second connection, SessionHeader names the session, and upgradeTunnel is what
// HTTP is upgraded to: a Mux right in TLS. WebSocket would put each Write into frames of its own and mask them, for
// intermediaries that cannot look inside.
const (
	TunnelPath    = "/tether/v1/tunnel"
	SessionHeader = "Tether-Session"
	upgradeTunnel = "tether-tunnel"
)

// TunnelConn is the second connection of a session, for a Mux.
type TunnelConn struct {
	io.ReadWriteCloser // over TLS
	wide               *Wide
}

// DialTunnel dials the second connection of a session. ctx bounds the whole handshake.
func DialTunnel(ctx context.Context, proxy Proxy, address, session string, config *tls.Config) (*TunnelConn, error) {
	c, err := dialTunnel(ctx, proxy, address, session, config)
	if err != nil {
		return nil, fmt.Errorf("dial %s: %w", address, err)
	}
	return c, nil
}

func dialTunnel(ctx context.Context, proxy Proxy, address, session string, config *tls.Config) (*TunnelConn, error) {
	request := (&http.Request{Method: http.MethodGet, URL: &url.URL{Scheme: "https", Host: address, Path: TunnelPath},
		Header: http.Header{SessionHeader: {session}, "Connection": {"Upgrade"}, "Upgrade": {upgradeTunnel}}}).WithContext(ctx)
	var wide *Wide
	way := &http.Transport{Proxy: proxy, TLSClientConfig: config.Clone(), Protocols: HTTP1(), DisableCompression: true,
		DialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
			conn, err := (&net.Dialer{KeepAlive: -1}).DialContext(ctx, network, addr)
			if err != nil {
				return nil, err
			}
			wide = NewWide(conn) // one request, one connection
			return wide, nil
		}}
	defer way.CloseIdleConnections()
	response, err := way.RoundTrip(request)
	if err != nil {
		return nil, err
	}
	c, ok := response.Body.(io.ReadWriteCloser)
	if response.StatusCode != http.StatusSwitchingProtocols || response.Header.Get("Upgrade") != upgradeTunnel || !ok {
		_ = response.Body.Close()
		return nil, &RefusedError{Status: response.StatusCode, Err: fmt.Errorf("expected an upgrade to %s", upgradeTunnel)}
	}
	return &TunnelConn{c, wide}, nil
}

// tunnel accepts the second connection of a session.
func (s *Server) tunnel(w http.ResponseWriter, r *http.Request) {
	var take func(*TunnelConn)
	if s.cfg.Tunnel != nil && len(r.TLS.PeerCertificates) > 0 {
		take = s.cfg.Tunnel(r.TLS.PeerCertificates[0], r.Header.Get(SessionHeader))
	}
	if take == nil {
		http.Error(w, "this CloudCore holds no session of that name that waits for a tunnel", http.StatusConflict)
		return
	}
	if r.Method != http.MethodGet || r.Header.Get("Upgrade") != upgradeTunnel {
		w.Header().Set("Upgrade", upgradeTunnel)
		http.Error(w, "expected an upgrade to "+upgradeTunnel, http.StatusUpgradeRequired)
		return
	}
	c, leave, err := hijackTunnel(w, r)
	if err != nil {
		s.cfg.Log.Info("upgrade to a tunnel failed", "remote", r.RemoteAddr, "error", err)
		return
	}
	leave()
	go take(c) // the HTTP server's goroutine has a deep stack
}

// hijackTunnel takes a request's connection from the HTTP server; leave gives its place among the handshakes back.
func hijackTunnel(w http.ResponseWriter, r *http.Request) (c *TunnelConn, leave func(), err error) {
	conn, _ := r.Context().Value(connKey{}).(net.Conn)
	_, buffers, err := http.NewResponseController(w).Hijack()
	if err != nil {
		return nil, nil, err
	}
	wide, ok := Widen(conn)
	if !ok {
		_ = conn.Close()
		return nil, nil, errors.New("the connection was not accepted here, over TLS")
	}
	if buffers.Reader.Buffered() > 0 {
		_ = conn.Close()
		return nil, nil, errors.New("the edge spoke before it was answered")
	}
	if err := answerUpgrade(wide.Conn, buffers.Writer); err != nil {
		_ = conn.Close()
		return nil, nil, err
	}
	_, leave = Place(wide.NetConn())
	return &TunnelConn{wide, wide.wide}, leave, nil
}

func answerUpgrade(conn *tls.Conn, w *bufio.Writer) error {
	if err := conn.SetDeadline(time.Now().Add(attempt)); err != nil {
		return err
	}
	_, err := fmt.Fprintf(w, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: %s\r\n\r\n", upgradeTunnel)
	return errors.Join(err, w.Flush(), conn.SetDeadline(time.Time{}))
}
