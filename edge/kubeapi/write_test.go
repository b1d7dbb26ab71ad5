package kubeapi

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	quantity "k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"

	"github.com/tether-edge/tether/common/object"
)

// one returns the only message that went up since from.
func (e *env) one(from int) object.Outgoing {
	e.t.Helper()
	sent := e.store.sent()
	if len(sent) != from+1 {
		e.t.Fatalf("%d messages are queued, expected %d: %+v", len(sent), from+1, sent)
	}
	return sent[from]
}

func (e *env) patchPodStatus(name, patch string) (*corev1.Pod, error) {
	return e.client.CoreV1().Pods("shop").Patch(context.Background(), name, types.StrategicMergePatchType, []byte(patch),
		metav1.PatchOptions{}, "status")
}

func TestAPodsStatusIsLocalFirstAndGoesUpAsAnOverlay(t *testing.T) {
	e := newEnv(t)
	first := e.store.fromCloud(t, object.Pods, e.pod("web", "uid-1"))
	w, err := e.client.CoreV1().Pods("").Watch(t.Context(), metav1.ListOptions{ResourceVersion: object.FormatRV(first.LocalRV)})
	if err != nil {
		t.Fatal(err)
	}
	defer w.Stop()
	got, err := e.patchPodStatus("web", `{"metadata":{"uid":"uid-1"},"status":{"phase":"Running","conditions":[{"type":"Ready","status":"True"}]}}`)
	if err != nil {
		t.Fatal(err)
	}
	if got.Status.Phase != corev1.PodRunning || got.Status.QOSClass != corev1.PodQOSBestEffort {
		t.Errorf("the answer has status %+v", got.Status)
	}
	seen := expect(t, w, watch.Modified, "web", "uid-1").(*corev1.Pod)
	if seen.Status.Phase != corev1.PodRunning || seen.ResourceVersion != got.ResourceVersion {
		t.Errorf("a watcher sees %s at %s, expected Running at %s", seen.Status.Phase, seen.ResourceVersion, got.ResourceVersion)
	}
	out := e.one(0)
	if out.Op != object.OpOverlay || out.UID != "uid-1" || out.Class != object.ClassState || out.Priority <= object.PriorityEvent {
		t.Errorf("message: %+v", out)
	}
	overlay, err := object.DecodeOverlay(out.Body)
	if err != nil || overlay.Pod.Phase != corev1.PodRunning || len(overlay.Conditions) != 1 {
		t.Errorf("overlay: %+v %v", overlay, err)
	}
	rec, _, _ := e.store.Get(t.Context(), first.Key)
	if string(rec.Base) != string(first.Body) || rec.Version != first.Version {
		t.Error("the cloud's object is not kept as the base of the overlay")
	}
}

func TestAWriteThatChangesNothingIsNoChange(t *testing.T) {
	e := newEnv(t)
	e.store.fromCloud(t, object.Pods, e.pod("web", "uid-1"))
	e.store.fromCloud(t, object.Nodes, e.node())
	first, err := e.patchPodStatus("web", `{"status":{"phase":"Running"}}`)
	if err != nil {
		t.Fatal(err)
	}
	again, err := e.patchPodStatus("web", `{"status":{"phase":"Running"}}`)
	if err != nil || again.ResourceVersion != first.ResourceVersion {
		t.Errorf("the second write made version %s, expected %s: %v", again.ResourceVersion, first.ResourceVersion, err)
	}
	e.one(0)
	if _, err := e.client.CoreV1().Nodes().PatchStatus(t.Context(), node, []byte(`{"metadata":{"labels":{"site":"north"}}}`)); err != nil {
		t.Error(err)
	}
	e.one(0)
}

