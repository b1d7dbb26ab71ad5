// Package e2e runs the whole of Tether on real parts: a stock control plane, CloudCore, containerd and an edgecore in
// a network of its own, joined by a cable that can be cut. Each test breaks one promise's way out.
package e2e

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/tether-edge/tether/tests/cluster"
	"github.com/tether-edge/tether/tests/stack"
)

const namespace = "default"

// system is one Tether system with one edge, for one test.
type system struct {
	*stack.Stack
	t    *testing.T
	edge *stack.Edge
}

func newSystem(t *testing.T) *system {
	t.Helper()
	ctx := t.Context()
	c := cluster.ForTest(t)
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	program, err := cluster.Program(ctx, "controlplane")
	must(err)
	control, err := c.StartControlPlane(ctx, program)
	must(err)
	archives, err := cluster.Images(ctx)
	must(err)
	s := &system{t: t}
	s.Stack, err = stack.New(ctx, c, control)
	must(err)
	must(s.StartCloud(ctx))
	host, err := c.NewEdgeHost(ctx, cluster.EdgeConfig{Name: "edge-1", Images: archives})
	must(err)
	s.edge, err = s.NewEdge(ctx, host, nil)
	must(err)
	must(s.edge.StartCore(ctx))
	must(s.edge.WaitReady(ctx, time.Minute))
	return s
}

// createPod creates a pod on the edge; the spec's gaps are filled with what every test wants.
func (s *system) createPod(p *corev1.Pod) *corev1.Pod {
	s.t.Helper()
	p.Spec.NodeName = s.edge.Name()
	zero := int64(1)
	if p.Spec.TerminationGracePeriodSeconds == nil {
		p.Spec.TerminationGracePeriodSeconds = &zero
	}
	for i := range p.Spec.Containers {
		p.Spec.Containers[i].ImagePullPolicy = corev1.PullIfNotPresent
	}
	p, err := s.Admin.CoreV1().Pods(namespace).Create(s.t.Context(), p, metav1.CreateOptions{})
	if err != nil {
		s.t.Fatal(err)
	}
	return p
}

// waitPod waits until ok returns nil for the pod as the cluster shows it.
func (s *system) waitPod(name string, timeout time.Duration, ok func(*corev1.Pod) error) (p *corev1.Pod) {
	s.t.Helper()
	cluster.Eventually(s.t, timeout, "pod "+name, func() error {
		var err error
		if p, err = s.Admin.CoreV1().Pods(namespace).Get(context.Background(), name, metav1.GetOptions{}); err != nil {
			return err
		}
		return ok(p)
	})
	return p
}

func podReady(p *corev1.Pod) error {
	for _, c := range p.Status.Conditions {
		if c.Type == corev1.PodReady && c.Status == corev1.ConditionTrue {
			return nil
		}
	}
	return errors.New(describe(p))
}

// describe says in one line how a pod is.
func describe(p *corev1.Pod) string {
	text := fmt.Sprintf("phase %s %s", p.Status.Phase, p.Status.Reason)
	for _, c := range p.Status.ContainerStatuses {
		if w := c.State.Waiting; w != nil {
			text += fmt.Sprintf(", %s waits: %s %s", c.Name, w.Reason, w.Message)
		}
		if e := c.State.Terminated; e != nil {
			text += fmt.Sprintf(", %s ended: %d %s", c.Name, e.ExitCode, e.Reason)
		}
	}
	return text
}
