package store

import (
	"testing"

	corev1 "k8s.io/api/core/v1"

	"github.com/tether-edge/tether/common/object"
)

func TestCloudChangesKeepWhatTheKubeletWrote(t *testing.T) {
	s := newStore(t)
	s.mustBatch(t, upsert(t, object.Pods, pod("a", "u1", 5)))
	s.mustApply(t, withStatus(t, s.mustGet(t, podKey("a")), corev1.PodRunning))
	p := pod("a", "u1", 8)
	p.Labels = map[string]string{"new": "label"}
	p.Status.Phase = corev1.PodPending
	s.mustBatch(t, upsert(t, object.Pods, p))
	got := decode[*corev1.Pod](t, object.Pods, s.mustGet(t, podKey("a")).Body)
	if got.Status.Phase != corev1.PodRunning || got.Labels["new"] != "label" {
		t.Fatalf("phase %s, labels %v", got.Status.Phase, got.Labels)
	}
}

// The cloud's node controller, or a replica that was frozen, writes into fields of the edge's: they are put right once.
func TestWhatTheCloudOverwroteIsAssertedAgain(t *testing.T) {
	s := newStore(t)
	s.mustBatch(t, upsert(t, object.Pods, pod("a", "u1", 5)))
	s.mustApply(t, withStatus(t, s.mustGet(t, podKey("a")), corev1.PodRunning))
	delivered := func() {
		for _, h := range s.queue(t) {
			if err := s.Drop(t.Context(), h.ID); err != nil {
				t.Fatal(err)
			}
		}
	}
	delivered()
	echo := pod("a", "u1", 6)
	echo.Status.Phase = corev1.PodRunning
	s.mustBatch(t, upsert(t, object.Pods, echo))
	if q := s.queue(t); len(q) != 0 {
		t.Fatalf("the echo of the edge's own write made it write again: %v", q)
	}
	foreign := pod("a", "u1", 7)
	foreign.Status.Phase = corev1.PodUnknown
	for rv := uint64(7); rv < 9; rv++ {
		foreign.ResourceVersion = object.FormatRV(rv)
		s.mustBatch(t, upsert(t, object.Pods, foreign))
		if q := s.queue(t); len(q) != 1 || q[0].Op != object.OpOverlay || q[0].UID != "u1" {
			t.Fatalf("queue %v, expected the overlay once", q)
		}
	}
}

// A cluster that was restored from a backup lacks what the edge had delivered, though the versions agree.
func TestANewEpochAssertsAllAgain(t *testing.T) {
	s := newStore(t)
	s.mustBatch(t, upsert(t, object.Pods, pod("a", "u1", 5)))
	s.mustApply(t, withStatus(t, s.mustGet(t, podKey("a")), corev1.PodRunning))
	for _, h := range s.queue(t) {
		if err := s.Drop(t.Context(), h.ID); err != nil {
			t.Fatal(err)
		}
	}
	for i, c := range []struct {
		epoch string
		queue int
	}{{"e1", 0}, {"e1", 0}, {"e2", 1}} {
		if err := s.SetEpoch(t.Context(), c.epoch); err != nil {
			t.Fatal(err)
		}
		if q := s.queue(t); len(q) != c.queue {
			t.Fatalf("step %d, epoch %s: queue %v, expected %d overlays", i, c.epoch, q, c.queue)
		}
	}
}

