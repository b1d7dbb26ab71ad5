package keadm

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"

	"github.com/tether-edge/tether/common/object"
	"github.com/tether-edge/tether/common/trust"
)

// A removal is a cluster from which the node gone is taken away.
type removal struct {
	api *fake.Clientset
	out bytes.Buffer
	now time.Time
}

// newRemoval makes a cluster that heard of the edge gone an hour ago; it has a pod that goes with it, one for any node, and
// another node's.
func newRemoval(t *testing.T) *removal {
	t.Helper()
	r := &removal{now: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)}
	heard, seconds := metav1.NewMicroTime(r.now.Add(-time.Hour)), int32(40)
	pod := func(name, node string, tolerations ...corev1.Toleration) *corev1.Pod {
		return &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: name}, Spec: corev1.PodSpec{NodeName: node, Tolerations: tolerations}}
	}
	r.api = fake.NewClientset(
		&corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "gone"}, Spec: corev1.NodeSpec{ProviderID: "tether://gone", Taints: []corev1.Taint{{Key: "site", Effect: "NoSchedule"}}},
			Status: corev1.NodeStatus{Conditions: []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionUnknown}}}},
		&coordinationv1.Lease{ObjectMeta: metav1.ObjectMeta{Namespace: corev1.NamespaceNodeLease, Name: "gone", Labels: map[string]string{object.LabelEdge: ""}},
			Spec: coordinationv1.LeaseSpec{RenewTime: &heard, LeaseDurationSeconds: &seconds}},
		&corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "stock"}, Spec: corev1.NodeSpec{ProviderID: "aws:///stock"}},
		&coordinationv1.Lease{ObjectMeta: metav1.ObjectMeta{Namespace: corev1.NamespaceNodeLease, Name: "left-by-stock"}},
		pod("db-0", "gone", corev1.Toleration{Key: corev1.TaintNodeUnreachable, Operator: corev1.TolerationOpExists, Effect: corev1.TaintEffectNoExecute}),
		pod("agent", "gone", corev1.Toleration{Operator: corev1.TolerationOpExists}), pod("other", "stock"))
	record := trust.Identity{Node: "gone", Machine: "m", Key: "k", Issued: r.now.Add(-time.Hour), Until: r.now.Add(time.Hour)}
	if err := trust.New(r.api, r.clock).Record(t.Context(), record, func(*trust.Identity) error { return nil }); err != nil {
		t.Fatal(err)
	}
	r.api.PrependReactor("list", "pods", func(a clienttesting.Action) (bool, runtime.Object, error) {
		// The fake heeds no field selector.
		want := a.(clienttesting.ListAction).GetListRestrictions().Fields
		all, err := r.api.Tracker().List(corev1.SchemeGroupVersion.WithResource("pods"), corev1.SchemeGroupVersion.WithKind("Pod"), "")
		if err != nil {
			return true, nil, err
		}
		l := all.(*corev1.PodList)
		l.Items = slices.DeleteFunc(l.Items, func(p corev1.Pod) bool {
			node, ok := want.RequiresExactMatch("spec.nodeName")
			return ok && p.Spec.NodeName != node
		})
		return true, l, nil
	})
	r.api.ClearActions()
	return r
}

func (r *removal) clock() time.Time { return r.now }

func (r *removal) find(t *testing.T, name string) (*nodeRemoval, error) {
	t.Helper()
	return findNode(t.Context(), IO{Out: &r.out, Err: &r.out, Now: r.clock}, r.api, name)
}

