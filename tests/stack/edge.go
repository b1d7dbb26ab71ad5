package stack

import (
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/tether-edge/tether/apis/config/v1alpha1"
	"github.com/tether-edge/tether/tests/cluster"
)

// Edge is an edge host with an edgecore of its own under a supervisor.
type Edge struct {
	*cluster.EdgeHost
	stack      *Stack
	Supervisor *cluster.Process
	config     string
	dir        string // edgecore's data, on the host
}

// Ports of edgecore inside its network namespace, where nothing else lives.
const (
	apiPort     = 10550
	metricsPort = 10351
	kubeletPort = 10350
)

// NewEdge writes the configuration and certificate of a node on an edge host. change, if not nil, edits the
// configuration.
func (s *Stack) NewEdge(ctx context.Context, h *cluster.EdgeHost, change func(*v1alpha1.EdgeCore)) (*Edge, error) {
	e := &Edge{EdgeHost: h, stack: s, dir: edgeDir(h)}
	if err := os.MkdirAll(filepath.Join(e.dir, "static-pods"), 0o755); err != nil {
		return nil, fmt.Errorf("prepare %s: %w", h.Name(), err)
	}
	if err := s.keadm(ctx, "pki", "issue-node", h.Name(), "--dir", s.path("pki"), "--out", filepath.Join(e.dir, "cert")); err != nil {
		return nil, err
	}
	loopback := func(port int) string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(port)) }
	cfg := v1alpha1.DefaultEdgeCore()
	cfg.NodeName = h.Name()
	cfg.DataDir = filepath.Join(e.dir, "data")
	cfg.Cloud.Servers = []string{s.Server()}
	cfg.Cloud.CAFile, cfg.Cloud.CertFile, cfg.Cloud.KeyFile = filepath.Join(e.dir, "cert", "ca.crt"), filepath.Join(e.dir, "cert", "node.crt"), filepath.Join(e.dir, "cert", "node.key")
	cfg.Cloud.PingInterval = v1alpha1.Duration(5 * time.Second)
	cfg.API.BindAddress, cfg.Metrics.BindAddress = loopback(apiPort), loopback(metricsPort)
	cfg.Kubelet.Port = kubeletPort
	cfg.Kubelet.ContainerRuntimeEndpoint = "unix://" + h.Socket()
	cfg.Kubelet.CgroupDriver = v1alpha1.CgroupCgroupfs
	cfg.Kubelet.CgroupRoot = h.Cgroup()
	cfg.Kubelet.NodeIP = h.Address()
	cfg.Kubelet.StaticPodPath = filepath.Join(e.dir, "static-pods")
	// No name server runs in the demonstration; without an address each pod would cost a warning event.
	cfg.Kubelet.ClusterDNS = []string{h.RootAddress()}
	// The machine's disk is not the edge's to judge.
	cfg.Kubelet.EvictionHard = map[string]string{"memory.available": "20Mi"}
	if change != nil {
		change(cfg)
	}
	e.config = filepath.Join(e.dir, "edgecore.yaml")
	if err := writeConfig(e.config, cfg); err != nil {
		return nil, err
	}
	return e, nil
}

// StartCore starts edgecore under its supervisor.
func (e *Edge) StartCore(ctx context.Context) error {
	keadm, err := cluster.Program(ctx, "keadm")
	if err != nil {
		return err
	}
	edgecore, err := cluster.Program(ctx, "edgecore")
	if err != nil {
		return err
	}
	e.Supervisor, err = e.Start(cluster.ProcessConfig{Name: supervisorName(e.EdgeHost), Argv: []string{keadm, "supervise",
		"--child-pid-file", e.CorePIDFile(), "--", edgecore, "--config", e.config}})
	return err
}

// edgeDir holds what NewEdge writes and edgecore's data.
func edgeDir(h *cluster.EdgeHost) string { return filepath.Join(h.Dir(), "tether") }

// supervisorName is the name of the process that keeps edgecore running.
func supervisorName(h *cluster.EdgeHost) string { return "edgecore-" + h.Name() }

// CorePIDFile holds the process id of edgecore itself while it runs.
func (e *Edge) CorePIDFile() string { return filepath.Join(e.dir, "edgecore.pid") }

// CorePID is the process id of edgecore itself.
func (e *Edge) CorePID() (int, error) {
	b, err := os.ReadFile(e.CorePIDFile())
	if err != nil {
		return 0, fmt.Errorf("edgecore's process id: %w", err)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(b)))
	if err != nil {
		return 0, fmt.Errorf("edgecore's process id: %w", err)
	}
	return pid, nil
}

// DataDir is where edgecore keeps its data.
func (e *Edge) DataDir() string { return filepath.Join(e.dir, "data") }

// StaticPods is the directory of static pod manifests.
func (e *Edge) StaticPods() string { return filepath.Join(e.dir, "static-pods") }

// Metrics is the URL of edgecore's metrics, inside the edge's network.
func (e *Edge) Metrics() string { return fmt.Sprintf("http://127.0.0.1:%d", metricsPort) }

// WaitReady waits until the cluster sees the node as Ready.
func (e *Edge) WaitReady(ctx context.Context, timeout time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	return poll(ctx, "node "+e.Name()+" to be Ready", func() error {
		n, err := e.stack.Admin.CoreV1().Nodes().Get(ctx, e.Name(), metav1.GetOptions{})
		if err != nil {
			return err
		}
		for _, c := range n.Status.Conditions {
			if c.Type == corev1.NodeReady {
				if c.Status == corev1.ConditionTrue {
					return nil
				}
				return fmt.Errorf("Ready is %s: %s", c.Status, c.Message)
			}
		}
		return fmt.Errorf("it has no Ready condition")
	})
}
