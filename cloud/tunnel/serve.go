package tunnel

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/http/httputil"
	"strings"
	"time"

	"k8s.io/apiserver/pkg/authorization/authorizer"

	"github.com/tether-edge/tether/common/transport"
)

// nodeKey is the key of the node's name in a connection's context, connKey that of the connection.
type (
	nodeKey struct{}
	connKey struct{}
)

// connOf is a connection to one node's port.
type connOf struct {
	net.Conn
	node   string
	number int // of the port
}

// accepted is the connection as it was accepted, and leave gives up its place among the handshakes.
func accepted(c net.Conn) net.Conn {
	if t, ok := c.(*tls.Conn); ok {
		c = t.NetConn()
	}
	inner, _ := transport.Place(c)
	return inner
}

func leave(c net.Conn) {
	if t, ok := c.(*tls.Conn); ok {
		_, leave := transport.Place(t.NetConn())
		leave()
	}
}

const (
	// maxHandshakes bounds the connections that are inside TLS or whose caller is not known yet, on all ports together.
	maxHandshakes = 256
	// handshakeTimeout bounds the time of one of them.
	handshakeTimeout = 10 * time.Second
)

// tls is that of a kubelet's server, which asks callers for a certificate and judges it afterwards.
func (s *Server) tls() *tls.Config {
	return &tls.Config{MinVersion: tls.VersionTLS12, ClientAuth: tls.RequestClientCert,
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return s.deps.Certificate(), nil }}
}

// maxHeader bounds the head of a request, in bytes: the command of an exec is in its query, where a byte may take three, and one argument
// may have 128 KiB.
const maxHeader = 512 << 10

// callersOf are the places for requests to a node: three quarters of its streams for one caller, so that whoever has many execs open through
// the API server leaves some to those who scrape.
func (s *Server) callersOf(node string) *transport.Places {
	s.mu.Lock()
	defer s.mu.Unlock()
	p := s.nodes[node]
	if p == nil {
		return transport.NewPlaces(s.cfg.MaxRequests) // it is gone, and what asks for it is told so
	}
	if p.callers == nil {
		p.callers = transport.NewPlaces(s.cfg.MaxRequests)
	}
	return p.callers
}

// server is the HTTP server behind every port.
func (s *Server) server() *http.Server {
	config := s.tls()
	config.SessionTicketsDisabled = true // see answered
	return &http.Server{
		Handler: s, TLSConfig: config,
		ConnContext: func(ctx context.Context, c net.Conn) context.Context {
			ctx = context.WithValue(ctx, connKey{}, c)
			if c, ok := accepted(c).(connOf); ok {
				ctx = context.WithValue(ctx, nodeKey{}, c.node)
			}
			return ctx
		},
		// Of the TLS handshake, too.
		ReadHeaderTimeout: handshakeTimeout, IdleTimeout: 2 * time.Minute, MaxHeaderBytes: maxHeader,
		ErrorLog: slog.NewLogLogger(s.deps.Log.Handler(), slog.LevelDebug),
	}
}

// ServeHTTP answers one request to a node's kubelet, in the kubelet's place as far as the caller is concerned.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	node, _ := r.Context().Value(nodeKey{}).(string)
	if !plain(r) {
		dismiss(w)
		http.Error(w, "the path is not in its plain form: expected one without empty, . or .. elements and without an encoded slash", http.StatusBadRequest)
		return
	}
	caller, ok, err := s.deps.Callers.Authenticator.AuthenticateRequest(r)
	if err != nil || !ok {
		s.m.requests.WithLabelValues("unauthorized").Inc()
		dismiss(w)
		if err != nil {
			s.deps.Log.Info("a caller of a kubelet could not be authenticated", "node", node, "remote", r.RemoteAddr, "error", err)
		}
		http.Error(w, "Unauthorized", http.StatusUnauthorized)
		return
	}
	// From here on it is no stranger's, and no flood of strangers may hold up what it asks for.
	if c, ok := r.Context().Value(connKey{}).(net.Conn); ok {
		leave(c)
	}
	attrs := attributes(node, caller.User, r)
	allowed, err := s.allowed(r.Context(), attrs)
	if err != nil {
		s.m.requests.WithLabelValues("error").Inc()
		dismiss(w)
		s.deps.Log.Warn("cannot learn what a caller of a kubelet may do", "node", node, "user", caller.User.GetName(), "error", err)
		http.Error(w, "Internal Error: the rights of the caller could not be looked up", http.StatusInternalServerError)
		return
	}
	if !allowed {
		s.m.requests.WithLabelValues("forbidden").Inc()
		dismiss(w) // it would keep a file of CloudCore's, and there are as many as somebody likes
		var subresources []string
		for _, a := range attrs {
			subresources = append(subresources, a.GetSubresource())
		}
		http.Error(w, fmt.Sprintf("Forbidden (user=%s, verb=%s, resource=nodes, subresource(s)=%v)", caller.User.GetName(), attrs[0].GetVerb(), subresources), http.StatusForbidden)
		return
	}
	callers := s.callersOf(node)
	who := caller.User.GetName()
	if !callers.Take(who) {
		s.m.requests.WithLabelValues("busy").Inc()
		http.Error(w, fmt.Sprintf("%q cannot be asked: %s has as many requests under way to it as one caller may, or all have together: %d and %d",
			node, who, s.cfg.MaxRequests-s.cfg.MaxRequests/4, s.cfg.MaxRequests), http.StatusBadGateway)
		return
	}
	defer callers.Give(who)
	s.m.requests.WithLabelValues("relayed").Inc()
	s.m.open.Inc()
	defer s.m.open.Dec()
	s.proxy.ServeHTTP(widening{w}, r)
}

