package link

import (
	"context"
	"crypto/tls"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/tether-edge/tether/common/object"
	"github.com/tether-edge/tether/common/pki"
	"github.com/tether-edge/tether/common/session"
	"github.com/tether-edge/tether/common/transport"
	"github.com/tether-edge/tether/common/wire"
	"github.com/tether-edge/tether/edge/link"
)

// row is what a store holds of an object.
type row struct {
	object.Version
	body string
}

// store is an edge's database in memory.
type store struct {
	id string

	mu      sync.Mutex // guards all below
	epoch   string
	rows    map[object.Key]row
	synced  int
	queue   map[uint64]object.Outgoing
	added   []session.Head
	commits int
	// asserted counts how often all was queued again.
	asserted int
	more     chan struct{} // of the open outbox; nil if none is
}

func newStore(id string) *store {
	return &store{id: id, rows: map[object.Key]row{}, queue: map[uint64]object.Outgoing{}}
}

func (s *store) Digests(context.Context) (map[object.ID]object.Digest, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := map[object.ID]object.Digest{}
	for k, r := range s.rows {
		d := out[k.Kind]
		d.Add(k, r.Version)
		out[k.Kind] = d
	}
	return out, nil
}

func (s *store) Inventory(_ context.Context, kind object.ID, visit func(object.Key, object.Version) error) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	for k, r := range s.rows {
		if k.Kind == kind {
			if err := visit(k, r.Version); err != nil {
				return err
			}
		}
	}
	return nil
}

func (s *store) NodeUID(context.Context) (string, error) { return "", nil }
func (s *store) ID() string                              { return s.id }
func (s *store) Epoch() string                           { s.mu.Lock(); defer s.mu.Unlock(); return s.epoch }
func (s *store) SetEpoch(_ context.Context, e string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.epoch = e
	return nil
}

func (s *store) AssertAll(context.Context) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.asserted++
	return nil
}

func (s *store) ApplyBatch(_ context.Context, items []link.Incoming) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, it := range items {
		if it.Cause != 0 {
			delete(s.rows, it.Key)
		} else {
			s.rows[it.Key] = row{it.Version, string(it.Body)}
		}
	}
	s.commits += len(items)
	return nil
}

func (s *store) MarkSynced(context.Context, []object.ID) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.synced++
	return nil
}

func (s *store) Outbox(context.Context) (link.Outbox, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.added = nil
	for id, o := range s.queue {
		s.added = append(s.added, session.Head{ID: id, Key: o.Key})
	}
	s.more = make(chan struct{}, 1)
	return outbox{s}, nil
}

type outbox struct{ *store }

func (o outbox) C() <-chan struct{} { o.mu.Lock(); defer o.mu.Unlock(); return o.more }
func (o outbox) Close()             { o.mu.Lock(); defer o.mu.Unlock(); o.more = nil }
func (o outbox) Take(context.Context) ([]session.Head, []uint64, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	added := o.added
	o.added = nil
	return added, nil, nil
}

// write queues a write as the local API does.
func (s *store) write(id uint64, k object.Key) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.queue[id] = object.Outgoing{ID: id, Key: k, Op: object.OpOverlay, Body: []byte("{}"), Created: time.Now()}
	s.added = append(s.added, session.Head{ID: id, Key: k})
	select {
	case s.more <- struct{}{}:
	default:
	}
}

func (s *store) Load(_ context.Context, id uint64) (object.Outgoing, bool, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	o, ok := s.queue[id]
	return o, ok, nil
}

func (s *store) Drop(_ context.Context, id uint64) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.queue, id)
	return nil
}

func (s *store) Dropped() []uint64 { return nil }

func (s *store) get(k object.Key) string { s.mu.Lock(); defer s.mu.Unlock(); return s.rows[k].body }
func (s *store) waiting() int            { s.mu.Lock(); defer s.mu.Unlock(); return len(s.queue) }
func (s *store) committed() int          { s.mu.Lock(); defer s.mu.Unlock(); return s.commits }

// edge is a Link with its store. stop ends it, and so does the end of the test.
type edge struct {
	*link.Link
	store *store
	reg   *prometheus.Registry
	stop  func()
	// hubTime is what the hub's clock said at the last connect.
	hubTime atomic.Pointer[time.Time]
	// doubts counts the connects at which the cloud may have lost what was delivered.
	doubts atomic.Int64
}

