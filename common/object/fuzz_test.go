package object

import (
	"bytes"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// FuzzDecodeOverlay reads what an edge may send as an overlay: what can be read can be merged into any object, merging it
// twice is merging it once, the base stays as it was, and it comes back from being stored.
func FuzzDecodeOverlay(f *testing.F) {
	f.Add([]byte(`{"pod":{"phase":"Running","conditions":[{"type":"Ready","status":"True"}]},"conditions":["Ready","PodScheduled"]}`))
	f.Add([]byte(`{"node":{"capacity":{"cpu":"2","a":null},"conditions":[{"type":"Ready"},{"type":"Ready","status":"True"}]},"conditions":["Ready","Ready"],"capacity":["cpu","gone"],"labels":{"a":null,"b":"1"},"annotations":{"":"x"}}`))
	f.Add([]byte(`{"pod":{},"node":{},"conditions":[""]}`))
	f.Add([]byte(`{"node":{"capacity":{"cpu":"1e999999999999"}},"capacity":["cpu"]}`))
	f.Add([]byte(`{"pod":{"startTime":"0000-00-00T00:00:00Z"}}`))
	f.Add([]byte(`null`))
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "p"}, Status: corev1.PodStatus{Phase: corev1.PodPending,
		Conditions: []corev1.PodCondition{{Type: "PodScheduled", Status: "True"}, {Type: "example.com/gate"}}}}
	node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n", Labels: map[string]string{"a": "1"}}, Status: corev1.NodeStatus{
		Capacity:   corev1.ResourceList{"cpu": resource.MustParse("1"), "gone": resource.MustParse("1")},
		Conditions: []corev1.NodeCondition{{Type: "Ready", Status: "False"}, {Type: "NetworkUnavailable"}}}}
	encode := func(t *testing.T, o Object) []byte {
		id := Pods
		if _, ok := o.(*corev1.Node); ok {
			id = Nodes
		}
		k, _ := Lookup(id)
		b, err := Encode(k, o)
		if err != nil {
			t.Fatalf("a merged %s cannot be encoded: %v", id, err)
		}
		return b
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		o, err := DecodeOverlay(body)
		if err != nil {
			return
		}
		stored, err := EncodeOverlay(o)
		if err != nil {
			t.Fatalf("an overlay that was read cannot be stored: %v", err)
		}
		back, err := DecodeOverlay(stored)
		if err != nil {
			t.Fatalf("an overlay that was stored cannot be read: %v", err)
		}
		for _, base := range []Object{pod, node} {
			before := encode(t, base)
			once := Merge(base, o)
			if !bytes.Equal(encode(t, base), before) {
				t.Errorf("merging changed the base %s", base.GetName())
			}
			if !bytes.Equal(encode(t, Merge(base, back)), encode(t, once)) {
				t.Errorf("%s: the overlay is another after it was stored as %s", base.GetName(), stored)
			}
			if twice := Merge(once, o); !bytes.Equal(encode(t, twice), encode(t, once)) {
				t.Errorf("%s: merged twice it gives\n%v\nonce\n%v", base.GetName(), twice, once)
			}
		}
	})
}
