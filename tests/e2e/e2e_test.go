package e2e

import (
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/tether-edge/tether/build/images"
	"github.com/tether-edge/tether/tests/cluster"
)

// TestAPodRunsThroughTheLink is the whole path: a pod of a stock control plane runs on the edge and answers.
func TestAPodRunsThroughTheLink(t *testing.T) {
	s := newSystem(t)
	p := s.createPod(&corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "hello"}, Spec: corev1.PodSpec{
		Containers: []corev1.Container{{Name: "demo", Image: images.Demo}}}})
	p = s.waitPod(p.Name, time.Minute, podReady)
	cluster.Eventually(t, 10*time.Second, "the pod to answer", func() error {
		_, err := s.edge.Get(t.Context(), "http://"+p.Status.PodIP+":8080/healthz")
		return err
	})
}
