package kubeapi

import (
	"context"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/tether-edge/tether/common/object"
)

// defaultDeviceWait is how long after its start the kubelet is not shown a pod whose devices are not there.
const defaultDeviceWait = 2 * time.Minute

// lateDevices are the pods that the kubelet is not shown yet. Device plugins are often late after a boot, and a pod that asks
// for what no plugin offers is rejected at admission: it is Failed for good, and offline nothing takes its place. So a pod that
// asks for extended resources and has no sandbox waits here until the kubelet itself has written that it can allocate
// them, and no longer than a bounded time after its start. All others see every pod at any time.
type lateDevices struct {
	s *Server

	mu sync.Mutex // guards what follows
	// open: nothing is withheld, before the kubelet's start and once its time is over.
	open bool
	// shown are pods that are never withheld: they had a sandbox at the start, or the kubelet was shown them since.
	shown map[types.UID]bool
	// waiting are those that the kubelet would have been shown.
	waiting map[types.UID]bool
	// allocatable is what the kubelet wrote since its start.
	allocatable corev1.ResourceList
	// owed: pods may be shown now that a watch of the kubelet's has passed over; only a list makes up for it.
	owed bool
	// opens is closed when that becomes so, and then replaced.
	opens chan struct{}
}

func newLateDevices(s *Server) *lateDevices {
	return &lateDevices{s: s, open: true, opens: make(chan struct{})}
}

// KubeletStarts tells that the kubelet is about to start, and which pods have a sandbox at that moment: these it keeps,
// whatever its device plugins do. From now on pods that ask for devices may be withheld from it; see lateDevices.
func (s *Server) KubeletStarts(running []types.UID) {
	w := s.late
	w.mu.Lock()
	defer w.mu.Unlock()
	w.open = false
	w.shown, w.waiting = map[types.UID]bool{}, map[types.UID]bool{}
	for _, uid := range running {
		w.shown[uid] = true
	}
	time.AfterFunc(s.cfg.DeviceWait, w.giveUp)
}

// giveUp ends the waiting: what the kubelet makes of these pods is its own word from then on.
func (w *lateDevices) giveUp() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.waiting) > 0 {
		w.s.deps.Log.Warn("the kubelet is shown pods whose devices no plugin offers: it may reject them", "pods", len(w.waiting), "after", w.s.cfg.DeviceWait)
	}
	w.open = true
	w.release()
}

// release has watches begin anew if pods wait that may be shown now.
func (w *lateDevices) release() {
	if len(w.waiting) == 0 {
		return
	}
	w.owed = true
	close(w.opens)
	w.opens = make(chan struct{})
}

// wrote takes over what the kubelet says that it can allocate, if it says it: a write that leaves its heartbeat as it was, as that of its
// labels, carries what the Node had before the start.
func (w *lateDevices) wrote(old, node *corev1.Node) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.open || heartbeat(old).Equal(heartbeat(node)) {
		return
	}
	more := false
	for name, q := range node.Status.Allocatable {
		was := w.allocatable[name]
		more = more || extended(name) && q.Cmp(was) > 0
	}
	w.allocatable = node.Status.Allocatable.DeepCopy()
	if more {
		w.release()
	}
}

// heartbeat is when the kubelet reported that it is Ready, or is not.
func heartbeat(node *corev1.Node) *metav1.Time {
	for i := range node.Status.Conditions {
		if c := &node.Status.Conditions[i]; c.Type == corev1.NodeReady {
			return &c.LastHeartbeatTime
		}
	}
	return nil
}

// hides reports whether the kubelet is not to be shown a pod yet.
func (w *lateDevices) hides(o object.Object) bool {
	pod, ok := o.(*corev1.Pod)
	if !ok {
		return false
	}
	needs := devicesOf(pod)
	if len(needs) == 0 {
		return false
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.open || w.shown[pod.UID] {
		return false
	}
	over := pod.DeletionTimestamp != nil || pod.Status.Phase == corev1.PodSucceeded || pod.Status.Phase == corev1.PodFailed
	if over || covers(w.allocatable, needs) {
		w.shown[pod.UID] = true
		delete(w.waiting, pod.UID)
		return false
	}
	if !w.waiting[pod.UID] {
		w.waiting[pod.UID] = true
		w.s.deps.Log.Info("a pod waits for its devices: the kubelet is not shown it yet", "namespace", pod.Namespace, "pod", pod.Name, "needs", needs)
	}
	return true
}

// begin is called before a list for the kubelet, or a watch that begins with one: it sees all that may be shown now. It returns
// what is closed when more may be.
func (w *lateDevices) begin() <-chan struct{} {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.owed = false
	if w.waiting != nil {
		clear(w.waiting) // those that still wait are found again
	}
	return w.opens
}

// resume is begin for a watch that goes on where another ended. It is false if that one passed over pods that may be shown now.
func (w *lateDevices) resume() (opens <-chan struct{}, ok bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.opens, !w.owed
}

// count is the number of pods that wait, for the metrics.
func (w *lateDevices) count() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.open {
		return 0
	}
	return len(w.waiting)
}

// waitsForDevices reports whether a request is one for pods by the kubelet.
func (r *resource) waitsForDevices(ctx context.Context) bool {
	return r.kind.ID() == object.Pods && r.s.isKubelet(ctx)
}

// devicesOf sums up what a pod asks for of extended resources, which device plugins offer. As the scheduler, it takes the larger of
// what the containers ask for together and what one init container does.
func devicesOf(pod *corev1.Pod) corev1.ResourceList {
	var needs corev1.ResourceList
	each := func(of []corev1.Container, add bool) {
		for i := range of {
			for name, q := range of[i].Resources.Limits { // requests of extended resources are their limits
				if !extended(name) || q.IsZero() {
					continue
				}
				if needs == nil {
					needs = corev1.ResourceList{}
				}
				sum := needs[name]
				if add {
					sum.Add(q)
				} else if q.Cmp(sum) > 0 {
					sum = q
				}
				needs[name] = sum
			}
		}
	}
	each(pod.Spec.Containers, true)
	each(pod.Spec.InitContainers, false)
	return needs
}

// extended reports whether a resource is none of Kubernetes' own: its name has a domain, which is not kubernetes.io.
func extended(name corev1.ResourceName) bool {
	domain, _, ok := strings.Cut(string(name), "/")
	return ok && domain != "kubernetes.io" && !strings.HasSuffix(domain, ".kubernetes.io") && !strings.HasPrefix(domain, "requests.")
}

func covers(has, needs corev1.ResourceList) bool {
	for name, q := range needs {
		if there := has[name]; there.Cmp(q) < 0 {
			return false
		}
	}
	return true
}
