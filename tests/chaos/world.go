package chaos

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"sync"
	"syscall"
	"time"

	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/util/cert"

	"github.com/tether-edge/tether/apis/config/v1alpha1"
	"github.com/tether-edge/tether/tests/cluster"
	"github.com/tether-edge/tether/tests/host"
	"github.com/tether-edge/tether/tests/stack"
)

// edgeName is the node under test.
const edgeName = "edge-1"

// stopGrace bounds an orderly end of a program.
const stopGrace = 30 * time.Second

// cloudCore is one of the two.
type cloudCore struct {
	*cluster.Process
	metrics string
	// config is its configuration file.
	config string
}

// world is the system that faults are done to.
type world struct {
	*stack.Stack
	cluster *cluster.Cluster
	// clouds by the host:port that edges dial.
	clouds map[string]*cloudCore
	edge   *stack.Edge
	disk   *disk // of the database
	pods   *disk // of the kubelet's directory, with the pods' volumes
	cable  *cable
	api    *apiProxy
	mapper *cluster.Process
	time   *timeline

	mu sync.Mutex
	// local is a client of the API of the edgecore of that process id: one, since connections that nobody closes are its open files.
	local    kubernetes.Interface
	localPID int
}

// newWorld brings everything up on a machine that is free for it. base is where its directory goes; clock says that the edge's
// clock will be set.
func newWorld(ctx context.Context, base string, seed uint64, protocol v1alpha1.Protocol, clock bool, tl *timeline) (w *world, err error) {
	machine, err := host.Detect("/")
	if err != nil {
		return nil, err
	}
	if machine, err = host.Install(ctx, machine, os.Stderr, os.Stderr); err != nil {
		return nil, err
	}
	log := slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn}))
	if err := cluster.Sweep(ctx, base, cluster.Config{Host: machine, Log: log}); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(base, 0o755); err != nil {
		return nil, fmt.Errorf("make a system: %w", err)
	}
	dir, err := os.MkdirTemp(base, "c")
	if err != nil {
		return nil, fmt.Errorf("make a system: %w", err)
	}
	w = &world{clouds: map[string]*cloudCore{}, time: tl}
	if w.cluster, err = cluster.New(cluster.Config{Dir: dir, Host: machine, Log: log}); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, w.down())
			w = nil
		}
	}()
	if err := w.bringUpCloud(ctx); err != nil {
		return w, err
	}
	return w, w.bringUpEdge(ctx, seed, protocol, clock, log)
}

func (w *world) bringUpCloud(ctx context.Context) error {
	program, err := cluster.Program(ctx, "controlplane")
	if err != nil {
		return err
	}
	control, err := w.cluster.StartControlPlane(ctx, program)
	if err != nil {
		return err
	}
	if w.Stack, err = stack.New(ctx, w.cluster, control); err != nil {
		return err
	}
	ca, key, err := cert.GenerateSelfSignedCertKey("127.0.0.1", nil, nil)
	if err != nil {
		return fmt.Errorf("make a certificate: %w", err)
	}
	pair, err := tls.X509KeyPair(ca, key)
	if err != nil {
		return fmt.Errorf("make a certificate: %w", err)
	}
	if w.api, err = newAPIProxy(w.REST(), pair); err != nil {
		return err
	}
	var metrics string
	err = w.ChangeCloud(func(cfg *v1alpha1.CloudCore) {
		own := cfg.Kubeconfig
		cfg.Kubeconfig = filepath.Join(w.cluster.Dir(), "cloudcore-proxied.kubeconfig")
		metrics, err = cfg.Metrics.BindAddress, w.api.redirect(own, cfg.Kubeconfig, ca)
	})
	if err != nil {
		return err
	}
	if err := w.StartCloud(ctx); err != nil {
		return err
	}
	w.clouds[w.Server()] = &cloudCore{w.Cloud, metrics, filepath.Join(w.cluster.Dir(), "tether", "cloudcore.yaml")}
	second, err := w.FurtherCloud(ctx, 1)
	if err != nil {
		return err
	}
	w.clouds[second.WebSocket] = &cloudCore{second.Process, second.Metrics, second.Config}
	return nil
}

func (w *world) bringUpEdge(ctx context.Context, seed uint64, protocol v1alpha1.Protocol, clock bool, log *slog.Logger) error {
	archives, err := cluster.Images(ctx)
	if err != nil {
		return err
	}
	h, err := w.cluster.NewEdgeHost(ctx, cluster.EdgeConfig{Name: edgeName, Images: archives, Split: true})
	if err != nil {
		return err
	}
	w.cable = &cable{host: h, log: log, seed: seed, troubles: map[int]trouble{}}
	if err := w.cable.plug(); err != nil {
		return err
	}
	w.edge, err = w.NewEdge(ctx, h, func(cfg *v1alpha1.EdgeCore) {
		cfg.Cloud.Protocol, cfg.Cloud.Servers = protocol, nil
		cfg.Metrics.Profiling = true // for what keepLogs keeps
		cfg.Kubelet.RootDir = kubeletDir(h)
		cfg.Kubelet.EvictionHard["nodefs.available"] = strconv.Itoa(evictBelow)
		cfg.Kubelet.EvictionPressureTransitionPeriod = v1alpha1.Duration(pressureLasts)
		for server := range w.clouds {
			cfg.Cloud.Servers = append(cfg.Cloud.Servers, server)
		}
	})
	if err != nil {
		return err
	}
	if clock {
		if w.edge.Core, err = buildShiftedEdge(ctx); err != nil {
			return err
		}
		w.edge.Env = []string{"CHAOS_CLOCK=" + w.clockFile()}
	}
	w.disk = &disk{h, filepath.Join(h.Dir(), "store.img"), filepath.Join(w.edge.DataDir(), "store"), storeSize}
	w.pods = &disk{h, filepath.Join(h.Dir(), "pods.img"), kubeletDir(h), podsSize}
	for _, d := range []*disk{w.disk, w.pods} {
		if err := errors.Join(d.make(ctx), d.mount(ctx)); err != nil {
			return err
		}
	}
	if err := w.edge.StartCore(ctx); err != nil {
		return err
	}
	if err := w.edge.WaitReady(ctx, 2*time.Minute); err != nil {
		return err
	}
	return w.startMapper(ctx)
}