func TestUIDChangeIsDeletedAndAdded(t *testing.T) {
	s := newStore(t)
	s.mustBatch(t, upsert(t, object.Pods, pod("a", "u1", 5)))
	r := s.mustApply(t, withStatus(t, s.mustGet(t, podKey("a")), corev1.PodRunning))
	w, err := s.Watch(t.Context(), object.Pods, r.LocalRV)
	if err != nil {
		t.Fatal(err)
	}
	s.mustBatch(t, upsert(t, object.Pods, pod("a", "u2", 9)))
	if e := next(t, w); e.Type != object.Deleted || e.Record.Version.UID != "u1" {
		t.Fatalf("first event %s, expected the deletion of u1", describe(e))
	}
	if e := next(t, w); e.Type != object.Added || e.Record.Version.UID != "u2" {
		t.Fatalf("second event %s, expected the addition of u2", describe(e))
	}
	if r := s.mustGet(t, podKey("a")); r.Overlay != nil {
		t.Error("the overlay of the old incarnation is in the new one")
	}
	if q := s.queue(t); len(q) != 1 || q[0].UID != "u1" {
		t.Errorf("queue %v: the write of the old incarnation must wait for its answer", q)
	}
}

func TestWhatArrivesAgainWakesNobody(t *testing.T) {
	s := newStore(t)
	s.mustBatch(t, upsert(t, object.ConfigMaps, configMap("a", "u", 5, "x")))
	r := s.mustGet(t, cmKey("a"))
	w, err := s.Watch(t.Context(), object.ConfigMaps, r.LocalRV)
	if err != nil {
		t.Fatal(err)
	}
	s.mustBatch(t, upsert(t, object.ConfigMaps, configMap("a", "u", 5, "x")))
	s.mustBatch(t, upsert(t, object.ConfigMaps, configMap("a", "u", 6, "x")))
	s.mustBatch(t, upsert(t, object.ConfigMaps, configMap("b", "u", 7, "x")))
	if e := next(t, w); e.Record.Key.Name != "b" {
		t.Fatalf("event %s, expected the addition of b alone", describe(e))
	}
	if r := s.mustGet(t, cmKey("a")); r.Version.RV != 6 {
		t.Errorf("the cloud's version is %d, expected 6", r.Version.RV)
	}
}

