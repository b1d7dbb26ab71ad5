package edgecore

import (
	"context"
	"fmt"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	common "github.com/tether-edge/tether/common/drill"
	"github.com/tether-edge/tether/common/object"
	"github.com/tether-edge/tether/edge/drill"
	"github.com/tether-edge/tether/edge/store"
)

// giveNode puts this node's Node into the store, as the cloud would.
func giveNode(t *testing.T, s *store.Store, rv uint64, annotations map[string]string, conditions ...corev1.NodeCondition) {
	t.Helper()
	kind, _ := object.Lookup(object.Nodes)
	n := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "edge-1", UID: "uid-node", ResourceVersion: object.FormatRV(rv), Annotations: annotations}, Status: corev1.NodeStatus{Conditions: conditions}}
	body, err := object.Encode(kind, n)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.ApplyBatch(t.Context(), []store.Incoming{{Key: object.KeyOf(object.Nodes, n), Version: object.Version{UID: "uid-node", RV: rv}, Body: body}}); err != nil {
		t.Fatal(err)
	}
}

// A drill is the cluster's to order, and begins on what the cluster shows: what people, or this node, write here counts as neither. What
// is written here to stop one counts at once.
func TestADrillIsOrderedByTheClusterAndStoppedHere(t *testing.T) {
	e, end := sealedNode(t, joined(t, "edge-1"), Deps{})
	defer end()
	site := drillSite{e}
	if n, err := site.Node(t.Context()); n != nil || err != nil {
		t.Errorf("without a Node: %+v, %v", n, err)
	}
	synced(t, e.store)
	giveNode(t, e.store, 1, nil, corev1.NodeCondition{Type: object.ConditionAutonomy, Status: corev1.ConditionFalse, Reason: "Certificate", Message: "until monday"})
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	changed := site.Changed(ctx)
	client := e.own.API
	for seen, n := false, 0; !seen; n++ { // the watch may begin after the first write
		patch := fmt.Sprintf(`{"metadata":{"annotations":{%q:"theirs?",%q:"a1","n":"%d"}}}`, common.AnnotationOrder, common.AnnotationStop, n)
		if _, err := client.Nodes().Patch(t.Context(), "edge-1", types.MergePatchType, []byte(patch), metav1.PatchOptions{}); err != nil {
			t.Fatal(err)
		}
		select {
		case <-changed:
			seen = true
		case <-time.After(100 * time.Millisecond):
		}
	}
	if err := site.Say(t.Context(), new("agreed"), false); err != nil {
		t.Fatal(err)
	}
	want := drill.Node{State: "agreed", Stop: "a1", Dependent: "Certificate: until monday"}
	if n, err := site.Node(t.Context()); err != nil || *n != want {
		t.Errorf("the Node is %+v, %v, expected %+v", n, err, want)
	}
	giveNode(t, e.store, 2, map[string]string{common.AnnotationOrder: "order", common.AnnotationState: "agreed"})
	want = drill.Node{Order: "order", Shown: "agreed", State: "agreed", Stop: "a1"}
	if n, err := site.Node(t.Context()); err != nil || *n != want {
		t.Errorf("the Node is %+v, %v, expected %+v", n, err, want)
	}
	if err := site.Say(t.Context(), nil, true); err != nil {
		t.Fatal(err)
	}
	want.State, want.Stop = "", ""
	if n, err := site.Node(t.Context()); err != nil || *n != want {
		t.Errorf("the Node is %+v, %v, expected %+v", n, err, want)
	}
	w, err := site.Waiting(t.Context())
	if err != nil || w.First == 0 || w.Last < w.First || len(w.Classes) != 1 || w.Classes[0].Class != "state" || w.Classes[0].Count != 1 {
		t.Errorf("%+v waits, %v, expected the one write of the Node", w, err)
	}
}

// What is known of a drill outlives the agent.
func TestADrillIsRemembered(t *testing.T) {
	cfg := joined(t, "edge-1")
	e, end := sealedNode(t, cfg, Deps{})
	m := drillMemory{e.store}
	if err := m.Keep(t.Context(), map[string][]byte{"a": []byte("1"), "b": []byte("2")}); err != nil {
		t.Fatal(err)
	}
	if err := m.Keep(t.Context(), map[string][]byte{"b": nil}); err != nil {
		t.Fatal(err)
	}
	end()
	e, end = sealedNode(t, cfg, Deps{})
	defer end()
	if got, err := (drillMemory{e.store}).Load(t.Context()); err != nil || len(got) != 1 || string(got["a"]) != "1" {
		t.Errorf("%q, %v: expected a alone", got, err)
	}
}
