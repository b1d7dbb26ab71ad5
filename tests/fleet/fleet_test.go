package fleet

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/tether-edge/tether/cloud/hub"
	"github.com/tether-edge/tether/cloud/state"
	"github.com/tether-edge/tether/cloud/state/statetest"
	"github.com/tether-edge/tether/common/object"
	"github.com/tether-edge/tether/common/pki"
	"github.com/tether-edge/tether/common/session"
	"github.com/tether-edge/tether/common/transport"
	"github.com/tether-edge/tether/common/wire"
	"github.com/tether-edge/tether/edge/link"
	"github.com/tether-edge/tether/tests/cluster"
)

const patience = 20 * time.Second

// caches presents the cache as the hub wants it.
type caches struct{ *state.Cache }

func (c caches) Subscribe(node string, notify func([]object.Key)) (session.View, func()) {
	return c.Cache.Subscribe(node, notify)
}

// nodes notes the sessions that the hub has.
type nodes struct {
	mu       sync.Mutex // guards what follows
	sessions map[string]string
	alive    map[string]time.Duration
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
}

func (n *nodes) Alive(node, _ string, leaseAge, _ time.Duration) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.alive[node] = leaseAge
}

func (n *nodes) Restored(string, object.Key, uint64, uint64) {}

func (n *nodes) session(node string) string {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.sessions[node]
}

func (n *nodes) count() (sessions, alive int) {
	n.mu.Lock()
	defer n.mu.Unlock()
	return len(n.sessions), len(n.alive)
}

// upstream takes every write, as the API server would, and counts them by operation.
type upstream struct {
	mu  sync.Mutex // guards all
	all map[wire.Op]int
}

func (u *upstream) Apply(_ context.Context, _ string, w *wire.Write) *wire.Result {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.all[w.Op]++
	return &wire.Result{Id: w.Id, Code: 200, Final: true}
}

func (*upstream) Call(context.Context, string, *wire.Call) *wire.Reply { return &wire.Reply{Code: 501} }

// count is how many writes of that operation came.
func (u *upstream) count(op wire.Op) int {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.all[op]
}

// realHub is a hub as cloudcore runs it, but for the API server.
type realHub struct {
	*hub.Hub
	api     *statetest.Cluster
	nodes   *nodes
	up      *upstream
	ca      *pki.CA
	address string
	reg     *prometheus.Registry
}

func newHub(t *testing.T) *realHub {
	t.Helper()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	log := slog.New(slog.NewTextHandler(t.Output(), nil))
	ca, err := pki.NewCA("edges", time.Hour, time.Now)
	must(err)
	dir := t.TempDir()
	must(ca.Save(dir))
	pair, err := ca.IssueServer([]string{"127.0.0.1"}, time.Hour)
	must(err)
	must(pair.Save(filepath.Join(dir, "server.crt"), filepath.Join(dir, "server.key")))
	identity, err := pki.NewIdentity(filepath.Join(dir, "server.crt"), filepath.Join(dir, "server.key"), log)
	must(err)
	clients, err := pki.NewAuthorities(filepath.Join(dir, pki.CACertFile), log)
	must(err)
	codec, err := wire.NewCompressor()
	must(err)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	must(err)

	h := &realHub{api: statetest.New(), nodes: &nodes{sessions: map[string]string{}, alive: map[string]time.Duration{}}, up: &upstream{all: map[wire.Op]int{}}, ca: ca, address: listener.Addr().String()}
	reg := prometheus.NewRegistry()
	h.reg = reg
	cache := state.New(state.Config{}, state.Deps{Source: h.api, Compressor: codec, Log: log, Registerer: reg})
	h.Hub = hub.New(hub.Config{MaxHandshakes: 16, HandshakeTimeout: patience, MaxSessions: 1000, MaxInFlightBytes: 1 << 20, Coalesce: time.Second / 4, Epoch: "one"},
		hub.Deps{Listener: listener, Identity: identity, Clients: clients, Caches: caches{cache}, Nodes: h.nodes, Upstream: h.up, Log: log, Registry: reg})
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() { _ = cache.Start(ctx) })
	must(cache.WaitSynced(t.Context()))
	wg.Go(func() { _ = h.Hub.Start(ctx) })
	t.Cleanup(func() {
		cancel()
		wg.Wait()
	})
	return h
}

// newFleet returns a fleet whose edges end with the test.
func (h *realHub) newFleet(t *testing.T) (*Fleet, context.Context, context.CancelFunc) {
	t.Helper()
	return h.newFleetThatPings(t, 200*time.Millisecond)
}

func (h *realHub) newFleetThatPings(t *testing.T, interval time.Duration) (*Fleet, context.Context, context.CancelFunc) {
	t.Helper()
	f, err := New(Config{Servers: []link.Server{{WebSocket: h.address}}, Host: "127.0.0.1", Prefix: "sim", PingInterval: interval, Starts: 8},
		Deps{CA: h.ca, Log: slog.New(slog.NewTextHandler(t.Output(), nil)), Now: time.Now})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 3*patience)
	t.Cleanup(func() {
		cancel()
		f.Wait()
	})
	return f, ctx, cancel
}

