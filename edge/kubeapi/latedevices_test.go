package kubeapi

import (
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	quantity "k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/tether-edge/tether/common/object"
)

const camera = "example.com/camera"

// withDevice is a pod that asks for cameras.
func (e *env) withDevice(name, uid, count string) *corev1.Pod {
	p := e.pod(name, uid)
	p.Spec.Containers[0].Resources.Limits = corev1.ResourceList{camera: quantity.MustParse(count), corev1.ResourceCPU: quantity.MustParse("1")}
	return p
}

// plugIn has the kubelet write how many cameras it can allocate.
func (e *env) plugIn(count string) {
	e.t.Helper()
	n, err := e.client.CoreV1().Nodes().Get(e.t.Context(), node, metav1.GetOptions{})
	if err != nil {
		e.t.Fatal(err)
	}
	n.Status.Allocatable = corev1.ResourceList{camera: quantity.MustParse(count)}
	e.clock.advance(time.Second)
	beat := corev1.NodeCondition{Type: corev1.NodeReady, Status: corev1.ConditionTrue, LastHeartbeatTime: metav1.NewTime(e.clock.Now())}
	n.Status.Conditions = append(slices.DeleteFunc(n.Status.Conditions, func(c corev1.NodeCondition) bool { return c.Type == corev1.NodeReady }), beat)
	if _, err := e.client.CoreV1().Nodes().UpdateStatus(e.t.Context(), n, metav1.UpdateOptions{}); err != nil {
		e.t.Fatal(err)
	}
}

// kubeletSees lists the pods as the kubelet does.
func (e *env) kubeletSees(want ...string) *corev1.PodList {
	e.t.Helper()
	l, err := e.client.CoreV1().Pods("").List(e.t.Context(), metav1.ListOptions{FieldSelector: "spec.nodeName=" + node})
	if err != nil {
		e.t.Fatal(err)
	}
	names := ""
	for _, p := range l.Items {
		names += p.Name + " "
	}
	expected := ""
	for _, w := range want {
		expected += w + " "
	}
	if names != expected {
		e.t.Errorf("the kubelet is shown %q, expected %q", names, expected)
	}
	return l
}

// TestAPodWaitsForItsDevicesAfterABoot: a plugin that is late must not cost a pod its life. Offline nothing would replace it.
func TestAPodWaitsForItsDevicesAfterABoot(t *testing.T) {
	e := newEnv(t)
	e.store.fromCloud(t, object.Nodes, e.node())
	e.store.fromCloud(t, object.Pods, e.withDevice("big", "uid-big", "2"))
	e.store.fromCloud(t, object.Pods, e.withDevice("eye", "uid-eye", "1"))
	e.store.fromCloud(t, object.Pods, e.pod("plain", "uid-plain"))
	e.store.fromCloud(t, object.Pods, e.withDevice("runs", "uid-runs", "1"))
	// What it wrote before this start says nothing: the plugin may be gone.
	e.plugIn("4")
	e.kubeletSees("big", "eye", "plain", "runs")
	e.KubeletStarts([]types.UID{"uid-runs"})
	l := e.kubeletSees("plain", "runs")
	w, err := e.client.CoreV1().Pods("").Watch(t.Context(), metav1.ListOptions{ResourceVersion: l.ResourceVersion})
	if err != nil {
		t.Fatal(err)
	}
	defer w.Stop()
	if got := e.late.count(); got != 2 {
		t.Errorf("%d pods are said to wait, expected 2", got)
	}
	// A change of a pod that waits is no news to the kubelet, one of another pod is.
	e.store.fromCloud(t, object.Pods, e.withDevice("eye", "uid-eye", "1"))
	e.store.fromCloud(t, object.Pods, e.pod("plain", "uid-plain"))
	expect(t, w, watch.Modified, "plain", "uid-plain")

	e.plugIn("0")
	e.plugIn("1")
	ended := next(t, w)
	if ended.Type != watch.Error || !apierrors.IsResourceExpired(apierrors.FromObject(ended.Object)) {
		t.Fatalf("the watch went on with %+v, expected its end, so that the kubelet lists again", ended)
	}
	// A watch that goes on from there would never show them.
	again, err := e.client.CoreV1().Pods("").Watch(t.Context(), metav1.ListOptions{ResourceVersion: l.ResourceVersion})
	if err != nil {
		t.Fatal(err)
	}
	defer again.Stop()
	if got := next(t, again); got.Type != watch.Error {
		t.Errorf("a watch that began before the devices came got %+v, expected its end", got)
	}
	e.kubeletSees("eye", "plain", "runs")
	// A pod that the kubelet has is never taken from it.
	e.plugIn("0")
	e.kubeletSees("eye", "plain", "runs")
	e.plugIn("2")
	e.kubeletSees("big", "eye", "plain", "runs")
}

