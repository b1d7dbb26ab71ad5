package link

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"

	"github.com/tether-edge/tether/cloud/hub"
	"github.com/tether-edge/tether/common/object"
	"github.com/tether-edge/tether/common/pki"
	"github.com/tether-edge/tether/common/session"
	"github.com/tether-edge/tether/common/transport"
	"github.com/tether-edge/tether/common/wire"
)

// protocol carries every link of the running tests.
var protocol transport.Protocol

func TestMain(m *testing.M) { goleak.VerifyTestMain(twice{m}) }

// twice runs all tests once over each protocol.
type twice struct{ m *testing.M }

func (t twice) Run() int {
	code := 0
	for _, protocol = range []transport.Protocol{transport.WebSocket, transport.QUIC} {
		fmt.Println("over", protocol)
		code = max(code, t.m.Run())
	}
	return code
}

func dial(ctx context.Context, server string, config *tls.Config) (transport.Stream, error) {
	if protocol == transport.QUIC {
		return transport.DialQUIC(ctx, server, config)
	}
	return transport.Dial(ctx, server, config)
}

// listen opens the hub's port for TCP, and for UDP by the same number.
func listen(addr string) (net.Listener, net.PacketConn, error) {
	l, err := net.Listen("tcp", addr)
	if err != nil {
		return nil, nil, err
	}
	p, err := net.ListenPacket("udp", l.Addr().String())
	if err != nil {
		return nil, nil, errors.Join(err, l.Close())
	}
	return l, p, nil
}

const day = 24 * time.Hour

func quiet() *slog.Logger { return slog.New(slog.DiscardHandler) }

// eventually waits for a condition, 20 s at most.
func eventually(t *testing.T, what string, cond func() bool) {
	t.Helper()
	within(t, 20*time.Second, what, cond)
}

func within(t *testing.T, limit time.Duration, what string, cond func() bool) {
	t.Helper()
	deadline := time.After(limit)
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for !cond() {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("not within %s: %s", limit, what)
		}
	}
}

// caches are the cluster: every node sees its own Node and all that has a namespace.
type caches struct {
	mu      sync.Mutex // guards all below
	cold    bool
	rv      uint64
	objects map[object.Key]object.Item
	subs    map[int]func([]object.Key)
	nextSub int
}

func newCaches() *caches {
	return &caches{rv: 100, objects: map[object.Key]object.Item{}, subs: map[int]func([]object.Key){}}
}

func (c *caches) Synced() bool { c.mu.Lock(); defer c.mu.Unlock(); return !c.cold }

func (c *caches) Subscribe(node string, notify func([]object.Key)) (session.View, func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.nextSub++
	id := c.nextSub
	c.subs[id] = notify
	return &view{c, object.Key{Kind: object.Nodes, Name: node}}, func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		delete(c.subs, id)
	}
}

func (c *caches) ServerRevision(context.Context) (uint64, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.rv, nil
}

func (c *caches) subscribers() int { c.mu.Lock(); defer c.mu.Unlock(); return len(c.subs) }

// change puts an object, or removes it where body is nil, and tells every session. It returns how long that took.
func (c *caches) change(k object.Key, body []byte) time.Duration {
	c.mu.Lock()
	c.rv++
	if body == nil {
		delete(c.objects, k)
	} else {
		uid := "uid-" + k.Name
		c.objects[k] = object.Item{Version: object.Version{UID: uid, RV: c.rv}, Body: body}
	}
	var subs []func([]object.Key)
	for _, n := range c.subs {
		subs = append(subs, n)
	}
	c.mu.Unlock()
	start := time.Now()
	for _, n := range subs {
		n([]object.Key{k})
	}
	return time.Since(start)
}

type view struct {
	*caches
	node object.Key
}

func (v *view) sees(k object.Key) bool { return k.Kind != object.Nodes || k == v.node }

func (v *view) List(kind object.ID, visit func(object.Key, object.Version)) {
	v.mu.Lock()
	defer v.mu.Unlock()
	for k, o := range v.objects {
		if k.Kind == kind && v.sees(k) {
			visit(k, o.Version)
		}
	}
}

func (v *view) Get(k object.Key) (object.Item, bool) {
	v.mu.Lock()
	defer v.mu.Unlock()
	o, ok := v.objects[k]
	return o, ok && v.sees(k)
}

func (v *view) Cause(object.Key, string, string) object.Cause { return object.CauseDeleted }
func (v *view) Pending(object.Key) bool                       { return false }
func (v *view) Revision(object.ID) uint64                     { v.mu.Lock(); defer v.mu.Unlock(); return v.rv }
func (v *view) NodeUID() string                               { o, _ := v.Get(v.node); return o.Version.UID }
func (v *view) Kinds() []object.ID {
	return []object.ID{object.Nodes, object.ConfigMaps, object.Pods}
}

// upstream is the API server.
type upstream struct {
	mu     sync.Mutex // guards all below
	writes []string
	apply  func(node string, w *wire.Write) *wire.Result
	call   func(ctx context.Context, node string, c *wire.Call) *wire.Reply
}

