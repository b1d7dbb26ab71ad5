package state_test

import (
	"fmt"
	"testing"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"

	"github.com/tether-edge/tether/cloud/state"
	"github.com/tether-edge/tether/cloud/state/statetest"
	"github.com/tether-edge/tether/common/object"
)

func TestCauseOfAPodsEnd(t *testing.T) {
	cluster := statetest.New()
	_, nodeVersion := cluster.Put(node("n"))
	w := synced(t, cluster, state.Config{})
	v, _ := w.subscribe("n")
	put := func(name string) (object.Key, object.Version) {
		k, version := cluster.Put(pod("ns", name, "n"))
		return k, version
	}
	check := func(what string, k object.Key, uid, held string, want object.Cause) {
		t.Helper()
		w.caughtUp(v)
		if got := v.Cause(k, uid, held); got != want {
			t.Errorf("%s: %v, expected %v", what, got, want)
		}
	}

	plain, pv := put("plain")
	check("a pod that is there", plain, pv.UID, nodeVersion.UID, 0)
	cluster.Delete(plain)
	check("deleted by a user", plain, pv.UID, nodeVersion.UID, object.CauseDeleted)

	collected, cv := put("collected")
	p := pod("ns", "collected", "n")
	p.Status.Phase = corev1.PodFailed
	p.Status.Conditions = []corev1.PodCondition{{Type: corev1.DisruptionTarget, Status: corev1.ConditionTrue, Reason: "DeletionByPodGC"}}
	cluster.Put(p)
	cluster.Delete(collected)
	check("collected", collected, cv.UID, nodeVersion.UID, object.CauseNodeGone)
	fresh := pod("ns", "collected", "elsewhere")
	cluster.Put(fresh)
	check("collected, and its name lives elsewhere", collected, cv.UID, nodeVersion.UID, object.CauseNodeGone)

	moved, mv := put("moved")
	replacement := pod("ns", "moved", "elsewhere")
	replacement.UID = "another"
	cluster.Put(replacement)
	check("deleted, and its name lives elsewhere", moved, mv.UID, nodeVersion.UID, object.CauseDeleted)

	orphan, ov := put("orphan")
	csi, _ := cluster.Put(&storagev1.CSINode{ObjectMeta: meta("", "n")})
	w.caughtUp(v)
	cluster.Delete(key(object.Nodes, "", "n"))
	w.caughtUp(v)
	if v.NodeUID() != "" {
		t.Fatal("the Node is still there")
	}
	cluster.Delete(orphan)
	cluster.Delete(csi)
	check("any pod while the Node is absent", plain, pv.UID, nodeVersion.UID, object.CauseNodeGone)
	check("the Node itself", key(object.Nodes, "", "n"), nodeVersion.UID, nodeVersion.UID, object.CauseNodeGone)

	again := node("n")
	again.UID = "second"
	cluster.Put(again)
	check("deleted while the Node was absent", orphan, ov.UID, "second", object.CauseNodeGone)
	check("missing under another Node than the edge's", plain, pv.UID, nodeVersion.UID, object.CauseNodeGone)
	check("a CSINode that went with the Node", csi, "", nodeVersion.UID, object.CauseNodeGone)
	check("deleted by a user before that, once the edge knows the new Node", plain, pv.UID, "second", object.CauseDeleted)
}

func TestRememberedCausesAreBounded(t *testing.T) {
	cluster := statetest.New()
	w := synced(t, cluster, state.Config{MaxCauses: 100})
	v, _ := w.subscribe("n")
	var keys []object.Key
	var uids []string
	for i := range 300 {
		k, version := cluster.Put(pod("ns", fmt.Sprint(i), "n"))
		keys, uids = append(keys, k), append(uids, version.UID)
	}
	w.caughtUp(v)
	for _, k := range keys {
		cluster.Delete(k)
	}
	w.caughtUp(v)
	cluster.Put(node("n"))
	w.caughtUp(v)
	if n := w.metric("tether_state_remembered_causes", ""); n != 100 {
		t.Errorf("%v causes are remembered, expected 100", n)
	}
	for i, want := range map[int]object.Cause{199: object.CauseDeleted, 200: object.CauseNodeGone, 299: object.CauseNodeGone} {
		if got := v.Cause(keys[i], uids[i], ""); got != want {
			t.Errorf("pod %d of 300: %v, expected %v", i, got, want)
		}
	}
}
