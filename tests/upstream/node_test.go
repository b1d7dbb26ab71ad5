package upstream

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"

	"github.com/tether-edge/tether/build"
	"github.com/tether-edge/tether/cloud/node"
	"github.com/tether-edge/tether/cloud/state"
	"github.com/tether-edge/tether/common/transport"
	"github.com/tether-edge/tether/common/wire"
)

// A lockedBuffer is a log that may be read while it is written.
type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// offset is a clock that is wrong by a constant.
type offset time.Duration

func (o offset) Now() time.Time { return time.Now().Add(time.Duration(o)) }

type keeper struct {
	*node.Keeper
	reg  *prometheus.Registry
	log  lockedBuffer
	lost chan string
	stop func()
}

// startKeeper runs a Keeper over the real cache, with CloudCore's own rights, until the test ends or stop is called.
func startKeeper(t *testing.T, cfg node.Config, clock node.Clock) *keeper {
	t.Helper()
	k := &keeper{lost: make(chan string, 16)}
	rc := cloudcore(t, build.Namespace)
	client, err := kubernetes.NewForConfig(rc)
	if err != nil {
		t.Fatal(err)
	}
	source, err := state.NewSource(rc)
	if err != nil {
		t.Fatal(err)
	}
	codec, err := wire.NewCompressor()
	if err != nil {
		t.Fatal(err)
	}
	log := slog.New(slog.NewTextHandler(&k.log, nil))
	k.reg = prometheus.NewRegistry()
	cache := state.New(state.Config{}, state.Deps{Source: source, Compressor: codec, Log: log, Registerer: k.reg})
	k.Keeper, err = node.New(cfg, node.Deps{Client: client, Cache: cache, Log: log, Clock: clock, Registerer: k.reg,
		Lost: func(name, session string) { k.lost <- name + " " + session }})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var work sync.WaitGroup
	work.Go(func() { cache.Start(ctx) })
	work.Go(func() { k.Start(ctx) })
	k.stop = sync.OnceFunc(func() { cancel(); work.Wait() })
	t.Cleanup(func() {
		k.stop()
		if t.Failed() {
			t.Logf("log of CloudCore:\n%s", k.log.String())
		}
	})
	return k
}

