package store

import (
	"testing"

	corev1 "k8s.io/api/core/v1"

	"github.com/tether-edge/tether/common/object"
)

// The copy of a lost database holds the status of a pod that has ended since, and the cloud was told so. It is not told the former one
// again; what the kubelet wrote after the loss is.
func TestAFormerStatusFromTheCopyIsNotAssertedAgain(t *testing.T) {
	cfg := testConfig(t.TempDir())
	s, stop := running(t, cfg, Deps{})
	delivered := func() {
		t.Helper()
		for _, h := range s.queue(t) {
			if err := s.Drop(t.Context(), h.ID); err != nil {
				t.Fatal(err)
			}
		}
	}
	for _, name := range []string{"ended", "same", "said"} {
		s.mustBatch(t, upsert(t, object.Pods, pod(name, "u-"+name, 5)))
		s.mustApply(t, withStatus(t, s.mustGet(t, podKey(name)), corev1.PodRunning))
	}
	s.mustBatch(t, upsert(t, object.Pods, pod("over", "u-over", 5)))
	s.mustApply(t, withStatus(t, s.mustGet(t, podKey("over")), corev1.PodFailed)) // the copy has it, and not the write that tells the cloud
	delivered()
	s.markAll(t)
	waitForCopy(t, s)
	s.mustApply(t, withStatus(t, s.mustGet(t, podKey("ended")), corev1.PodSucceeded))
	delivered()
	stop()
	truncate(t, s.files.main(), 0)
	s, _ = running(t, cfg, Deps{Log: testLog(t)})
	if s.Status().Restored != "copy" || whole(s) {
		t.Fatalf("%+v, expected a copy that may lack pods", s.Status())
	}
	s.mustApply(t, withStatus(t, s.mustGet(t, podKey("said")), corev1.PodFailed))

	shown := func(name string, rv uint64, phase corev1.PodPhase) Incoming {
		p := pod(name, "u-"+name, rv)
		p.Status.Phase = phase
		return upsert(t, object.Pods, p)
	}
	if err := s.AssertAll(t.Context()); err != nil {
		t.Fatal(err)
	}
	s.mustBatch(t, shown("ended", 9, corev1.PodSucceeded), shown("said", 9, corev1.PodRunning), shown("over", 9, corev1.PodRunning))
	for name, want := range map[string]corev1.PodPhase{"ended": corev1.PodSucceeded, "same": corev1.PodRunning, "said": corev1.PodFailed, "over": corev1.PodFailed} {
		if got := decode[*corev1.Pod](t, object.Pods, s.mustGet(t, podKey(name)).Body).Status.Phase; got != want {
			t.Errorf("pod %s is served as %s, expected %s", name, got, want)
		}
	}
	if q := s.queue(t); len(q) != 2 || q[0].Key == q[1].Key || q[0].Key != podKey("said") && q[0].Key != podKey("over") || q[1].Key != podKey("said") && q[1].Key != podKey("over") {
		t.Errorf("queue %v, expected what the kubelet wrote after the loss, and the end that the cloud does not show", ids(q))
	}
	// Once the sync is complete the kubelet's word counts again.
	s.markAll(t)
	delivered()
	s.mustBatch(t, shown("same", 9, corev1.PodUnknown))
	if q := s.queue(t); len(q) != 1 || q[0].Key != podKey("same") {
		t.Errorf("queue %v, expected the status of the pod that the cloud shows as unknown", ids(q))
	}
	delivered()
	if err := s.AssertAll(t.Context()); err != nil {
		t.Fatal(err)
	}
	if q := s.queue(t); len(q) != 3 {
		t.Errorf("queue %v, expected the statuses of all pods but the one that the cloud's is taken for", ids(q))
	}
}
