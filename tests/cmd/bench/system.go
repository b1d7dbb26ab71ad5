package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/tether-edge/tether/apis/config/v1alpha1"
	"github.com/tether-edge/tether/tests/cluster"
	"github.com/tether-edge/tether/tests/stack"
)

// readyTimeout bounds every wait for a node or for pods; on an idle machine each takes seconds.
const readyTimeout = 3 * time.Minute

// system is one Tether system. Each row makes its own, so that none finds what another left.
type system struct {
	*stack.Stack
	bench   *bench
	cluster *cluster.Cluster
}

// system brings up a control plane and cloudcore. args are added to the control plane's flags; prepare, if not nil, is
// called before anything is started. The caller calls down.
func (b *bench) system(ctx context.Context, prepare func(dir string) error, args ...string) (s *system, err error) {
	if err := os.MkdirAll(clusterBase(), 0o755); err != nil {
		return nil, fmt.Errorf("make a cluster: %w", err)
	}
	dir, err := os.MkdirTemp(clusterBase(), "b")
	if err != nil {
		return nil, fmt.Errorf("make a cluster: %w", err)
	}
	c, err := cluster.New(cluster.Config{Dir: dir, Host: b.machine})
	if err != nil {
		return nil, err
	}
	s = &system{bench: b, cluster: c}
	defer func() {
		if err != nil {
			err = s.down(err)
		}
	}()
	if prepare != nil {
		if err := prepare(dir); err != nil {
			return nil, err
		}
	}
	program, err := cluster.Program(ctx, "controlplane")
	if err != nil {
		return nil, err
	}
	for i := range args {
		args[i] = strings.ReplaceAll(args[i], "DIR", dir)
	}
	control, err := c.StartControlPlane(ctx, program, args...)
	if err != nil {
		return nil, err
	}
	if s.Stack, err = stack.New(ctx, c, control); err != nil {
		return nil, err
	}
	if err = s.StartCloud(ctx); err != nil {
		return nil, err
	}
	return s, nil
}

// down removes the system and returns err, with the ends of the logs where there is one, and what could not be removed.
func (s *system) down(err error) error {
	if err != nil && !errors.Is(err, context.Canceled) {
		for _, p := range s.cluster.Processes() {
			fmt.Fprintf(os.Stderr, "%s\n", p.LogTail(8))
		}
	}
	// The run may have been interrupted; what it made goes all the same.
	if left := s.cluster.Down(context.Background()); left != nil {
		err = errors.Join(err, fmt.Errorf("%w: %w", errLeft, left))
	}
	return err
}

// errLeft says that something that was running is there still.
var errLeft = errors.New("not everything could be taken away")

// host makes an edge host without anything on it.
func (s *system) host(ctx context.Context, name string) (*cluster.EdgeHost, error) {
	return s.cluster.NewEdgeHost(ctx, cluster.EdgeConfig{Name: name, Images: s.bench.images})
}

// edge makes an edge and waits until its node is Ready.
func (s *system) edge(ctx context.Context, name string) (*stack.Edge, error) {
	return s.edgeWith(ctx, name, nil)
}

// edgeWith is edge with a configuration that change has edited.
func (s *system) edgeWith(ctx context.Context, name string, change func(*v1alpha1.EdgeCore)) (*stack.Edge, error) {
	h, err := s.host(ctx, name)
	if err != nil {
		return nil, err
	}
	e, err := s.NewEdge(ctx, h, change)
	if err != nil {
		return nil, err
	}
	if err := e.StartCore(ctx); err != nil {
		return nil, err
	}
	return e, e.WaitReady(ctx, readyTimeout)
}

// nodeReady returns nil when the API server shows the node as Ready.
func (s *system) nodeReady(ctx context.Context, name string) error {
	n, err := s.Admin.CoreV1().Nodes().Get(ctx, name, metav1.GetOptions{})
	if err != nil {
		return err
	}
	for _, c := range n.Status.Conditions {
		if c.Type == corev1.NodeReady && c.Status == corev1.ConditionTrue {
			return nil
		}
	}
	return fmt.Errorf("node %s is not Ready", name)
}
