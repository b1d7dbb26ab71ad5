package e2e

import (
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	policyv1 "k8s.io/api/policy/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/tether-edge/tether/tests/cluster"
)

// TestResetMovesPodsToAnotherNodeFirst: a reset drains, so that a Deployment with a disruption budget is never without a
// Ready pod: the other node has them before the first node is gone. What was drained is deleted then, too.
func TestResetMovesPodsToAnotherNodeFirst(t *testing.T) {
	ctx := t.Context()
	c := cluster.ForTest(t)
	program, err := cluster.Program(ctx, "controlplane")
	if err != nil {
		t.Fatal(err)
	}
	control, err := c.StartControlPlane(ctx, program)
	if err != nil {
		t.Fatal(err)
	}
	s, host, keadm := newcomer(t, c, control)
	args, err := s.JoinArgs(ctx, host)
	s.must(err)
	_, err = host.Run(ctx, slices.Concat([]string{keadm}, args, []string{"--service", "process"})...)
	s.must(err)
	s.stock("worker") // cordoned: all pods are the edge's at first
	s.configMap("moved", map[string]string{"message": "words"})
	s.deployment("moved", 2)
	s.waitDeployment("moved", 2, 2*time.Minute)
	for _, p := range s.podsOf("moved") {
		if p.Spec.NodeName != "edge-1" {
			t.Fatalf("pod %s is on %q", p.Name, p.Spec.NodeName)
		}
	}
	s.runPod("alone")
	one := intstr.FromInt32(1)
	_, err = s.Admin.PolicyV1().PodDisruptionBudgets(namespace).Create(ctx, &policyv1.PodDisruptionBudget{ObjectMeta: metav1.ObjectMeta{Name: "moved"},
		Spec: policyv1.PodDisruptionBudgetSpec{MinAvailable: &one, Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": "moved"}}}}, metav1.CreateOptions{})
	s.must(err)
	_, err = s.Admin.CoreV1().Nodes().Patch(ctx, "worker", types.MergePatchType, []byte(`{"spec":{"unschedulable":false}}`), metav1.PatchOptions{})
	s.must(err)
	cluster.Eventually(t, time.Minute, "the budget to allow an eviction", func() error {
		b, err := s.Admin.PolicyV1().PodDisruptionBudgets(namespace).Get(ctx, "moved", metav1.GetOptions{})
		if err == nil && b.Status.DisruptionsAllowed == 0 {
			err = fmt.Errorf("it has %d healthy", b.Status.CurrentHealthy)
		}
		return err
	})

	out, err := host.Run(ctx, keadm, "reset", "edge", "--force", "--service", "process", "--config", filepath.Join(host.Dir(), "tether", "edgecore.yaml"))
	s.must(err)
	t.Logf("reset:\n%s", out)
	// The pod without a controller, of which the cluster makes no other, is not evicted.
	for _, want := range []string{"drained  2 pods", "ended    1 pods", "removed  node edge-1 from the cluster"} {
		if !strings.Contains(out, want) {
			t.Errorf("the reset does not say %q", want)
		}
	}
	ready := 0
	for _, p := range s.podsOf("moved") {
		if p.Spec.NodeName == "edge-1" {
			t.Errorf("pod %s was drained, and the cluster does not know that it ended", p.Name)
		}
		if p.Spec.NodeName == "worker" && podReady(&p) == nil {
			ready++
		}
	}
	if ready == 0 {
		t.Errorf("no pod was Ready on the other node before this one was gone:\n%v", s.podsOf("moved"))
	}
	if _, err := s.Admin.CoreV1().Nodes().Get(ctx, "edge-1", metav1.GetOptions{}); !apierrors.IsNotFound(err) {
		t.Errorf("after the reset the Node is still there: %v", err)
	}
	s.waitDeployment("moved", 2, time.Minute)
}