// edgeConfig says what is not usual about an edge.
type edgeConfig struct {
	cert  string // name in the certificate; node if empty
	store string
	addr  string // the hub's if empty
	// further is another hub's; empty if there is none.
	further string
	ping    time.Duration
	clock   pki.Clock
	// tunnel serves the hub's streams.
	tunnel func(context.Context, net.Conn)
}

func (w *world) join(node string, c edgeConfig) *edge {
	w.t.Helper()
	if c.cert == "" {
		c.cert = node
	}
	if c.store == "" {
		c.store = "store of " + node
	}
	if c.addr == "" {
		c.addr = w.addr
	}
	if c.ping == 0 && c.addr != w.addr && protocol == transport.QUIC {
		c.ping = 200 * time.Millisecond // nothing else tells of a proxy that cuts
	}
	if c.clock == nil {
		c.clock = time.Now
	}
	servers := []link.Server{{WebSocket: c.addr, QUIC: c.addr}}
	if c.further != "" {
		servers = append(servers, link.Server{WebSocket: c.further, QUIC: c.further})
	}
	id := w.identity(w.ca.IssueNode(c.cert, 30*day))
	e := &edge{store: newStore(c.store), reg: prometheus.NewRegistry()}
	var err error
	e.Link, err = link.New(link.Config{Node: node, Servers: servers, Protocols: []transport.Protocol{protocol}, Software: "test", PingInterval: c.ping}, link.Deps{
		Dial: func(ctx context.Context, way link.Way) (transport.Stream, error) {
			s, err := dial(ctx, way.Server, pki.ClientTLS(id, w.trust, "127.0.0.1", c.clock))
			return s, pki.Explain(err, c.clock)
		},
		Tunnel: c.tunnel,
		DialTunnel: func(ctx context.Context, way link.Way, session string) (*transport.TunnelConn, error) {
			return transport.DialTunnel(ctx, nil, way.Server, session, pki.ClientTLS(id, w.trust, "127.0.0.1", c.clock))
		},
		Doubted:    func() { e.doubts.Add(1) },
		ServerTime: func(hub time.Time) { e.hubTime.Store(&hub) },
		Store:      e.store, LeaseAge: func() time.Duration { return 5 * time.Second }, Log: quiet(), Now: c.clock, Registry: e.reg})
	if err != nil {
		w.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { defer close(done); _ = e.Start(ctx) }()
	e.stop = sync.OnceFunc(func() { cancel(); <-done })
	w.t.Cleanup(e.stop)
	return e
}

func (e *edge) up() bool { s := e.Status(); return s.Connected && s.Synced }

// raw is a peer of the hub that sends what the test wants.
type raw struct {
	t *testing.T
	transport.Stream
}

func (w *world) raw(node string) *raw {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(w.t.Context(), 20*time.Second)
	defer cancel()
	s, err := dial(ctx, w.addr, w.clientTLS(node))
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { _ = s.Close() })
	return &raw{w.t, s}
}

// clientTLS is what a node dials with.
func (w *world) clientTLS(node string) *tls.Config {
	w.t.Helper()
	return pki.ClientTLS(w.identity(w.ca.IssueNode(node, 30*day)), w.trust, "127.0.0.1", time.Now)
}

func (r *raw) send(frames ...*wire.Frame) {
	r.t.Helper()
	var b []byte
	for _, f := range frames {
		var err error
		if b, err = wire.Append(b, f); err != nil {
			r.t.Fatal(err)
		}
	}
	if _, err := r.Write(b); err != nil {
		r.t.Fatal(err)
	}
}

func (r *raw) hello(node string) {
	r.t.Helper()
	r.send(&wire.Frame{Body: &wire.Frame_Hello{Hello: &wire.Hello{Versions: wire.Versions(), Node: node, Store: "raw " + node,
		Kinds: []*wire.KindDigest{{Kind: "configmaps"}, {Kind: "nodes"}, {Kind: "pods"}}}}})
}

// next reads one frame; an error is the test's end.
func (r *raw) next() *wire.Frame {
	r.t.Helper()
	_ = r.SetReadDeadline(time.Now().Add(20 * time.Second))
	f, err := wire.Read(r, wire.MaxFrame)
	if err != nil {
		r.t.Fatal(err)
	}
	return f
}

// goodbye reads until the hub says goodbye.
func (r *raw) goodbye() *wire.Goodbye {
	r.t.Helper()
	for {
		if g := r.next().GetGoodbye(); g != nil {
			return g
		}
	}
}
