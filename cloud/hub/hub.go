// Package hub accepts edges and runs one session for each: it authenticates them by their certificates, joins
// common/session's state machine to the stream, the caches, the applier of writes and the keeper of nodes.
//
// It promises that a node's name comes from the verified certificate and from nothing else (I6), that one slow, broken
// or hostile edge costs the others nothing (I9), that an idle session holds one goroutine of its own and no buffers, and that of two
// edges with one name only one is served, with a word in the log about the other. cloud/cloudcore wires it.
package hub

import (
	"cmp"
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/tether-edge/tether/common/object"
	"github.com/tether-edge/tether/common/pki"
	"github.com/tether-edge/tether/common/session"
	"github.com/tether-edge/tether/common/transport"
	"github.com/tether-edge/tether/common/wire"
)

// Caches are the shared pictures of the cluster.
type Caches interface {
	// Synced reports that every kind was listed once; before that no edge is let in (I8).
	Synced() bool
	// Subscribe returns a node's view. notify is told of keys that may have changed for it; it does not block for
	// long and is called under no lock that the view takes.
	Subscribe(node string, notify func([]object.Key)) (view session.View, cancel func())
	// ServerRevision asks the API server itself for its resourceVersion.
	ServerRevision(ctx context.Context) (uint64, error)
}

// Upstream carries what edges want from the API server, in their names.
type Upstream interface {
	// Apply applies a write and says whether the answer is final. It returns within its own time limit.
	Apply(ctx context.Context, node string, w *wire.Write) *wire.Result
	// Call makes one request for the node. It returns within its own time limit.
	Call(ctx context.Context, node string, c *wire.Call) *wire.Reply
}

// Nodes hears which edges are here. Its methods do not block.
type Nodes interface {
	Connected(node, session, address string, protocol transport.Protocol)
	Disconnected(node, session string)
	// Alive tells how long ago the node's kubelet renewed its lease; negative where it never did.
	Alive(node, session string, leaseAge, pingInterval time.Duration)
	// Restored tells that the API server is older than what an edge has seen: once for each restore, by the first edge.
	Restored(node string, key object.Key, held, server uint64)
}

// Config parametrizes a Hub.
type Config struct {
	MaxHandshakes    int
	HandshakeTimeout time.Duration
	MaxSessions      int
	MaxInFlightBytes int
	// ConnectRate is how many sessions may begin in a second; 0 is no bound.
	ConnectRate float64
	// MaxHeldBytes is for all sessions together, half for what they send and half for what they are sent; see budget.
	MaxHeldBytes int64
	Coalesce     time.Duration
	// Epoch names the cluster's history; see wire.Welcome.
	Epoch    string
	Features []string
	// Address is where this CloudCore is, for other replicas and people.
	Address string
}

// Deps are what a Hub works with.
type Deps struct {
	Listener net.Listener
	// Packets, if not nil, accepts edges over QUIC. ResetKey is the same at every start: edges of a hub that was killed
	// notice it at their next packet.
	Packets  net.PacketConn
	ResetKey *[32]byte
	Identity pki.Presenter
	Clients  pki.Roots
	// Revoked reports whether a node's certificate is revoked; nil revokes none. After a change call Recheck.
	Revoked  func(node string, cert *x509.Certificate) bool
	Caches   Caches
	Upstream Upstream
	Nodes    Nodes
	Log      *slog.Logger
	Now      func() time.Time
	Registry prometheus.Registerer
}

// Hub is the component that edges connect to.
type Hub struct {
	cfg     Config
	deps    Deps
	metrics *metrics
	began   time.Time
	// arriving is for what edges send, replies for what they are sent: see budget.
	arriving, replies *budget
	admission         *admission
	// instance tells this hub's sessions from those of other replicas and of earlier starts.
	instance string
	serial   atomic.Uint64
	// strangers are features of edges that this version does not know.
	strangers session.Strangers

	// mu guards all below; open is counted up only while draining is false.
	mu       sync.Mutex
	sessions map[string]*conn // by node
	epoch    string
	restores int
	// restoredAt is when the epoch last changed.
	restoredAt time.Time
	draining   bool
	// within is the time in which the edges of a hub that is draining come back.
	within time.Duration
	// moved is when edges were sent to other CloudCores, by node.
	moved map[string]time.Time
	open  sync.WaitGroup
}