// widening gives who hijacks the connection one for much that goes one way.
type widening struct{ http.ResponseWriter }

// Unwrap is for http.ResponseController.
func (w widening) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// Hijack implements http.Hijacker.
func (w widening) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	c, buffers, err := http.NewResponseController(w.ResponseWriter).Hijack()
	if err != nil {
		return nil, nil, err
	}
	if wide, ok := transport.Widen(c); ok {
		c = wide
	}
	return c, buffers, nil
}

// dismiss ends the connection with this answer: a stranger keeps no place, and no body that never comes is waited for.
func dismiss(w http.ResponseWriter) {
	w.Header().Set("Connection", "close")
	_ = http.NewResponseController(w).SetReadDeadline(time.Now().Add(time.Second)) // it can only be closed already
}

// allowed reports whether one of the rights is given.
func (s *Server) allowed(ctx context.Context, attrs []authorizer.Attributes) (bool, error) {
	var errs []error
	for _, a := range attrs {
		decision, _, err := s.deps.Callers.Authorizer.Authorize(ctx, a)
		if decision == authorizer.DecisionAllow {
			return true, nil
		}
		errs = append(errs, err)
	}
	return false, errors.Join(errs...)
}

// newProxy relays requests over streams to the nodes.
func (s *Server) newProxy() *httputil.ReverseProxy {
	return &httputil.ReverseProxy{
		FlushInterval: -1, // logs are read as they come
		ErrorLog:      slog.NewLogLogger(s.deps.Log.Handler(), slog.LevelDebug),
		Rewrite: func(r *httputil.ProxyRequest) {
			node, _ := r.In.Context().Value(nodeKey{}).(string)
			r.Out.URL.Scheme, r.Out.URL.Host = "http", node
			// The kubelet knows this process only; what the caller showed is not the edge's to see.
			for name := range r.Out.Header {
				if name == "Authorization" || strings.HasPrefix(name, "X-Remote-") || strings.HasPrefix(name, "Impersonate-") {
					r.Out.Header.Del(name)
				}
			}
		},
		ErrorHandler: s.failed,
		Transport: doubting{s.deps.Doubt, &http.Transport{
			DialContext: func(ctx context.Context, _, address string) (net.Conn, error) {
				node, _, err := net.SplitHostPort(address)
				if err != nil {
					return nil, err
				}
				return s.deps.Open(ctx, node)
			},
			// A stream that is kept for the next request keeps the edge awake.
			DisableCompression: true, MaxIdleConnsPerHost: 4, IdleConnTimeout: 2 * time.Second,
		}},
	}
}

// doubtAfter is how long a node may take for the head of an answer before it is asked who holds it: an edge that restarted may be
// connected to another CloudCore, and the session that it left here looks alive for some pings yet.
const doubtAfter = 2 * time.Second

// doubting tells of nodes that are slow to answer.
type doubting struct {
	doubt func(node string)
	http.RoundTripper
}

// RoundTrip implements http.RoundTripper.
func (d doubting) RoundTrip(r *http.Request) (*http.Response, error) {
	node, _ := r.Context().Value(nodeKey{}).(string)
	slow := time.AfterFunc(doubtAfter, func() { d.doubt(node) })
	defer slow.Stop()
	return d.RoundTripper.RoundTrip(r)
}

// failed says why a node could not be asked.
func (s *Server) failed(w http.ResponseWriter, r *http.Request, err error) {
	node, _ := r.Context().Value(nodeKey{}).(string)
	if r.Context().Err() != nil {
		// The caller is gone, or says no more and still reads: without a word net/http would tell it that all is well.
		s.m.requests.WithLabelValues("abandoned").Inc()
		panic(http.ErrAbortHandler)
	}
	s.m.requests.WithLabelValues("failed").Inc()
	// kubectl before 1.36 reads a text as YAML, and of one that is a map, "a: b", it shows nothing. Behind a quoted word it is
	// none.
	text := fmt.Sprintf("%q cannot be asked: %v", node, err)
	if at := s.deps.LastHeard(node); !at.IsZero() && !s.deps.Busy(err) {
		text += fmt.Sprintf("; it was last heard of at %s, %s ago", at.UTC().Format(time.RFC3339), time.Since(at).Round(time.Second))
	}
	if !s.deps.Holds(node) {
		// Another CloudCore may hold it by now, and the caller's next connection goes there. An API server keeps this one for as
		// long as it is used, and would be told the same for ever.
		w.Header().Set("Connection", "close")
	}
	// Of a 503 kube-apiserver would drop the text.
	http.Error(w, text, http.StatusBadGateway)
}
