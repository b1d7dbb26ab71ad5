package node

import (
	"fmt"
	"io"
	"log/slog"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"

	"github.com/tether-edge/tether/common/object"
	"github.com/tether-edge/tether/common/transport"
)

func TestTolerationsThatLetAPodBeEvictedLoseTheirTime(t *testing.T) {
	s := int64(300)
	exists := func(key string, seconds *int64) corev1.Toleration {
		return corev1.Toleration{Key: key, Operator: corev1.TolerationOpExists, Effect: corev1.TaintEffectNoExecute, TolerationSeconds: seconds}
	}
	notReady, unreachable := exists(corev1.TaintNodeNotReady, nil), exists(corev1.TaintNodeUnreachable, nil)
	for _, c := range []struct {
		name       string
		have, want []corev1.Toleration
	}{
		{"defaults", []corev1.Toleration{exists(notReady.Key, &s), exists(unreachable.Key, &s)}, []corev1.Toleration{notReady, unreachable}},
		{"none", nil, []corev1.Toleration{notReady, unreachable}},
		{"one", []corev1.Toleration{exists(unreachable.Key, &s)}, []corev1.Toleration{unreachable, notReady}},
		{"everything for a time", []corev1.Toleration{exists("", &s)}, []corev1.Toleration{exists("", nil)}},
		{"the shorter of two", []corev1.Toleration{notReady, exists(notReady.Key, &s), unreachable}, []corev1.Toleration{notReady, notReady, unreachable}},
		{"another taint", []corev1.Toleration{exists("gpu", &s)}, []corev1.Toleration{exists("gpu", &s), notReady, unreachable}},
		{"another effect", []corev1.Toleration{{Key: notReady.Key, Operator: "Exists", Effect: "NoSchedule"}},
			[]corev1.Toleration{{Key: notReady.Key, Operator: "Exists", Effect: "NoSchedule"}, notReady, unreachable}},
		{"another value", []corev1.Toleration{{Key: notReady.Key, Operator: "Equal", Value: "x", Effect: "NoExecute", TolerationSeconds: &s}},
			[]corev1.Toleration{{Key: notReady.Key, Operator: "Equal", Value: "x", Effect: "NoExecute", TolerationSeconds: &s}, notReady, unreachable}},
		{"done", []corev1.Toleration{notReady, unreachable}, []corev1.Toleration{notReady, unreachable}},
		{"all of everything", []corev1.Toleration{{Operator: "Exists"}}, []corev1.Toleration{{Operator: "Exists"}}},
		{"a DaemonSet's", []corev1.Toleration{notReady, unreachable, {Key: corev1.TaintNodeDiskPressure, Operator: "Exists", Effect: "NoSchedule"}},
			[]corev1.Toleration{notReady, unreachable, {Key: corev1.TaintNodeDiskPressure, Operator: "Exists", Effect: "NoSchedule"}}},
	} {
		got, changed := tolerateAbsence(c.have)
		if d := cmp.Diff(c.want, got); d != "" || changed != (cmp.Diff(c.have, c.want) != "") {
			t.Errorf("%s: changed %v %s", c.name, changed, d)
		}
		if s != 300 {
			t.Fatal("the pod of the cache was changed")
		}
	}
}

func nodeKey(name string) object.Key { return object.Key{Kind: object.Nodes, Name: name} }

func namespaceKey(name string) object.Key { return object.Key{Kind: object.Namespaces, Name: name} }

func podKey(name string) object.Key {
	return object.Key{Kind: object.Pods, Namespace: "shop", Name: name}
}

// place puts the edge n1, the namespace shop and a pod there into a cache; evict is what each says, nothing if empty.
func place(cache objects, pod, podEvict, namespaceEvict string) *corev1.Pod {
	word := func(evict string) map[string]string {
		if evict == "" {
			return nil
		}
		return map[string]string{AnnotationEvict: evict}
	}
	p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: pod, UID: "u", ResourceVersion: "7", Annotations: word(podEvict)}, Spec: corev1.PodSpec{NodeName: "n1"}}
	cache[nodeKey("n1")] = &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n1"}, Spec: corev1.NodeSpec{ProviderID: "tether://n1"}}
	cache[namespaceKey("shop")] = &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "shop", Annotations: word(namespaceEvict)}}
	cache[podKey(pod)] = p
	return p
}

