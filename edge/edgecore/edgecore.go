// Package edgecore is the composition root of the edge: it turns a configuration into the store, the link, the local
// API and the kubelet, and runs them in one process. The process is crash-only: it keeps nothing that a SIGKILL would
// lose, and whoever supervises it starts it again. Only edge/cmd/edgecore and tests use it.
package edgecore

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"path/filepath"
	"slices"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	corev1client "k8s.io/client-go/kubernetes/typed/core/v1"
	"k8s.io/client-go/rest"

	"github.com/tether-edge/tether/apis/config/v1alpha1"
	"github.com/tether-edge/tether/common/object"
	"github.com/tether-edge/tether/common/pki"
	"github.com/tether-edge/tether/common/run"
	"github.com/tether-edge/tether/common/transport"
	"github.com/tether-edge/tether/common/version"
	"github.com/tether-edge/tether/edge/clock"
	"github.com/tether-edge/tether/edge/drill"
	"github.com/tether-edge/tether/edge/edgecore/autonomy"
	"github.com/tether-edge/tether/edge/edgecore/devices"
	"github.com/tether-edge/tether/edge/edgecore/ownnode"
	"github.com/tether-edge/tether/edge/edgecore/uplink"
	"github.com/tether-edge/tether/edge/image"
	"github.com/tether-edge/tether/edge/kubeapi"
	"github.com/tether-edge/tether/edge/kubelet"
	"github.com/tether-edge/tether/edge/link"
	"github.com/tether-edge/tether/edge/renew"
	"github.com/tether-edge/tether/edge/seal"
	"github.com/tether-edge/tether/edge/steward"
	"github.com/tether-edge/tether/edge/store"
	"github.com/tether-edge/tether/edge/tunnel"
)

// Deps are what an EdgeCore takes from its surroundings. Now may be nil: it is the machine's clock then.
type Deps struct {
	Log *slog.Logger
	Now func() time.Time
	// Built is a time that was past when this program was made; zero if it is not known.
	Built time.Time
	// Killed says that the process before this one, if there was any, did not end by itself: it was killed, or the machine's
	// power went.
	Killed bool
	// Supervised says that somebody starts this process again if it is killed.
	Supervised bool
	// Credentials is the directory in which systemd shows this service's credentials; empty for none.
	Credentials string
}

// EdgeCore is one edge node.
type EdgeCore struct {
	cfg      *v1alpha1.EdgeCore
	deps     Deps
	reg      *prometheus.Registry
	identity *pki.Identity
	roots    *pki.Authorities
	local    *localPKI
	store    *store.Store
	seal     *seal.Ring
	link     *link.Link
	api      *kubeapi.Server
	images   *image.Service
	served   *servedEvents
	kubelet  *kubelet.Kubelet
	renewer  *renew.Renewer
	clock    *clock.Clock
	proxy    transport.Proxy
	joins    []string // host:port of the join ports
	memory   run.Memory
	devices  *devices.Devices
	own      *ownnode.Node
	steward  *steward.Steward
	autonomy *autonomy.Autonomy
	drill    *drill.Drill
}

