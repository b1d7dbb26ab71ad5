package state_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/tether-edge/tether/cloud/state"
	"github.com/tether-edge/tether/cloud/state/statetest"
	"github.com/tether-edge/tether/common/object"
	"github.com/tether-edge/tether/common/wire"
)

func TestOneListAndWatchPerKindHoweverManySubscribers(t *testing.T) {
	w := synced(t, statetest.New(), state.Config{})
	for i := range 1000 {
		w.subscribe(fmt.Sprintf("node-%d", i))
	}
	v, _ := w.subscribe("node-0")
	for i := range 100 {
		w.cluster.Put(configMap("ns", fmt.Sprint(i), "x"))
	}
	w.caughtUp(v)
	for _, k := range w.cache.Kinds() {
		if lists, watches := w.cluster.Requests(k); lists+watches != 1 {
			t.Errorf("%s: %d lists and %d watches, expected one streamed list", k, lists, watches)
		}
	}
}

func TestKeysAreOfWhatThereIs(t *testing.T) {
	cluster := statetest.New()
	cluster.Put(configMap("ns", "a", "x"))
	w := synced(t, cluster, state.Config{})
	v, _ := w.subscribe("node-0")
	w.cluster.Put(configMap("ns", "b", "x"))
	w.cluster.Delete(object.Key{Kind: object.ConfigMaps, Namespace: "ns", Name: "a"})
	w.caughtUp(v)
	if keys := w.cache.Keys(object.ConfigMaps); len(keys) != 1 || keys[0].Name != "b" {
		t.Errorf("keys %v, expected that of b", keys)
	}
	if keys := w.cache.Keys("nonsense"); len(keys) != 0 {
		t.Errorf("keys %v of a kind that there is not", keys)
	}
}

func TestOneEncodeAndOneCompressionPerVersionForAllViews(t *testing.T) {
	cluster := statetest.New()
	const nodes = 50
	k, _ := cluster.Put(configMap("ns", "shared", strings.Repeat("abc", 1000)))
	for i := range nodes {
		cluster.Put(pod("ns", fmt.Sprint(i), fmt.Sprint(i), "shared"))
	}
	w := synced(t, cluster, state.Config{})
	bodies := make([][]byte, nodes)
	var wg sync.WaitGroup
	for i := range nodes {
		v, _ := w.subscribe(fmt.Sprint(i))
		wg.Go(func() {
			item, ok := v.Get(k)
			if !ok || !item.Compressed {
				t.Errorf("node %d: found %v, compressed %v, expected a compressed body", i, ok, item.Compressed)
			}
			bodies[i] = item.Body
		})
	}
	wg.Wait()
	for i := range bodies {
		if &bodies[i][0] != &bodies[0][0] {
			t.Fatalf("views 0 and %d have copies of the body", i)
		}
	}
	for _, m := range []string{"tether_state_encodes_total", "tether_state_compressions_total"} {
		if n := w.metric(m, "configmaps"); n != 1 {
			t.Errorf("%s: %v, expected 1", m, n)
		}
	}
}

func TestBodyIsTheObjectWithoutManagedFieldsAndNothingElse(t *testing.T) {
	cluster := statetest.New()
	p := pod("ns", "p", "n")
	p.ManagedFields = []metav1.ManagedFieldsEntry{{Manager: "m"}}
	p.Annotations = map[string]string{"kubectl.kubernetes.io/last-applied-configuration": "x"}
	p.Finalizers = []string{"f"}
	k, version := cluster.Put(p)
	w := synced(t, cluster, state.Config{})
	v, _ := w.subscribe("n")
	item, _ := v.Get(k)
	if item.Version != version {
		t.Errorf("version %v, expected %v", item.Version, version)
	}
	comp, _ := wire.NewCompressor()
	raw := item.Body
	if item.Compressed {
		var err error
		if raw, err = comp.Decompress(raw); err != nil {
			t.Fatal(err)
		}
	}
	kind, _ := object.Lookup(object.Pods)
	want := cluster.Objects(object.Pods)[0]
	want.SetManagedFields(nil)
	wantRaw, err := object.Encode(kind, want)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(raw, wantRaw) {
		t.Errorf("the body is not the object:\n%q\nexpected\n%q", raw, wantRaw)
	}
	o, ok := w.cache.Object(k)
	if !ok || o.(*corev1.Pod).Spec.NodeName != "n" {
		t.Errorf("Object: %v %v, expected the pod", o, ok)
	}
}