// patches counts the changes of pods that a Keeper's client is asked for; answer is what they get.
func patches(k *Keeper, answer error) *atomic.Int32 {
	var n atomic.Int32
	k.deps.Client.(*fake.Clientset).PrependReactor("patch", "pods", func(clienttesting.Action) (bool, runtime.Object, error) {
		n.Add(1)
		return true, &corev1.Pod{}, answer
	})
	return &n
}

func (k *Keeper) look(t *testing.T, key object.Key) time.Duration {
	t.Helper()
	again, err := k.syncPodOrNamespace(t.Context(), key)
	if err != nil {
		t.Fatal(err)
	}
	return again
}

func TestAPodIsEvictedIfItOrItsNamespaceSaysSo(t *testing.T) {
	for _, c := range []struct {
		pod, namespace string
		kept           bool
	}{
		{"", "", true}, {"true", "", false}, {"", "true", false}, {"false", "true", true}, {"true", "false", false}, {"", "false", true},
		{"yes", "", true}, {"", "True", true}, {"yes", "true", false},
	} {
		cache := objects{}
		k, _ := newKeeper(t, cache)
		place(cache, "p", c.pod, c.namespace)
		n := patches(k, nil)
		k.Connected("n1", "s1", "a:1", transport.WebSocket)
		k.look(t, podKey("p"))
		if kept := n.Load() == 1; kept != c.kept {
			t.Errorf("pod %q, namespace %q: %d changes of tolerations, expected them: %t", c.pod, c.namespace, n.Load(), c.kept)
		}
	}
}

// What a namespace says is not guessed: its pods are left alone until the cache has it.
func TestAPodWaitsForWhatItsNamespaceSays(t *testing.T) {
	for evict, want := range map[string]int32{"": 1, "true": 0} {
		cache := objects{}
		k, _ := newKeeper(t, cache)
		place(cache, "p", "", evict)
		namespace := cache[namespaceKey("shop")]
		delete(cache, namespaceKey("shop"))
		n := patches(k, nil)
		k.Connected("n1", "s1", "a:1", transport.WebSocket)
		k.look(t, podKey("p"))
		if n.Load() != 0 {
			t.Fatal("the pod was changed before anybody knew what its namespace says")
		}
		cache[namespaceKey("shop")] = namespace
		k.look(t, namespaceKey("shop"))
		if k.pods.Len() != 1 {
			t.Fatal("the pod is not looked at again once its namespace is there")
		}
		k.look(t, podKey("p"))
		if n.Load() != want {
			t.Errorf("namespace %q: %d changes, expected %d", evict, n.Load(), want)
		}
		delete(cache, podKey("p"))
		k.look(t, podKey("p"))
		if len(k.waiting) != 0 {
			t.Errorf("something waits still: %v", k.waiting)
		}
	}
}

func TestANamespaceThatKeepsItsPodsAgainIsHeeded(t *testing.T) {
	cache := objects{}
	k, _ := newKeeper(t, cache)
	place(cache, "p", "", "true")
	other := podKey("q")
	other.Namespace = "elsewhere"
	cache[other] = &corev1.Pod{}
	k.look(t, namespaceKey("shop"))
	if k.pods.Len() != 0 {
		t.Fatal("a namespace whose pods may be evicted has them looked at")
	}
	place(cache, "p", "", "")
	k.look(t, namespaceKey("shop"))
	if n := k.pods.Len(); n != 1 {
		t.Fatalf("%d pods are looked at, expected the namespace's alone", n)
	}
	if item, _ := k.pods.Get(); item != podKey("p") {
		t.Errorf("%s is looked at, expected the namespace's pod", item)
	}
	k.look(t, namespaceKey("shop"))
	if k.pods.Len() != 0 {
		t.Error("they are looked at once more though nothing changed")
	}
}

// Two CloudCores see the same pods. The one that has the session of a pod's node writes at once, another one only what is
// still to be done when it looks again: nobody may have the session.
func TestAPodIsLeftToTheCloudCoreThatHasItsNode(t *testing.T) {
	cache := objects{}
	k, clock := newKeeper(t, cache)
	p := place(cache, "p", "", "")
	n := patches(k, nil)
	wait := k.look(t, podKey("p"))
	if n.Load() != 0 || wait < leavePods || wait > 2*leavePods {
		t.Fatalf("without the session: %d writes, looked at again in %s; expected none, and 2 to 4 s", n.Load(), wait)
	}
	clock.add(wait - time.Millisecond)
	if again := k.look(t, podKey("p")); n.Load() != 0 || again != time.Millisecond {
		t.Fatalf("a pod that changed meanwhile: %d writes, again in %s; expected none, and 1 ms", n.Load(), again)
	}
	clock.add(time.Millisecond)
	if k.look(t, podKey("p")); n.Load() != 1 {
		t.Fatalf("%d writes though nobody else wrote, expected 1", n.Load())
	}
	p.Spec.Tolerations, _ = tolerateAbsence(nil)
	if k.look(t, podKey("p")); n.Load() != 1 || len(k.left) != 0 {
		t.Errorf("%d writes of what is done, and %v remembered", n.Load(), k.left)
	}
	place(cache, "q", "", "")
	k.Connected("n1", "s1", "a:1", transport.WebSocket)
	if k.look(t, podKey("q")); n.Load() != 2 {
		t.Errorf("%d writes, expected the one with the session to write at once", n.Load())
	}
}

