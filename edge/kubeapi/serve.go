package kubeapi

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"slices"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/endpoints/request"
)

const (
	headerTimeout   = 10 * time.Second
	idleTimeout     = 2 * time.Minute
	shutdownTimeout = 5 * time.Second
	maxHeader       = 512 << 10 // bytes; the command of an exec is in its query, where a byte may take three, and one argument may have 128 KiB
)

// Serve answers local clients on l until ctx ends, then waits a few seconds for requests in progress. config holds
// the server's certificate and, in ClientCAs, who may sign clients'.
//
// A client needs a certificate that was signed there for client authentication; without one, any request is a 401.
// Certificates of system:masters and of Config.AdminGroup may read everything, reach the kubelet through it, and write
// what the kubelet may but for what would be lost; other identities get 403.
func (s *Server) Serve(ctx context.Context, l net.Listener, config *tls.Config) error {
	if config == nil || config.ClientCAs == nil {
		return fmt.Errorf("serve the local API: the TLS configuration names no client CAs, so nobody could be let in")
	}
	config = config.Clone()
	// Clients without a certificate finish the handshake, so that they are told what is missing.
	config.ClientAuth = tls.RequestClientCert
	srv := &http.Server{
		Handler: s.authenticated(config.ClientCAs), TLSConfig: config,
		ReadHeaderTimeout: headerTimeout, IdleTimeout: idleTimeout, MaxHeaderBytes: maxHeader,
		ErrorLog:    slog.NewLogLogger(s.deps.Log.Handler(), slog.LevelDebug),
		BaseContext: func(net.Listener) context.Context { return ctx },
	}
	done := make(chan error, 1)
	go func() { done <- srv.ServeTLS(l, "", "") }()
	select {
	case err := <-done:
		return fmt.Errorf("serve the local API on %s: %w", l.Addr(), err)
	case <-ctx.Done():
	}
	stop, cancel := context.WithTimeout(context.WithoutCancel(ctx), shutdownTimeout)
	defer cancel()
	if err := srv.Shutdown(stop); err != nil {
		_ = srv.Close()
	}
	if err := <-done; !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serve the local API on %s: %w", l.Addr(), err)
	}
	return nil
}

// authenticated lets operators through to the API.
func (s *Server) authenticated(roots *x509.CertPool) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		who, err := s.callerOf(req, roots)
		if err != nil {
			s.deps.Log.Debug("local API: not authenticated", "remote", req.RemoteAddr, "err", err)
			s.fail(w, req, apierrors.NewUnauthorized(err.Error()))
			return
		}
		if !s.operator(who) {
			s.fail(w, req, apierrors.NewForbidden(schema.GroupResource{}, "", fmt.Errorf(
				"User %q is none of the operators of this node: its certificate needs the organization %s", who.GetName(), s.operators())))
			return
		}
		s.local.ServeHTTP(w, req.WithContext(request.WithUser(req.Context(), who)))
	})
}

// callerOf returns the subject of the client's certificate, verified at this edge's own time.
func (s *Server) callerOf(req *http.Request, roots *x509.CertPool) (user.Info, error) {
	if req.TLS == nil || len(req.TLS.PeerCertificates) == 0 {
		return nil, errors.New("a client certificate is needed")
	}
	leaf := req.TLS.PeerCertificates[0]
	opts := x509.VerifyOptions{
		Roots: roots, Intermediates: x509.NewCertPool(), CurrentTime: s.deps.Clock.Now(),
		KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}
	for _, c := range req.TLS.PeerCertificates[1:] {
		opts.Intermediates.AddCert(c)
	}
	if _, err := leaf.Verify(opts); err != nil {
		return nil, fmt.Errorf("the client certificate is not good here: %w", err)
	}
	if leaf.Subject.CommonName == "" {
		return nil, errors.New("the client certificate names no user (its common name is empty)")
	}
	groups := append(slices.Clone(leaf.Subject.Organization), user.AllAuthenticated)
	return &user.DefaultInfo{Name: leaf.Subject.CommonName, Groups: groups}, nil
}

func (s *Server) operator(who user.Info) bool {
	groups := who.GetGroups()
	return slices.Contains(groups, user.SystemPrivilegedGroup) ||
		(s.cfg.AdminGroup != "" && slices.Contains(groups, s.cfg.AdminGroup))
}

func (s *Server) operators() string {
	if s.cfg.AdminGroup == "" {
		return user.SystemPrivilegedGroup
	}
	return user.SystemPrivilegedGroup + " or " + s.cfg.AdminGroup
}