func lease(t *testing.T, name string) *coordinationv1.Lease {
	t.Helper()
	l, err := shared.client.CoordinationV1().Leases(node.LeaseNamespace).Get(t.Context(), name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return &coordinationv1.Lease{}
	}
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func getNode(t *testing.T, name string) *corev1.Node {
	t.Helper()
	n, err := shared.client.CoreV1().Nodes().Get(t.Context(), name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// mark writes what people write into a Node.
func mark(t *testing.T, name string) {
	t.Helper()
	_, err := shared.client.CoreV1().Nodes().Patch(t.Context(), name, types.MergePatchType,
		[]byte(`{"metadata":{"labels":{"zone":"north"},"annotations":{"owner":"crew"}},"spec":{"taints":[{"key":"site","value":"a","effect":"NoSchedule"}]}}`), metav1.PatchOptions{})
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, 20*time.Second, func() (string, bool) {
		c := lease(t, name).Annotations[node.AnnotationNode]
		return "copy " + c, strings.Contains(c, "north") && strings.Contains(c, `"site"`) && strings.Contains(c, "crew") && strings.Contains(c, "node-role.kubernetes.io/edge")
	})
}

func deleteNode(t *testing.T, name string) {
	t.Helper()
	if err := shared.client.CoreV1().Nodes().Delete(t.Context(), name, metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
}

// awaitBack waits for the Node to be there again, as it was and with another uid.
func awaitBack(t *testing.T, name string, old *corev1.Node, within time.Duration) {
	t.Helper()
	var n *corev1.Node
	eventually(t, within, func() (string, bool) { n = getNode(t, name); return "no Node " + name, n != nil })
	tainted := false
	for _, taint := range n.Spec.Taints {
		tainted = tainted || taint.Key == "site" && taint.Value == "a"
	}
	_, role := n.Labels["node-role.kubernetes.io/agent"]
	if n.UID == old.UID || n.Labels["zone"] != "north" || n.Annotations["owner"] != "crew" || !tainted || !role || n.Spec.ProviderID != "tether://"+name {
		t.Errorf("Node %s came back as uid %s (was %s), labels %v, annotations %v, taints %v, providerID %q", name, n.UID, old.UID, n.Labels, n.Annotations, n.Spec.Taints, n.Spec.ProviderID)
	}
	eventually(t, 10*time.Second, func() (string, bool) {
		l, err := shared.client.CoreV1().Events("default").List(t.Context(), metav1.ListOptions{FieldSelector: "reason=EdgeNodeRecreated,involvedObject.name=" + name})
		if err != nil {
			return err.Error(), false
		}
		return "no Event", len(l.Items) == 1
	})
}

func TestAVanishedNodeIsCreatedAgainWithinTenSeconds(t *testing.T) {
	s := constrained(t, nil)
	k := startKeeper(t, node.Config{}, nil)
	k.Connected(s.n1, "session-1", "10.0.0.1:10000", transport.WebSocket) // the other node is not connected
	for _, name := range []string{s.n1, s.n2} {
		mark(t, name)
		old := getNode(t, name)
		deleteNode(t, name)
		awaitBack(t, name, old, 10*time.Second)
	}
}

func TestANodeThatVanishedWhileCloudCoreWasAwayComesBack(t *testing.T) {
	s := constrained(t, nil)
	k := startKeeper(t, node.Config{}, nil)
	mark(t, s.n1)
	k.stop()
	old := getNode(t, s.n1)
	deleteNode(t, s.n1)
	startKeeper(t, node.Config{}, nil)
	awaitBack(t, s.n1, old, 10*time.Second)
}

func TestANodeRemovedForGoodStaysAway(t *testing.T) {
	s := constrained(t, nil)
	k := startKeeper(t, node.Config{}, nil)
	mark(t, s.n1)
	if _, err := shared.client.CoordinationV1().Leases(node.LeaseNamespace).Patch(t.Context(), s.n1, types.MergePatchType,
		fmt.Appendf(nil, `{"metadata":{"annotations":{%q:"2026-01-01"}}}`, node.AnnotationRemoved), metav1.PatchOptions{}); err != nil {
		t.Fatal(err)
	}
	deleteNode(t, s.n1)
	eventually(t, 10*time.Second, func() (string, bool) {
		return "no log line", strings.Contains(k.log.String(), "stays so") && strings.Contains(k.log.String(), s.n1)
	})
	if n := getNode(t, s.n1); n != nil {
		t.Errorf("the Node came back as %s", n.UID)
	}
}

// A hub whose clock is an hour behind must not renew backwards, or the node becomes NotReady.
func TestRenewalsNeverGoBackwards(t *testing.T) {
	s := constrained(t, nil)
	cfg := node.Config{RenewInterval: time.Second}
	k := startKeeper(t, cfg, nil)
	k.Connected(s.n1, "right", "10.0.0.1:10000", transport.WebSocket)
	var last time.Time
	renewed := func() (string, bool) {
		l := lease(t, s.n1)
		if l.Spec.RenewTime == nil {
			return "no renewal", false
		}
		if now := l.Spec.RenewTime.Time; now.Before(last) {
			t.Fatalf("renewTime went from %s back to %s", last, now)
		} else if now.After(last) {
			last = now
			return "", true
		}
		return "renewed at " + last.String(), false
	}
	for range 3 {
		eventually(t, 10*time.Second, renewed)
	}
	k.stop()
	l := lease(t, s.n1)
	if len(l.OwnerReferences) != 0 || *l.Spec.HolderIdentity != s.n1 || *l.Spec.LeaseDurationSeconds != 40 ||
		l.Annotations[node.AnnotationReplica] != "10.0.0.1:10000" || l.Annotations[node.AnnotationSession] != "right" {
		t.Errorf("the lease is %+v %+v", l.ObjectMeta, l.Spec)
	}
	slow := startKeeper(t, cfg, offset(-time.Hour))
	slow.Connected(s.n1, "slow", "10.0.0.2:10000", transport.WebSocket)
	for range 3 {
		eventually(t, 10*time.Second, renewed)
	}
}

func TestTheSessionThatLostItsNodeIsReported(t *testing.T) {
	s := constrained(t, nil)
	cfg := node.Config{RenewInterval: time.Second}
	a, b := startKeeper(t, cfg, nil), startKeeper(t, cfg, nil)
	holder := func(want string) {
		t.Helper()
		eventually(t, 10*time.Second, func() (string, bool) {
			got := lease(t, s.n1).Annotations[node.AnnotationSession]
			return "held by " + got, got == want
		})
	}
	a.Connected(s.n1, "first", "10.0.0.1:10000", transport.WebSocket)
	holder("first")
	b.Connected(s.n1, "second", "10.0.0.2:10000", transport.WebSocket)
	holder("second")
	select {
	case got := <-a.lost:
		if got != s.n1+" first" {
			t.Errorf("lost %q", got)
		}
	case <-time.After(10 * time.Second):
		t.Fatal("the first session was not told that it lost the node")
	}
	if l := lease(t, s.n1); l.Annotations[node.AnnotationEpoch] != "2" || l.Annotations[node.AnnotationSession] != "second" {
		t.Errorf("annotations %v", l.Annotations)
	}
	select {
	case got := <-b.lost:
		t.Errorf("the second session was told that it lost: %s", got)
	default:
	}
}

func TestEdgeNodesGetTheirLabels(t *testing.T) {
	s := constrained(t, nil)
	startKeeper(t, node.Config{}, nil)
	eventually(t, 10*time.Second, func() (string, bool) {
		l := getNode(t, s.n1).Labels
		for _, want := range []string{"node-role.kubernetes.io/edge", "node-role.kubernetes.io/agent", "node.kubernetes.io/exclude-from-external-load-balancers"} {
			if _, ok := l[want]; !ok {
				return fmt.Sprint(l), false
			}
		}
		return "", true
	})
}

func TestPodsOnEdgesAreNotEvictedAndOthersAreLeftAlone(t *testing.T) {
	s := constrained(t, nil)
	plain := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: s.ns + "-plain"}}
	if _, err := shared.client.CoreV1().Nodes().Create(t.Context(), plain, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	five := int64(5)
	s.pod("elsewhere", plain.Name, nil)
	s.pod("before", s.n1, func(p *corev1.Pod) {
		p.Spec.Tolerations = []corev1.Toleration{{Operator: corev1.TolerationOpExists, Effect: corev1.TaintEffectNoExecute, TolerationSeconds: &five}}
	})
	startKeeper(t, node.Config{}, nil)
	s.pod("bound", "", func(p *corev1.Pod) { p.Spec.SchedulerName = "none" })
	if err := shared.client.CoreV1().Pods(s.ns).Bind(t.Context(), &corev1.Binding{ObjectMeta: metav1.ObjectMeta{Namespace: s.ns, Name: "bound"},
		Target: corev1.ObjectReference{Kind: "Node", Name: s.n1}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	s.awaitStays("before", "bound")
	for _, tol := range s.get("elsewhere").Spec.Tolerations {
		if tol.Key == corev1.TaintNodeNotReady && (tol.TolerationSeconds == nil || *tol.TolerationSeconds != 300) {
			t.Errorf("a pod of an ordinary node got %v", tol)
		}
	}
}
