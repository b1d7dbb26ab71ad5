package e2e

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/tether-edge/tether/tests/cluster"
)

// forgotten fails the test where the cluster has something of the edge.
func (s *system) forgotten() {
	s.t.Helper()
	ctx := context.Background()
	if _, err := s.Admin.CoreV1().Nodes().Get(ctx, s.edge.Name(), metav1.GetOptions{}); !apierrors.IsNotFound(err) {
		s.t.Errorf("its Node: %v, expected none", err)
	}
	if _, err := s.Admin.CoordinationV1().Leases(corev1.NamespaceNodeLease).Get(ctx, s.edge.Name(), metav1.GetOptions{}); !apierrors.IsNotFound(err) {
		s.t.Errorf("its Lease: %v, expected none", err)
	}
	out, err := s.Keadm(ctx, "certs", "list")
	s.must(err)
	if strings.Contains(out, s.edge.Name()) {
		s.t.Errorf("certs list says\n%s", out)
	}
}

// TestALostNodeGivesItsPodsBack: a machine is off for good. A pod of a StatefulSet waits for it, as it must, until somebody
// says so; then it is made on another node.
func TestALostNodeGivesItsPodsBack(t *testing.T) {
	s := impatient(t)
	ctx := t.Context()
	labels := map[string]string{"app": "db"}
	p := demoPod("")
	p.Spec.TerminationGracePeriodSeconds = new(int64(1))
	p.Spec.Containers[0].ImagePullPolicy = corev1.PullIfNotPresent
	_, err := s.Admin.AppsV1().StatefulSets(namespace).Create(ctx, &appsv1.StatefulSet{ObjectMeta: metav1.ObjectMeta{Name: "db"},
		Spec: appsv1.StatefulSetSpec{Selector: &metav1.LabelSelector{MatchLabels: labels}, Template: corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: labels}, Spec: p.Spec}}}, metav1.CreateOptions{})
	s.must(err)
	first := s.replica(namespace, "db", s.edge.Name(), "")
	s.openNamespace("open")
	leaves := s.replicated("open", "leaves")
	s.uncordon()
	if out, err := s.Keadm(ctx, "node", "lost", s.edge.Name(), "--powered-off", "--force"); err == nil || !strings.Contains(err.Error(), "was heard of at") {
		t.Fatalf("a node that is well was lost: %v\n%s", err, out)
	}

	s.must(s.edge.PowerCut())
	s.awaitMarked(leaves) // what may be evicted is
	now, err := s.Admin.CoreV1().Pods(namespace).Get(ctx, first.Name, metav1.GetOptions{})
	s.must(err)
	if now.UID != first.UID || now.DeletionTimestamp != nil {
		t.Errorf("the StatefulSet's pod is %s, deleted at %v: it was evicted", now.UID, now.DeletionTimestamp)
	}
	var out string
	cluster.Eventually(t, time.Minute, "the node to be lost, once its Lease is over", func() (err error) {
		out, err = s.Keadm(ctx, "node", "lost", s.edge.Name(), "--powered-off", "--force")
		if err != nil && !strings.Contains(err.Error(), "was heard of at") {
			t.Fatal(err)
		}
		return err
	})
	t.Logf("node lost:\n%s", out)
	s.forgotten()
	s.replica(namespace, "db", "worker", first.UID)
	s.replica("open", "leaves", "worker", leaves.UID)
}

// TestANodeThatIsRemovedStaysRemoved: it is removed while its machine runs and is connected. CloudCore does not make it again,
// and what runs there runs on: nothing reaches it any more.
func TestANodeThatIsRemovedStaysRemoved(t *testing.T) {
	ctx := t.Context()
	p, err := bringUp(ctx, cluster.ForTest(t), cluster.EdgeConfig{Name: "edge-1"})
	if err != nil {
		t.Fatal(err)
	}
	s := &system{parts: p, t: t}
	s.runPod("tenant")
	before := s.containers()
	out, err := s.Keadm(ctx, "node", "remove", s.edge.Name(), "--force")
	s.must(err)
	t.Logf("node remove:\n%s", out)
	cluster.Eventually(t, 20*time.Second, "the session to end", func() error {
		st, err := s.edge.Status(ctx)
		if err == nil && st.Link.Connected {
			err = errors.New("the link is up")
		}
		return err
	})
	s.waitGone("tenant", 3*time.Minute) // collected, since its Node stays away
	s.forgotten()
	s.sameContainers(before)
	if _, err := s.Keadm(ctx, "node", "remove", s.edge.Name(), "--force"); err == nil || !strings.Contains(err.Error(), fmt.Sprintf("there is no node %q", s.edge.Name())) {
		t.Errorf("a second removal: %v", err)
	}
}
