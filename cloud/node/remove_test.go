package node

import (
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/tether-edge/tether/common/object"
	"github.com/tether-edge/tether/common/transport"
)

func TestReadyNeedsASessionAndTheClustersWord(t *testing.T) {
	cache := objects{}
	k, _ := newKeeper(t, cache)
	want := func(what string, ready bool) {
		t.Helper()
		if got, reason := k.Ready("n1"); got != ready || (reason == "") != ready {
			t.Errorf("%s: %t, %q", what, got, reason)
		}
	}
	n := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n1"}}
	want("an unknown node", false)
	k.Connected("n1", "s1", "a:1", transport.WebSocket)
	want("one that has not registered", false)
	cache[object.Key{Kind: object.Nodes, Name: "n1"}] = n
	want("one without a report", false)
	n.Status.Conditions = []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionFalse, Reason: "R", Message: "m"}}
	want("one that is not Ready", false)
	n.Status.Conditions[0].Status = corev1.ConditionTrue
	want("one that is", true)
	k.Disconnected("n1", "s1")
	want("one that was Ready and is gone", false)
}

// Whichever CloudCore holds a node, each finds it in the Lease.
func TestTheHolderOfANodeIsKnownByItsLease(t *testing.T) {
	k, clock := newKeeper(t, objects{})
	want := func(what, session string) {
		t.Helper()
		if got, _, err := k.Holder(t.Context(), "n1"); got != session || err != nil {
			t.Errorf("%s: held by %q, %v, expected %q", what, got, err, session)
		}
	}
	want("a node that never was", "")
	k.Connected("n1", "s1", "a:1", transport.WebSocket)
	k.Alive("n1", "s1", 0, time.Second)
	renew(t, k)
	want("one that is connected", "s1")
	clock.add(time.Hour)
	want("one whose lease was not renewed for an hour", "")
}

func TestARemovedNodeStaysRemoved(t *testing.T) {
	n := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n1"}, Spec: corev1.NodeSpec{ProviderID: "tether://n1"}}
	cache := objects{{Kind: object.Nodes, Name: "n1"}: n}
	k, _ := newKeeper(t, cache)
	if _, err := k.deps.Client.CoreV1().Nodes().Create(t.Context(), n, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	k.Connected("n1", "s1", "a:1", transport.WebSocket)
	renew(t, k)
	for range 2 { // it can be asked again
		if err := k.Remove(t.Context(), "n1"); err != nil {
			t.Fatal(err)
		}
	}
	delete(cache, object.Key{Kind: object.Nodes, Name: "n1"})
	k.Alive("n1", "s1", 0, 0) // the session has not ended yet
	if _, err := k.syncLease(t.Context(), "n1"); err != nil {
		t.Fatal(err)
	}
	if _, err := k.syncNode(t.Context(), "n1"); err != nil {
		t.Fatal(err)
	}
	if _, err := k.deps.Client.CoreV1().Nodes().Get(t.Context(), "n1", metav1.GetOptions{}); !apierrors.IsNotFound(err) {
		t.Errorf("the Node is there: %v", err)
	}
	if _, err := k.deps.Client.CoordinationV1().Leases(LeaseNamespace).Get(t.Context(), "n1", metav1.GetOptions{}); !apierrors.IsNotFound(err) {
		t.Errorf("its Lease is there: %v", err)
	}
}