func (r *removal) found(t *testing.T) *nodeRemoval {
	t.Helper()
	n, err := r.find(t, "gone")
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// writes are the changes that were asked for, in order.
func (r *removal) writes() (writes []string) {
	for _, a := range r.api.Actions() {
		name := ""
		switch a := a.(type) {
		case clienttesting.CreateAction: // an update too
			m, _ := a.GetObject().(metav1.Object)
			name = m.GetName()
		case clienttesting.PatchAction:
			name = a.GetName()
		case clienttesting.DeleteAction:
			name = a.GetName()
		}
		if !slices.Contains([]string{"get", "list", "watch"}, a.GetVerb()) {
			writes = append(writes, strings.TrimSpace(a.GetVerb()+" "+a.GetResource().Resource+" "+name))
		}
	}
	return writes
}

// gone fails the test where the cluster still has something of the node.
func (r *removal) gone(t *testing.T) {
	t.Helper()
	_, node := r.api.CoreV1().Nodes().Get(t.Context(), "gone", metav1.GetOptions{})
	_, lease := r.api.CoordinationV1().Leases(corev1.NamespaceNodeLease).Get(t.Context(), "gone", metav1.GetOptions{})
	if !apierrors.IsNotFound(node) || !apierrors.IsNotFound(lease) {
		t.Errorf("expected no Node and no Lease, found %v and %v", node, lease)
	}
	store := trust.New(r.api, r.clock)
	if id, err := store.Identity(t.Context(), "gone"); id != nil || err != nil {
		t.Errorf("its identity is %v, %v", id, err)
	}
	if revoked, err := store.Revocations(t.Context()); err != nil || !revoked["gone"].After(r.now) {
		t.Errorf("revocations %v, %v: the machine could connect again", revoked, err)
	}
}

// The machine must not write what is taken away, and CloudCore must know that it is not to make the Node again.
func TestANodeIsRevokedThenMarkedThenRemoved(t *testing.T) {
	r := newRemoval(t)
	n := r.found(t)
	if err := n.revoke(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := n.remove(t.Context()); err != nil {
		t.Fatal(err)
	}
	r.gone(t)
	writes := slices.Compact(r.writes())
	want := []string{"update secrets tether-identity-gone", "create secrets tether-revocations", "patch leases gone", "delete nodes gone", "delete leases gone",
		"delete nodes gone", "delete leases gone", "delete secrets tether-identity-gone"}
	if !slices.Equal(writes, want) {
		t.Errorf("writes %q\nexpected %q", writes, want)
	}
	if _, err := r.api.CoreV1().Pods("shop").Get(t.Context(), "db-0", metav1.GetOptions{}); err != nil {
		t.Errorf("a pod of the node: %v; it is the cluster's to collect", err)
	}
	if _, err := r.find(t, "gone"); err == nil || !strings.Contains(err.Error(), "keadm certs list") {
		t.Errorf("a second removal: %v, expected to hear that there is no such node", err)
	}
}

func TestWhatIsNoEdgesIsNotRemoved(t *testing.T) {
	for name, want := range map[string]string{
		"stock": `expected spec.providerID "tether://stock", found "aws:///stock"`, "left-by-stock": "there is no node", "nobody": "there is no node",
	} {
		r := newRemoval(t)
		if _, err := r.find(t, name); err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), "nothing was changed") {
			t.Errorf("%s: %v, expected %q", name, err, want)
		}
		if w := r.writes(); len(w) > 0 {
			t.Errorf("%s: writes %q", name, w)
		}
	}
}

// What was begun is gone on with, whatever of the node is left.
func TestWhatIsLeftOfANodeIsRemoved(t *testing.T) {
	for name, rest := range map[string]func(r *removal) error{
		"only the identity": func(r *removal) error {
			err := r.api.CoordinationV1().Leases(corev1.NamespaceNodeLease).Delete(t.Context(), "gone", metav1.DeleteOptions{})
			if err != nil {
				return err
			}
			return r.api.CoreV1().Nodes().Delete(t.Context(), "gone", metav1.DeleteOptions{})
		},
		"no Node": func(r *removal) error {
			return r.api.CoreV1().Nodes().Delete(t.Context(), "gone", metav1.DeleteOptions{})
		},
		"no identity": func(r *removal) error { return trust.New(r.api, r.clock).Forget(t.Context(), "gone") },
	} {
		r := newRemoval(t)
		if err := rest(r); err != nil {
			t.Fatal(err)
		}
		n := r.found(t)
		if _, err := n.lose(t.Context(), 0, time.Millisecond); name != "no identity" && err != nil {
			t.Errorf("%s, lost: %v", name, err)
		}
		if err := n.remove(t.Context()); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		r.gone(t)
	}
}