// New returns a Hub that does not yet listen.
func New(cfg Config, deps Deps) *Hub {
	if deps.Now == nil {
		deps.Now = time.Now
	}
	h := &Hub{cfg: cfg, deps: deps, began: deps.Now(), admission: newAdmission(cfg.ConnectRate),
		instance: fmt.Sprintf("%08x", rand.Uint32()), sessions: map[string]*conn{}, moved: map[string]time.Time{}, epoch: cfg.Epoch}
	held := cmp.Or(cfg.MaxHeldBytes, 256<<20)
	h.arriving, h.replies = newBudget(held/4), newBudget(held/2)
	h.metrics = newMetrics(deps.Registry, h.countBy, map[string]*budget{"writes": h.arriving, "replies": h.replies})
	return h
}

// Start accepts edges until ctx is done, then says goodbye to all and waits for their sessions to end.
func (h *Hub) Start(ctx context.Context) error {
	// Sessions outlive the listener by the time that their goodbye takes.
	sctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	srv := transport.NewServer(transport.ServerConfig{
		TLS:           pki.ServerTLS(h.deps.Identity, h.deps.Clients, h.deps.Now),
		MaxHandshakes: h.cfg.MaxHandshakes, HandshakeTimeout: h.cfg.HandshakeTimeout,
		Admit: h.admit, Tunnel: h.tunnelFor, Revoked: h.revokedPeer, Waiting: h.waitingRoom(), Left: h.metrics.abandoned.Inc, Log: h.deps.Log,
	}, func(s transport.Stream, greeted func()) { h.accept(sctx, s, greeted) })
	err := h.serve(ctx, srv)
	h.drain()
	cancel()
	h.open.Wait()
	return errors.Join(err, srv.Close())
}

// serve listens until ctx is done or one of the listeners fails.
func (h *Hub) serve(ctx context.Context, srv *transport.Server) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	overQUIC := make(chan error, 1)
	go func() {
		defer cancel()
		if h.deps.Packets == nil {
			<-ctx.Done()
			overQUIC <- nil
			return
		}
		overQUIC <- srv.ServeQUIC(ctx, h.deps.Packets, h.deps.ResetKey)
	}()
	err := srv.Serve(ctx, h.deps.Listener)
	cancel()
	return errors.Join(err, <-overQUIC)
}

// spread returns a time between half of d and d, so that edges sent away do not return together.
func spread(d time.Duration) time.Duration {
	return d/2 + time.Duration(rand.Int64N(int64(d/2)+1))
}

// Count is how many sessions there are.
func (h *Hub) Count() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return len(h.sessions)
}

// countBy counts the sessions over one protocol.
func (h *Hub) countBy(p transport.Protocol) int {
	h.mu.Lock()
	defer h.mu.Unlock()
	n := 0
	for _, c := range h.sessions {
		if c.stream.Protocol() == p {
			n++
		}
	}
	return n
}

// Sessions returns the names of the connected nodes.
func (h *Hub) Sessions() []string {
	h.mu.Lock()
	defer h.mu.Unlock()
	names := make([]string, 0, len(h.sessions))
	for n := range h.sessions {
		names = append(names, n)
	}
	return names
}

// Answering returns the certificate of a node's session, nil if it has none here whose edge answers within three seconds.
func (h *Hub) Answering(ctx context.Context, node string) *x509.Certificate {
	h.mu.Lock()
	c := h.sessions[node]
	h.mu.Unlock()
	if c == nil || c.closed() || !c.answers(ctx, strangerDoubt, false) {
		return nil
	}
	return c.stream.Peer()
}