// New opens the store and builds everything else. cfg is valid. The error says what is missing on this machine.
func New(ctx context.Context, cfg *v1alpha1.EdgeCore, deps Deps) (*EdgeCore, error) {
	if deps.Now == nil {
		deps.Now = time.Now
	}
	e := &EdgeCore{cfg: cfg, deps: deps, reg: prometheus.NewRegistry()}
	e.reg.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	var err error
	if e.identity, err = pki.NewIdentity(cfg.Cloud.CertFile, cfg.Cloud.KeyFile, deps.Log); err != nil {
		return nil, fmt.Errorf("read this node's certificate: %w", err)
	}
	if e.roots, err = pki.NewAuthorities(cfg.Cloud.CAFile, deps.Log); err != nil {
		return nil, fmt.Errorf("read the cloud's authorities: %w", err)
	}
	if err := e.checkName(); err != nil {
		return nil, err
	}
	if e.proxy, err = transport.ParseProxy(cfg.Cloud.Proxy); err != nil {
		return nil, err
	}
	e.clock = clock.New(clock.Deps{Proxy: e.requests, System: deps.Now, File: filepath.Join(cfg.DataDir, "time"), Log: e.part("clock"), Registry: e.reg, Moved: e.timeMoved,
		Roots: func() ([]*x509.Certificate, error) { return pki.ReadCertificates(cfg.Cloud.CAFile) }},
		pki.Issued(e.identity.Certificate().Leaf), deps.Built)
	e.deps.Now = e.clock.Now
	deps.Now = e.clock.Now
	if e.local, err = openLocalPKI(filepath.Join(cfg.DataDir, "pki"), cfg.API.BindAddress, deps.Log); err != nil {
		return nil, fmt.Errorf("make the local API's certificates: %w", err)
	}
	if err := e.local.writeKubeconfig(filepath.Join(cfg.DataDir, "admin.kubeconfig"), cfg.NodeName); err != nil {
		deps.Log.Warn("cannot write the kubeconfig for people at this machine; the former one, if there is one, stays", "error", err)
	}
	e.served = newServedEvents(cfg.NodeName)
	e.store, err = store.Open(ctx, store.Config{Dir: filepath.Join(cfg.DataDir, "store"), NodeName: cfg.NodeName,
		EventQuota: int64(cfg.Store.EventQuota), FreeSpaceFloor: int64(cfg.Store.FreeSpaceFloor), CopyInterval: cfg.Store.CopyInterval.Std(), WriteBudget: int64(cfg.Store.WriteBudget)},
		store.Deps{Log: e.part("store"), Clock: clockFunc(deps.Now), Registerer: e.reg, Seal: e.openSeal, Withhold: steward.Withhold,
			Overspent: func(o store.Overspent) { e.served.overspent(o) }})
	if err != nil {
		return nil, err
	}
	if err := e.build(); err != nil {
		return nil, errors.Join(err, e.store.Close())
	}
	return e, nil
}

func (e *EdgeCore) part(name string) *slog.Logger { return e.deps.Log.With("part", name) }

// checkName holds the configured name against the certificate's: the hub would refuse the one with the other.
func (e *EdgeCore) checkName() error {
	name, err := pki.NodeName(e.identity.Certificate().Leaf)
	if err != nil {
		return fmt.Errorf("%s: %w", e.cfg.Cloud.CertFile, err)
	}
	if name != e.cfg.NodeName {
		return fmt.Errorf("nodeName is %q, but the certificate %s is of node %q: expected the same name; correct nodeName or issue a certificate for it",
			e.cfg.NodeName, e.cfg.Cloud.CertFile, name)
	}
	return nil
}

