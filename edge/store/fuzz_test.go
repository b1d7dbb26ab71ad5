package store

import (
	"testing"

	corev1 "k8s.io/api/core/v1"

	"github.com/tether-edge/tether/common/object"
)

// FuzzApplyBatchBodies feeds any bytes as bodies of a pod that has an overlay: the batch must go through, what is
// served must decode, and what follows in the batch must arrive.
func FuzzApplyBatchBodies(f *testing.F) {
	f.Add([]byte{}, "u1")
	f.Add([]byte("k8s\x00"), "u1")
	f.Add(encode(f, object.Pods, pod("a", "u1", 9)), "u1")
	f.Add(encode(f, object.Pods, pod("a", "u2", 9)), "u2")
	f.Add(encode(f, object.ConfigMaps, configMap("a", "u1", 9, "x")), "u1")
	s := newStore(f)
	f.Fuzz(func(t *testing.T, body []byte, uid string) {
		s.mustBatch(t, gone(podKey("a"), object.CauseDeleted), upsert(t, object.Pods, pod("a", "u1", 5)))
		s.mustApply(t, withStatus(t, s.mustGet(t, podKey("a")), corev1.PodRunning))
		s.mustBatch(t, Incoming{Key: podKey("a"), Version: object.Version{UID: uid, RV: 9}, Body: body},
			gone(cmKey("after"), object.CauseDeleted), upsert(t, object.ConfigMaps, configMap("after", "u", 5, "x")))
		s.mustGet(t, cmKey("after"))
		r, ok, err := s.Get(t.Context(), podKey("a"))
		if err != nil {
			t.Fatal(err)
		}
		if ok {
			decode[*corev1.Pod](t, object.Pods, r.Body)
			decode[*corev1.Pod](t, object.Pods, r.Cloud())
		}
	})
}
