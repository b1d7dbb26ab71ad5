package edgecore

import (
	"testing"

	corev1 "k8s.io/api/core/v1"

	"github.com/tether-edge/tether/common/object"
	"github.com/tether-edge/tether/edge/edgecore/ownnode"
	"github.com/tether-edge/tether/edge/steward"
)

// The Node shows what its site has otherwise than the cluster, and nothing where that never was; and the time after which it ends what
// is fenced, with what it may take to notice that a link is dead.
func TestTheNodeShowsWhatItsSiteKeeps(t *testing.T) {
	e, end := sealedNode(t, joined(t, "edge-1"), Deps{})
	defer end()
	synced(t, e.store)
	giveNode(t, e.store, 1, nil)
	shows := func() (corev1.NodeCondition, string) {
		t.Helper()
		o, _, err := e.own.Get(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		return ownnode.Condition(o, object.ConditionKeptPods), o.Annotations[object.AnnotationFenceAfter]
	}
	show := func(s steward.Summary) {
		t.Helper()
		if err := e.showKept(t.Context(), s); err != nil {
			t.Fatal(err)
		}
	}
	show(steward.Summary{})
	if c, after := shows(); c.Type != "" || after != "" {
		t.Errorf("with nothing to show: %+v, %q", c, after)
	}
	e.cfg.Steward.FenceAfter, e.cfg.Cloud.PingInterval = 10*60e9, 15e9
	show(steward.Summary{Held: []string{"shop/a", "shop/b"}, StandIns: []string{"shop/c"}})
	c, after := shows()
	if c.Status != corev1.ConditionTrue || c.Message != "2 held: shop/a, shop/b; 1 stand-ins: shop/c" || after != "12m0s" {
		t.Errorf("%+v, %q", c, after)
	}
	e.cfg.Steward.FenceAfter = 0
	show(steward.Summary{})
	if c, after := shows(); c.Status != corev1.ConditionFalse || after != "" {
		t.Errorf("at the end: %+v, %q", c, after)
	}
}
