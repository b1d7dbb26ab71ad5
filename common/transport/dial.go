package transport

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"os"
	"strconv"
	"syscall"
	"time"

	"github.com/gorilla/websocket"
)

// Dial connects to a hub at host:port. config is of mutual TLS 1.3 (pki.ClientTLS). ctx bounds the whole handshake. An
// error that is ErrRefused came from the hub; any other one from the network on the way.
func Dial(ctx context.Context, address string, config *tls.Config) (Stream, error) {
	return DialThrough(ctx, nil, address, config)
}

// DialThrough is Dial through a proxy. The TLS is the hub's, from end to end.
func DialThrough(ctx context.Context, proxy Proxy, address string, config *tls.Config) (Stream, error) {
	// progressed tells whether the TCP connection stood: what fails after that, other than by time, is a refusal.
	progressed := false
	// Once TLS stands the dialer looks at ctx's deadline alone. One that is given up is waited for by its caller.
	proceed := func() bool { return true }
	proxied, _ := proxy.For(address) // the dialer asks, too, and says what is wrong
	if proxied {
		// What takes a connection is the proxy. TLS begins where the hub took one.
		var given context.CancelCauseFunc
		ctx, given = context.WithCancelCause(ctx)
		defer given(nil)
		outer := ctx
		ctx = httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{TLSHandshakeStart: func() {
			if err := Arrived(outer); err != nil {
				given(err)
			}
		}})
	}
	dialer := websocket.Dialer{
		NetDialContext: func(dctx context.Context, network, addr string) (net.Conn, error) {
			conn, err := (&net.Dialer{KeepAlive: -1}).DialContext(dctx, network, addr)
			if progressed = err == nil; progressed {
				proceed = context.AfterFunc(ctx, func() { _ = conn.Close() })
			}
			if err == nil && !proxied {
				if err = Arrived(ctx); err != nil {
					progressed = false
					return nil, errors.Join(err, conn.Close())
				}
			}
			return conn, err
		},
		Proxy:            proxy,
		TLSClientConfig:  config,
		Subprotocols:     []string{subprotocol},
		ReadBufferSize:   4 << 10,
		WriteBufferPool:  writeBuffers,
		HandshakeTimeout: time.Hour, // ctx bounds it
	}
	u := url.URL{Scheme: "wss", Host: address, Path: Path}
	ws, resp, err := dialer.DialContext(ctx, u.String(), nil)
	if !proceed() && err == nil {
		_ = ws.NetConn().Close()
		err = ctx.Err()
	}
	if resp != nil && resp.Body != nil {
		defer resp.Body.Close()
	}
	if cause := context.Cause(ctx); err != nil && cause != nil && !errors.Is(cause, ctx.Err()) {
		err = cause // the error of Arrived
	}
	if err != nil {
		return nil, fmt.Errorf("dial %s: %w", address, dialError(ctx, err, resp, progressed))
	}
	if ws.Subprotocol() != subprotocol {
		_ = ws.NetConn().Close()
		return nil, fmt.Errorf("dial %s: %w", address, &RefusedError{Err: fmt.Errorf("it speaks WebSocket subprotocol %q, expected %q", ws.Subprotocol(), subprotocol)})
	}
	s, err := newWebSocket(ws)
	if err != nil {
		_ = ws.NetConn().Close()
		return nil, fmt.Errorf("dial %s: %w", address, err)
	}
	return s, nil
}

func dialError(ctx context.Context, err error, resp *http.Response, progressed bool) error {
	if resp != nil {
		return &RefusedError{Status: resp.StatusCode, RetryAfter: retryAfter(resp.Header.Get("Retry-After")), Err: err}
	}
	var ne net.Error
	timeout := errors.As(err, &ne) && ne.Timeout() || errors.Is(err, os.ErrDeadlineExceeded) || ctx.Err() != nil
	unreachable := errors.Is(err, syscall.ENETUNREACH) || errors.Is(err, syscall.EHOSTUNREACH) || errors.Is(err, syscall.ETIMEDOUT)
	if progressed && !timeout && !unreachable {
		return &RefusedError{Err: err}
	}
	return err
}

// retryAfter reads a number of seconds, up to an hour; anything else is none.
func retryAfter(s string) time.Duration {
	if n, err := strconv.Atoi(s); err == nil && n >= 0 && n <= 3600 {
		return time.Duration(n) * time.Second
	}
	return 0
}
