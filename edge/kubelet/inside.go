package kubelet

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"sync"
	"sync/atomic"
	"time"

	"k8s.io/apiserver/pkg/authentication/authenticator"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/kubernetes/pkg/kubelet/server"
)

// InsideUser is who the kubelet takes the caller of Serve for.
const InsideUser = "tether:tunnel"

// meetTimeout bounds the request by which the kubelet's server is met.
const meetTimeout = 5 * time.Second

// inside is the way into the kubelet's own server from within this process: its connections need no TLS and no loopback.
// The kubelet gives its server to nobody, but each request knows it (http.ServerContextKey), and the kubelet's
// authentication, which is ours to wrap, sees each request.
type inside struct {
	url   string // of the server on loopback
	conns chan net.Conn
	// ended is closed once nobody accepts conns any more.
	ended  chan struct{}
	ending sync.Once
	met    atomic.Bool // the server accepts conns
}

func newInside(port int32) *inside {
	return &inside{url: fmt.Sprintf("https://127.0.0.1:%d/healthz", port), conns: make(chan net.Conn), ended: make(chan struct{})}
}

// Serve hands c to the kubelet's own server, as a caller who may do everything, and returns when c is closed, which it is
// when ctx ends. c's Close must lose nothing that was written before. An error says that the kubelet does not answer, and
// that nothing was read from c or written to it.
func (k *Kubelet) Serve(ctx context.Context, c net.Conn) error { return k.inside.serve(ctx, c) }

func (i *inside) serve(ctx context.Context, c net.Conn) error {
	if err := i.meet(ctx); err != nil {
		return err
	}
	h := &insideConn{Conn: c, closed: make(chan struct{})}
	select {
	case i.conns <- h:
	case <-i.ended:
		return errors.New("it is ending")
	case <-ctx.Done():
		return ctx.Err()
	}
	stop := context.AfterFunc(ctx, func() { _ = h.Close() })
	defer stop()
	<-h.closed
	return nil
}

// meet asks the server on loopback for anything, if it was not met yet: its answer, 401, does not matter.
func (i *inside) meet(ctx context.Context) error {
	if i.met.Load() {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, meetTimeout)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, i.url, nil)
	if err != nil {
		return err
	}
	way := &http.Transport{TLSClientConfig: anybody(), DisableKeepAlives: true}
	response, err := (&http.Client{Transport: way}).Do(request)
	var u *url.Error
	if errors.As(err, &u) {
		err = u.Err
	}
	if err != nil {
		return err
	}
	_ = response.Body.Close()
	if !i.met.Load() {
		return fmt.Errorf("what answers at %s is not the kubelet of this process", i.url)
	}
	return nil
}

// anybody is TLS with whoever answers: nothing is said to it and nothing is believed of it, since what is met is this process's
// own server, which its authentication knows.
func anybody() *tls.Config { return &tls.Config{InsecureSkipVerify: true} }

// accept has the server accept what Serve is given, from the first request on that it judges.
func (i *inside) accept(r *http.Request) {
	if i.met.Load() {
		return
	}
	if s, ok := r.Context().Value(http.ServerContextKey).(*http.Server); ok && i.met.CompareAndSwap(false, true) {
		go func() { _ = s.Serve(i) }()
	}
}

// Accept implements net.Listener.
func (i *inside) Accept() (net.Conn, error) {
	select {
	case c := <-i.conns:
		return c, nil
	case <-i.ended:
		return nil, net.ErrClosed
	}
}

// Close implements net.Listener.
func (i *inside) Close() error {
	i.ending.Do(func() { close(i.ended) })
	return nil
}

// Addr implements net.Listener.
func (i *inside) Addr() net.Addr { return insideAddr{} }

// insideAddr is the local address of what Serve was given. Nothing that comes over a network can have it.
type insideAddr struct{}

func (insideAddr) Network() string { return "memory" }
func (insideAddr) String() string  { return "kubelet" }

// insideAuth is the kubelet's authentication, which knows who comes from inside.
type insideAuth struct {
	server.AuthInterface
	inside *inside
}

// AuthenticateRequest implements authenticator.Request.
func (a insideAuth) AuthenticateRequest(r *http.Request) (*authenticator.Response, bool, error) {
	a.inside.accept(r)
	if _, ok := r.Context().Value(http.LocalAddrContextKey).(insideAddr); ok {
		return &authenticator.Response{User: &user.DefaultInfo{Name: InsideUser}}, true, nil
	}
	return a.AuthInterface.AuthenticateRequest(r)
}

// insideConn is a connection that was given to Serve.
type insideConn struct {
	net.Conn
	closing sync.Once
	closed  chan struct{}
	err     error
}

// LocalAddr implements net.Conn.
func (c *insideConn) LocalAddr() net.Addr { return insideAddr{} }

// Close implements net.Conn.
func (c *insideConn) Close() error {
	c.closing.Do(func() {
		c.err = c.Conn.Close()
		close(c.closed)
	})
	return c.err
}

// CloseWrite is what net/http calls before it waits for a caller who still says something, and then closes. A stream has no
// halves, and loses nothing of what was written by being closed.
func (c *insideConn) CloseWrite() error { return c.Close() }
