package fleet

import (
	"context"
	"crypto/tls"
	"log/slog"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/tether-edge/tether/common/transport"
	"github.com/tether-edge/tether/edge/link"
)

// leaseAge is the age of the kubelet's lease that each edge claims: that of a healthy one.
const leaseAge = 5 * time.Second

// edge is one simulated edge.
type edge struct {
	fleet *Fleet
	name  string
	tls   *tls.Config
	store *store
	link  *link.Link
	// first is closed when the edge is connected for the first time.
	first chan struct{}
	once  sync.Once
	// over is closed when the fleet ends; it is set before the link starts.
	over <-chan struct{}

	mu sync.Mutex // guards what follows
	// streams were made since the last session ended: the present one's, and those of attempts that came too late, which the
	// link has closed.
	streams []transport.Stream
	stalled time.Time // until when it reads nothing
}

func (f *Fleet) newEdge(name string) (*edge, error) {
	config, err := f.identity(name)
	if err != nil {
		return nil, err
	}
	e := &edge{fleet: f, name: name, tls: config, store: newStore(name), first: make(chan struct{})}
	e.link, err = link.New(link.Config{Node: name, Servers: f.cfg.Servers, Protocols: []transport.Protocol{f.cfg.Protocol}, Software: "fleet",
		PingInterval: f.cfg.PingInterval},
		link.Deps{Dial: e.dial, Store: e.store, Connected: e.connected, LeaseAge: func() time.Duration { return leaseAge }, Codec: f.codec, Log: slog.New(&f.heard), Now: f.deps.Now,
			Registry: unread{}})
	return e, err
}

// run keeps the edge connected until ctx is done.
func (e *edge) run(ctx context.Context) {
	e.over = ctx.Done()
	_ = e.link.Start(ctx) // it returns nothing else but nil
}

// connected runs beside each session.
func (e *edge) connected(session context.Context) {
	e.once.Do(func() { close(e.first) })
	<-session.Done()
	e.mu.Lock()
	e.streams = nil
	e.mu.Unlock()
	select {
	case <-e.over:
	default:
		e.fleet.lost.Add(1)
	}
}

// dial makes one connection.
func (e *edge) dial(ctx context.Context, way link.Way) (s transport.Stream, err error) {
	e.fleet.dials.Add(1)
	if way.Protocol == transport.QUIC {
		s, err = transport.DialQUIC(ctx, way.Server, e.tls)
	} else {
		s, err = transport.Dial(ctx, way.Server, e.tls)
	}
	if err != nil {
		return nil, err
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.streams = append(e.streams, s)
	return stalling{s, e}, nil
}

// drop ends the edge's connection, and is false where it has none.
func (e *edge) drop() bool {
	if !e.link.Status().Connected {
		return false
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, s := range e.streams {
		_ = s.Close()
	}
	return len(e.streams) > 0
}

// unread takes metrics that nobody will ask for: a registry for each of ten thousand links would be most of their memory.
type unread struct{}

func (unread) Register(prometheus.Collector) error  { return nil }
func (unread) MustRegister(...prometheus.Collector) {}
func (unread) Unregister(prometheus.Collector) bool { return true }

// lastError is a log that keeps the last error that a link warned of, and passes warnings on.
type lastError struct {
	next slog.Handler

	mu   sync.Mutex // guards last
	last string
}

func (l *lastError) Enabled(_ context.Context, level slog.Level) bool { return level >= slog.LevelWarn }

func (l *lastError) Handle(ctx context.Context, r slog.Record) error {
	r.Attrs(func(a slog.Attr) bool {
		if a.Key == "error" {
			l.mu.Lock()
			l.last = a.Value.String()
			l.mu.Unlock()
		}
		return true
	})
	return l.next.Handle(ctx, r)
}

func (l *lastError) WithAttrs([]slog.Attr) slog.Handler { return l }
func (l *lastError) WithGroup(string) slog.Handler      { return l }

func (l *lastError) text() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.last
}