// A Node of the name of a former edge is what it says that it is.
func TestPodsOfANodeThatIsNoEdgeAnyMoreAreLeftAlone(t *testing.T) {
	cache := objects{}
	k, _ := newKeeper(t, cache)
	place(cache, "p", "", "")
	n := patches(k, nil)
	k.Connected("n1", "s1", "a:1", transport.WebSocket)
	cache[nodeKey("n1")] = &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n1"}, Spec: corev1.NodeSpec{ProviderID: "aws:///n1"}}
	if k.look(t, podKey("p")); n.Load() != 0 {
		t.Error("a pod of another provider's node was changed")
	}
	delete(cache, nodeKey("n1")) // one that vanished is still an edge
	if k.look(t, podKey("p")); n.Load() != 1 {
		t.Error("a pod of an edge whose Node vanished was not changed")
	}
}

func TestAPodThatIsAnotherOneNowIsNotChanged(t *testing.T) {
	pods := schema.GroupResource{Resource: "pods"}
	for _, c := range []struct {
		answer error
		again  bool
	}{
		{apierrors.NewNotFound(pods, "p"), false},
		{apierrors.NewConflict(pods, "p", fmt.Errorf("another uid")), true},
	} {
		cache := objects{}
		k, _ := newKeeper(t, cache)
		place(cache, "p", "", "")
		patches(k, c.answer)
		k.Connected("n1", "s1", "a:1", transport.WebSocket)
		if again := k.look(t, podKey("p")); (again > 0) != c.again {
			t.Errorf("%v: looked at again in %s, expected that: %t", c.answer, again, c.again)
		}
		if got := counter(t, k.m.tolerations); got != 0 {
			t.Errorf("%v: %v changes counted", c.answer, got)
		}
		write := k.deps.Client.(*fake.Clientset).Actions()[0].(clienttesting.PatchAction)
		want := `{"metadata":{"resourceVersion":"7","uid":"u"},"spec":{"tolerations":[{"key":"node.kubernetes.io/not-ready","operator":"Exists","effect":"NoExecute"},` +
			`{"key":"node.kubernetes.io/unreachable","operator":"Exists","effect":"NoExecute"}]}}`
		if d := cmp.Diff(want, string(write.GetPatch())); d != "" {
			t.Error(d)
		}
	}
}

// followed is a cache that reports what it holds.
type followed struct{ objects }

func (f followed) Follow(kinds []object.ID, notify func([]object.Key)) (cancel func()) {
	for _, kind := range kinds {
		notify(f.Keys(kind))
	}
	return func() {}
}

// When CloudCore starts, all pods on edges may have to be changed.
func TestAStormOfPodsIsChangedAtABoundedRate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cache := objects{}
		for i := range 10 * podRate {
			place(cache, fmt.Sprint("p", i), "", "")
		}
		k, err := New(Config{}, Deps{Client: fake.NewClientset(), Cache: followed{cache}, Log: slog.New(slog.NewTextHandler(io.Discard, nil)), Registerer: prometheus.NewRegistry()})
		if err != nil {
			t.Fatal(err)
		}
		n := patches(k, nil)
		go k.Start(t.Context())
		seconds := 0
		for ; n.Load() < 10*podRate && seconds < 60; seconds++ {
			before := n.Load()
			time.Sleep(time.Second)
			synctest.Wait()
			if did := n.Load() - before; did > 2*podRate { // what may go at once, and then the rate
				t.Fatalf("%d pods were changed in a second, expected %d at most", did, 2*podRate)
			}
		}
		if n.Load() != 10*podRate || seconds < 9 {
			t.Errorf("%d pods were changed in %d s, expected all %d, at %d a second", n.Load(), seconds, 10*podRate, podRate)
		}
	})
}
