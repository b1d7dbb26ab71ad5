package fleet

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/tether-edge/tether/common/object"
	"github.com/tether-edge/tether/common/session"
	"github.com/tether-edge/tether/edge/link"
)

// encoded is an object as the link hands it to a store.
func encoded(t *testing.T, id object.ID, o object.Object) link.Incoming {
	t.Helper()
	kind, _ := object.Lookup(id)
	body, err := object.Encode(kind, o)
	if err != nil {
		t.Fatal(err)
	}
	v, err := object.VersionOf(o)
	if err != nil {
		t.Fatal(err)
	}
	return link.Incoming{Key: object.KeyOf(id, o), Version: v, Body: body}
}

func pod(revision string) *corev1.Pod {
	return &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "n", Name: "p", UID: "u2", ResourceVersion: revision}, Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "c"}}}}
}

func TestStoreSaysWhatTheHubSent(t *testing.T) {
	s, ctx := newStore("a"), t.Context()
	node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "a", UID: "u1", ResourceVersion: "7"}}
	if err := s.ApplyBatch(ctx, []link.Incoming{encoded(t, object.Nodes, node), encoded(t, object.Pods, pod("8"))}); err != nil {
		t.Fatal(err)
	}
	key := object.KeyOf(object.Pods, pod("8"))
	var want object.Digest
	want.Add(key, object.Version{UID: "u2", RV: 8})
	digests, _ := s.Digests(ctx)
	if uid, _ := s.NodeUID(ctx); digests[object.Pods] != want || uid != "u1" {
		t.Errorf("expected the digest %v and Node u1, found %v and %q", want, digests[object.Pods], uid)
	}
	for _, q := range []Question{{Kind: object.Pods, Namespace: "n", Name: "p", Revision: 8}, {Kind: object.Pods, Namespace: "n", Prefix: "p"}} {
		if s.commit(q).IsZero() {
			t.Errorf("%+v: expected the time of the commit, found none", q)
		}
	}
	if at := s.commit(Question{Kind: object.Pods, Namespace: "n", Name: "p", Revision: 9}); !at.IsZero() {
		t.Errorf("expected no commit of a later version, found one at %s", at)
	}
	if err := s.ApplyBatch(ctx, []link.Incoming{{Key: key, Cause: object.CauseDeleted}}); err != nil {
		t.Fatal(err)
	}
	if at := s.commit(Question{Kind: object.Pods, Namespace: "n", Prefix: "p"}); !at.IsZero() {
		t.Errorf("expected a deleted pod to be gone, found it committed at %s", at)
	}
}

// TestAPodRunsAtOnceAndIsReportedOnce: the cloud's echo of a report is not answered.
func TestAPodRunsAtOnceAndIsReportedOnce(t *testing.T) {
	s, ctx := newStore("a"), t.Context()
	out, _ := s.Outbox(ctx)
	take := func() []session.Head {
		added, _, _ := out.Take(ctx)
		return added
	}
	if err := s.ApplyBatch(ctx, []link.Incoming{encoded(t, object.Pods, pod("8"))}); err != nil {
		t.Fatal(err)
	}
	added := take()
	if len(added) != 1 {
		t.Fatalf("expected one write, found %v", added)
	}
	w, _, _ := s.Load(ctx, added[0].ID)
	o, err := object.DecodeOverlay(w.Body)
	if err != nil || w.Op != object.OpOverlay || w.UID != "u2" {
		t.Fatalf("expected the overlay of pod u2, found %+v, %v", w, err)
	}
	running := object.Merge(pod("9"), o).(*corev1.Pod)
	if running.Status.Phase != corev1.PodRunning || !ready(running) {
		t.Errorf("expected a pod that runs and is Ready, found %+v", running.Status)
	}
	_ = s.Drop(ctx, w.ID)
	if err := s.ApplyBatch(ctx, []link.Incoming{encoded(t, object.Pods, running)}); err != nil {
		t.Fatal(err)
	}
	if added := take(); len(added) != 0 || s.queued() != 0 {
		t.Errorf("expected no write for what the cloud shows already, found %v and %d that wait", added, s.queued())
	}
	// A newer report takes the place of one that waits, and a pod that is deleted ends.
	for range 2 {
		if err := s.beat(BeatPods); err != nil {
			t.Fatal(err)
		}
	}
	if s.queued() != 1 {
		t.Errorf("expected one write to wait, found %d", s.queued())
	}
	running.DeletionTimestamp = &metav1.Time{}
	if err := s.ApplyBatch(ctx, []link.Incoming{encoded(t, object.Pods, running)}); err != nil {
		t.Fatal(err)
	}
	added = take()
	if w, _, _ = s.Load(ctx, added[len(added)-1].ID); w.Op != object.OpDelete || w.UID != "u2" {
		t.Errorf("expected the deletion of pod u2, found %+v", w)
	}
}
