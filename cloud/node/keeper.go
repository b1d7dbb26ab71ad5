package node

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/time/rate"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/util/workqueue"

	"github.com/tether-edge/tether/common/object"
	"github.com/tether-edge/tether/common/transport"
)

const (
	// ProviderIDPrefix begins the spec.providerID of every edge Node.
	ProviderIDPrefix = object.ProviderIDPrefix
	// LeaseNamespace is where Kubernetes keeps the Leases of nodes.
	LeaseNamespace = corev1.NamespaceNodeLease

	// LabelEdge marks the Leases that this package keeps.
	LabelEdge = object.LabelEdge
	// AnnotationRemoved on a Lease says that its node was removed for good: keadm sets it too.
	AnnotationRemoved = object.AnnotationRemoved
	// AnnotationReplica and AnnotationSession on a Lease are the address of the CloudCore that holds the node's session
	// and that session's name; AnnotationEpoch is a decimal number that grows with each session.
	AnnotationReplica = "tether.io/replica"
	AnnotationSession = "tether.io/session"
	AnnotationEpoch   = "tether.io/session-epoch"
	// AnnotationNode on a Lease is the copy of the Node, as JSON.
	AnnotationNode = "tether.io/node"
	// AnnotationProtocol on a Node is what carried its latest session: websocket or quic.
	AnnotationProtocol = "tether.io/protocol"
)

// fieldManager names CloudCore in managedFields.
const fieldManager = "cloudcore"

// Config holds the intervals of a Keeper. The zero value of a field means its default.
type Config struct {
	// RenewInterval is the least time between two renewals of a Lease, at most half of Duration; each wait is up to a
	// third longer, at random and within that half, so that the renewals of many nodes spread. Default 15 s (so 15 to
	// 20 s).
	RenewInterval time.Duration
	// Duration is the leaseDurationSeconds written. Default 40 s.
	Duration time.Duration
	// KubeletGrace is how much older than the ping interval the kubelet's own last renewal may be. Default 40 s.
	KubeletGrace time.Duration
	// Workers is how many Leases are written at once; a quarter of it work on Nodes and on pods each. Default 64.
	Workers int
}

func (c Config) withDefaults() Config {
	if c.RenewInterval <= 0 {
		c.RenewInterval = 15 * time.Second
	}
	if c.Duration <= 0 {
		c.Duration = 40 * time.Second
	}
	if c.KubeletGrace <= 0 {
		c.KubeletGrace = 40 * time.Second
	}
	if c.Workers <= 0 {
		c.Workers = 64
	}
	return c
}

// Cache is the cluster as the shared cache knows it.
type Cache interface {
	// Object returns an object that the caller owns. ok is false where the cache has none. It does not block.
	Object(key object.Key) (o object.Object, ok bool)
	// Keys returns the key of every object of a kind, in no order. It does not block.
	Keys(kind object.ID) []object.Key
	// WaitSynced blocks until every kind's first list is in, or returns ctx's error.
	WaitSynced(ctx context.Context) error
	// Follow calls notify with the key of every object of the kinds that the cache holds, and then of each that is
	// added, changed or deleted, until cancel is called. notify does not block.
	Follow(kinds []object.ID, notify func([]object.Key)) (cancel func())
}

// Clock tells the time.
type Clock interface {
	Now() time.Time
}

type systemClock struct{}

func (systemClock) Now() time.Time { return time.Now() }

// Deps are what a Keeper uses. All but Clock and Lost are required; a nil Clock is the machine's.
type Deps struct {
	// Client acts as CloudCore, without a rate limit.
	Client     kubernetes.Interface
	Cache      Cache
	Log        *slog.Logger
	Clock      Clock
	Registerer prometheus.Registerer
	// Lost is called when another replica holds the node of a session that was reported as connected: that session
	// is to be closed. It does not block. Nil ignores it.
	Lost func(node, session string)
}

// A Keeper does what the package says. Make it with New; all methods but Start are safe for concurrent use at any
// time, and none but Start blocks.
type Keeper struct {
	cfg  Config
	deps Deps
	m    *metrics

	// Each queue holds names or keys; workers read the current state and retry on error. That of pods holds namespaces too.
	leases, nodes workqueue.TypedRateLimitingInterface[string]
	pods          workqueue.TypedRateLimitingInterface[object.Key]
	notices       workqueue.TypedRateLimitingInterface[notice]

	// patches bounds the writes to pods.
	patches *rate.Limiter

	// mu guards records and what they point to, waiting, left, evicting, and lastClaim.
	mu sync.Mutex
	// records holds each node that is known to be an edge.
	records map[string]*record
	// waiting holds pods whose Node or Namespace the cache does not have (yet), by that.
	waiting map[object.Key]map[object.Key]struct{}
	// left holds until when pods are left to another CloudCore.
	left map[object.Key]time.Time
	// evicting holds the namespaces that have their pods evicted.
	evicting map[string]struct{}
	// lastClaim is when the latest session claims its Lease; see paceClaim.
	lastClaim time.Time
}

