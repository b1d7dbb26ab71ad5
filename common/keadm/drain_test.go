package keadm

import (
	"bytes"
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/kubernetes/fake"
	k8stesting "k8s.io/client-go/testing"

	"github.com/tether-edge/tether/common/object"
)

// nodesAPI is a node's own API with pods of every sort on it; refuse is what it says to an eviction, nil to grant it.
type nodesAPI struct {
	*fake.Clientset
	mu  sync.Mutex // guards did
	did []string
}

func newNodesAPI(refuse func(pod string) error) *nodesAPI {
	pod := func(name, owner string, change ...func(*corev1.Pod)) runtime.Object {
		p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: name, UID: types.UID("uid of " + name)}, Status: corev1.PodStatus{Phase: corev1.PodRunning}}
		if owner != "" {
			p.OwnerReferences = []metav1.OwnerReference{{Kind: owner, Name: name, Controller: new(true)}}
		}
		for _, f := range change {
			f(p)
		}
		return p
	}
	a := &nodesAPI{Clientset: fake.NewClientset(&corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "edge-1"}},
		pod("till", "ReplicaSet"), pod("db", "StatefulSet"), pod("agent", "DaemonSet"), pod("mine", ""),
		pod("static", "Node", func(p *corev1.Pod) { p.Annotations = map[string]string{corev1.MirrorPodAnnotationKey: "x"} }),
		pod("import", "Job", func(p *corev1.Pod) { p.Status.Phase = corev1.PodSucceeded }))}
	a.PrependReactor("patch", "nodes", func(action k8stesting.Action) (bool, runtime.Object, error) {
		p := action.(k8stesting.PatchAction)
		a.note("patched " + p.GetName() + " " + string(p.GetPatch()))
		return false, nil, nil
	})
	a.PrependReactor("create", "pods", func(action k8stesting.Action) (bool, runtime.Object, error) {
		e := action.(k8stesting.CreateAction).GetObject().(*policyv1.Eviction)
		if err := refuse(e.Name); err != nil {
			a.note("refused " + e.Name)
			return true, nil, err
		}
		a.note("evicted " + e.Name + ", " + string(*e.DeleteOptions.Preconditions.UID))
		return true, nil, a.Tracker().Delete(corev1.SchemeGroupVersion.WithResource("pods"), e.Namespace, e.Name)
	})
	return a
}

func (a *nodesAPI) note(what string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.did = append(a.did, what)
}

// drainingResetter is a resetter whose node has that API. Its clock goes on by as long as an eviction is not asked again.
func drainingResetter(t *testing.T, a kubernetes.Interface) (*edgeReset, *podRuntime, *bytes.Buffer) {
	r, pods, out := resetter(t)
	start := time.Now()
	var asked int
	r.w.Now = func() time.Time { asked++; return start.Add(time.Duration(asked) * evictAgain) }
	r.drains, r.drainTimeout = true, time.Minute
	r.api = func(string) (kubernetes.Interface, error) { return a, nil }
	return r, pods, out
}

var overBudget = apierrors.NewTooManyRequests("Cannot evict pod as it would violate the pod's disruption budget.", 0)

func TestResetMovesPodsFirst(t *testing.T) {
	var tries int
	a := newNodesAPI(func(pod string) error {
		if tries++; pod == "db" && tries < 5 {
			return overBudget
		}
		return nil
	})
	r, pods, out := drainingResetter(t, a)
	if err := r.reset(t); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if a.did[0] != "patched edge-1 "+object.Cordon {
		t.Errorf("first it did %q", a.did[0])
	}
	if evicted := slices.DeleteFunc(slices.Clone(a.did[1:]), func(s string) bool { return s == "refused db" }); !slices.Equal(slices.Sorted(slices.Values(evicted)),
		[]string{"evicted db, uid of db", "evicted till, uid of till"}) || len(evicted) == len(a.did[1:]) {
		t.Errorf("it did %q", a.did)
	}
	said := out.String()
	moved, ended := strings.Index(said, "drained  2 pods\n"), strings.Index(said, "ending 1 pods")
	if moved < 0 || ended < moved || len(pods.ended) == 0 || !strings.Contains(said, "shop/db stays: Cannot evict pod as it would violate") {
		t.Errorf("said\n%s", said)
	}
}

