package fleet

import (
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/tether-edge/tether/common/pki"
	"github.com/tether-edge/tether/common/transport"
)

// Config parametrizes a Fleet. The zero value of a field takes the default named beside it.
type Config struct {
	// Server is the hub's host:port; Host the name or address that its certificate is for.
	Server, Host string
	// Protocol carries the links: WebSocket, which is the default, or QUIC. Server is of its port.
	Protocol transport.Protocol
	// Prefix begins the names of the nodes: see Name (fleet).
	Prefix string
	// PingInterval is how often each edge pings (15 s).
	PingInterval time.Duration
	// Dials bounds the connections that are being made at one time (64).
	Dials int
	// DialTimeout bounds one of them (30 s).
	DialTimeout time.Duration
}

// Deps are what a Fleet takes from its surroundings. CA is the authority whose node certificates the hub accepts.
type Deps struct {
	CA  *pki.CA
	Log *slog.Logger
	Now func() time.Time
}

// Status is what the fleet counts.
type Status struct {
	Edges     int `json:"edges"`     // made
	Connected int `json:"connected"` // welcomed by the hub, and still connected
	Synced    int `json:"synced"`    // told by the hub that they hold everything, and still connected
	Lost      int `json:"lost"`      // sessions that ended or could not be made
	// LastError is of the session that was lost last.
	LastError string `json:"lastError,omitempty"`
}

// Fleet is a growing number of simulated edges.
type Fleet struct {
	cfg   Config
	deps  Deps
	roots *x509.CertPool
	dials chan struct{}
	wg    sync.WaitGroup

	mu      sync.Mutex // guards what follows
	status  Status
	changed chan struct{} // closed and replaced when status changes
}

// New returns a fleet without edges.
func New(cfg Config, deps Deps) *Fleet {
	cfg.Prefix = cmp.Or(cfg.Prefix, "fleet")
	cfg.PingInterval = cmp.Or(cfg.PingInterval, 15*time.Second)
	cfg.Dials = cmp.Or(cfg.Dials, 64)
	cfg.DialTimeout = cmp.Or(cfg.DialTimeout, 30*time.Second)
	f := &Fleet{cfg: cfg, deps: deps, roots: x509.NewCertPool(), dials: make(chan struct{}, cfg.Dials), changed: make(chan struct{})}
	f.roots.AddCert(deps.CA.Cert())
	return f
}

// Name is the name of the i-th node of a fleet, from 0.
func Name(prefix string, i int) string { return fmt.Sprintf("%s-%05d", prefix, i) }

// Grow adds edges until there are n, and returns once all n are connected and synced. took is the time from the first
// new dial until the last edge was welcomed; certificates are made before it begins. The edges live until ctx ends.
func (f *Fleet) Grow(ctx context.Context, n int) (took time.Duration, err error) {
	f.mu.Lock()
	from := f.status.Edges
	f.mu.Unlock()
	var edges []*edge
	for i := from; i < n; i++ {
		name := Name(f.cfg.Prefix, i)
		config, err := f.identity(name)
		if err != nil {
			return 0, err
		}
		edges = append(edges, &edge{fleet: f, name: name, tls: config, store: newStore()})
	}
	start := f.deps.Now()
	f.update(func(s *Status) { s.Edges += len(edges) })
	for _, e := range edges {
		f.wg.Add(1)
		go func() {
			defer f.wg.Done()
			e.run(ctx)
		}()
	}
	if err := f.wait(ctx, func(s Status) bool { return s.Connected >= n }); err != nil {
		return 0, err
	}
	took = f.deps.Now().Sub(start)
	return took, f.wait(ctx, func(s Status) bool { return s.Synced >= n })
}

// Wait returns when all edges have ended, which they do once the ctx of their Grow is done.
func (f *Fleet) Wait() { f.wg.Wait() }

// Status returns the present counts.
func (f *Fleet) Status() Status {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.status
}

// identity makes the TLS configuration of one node, with a certificate made on the spot.
func (f *Fleet) identity(name string) (*tls.Config, error) {
	pair, err := f.deps.CA.IssueNode(name, 24*time.Hour)
	if err != nil {
		return nil, fmt.Errorf("make the identity of %s: %w", name, err)
	}
	cert, err := tls.X509KeyPair(pair.Cert, pair.Key)
	if err != nil {
		return nil, fmt.Errorf("make the identity of %s: %w", name, err)
	}
	return &tls.Config{MinVersion: tls.VersionTLS13, RootCAs: f.roots, ServerName: f.cfg.Host, Certificates: []tls.Certificate{cert}}, nil
}

// dial makes one connection, once there is room for it.
func (f *Fleet) dial(ctx context.Context, config *tls.Config) (transport.Stream, error) {
	select {
	case f.dials <- struct{}{}:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	defer func() { <-f.dials }()
	ctx, cancel := context.WithTimeout(ctx, f.cfg.DialTimeout)
	defer cancel()
	if f.cfg.Protocol == transport.QUIC {
		return transport.DialQUIC(ctx, f.cfg.Server, config)
	}
	return transport.Dial(ctx, f.cfg.Server, config)
}

func (f *Fleet) update(change func(*Status)) {
	f.mu.Lock()
	defer f.mu.Unlock()
	change(&f.status)
	close(f.changed)
	f.changed = make(chan struct{})
}

func (f *Fleet) wait(ctx context.Context, ok func(Status) bool) error {
	for {
		f.mu.Lock()
		s, changed := f.status, f.changed
		f.mu.Unlock()
		if ok(s) {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return fmt.Errorf("wait for %d edges: %d are connected, %d synced, the last error was %q: %w", s.Edges, s.Connected, s.Synced, s.LastError, ctx.Err())
		}
	}
}