func TestALostNodeIsOneThatTheClusterDoesNotHearOf(t *testing.T) {
	for want, change := range map[string]func(n *nodeRemoval){
		"":                     func(*nodeRemoval) {},
		"is Ready":             func(n *nodeRemoval) { n.node.Status.Conditions[0].Status = corev1.ConditionTrue },
		"was heard of at 2026": func(n *nodeRemoval) { n.lease.Spec.RenewTime.Time = n.w.Now().Add(-39 * time.Second) },
	} {
		n := newRemoval(t).found(t)
		change(n)
		err := n.away()
		if (err != nil) != (want != "") || err != nil && (!strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), "nothing was changed")) {
			t.Errorf("%v, expected %q", err, want)
		}
	}
}

// The machine may come back while the question stands.
func TestALostNodeIsLookedAtAgainAfterTheQuestion(t *testing.T) {
	r := newRemoval(t)
	w := IO{Out: &r.out, Err: &r.out, Now: r.clock}
	no := errors.New("no")
	if _, err := findLost(t.Context(), w, r.api, "gone", func() error { return no }); !errors.Is(err, no) {
		t.Errorf("who said no got %v", err)
	}
	if n, err := findLost(t.Context(), w, r.api, "gone", func() error { return nil }); err != nil || n.node == nil {
		t.Errorf("a node that stays away: %+v, %v", n, err)
	}
	_, err := findLost(t.Context(), w, r.api, "gone", func() error {
		n, err := r.api.CoreV1().Nodes().Get(t.Context(), "gone", metav1.GetOptions{})
		if err != nil {
			return err
		}
		n.Status.Conditions[0].Status = corev1.ConditionTrue
		_, err = r.api.CoreV1().Nodes().UpdateStatus(t.Context(), n, metav1.UpdateOptions{})
		return err
	})
	if err == nil || !strings.Contains(err.Error(), "is Ready") {
		t.Errorf("a node that came back while it was asked: %v, expected to be refused", err)
	}
}

func TestALostNodeNeedsTheWordThatItIsOffOrFenced(t *testing.T) {
	for _, words := range [][]string{nil, {"--powered-off", "--fenced"}} {
		var out, said bytes.Buffer
		code := Run(t.Context(), append([]string{"node", "lost", "gone"}, words...), IO{Out: &out, Err: &said, Now: time.Now})
		if code != 2 || !strings.Contains(said.String(), "--powered-off") || !strings.Contains(said.String(), "--fenced") {
			t.Errorf("%v: exit code %d: %s", words, code, &said)
		}
	}
}

