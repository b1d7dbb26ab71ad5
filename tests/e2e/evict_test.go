package e2e

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/tether-edge/tether/apis/config/v1alpha1"
	"github.com/tether-edge/tether/tests/cluster"
)

// impatient brings up a system whose cluster soon gives nodes up: it takes 25 s instead of 50 to hold one for unreachable,
// and evicts after 5 s instead of 300. Beside the edge there is a node with a stock kubelet, cordoned at first: with no
// Ready node at all Kubernetes evicts nothing.
func impatient(t *testing.T) *system {
	t.Helper()
	ctx := t.Context()
	c := cluster.ForTest(t)
	program, err := cluster.Program(ctx, "controlplane")
	if err != nil {
		t.Fatal(err)
	}
	control, err := c.StartControlPlane(ctx, program,
		"--component-arg=kube-apiserver=--default-unreachable-toleration-seconds=5", "--component-arg=kube-apiserver=--default-not-ready-toleration-seconds=5",
		"--component-arg=kube-controller-manager=--node-monitor-grace-period=25s")
	if err != nil {
		t.Fatal(err)
	}
	s, host, _ := newcomer(t, c, control)
	s.must(s.Cloud.Stop(20 * time.Second))
	s.must(s.ChangeCloud(func(cfg *v1alpha1.CloudCore) {
		cfg.Lease.RenewInterval, cfg.Lease.Duration = v1alpha1.Duration(5*time.Second), v1alpha1.Duration(20*time.Second)
	}))
	s.must(s.StartCloud(ctx))
	s.edge, err = s.NewEdge(ctx, host, nil)
	s.must(err)
	s.must(s.edge.StartCore(ctx))
	s.must(s.edge.WaitReady(ctx, 2*time.Minute))
	s.stock("worker")
	t.Cleanup(func() {
		if t.Failed() {
			s.showLogs()
		}
	})
	return s
}

// openNamespace makes a namespace whose pods may be evicted.
func (s *system) openNamespace(name string) {
	s.t.Helper()
	_, err := s.Admin.CoreV1().Namespaces().Create(s.t.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name,
		Annotations: map[string]string{"tether.io/evict": "true"}}}, metav1.CreateOptions{})
	s.must(err)
	cluster.Eventually(s.t, time.Minute, "the namespace's service account", func() error {
		_, err := s.Admin.CoreV1().ServiceAccounts(name).Get(s.t.Context(), "default", metav1.GetOptions{})
		return err
	})
}

// replicated runs one replica of a pod that needs nothing else, on the edge, and returns it.
func (s *system) replicated(namespace, name string) *corev1.Pod {
	s.t.Helper()
	labels := map[string]string{"app": name}
	p := demoPod("")
	p.Spec.TerminationGracePeriodSeconds = new(int64(1))
	p.Spec.Containers[0].ImagePullPolicy = corev1.PullIfNotPresent
	_, err := s.Admin.AppsV1().Deployments(namespace).Create(s.t.Context(), &appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec: appsv1.DeploymentSpec{Selector: &metav1.LabelSelector{MatchLabels: labels}, Template: corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: labels}, Spec: p.Spec}},
	}, metav1.CreateOptions{})
	s.must(err)
	return s.replica(namespace, name, s.edge.Name(), "")
}

// replica waits for a Ready pod of a Deployment on a node, other than the one with a uid.
func (s *system) replica(namespace, name, node string, not types.UID) (found *corev1.Pod) {
	s.t.Helper()
	cluster.Eventually(s.t, 2*time.Minute, fmt.Sprintf("a pod of %s/%s on %s", namespace, name, node), func() error {
		var seen []string
		for _, p := range s.replicas(namespace, name) {
			if p.Spec.NodeName == node && p.UID != not && p.DeletionTimestamp == nil && podReady(&p) == nil {
				found = &p
				return nil
			}
			seen = append(seen, fmt.Sprintf("%s on %q: %s", p.Name, p.Spec.NodeName, describe(&p)))
		}
		return errors.New("found " + strings.Join(seen, "; "))
	})
	return found
}

func (s *system) replicas(namespace, name string) []corev1.Pod {
	s.t.Helper()
	l, err := s.Admin.CoreV1().Pods(namespace).List(context.Background(), metav1.ListOptions{LabelSelector: "app=" + name})
	s.must(err)
	return l.Items
}

// uncordon lets pods onto the stock node.
func (s *system) uncordon() {
	s.t.Helper()
	_, err := s.Admin.CoreV1().Nodes().Patch(s.t.Context(), "worker", types.MergePatchType, []byte(`{"spec":{"unschedulable":false}}`), metav1.PatchOptions{})
	s.must(err)
}

