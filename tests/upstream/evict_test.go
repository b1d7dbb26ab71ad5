package upstream

import (
	"encoding/json"
	"fmt"
	"math"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/tether-edge/tether/cloud/node"
	"github.com/tether-edge/tether/common/transport"
)

// stays says whether a pod tolerates its node's absence for ever, and what it tolerates.
func stays(p *corev1.Pod) (string, bool) {
	for _, tol := range p.Spec.Tolerations {
		if tol.TolerationSeconds != nil {
			return fmt.Sprint(p.Name, " ", p.Spec.Tolerations), false
		}
	}
	return "no tolerations", len(p.Spec.Tolerations) > 0
}

func (s *site) awaitStays(names ...string) {
	s.t.Helper()
	for _, name := range names {
		eventually(s.t, 20*time.Second, func() (string, bool) { return stays(s.get(name)) })
	}
}

// evict sets AnnotationEvict of the site's namespace; nil removes it.
func (s *site) evict(word any) {
	s.t.Helper()
	body, err := json.Marshal(map[string]any{"metadata": map[string]any{"annotations": map[string]any{node.AnnotationEvict: word}}})
	if err != nil {
		s.t.Fatal(err)
	}
	if _, err := shared.client.CoreV1().Namespaces().Patch(s.t.Context(), s.ns, types.MergePatchType, body, metav1.PatchOptions{}); err != nil {
		s.t.Fatal(err)
	}
}

func evict(word string) func(*corev1.Pod) {
	return func(p *corev1.Pod) { p.Annotations = map[string]string{node.AnnotationEvict: word} }
}

// Whoever wants pods evicted, as on other nodes, says so; of a namespace also before CloudCore runs.
func TestPodsThatMayBeEvictedKeepTheirTime(t *testing.T) {
	s := constrained(t, nil)
	open := newSite(t, s.a)
	open.evict("true")
	s.pod("said", s.n1, evict("true"))
	open.pod("by-namespace", open.n1, nil)
	open.pod("excepted", open.n1, evict("false"))
	startKeeper(t, node.Config{}, nil)
	s.pod("later", s.n1, nil) // its change shows that those before it were looked at
	open.pod("by-namespace-later", open.n1, nil)
	open.pod("excepted-later", open.n1, evict("false"))
	s.awaitStays("later")
	open.awaitStays("excepted", "excepted-later")
	for _, p := range []*corev1.Pod{s.get("said"), open.get("by-namespace"), open.get("by-namespace-later")} {
		seconds := map[string]int64{}
		for _, tol := range p.Spec.Tolerations {
			if tol.TolerationSeconds != nil {
				seconds[tol.Key] = *tol.TolerationSeconds
			}
		}
		if len(seconds) != 2 || seconds[corev1.TaintNodeNotReady] != 300 || seconds[corev1.TaintNodeUnreachable] != 300 {
			t.Errorf("pod %s tolerates %v, expected what Kubernetes gave it", p.Name, p.Spec.Tolerations)
		}
	}
	open.evict(nil)
	open.awaitStays("by-namespace", "by-namespace-later")
}

// Two CloudCores see the same pods, and each pod is written once; with the session of their node or without.
func TestTwoCloudCoresChangeEachPodOnce(t *testing.T) {
	s := constrained(t, nil)
	a, b := startKeeper(t, node.Config{}, nil), startKeeper(t, node.Config{}, nil)
	a.Connected(s.n1, "session-1", "10.0.0.1:10000", transport.WebSocket)
	var names []string
	for i := range 10 {
		for n, on := range []string{s.n1, s.n2} {
			names = append(names, fmt.Sprintf("p-%d-%d", i, n))
			s.pod(names[len(names)-1], on, nil)
		}
	}
	s.awaitStays(names...)
	want := float64(len(names))
	written := func() (string, bool) {
		n := a.changedPods() + b.changedPods()
		if n > want {
			t.Fatalf("%v changes of %v pods", n, want)
		}
		return fmt.Sprintf("%v changes of %v pods", n, want), n == want
	}
	eventually(t, 10*time.Second, written)
	s.pod("last", s.n2, nil) // what comes after went through the same queues
	s.awaitStays("last")
	want++
	eventually(t, 10*time.Second, written)
}

// changedPods is how many pods this CloudCore has changed.
func (k *keeper) changedPods() float64 {
	families, err := k.reg.Gather()
	if err != nil {
		return math.NaN()
	}
	for _, f := range families {
		if f.GetName() == "tether_node_tolerations_total" {
			return f.GetMetric()[0].GetCounter().GetValue()
		}
	}
	return math.NaN()
}

// The change is of the very pod that was looked at: what Kubernetes says to one that took its name, or was changed meanwhile.
func TestAPodThatTookTheNameIsNotChanged(t *testing.T) {
	s := constrained(t, nil)
	old := s.pod("p", s.n1, nil)
	if err := shared.client.CoreV1().Pods(s.ns).Delete(t.Context(), "p", metav1.DeleteOptions{GracePeriodSeconds: new(int64)}); err != nil {
		t.Fatal(err)
	}
	p := s.pod("p", s.n1, nil)
	for what, meta := range map[string]map[string]any{
		"one that took the name": {"uid": old.UID, "resourceVersion": old.ResourceVersion},
		"one that was changed":   {"uid": p.UID, "resourceVersion": old.ResourceVersion},
	} {
		body, err := json.Marshal(map[string]any{"metadata": meta, "spec": map[string]any{"tolerations": []corev1.Toleration{
			{Key: corev1.TaintNodeNotReady, Operator: "Exists", Effect: "NoExecute"}, {Key: corev1.TaintNodeUnreachable, Operator: "Exists", Effect: "NoExecute"}}}})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := shared.client.CoreV1().Pods(s.ns).Patch(t.Context(), p.Name, types.MergePatchType, body, metav1.PatchOptions{}); !apierrors.IsConflict(err) {
			t.Errorf("%s: %v, expected a conflict", what, err)
		}
	}
	if text, changed := stays(s.get("p")); changed {
		t.Errorf("the pod was changed: %s", text)
	}
}