// drainScript is a node's API and edgecore whose pods and outbox are as the step says; each list of pods is the next step.
type drainScript struct {
	*nodesAPI
	steps []drainStep
	at    int
	said  bytes.Buffer
}

type drainStep struct {
	pods   []corev1.Pod
	outbox []waiting
}

func newDrainScript(refuse func(pod string) error, steps ...drainStep) *drainScript {
	s := &drainScript{nodesAPI: newNodesAPI(refuse), steps: steps, at: -1}
	s.PrependReactor("list", "pods", func(k8stesting.Action) (bool, runtime.Object, error) {
		s.at++
		return true, &corev1.PodList{Items: s.steps[min(s.at, len(s.steps)-1)].pods}, nil
	})
	return s
}

// drain evicts within that limit, at noon.
func (s *drainScript) drain(t *testing.T, limit time.Duration) (*drainer, error) {
	d := &drainer{w: IO{Out: &s.said, Err: &s.said, Now: func() time.Time { return today }}, node: "edge-1", api: s,
		evicted: map[types.UID]bool{}, gone: map[types.UID]bool{}, refused: map[types.UID]refusal{},
		status: func(context.Context) (*edgeStatus, error) {
			return &edgeStatus{Outbox: s.steps[min(s.at, len(s.steps)-1)].outbox}, nil
		}}
	return d, d.evict(t.Context(), limit)
}

func drainedPod(name string, phase corev1.PodPhase, ending bool, owner ...metav1.OwnerReference) corev1.Pod {
	p := corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: name, UID: types.UID("uid of " + name), OwnerReferences: owner}, Status: corev1.PodStatus{Phase: phase}}
	if ending {
		p.DeletionTimestamp = &metav1.Time{Time: today}
	}
	return p
}

var ofASet = metav1.OwnerReference{Kind: "ReplicaSet", Name: "till", Controller: new(true)}

// A container that exits on SIGTERM makes its pod Succeeded before the kubelet deletes it, and the cloud hears of that later.
func TestADrainIsDoneWhenTheCloudKnowsThatThePodsEnded(t *testing.T) {
	ended := drainedPod("import", corev1.PodSucceeded, false, ofASet) // nobody deletes this one
	before, after := today.Add(-time.Second), today.Add(time.Second)
	s := newDrainScript(func(string) error { return nil },
		drainStep{pods: []corev1.Pod{ended, drainedPod("till", corev1.PodRunning, false, ofASet), drainedPod("mine", corev1.PodFailed, true)}},
		drainStep{pods: []corev1.Pod{ended, drainedPod("till", corev1.PodSucceeded, false, ofASet)}},
		drainStep{pods: []corev1.Pod{ended}, outbox: []waiting{{Class: "state", Count: 7, Oldest: before}}},
		drainStep{pods: []corev1.Pod{ended}, outbox: []waiting{{Class: "state", Count: 2, Oldest: after}, {Class: "event", Count: 1, Oldest: before}}})
	d, err := s.drain(t, 10*time.Second)
	if err != nil || s.at != 3 || len(d.evicted) != 1 {
		t.Errorf("%v; ended at step %d, expected 3; evicted %v", err, s.at, d.evicted)
	}
	for _, want := range []string{"shop/mine is ending; shop/till is ending\n", ": shop/till is ending\n", "the pods have ended here, and the cloud may not know: 7 of class state wait for it\n"} {
		if !strings.Contains(s.said.String(), want) {
			t.Errorf("expected %q in\n%s", want, &s.said)
		}
	}
}

func TestADrainSaysWhatTheCloudWasNotToldOf(t *testing.T) {
	s := newDrainScript(nil, drainStep{outbox: []waiting{{Class: "state", Count: 7, Oldest: today}}})
	if _, err := s.drain(t, 50*time.Millisecond); !errors.Is(err, errTimeout) || !strings.Contains(err.Error(), "7 of class state wait") {
		t.Errorf("%v", err)
	}
}