func TestTheNodesStatusKeepsWhatTheCloudOwns(t *testing.T) {
	e := newEnv(t)
	e.store.fromCloud(t, object.Nodes, e.node())
	got, err := e.client.CoreV1().Nodes().PatchStatus(t.Context(), node, []byte(`{
		"metadata":{"labels":{"kubernetes.io/arch":"amd64"},"annotations":{"volumes.kubernetes.io/controller-managed-attach-detach":"true"}},
		"spec":{"unschedulable":true},
		"status":{"capacity":{"cpu":"4"},"conditions":[{"type":"Ready","status":"True"}]}}`))
	if err != nil {
		t.Fatal(err)
	}
	if got.Spec.Unschedulable || got.Labels["kubernetes.io/arch"] != "amd64" || got.Labels["site"] != "north" {
		t.Errorf("spec %+v labels %v", got.Spec, got.Labels)
	}
	out := e.one(0)
	overlay, err := object.DecodeOverlay(out.Body)
	if err != nil {
		t.Fatal(err)
	}
	if out.Priority != object.PriorityNode || strings.Join(overlay.Conditions, ",") != "Ready" || strings.Join(overlay.Capacity, ",") != "cpu" {
		t.Errorf("the overlay claims %+v", overlay)
	}
	// The cloud changes its own fields: both stay.
	n := e.node()
	n.Labels["site"] = "south"
	n.Status.Capacity["example.com/cloud"] = quantity.MustParse("3")
	e.store.fromCloud(t, object.Nodes, n)
	got, err = e.client.CoreV1().Nodes().Get(t.Context(), node, metav1.GetOptions{})
	if err != nil || got.Labels["site"] != "south" || got.Labels["kubernetes.io/arch"] != "amd64" || len(got.Status.Conditions) != 2 ||
		got.Status.Capacity.Name("example.com/cloud", quantity.DecimalSI).Value() != 3 || got.Status.Capacity.Cpu().Value() != 4 {
		t.Errorf("after the cloud's change: %+v %v", got, err)
	}
}

func TestWhatTheCloudOwnsIsRefused(t *testing.T) {
	e := newEnv(t)
	ctx := t.Context()
	e.store.fromCloud(t, object.Pods, e.pod("web", "uid-1"))
	e.store.fromCloud(t, object.Nodes, e.node())
	e.store.fromCloud(t, object.ConfigMaps, e.configMap("a", "1"))
	merge := types.MergePatchType
	check := func(what string, err error) {
		t.Helper()
		if !apierrors.IsForbidden(err) {
			t.Errorf("%s: %v, expected 403", what, err)
		}
	}
	_, err := e.client.CoreV1().Nodes().Patch(ctx, node, merge, []byte(`{"spec":{"taints":[{"key":"a","effect":"NoSchedule"}]}}`), metav1.PatchOptions{})
	check("taint the node", err)
	_, err = e.client.CoreV1().Nodes().Patch(ctx, node, merge, []byte(`{"spec":{"unschedulable":true,"podCIDR":"10.0.0.0/24"}}`), metav1.PatchOptions{})
	check("give the node addresses", err)
	_, err = e.client.CoreV1().Nodes().Patch(ctx, node, merge, []byte(`{"metadata":{"labels":{"node-role.kubernetes.io/control-plane":""}}}`), metav1.PatchOptions{})
	check("take a role", err)
	_, err = e.client.CoreV1().Nodes().Patch(ctx, node, merge, []byte(`{"metadata":{"labels":{"node-restriction.kubernetes.io/x":"y"}}}`), metav1.PatchOptions{})
	check("set a restricted label", err)
	_, err = e.client.CoreV1().Pods("shop").Patch(ctx, "web", merge, []byte(`{"spec":{"containers":[{"name":"main","image":"evil"}]}}`), metav1.PatchOptions{})
	check("patch a pod", err)
	_, err = e.client.CoreV1().Pods("shop").Patch(ctx, "web", merge, []byte(`{"metadata":{"labels":{"app":"x"}}}`), metav1.PatchOptions{}, "status")
	check("label a pod through its status", err)
	_, err = e.client.CoreV1().ConfigMaps("shop").Create(ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "b"}}, metav1.CreateOptions{})
	check("create a ConfigMap", err)
	check("delete a ConfigMap", e.client.CoreV1().ConfigMaps("shop").Delete(ctx, "a", metav1.DeleteOptions{}))
	check("delete a pod with grace", e.client.CoreV1().Pods("shop").Delete(ctx, "web", metav1.DeleteOptions{}))
	_, err = e.client.CoreV1().Pods("shop").Create(ctx, &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "mine"}, Spec: corev1.PodSpec{
		NodeName: node, Containers: []corev1.Container{{Name: "c", Image: "i"}}}}, metav1.CreateOptions{})
	check("create a pod that is no mirror", err)
	if sent := e.store.sent(); len(sent) != 0 {
		t.Errorf("refused writes went up: %+v", sent)
	}
	got, err := e.patchPodStatus("web", `{"spec":{"nodeName":"other"},"status":{"message":"m"}}`)
	if err != nil || got.Spec.NodeName != node || got.Status.Message != "m" {
		t.Errorf("a spec in a status patch: %v %v, expected it ignored", got, err)
	}
}