// Owns reports whether a session is, or was, of this hub.
func (h *Hub) Owns(session string) bool { return strings.HasPrefix(session, h.instance+"-") }

// End closes the session of that name, if it is the node's present one: another CloudCore holds the node.
func (h *Hub) End(node, session string) {
	h.mu.Lock()
	c := h.sessions[node]
	h.mu.Unlock()
	if c != nil && c.id == session {
		c.end(wire.Reason_REASON_REPLACED, "another CloudCore holds this node")
	}
}

// accept reads the Hello, takes the node's place and serves the session until it ends.
func (h *Hub) accept(ctx context.Context, s transport.Stream, greeted func()) {
	if !h.begin() {
		goodbye(s, wire.Reason_REASON_DRAIN, "the hub shuts down", h.afterDrain())
		return
	}
	defer h.open.Done()
	node, err := pki.NodeName(s.Peer())
	if err != nil {
		h.metrics.refused.WithLabelValues("identity").Inc()
		h.deps.Log.Warn("stream refused: the certificate names no node", "remote", s.RemoteAddr(), "error", err)
		goodbye(s, wire.Reason_REASON_REFUSED, err.Error(), 0)
		return
	}
	log := h.deps.Log.With("node", node, "remote", s.RemoteAddr())
	if h.revoked(node, s.Peer()) {
		h.metrics.refused.WithLabelValues("revoked").Inc()
		log.Warn("stream refused: the certificate is revoked", "issued", pki.Issued(s.Peer()))
		goodbye(s, wire.Reason_REASON_REFUSED, revokedMessage, 0)
		return
	}
	_ = s.SetReadDeadline(time.Now().Add(h.cfg.HandshakeTimeout)) // the kernel's clock, whatever Now says
	first, err := wire.Read(s, wire.MaxHandshakeFrame)
	if err == nil && first.GetHello() == nil {
		err = fmt.Errorf("%w: the first frame is a %s, expected a hello", session.ErrProtocol, wire.Name(first))
	}
	if errors.Is(err, io.EOF) {
		h.metrics.abandoned.Inc()
		log.Info("the edge went away before it said hello: it found another way")
		_ = s.Close() // the peer is gone already
		return
	}
	if err != nil {
		h.metrics.refused.WithLabelValues("handshake").Inc()
		log.Warn("handshake failed", "error", err)
		goodbye(s, wire.Reason_REASON_PROTOCOL, err.Error(), 0)
		return
	}
	_ = s.SetReadDeadline(time.Time{})
	greeted()
	c := h.newConn(node, s, first.GetHello(), log)
	if !h.take(ctx, c) {
		return
	}
	defer h.leave(c)
	if h.revoked(node, s.Peer()) {
		// Revoked since the first look: Recheck may have come before this session was there to be found.
		goodbye(s, wire.Reason_REASON_REFUSED, revokedMessage, 0)
		close(c.done)
		return
	}
	c.run(ctx, first)
}

const revokedMessage = "the certificate was revoked: join again with a token"

func (h *Hub) revoked(node string, cert *x509.Certificate) bool {
	return h.deps.Revoked != nil && h.deps.Revoked(node, cert)
}

func (h *Hub) revokedPeer(cert *x509.Certificate) bool {
	node, err := pki.NodeName(cert)
	return err == nil && h.revoked(node, cert)
}