func (e *EdgeCore) build() error {
	cfg := e.cfg
	servers, err := e.servers()
	if err != nil {
		return err
	}
	peopleTLS, err := e.local.clientTLS("tether:kubeapi")
	if err != nil {
		return err
	}
	servingCert, servingKey, err := e.local.serving()
	if err != nil {
		return fmt.Errorf("make the certificate of the kubelet's server: %w", err)
	}
	kubeletAddress := net.JoinHostPort("127.0.0.1", strconv.Itoa(cfg.Kubelet.Port))
	relay := tunnel.New(kubeletServer{e}, e.part("tunnel"))
	serve := func(ctx context.Context, stream net.Conn) {
		done := e.memory.Busy()
		defer done()
		relay.Serve(ctx, stream)
	}
	if err := e.buildDrill(); err != nil {
		return err
	}
	e.link, err = link.New(link.Config{Node: cfg.NodeName, Servers: servers, Protocols: protocols(cfg.Cloud.Protocol), Software: version.String("edgecore"),
		PingInterval: cfg.Cloud.PingInterval.Std()},
		link.Deps{Dial: e.dial, Tunnel: serve, DialTunnel: e.dialTunnel, Store: uplink.Store{Store: e.store}, Connected: func(ctx context.Context) { e.api.RefreshTokens(ctx) },
			Doubted: func() { e.devices.Engine.SayAgain() }, LeaseAge: e.leaseAge, Gate: e.drill.Gate(), ServerTime: e.clock.Heard, Log: e.part("link"), Now: e.deps.Now, Registry: e.reg})
	if err != nil {
		return err
	}
	for _, s := range cfg.Cloud.Servers {
		host, _, err := net.SplitHostPort(s)
		if err != nil {
			return fmt.Errorf("server %q: %w", s, err)
		}
		e.joins = append(e.joins, net.JoinHostPort(host, strconv.Itoa(cfg.Cloud.JoinPort)))
	}
	e.renewer = renew.New(renew.Config{Node: cfg.NodeName, CertFile: cfg.Cloud.CertFile, CAFile: cfg.Cloud.CAFile, Servers: e.joins},
		renew.Deps{Proxy: e.requests, Identity: e.identity, Roots: e.roots, Log: e.part("renew"), Now: e.deps.Now, Registry: e.reg})
	e.devices, err = devices.New(cfg.NodeName, cfg.Devices, devices.Deps{Store: e.store, Log: e.deps.Log, Now: e.deps.Now, Registerer: e.reg,
		Happened: func(ctx context.Context, o object.Outgoing) error { return e.api.Happened(ctx, o) }})
	if err != nil {
		return err
	}
	e.api, err = kubeapi.New(kubeapi.Config{NodeName: cfg.NodeName, AdminGroup: adminGroup, Version: version.Get().Kubernetes},
		kubeapi.Deps{Store: e.store, Cloud: e.link, Kubelet: kubeletTransport(kubeletAddress, peopleTLS), Devices: e.devices.Engine,
			Log: e.part("kubeapi"), Clock: clockFunc(e.deps.Now), Registerer: e.reg})
	if err != nil {
		return err
	}
	var taints []corev1.Taint
	for _, t := range cfg.Kubelet.RegisterWithTaints {
		taints = append(taints, corev1.Taint{Key: t.Key, Value: t.Value, Effect: corev1.TaintEffect(t.Effect)})
	}
	client, err := corev1client.NewForConfig(&rest.Config{Host: "https://" + cfg.API.BindAddress, Transport: e.api.OwnTransport(), QPS: -1})
	if err != nil {
		return fmt.Errorf("make a client of the local API: %w", err)
	}
	e.own = &ownnode.Node{Name: cfg.NodeName, Store: e.store, API: client, Now: e.deps.Now}
	if err := errors.Join(e.buildImages(client), e.buildSteward()); err != nil {
		return err
	}
	e.buildAutonomy()
	k := cfg.Kubelet
	e.kubelet, err = kubelet.New(kubelet.Config{
		NodeName: cfg.NodeName, RootDir: k.RootDir, StateDir: filepath.Join(cfg.DataDir, "kubelet"), StaticPodPath: k.StaticPodPath,
		RuntimeEndpoint: k.ContainerRuntimeEndpoint, ImageServiceEndpoint: e.images.Endpoint(),
		ImageGCHigh: int32(k.ImageGCHighThresholdPercent), ImageGCLow: int32(k.ImageGCLowThresholdPercent), ImageMinAge: k.ImageMinimumGCAge.Std(),
		CgroupDriver: string(k.CgroupDriver), CgroupRoot: k.CgroupRoot, NodeIP: k.NodeIP, Port: int32(k.Port),
		ServingCertFile: servingCert, ServingKeyFile: servingKey,
		ClientCAFile: e.local.caFile(), MaxPods: int32(k.MaxPods), NodeLabels: k.NodeLabels, Taints: taints,
		ClusterDNS: k.ClusterDNS, ClusterDomain: k.ClusterDomain, EvictionHard: k.EvictionHard, PressureTransition: k.EvictionPressureTransitionPeriod.Std(),
	}, kubelet.Deps{
		RESTConfig: &rest.Config{Host: "https://" + cfg.API.BindAddress, Transport: e.api.Transport()},
		Log:        e.part("kubelet"), WaitReady: e.waitReady, Starting: e.api.KubeletStarts, Registerer: e.reg, Killed: e.deps.Killed,
	})
	return err
}

