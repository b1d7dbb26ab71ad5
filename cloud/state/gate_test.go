package state_test

import (
	"testing"
	"time"

	"github.com/tether-edge/tether/cloud/state"
	"github.com/tether-edge/tether/cloud/state/statetest"
	"github.com/tether-edge/tether/common/object"
)

// gated starts a pod whose optional ConfigMap the watch has not brought yet.
func gated(t *testing.T, cfg state.Config) (w *world, v *state.View, r *recorder, cm, p object.Key) {
	t.Helper()
	cluster := statetest.New()
	cluster.Put(node("n"))
	w = synced(t, cluster, cfg)
	v, r = w.subscribe("n")
	cluster.Pause(object.ConfigMaps)
	cm, _ = cluster.Put(configMap("ns", "cm", "1"))
	p, _ = cluster.Put(pod("ns", "p", "n", "cm"))
	return w, v, r, cm, p
}

func TestPodWaitsForItsOptionalConfigMapThatTheWatchHasNotBrought(t *testing.T) {
	w, v, r, cm, p := gated(t, state.Config{})
	eventually(t, "the ConfigMap was looked up", func() bool { return w.cluster.Reads(cm) == 1 })
	w.caughtUp(v, object.Pods)
	if has(v, p) || !v.Pending(p) || len(listed(v)) != 1 {
		t.Fatalf("visible %v, pending %v, listed %v; expected the pod to be held back", has(v, p), v.Pending(p), listed(v))
	}
	if got := v.Cause(p, "", ""); got != 0 {
		t.Errorf("cause of a pod that is held back: %v, expected none", got)
	}
	r.reset()
	w.cluster.Resume(object.ConfigMaps)
	eventually(t, "the pod is visible", func() bool { return has(v, p) })
	if !has(v, cm) || v.Pending(p) {
		t.Errorf("ConfigMap visible %v, pod pending %v", has(v, cm), v.Pending(p))
	}
	eventually(t, "told of both", func() bool { return r.told(p) && r.told(cm) })
}

func TestPodWhoseConfigMapIsReallyAbsentIsReleasedByALiveRead(t *testing.T) {
	cluster := statetest.New()
	w := synced(t, cluster, state.Config{})
	v, r := w.subscribe("n")
	p, _ := cluster.Put(pod("ns", "p", "n", "never"))
	eventually(t, "the pod is visible and told of", func() bool { return has(v, p) && r.told(p) })
	if n := cluster.Reads(key(object.ConfigMaps, "ns", "never")); n != 1 {
		t.Errorf("%d live reads, expected 1", n)
	}
	cluster.Put(pod("ns", "p", "n", "never"))
	w.caughtUp(v)
	if n := cluster.Reads(key(object.ConfigMaps, "ns", "never")); n != 1 {
		t.Errorf("%d live reads after an update of the pod, expected no more than the first", n)
	}
	if n := w.metric("tether_state_lookups_total", "absent"); n != 1 {
		t.Errorf("%v lookups with outcome absent, expected 1", n)
	}
}

// A read that began before a pod came says nothing about what the pod refers to.
func TestPodIsNotReleasedByAReadThatBeganBeforeIt(t *testing.T) {
	cluster := statetest.New()
	w := synced(t, cluster, state.Config{})
	v, _ := w.subscribe("n")
	cm := key(object.ConfigMaps, "ns", "cm")
	release := cluster.Block(cm)
	defer release()
	first, _ := cluster.Put(pod("ns", "first", "n", "cm"))
	eventually(t, "the first read runs", func() bool { return cluster.Reads(cm) == 1 })
	second, _ := cluster.Put(pod("ns", "second", "n", "cm"))
	w.caughtUp(v, object.Pods)
	release()
	eventually(t, "both are visible", func() bool { return has(v, first) && has(v, second) })
	if n := cluster.Reads(cm); n != 2 {
		t.Errorf("%d reads, expected a second one for the second pod", n)
	}
}