// A record is what is known of one edge.
type record struct {
	// The session, as the hub reported it. session is empty while the node is not connected here.
	session, address string
	// protocol carries the session or carried the latest one; empty where none was here.
	protocol transport.Protocol
	// claimAt is when the session may claim the Lease.
	claimAt time.Time
	// claimed: the Lease names this session, with epoch.
	claimed bool
	epoch   uint64
	// ping is the session's ping interval, kubelet the time of the last sign that the kubelet renews.
	ping    time.Duration
	kubelet time.Time
	// heard is when the edge last said something here; zero if it never did.
	heard time.Time
	// stale: the kubelet's renewals stopped, and that was logged.
	stale bool
	// due is when the next renewal is wanted.
	due time.Time

	// The Lease as last read or written. known is false until it was read; rv is empty where it does not exist.
	known   bool
	rv      string
	renewed time.Time
	// leaseEpoch is the epoch in the Lease, copied the hash of the copy in it.
	leaseEpoch uint64
	copied     string
	removed    bool
	// changes counts changes of the Node, compared says up to which of them its copy is known to be in the Lease.
	changes, compared uint64
}

// New returns a Keeper that does nothing until Start.
func New(cfg Config, deps Deps) (*Keeper, error) {
	cfg = cfg.withDefaults()
	if deps.Client == nil || deps.Cache == nil || deps.Log == nil || deps.Registerer == nil {
		return nil, errors.New("node keeper: Client, Cache, Log and Registerer are required")
	}
	if cfg.RenewInterval > cfg.Duration/2 {
		return nil, fmt.Errorf("node keeper: renewals every %s do not fit twice into a lease of %s", cfg.RenewInterval, cfg.Duration)
	}
	if deps.Clock == nil {
		deps.Clock = systemClock{}
	}
	k := &Keeper{
		cfg: cfg, deps: deps, patches: rate.NewLimiter(podRate, podRate),
		records: map[string]*record{}, waiting: map[object.Key]map[object.Key]struct{}{}, left: map[object.Key]time.Time{}, evicting: map[string]struct{}{},
		leases: newQueue[string](), nodes: newQueue[string](), pods: newQueue[object.Key](), notices: newQueue[notice](),
	}
	k.m = newMetrics(deps.Registerer, k)
	return k, nil
}

func newQueue[T comparable]() workqueue.TypedRateLimitingInterface[T] {
	return workqueue.NewTypedRateLimitingQueue(workqueue.NewTypedItemExponentialFailureRateLimiter[T](100*time.Millisecond, 5*time.Second))
}

// Start waits for the cache, reads the Leases that earlier sessions left, and works until ctx is done; it then
// returns nil. It is called once.
func (k *Keeper) Start(ctx context.Context) error {
	var work sync.WaitGroup
	defer func() {
		k.leases.ShutDown()
		k.nodes.ShutDown()
		k.pods.ShutDown()
		k.notices.ShutDown()
		work.Wait()
	}()
	for range k.cfg.Workers {
		work.Go(func() { serve(ctx, k, k.leases, "lease", k.syncLease) })
	}
	work.Go(func() { serve(ctx, k, k.notices, "event", k.syncNotice) })
	// Leases are renewed from the first moment on; the rest needs the cache.
	if err := k.deps.Cache.WaitSynced(ctx); err != nil {
		return nil
	}
	if err := k.readLeases(ctx); err != nil {
		return nil
	}
	cancel := k.deps.Cache.Follow([]object.ID{object.Nodes, object.Namespaces, object.Pods}, k.changed)
	defer cancel()
	for range max(1, k.cfg.Workers/4) {
		work.Go(func() { serve(ctx, k, k.nodes, "node", k.syncNode) })
		work.Go(func() { serve(ctx, k, k.pods, "pod", k.syncPodOrNamespace) })
	}
	<-ctx.Done()
	return nil
}

// serve takes items until the queue shuts down. An item that fails is taken again later.
func serve[T comparable](ctx context.Context, k *Keeper, q workqueue.TypedRateLimitingInterface[T], what string, do func(context.Context, T) (time.Duration, error)) {
	for {
		item, shutdown := q.Get()
		if shutdown {
			return
		}
		opCtx, cancel := context.WithTimeout(ctx, 15*time.Second)
		again, err := do(opCtx, item)
		cancel()
		switch {
		case errors.Is(err, errChanged):
			q.AddRateLimited(item)
		case err != nil && ctx.Err() == nil:
			k.m.failures.WithLabelValues(what).Inc()
			// A long outage of the API server is one line per doubling, not one per try and node.
			if n := q.NumRequeues(item); n&(n+1) == 0 {
				k.deps.Log.Warn("work on an edge node failed and is tried again", "what", what, "item", fmt.Sprint(item), "tries", n+1, "err", err)
			}
			q.AddRateLimited(item)
		case again > 0:
			q.Forget(item)
			q.AddAfter(item, again)
		default:
			q.Forget(item)
		}
		q.Done(item)
	}
}

// errChanged: somebody else wrote the object meanwhile. It is ordinary, and tried again.
var errChanged = errors.New("changed meanwhile")