func TestOnlyNodesConcernedAreNotified(t *testing.T) {
	cluster := statetest.New()
	for _, n := range []string{"a", "b", "c"} {
		cluster.Put(node(n))
	}
	cluster.Put(pod("ns", "pa", "a", "cm"))
	cluster.Put(pod("ns", "pb", "b", "cm"))
	cluster.Put(pod("ns", "pc", "c"))
	cm, _ := cluster.Put(configMap("ns", "cm", "1"))
	w := synced(t, cluster, state.Config{})
	va, ra := w.subscribe("a")
	_, rb := w.subscribe("b")
	_, rc := w.subscribe("c")
	_, version := cluster.Put(configMap("ns", "cm", "2"))
	eventually(t, "a and b were told of the ConfigMap", func() bool { return ra.told(cm) && rb.told(cm) })
	if item, _ := va.Get(cm); item.Version != version {
		t.Errorf("after the notification the view has %v, expected %v", item.Version, version)
	}
	na, _ := cluster.Put(node("a"))
	eventually(t, "a was told of its Node", func() bool { return ra.told(na) })
	w.caughtUp(va)
	if told := rc.all(); len(told) > 0 {
		t.Errorf("c was told of %v, expected nothing", told)
	}
	if rb.told(na) {
		t.Error("b was told of a's Node")
	}
}

func TestPodMakesVisibleWhatItRefersToAndTakesItBack(t *testing.T) {
	cluster := statetest.New()
	cm, _ := cluster.Put(configMap("ns", "cm", "1"))
	svc, _ := cluster.Put(&corev1.Service{ObjectMeta: meta("ns", "svc")})
	kubernetes, _ := cluster.Put(&corev1.Service{ObjectMeta: meta("default", "kubernetes")})
	w := synced(t, cluster, state.Config{})
	v, r := w.subscribe("n")
	if has(v, cm) || has(v, svc) || !has(v, kubernetes) {
		t.Fatalf("before: %v, expected default/kubernetes alone", listed(v))
	}
	p, _ := cluster.Put(pod("ns", "p", "n", "cm"))
	eventually(t, "told of pod, ConfigMap and Service", func() bool { return r.told(p) && r.told(cm) && r.told(svc) })
	if !has(v, cm) || !has(v, svc) || !has(v, p) {
		t.Fatalf("with the pod: %v, expected ConfigMap, Service and pod too", listed(v))
	}
	r.reset()
	cluster.Delete(p)
	eventually(t, "told of all three again", func() bool { return r.told(p) && r.told(cm) && r.told(svc) })
	if got := listed(v); len(got) != 1 {
		t.Fatalf("after: %v, expected default/kubernetes alone", got)
	}
	if got := v.Cause(cm, "", ""); got != object.CauseNodeGone {
		t.Errorf("cause without a Node: %v, expected NODE_GONE for everything", got)
	}
	cluster.Put(node("n"))
	w.caughtUp(v)
	for k, want := range map[object.Key]object.Cause{
		cm: object.CauseOutOfInterest, svc: object.CauseOutOfInterest, kubernetes: 0,
		key(object.ConfigMaps, "ns", "never"): object.CauseDeleted,
	} {
		if got := v.Cause(k, "", ""); got != want {
			t.Errorf("cause of %v: %v, expected %v", k, got, want)
		}
	}
}