func TestAFenceIsWaitedForWhereTheNodeHasOne(t *testing.T) {
	for name, c := range map[string]struct {
		after, fenced string
		tolerant, too bool
		change        func(n *nodeRemoval, p *corev1.Pod)
		want          time.Duration
		refused       string
	}{
		"all are fenced":    {after: "11m30s", fenced: "true", want: time.Minute + 11*time.Minute + 30*time.Second + 45*time.Second},
		"the node has none": {fenced: "true", refused: "steward.fenceAfter"},
		"it is no duration": {after: "soon", fenced: "true", refused: `"soon"`},
		"it is none":        {after: "0s", fenced: "true", refused: "fenceAfter"},
		"a pod is not":      {after: "5m", fenced: "false", refused: "shop/db-0"},
		"and may run twice": {after: "5m", too: true, want: 6 * time.Minute},
		"annotated since it was heard": {after: "5m", fenced: "true", refused: "shop/db-0", change: func(n *nodeRemoval, p *corev1.Pod) {
			p.ManagedFields = []metav1.ManagedFieldsEntry{{Manager: "kubectl", Time: &metav1.Time{Time: n.lease.Spec.RenewTime.Add(time.Second)},
				FieldsV1: &metav1.FieldsV1{Raw: []byte(`{"f:metadata":{"f:annotations":{"f:tether.io/fence":{}}}}`)}}}
		}},
		"made since it was heard": {after: "5m", want: 6 * time.Minute, change: func(n *nodeRemoval, p *corev1.Pod) {
			p.CreationTimestamp.Time = n.lease.Spec.RenewTime.Add(time.Second)
		}},
		"a static pod": {after: "5m", fenced: "true", refused: "shop/db-0", change: func(_ *nodeRemoval, p *corev1.Pod) {
			p.Annotations[corev1.MirrorPodAnnotationKey] = "x"
		}},
		"one is kept without the cluster": {after: "5m", fenced: "true", refused: "1 held: shop/a", change: func(n *nodeRemoval, _ *corev1.Pod) {
			n.node.Status.Conditions = append(n.node.Status.Conditions, corev1.NodeCondition{Type: object.ConditionKeptPods, Status: corev1.ConditionTrue, Message: "1 held: shop/a"})
		}},
		"one goes with the Node": {after: "5m", tolerant: true, want: 6 * time.Minute},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRemoval(t)
			p, err := r.api.CoreV1().Pods("shop").Get(t.Context(), "db-0", metav1.GetOptions{})
			if err != nil {
				t.Fatal(err)
			}
			grace := int64(45)
			p.Spec.TerminationGracePeriodSeconds = &grace
			p.Annotations = map[string]string{object.AnnotationFence: c.fenced}
			if c.tolerant {
				p.Spec.Tolerations = []corev1.Toleration{{Operator: corev1.TolerationOpExists}}
			}
			n := r.found(t)
			p.ManagedFields = nil
			if c.change != nil {
				c.change(n, p)
			}
			// As it is given: the fake would say that its fields were changed now.
			r.api.PrependReactor("list", "pods", func(clienttesting.Action) (bool, runtime.Object, error) {
				return true, &corev1.PodList{Items: []corev1.Pod{*p}}, nil
			})
			n.node.Annotations = map[string]string{object.AnnotationFenceAfter: c.after}
			got, err := n.fence(t.Context(), c.too)
			if (err != nil) != (c.refused != "") || err != nil && (!strings.Contains(err.Error(), c.refused) || !strings.Contains(err.Error(), "nothing was changed")) || got != c.want {
				t.Errorf("%v, %v; expected %v, %q", got, err, c.want, c.refused)
			}
		})
	}
}

// Nothing is taken from a node before its fence has fallen, and its certificates are revoked before that time begins.
func TestNothingIsTakenBeforeTheFenceFalls(t *testing.T) {
	r := newRemoval(t)
	ctx, cancel := context.WithCancel(t.Context())
	r.api.PrependReactor("patch", "nodes", func(clienttesting.Action) (bool, runtime.Object, error) {
		t.Error("the Node was tainted")
		return false, nil, nil
	})
	n := r.found(t)
	n.w.Err = cancelWriter{cancel} // with the first word of the wait
	if _, err := n.lose(ctx, time.Hour, time.Minute); !errors.Is(err, errInterrupted) || !strings.Contains(err.Error(), "fenced") {
		t.Errorf("%v, expected to be interrupted while it waits", err)
	}
	if !strings.Contains(r.out.String(), "revoked") {
		t.Errorf("it said %q, expected that the certificates are revoked", r.out.String())
	}
	synctest.Test(t, func(t *testing.T) {
		began := time.Now()
		quick := &nodeRemoval{name: "gone", w: IO{Out: io.Discard, Err: io.Discard, Now: time.Now}}
		if err := quick.await(t.Context(), 10*time.Minute); err != nil || time.Since(began) < 10*time.Minute {
			t.Errorf("%v after %v", err, time.Since(began))
		}
	})
}

type cancelWriter struct{ cancel func() }

func (w cancelWriter) Write(b []byte) (int, error) {
	w.cancel()
	return len(b), nil
}

