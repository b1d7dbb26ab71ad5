package stack

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/tether-edge/tether/apis/config/v1alpha1"
	"github.com/tether-edge/tether/tests/cluster"
)

// Edge is an edge host with an edgecore of its own under a supervisor.
type Edge struct {
	*cluster.EdgeHost
	stack      *Stack
	Supervisor *cluster.Process
	// Core is the edgecore to start, with Env added to its environment; empty is the one that `make build` made.
	Core   string
	Env    []string
	config string
	dir    string // edgecore's data, on the host

	local struct {
		sync.Mutex
		client     kubernetes.Interface
		kubeconfig string
	}
}

// Ports of edgecore inside its network namespace, where nothing else lives.
const (
	metricsPort = 10351
	kubeletPort = 10350
)

// NewEdge joins an edge host, but for starting edgecore. change, if not nil, edits the configuration. CloudCore must run.
func (s *Stack) NewEdge(ctx context.Context, h *cluster.EdgeHost, change func(*v1alpha1.EdgeCore)) (*Edge, error) {
	e := s.Joined(h)
	if err := os.MkdirAll(e.StaticPods(), 0o755); err != nil {
		return nil, fmt.Errorf("prepare %s: %w", h.Name(), err)
	}
	program, err := cluster.Program(ctx, "keadm")
	if err != nil {
		return nil, err
	}
	args, err := s.JoinArgs(ctx, h)
	if err != nil {
		return nil, err
	}
	if _, err := h.Run(ctx, append(append([]string{program}, args...), "--service", "none")...); err != nil {
		return nil, err
	}
	if change == nil {
		return e, nil
	}
	return e, e.Change(change)
}

// Joined is the edge on a host that keadm join made a node with JoinArgs.
func (s *Stack) Joined(h *cluster.EdgeHost) *Edge {
	return &Edge{EdgeHost: h, stack: s, dir: edgeDir(h), config: filepath.Join(edgeDir(h), "edgecore.yaml")}
}

// StartCore starts edgecore under its supervisor.
func (e *Edge) StartCore(ctx context.Context) error {
	keadm, err := cluster.Program(ctx, "keadm")
	if err != nil {
		return err
	}
	edgecore := e.Core
	if edgecore == "" {
		if edgecore, err = cluster.Program(ctx, "edgecore"); err != nil {
			return err
		}
	}
	e.Supervisor, err = e.Start(cluster.ProcessConfig{Name: supervisorName(e.EdgeHost), Env: e.Env, Argv: []string{keadm, "supervise",
		"--child-pid-file", e.CorePIDFile(), "--", edgecore, "--config", e.config}})
	return err
}

// Settings reads the configuration.
func (e *Edge) Settings() (*v1alpha1.EdgeCore, error) { return v1alpha1.LoadEdgeCore(e.config) }

// Change edits the configuration. edgecore must not run.
func (e *Edge) Change(change func(*v1alpha1.EdgeCore)) error {
	cfg, err := v1alpha1.LoadEdgeCore(e.config)
	if err != nil {
		return err
	}
	change(cfg)
	return writeConfig(e.config, cfg)
}

// SetProtocol changes what carries the link. edgecore must not run.
func (e *Edge) SetProtocol(p v1alpha1.Protocol) error {
	return e.Change(func(cfg *v1alpha1.EdgeCore) { cfg.Cloud.Protocol = p })
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

// MapperSocket is where mappers register, MQTT the host:port of the broker inside the edge's network.
func (e *Edge) MapperSocket() string { return filepath.Join(e.dir, "dmi.sock") }

// WaitReady waits until the cluster sees the node as Ready.
func (e *Edge) WaitReady(ctx context.Context, timeout time.Duration) error {
	return e.stack.nodeReady(ctx, e.Name(), timeout)
}

func (s *Stack) nodeReady(ctx context.Context, name string, timeout time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	return poll(ctx, "node "+name+" to be Ready", func() error {
		n, err := s.Admin.CoreV1().Nodes().Get(ctx, name, metav1.GetOptions{})
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
