package methods

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/tether-edge/tether/apis/devices/v1beta1"
	dmi "github.com/tether-edge/tether/apis/dmi/v1beta1"
	"github.com/tether-edge/tether/common/pki"
	"github.com/tether-edge/tether/common/twin"
)

// Server serves devices over HTTP. Make it with New.
type Server struct {
	cfg  Config
	deps Deps
	m    *metrics
	desk *desk
	gate *gate

	mu        sync.Mutex // guards addresses
	addresses []string
}

// New returns a Server that hears of reports at once and serves from Start on.
func New(cfg Config, deps Deps) *Server {
	s := &Server{cfg: cfg.withDefaults(), deps: deps}
	s.desk = newDesk(s.cfg, deps)
	s.gate = newGate(s.cfg.MaxConnections)
	s.m = newMetrics(deps.Registry, s.desk.calls, s.desk.remembered, s.gate.count)
	s.desk.m, s.gate.m = s.m, s.m
	return s
}

// Reporting hears what a mapper reports of a device, before it is stored. The notes are to be stored in the same transaction; said
// is to be called with how that went, whatever happens: the next report of the device that calls wait for waits for it. Reporting
// also waits until the calls of former processes are known. The error is ctx's.
func (s *Server) Reporting(ctx context.Context, namespace, name string, twins []v1beta1.Twin) (notes []Note, said func(error), err error) {
	return s.desk.reporting(ctx, namespace, name, twins)
}

// Given hears that the mapper of a device knows it as it is here. It does not block.
func (s *Server) Given(d *dmi.Device) { s.desk.given(d) }

// Changed hears how properties of a device are now, nil for one that is not there any more, in the order of the changes. It does
// not block.
func (s *Server) Changed(namespace, name string, current map[string]*twin.Property) {
	s.desk.changed(namespace, name, current)
}

// Gone hears that the node has a device no more. It does not block.
func (s *Server) Gone(namespace, name string) { s.desk.gone(namespace, name) }

// Addresses are where it listens, host:port, without TLS first.
func (s *Server) Addresses() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.addresses
}

// retryLoad is how long it waits before it reads again what the store did not give.
const retryLoad = time.Second

// Start serves until ctx is done, and may be called again when it failed. The error says what is wrong with a port or its
// certificate. Calls that are waited for when it ends are answered with 503; they go on at the next start.
func (s *Server) Start(ctx context.Context) error {
	for !s.desk.open() {
		if err := s.desk.load(ctx); err != nil {
			s.m.failures.Inc()
			s.deps.Log.Error("cannot read which methods were called, trying again", "error", err)
			select {
			case <-time.After(retryLoad):
			case <-ctx.Done():
				return nil
			}
		}
	}
	ctx, cancel := context.WithCancel(ctx)
	s.desk.live(ctx)
	defer s.desk.rest()
	defer cancel()
	listeners, err := s.listen()
	if err != nil {
		return err
	}
	server := &http.Server{Handler: &handler{s}, ReadHeaderTimeout: s.cfg.Patience, IdleTimeout: time.Minute, MaxHeaderBytes: 16 << 10,
		// One request at a time on a connection, so that connections bound requests.
		TLSNextProto: map[string]func(*http.Server, *tls.Conn, http.Handler){}, ConnState: s.gate.state, ConnContext: s.gate.known,
		ErrorLog: slog.NewLogLogger(s.deps.Log.Handler(), slog.LevelDebug)}
	ended := make(chan error, len(listeners))
	for _, l := range listeners {
		go func() { ended <- server.Serve(l) }()
	}
	left := len(listeners)
	select {
	case <-ctx.Done():
		err = nil
	case err = <-ended:
		left--
		err = fmt.Errorf("serve devices: %w", err)
	}
	cancel() // requests that wait are answered
	last, done := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer done()
	if server.Shutdown(last) != nil {
		_ = server.Close()
	}
	for range left {
		<-ended
	}
	return err
}

// listen opens the ports.
func (s *Server) listen() (all []net.Listener, err error) {
	defer func() {
		if err != nil {
			for _, l := range all {
				_ = l.Close()
			}
		}
	}()
	if s.cfg.Listen != "" {
		l, err := net.Listen("tcp", s.cfg.Listen)
		if err != nil {
			return nil, fmt.Errorf("listen for devices: %w", err)
		}
		all = append(all, &door{l, s.gate})
	}
	if s.cfg.ListenTLS != "" {
		identity, err := pki.NewIdentity(s.cfg.CertFile, s.cfg.KeyFile, s.deps.Log)
		if err != nil {
			return all, fmt.Errorf("certificate of the TLS port for devices: %w", err)
		}
		l, err := net.Listen("tcp", s.cfg.ListenTLS)
		if err != nil {
			return all, fmt.Errorf("listen for devices with TLS: %w", err)
		}
		all = append(all, tls.NewListener(&door{l, s.gate}, &tls.Config{MinVersion: tls.VersionTLS12, NextProtos: []string{"http/1.1"},
			GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return identity.Certificate(), nil }}))
	}
	if len(all) == 0 {
		return nil, errors.New("listen for devices: expected an address")
	}
	addresses := make([]string, len(all))
	for i, l := range all {
		addresses[i] = l.Addr().String()
	}
	s.mu.Lock()
	s.addresses = addresses
	s.mu.Unlock()
	s.deps.Log.Info("devices are served over HTTP", "addresses", addresses)
	return all, nil
}