// timeMoved gives queued messages the rest of their lives back when the clock is put right.
func (e *EdgeCore) timeMoved(by time.Duration) {
	if err := e.store.Shift(context.Background(), by); err != nil {
		e.deps.Log.Warn("the clock is put right, but not the lives of queued messages", "by", by, "error", err)
	}
}

// waitReady holds the kubelet back until the store has completed one sync: on an empty list of pods it would kill every
// sandbox that it finds (I8).
func (e *EdgeCore) waitReady(ctx context.Context) error {
	select {
	case <-e.store.FirstSync():
	case <-ctx.Done():
		return ctx.Err()
	}
	select {
	case <-e.steward.Settled():
	case <-ctx.Done():
		return ctx.Err()
	}
	return e.waitKnown(ctx, func(ctx context.Context) ([]types.UID, error) {
		return kubelet.RunningPods(ctx, e.cfg.Kubelet.ContainerRuntimeEndpoint)
	})
}

// lookEvery is how often the runtime is asked what it runs, while that matters.
const lookEvery = time.Second

// waitKnown holds the kubelet back while the runtime has pods that the store may have lost: it was made anew from a copy that
// was older. They run on meanwhile; the next completed sync says what they are. Where nothing runs that the store has not, as after
// a boot, nothing is waited for.
func (e *EdgeCore) waitKnown(ctx context.Context, running func(context.Context) ([]types.UID, error)) error {
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	for said := false; ; {
		select {
		case <-e.store.Whole():
			return nil
		default:
		}
		uids, err := running(ctx)
		if err == nil {
			if uids, err = e.unknown(ctx, uids); err == nil && len(uids) == 0 {
				return nil
			}
		}
		if !said {
			said = true
			e.part("kubelet").Warn("pods run that the database may have lost: the kubelet is not started before the next sync with the cloud, they run on", "pods", uids, "error", err)
		}
		select {
		case <-e.store.Whole():
			return nil
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
	}
}

// unknown returns those of the uids that no pod of the store has.
func (e *EdgeCore) unknown(ctx context.Context, uids []types.UID) ([]types.UID, error) {
	pods, _, err := e.store.List(ctx, object.Pods, "")
	if err != nil {
		return nil, err
	}
	return slices.DeleteFunc(uids, func(uid types.UID) bool {
		return slices.ContainsFunc(pods, func(p *object.Record) bool { return p.Version.UID == string(uid) })
	}), nil
}

// servers are the addresses of the CloudCores. One that is reached through a proxy is not raced by QUIC, which goes past it.
func (e *EdgeCore) servers() ([]link.Server, error) {
	var servers []link.Server
	for _, address := range e.cfg.Cloud.Servers {
		host, _, err := net.SplitHostPort(address)
		if err != nil {
			return nil, fmt.Errorf("server %q: %w", address, err)
		}
		s := link.Server{WebSocket: address}
		proxied, err := e.proxy.For(address)
		if err != nil {
			return nil, fmt.Errorf("server %q: %w", address, err)
		}
		if e.cfg.Cloud.QUICPort != 0 && (!proxied || e.cfg.Cloud.Protocol == v1alpha1.ProtocolQUIC) {
			s.QUIC = net.JoinHostPort(host, strconv.Itoa(e.cfg.Cloud.QUICPort))
		}
		servers = append(servers, s)
	}
	return servers, nil
}

func protocols(p v1alpha1.Protocol) []transport.Protocol {
	switch p {
	case v1alpha1.ProtocolAuto:
		return []transport.Protocol{transport.QUIC, transport.WebSocket}
	case v1alpha1.ProtocolQUIC:
		return []transport.Protocol{transport.QUIC}
	}
	return []transport.Protocol{transport.WebSocket}
}

// reach opens a stream by a way.
func (e *EdgeCore) reach(ctx context.Context, way link.Way) (transport.Stream, error) {
	config := pki.ClientTLS(e.identity, e.roots, pki.ServerName, e.deps.Now)
	if way.Protocol == transport.QUIC {
		return transport.DialQUIC(ctx, way.Server, config)
	}
	return transport.DialThrough(ctx, e.proxy, way.Server, config)
}

// dialTunnel opens the second connection of a session, the way that the session took.
func (e *EdgeCore) dialTunnel(ctx context.Context, way link.Way, session string) (*transport.TunnelConn, error) {
	return transport.DialTunnel(ctx, e.proxy, way.Server, session, pki.ClientTLS(e.identity, e.roots, pki.ServerName, e.deps.Now))
}

func (e *EdgeCore) dial(ctx context.Context, way link.Way) (transport.Stream, error) {
	s, err := e.reach(ctx, way)
	// A date that this edge judges wrong may be this edge's clock; one that the hub judges is not.
	if told := pki.Explain(err, e.deps.Now); errors.Is(told, pki.ErrExpired) && !errors.Is(told, pki.ErrRefused) {
		if err := e.clock.Ask(ctx, e.joins); err != nil {
			e.part("clock").Warn("cannot learn the time", "error", err)
		}
		return s, told
	} else if errors.Is(told, pki.ErrExpired) {
		e.renewer.Soon()
	}
	return s, pki.Explain(err, e.deps.Now)
}

// requests is the proxy of requests to the join port, where nil would mean the environment's.
func (e *EdgeCore) requests(r *http.Request) (*url.URL, error) {
	if e.proxy == nil {
		return nil, nil
	}
	return e.proxy(r)
}

func (e *EdgeCore) leaseAge() time.Duration {
	age, ok := e.api.LeaseAge(e.deps.Now())
	if !ok {
		return -1
	}
	return age
}

// Start runs until ctx is done or a component ends. The link and the local API are up before the kubelet is tried: a
// kubelet that ends the process at every start costs them one short break per try.
func (e *EdgeCore) Start(ctx context.Context) error {
	metrics, err := net.Listen("tcp", e.cfg.Metrics.BindAddress)
	if err != nil {
		return fmt.Errorf("metrics.bindAddress: %w: end what uses the port, or choose another", err)
	}
	api, err := net.Listen("tcp", e.cfg.API.BindAddress)
	if err != nil {
		return errors.Join(fmt.Errorf("api.bindAddress: %w: end what uses the port, or choose another", err), metrics.Close())
	}
	config, err := e.local.serverTLS()
	if err != nil {
		return errors.Join(err, metrics.Close(), api.Close())
	}
	group := run.New(e.deps.Log)
	group.Add("store", e.store)
	group.Add("memory", &e.memory)
	group.Add("metrics", run.HTTP(metrics, e.handler()))
	group.Add("kubeapi", run.Func(func(ctx context.Context) error { return e.serve(ctx, api, config) }))
	e.devices.Add(group)
	group.Add("events", e.served)
	group.Add("steward", run.Func(e.stewards))
	// It waits for a socket and not for the runtime; the kubelet is started once both answer.
	group.Add("image", run.Func(devices.Persistent("the image service", e.images.Start, e.part("image"))))
	group.Add("drill", e.drill)
	group.Add("link", e.link)
	group.Add("renew", run.Func(e.drill.Gate().While(e.renewer.Start)))
	group.Add("clock", e.clock)
	group.Add("autonomy", e.autonomy)
	group.Add("kubelet", e.kubelet)
	err = group.Start(ctx)
	return errors.Join(err, e.store.Close())
}

func (e *EdgeCore) serve(ctx context.Context, l net.Listener, config *tls.Config) error {
	return e.api.Serve(ctx, l, config)
}

func (e *EdgeCore) handler() http.Handler {
	mux := http.NewServeMux()
	mux.Handle("/metrics", promhttp.HandlerFor(e.reg, promhttp.HandlerOpts{}))
	mux.HandleFunc("/status", e.status)
	if e.cfg.Metrics.Profiling {
		run.Profiling(mux)
	}
	run.Health(mux, func() error {
		if !e.store.EverSynced() {
			return errors.New("the store has not completed a sync with the cloud")
		}
		return nil
	})
	return mux
}