// A cloud that has started by half: every kind is there but one.
func TestACacheThatLacksOneKindIsNotSynced(t *testing.T) {
	cluster := statetest.New()
	cluster.Put(pod("ns", "p", "n"))
	cluster.FailKind(object.ConfigMaps, true)
	w := start(t, cluster, state.Config{})
	eventually(t, "the other kinds to be there", func() bool {
		_, ok := w.cache.Object(key(object.Pods, "ns", "p"))
		return ok
	})
	ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
	defer cancel()
	if err := w.cache.WaitSynced(ctx); !errors.Is(err, context.DeadlineExceeded) || w.cache.Synced() {
		t.Fatalf("WaitSynced %v, Synced %v, expected neither without the ConfigMaps", err, w.cache.Synced())
	}
	cluster.FailKind(object.ConfigMaps, false)
	eventually(t, "synced once they are there", w.cache.Synced)
}

func TestColdCacheIsNotSynced(t *testing.T) {
	cluster := statetest.New()
	cluster.Put(pod("ns", "p", "n"))
	cluster.Fail(true)
	w := start(t, cluster, state.Config{})
	ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
	defer cancel()
	if err := w.cache.WaitSynced(ctx); !errors.Is(err, context.DeadlineExceeded) || w.cache.Synced() {
		t.Fatalf("WaitSynced %v, Synced %v, expected neither while the API server is away", err, w.cache.Synced())
	}
	cluster.Fail(false)
	eventually(t, "synced once the API server is back", w.cache.Synced)
	v, _ := w.subscribe("n")
	if !has(v, key(object.Pods, "ns", "p")) {
		t.Error("synced, and the pod is not there")
	}
}

func TestOptionalKindThatIsNotServedIsNotSynced(t *testing.T) {
	cluster := statetest.New()
	cluster.Unserve(object.ResourceClaims)
	w := synced(t, cluster, state.Config{})
	for _, k := range w.cache.Kinds() {
		if k == object.ResourceClaims {
			t.Error("ResourceClaims are synced")
		}
	}
	if l, n := cluster.Requests(object.ResourceClaims); l+n > 0 {
		t.Errorf("%d lists and %d watches of a kind that is not served", l, n)
	}
	if len(w.cache.Kinds()) != len(object.Watched())-1 {
		t.Errorf("kinds %v", w.cache.Kinds())
	}
}

func TestSlowSubscriberHoldsUpNoWatch(t *testing.T) {
	cluster := statetest.New()
	cluster.Put(pod("ns", "a", "slow", "cm"))
	cluster.Put(pod("ns", "b", "quick", "cm"))
	cm, _ := cluster.Put(configMap("ns", "cm", "0"))
	w := synced(t, cluster, state.Config{})
	stuck, release := make(chan struct{}), make(chan struct{})
	var once sync.Once
	calls := 0
	_, cancel := w.cache.Subscribe("slow", func(keys []object.Key) {
		calls++ // one call at a time
		once.Do(func() { close(stuck) })
		<-release
	})
	t.Cleanup(cancel)
	cluster.Put(configMap("ns", "cm", "1"))
	<-stuck
	v, r := w.subscribe("quick")
	var last object.Version
	for i := range 5000 {
		_, last = cluster.Put(configMap("ns", "cm", fmt.Sprint(i)))
	}
	eventually(t, "the quick node has the last version", func() bool {
		item, _ := v.Get(cm)
		return r.told(cm) && item.Version == last
	})
	n := w.metric("tether_state_notifications_total", "")
	close(release)
	eventually(t, "the slow one is called again", func() bool { return w.metric("tether_state_notifications_total", "") >= n+2 })
	cancel()
	w.caughtUp(v)
	if calls != 2 {
		t.Errorf("the slow subscriber was called %d times for 5001 changes of one key, expected 2", calls)
	}
}