func TestFleetIsWhatTheHubTakesForEdges(t *testing.T) {
	h := newHub(t)
	h.api.Put(&corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: Name("sim", 0)}})
	f, ctx, cancel := h.newFleet(t)
	const edges = 30
	took, err := f.Grow(ctx, edges)
	if err != nil || took <= 0 {
		t.Fatalf("grow: took %s, %v", took, err)
	}
	if s := f.Status(); s.Edges != edges || s.Connected != edges || s.Synced != edges || s.Lost != 0 {
		t.Errorf("expected %d edges, all connected and synced and none lost, found %+v", edges, s)
	}
	if n, _ := h.nodes.count(); n != edges {
		t.Errorf("expected the hub to have %d sessions, found %d", edges, n)
	}
	cluster.Eventually(t, patience, "the one Node that there is to be reported, and no write to be left", func() error {
		if s := f.Status(); h.up.count(wire.Op_OP_OVERLAY) != 1 || s.Queued != 0 {
			return fmt.Errorf("%d reports came, %d wait", h.up.count(wire.Op_OP_OVERLAY), s.Queued)
		}
		return nil
	})
	cluster.Eventually(t, patience, "every edge to ping with a healthy lease", func() error {
		if _, alive := h.nodes.count(); alive != edges {
			return errCount(alive)
		}
		return nil
	})
	cancel()
	f.Wait()
	cluster.Eventually(t, patience, "the sessions to end with the fleet", func() error {
		if n, _ := h.nodes.count(); n != 0 {
			return errCount(n)
		}
		return nil
	})
}

func TestLostSessionIsCountedAndMadeAnew(t *testing.T) {
	h := newHub(t)
	h.api.Put(&corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: Name("sim", 0)}})
	f, ctx, _ := h.newFleet(t)
	if _, err := f.Grow(ctx, 1); err != nil {
		t.Fatal(err)
	}
	first := h.nodes.session(Name("sim", 0))
	h.End(Name("sim", 0), first)
	err := f.wait(ctx, func(s Status) bool { return s.Lost == 1 && s.Connected == 1 })
	if err != nil {
		t.Fatal(err)
	}
	if second := h.nodes.session(Name("sim", 0)); second == first || second == "" {
		t.Errorf("expected another session than %q, found %q", first, second)
	}
	if s := f.Status(); s.LastError == "" {
		t.Error("expected the reason of the lost session, found none")
	}
}

func errCount(n int) error { return fmt.Errorf("there are %d", n) }

// TestDroppedEdgesComeBackAndNothingIsCountedTwice: each lost session is counted once, however many attempts the next one takes.
func TestDroppedEdgesComeBackAndNothingIsCountedTwice(t *testing.T) {
	h := newHub(t)
	f, ctx, _ := h.newFleet(t)
	const edges = 10
	if _, err := f.Grow(ctx, edges); err != nil {
		t.Fatal(err)
	}
	if n := f.Drop(4); n != 4 {
		t.Fatalf("expected four connections to end, found %d", n)
	}
	if err := f.wait(ctx, func(s Status) bool { return s.Lost == 4 && s.Synced == edges }); err != nil {
		t.Fatal(err)
	}
	if s := f.Status(); s.Servers[h.address] != edges || s.Dials < edges+4 {
		t.Errorf("expected %d edges at %s after %d attempts or more, found %+v", edges, h.address, edges+4, s)
	}
}

// TestAStalledEdgeReadsNothingForSoLongAndTheOthersGoOn, and its session lasts.
func TestAStalledEdgeReadsNothingForSoLongAndTheOthersGoOn(t *testing.T) {
	h := newHub(t)
	const ping = 2 * time.Second
	f, ctx, _ := h.newFleetThatPings(t, ping)
	node := func(i int, label string) *corev1.Node {
		return &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: Name("sim", i), UID: "u", Labels: map[string]string{"a": label}}}
	}
	for i := range 2 {
		h.api.Put(node(i, "before"))
	}
	if _, err := f.Grow(ctx, 2); err != nil {
		t.Fatal(err)
	}
	const lasts = ping + time.Second // an edge gives up three pings and a second after the last answer, which may be a ping old
	until := time.Now().Add(lasts)
	stalled := f.Stall(1, lasts)
	if len(stalled) != 1 {
		t.Fatalf("expected one edge to stall, found %q", stalled)
	}
	_, v := h.api.Put(node(0, "after"))
	h.api.Put(node(1, "after"))
	q := Question{Kind: object.Nodes, Revision: v.RV} // each edge has one Node, and the second change is of a later revision
	var c Commits
	cluster.Eventually(t, patience, "both to commit", func() error {
		if c = f.Commits(q); c.Missing > 0 {
			return errCount(c.Missing)
		}
		return nil
	})
	for name, at := range c.At {
		switch slow := c.At[stalled[0]]; {
		case name == stalled[0] && time.Unix(0, at).Before(until):
			t.Errorf("%s committed %s before its stall's end", name, until.Sub(time.Unix(0, at)))
		case name != stalled[0] && at >= slow:
			t.Errorf("%s, which reads, committed %s after the one that stalls", name, time.Duration(at-slow))
		}
	}
	if s := f.Status(); s.Lost != 0 {
		t.Errorf("%d sessions were lost, want none", s.Lost)
	}
}

// TestConnectionsThatEdgesLeaveAreCounted: what a storm costs beyond its sessions.
func TestConnectionsThatEdgesLeaveAreCounted(t *testing.T) {
	h := newHub(t)
	f, ctx, _ := h.newFleet(t)
	if _, err := f.Grow(ctx, 1); err != nil {
		t.Fatal(err)
	}
	late, err := transport.Dial(ctx, h.address, f.all()[0].tls)
	if err != nil {
		t.Fatal(err)
	}
	if err := late.Close(); err != nil {
		t.Fatal(err)
	}
	cluster.Eventually(t, patience, "one connection to be counted as left", func() error {
		families, err := h.reg.Gather()
		if err != nil {
			return err
		}
		for _, m := range families {
			if m.GetName() == "tether_hub_abandoned_total" && m.Metric[0].Counter.GetValue() == 1 {
				return nil
			}
		}
		return errors.New("it is not")
	})
}
