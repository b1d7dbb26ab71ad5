// Package cloudcore is the composition root of the cloud side: it turns a configuration into caches, the hub, the
// applier of writes and the keeper of nodes, and runs them. Only cloud/cmd/cloudcore and tests use it.
package cloudcore

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/tether-edge/tether/apis/config/v1alpha1"
	"github.com/tether-edge/tether/cloud/device"
	"github.com/tether-edge/tether/cloud/hub"
	"github.com/tether-edge/tether/cloud/issuer"
	"github.com/tether-edge/tether/cloud/node"
	"github.com/tether-edge/tether/cloud/replica"
	"github.com/tether-edge/tether/cloud/state"
	"github.com/tether-edge/tether/cloud/tunnel"
	"github.com/tether-edge/tether/cloud/upstream"
	"github.com/tether-edge/tether/common/object"
	"github.com/tether-edge/tether/common/run"
	"github.com/tether-edge/tether/common/session"
	"github.com/tether-edge/tether/common/trust"
	"github.com/tether-edge/tether/common/version"
	"github.com/tether-edge/tether/common/wire"
)

// Deps are what a CloudCore takes from its surroundings. Now may be nil: it is the machine's clock then.
type Deps struct {
	Log *slog.Logger
	Now func() time.Time
}

// CloudCore is the cloud's side of the link.
type CloudCore struct {
	cfg    *v1alpha1.CloudCore
	deps   Deps
	rest   *rest.Config
	client kubernetes.Interface
	reg    *prometheus.Registry
	cache  *state.Cache
	up     *upstream.Applier
	nodes  *node.Keeper
	codec  *wire.Compressor
	tunnel *tunnel.Server // nil if there is to be none
	// serving is the cluster's certificate for it; nil if there is to be none.
	serving *tunnel.Serving
	hub     atomic.Pointer[hub.Hub] // nil until the caches are synced
	devices *device.Controller
	// trusted holds nothing before it is loaded.
	trusted trusted
	store   *trust.Store
}

// New builds everything that needs no network. cfg is valid.
func New(cfg *v1alpha1.CloudCore, deps Deps) (*CloudCore, error) {
	if deps.Now == nil {
		deps.Now = time.Now
	}
	c := &CloudCore{cfg: cfg, deps: deps, reg: prometheus.NewRegistry()}
	c.reg.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	var err error
	if cfg.Kubeconfig == "" {
		if c.rest, err = rest.InClusterConfig(); err != nil {
			return nil, fmt.Errorf("kubeconfig is not set, which means the service account of a pod, and there is none: name a file in kubeconfig: %w", err)
		}
	} else if c.rest, err = clientcmd.BuildConfigFromFlags("", cfg.Kubeconfig); err != nil {
		return nil, fmt.Errorf("read kubeconfig %q: %w", cfg.Kubeconfig, err)
	}
	c.rest.UserAgent = version.String("cloudcore")
	c.rest.QPS = -1
	countRequests(c.rest, c.reg)
	if c.client, err = kubernetes.NewForConfig(c.rest); err != nil {
		return nil, fmt.Errorf("make client: %w", err)
	}
	c.store = trust.New(c.client, deps.Now)
	c.trusted = trusted{issuer.NewTrusted(c.store, c.client, servingHosts(cfg), c.recheck, deps.Log.With("part", "trust")), make(chan struct{})}
	if c.codec, err = wire.NewCompressor(); err != nil {
		return nil, err
	}
	source, err := state.NewSource(c.rest)
	if err != nil {
		return nil, fmt.Errorf("make caches: %w", err)
	}
	c.cache = state.New(state.Config{}, state.Deps{Source: source, Compressor: c.codec, Log: deps.Log.With("part", "state"), Registerer: c.reg})
	api, err := device.NewAPI(c.rest)
	if err != nil {
		return nil, err
	}
	c.devices = device.New(device.Config{DeviceRate: cfg.Devices.RatePerDevice, ClusterRate: cfg.Devices.RateOfAll, DeviceBurst: burst(cfg.Devices.RatePerDevice), ClusterBurst: 2 * burst(cfg.Devices.RateOfAll)},
		device.Deps{API: api, Cache: c.cache, IsEdge: node.IsEdge, Holds: c.holds, Log: deps.Log.With("part", "device"), Now: deps.Now, Registerer: c.reg})
	c.up, err = upstream.New(upstream.Config{Impersonation: upstream.Impersonation(cfg.Impersonation)}, upstream.Deps{RESTConfig: c.rest,
		Objects: c.cache, Compressor: c.codec, Await: c.await, Present: c.present, Devices: c.deviceStatus, Log: deps.Log.With("part", "upstream"), Clock: clock(deps.Now), Registerer: c.reg})
	if err != nil {
		return nil, err
	}
	c.nodes, err = node.New(node.Config{RenewInterval: cfg.Lease.RenewInterval.Std(), Duration: cfg.Lease.Duration.Std()},
		node.Deps{Client: c.client, Cache: c.cache, Log: deps.Log.With("part", "node"), Clock: clock(deps.Now), Registerer: c.reg,
			Lost: func(name, session string) { c.hub.Load().End(name, session) }})
	if err != nil {
		return nil, err
	}
	return c, c.buildTunnel()
}

