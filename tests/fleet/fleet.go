package fleet

import (
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"github.com/tether-edge/tether/common/pki"
	"github.com/tether-edge/tether/common/transport"
	"github.com/tether-edge/tether/common/wire"
	"github.com/tether-edge/tether/edge/link"
)

// Config parametrizes a Fleet. The zero value of a field takes the default named beside it.
type Config struct {
	// Servers are the hubs that each edge knows; Host is the name or address that their certificates are for.
	Servers []link.Server
	Host    string
	// Protocol carries the links: WebSocket, which is the default, or QUIC.
	Protocol transport.Protocol
	// Prefix begins the names of the nodes, and First is the number of this fleet's first one: see Name (fleet, 0).
	Prefix string
	First  int
	// PingInterval is how often each edge pings (15 s).
	PingInterval time.Duration
	// Starts bounds the new edges that are on the way to their first session at one time (64). An edge that comes back is
	// bound by nothing but its own patience.
	Starts int
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
	Lost      int `json:"lost"`      // sessions that ended without the fleet's end
	Dials     int `json:"dials"`     // attempts to connect
	Queued    int `json:"queued"`    // writes that wait for an answer, or to be sent
	// Servers are the connected edges by the server that they are connected to.
	Servers map[string]int `json:"servers"`
	// LastError is what a link said last of a session that ended or could not be made.
	LastError string `json:"lastError,omitempty"`
}

// Fleet is a growing number of simulated edges.
type Fleet struct {
	cfg   Config
	deps  Deps
	roots *x509.CertPool
	codec *wire.Compressor
	wg    sync.WaitGroup
	lost  atomic.Int64
	dials atomic.Int64
	heard lastError

	mu    sync.Mutex // guards what follows
	edges []*edge
}

// New returns a fleet without edges.
func New(cfg Config, deps Deps) (*Fleet, error) {
	cfg.Protocol = cmp.Or(cfg.Protocol, transport.WebSocket)
	cfg.Prefix = cmp.Or(cfg.Prefix, "fleet")
	cfg.PingInterval = cmp.Or(cfg.PingInterval, 15*time.Second)
	cfg.Starts = cmp.Or(cfg.Starts, 64)
	codec, err := wire.NewSmallCompressor()
	if err != nil {
		return nil, err
	}
	f := &Fleet{cfg: cfg, deps: deps, codec: codec, roots: x509.NewCertPool()}
	f.roots.AddCert(deps.CA.Cert())
	f.heard.next = deps.Log.Handler()
	return f, nil
}

// Name is the name of the i-th node of a fleet, from 0.
func Name(prefix string, i int) string { return fmt.Sprintf("%s-%05d", prefix, i) }

// Grow adds edges until there are n, and returns once all n are synced. took is the time from the first new dial until the
// last edge was connected; certificates are made before it begins. The edges live until ctx ends.
func (f *Fleet) Grow(ctx context.Context, n int) (took time.Duration, err error) {
	var made []*edge
	for i := len(f.all()); i < n; i++ {
		e, err := f.newEdge(Name(f.cfg.Prefix, f.cfg.First+i))
		if err != nil {
			return 0, err
		}
		made = append(made, e)
	}
	f.mu.Lock()
	f.edges = append(f.edges, made...)
	f.mu.Unlock()
	start := f.deps.Now()
	starts := make(chan struct{}, f.cfg.Starts)
	for _, e := range made {
		select {
		case starts <- struct{}{}:
		case <-ctx.Done():
			return 0, f.short(ctx)
		}
		f.wg.Go(func() { e.run(ctx) })
		f.wg.Go(func() {
			select {
			case <-e.first:
			case <-ctx.Done():
			}
			<-starts
		})
	}
	for _, e := range made {
		select {
		case <-e.first:
		case <-ctx.Done():
			return 0, f.short(ctx)
		}
	}
	took = f.deps.Now().Sub(start)
	return took, f.wait(ctx, func(s Status) bool { return s.Synced >= n })
}

// Wait returns when all edges have ended, which they do once the ctx of their Grow is done.
func (f *Fleet) Wait() { f.wg.Wait() }

// Status returns the present counts.
func (f *Fleet) Status() Status {
	s := Status{Lost: int(f.lost.Load()), Dials: int(f.dials.Load()), Servers: map[string]int{}, LastError: f.heard.text()}
	for _, e := range f.all() {
		s.Edges++
		s.Queued += e.store.queued()
		l := e.link.Status()
		if !l.Connected {
			continue
		}
		s.Connected++
		s.Servers[l.Server]++
		if l.Synced {
			s.Synced++
		}
	}
	return s
}

// Sessions are the names of the sessions of connected edges, by node.
func (f *Fleet) Sessions() map[string]string {
	all := map[string]string{}
	for _, e := range f.all() {
		if l := e.link.Status(); l.Connected {
			all[e.name] = l.Session
		}
	}
	return all
}

// Drop ends the connections of n edges that have one, chosen at random, without a goodbye of the link. It returns
// how many there were.
func (f *Fleet) Drop(n int) int {
	all := f.all()
	rand.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
	dropped := 0
	for _, e := range all {
		if dropped < n && e.drop() {
			dropped++
		}
	}
	return dropped
}

// all is a copy of the list of edges.
func (f *Fleet) all() []*edge {
	f.mu.Lock()
	defer f.mu.Unlock()
	return append([]*edge(nil), f.edges...)
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

// look is how often a condition is looked at: with ten thousand edges a look costs a millisecond.
const look = 20 * time.Millisecond

func (f *Fleet) wait(ctx context.Context, ok func(Status) bool) error {
	tick := time.NewTicker(look)
	defer tick.Stop()
	for !ok(f.Status()) {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return f.short(ctx)
		}
	}
	return nil
}

// short says what is missing.
func (f *Fleet) short(ctx context.Context) error {
	s := f.Status()
	return fmt.Errorf("wait for %d edges: %d are connected, %d synced, the last error was %q: %w", s.Edges, s.Connected, s.Synced, s.LastError, ctx.Err())
}