// changed takes notifications of the cache.
func (k *Keeper) changed(keys []object.Key) {
	for _, key := range keys {
		switch key.Kind {
		case object.Nodes:
			k.nodes.Add(key.Name)
		case object.Pods, object.Namespaces:
			k.pods.Add(key)
		}
	}
}

// Connected says that session holds node on this CloudCore, which other replicas reach at address, and what carries it.
// The Lease is claimed and renewed, at once unless many begin together. An earlier session of the node is forgotten.
func (k *Keeper) Connected(node, session, address string, protocol transport.Protocol) {
	now := k.deps.Clock.Now()
	k.mu.Lock()
	r := k.record(node)
	r.session, r.address, r.protocol, r.claimed, r.stale = session, address, protocol, false, false
	r.claimAt = k.paceClaim(now)
	r.known = r.known && !r.removed // somebody may have taken that back
	// Its Node may have gone while nobody was here to see it, and a kubelet whose store has the Node registers none.
	defer k.nodes.Add(node)
	r.ping, r.kubelet, r.heard = 0, now, now
	k.mu.Unlock()
	k.leases.Add(node)
}

const (
	// claimsAtOnce sessions that begin together claim their Leases at once. Further ones begin after claimPause and go at
	// claimRate a second or, in a large fleet, so fast that all are through in claimWithin: edges that come back together
	// need the processors for their handshakes first. The node controller waits for 40 to 50 s.
	claimsAtOnce = 50
	claimRate    = 100
	claimPause   = 3 * time.Second
	claimWithin  = 12 * time.Second
)

// paceClaim says when a session that begins now claims its Lease. It is called with mu held.
func (k *Keeper) paceClaim(now time.Time) time.Time {
	gap := min(time.Second/claimRate, (claimWithin-claimPause)/time.Duration(max(1, len(k.records))))
	if earliest := now.Add(-claimsAtOnce * gap); k.lastClaim.Before(earliest) || k.lastClaim.After(now.Add(claimWithin)) {
		k.lastClaim = earliest
	}
	owed := !k.lastClaim.After(now)
	k.lastClaim = k.lastClaim.Add(gap)
	if owed && k.lastClaim.After(now) { // the first one that is too many
		k.lastClaim = now.Add(claimPause)
	}
	return k.lastClaim
}

// Disconnected says that session ended. A session that is no longer the node's is ignored.
func (k *Keeper) Disconnected(node, session string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if r := k.records[node]; r != nil && r.session == session {
		r.session, r.claimed = "", false
	}
}

// Alive says that the session's peer answered: leaseAge is the age of the kubelet's last lease renewal, below 0 if it
// has not renewed since edgecore started; pingInterval is how often such reports come.
func (k *Keeper) Alive(node, session string, leaseAge, pingInterval time.Duration) {
	now := k.deps.Clock.Now()
	k.mu.Lock()
	r := k.records[node]
	if r == nil || r.session != session {
		k.mu.Unlock()
		return
	}
	r.ping, r.heard = pingInterval, now
	if leaseAge >= 0 {
		r.kubelet = now.Add(-leaseAge)
	}
	wake := r.stale && k.fresh(r, now)
	k.mu.Unlock()
	if wake {
		k.leases.Add(node)
	}
}

// Doubt says that the node does not answer over its session here: if another CloudCore holds it by now, that session is
// Lost at once, and not at the next renewal of the Lease.
func (k *Keeper) Doubt(node string) {
	k.mu.Lock()
	r := k.records[node]
	held := r != nil && r.session != "" && r.claimed
	if held {
		r.known = false
	}
	k.mu.Unlock()
	if held {
		k.leases.Add(node)
	}
}

// defaultPing is the ping interval of a session until the first Alive.
const defaultPing = 15 * time.Second

// fresh says whether the kubelet's renewals are recent enough. A connection counts as one: a kubelet that has just
// started has not renewed yet. It is called with mu held.
func (k *Keeper) fresh(r *record, now time.Time) bool {
	ping := r.ping
	if ping <= 0 {
		ping = defaultPing
	}
	return now.Sub(r.kubelet) <= ping+k.cfg.KubeletGrace
}

// record returns the record of a node, made if needed. It is called with mu held.
func (k *Keeper) record(node string) *record {
	r := k.records[node]
	if r == nil {
		r = &record{}
		k.records[node] = r
	}
	return r
}

// LastHeard is when a node last said that it is alive: here, or, where another CloudCore has held it since, by its Lease, which may have
// been renewed for some time after that. Zero if that is not known.
func (k *Keeper) LastHeard(node string) time.Time {
	k.mu.Lock()
	defer k.mu.Unlock()
	if r := k.records[node]; r != nil {
		// This CloudCore goes on renewing while the edge may only be slow: that is no word of the edge's.
		if !r.heard.IsZero() && r.renewed.Sub(r.heard) < r.ping+k.cfg.KubeletGrace+k.cfg.Duration {
			return r.heard
		}
		return r.renewed
	}
	return time.Time{}
}

// IsEdge says whether n is the Node of an edge.
func IsEdge(n *corev1.Node) bool { return strings.HasPrefix(n.Spec.ProviderID, ProviderIDPrefix) }