// awaitMarked waits until a pod is marked for deletion.
func (s *system) awaitMarked(p *corev1.Pod) {
	s.t.Helper()
	cluster.Eventually(s.t, 3*time.Minute, "pod "+p.Name+" to be evicted", func() error {
		now, err := s.Admin.CoreV1().Pods(p.Namespace).Get(s.t.Context(), p.Name, metav1.GetOptions{})
		if err == nil && now.DeletionTimestamp == nil {
			err = fmt.Errorf("it is not marked for deletion; it tolerates %v", now.Spec.Tolerations)
		}
		return err
	})
}

// TestACutLongerThanTheTolerationEvictsNothing: the cluster gives the edge up and would evict its pods. Those of Tether's
// default are neither marked nor replaced, and nothing on the site stops. Those of a namespace that says so go as on any
// other node: another pod is made elsewhere, and the edge ends its own once it hears of it.
func TestACutLongerThanTheTolerationEvictsNothing(t *testing.T) {
	s := impatient(t)
	ctx := t.Context()
	s.openNamespace("open")
	stays, leaves := s.replicated(namespace, "stays"), s.replicated("open", "leaves")
	// Kubernetes would have evicted the others by the time that this one goes.
	late := demoPod("late")
	late.Spec.NodeName, late.Spec.TerminationGracePeriodSeconds, late.Spec.Containers[0].ImagePullPolicy = s.edge.Name(), new(int64(1)), corev1.PullIfNotPresent
	late.Spec.Tolerations = []corev1.Toleration{{Operator: corev1.TolerationOpExists, Effect: corev1.TaintEffectNoExecute, TolerationSeconds: new(int64(15))}}
	late, err := s.Admin.CoreV1().Pods("open").Create(ctx, late, metav1.CreateOptions{})
	s.must(err)
	cluster.Eventually(t, time.Minute, "the late pod to run", func() error {
		p, err := s.Admin.CoreV1().Pods("open").Get(ctx, late.Name, metav1.GetOptions{})
		if err == nil {
			err = podReady(p)
		}
		return err
	})
	s.uncordon()
	before := s.containers()

	s.cut()
	s.awaitMarked(leaves)
	twin := s.replica("open", "leaves", "worker", leaves.UID)
	s.awaitMarked(late)
	all := s.replicas(namespace, "stays")
	if len(all) != 1 || all[0].UID != stays.UID || all[0].DeletionTimestamp != nil {
		t.Errorf("the Deployment has the pods %v, expected only %s, not marked for deletion", all, stays.Name)
	}
	s.sameContainers(before)

	s.heal()
	cluster.Eventually(t, time.Minute, "the evicted pods to end, and their objects to go", func() error {
		for name := range s.containers() {
			if strings.HasPrefix(name, "open/") {
				return fmt.Errorf("%s runs", name)
			}
		}
		l, err := s.Admin.CoreV1().Pods("open").List(ctx, metav1.ListOptions{})
		if err == nil && (len(l.Items) != 1 || l.Items[0].UID != twin.UID) {
			err = fmt.Errorf("there are %d pods, expected the one on the other node", len(l.Items))
		}
		return err
	})
	s.must(s.edge.WaitReady(ctx, time.Minute))
	container := namespace + "/" + stays.Name + "/demo"
	s.sameContainers(map[string]string{container: before[container]})
}

// TestTolerationsThatChangeRestartNothing: they change in a pod that runs, once its namespace no longer wants it evicted.
func TestTolerationsThatChangeRestartNothing(t *testing.T) {
	s := sharedSystem(t)
	ctx := t.Context()
	s.openNamespace("undecided")
	t.Cleanup(func() {
		s.must(s.Admin.CoreV1().Namespaces().Delete(context.Background(), "undecided", metav1.DeleteOptions{}))
	})
	p := s.replicated("undecided", "tenant")
	before := s.containers()
	if !slices.ContainsFunc(p.Spec.Tolerations, func(tol corev1.Toleration) bool { return tol.TolerationSeconds != nil }) {
		t.Fatalf("a pod that may be evicted tolerates %v", p.Spec.Tolerations)
	}
	_, err := s.Admin.CoreV1().Namespaces().Patch(ctx, "undecided", types.MergePatchType, []byte(`{"metadata":{"annotations":{"tether.io/evict":null}}}`), metav1.PatchOptions{})
	s.must(err)
	local, err := s.edge.LocalAPI()
	s.must(err)
	cluster.Eventually(t, time.Minute, "the edge to have the pod with other tolerations", func() error {
		held, err := local.CoreV1().Pods(p.Namespace).Get(ctx, p.Name, metav1.GetOptions{})
		if err == nil && slices.ContainsFunc(held.Spec.Tolerations, func(tol corev1.Toleration) bool { return tol.TolerationSeconds != nil }) {
			err = fmt.Errorf("it tolerates %v", held.Spec.Tolerations)
		}
		return err
	})
	s.runPod("next") // what comes after went through the same kubelet
	s.sameContainers(before)
}