// kubeletDir is the kubelet's directory, which is a disk of its own. Paths of sockets begin with it: it has to be short.
func kubeletDir(h *cluster.EdgeHost) string { return filepath.Join(h.Dir(), "kubelet") }

// buildShiftedEdge builds the edgecore whose clock can be set, if it is not up to date.
func buildShiftedEdge(ctx context.Context) (string, error) {
	root, err := cluster.ModuleRoot(ctx)
	if err != nil {
		return "", err
	}
	stamps, err := cluster.KubernetesStamps(ctx)
	if err != nil {
		return "", err
	}
	path := filepath.Join(root, ".tether", "bin", "shiftededge")
	cmd := exec.CommandContext(ctx, "go", "build", "-ldflags=-s -w "+stamps, "-o", path, "./tests/cmd/shiftededge")
	cmd.Dir = root
	if text, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build an edgecore whose clock can be set: %w: %s", err, text)
	}
	return path, nil
}

func (w *world) startMapper(ctx context.Context) error {
	program, err := cluster.Program(ctx, "mapper")
	if err != nil {
		return err
	}
	socket := filepath.Join(filepath.Dir(w.edge.MapperSocket()), "virtual.sock")
	w.mapper, err = w.edge.Start(cluster.ProcessConfig{Name: "mapper", Argv: []string{program, "virtual", "--edge-socket", w.edge.MapperSocket(), "--socket", socket}})
	return err
}

// boot brings the edge host back after a power cut, with all that runs on it.
func (w *world) boot(ctx context.Context) error {
	if err := w.edge.Boot(ctx); err != nil {
		return err
	}
	if err := errors.Join(w.cable.plug(), w.disk.mount(ctx), w.pods.mount(ctx)); err != nil {
		return err
	}
	return errors.Join(w.edge.StartCore(ctx), w.startMapper(ctx))
}

// localAPI is a client of the edge's own API.
func (w *world) localAPI() (kubernetes.Interface, error) {
	pid, err := w.edge.CorePID()
	if err != nil {
		return nil, err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.local != nil && w.localPID == pid {
		return w.local, nil
	}
	if w.local, err = w.edge.LocalAPI(); err != nil {
		w.local = nil
		return nil, err
	}
	w.localPID = pid
	return w.local, nil
}

// stopCore ends edgecore and its supervisor in order; killCore as they stand.
func (w *world) stopCore() error { return w.edge.Supervisor.Stop(stopGrace) }

func (w *world) killCore() error {
	pid, err := w.edge.CorePID()
	if err != nil {
		return err
	}
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil && !errors.Is(err, syscall.ESRCH) {
		return fmt.Errorf("kill edgecore: %w", err)
	}
	return nil
}

// edgeStatus is what edgecore says of itself.
type edgeStatus struct {
	stack.EdgeStatus
	Outbox []struct {
		Class string
		Count int
	}
	Held   []string
	Unread string
}

func (w *world) status(ctx context.Context) (s edgeStatus, err error) {
	body, err := w.edge.Get(ctx, w.edge.Metrics()+"/status")
	if err != nil {
		return s, fmt.Errorf("edgecore's status: %w", err)
	}
	if err := json.Unmarshal([]byte(body), &s); err != nil {
		return s, fmt.Errorf("edgecore's status: %w", err)
	}
	return s, nil
}

// kubeletRuns reports whether the kubelet has pods from the edge's API.
func (w *world) kubeletRuns(ctx context.Context) bool {
	s, err := w.status(ctx)
	return err == nil && s.Kubelet.State == "running"
}

// holder is the CloudCore that the edge is connected to, or any if there is none.
func (w *world) holder(ctx context.Context) *cloudCore {
	if s, err := w.status(ctx); err == nil && w.clouds[s.Link.Server] != nil {
		return w.clouds[s.Link.Server]
	}
	return w.clouds[w.Server()]
}

// ready returns nil when a CloudCore lets edges in.
func (c *cloudCore) ready(ctx context.Context) error {
	if !c.Alive() {
		return fmt.Errorf("%s does not run", c.Name())
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+c.metrics+"/readyz", nil)
	if err != nil {
		return err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("%s is not ready: %s", c.Name(), resp.Status)
	}
	return nil
}

// down removes the system.
func (w *world) down() error {
	var faults []error
	if w.cable != nil {
		faults = append(faults, w.cable.unplug())
	}
	if w.api != nil {
		w.api.close()
	}
	// The run may have been interrupted; what it made goes all the same.
	return errors.Join(append(faults, w.cluster.Down(context.Background()))...)
}