func TestFailingReadReleasesThePodAndIsCounted(t *testing.T) {
	for name, breakIt := range map[string]func(*statetest.Cluster, object.Key){
		"error":   func(c *statetest.Cluster, _ object.Key) { c.Fail(true) },
		"timeout": func(c *statetest.Cluster, k object.Key) { t.Cleanup(c.Block(k)) },
	} {
		t.Run(name, func(t *testing.T) {
			cluster := statetest.New()
			w := synced(t, cluster, state.Config{LookupTimeout: 20 * time.Millisecond})
			v, _ := w.subscribe("n")
			breakIt(cluster, key(object.ConfigMaps, "ns", "cm"))
			p, _ := cluster.Put(pod("ns", "p", "n", "cm"))
			eventually(t, "the pod is released", func() bool { return has(v, p) })
			eventually(t, "the failure is counted", func() bool { return w.metric("tether_state_lookups_total", "error") == 1 })
		})
	}
}

func TestPodIsReleasedWhenTheWatchStaysBehind(t *testing.T) {
	w, v, _, _, p := gated(t, state.Config{HoldTimeout: 50 * time.Millisecond})
	eventually(t, "the pod is released", func() bool { return has(v, p) })
	eventually(t, "that is counted", func() bool { return w.metric("tether_state_lookups_total", "late") == 1 })
}

// The ConfigMap was read live, and is deleted before the watch brings it.
func TestPodIsReleasedWhenTheWatchHasPassedWithoutTheObject(t *testing.T) {
	w, v, _, cm, p := gated(t, state.Config{})
	eventually(t, "the ConfigMap was looked up", func() bool { return w.cluster.Reads(cm) == 1 })
	w.cluster.Delete(cm)
	w.cluster.Break(object.ConfigMaps, true)
	w.cluster.Resume(object.ConfigMaps)
	eventually(t, "the pod is visible", func() bool { return has(v, p) })
	if has(v, cm) {
		t.Error("the deleted ConfigMap is visible")
	}
	if n := w.metric("tether_state_lookups_total", "late"); n != 0 {
		t.Errorf("%v lookups were late, expected the watch's progress to end the wait", n)
	}
}

// Reads are made for edges only: a pod of a node that nobody subscribed to is looked up once somebody does.
func TestNoLiveReadForNodesWithoutSubscriber(t *testing.T) {
	cluster := statetest.New()
	w := synced(t, cluster, state.Config{})
	other, _ := w.subscribe("other")
	p, _ := cluster.Put(pod("ns", "p", "n", "cm"))
	w.caughtUp(other)
	cm := key(object.ConfigMaps, "ns", "cm")
	if n := cluster.Reads(cm); n != 0 {
		t.Fatalf("%d live reads, expected none", n)
	}
	v, _ := w.subscribe("n")
	eventually(t, "the pod is visible", func() bool { return has(v, p) })
	if n := cluster.Reads(cm); n != 1 {
		t.Errorf("%d live reads, expected 1", n)
	}
}

// After a cold start the lists themselves prove what is absent.
func TestColdStartMakesNoLiveReads(t *testing.T) {
	cluster := statetest.New()
	p, _ := cluster.Put(pod("ns", "p", "n", "cm"))
	w := synced(t, cluster, state.Config{})
	v, _ := w.subscribe("n")
	if !has(v, p) {
		t.Error("the pod is held back")
	}
	if n := cluster.Reads(key(object.ConfigMaps, "ns", "cm")); n != 0 {
		t.Errorf("%d live reads, expected none", n)
	}
}

func TestHeldPodThatIsDeletedIsDeleted(t *testing.T) {
	w, v, r, cm, p := gated(t, state.Config{})
	eventually(t, "the ConfigMap was looked up", func() bool { return w.cluster.Reads(cm) == 1 })
	r.reset()
	w.cluster.Delete(p)
	eventually(t, "told of the pod", func() bool { return r.told(p) })
	if v.Pending(p) || v.Cause(p, "", "") != object.CauseDeleted {
		t.Errorf("pending %v, cause %v; expected deleted", v.Pending(p), v.Cause(p, "", ""))
	}
	again, _ := w.cluster.Put(pod("ns", "p", "n", "cm"))
	w.caughtUp(v, object.Pods)
	if has(v, again) {
		t.Error("the new pod of that name is not held back")
	}
	w.cluster.Resume(object.ConfigMaps)
	eventually(t, "the new pod is visible", func() bool { return has(v, again) })
}