// What the Node had before the start is in every write of it: that of the labels at the registration, and those of other parts of this program,
// which are shown the pods as people are.
func TestOnlyTheKubeletsReportTellsOfDevices(t *testing.T) {
	e := newEnv(t)
	e.store.fromCloud(t, object.Nodes, e.node())
	e.store.fromCloud(t, object.Pods, e.withDevice("eye", "uid-eye", "1"))
	e.plugIn("4")
	e.KubeletStarts(nil)
	own, err := kubernetes.NewForConfig(&rest.Config{Host: "http://edge", Transport: e.OwnTransport(), QPS: -1})
	if err != nil {
		t.Fatal(err)
	}
	condition := `{"status":{"conditions":[{"type":"Ready","status":"True","lastHeartbeatTime":"2030-01-01T00:00:00Z"},{"type":"tether.io/Autonomy","status":"True"}]}}`
	if _, err := own.CoreV1().Nodes().PatchStatus(t.Context(), node, []byte(condition)); err != nil {
		t.Fatal(err)
	}
	if _, err := e.client.CoreV1().Nodes().Patch(t.Context(), node, types.StrategicMergePatchType, []byte(`{"metadata":{"labels":{"x":"y"}}}`), metav1.PatchOptions{}, "status"); err != nil {
		t.Fatal(err)
	}
	e.kubeletSees()
	if l, err := own.CoreV1().Pods("").List(t.Context(), metav1.ListOptions{}); err != nil || len(l.Items) != 1 {
		t.Errorf("another part is shown %d pods, %v", len(l.Items), err)
	}
	if got := e.late.count(); got != 1 {
		t.Errorf("%d pods are said to wait, expected 1", got)
	}
	e.plugIn("1")
	e.kubeletSees("eye")
}

// TestAPodThatIsOverDoesNotWait: the kubelet has to clear up after it.
func TestAPodThatIsOverDoesNotWait(t *testing.T) {
	e := newEnv(t)
	e.KubeletStarts(nil)
	failed, deleted := e.withDevice("failed", "uid-1", "1"), e.withDevice("deleted", "uid-2", "1")
	failed.Status.Phase = corev1.PodFailed
	now := metav1.NewTime(e.clock.Now().Truncate(time.Second))
	deleted.DeletionTimestamp = &now
	e.store.fromCloud(t, object.Pods, deleted)
	e.store.fromCloud(t, object.Pods, failed)
	e.store.fromCloud(t, object.Pods, e.withDevice("waits", "uid-3", "1"))
	e.kubeletSees("deleted", "failed")
}

// TestTheWaitForDevicesEnds: what the kubelet makes of a pod without a plugin is its own word, after a while.
func TestTheWaitForDevicesEnds(t *testing.T) {
	e := newEnv(t, func(c *Config, _ *Deps) { c.DeviceWait = 300 * time.Millisecond })
	e.store.fromCloud(t, object.Pods, e.withDevice("eye", "uid-eye", "1"))
	e.KubeletStarts(nil)
	w, err := e.client.CoreV1().Pods("").Watch(t.Context(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer w.Stop()
	first := next(t, w)
	if first.Type == watch.Added { // it began late
		return
	}
	if first.Type != watch.Error || !apierrors.IsResourceExpired(apierrors.FromObject(first.Object)) {
		t.Fatalf("got %+v, expected the end of the watch when the time is over", first)
	}
	e.kubeletSees("eye")
}

// TestPeopleSeePodsThatWait: they are hidden from the kubelet alone.
func TestPeopleSeePodsThatWait(t *testing.T) {
	e := newPeople(t, nil)
	e.store.fromCloud(t, object.Pods, e.withDevice("eye", "uid-eye", "1"))
	e.KubeletStarts(nil)
	e.kubeletSees()
	if code, body := e.ask(http.MethodGet, "/api/v1/pods", ""); code != http.StatusOK || !strings.Contains(body, "uid-eye") {
		t.Errorf("people are answered %d %s; expected the pod that waits", code, body)
	}
}

// TestWhatAPodAsksForOfDevices is the sum of its containers, or what one init container wants if that is more.
func TestWhatAPodAsksForOfDevices(t *testing.T) {
	asks := func(count string) corev1.Container {
		return corev1.Container{Resources: corev1.ResourceRequirements{Limits: corev1.ResourceList{camera: quantity.MustParse(count), "hugepages-2Mi": quantity.MustParse("2Mi"),
			"storage.kubernetes.io/odd": quantity.MustParse("1")}}}
	}
	for want, spec := range map[string]corev1.PodSpec{
		"3": {Containers: []corev1.Container{asks("1"), asks("2")}, InitContainers: []corev1.Container{asks("2"), asks("2")}},
		"4": {Containers: []corev1.Container{asks("1")}, InitContainers: []corev1.Container{asks("4"), asks("1")}},
	} {
		got := devicesOf(&corev1.Pod{Spec: spec})
		if q := got[camera]; len(got) != 1 || q.Cmp(quantity.MustParse(want)) != 0 {
			t.Errorf("got %v, expected %s cameras and nothing else", got, want)
		}
	}
	if got := devicesOf(&corev1.Pod{Spec: corev1.PodSpec{Containers: []corev1.Container{{}}}}); got != nil {
		t.Errorf("a pod without devices asks for %v", got)
	}
}