func TestRelistDeletesWhatIsGoneAndKeepsTheRest(t *testing.T) {
	cluster := statetest.New()
	cluster.Put(node("n"))
	var pods []object.Key
	for i := range 1200 {
		k, _ := cluster.Put(pod("ns", fmt.Sprint(i), "n"))
		pods = append(pods, k)
	}
	w := synced(t, cluster, state.Config{})
	v, r := w.subscribe("n")
	cluster.Pause(object.Pods)
	for _, k := range pods[:600] {
		cluster.Delete(k)
	}
	fresh, _ := cluster.Put(pod("ns", "fresh", "n"))
	cluster.Break(object.Pods, true)
	eventually(t, "the relist brought the new pod", func() bool { return r.told(fresh) && has(v, fresh) })
	eventually(t, "the relist is taken in", func() bool { return len(listed(v)) == 602 })
	if got := v.Cause(pods[0], "", ""); got != object.CauseDeleted {
		t.Errorf("cause of a pod that a relist lacks: %v, expected DELETED", got)
	}
	if !r.told(pods[0]) || r.told(pods[1000]) {
		t.Errorf("told of a deleted pod: %v, of one that stayed: %v", r.told(pods[0]), r.told(pods[1000]))
	}
}

func TestRevisionFollowsEventsAndBookmarks(t *testing.T) {
	cluster := statetest.New()
	w := synced(t, cluster, state.Config{})
	v, _ := w.subscribe("n")
	_, version := cluster.Put(configMap("ns", "cm", "1"))
	eventually(t, "the event's revision", func() bool { return v.Revision(object.ConfigMaps) == version.RV })
	if v.Revision(object.Secrets) >= version.RV {
		t.Error("Secrets moved with the ConfigMaps")
	}
	cluster.Bookmark(object.Secrets)
	eventually(t, "the bookmark's revision", func() bool { return v.Revision(object.Secrets) == version.RV })
	if rv, err := w.cache.ServerRevision(context.Background()); err != nil || rv != version.RV {
		t.Errorf("ServerRevision %d, %v, expected %d", rv, err, version.RV)
	}
	cluster.Fail(true)
	if _, err := w.cache.ServerRevision(context.Background()); !errors.Is(err, statetest.ErrUnavailable) {
		t.Errorf("ServerRevision of a failing API server: %v", err)
	}
}

// Of an etcd that was restored a session must see that it is older before it sees anything old: an object that looks
// like the newest would be sent to an edge that has seen more.
func TestARestoredClusterSaysSoBeforeItShowsAnything(t *testing.T) {
	cluster := statetest.New()
	// So that none of the objects below has the revision of the backup from the beginning.
	for range 900 {
		cluster.Put(configMap("elsewhere", "x", "1"))
	}
	w := synced(t, cluster, state.Config{})
	var mu sync.Mutex // guards early and told
	var early []string
	told := 0
	var v *state.View
	ready := make(chan struct{})
	var restored atomic.Bool
	v, cancel := w.cache.Subscribe("n", func(keys []object.Key) {
		<-ready
		if !restored.Load() {
			return
		}
		for _, k := range keys {
			item, ok := v.Get(k)
			if !ok || k.Kind != object.ConfigMaps {
				continue
			}
			mu.Lock()
			told++
			if rv := v.Revision(k.Kind); item.Version.RV == 900 && rv > 900 {
				early = append(early, fmt.Sprintf("%s is shown with %d while the cache says that it is at %d", k, item.Version.RV, rv))
			}
			mu.Unlock()
		}
	})
	defer cancel()
	close(ready)
	p := pod("ns", "p", "n")
	var keys []object.Key
	for i := range 8000 {
		name := fmt.Sprint("cm-", i)
		p.Spec.Volumes = append(p.Spec.Volumes, corev1.Volume{Name: name, VolumeSource: corev1.VolumeSource{
			ConfigMap: &corev1.ConfigMapVolumeSource{LocalObjectReference: corev1.LocalObjectReference{Name: name}}}})
		key, _ := cluster.Put(configMap("ns", name, "1"))
		keys = append(keys, key)
	}
	cluster.Put(p)
	eventually(t, "the node sees them all", func() bool { return has(v, keys[len(keys)-1]) && has(v, keys[0]) })
	told0 := func() bool { mu.Lock(); defer mu.Unlock(); return told > 0 }
	// What is under way of the first sync is told before the restore.
	last, _ := cluster.Put(configMap("ns", "cm-0", "2"))
	eventually(t, "the last change", func() bool { i, _ := v.Get(last); return i.Version.RV > 8000 })
	w.caughtUp(v, object.ConfigMaps, object.Pods)
	restored.Store(true)
	cluster.Restore(900)
	eventually(t, "the cache went back", func() bool { return v.Revision(object.ConfigMaps) <= 900 })
	eventually(t, "the node was told", told0)
	mu.Lock()
	defer mu.Unlock()
	if len(early) > 0 {
		t.Errorf("%d objects too early, such as: %s", len(early), early[0])
	}
}