// The stock controllers take the pods and the volumes away because of the taint; the Node goes last, or they would not.
func TestPodsAndVolumesGoBeforeALostNode(t *testing.T) {
	r := newRemoval(t)
	attached := &storagev1.VolumeAttachment{ObjectMeta: metav1.ObjectMeta{Name: "va-1"}, Spec: storagev1.VolumeAttachmentSpec{NodeName: "gone"}}
	if _, err := r.api.StorageV1().VolumeAttachments().Create(t.Context(), attached, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	var tainted []corev1.Taint
	r.api.PrependReactor("patch", "nodes", func(a clienttesting.Action) (bool, runtime.Object, error) {
		var n corev1.Node
		if err := json.Unmarshal(a.(clienttesting.PatchAction).GetPatch(), &n); err != nil {
			return true, nil, err
		}
		tainted = n.Spec.Taints
		return false, nil, r.api.Tracker().Delete(corev1.SchemeGroupVersion.WithResource("pods"), "shop", "db-0")
	})
	n := r.found(t)
	pods, err := n.lose(t.Context(), 0, time.Second)
	if err == nil || !strings.Contains(err.Error(), "volume attachment va-1") || strings.Contains(err.Error(), "shop/") {
		t.Fatalf("with a volume that stays: %v, expected to hear of it, and of no pod", err)
	}
	if _, err := r.api.CoreV1().Nodes().Get(t.Context(), "gone", metav1.GetOptions{}); err != nil {
		t.Fatalf("the Node went before its volume: %v", err)
	}
	want := []corev1.Taint{{Key: "site", Effect: "NoSchedule"}, {Key: "node.kubernetes.io/out-of-service", Value: "nodeshutdown", Effect: "NoExecute"}}
	if pods != 1 || !slices.Equal(tainted, want) {
		t.Errorf("%d pods were deleted, taints %v; expected 1 and %v", pods, tainted, want)
	}
	if err := r.api.StorageV1().VolumeAttachments().Delete(t.Context(), "va-1", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, err := r.found(t).lose(t.Context(), 0, time.Minute); err != nil {
		t.Fatal(err)
	}
	r.gone(t)
	if n := strings.Count(r.out.String(), "tainted"); n != 1 {
		t.Errorf("tainted %d times", n)
	}
	if !strings.Contains(r.out.String(), "deleted  1 pods\n") {
		t.Errorf("it said:\n%s", &r.out)
	}
}

func TestATaintIsAddedToWhatOthersChanged(t *testing.T) {
	r := newRemoval(t)
	tries := 0
	r.api.PrependReactor("patch", "nodes", func(clienttesting.Action) (bool, runtime.Object, error) {
		if tries++; tries < 3 {
			return true, nil, apierrors.NewConflict(corev1.Resource("nodes"), "gone", fmt.Errorf("changed"))
		}
		return false, nil, nil
	})
	if err := r.found(t).taint(t.Context()); err != nil || tries != 3 {
		t.Errorf("%v after %d tries", err, tries)
	}
}

func TestPodsThatStayWithALostNode(t *testing.T) {
	s := int64(5)
	for _, c := range []struct {
		t     corev1.Toleration
		stays bool
	}{
		{corev1.Toleration{Operator: corev1.TolerationOpExists}, true},
		{corev1.Toleration{Operator: corev1.TolerationOpExists, Effect: corev1.TaintEffectNoExecute}, true},
		{corev1.Toleration{Operator: corev1.TolerationOpExists, Effect: corev1.TaintEffectNoExecute, TolerationSeconds: &s}, false},
		{corev1.Toleration{Operator: corev1.TolerationOpExists, Effect: corev1.TaintEffectNoSchedule}, false},
		{corev1.Toleration{Key: corev1.TaintNodeUnreachable, Operator: corev1.TolerationOpExists}, false},
		{corev1.Toleration{Key: corev1.TaintNodeOutOfService, Operator: corev1.TolerationOpExists}, true},
		{corev1.Toleration{Key: corev1.TaintNodeOutOfService, Value: "nodeshutdown"}, true},
		{corev1.Toleration{Key: corev1.TaintNodeOutOfService}, false},
	} {
		if got := toleratesLoss(c.t); got != c.stays {
			t.Errorf("%v: stays %t, expected %t", c.t, got, c.stays)
		}
	}
}