func (u *upstream) Apply(_ context.Context, node string, w *wire.Write) *wire.Result {
	u.mu.Lock()
	u.writes = append(u.writes, fmt.Sprintf("%s %s/%s", node, w.Kind, w.Name))
	f := u.apply
	u.mu.Unlock()
	if f == nil {
		return &wire.Result{Code: 200, Final: true}
	}
	return f(node, w)
}

func (u *upstream) Call(ctx context.Context, node string, c *wire.Call) *wire.Reply {
	if u.call == nil {
		return &wire.Reply{Code: 200, Body: []byte(node + " " + c.Verb + " " + c.Name)}
	}
	return u.call(ctx, node, c)
}

func (u *upstream) seen() []string { u.mu.Lock(); defer u.mu.Unlock(); return slices.Clone(u.writes) }

// nodes remembers who came and went.
type nodes struct {
	mu        sync.Mutex // guards all below
	sessions  map[string]string
	ended     []string
	leaseAges map[string]time.Duration
}

func (n *nodes) Connected(node, session, _ string, _ transport.Protocol) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.sessions[node] = session
}

func (n *nodes) Disconnected(node, session string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.sessions[node] == session {
		delete(n.sessions, node)
	}
	n.ended = append(n.ended, session)
}

func (n *nodes) Alive(node, _ string, age, _ time.Duration) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.leaseAges[node] = age
}

func (n *nodes) Restored(string, object.Key, uint64, uint64) {}

func (n *nodes) session(node string) string {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.sessions[node]
}

// connected are the nodes that have a session.
func (n *nodes) connected() []string {
	n.mu.Lock()
	defer n.mu.Unlock()
	return slices.Sorted(maps.Keys(n.sessions))
}

// world is a hub and what it needs; edges join it.
type world struct {
	t      *testing.T
	ca     *pki.CA
	trust  *pki.Authorities
	server *pki.Identity
	addr   string
	caches *caches
	up     *upstream
	nodes  *nodes
	cfg    hub.Config
	hub    *hub.Hub // the present one
	// revoked names the nodes whose certificates are revoked.
	revoked sync.Map
	stop    func()
	log     *slog.Logger // the hub's
}

func newWorld(t *testing.T, change func(*hub.Config)) *world {
	t.Helper()
	ca, err := pki.NewCA("edge CA", 3650*day, time.Now)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	if err := ca.Save(dir); err != nil {
		t.Fatal(err)
	}
	trust, err := pki.NewAuthorities(filepath.Join(dir, pki.CACertFile), quiet())
	if err != nil {
		t.Fatal(err)
	}
	w := &world{t: t, ca: ca, trust: trust, caches: newCaches(), up: &upstream{}, addr: "127.0.0.1:0", log: quiet(),
		nodes: &nodes{sessions: map[string]string{}, leaseAges: map[string]time.Duration{}},
		cfg: hub.Config{MaxHandshakes: 64, HandshakeTimeout: 5 * time.Second, MaxSessions: 1000, MaxInFlightBytes: 256 << 10,
			Coalesce: 20 * time.Millisecond, Epoch: "e1", Features: []string{session.FeatureTunnel}}}
	if change != nil {
		change(&w.cfg)
	}
	w.server = w.identity(ca.IssueServer([]string{"127.0.0.1"}, 30*day))
	l, p, err := listen(w.addr)
	if err != nil {
		t.Fatal(err)
	}
	w.addr = l.Addr().String()
	w.serve(l, p)
	return w
}

func (w *world) identity(p pki.Pair, err error) *pki.Identity {
	w.t.Helper()
	if err != nil {
		w.t.Fatal(err)
	}
	dir := w.t.TempDir()
	cert, key := filepath.Join(dir, "tls.crt"), filepath.Join(dir, "tls.key")
	if err := p.Save(cert, key); err != nil {
		w.t.Fatal(err)
	}
	id, err := pki.NewIdentity(cert, key, quiet())
	if err != nil {
		w.t.Fatal(err)
	}
	return id
}

// serve runs a hub on l and p. w.stop ends it, and so does the end of the test.
func (w *world) serve(l net.Listener, p net.PacketConn) {
	h := hub.New(w.cfg, hub.Deps{Listener: l, Packets: p, ResetKey: &[32]byte{1}, Identity: w.server, Clients: w.trust, Caches: w.caches, Upstream: w.up,
		Nodes: w.nodes, Log: w.log, Registry: prometheus.NewRegistry(),
		Revoked: func(node string, _ *x509.Certificate) bool { _, ok := w.revoked.Load(node); return ok }})
	w.hub = h
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- h.Start(ctx) }()
	w.stop = sync.OnceFunc(func() {
		cancel()
		select {
		case err := <-done:
			if err != nil {
				w.t.Errorf("hub: %v", err)
			}
		case <-time.After(20 * time.Second):
			w.t.Error("the hub did not stop within 20 s")
		}
	})
	w.t.Cleanup(w.stop)
}

// restart runs a new hub at the address of the former one.
func (w *world) restart() {
	w.t.Helper()
	var l net.Listener
	var p net.PacketConn
	eventually(w.t, "the hub's port is free again", func() (ok bool) {
		var err error
		l, p, err = listen(w.addr)
		return err == nil
	})
	w.serve(l, p)
}

func configMap(name string) object.Key {
	return object.Key{Kind: object.ConfigMaps, Namespace: "default", Name: name}
}