// Start runs until ctx is done. An API server that is away is waited for.
func (c *CloudCore) Start(ctx context.Context) error {
	metrics, err := net.Listen("tcp", c.cfg.Metrics.BindAddress)
	if err != nil {
		return fmt.Errorf("metrics.bindAddress: %w: end what uses the port, or choose another", err)
	}
	group := run.New(c.deps.Log)
	group.Add("memory", &run.Memory{})
	group.Add("metrics", run.HTTP(metrics, c.handler()))
	group.Add("state", c.cache)
	group.Add("node", c.nodes)
	group.Add("device", c.devices)
	group.Add("hub", run.Func(c.serveEdges))
	group.Add("replica", run.Func(c.knowReplicas))
	group.Add("join", run.Func(c.serveJoins))
	group.Add("trust", run.Func(c.followTrust))
	if c.tunnel != nil {
		group.Add("tunnel", run.Func(c.serveKubelets))
		if c.cfg.Tunnel.DiscoveryPort != 0 {
			group.Add("discovery", run.Func(c.serveDiscovery))
		}
	}
	if c.serving != nil {
		group.Add("tunnel certificate", c.serving)
	}
	return group.Start(ctx)
}

// burst is how many writes of a rate may go at once: those of a second.
func burst(rate float64) int { return max(1, int(rate)) }

// deviceStatus hands a device's status to who owns it.
func (c *CloudCore) deviceStatus(ctx context.Context, node string, key object.Key, uid string, body []byte) *wire.Result {
	return c.devices.Report(ctx, node, types.NamespacedName{Namespace: key.Namespace, Name: key.Name}, uid, body)
}

func (c *CloudCore) handler() http.Handler {
	mux := http.NewServeMux()
	mux.Handle("/metrics", promhttp.HandlerFor(c.reg, promhttp.HandlerOpts{}))
	if c.cfg.Metrics.Profiling {
		run.Profiling(mux)
	}
	run.Health(mux, c.ready)
	return mux
}

// ready is nil once edges are let in.
func (c *CloudCore) ready() error {
	if !c.cache.Synced() {
		return errors.New("the caches are not synced with the API server")
	}
	if c.hub.Load() == nil {
		return errors.New("the hub does not listen yet")
	}
	return nil
}

// serveEdges listens once the caches are synced: before that an edge could only be sent away, and one that finds the
// port closed comes back sooner.
func (c *CloudCore) serveEdges(ctx context.Context) error {
	if err := c.cache.WaitSynced(ctx); err != nil {
		return nil
	}
	epoch := c.prepare(ctx)
	if ctx.Err() != nil {
		return nil
	}
	if !c.trusted.wait(ctx) {
		return nil
	}
	listener, err := net.Listen("tcp", net.JoinHostPort(c.cfg.Hub.BindAddress, strconv.Itoa(c.cfg.Hub.WebSocketPort)))
	if err != nil {
		return fmt.Errorf("hub.webSocketPort: %w: end what uses the port, or choose another", err)
	}
	packets, err := c.listenPackets()
	if err != nil {
		return errors.Join(err, listener.Close())
	}
	// Of this CloudCore alone: another one would tell a stranger the tokens of this one's sessions.
	reset, err := c.trusted.Derive("QUIC stateless reset of " + c.address())
	if err != nil {
		if packets != nil {
			err = errors.Join(err, packets.Close())
		}
		return errors.Join(err, listener.Close())
	}
	h := hub.New(hub.Config{MaxHandshakes: c.cfg.Hub.MaxHandshakes, HandshakeTimeout: c.cfg.Hub.HandshakeTimeout.Std(),
		MaxSessions: c.cfg.Hub.MaxSessions, ConnectRate: c.cfg.Hub.ConnectRate, MaxInFlightBytes: int(c.cfg.Hub.MaxInFlightBytes), MaxHeldBytes: int64(c.cfg.Hub.MaxHeldBytes),
		Coalesce: c.cfg.Hub.Coalesce.Std(), Epoch: epoch, Address: c.address(), Features: c.features()},
		hub.Deps{Listener: listener, Packets: packets, ResetKey: &reset, Identity: c.trusted, Clients: c.trusted, Revoked: c.trusted.Revoked, Caches: c.caches(), Upstream: c.up,
			Nodes: c.nodes, Log: c.deps.Log.With("part", "hub"), Now: c.deps.Now, Registry: c.reg})
	c.hub.Store(h)
	c.deps.Log.Info("listening for edges", "address", listener.Addr().String(), "quicPort", c.cfg.Hub.QUICPort)
	return h.Start(ctx)
}

