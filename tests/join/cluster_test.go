package join

import (
	"context"
	"errors"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/tether-edge/tether/build"
	"github.com/tether-edge/tether/common/trust"
	"github.com/tether-edge/tether/tests/cluster"
	"github.com/tether-edge/tether/tests/stack"
)

// TestTrustOnARealCluster: init, the CA and tokens on a real kube-apiserver, with CloudCore's rights and no others.
func TestTrustOnARealCluster(t *testing.T) {
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
	s, err := stack.New(ctx, c, control)
	if err != nil {
		t.Fatal(err)
	}
	config, err := clientcmd.BuildConfigFromFlags("", filepath.Join(c.Dir(), "tether", "cloudcore.kubeconfig"))
	if err != nil {
		t.Fatal(err)
	}
	config.QPS = -1
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		t.Fatal(err)
	}
	store := trust.New(client, time.Now)
	t.Run("all that start at once agree on one CA", func(t *testing.T) { oneCA(t, client, store) })
	t.Run("a token's uses are counted, however many come at once", func(t *testing.T) { countedUses(t, store) })
	t.Run("DaemonSets are kept off edge nodes", func(t *testing.T) { keptOff(t, s) })
	t.Run("init again changes nothing, reset removes all", func(t *testing.T) { initAndReset(t, s, store) })
}

func oneCA(t *testing.T, client kubernetes.Interface, store *trust.Store) {
	if err := client.CoreV1().Secrets(trust.Namespace).Delete(t.Context(), trust.CASecret, metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	const n = 10
	pins, made := make([]string, n), make([]bool, n)
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() {
			a, m, err := store.EnsureCA(t.Context())
			if err != nil {
				t.Error(err)
				return
			}
			pins[i], made[i] = a.Pin(), m
		})
	}
	wg.Wait()
	count := 0
	for i := range n {
		if pins[i] != pins[0] {
			t.Errorf("%s and %s: two CAs", pins[0], pins[i])
		}
		if made[i] {
			count++
		}
	}
	if count != 1 {
		t.Errorf("%d say that they made it", count)
	}
}

func countedUses(t *testing.T, store *trust.Store) {
	const most, tries = 3, 8
	b, err := store.NewToken(t.Context(), trust.TokenRequest{Nodes: "*", MaxUses: most, Life: time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	results := make([]error, tries)
	var wg sync.WaitGroup
	for i := range tries {
		wg.Go(func() { results[i] = store.UseToken(t.Context(), b.ID, "edge", strings.Repeat("k", i+1)) })
	}
	wg.Wait()
	ok := 0
	for _, err := range results {
		switch {
		case err == nil:
			ok++
		case !errors.Is(err, trust.ErrTokenUsed):
			t.Error(err)
		}
	}
	if ok != most {
		t.Errorf("%d uses of a token for %d", ok, most)
	}
}

func keptOff(t *testing.T, s *stack.Stack) {
	labels := map[string]string{"app": "proxy-like"}
	_, err := s.Admin.AppsV1().DaemonSets(metav1.NamespaceSystem).Create(t.Context(), &appsv1.DaemonSet{
		ObjectMeta: metav1.ObjectMeta{Name: "proxy-like"},
		Spec: appsv1.DaemonSetSpec{Selector: &metav1.LabelSelector{MatchLabels: labels}, Template: corev1.PodTemplateSpec{
			ObjectMeta: metav1.ObjectMeta{Labels: labels},
			Spec: corev1.PodSpec{NodeSelector: map[string]string{"kubernetes.io/os": "linux"}, Tolerations: []corev1.Toleration{{Operator: corev1.TolerationOpExists}},
				Containers: []corev1.Container{{Name: "c", Image: "none"}}}}},
	}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	list := func() string {
		out, err := s.Keadm(t.Context(), "check", "--cluster", "-o", "json")
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
	if out := list(); !strings.Contains(out, "kube-system/proxy-like") {
		t.Errorf("check lists %s", out)
	}
	if _, err := s.Keadm(t.Context(), "check", "--keep-off-edge", "--force"); err != nil {
		t.Fatal(err)
	}
	if out := list(); strings.Contains(out, "proxy-like") {
		t.Errorf("after it was kept off, check lists %s", out)
	}
	// The scheduler's own judgement: an edge node gets no pod of it, another node does.
	for name, role := range map[string]string{"edge-x": "node-role.kubernetes.io/edge", "plain-x": "example.org/none"} {
		_, err := s.Admin.CoreV1().Nodes().Create(t.Context(), &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name,
			Labels: map[string]string{role: "", "kubernetes.io/os": "linux"}}}, metav1.CreateOptions{})
		if err != nil {
			t.Fatal(err)
		}
	}
	eventually(t, "a pod for the other node and none for the edge", func() bool {
		pods, err := s.Admin.CoreV1().Pods(metav1.NamespaceSystem).List(t.Context(), metav1.ListOptions{LabelSelector: "app=proxy-like"})
		return err == nil && len(pods.Items) == 1 && strings.Contains(pods.Items[0].Spec.String(), "plain-x")
	})
}

func initAndReset(t *testing.T, s *stack.Stack, store *trust.Store) {
	before, err := store.CA(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	again := []string{"init", "--local", "--service", "none", "--config", filepath.Join(t.TempDir(), "tether", "cloudcore.yaml"), "--advertise-address", "127.0.0.1"}
	out, err := s.Keadm(t.Context(), again...)
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(out, "kept") || !strings.Contains(out, "keadm join --cloudcore-ipport 127.0.0.1:10000 --token "+before.Pin()) {
		t.Errorf("init again says\n%s", out)
	}
	if out, err = s.Keadm(t.Context(), "init", "--image-repository", "registry.example/tether", "--advertise-address", "a.example", "--dry-run", "-o", "yaml"); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"kind: Deployment", "image: \"registry.example/tether/cloudcore:", "name: tether:cloudcore", "a.example"} {
		if !strings.Contains(out, want) {
			t.Errorf("--dry-run shows no %q", want)
		}
	}
	if _, err := s.Keadm(t.Context(), "reset", "cloud", "--force", "--service", "none", "--config", again[5]); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Admin.CoreV1().Namespaces().Get(t.Context(), build.Namespace, metav1.GetOptions{}); !apierrors.IsNotFound(err) {
		t.Errorf("the namespace after a reset: %v", err)
	}
	roles, err := s.Admin.RbacV1().ClusterRoles().List(context.Background(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range roles.Items {
		if strings.HasPrefix(r.Name, "tether:") {
			t.Errorf("ClusterRole %s after a reset", r.Name)
		}
	}
}