// Recheck ends the sessions whose certificate has been revoked, is no longer from a trusted authority, or has expired.
func (h *Hub) Recheck() {
	h.mu.Lock()
	var all []*conn
	for _, c := range h.sessions {
		all = append(all, c)
	}
	h.mu.Unlock()
	roots, now := h.deps.Clients.Pool(), h.deps.Now()
	for _, c := range all {
		cert := c.stream.Peer()
		if h.revoked(c.node, cert) {
			h.metrics.refused.WithLabelValues("revoked").Inc()
			c.end(wire.Reason_REASON_REFUSED, revokedMessage)
			continue
		}
		if _, err := cert.Verify(x509.VerifyOptions{Roots: roots, CurrentTime: now, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}); err != nil {
			h.metrics.refused.WithLabelValues("expired").Inc()
			c.end(wire.Reason_REASON_REFUSED, "the certificate is no longer valid: "+err.Error())
		}
	}
}

// take makes c the session of its node. An older session of the same process gives way at once: the edge reconnected. One
// of another process or store stays if it still answers: two machines share a name, and taking turns would help neither.
func (h *Hub) take(ctx context.Context, c *conn) bool {
	for {
		h.mu.Lock()
		if h.draining {
			h.mu.Unlock()
			goodbye(c.stream, wire.Reason_REASON_DRAIN, "the hub shuts down", h.afterDrain())
			return false
		}
		old := h.sessions[c.node]
		if old == nil || old.closed() {
			h.sessions[c.node] = c
			h.mu.Unlock()
			h.admission.in(c.node)
			return true
		}
		h.mu.Unlock()
		if wait := old.doubt(c); wait > 0 && old.answers(ctx, wait, old.store == c.store) {
			h.metrics.refused.WithLabelValues("duplicate").Inc()
			c.log.Error("a second edge uses this node's name: refused", "present", old.stream.RemoteAddr(), "session", old.id)
			goodbye(c.stream, wire.Reason_REASON_REFUSED, fmt.Sprintf("another edge is connected as node %q from %s: "+
				"each machine needs a name and a certificate of its own", c.node, old.stream.RemoteAddr()), old.insists(c))
			return false
		}
		old.end(wire.Reason_REASON_REPLACED, "the edge connected again")
		<-old.done
	}
}

func (h *Hub) leave(c *conn) {
	h.mu.Lock()
	if h.sessions[c.node] == c {
		delete(h.sessions, c.node)
	}
	h.mu.Unlock()
}

// begin counts a session in, unless the hub is shutting down.
func (h *Hub) begin() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.draining {
		return false
	}
	h.open.Add(1)
	return true
}

// restoreQuiet is how long further reports of a restore belong to the same one.
const restoreQuiet = 10 * time.Minute

// restored notes that the API server went back in time: sessions from now on are of a new epoch.
func (h *Hub) restored(node string, r session.DeclareRestore) {
	h.mu.Lock()
	// All edges that saw the lost history say the same, and one that lies must not make the others write all anew.
	now := h.deps.Now()
	first := h.restoredAt.IsZero() || now.Sub(h.restoredAt) > restoreQuiet
	if first {
		h.restoredAt = now
		h.restores++
		h.epoch = fmt.Sprintf("%s+%d@%d", h.cfg.Epoch, h.restores, r.Server)
	}
	h.mu.Unlock()
	h.metrics.restores.Inc()
	h.deps.Log.Error("the API server is older than what an edge has seen: etcd was restored", "node", node,
		"key", r.Key.String(), "held", r.Held, "server", r.Server)
	if first {
		h.deps.Nodes.Restored(node, r.Key, r.Held, r.Server)
	}
}

func (h *Hub) currentEpoch() string {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.epoch
}

// goodbye says why and closes. A peer that does not read gets a second.
func goodbye(s transport.Stream, reason wire.Reason, message string, comeBack time.Duration) {
	b, err := wire.Append(nil, &wire.Frame{Body: &wire.Frame_Goodbye{Goodbye: &wire.Goodbye{
		Reason: reason, Message: message, ComeBackMs: comeBack.Milliseconds()}}})
	if err == nil {
		_ = s.SetWriteDeadline(time.Now().Add(time.Second))
		_, _ = s.Write(b) // the peer may be gone, which is what is wanted
	}
	_ = s.Close()
}