// knowReplicas tells the other CloudCores of this one once edges are let in, and sends edges to them where they have fewer.
func (c *CloudCore) knowReplicas(ctx context.Context) error {
	if err := c.cache.WaitSynced(ctx); err != nil {
		return nil
	}
	sessions := func() int {
		if h := c.hub.Load(); h != nil {
			return h.Count()
		}
		return 0
	}
	return replica.New(replica.Config{Namespace: trust.Namespace, Address: c.address(), MaxSessions: c.cfg.Hub.MaxSessions, Move: c.cfg.Hub.Balance}, replica.Deps{
		Client: c.client, Sessions: sessions, Now: c.deps.Now, Log: c.deps.Log.With("part", "replica"), Registerer: c.reg,
		Move: func(ctx context.Context, n int, over time.Duration) int {
			h := c.hub.Load()
			if h == nil {
				return 0
			}
			return h.Move(ctx, n, over)
		}}).Start(ctx)
}

// listenPackets opens the port for QUIC; nil if there is to be none.
func (c *CloudCore) listenPackets() (net.PacketConn, error) {
	if c.cfg.Hub.QUICPort == 0 {
		return nil, nil
	}
	p, err := net.ListenPacket("udp", net.JoinHostPort(c.cfg.Hub.BindAddress, strconv.Itoa(c.cfg.Hub.QUICPort)))
	if err != nil {
		return nil, fmt.Errorf("hub.quicPort: %w: end what uses the port, choose another, or 0 for no QUIC", err)
	}
	return p, nil
}

// prepare learns the cluster's identity and how to act as a node. It tries until ctx is done, less and less often: rights
// that are missing are an operator's to give, and each try is some fifteen requests.
func (c *CloudCore) prepare(ctx context.Context) (epoch string) {
	said := ""
	for wait := time.Second; ctx.Err() == nil; wait = min(2*wait, 30*time.Second) {
		ns, err := c.client.CoreV1().Namespaces().Get(ctx, metav1.NamespaceSystem, metav1.GetOptions{})
		if err == nil {
			epoch = string(ns.GetUID())
			err = c.up.Probe(ctx)
		}
		if err == nil {
			return epoch
		}
		if err.Error() != said {
			said = err.Error()
			c.deps.Log.Error("not ready for edges, trying again", "error", err)
		}
		select {
		case <-time.After(wait):
		case <-ctx.Done():
		}
	}
	return ""
}

// address is where this CloudCore says that it is; the machine's name if it was not told.
func (c *CloudCore) address() string {
	host := c.cfg.Hub.BindAddress
	if a := c.cfg.Hub.AdvertiseAddresses; len(a) > 0 {
		host = a[0]
	}
	if host == "" {
		var err error
		if host, err = os.Hostname(); err != nil {
			c.deps.Log.Warn("this CloudCore has no address to name in Leases: set hub.advertiseAddresses", "error", err)
		}
	}
	return net.JoinHostPort(host, strconv.Itoa(c.cfg.Hub.WebSocketPort))
}

// clock adapts a func to the packages' one-method clocks.
type clock func() time.Time

func (c clock) Now() time.Time { return c() }

// caches presents the shared cache as the hub wants it.
type caches struct {
	*state.Cache
	present func(session.View) session.View
}

func (c *CloudCore) caches() caches { return caches{c.cache, c.view} }

func (c caches) Subscribe(node string, notify func([]object.Key)) (session.View, func()) {
	view, cancel := c.Cache.Subscribe(node, notify)
	return c.present(view), cancel
}