func TestBadObjectStopsNothingAndIsNotHeld(t *testing.T) {
	s := newStore(t)
	wrongName := upsert(t, object.ConfigMaps, configMap("x", "u", 5, "x"))
	wrongName.Key.Name = "y"
	s.mustBatch(t,
		Incoming{Key: cmKey("bad"), Version: object.Version{UID: "u", RV: 3}, Body: []byte("garbage")},
		Incoming{Key: object.Key{Kind: "flying.saucers", Name: "x"}, Version: object.Version{UID: "u", RV: 3}, Body: []byte("x")},
		Incoming{Key: cmKey("bad2"), Version: object.Version{UID: "u", RV: 3}, Body: encode(t, object.Pods, pod("p", "u", 3))},
		wrongName,
		upsert(t, object.ConfigMaps, configMap("good", "u", 5, "x")))
	s.mustGet(t, cmKey("good"))
	d, err := s.Digests(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var want object.Digest
	want.Add(cmKey("good"), object.Version{UID: "u", RV: 5})
	if d[object.ConfigMaps] != want || len(d) != 1 {
		t.Fatalf("digests %v, expected that of the good object alone", d)
	}
}

func TestNodeGoneKeepsThePodAndAllItRefersTo(t *testing.T) {
	s := newStore(t)
	secret := &corev1.Secret{ObjectMeta: meta("shop", "cred", "s", 2)}
	other := &corev1.Secret{ObjectMeta: meta("shop", "other", "o", 2)}
	account := &corev1.ServiceAccount{ObjectMeta: meta("shop", "runner", "sa", 2)}
	claim := &corev1.PersistentVolumeClaim{ObjectMeta: meta("shop", "data", "c", 2), Spec: corev1.PersistentVolumeClaimSpec{VolumeName: "disk"}}
	volume := &corev1.PersistentVolume{ObjectMeta: meta("", "disk", "v", 2)}
	service := &corev1.Service{ObjectMeta: meta("shop", "web", "w", 2)}
	s.mustBatch(t, upsert(t, object.Secrets, secret), upsert(t, object.Secrets, other), upsert(t, object.ServiceAccounts, account),
		upsert(t, object.PersistentVolumeClaims, claim), upsert(t, object.PersistentVolumes, volume),
		upsert(t, object.Services, service), upsert(t, object.Pods, pod("a", "u1", 5)))
	kept := []object.Key{object.KeyOf(object.Secrets, secret), object.KeyOf(object.ServiceAccounts, account),
		object.KeyOf(object.PersistentVolumeClaims, claim), object.KeyOf(object.PersistentVolumes, volume), object.KeyOf(object.Services, service)}

	s.mustBatch(t, gone(podKey("a"), object.CauseNodeGone))
	for _, k := range kept {
		s.mustBatch(t, gone(k, object.CauseOutOfInterest))
		s.mustBatch(t, gone(k, object.CauseDeleted))
	}
	s.mustBatch(t, gone(object.KeyOf(object.Secrets, other), object.CauseOutOfInterest))
	for _, k := range append(kept, podKey("a")) {
		if r := s.mustGet(t, k); !r.Held {
			t.Errorf("%s is there but not marked held", k)
		}
	}
	s.mustBeAbsent(t, object.KeyOf(object.Secrets, other))
	d, err := s.Digests(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if len(d) != 0 {
		t.Errorf("digests %v: held objects must not count", d)
	}
	// An operator ends it: what was kept for it goes, too.
	r := s.mustGet(t, podKey("a"))
	s.mustApply(t, object.Change{Expect: r.LocalRV, Record: r, Remove: true})
	for _, k := range kept {
		s.mustBeAbsent(t, k)
	}
}

// A Secret that is out of interest just before its pod is gone for cause NODE_GONE would be lost to the held pod.
func TestOutOfInterestWaitsForThePodThatRefersToIt(t *testing.T) {
	s := newStore(t)
	secret := &corev1.Secret{ObjectMeta: meta("shop", "cred", "s", 2)}
	k := object.KeyOf(object.Secrets, secret)
	s.mustBatch(t, upsert(t, object.Secrets, secret), upsert(t, object.Pods, pod("a", "u1", 5)))
	s.mustBatch(t, gone(k, object.CauseOutOfInterest))
	s.mustGet(t, k)
	s.mustBatch(t, gone(podKey("a"), object.CauseDeleted))
	s.mustBeAbsent(t, podKey("a"))
	s.mustBeAbsent(t, k)
}

// The end of one pod takes nothing away from another: not from a held one, nor from a living one whose Secret is out of
// interest.
func TestTheEndOfOnePodLeavesTheOthersWhatTheyReferTo(t *testing.T) {
	for name, second := range map[string]object.Cause{"held": object.CauseNodeGone, "living": 0} {
		t.Run(name, func(t *testing.T) {
			s := newStore(t)
			secret := &corev1.Secret{ObjectMeta: meta("shop", "cred", "s", 2)}
			k := object.KeyOf(object.Secrets, secret)
			s.mustBatch(t, upsert(t, object.Secrets, secret), upsert(t, object.Pods, pod("a", "u1", 5)), upsert(t, object.Pods, pod("b", "u2", 6)))
			if second != 0 {
				s.mustBatch(t, gone(podKey("b"), second))
			}
			s.mustBatch(t, gone(k, object.CauseOutOfInterest))
			s.mustBatch(t, gone(podKey("a"), object.CauseDeleted))
			s.mustBeAbsent(t, podKey("a"))
			s.mustGet(t, podKey("b"))
			s.mustGet(t, k)
			r := s.mustGet(t, podKey("b"))
			s.mustApply(t, object.Change{Expect: r.LocalRV, Record: r, Remove: true})
			s.mustBeAbsent(t, k)
		})
	}
}

func TestOwnNodeIsNeverRemovedAndKeepsItsStatusWhenReCreated(t *testing.T) {
	s := newStore(t)
	n := &corev1.Node{ObjectMeta: meta("", testNode, "n1", 5)}
	// What came with the registration is the cloud's base, and must not be lost either.
	n.Status.Capacity = corev1.ResourceList{"memory": *quantity("8Gi")}
	k := object.KeyOf(object.Nodes, n)
	s.mustBatch(t, upsert(t, object.Nodes, n))
	r := s.mustGet(t, k)
	after := n.DeepCopy()
	after.Status.Capacity["cpu"] = *quantity("4")
	o, err := object.Extend(nil, n, after)
	if err != nil {
		t.Fatal(err)
	}
	overlay, err := object.EncodeOverlay(o)
	if err != nil {
		t.Fatal(err)
	}
	changed := *r
	changed.Base, changed.Overlay, changed.Body = r.Cloud(), overlay, encode(t, object.Nodes, after)
	s.mustApply(t, object.Change{Expect: r.LocalRV, Record: &changed})
	for _, c := range []object.Cause{object.CauseDeleted, object.CauseOutOfInterest, object.CauseNodeGone, 0} {
		s.mustBatch(t, gone(k, c))
		if r := s.mustGet(t, k); !r.Held {
			t.Fatalf("after %s: not held", c)
		}
	}
	if uid, err := s.NodeUID(t.Context()); err != nil || uid != "n1" {
		t.Fatalf("node uid %q, %v", uid, err)
	}
	s.mustBatch(t, upsert(t, object.Nodes, &corev1.Node{ObjectMeta: meta("", testNode, "n2", 50)}))
	got := s.mustGet(t, k)
	if got.Held || got.Version.UID != "n2" {
		t.Fatalf("held %v, uid %s", got.Held, got.Version.UID)
	}
	if c := decode[*corev1.Node](t, object.Nodes, got.Body).Status.Capacity; c.Cpu().String() != "4" || c.Memory().String() != "8Gi" {
		t.Fatalf("capacity %v: the kubelet would reject pods", c)
	}
	if q := s.queue(t); len(q) != 1 || q[0].UID != "n2" || q[0].Op != object.OpOverlay {
		t.Fatalf("queue %v, expected the overlay for the new Node", q)
	}
}

func TestRowsMadeOnTheEdgeAreNotTouched(t *testing.T) {
	s := newStore(t)
	r := s.mustApply(t, object.Change{Record: &object.Record{Key: podKey("static"), Version: object.Version{UID: "m"},
		Origin: object.FromEdge, Body: encode(t, object.Pods, pod("static", "m", 1))}})
	s.mustBatch(t, upsert(t, object.Pods, pod("static", "x", 5)), gone(podKey("static"), object.CauseDeleted))
	if got := s.mustGet(t, podKey("static")); got.LocalRV != r.LocalRV || got.Version.UID != "m" {
		t.Fatalf("record %+v", got)
	}
	d, err := s.Digests(t.Context())
	if err != nil || len(d) != 0 {
		t.Fatalf("digests %v, %v", d, err)
	}
}

// Pod garbage collection marks pods of a missing Node Failed: the kubelet must not see it, the digest must (I8).
func TestForeignEndOfAPodIsHiddenFromTheKubeletOnly(t *testing.T) {
	s := newStore(t)
	p := pod("a", "u1", 5)
	p.Status.Phase = corev1.PodFailed
	p.Status.Conditions = []corev1.PodCondition{{Type: corev1.DisruptionTarget, Status: corev1.ConditionTrue, Reason: "DeletionByPodGC"}}
	in := upsert(t, object.Pods, p)
	s.mustBatch(t, in)
	r := s.mustGet(t, podKey("a"))
	if got := decode[*corev1.Pod](t, object.Pods, r.Body); got.Status.Phase == corev1.PodFailed {
		t.Error("the kubelet would see the pod Failed")
	}
	if string(r.Cloud()) != string(in.Body) {
		t.Error("what the cloud sent was not kept")
	}
}