func TestAPodThatTheClusterHasNoMoreIsGoneAndNotEvicted(t *testing.T) {
	s := newDrainScript(func(pod string) error { return apierrors.NewNotFound(corev1.Resource("pods"), pod) },
		drainStep{pods: []corev1.Pod{drainedPod("till", corev1.PodRunning, false, ofASet)}})
	if d, err := s.drain(t, 10*time.Second); err != nil || len(d.evicted) != 0 || s.said.Len() > 0 {
		t.Errorf("%v, evicted %v\n%s", err, d.evicted, &s.said)
	}
}

func TestAResetThatCannotDrainSaysWhyAndGoesOn(t *testing.T) {
	none := func(string) error { return nil }
	offline := newNodesAPI(none)
	offline.PrependReactor("patch", "nodes", func(k8stesting.Action) (bool, runtime.Object, error) {
		return true, nil, apierrors.NewServiceUnavailable("the edge is offline")
	})
	forbidden := newNodesAPI(func(pod string) error { return overBudget })
	for name, c := range map[string]struct {
		api  func(string) (kubernetes.Interface, error)
		want string
	}{
		"never ran": {localAPI, "not drained, because expected edgecore's "},
		"offline":   {func(string) (kubernetes.Interface, error) { return offline, nil }, "takes no more pods: the edge is offline"},
		"budget":    {func(string) (kubernetes.Interface, error) { return forbidden, nil }, "timed out: shop/db stays: Cannot evict pod as it would violate"},
	} {
		r, pods, out := drainingResetter(t, nil)
		r.api, r.drainTimeout = c.api, 50*time.Millisecond
		if err := r.reset(t); err != nil || len(pods.ended) == 0 || isThere(r.files.config) {
			t.Errorf("%s: %v, ended %q", name, err, pods.ended)
		}
		if said := out.String(); !strings.Contains(said, "keadm: not drained, because ") || !strings.Contains(said, c.want) || strings.Contains(said, "drained  ") {
			t.Errorf("%s: said\n%s", name, said)
		}
	}
	if len(offline.did) > 0 {
		t.Errorf("offline it did %q", offline.did)
	}
}

func TestAResetThatIsInterruptedWhileItDrainsRemovesNothing(t *testing.T) {
	a := newNodesAPI(func(string) error { return overBudget })
	r, pods, out := drainingResetter(t, a)
	if err := r.look(t.Context(), serviceProcess); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	a.PrependReactor("create", "pods", func(k8stesting.Action) (bool, runtime.Object, error) { cancel(); return false, nil, nil })
	err := r.do(ctx)
	if !errors.Is(err, errInterrupted) || !strings.Contains(err.Error(), "kubectl uncordon edge-1") || len(pods.ended) > 0 || !isThere(r.files.config) {
		t.Errorf("%v, ended %q\n%s", err, pods.ended, out)
	}
}

// Whatever fails after the cordon, the node is still to take no pods, and whoever gives up has to know.
func TestAResetThatFailsAfterTheCordonSaysHowToUndoIt(t *testing.T) {
	r, pods, out := drainingResetter(t, newNodesAPI(func(string) error { return nil }))
	pods.stuck = true
	if err := r.reset(t); err == nil || !strings.Contains(err.Error(), "end pod default/web") || !strings.HasSuffix(err.Error(), "kubectl uncordon edge-1") {
		t.Errorf("%v\n%s", err, out)
	}
	pods.stuck, r.drains, r.cordoned = true, false, false
	if err := r.reset(t); err == nil || strings.Contains(err.Error(), "uncordon") {
		t.Errorf("without a cordon: %v", err)
	}
}

func TestResetDrainsNothingWhereItIsNotTo(t *testing.T) {
	for _, keep := range []bool{false, true} {
		a := newNodesAPI(func(string) error { return nil })
		r, _, out := drainingResetter(t, a)
		r.drains, r.keepNode = keep, keep
		if err := r.reset(t); err != nil || len(a.Actions()) > 0 || strings.Contains(out.String(), "drained") {
			t.Errorf("%v, did %q, said\n%s", err, a.did, out)
		}
	}
}