func TestNothingIsLeftBehindWhenAllIsGone(t *testing.T) {
	cluster := statetest.New()
	w := synced(t, cluster, state.Config{})
	v, cancel := w.cache.Subscribe("n", func([]object.Key) {})
	for i := range 50 {
		p := pod("ns", fmt.Sprint(i), "n", "missing", fmt.Sprint(i))
		p.Spec.Volumes = append(p.Spec.Volumes, corev1.Volume{Name: "c", VolumeSource: corev1.VolumeSource{
			PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: fmt.Sprint("claim-", i%5)}}})
		cluster.Put(p)
		cluster.Put(configMap("ns", fmt.Sprint(i), "x"))
		cluster.Put(&corev1.PersistentVolume{ObjectMeta: meta("", fmt.Sprint("pv-", i)), Spec: corev1.PersistentVolumeSpec{
			ClaimRef: &corev1.ObjectReference{Namespace: "ns", Name: fmt.Sprint("claim-", i%5)},
			PersistentVolumeSource: corev1.PersistentVolumeSource{CSI: &corev1.CSIPersistentVolumeSource{
				NodeStageSecretRef: &corev1.SecretReference{Namespace: "other", Name: fmt.Sprint("s-", i)}}},
		}})
	}
	w.caughtUp(v)
	for _, kind := range w.cache.Kinds() {
		for _, o := range cluster.Objects(kind) {
			cluster.Delete(object.KeyOf(kind, o))
		}
	}
	w.caughtUp(v)
	cancel()
	eventually(t, "no entry, node or namespace is left", func() bool { return state.Leftovers(w.cache) == "" })
	if n := w.metric("tether_state_objects", "") + w.metric("tether_state_object_bytes", ""); n != 0 {
		t.Errorf("objects and bytes: %v, expected 0", n)
	}
}

// The place of a Secret that only a volume names must survive while neither the Secret exists nor a node sees the
// volume: the Secret that is made there later is the one that the volume needs.
func TestVolumeSecretMadeAgainIsSeen(t *testing.T) {
	cluster := statetest.New()
	secret := &corev1.Secret{ObjectMeta: meta("other", "s")}
	k, _ := cluster.Put(secret)
	cluster.Put(&corev1.PersistentVolume{ObjectMeta: meta("", "pv"), Spec: corev1.PersistentVolumeSpec{
		ClaimRef: &corev1.ObjectReference{Namespace: "ns", Name: "claim"},
		PersistentVolumeSource: corev1.PersistentVolumeSource{CSI: &corev1.CSIPersistentVolumeSource{
			NodeStageSecretRef: &corev1.SecretReference{Namespace: "other", Name: "s"}}},
	}})
	w := synced(t, cluster, state.Config{})
	v, r := w.subscribe("n")
	cluster.Delete(k)
	w.caughtUp(v)
	p := pod("ns", "p", "n")
	p.Spec.Volumes = []corev1.Volume{{Name: "c", VolumeSource: corev1.VolumeSource{
		PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: "claim"}}}}
	pk, _ := cluster.Put(p)
	eventually(t, "the pod is visible", func() bool { return has(v, pk) })
	r.reset()
	cluster.Put(secret)
	eventually(t, "told of the Secret, and it is visible", func() bool { return r.told(k) && has(v, k) })
}
