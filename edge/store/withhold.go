package store

import (
	corev1 "k8s.io/api/core/v1"

	"github.com/tether-edge/tether/common/object"
)

// withholds judges a pod that the store has not, so that the kubelet never sees it before it may start.
func (t *tx) withholds(o object.Object) (bool, error) {
	pod, ok := o.(*corev1.Pod)
	if !ok || t.s.withhold == nil {
		return false, nil
	}
	kept, err := t.kept()
	if err != nil || len(kept) == 0 {
		return false, err
	}
	return t.s.withhold(pod, kept), nil
}

// kept returns the pods that the site keeps without the cloud: those that it lost, and those that were made here.
func (t *tx) kept() ([]*corev1.Pod, error) {
	kind, _ := object.Lookup(object.Pods)
	var pods []*corev1.Pod
	err := t.c.query(selectKind+" AND tombstone = 0 AND (held & 1 = 1 OR origin = 1)", []any{string(object.Pods)}, func(scan func(...any) error) error {
		r, err := t.c.scanRecord(scan)
		if err != nil {
			return err
		}
		o, err := object.Decode(kind, r.Body)
		if err != nil {
			t.s.log.Error("stored pod does not decode: nothing is withheld for its sake", "key", r.Key.String(), "error", err)
			return nil
		}
		pods = append(pods, o.(*corev1.Pod))
		return nil
	})
	return pods, wrap("read the pods that are kept", err)
}