func TestUpdatesCheckTheLocalVersions(t *testing.T) {
	e := newEnv(t)
	e.store.fromCloud(t, object.Pods, e.pod("web", "uid-1"))
	stale, err := e.client.CoreV1().Pods("shop").Get(t.Context(), "web", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	fresh := stale.DeepCopy()
	fresh.Status.Phase = corev1.PodRunning
	fresh, err = e.client.CoreV1().Pods("shop").UpdateStatus(t.Context(), fresh, metav1.UpdateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	stale.Status.Phase = corev1.PodFailed
	if _, err = e.client.CoreV1().Pods("shop").UpdateStatus(t.Context(), stale, metav1.UpdateOptions{}); !apierrors.IsConflict(err) {
		t.Errorf("update of a stale version: %v, expected 409", err)
	}
	if _, err = e.patchPodStatus("web", `{"metadata":{"uid":"uid-0"},"status":{"phase":"Failed"}}`); !apierrors.IsInvalid(err) {
		t.Errorf("patch of another uid: %v, expected 422", err)
	}
	if now, err := e.client.CoreV1().Pods("shop").Get(t.Context(), "web", metav1.GetOptions{}); err != nil || now.Status.Phase != corev1.PodRunning {
		t.Errorf("phase %s %v, expected Running", now.Status.Phase, err)
	}
}

func gone(uid string) metav1.DeleteOptions {
	zero, u := int64(0), types.UID(uid)
	return metav1.DeleteOptions{GracePeriodSeconds: &zero, Preconditions: &metav1.Preconditions{UID: &u}}
}

func TestADeletedPodIsATombstoneUntilTheCloudKnows(t *testing.T) {
	e := newEnv(t)
	e.store.fromCloud(t, object.Pods, e.pod("web", "uid-1"))
	w, err := e.client.CoreV1().Pods("").Watch(t.Context(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer w.Stop()
	expect(t, w, watch.Added, "web", "uid-1")
	pods := e.client.CoreV1().Pods("shop")
	if err := pods.Delete(t.Context(), "web", gone("uid-0")); !apierrors.IsConflict(err) {
		t.Errorf("delete with another uid: %v, expected 409", err)
	}
	if err := pods.Delete(t.Context(), "web", gone("uid-1")); err != nil {
		t.Fatal(err)
	}
	expect(t, w, watch.Deleted, "web", "uid-1")
	if out := e.one(0); out.Op != object.OpDelete || out.UID != "uid-1" || out.Key.Name != "web" {
		t.Errorf("message: %+v", out)
	}
	if _, err := pods.Get(t.Context(), "web", metav1.GetOptions{}); !apierrors.IsNotFound(err) {
		t.Errorf("get after the deletion: %v, expected 404", err)
	}
	rec, _, _ := e.store.Get(t.Context(), e.key(object.Pods, "shop", "web"))
	if rec == nil || !rec.Tombstone || rec.Version.UID != "uid-1" {
		t.Errorf("record %+v, expected a tombstone of uid-1", rec)
	}
	mirror := e.mirror("web")
	if _, err := pods.Create(t.Context(), mirror, metav1.CreateOptions{}); !apierrors.IsServiceUnavailable(err) {
		t.Errorf("a mirror pod over an undelivered deletion: %v, expected 503", err)
	}
	if len(e.cloud.called()) != 0 {
		t.Error("the cloud was asked to create a pod whose deletion it has not seen")
	}
}

func (e *env) mirror(name string) *corev1.Pod {
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: name, Annotations: map[string]string{corev1.MirrorPodAnnotationKey: "hash"}},
		Spec:       corev1.PodSpec{NodeName: node, Containers: []corev1.Container{{Name: "c", Image: "i"}}},
	}
}

func TestAPodWithFinalizersStaysMarked(t *testing.T) {
	e := newEnv(t)
	p := e.pod("job-1", "uid-1")
	p.Finalizers = []string{"batch.kubernetes.io/job-tracking"}
	e.store.fromCloud(t, object.Pods, p)
	for range 2 {
		if err := e.client.CoreV1().Pods("shop").Delete(t.Context(), "job-1", gone("uid-1")); err != nil {
			t.Fatal(err)
		}
	}
	if out := e.one(0); out.Op != object.OpDelete {
		t.Errorf("message: %+v", out)
	}
	if _, err := e.patchPodStatus("job-1", `{"status":{"phase":"Succeeded"}}`); err != nil {
		t.Fatal(err)
	}
	got, err := e.client.CoreV1().Pods("shop").Get(t.Context(), "job-1", metav1.GetOptions{})
	if err != nil || got.DeletionTimestamp == nil || *got.DeletionGracePeriodSeconds != 0 || got.Status.Phase != corev1.PodSucceeded {
		t.Errorf("after delete and status: %+v %v, expected it marked with grace 0 and Succeeded", got, err)
	}
}

func TestEventsGoUpAndTheirCountsToo(t *testing.T) {
	e := newEnv(t)
	event := &corev1.Event{
		ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "web.17"}, Reason: "Pulled", Count: 1,
		InvolvedObject: corev1.ObjectReference{Kind: "Pod", Namespace: "shop", Name: "web"}, Source: corev1.EventSource{Host: node},
	}
	if _, err := e.client.CoreV1().Events("shop").Create(t.Context(), event, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	out := e.one(0)
	if out.Op != object.OpCreate || out.Class != object.ClassEvent || !out.Expires.Equal(e.clock.Now().Add(time.Hour)) {
		t.Errorf("message: %+v", out)
	}
	k, _ := object.Lookup(object.Events)
	if o, err := object.Decode(k, out.Body); err != nil || o.GetUID() != "" || o.GetResourceVersion() != "" {
		t.Errorf("the message carries this edge's uid or version: %+v %v", o, err)
	}
	if _, err := e.client.CoreV1().Events("shop").Create(t.Context(), event, metav1.CreateOptions{}); !apierrors.IsAlreadyExists(err) {
		t.Errorf("the same event again: %v, expected AlreadyExists", err)
	}
	patched, err := e.client.CoreV1().Events("shop").PatchWithEventNamespaceWithContext(t.Context(), event, []byte(`{"count":2}`))
	if err != nil || patched.Count != 2 {
		t.Fatalf("patch: %v %v", patched, err)
	}
	out = e.one(1)
	o, err := object.Decode(k, out.Body)
	if err != nil || out.Op != object.OpPut || o.(*corev1.Event).Count != 2 || o.(*corev1.Event).Reason != "Pulled" {
		t.Errorf("message of the patch: %+v %+v %v", out, o, err)
	}
	other := event.DeepCopy()
	other.Name = "unknown"
	if _, err := e.client.CoreV1().Events("shop").PatchWithEventNamespaceWithContext(t.Context(), other, []byte(`{"count":2}`)); !apierrors.IsNotFound(err) {
		t.Errorf("patch of an event that is not kept: %v, expected 404", err)
	}
}

func TestRecentEventsAreBounded(t *testing.T) {
	e := newEnv(t)
	for i := range eventCapacity + 10 {
		_, err := e.client.CoreV1().Events("shop").Create(t.Context(),
			&corev1.Event{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: fmt.Sprintf("e%d", i)},
				InvolvedObject: corev1.ObjectReference{Namespace: "shop"}, Source: corev1.EventSource{Host: node}}, metav1.CreateOptions{})
		if err != nil {
			t.Fatal(err)
		}
	}
	list, err := e.client.CoreV1().Events("").List(t.Context(), metav1.ListOptions{})
	if err != nil || len(list.Items) != eventCapacity {
		t.Errorf("%d events are kept, expected %d: %v", len(list.Items), eventCapacity, err)
	}
	if n := len(e.store.sent()); n != eventCapacity+10 {
		t.Errorf("%d events went up, expected all %d", n, eventCapacity+10)
	}
}

func TestALeaseStaysLocalAndTellsTheKubeletsFreshness(t *testing.T) {
	e := newEnv(t)
	if _, ok := e.LeaseAge(e.clock.Now()); ok {
		t.Error("a lease age is known before any renewal")
	}
	leases := e.client.CoordinationV1().Leases(corev1.NamespaceNodeLease)
	if _, err := leases.Get(t.Context(), node, metav1.GetOptions{}); !apierrors.IsNotFound(err) {
		t.Fatalf("get: %v, expected 404", err)
	}
	holder := node
	lease, err := leases.Create(t.Context(), &coordinationv1.Lease{ObjectMeta: metav1.ObjectMeta{Name: node},
		Spec: coordinationv1.LeaseSpec{HolderIdentity: &holder}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	e.clock.advance(40 * time.Second)
	if age, ok := e.LeaseAge(e.clock.Now()); !ok || age != 40*time.Second {
		t.Errorf("age %v %v, expected 40s", age, ok)
	}
	now := metav1.NewMicroTime(e.clock.Now())
	lease.Spec.RenewTime = &now
	if _, err := leases.Update(t.Context(), lease, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	if age, ok := e.LeaseAge(e.clock.Now()); !ok || age != 0 {
		t.Errorf("age %v %v after a renewal, expected 0", age, ok)
	}
	if _, err := leases.Update(t.Context(), lease, metav1.UpdateOptions{}); !apierrors.IsConflict(err) {
		t.Errorf("update with a stale version: %v, expected 409", err)
	}
	if n := len(e.store.sent()); n != 0 {
		t.Errorf("%d messages went up for leases, expected none", n)
	}
}

func TestACSINodeIsLocalFirst(t *testing.T) {
	e := newEnv(t)
	ctx := t.Context()
	nodes := e.client.StorageV1().CSINodes()
	// Where the Node is not registered yet, no answer: the kubelet would count its tries from it, and end the process.
	if _, err := nodes.Get(ctx, node, metav1.GetOptions{}); !apierrors.IsServiceUnavailable(err) {
		t.Fatalf("get before the Node is known: %v, expected 503", err)
	}
	e.store.fromCloud(t, object.Nodes, e.node())
	if _, err := nodes.Get(ctx, node, metav1.GetOptions{}); !apierrors.IsNotFound(err) {
		t.Fatalf("get: %v, expected 404", err)
	}
	made, err := nodes.Create(ctx, &storagev1.CSINode{ObjectMeta: metav1.ObjectMeta{Name: node}}, metav1.CreateOptions{})
	if err != nil || made.UID == "" {
		t.Fatalf("create: %+v %v", made, err)
	}
	if out := e.one(0); out.Op != object.OpPut || out.Class != object.ClassState || out.UID != "" {
		t.Errorf("message: %+v", out)
	}
	if _, err := nodes.Create(ctx, &storagev1.CSINode{ObjectMeta: metav1.ObjectMeta{Name: node}}, metav1.CreateOptions{}); !apierrors.IsAlreadyExists(err) {
		t.Errorf("create again: %v, expected AlreadyExists", err)
	}
	made.Spec.Drivers = []storagev1.CSINodeDriver{{Name: "csi.example.com", NodeID: "1"}}
	if made, err = nodes.Update(ctx, made, metav1.UpdateOptions{}); err != nil || len(made.Spec.Drivers) != 1 {
		t.Fatalf("update: %+v %v", made, err)
	}
	e.one(1)
	if _, err := nodes.Create(ctx, &storagev1.CSINode{ObjectMeta: metav1.ObjectMeta{Name: "other"}}, metav1.CreateOptions{}); !apierrors.IsForbidden(err) {
		t.Errorf("create for another node: %v, expected 403", err)
	}
	if err := nodes.Delete(ctx, node, metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, err := nodes.Create(ctx, &storagev1.CSINode{ObjectMeta: metav1.ObjectMeta{Name: node}}, metav1.CreateOptions{}); err != nil {
		t.Errorf("create after a delete: %v", err)
	}
}

// answering returns a cloud that answers every call with one object.
func answering(t *testing.T, e *env, code int, o metav1.Object) func(context.Context, object.Call) (object.Reply, error) {
	b, err := json.Marshal(o)
	if err != nil {
		t.Fatal(err)
	}
	return func(context.Context, object.Call) (object.Reply, error) {
		return object.Reply{Code: code, ContentType: "application/json", Body: b}, nil
	}
}

func TestANodeIsRegisteredByTheCloudOnce(t *testing.T) {
	e := newEnv(t)
	mine := &corev1.Node{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Node"}, ObjectMeta: metav1.ObjectMeta{Name: node}}
	nodes := e.client.CoreV1().Nodes()
	_, err := nodes.Create(t.Context(), mine, metav1.CreateOptions{})
	if !apierrors.IsServiceUnavailable(err) || !strings.Contains(err.Error(), object.ErrOffline.Error()) {
		t.Errorf("create offline: %v, expected 503 with the reason", err)
	}
	made := mine.DeepCopy()
	made.UID, made.ResourceVersion = "node-uid", "7"
	e.cloud.set(answering(t, e, http.StatusCreated, made))
	got, err := nodes.Create(t.Context(), mine, metav1.CreateOptions{})
	if err != nil || got.UID != "node-uid" {
		t.Fatalf("create online: %v %v", got, err)
	}
	call := e.cloud.called()[1]
	if call.Verb != "create" || call.Key != e.key(object.Nodes, "", node) || call.ContentType != "application/json" || len(call.Body) == 0 {
		t.Errorf("call: %+v", call)
	}
	e.store.fromCloud(t, object.Nodes, e.node())
	if _, err := nodes.Create(t.Context(), mine, metav1.CreateOptions{}); !apierrors.IsAlreadyExists(err) {
		t.Errorf("create of a known node: %v, expected AlreadyExists", err)
	}
	if n := len(e.cloud.called()); n != 2 {
		t.Errorf("the cloud was asked %d times, expected 2", n)
	}
	other := mine.DeepCopy()
	other.Name = "other"
	if _, err := nodes.Create(t.Context(), other, metav1.CreateOptions{}); !apierrors.IsForbidden(err) {
		t.Errorf("create of another node: %v, expected 403", err)
	}
}

func TestTheCloudsRefusalsArePassedOn(t *testing.T) {
	e := newEnv(t)
	status := apierrors.NewForbidden(corev1.Resource("pods"), "static", fmt.Errorf("no")).Status()
	status.TypeMeta = metav1.TypeMeta{APIVersion: "v1", Kind: "Status"}
	b, err := json.Marshal(status)
	if err != nil {
		t.Fatal(err)
	}
	code := http.StatusForbidden
	e.cloud.set(func(context.Context, object.Call) (object.Reply, error) {
		return object.Reply{Code: code, ContentType: "application/json", Body: b}, nil
	})
	if _, err = e.client.CoreV1().Pods("shop").Create(t.Context(), e.mirror("static"), metav1.CreateOptions{}); !apierrors.IsForbidden(err) {
		t.Errorf("refused: %v, expected 403", err)
	}
	code = http.StatusTooManyRequests
	if _, err = e.client.CoreV1().Pods("shop").Create(t.Context(), e.mirror("static"), metav1.CreateOptions{}); !apierrors.IsServiceUnavailable(err) {
		t.Errorf("too busy: %v, expected 503", err)
	}
}
