package store

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"
	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"

	"github.com/tether-edge/tether/common/object"
)

func event(name string, size int) object.Outgoing {
	return object.Outgoing{Key: object.Key{Kind: object.Events, Namespace: "shop", Name: name}, Op: object.OpCreate,
		Class: object.ClassEvent, Body: make([]byte, size)}
}

func (s *Store) enqueue(t testing.TB, o ...object.Outgoing) error {
	t.Helper()
	_, err := s.Apply(t.Context(), object.Change{Outgoing: o})
	return err
}

func TestNewerStateReplacesOlderOfTheSameIncarnation(t *testing.T) {
	s := newStore(t)
	box := s.Outbox()
	defer box.Close()
	take := func() ([]Head, []uint64) {
		t.Helper()
		added, gone, err := box.Take(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		return added, gone
	}
	s.mustBatch(t, upsert(t, object.Pods, pod("a", "u1", 5)))
	s.mustApply(t, withStatus(t, s.mustGet(t, podKey("a")), corev1.PodPending))
	if added, gone := take(); len(added) != 1 || len(gone) != 0 {
		t.Fatalf("added %v, gone %v, expected one write", added, gone)
	}
	first := s.queue(t)[0]
	s.mustApply(t, withStatus(t, s.mustGet(t, podKey("a")), corev1.PodRunning))
	s.mustApply(t, withStatus(t, s.mustGet(t, podKey("a")), corev1.PodSucceeded))
	q := s.queue(t)
	if len(q) != 1 || q[0].ID <= first.ID {
		t.Fatalf("queue %v, expected one newer write", q)
	}
	select {
	case <-box.C():
	case <-time.After(deadline):
		t.Fatal("the reader was not woken")
	}
	added, gone := take()
	if len(added) != 1 || added[0].ID != q[0].ID || len(gone) != 1 || gone[0] != first.ID {
		t.Fatalf("added %v, gone %v: expected the newest and the first", added, gone)
	}
	if _, ok, err := s.LoadOutgoing(t.Context(), first.ID); ok || err != nil {
		t.Fatalf("a replaced write: found %v, %v", ok, err)
	}
	o, ok, err := s.LoadOutgoing(t.Context(), q[0].ID)
	if err != nil || !ok {
		t.Fatal(ok, err)
	}
	if overlay, err := object.DecodeOverlay(o.Body); err != nil || overlay.Pod.Phase != corev1.PodSucceeded {
		t.Fatalf("overlay %+v, %v", overlay, err)
	}
	if err := s.Drop(t.Context(), q[0].ID, 999); err != nil {
		t.Fatal(err)
	}
	if _, gone := take(); len(gone) != 1 || len(s.queue(t)) != 0 {
		t.Fatalf("after the answer: gone %v, queue %v", gone, s.queue(t))
	}
}

// A reader that sleeps costs a bounded backlog, and misses nothing.
func TestSlowReaderOfTheOutboxMissesNothing(t *testing.T) {
	s := newStore(t)
	box := s.Outbox()
	defer box.Close()
	if err := s.enqueue(t, event("first", 1)); err != nil {
		t.Fatal(err)
	}
	told := map[uint64]bool{}
	take := func() {
		t.Helper()
		added, gone, err := box.Take(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		for _, h := range added {
			if told[h.ID] {
				t.Fatalf("%d was added twice", h.ID)
			}
			told[h.ID] = true
		}
		for _, id := range gone {
			if !told[id] {
				t.Fatalf("%d left and never came", id)
			}
			delete(told, id)
		}
	}
	take()
	for i := range 4 {
		var batch []object.Outgoing
		for j := range outboxBacklog / 2 {
			batch = append(batch, object.Outgoing{Key: cmKey(fmt.Sprint(i, "-", j)), Op: object.OpPut})
		}
		if err := s.enqueue(t, batch...); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Drop(t.Context(), s.queue(t)[0].ID); err != nil {
		t.Fatal(err)
	}
	if len(box.added) > outboxBacklog {
		t.Errorf("backlog of %d", len(box.added))
	}
	take()
	q := s.queue(t)
	if len(q) != len(told) {
		t.Fatalf("told of %d, queued are %d", len(told), len(q))
	}
	for _, h := range q {
		if !told[h.ID] {
			t.Fatalf("not told of %d", h.ID)
		}
	}
}

func TestEventsKeepWithinTheirQuotaAndLossesAreCounted(t *testing.T) {
	cfg := testConfig(t.TempDir())
	cfg.EventQuota = 10_000
	s, stop := running(t, cfg, Deps{})
	for i := range 20 {
		if err := s.enqueue(t, event(fmt.Sprint("e", i), 900)); err != nil {
			t.Fatal(err)
		}
	}
	q := s.queue(t)
	var bytes int64
	for _, h := range q {
		bytes += h.Size
	}
	if bytes > cfg.EventQuota || bytes < cfg.EventQuota-1000 || q[len(q)-1].Key.Name != "e19" {
		t.Fatalf("%d bytes queued of %d, the last is %s", bytes, cfg.EventQuota, q[len(q)-1].Key.Name)
	}
	if got := s.Dropped()[object.ClassEvent]; got.Evicted != uint64(20-len(q)) {
		t.Fatalf("losses %+v, expected %d evicted", got, 20-len(q))
	}
	refuse := event("new", 900)
	refuse.Policy = object.RejectNew
	if err := s.enqueue(t, refuse); !errors.Is(err, object.ErrFull) {
		t.Fatalf("got %v, expected ErrFull", err)
	}
	if err := s.enqueue(t, object.Outgoing{Key: podKey("a"), Op: object.OpDelete, Body: make([]byte, 20_000)}); err != nil {
		t.Fatalf("state must have room: %v", err)
	}
	stop()
	s, _ = running(t, cfg, Deps{})
	if got := s.Dropped()[object.ClassEvent]; got.Evicted != uint64(20-len(q)) {
		t.Fatalf("after a restart: losses %+v", got)
	}
}

func TestStateGoesBeforeEventsAndOlderBeforeNewer(t *testing.T) {
	s := newStore(t)
	high := object.Outgoing{Key: podKey("a"), UID: "u", Op: object.OpDelete, Priority: 20}
	if err := s.enqueue(t, event("1", 1), event("2", 1), high); err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, h := range s.queue(t) {
		names = append(names, h.Key.Name)
	}
	if fmt.Sprint(names) != "[a 1 2]" {
		t.Fatalf("order %v", names)
	}
}

func TestExpiredMessagesGoAndAreCounted(t *testing.T) {
	clock := &fakeClock{now: time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)}
	s, _ := running(t, testConfig(t.TempDir()), Deps{Clock: clock})
	e := event("short", 10)
	e.Expires = clock.Now().Add(time.Minute)
	if err := s.enqueue(t, e, event("long", 10)); err != nil {
		t.Fatal(err)
	}
	id := s.queue(t)[0].ID
	clock.add(2 * time.Minute)
	if _, ok, err := s.LoadOutgoing(t.Context(), id); ok || err != nil {
		t.Fatalf("an expired message: found %v, %v", ok, err)
	}
	if q := s.queue(t); len(q) != 1 || q[0].Key.Name != "long" {
		t.Fatalf("queue %v", q)
	}
	if err := s.expireIfAny(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := s.Dropped()[object.ClassEvent].Expired; got != 1 {
		t.Fatalf("%d counted as expired", got)
	}
}

// A clock that is put right by more than a message's life takes none with it: see edge/clock.
func TestMessagesLiveOnWhenTheClockIsPutRight(t *testing.T) {
	clock := &fakeClock{now: time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)}
	cfg := testConfig(t.TempDir())
	s, stop := running(t, cfg, Deps{Clock: clock})
	e := event("short", 10)
	e.Created, e.Expires = clock.Now(), clock.Now().Add(time.Hour)
	if err := s.enqueue(t, e, event("for ever", 10)); err != nil {
		t.Fatal(err)
	}
	const year = 365 * 24 * time.Hour
	if err := s.Shift(t.Context(), year); err != nil {
		t.Fatal(err)
	}
	clock.add(year)
	stop() // the rows are as they should be to a new process, too
	s, _ = running(t, cfg, Deps{Clock: clock})
	if st := s.Status(); st.Damaged != "" {
		t.Fatalf("the database counts as damaged: %+v", st)
	}
	q := s.queue(t)
	if len(q) != 2 || !q[0].Expires.Equal(clock.Now().Add(time.Hour)) || !q[1].Expires.IsZero() {
		t.Fatalf("queue %+v, expected both, the first with an hour to live", q)
	}
	if o, ok, err := s.LoadOutgoing(t.Context(), q[0].ID); err != nil || !ok || !o.Created.Equal(clock.Now()) {
		t.Fatalf("loaded %+v, %v, %v, expected what was queued just now", o, ok, err)
	}
	clock.add(time.Hour)
	if q := s.queue(t); len(q) != 1 {
		t.Fatalf("queue %+v an hour later, expected what lives for ever", q)
	}
}

func TestBelowTheFloorOnlyStateIsTaken(t *testing.T) {
	cfg := testConfig(t.TempDir())
	cfg.FreeSpaceFloor = 1 << 60
	s, _ := running(t, cfg, Deps{})
	if err := s.enqueue(t, event("e", 10)); err != nil {
		t.Fatalf("an event that may be dropped: %v", err)
	}
	refuse := event("r", 10)
	refuse.Policy = object.RejectNew
	if err := s.enqueue(t, refuse); !errors.Is(err, object.ErrFull) {
		t.Fatalf("got %v, expected ErrFull", err)
	}
	s.mustBatch(t, upsert(t, object.Pods, pod("a", "u1", 5)))
	s.mustApply(t, withStatus(t, s.mustGet(t, podKey("a")), corev1.PodRunning))
	if q := s.queue(t); len(q) != 1 || q[0].Class != object.ClassState {
		t.Fatalf("queue %v", q)
	}
	if got := s.Dropped()[object.ClassEvent]; got.Refused != 2 {
		t.Fatalf("losses %+v", got)
	}
}

// An outbox id is never used twice, so an answer that comes late cannot hit another write.
func TestOutboxIDsAreNeverReused(t *testing.T) {
	cfg := testConfig(t.TempDir())
	s, stop := running(t, cfg, Deps{})
	if err := s.enqueue(t, event("a", 1)); err != nil {
		t.Fatal(err)
	}
	first := s.queue(t)[0].ID
	if err := s.Drop(t.Context(), first); err != nil {
		t.Fatal(err)
	}
	stop()
	s, _ = running(t, cfg, Deps{})
	if err := s.enqueue(t, event("b", 1)); err != nil {
		t.Fatal(err)
	}
	if second := s.queue(t)[0].ID; second <= first {
		t.Fatalf("id %d after %d", second, first)
	}
}

func csiNode(uid string, rv uint64, drivers ...string) *storagev1.CSINode {
	n := &storagev1.CSINode{ObjectMeta: meta("", testNode, uid, rv)}
	for _, d := range drivers {
		n.Spec.Drivers = append(n.Spec.Drivers, storagev1.CSINodeDriver{Name: d, NodeID: testNode})
	}
	return n
}

func TestCSINodeWrittenHereIsNotUndoneByTheCloudsOlderOne(t *testing.T) {
	s := newStore(t)
	k := object.Key{Kind: object.CSINodes, Name: testNode}
	body := encode(t, object.CSINodes, csiNode("local", 1, "a"))
	s.mustApply(t, object.Change{Record: &object.Record{Key: k, Origin: object.FromEdge, Body: body},
		Outgoing: []object.Outgoing{{Key: k, Op: object.OpPut, Body: body}}})
	s.mustBatch(t, upsert(t, object.CSINodes, csiNode("cloud", 7)))
	r := s.mustGet(t, k)
	if got := decode[*storagev1.CSINode](t, object.CSINodes, r.Body); len(got.Spec.Drivers) != 1 || r.Version.UID != "cloud" {
		t.Fatalf("drivers %v, uid %s", got.Spec.Drivers, r.Version.UID)
	}
	d, err := s.Digests(t.Context())
	if err != nil || d[object.CSINodes].Count != 1 {
		t.Fatalf("digest %v, %v: the object must count, or it is sent at each session", d, err)
	}
	// Deleted in the cloud meanwhile: the write that waits makes it anew, so it stays.
	s.mustBatch(t, gone(k, object.CauseDeleted))
	s.mustGet(t, k)
	s.mustBatch(t, upsert(t, object.CSINodes, csiNode("cloud2", 9)))
	// Once the write was answered, the cloud's word counts.
	if err := s.Drop(t.Context(), s.queue(t)[0].ID); err != nil {
		t.Fatal(err)
	}
	s.mustBatch(t, upsert(t, object.CSINodes, csiNode("cloud2", 12, "a", "b")))
	if got := decode[*storagev1.CSINode](t, object.CSINodes, s.mustGet(t, k).Body); len(got.Spec.Drivers) != 2 {
		t.Fatalf("drivers %v", got.Spec.Drivers)
	}
}

// What waits is summed up by class, and what has expired does not wait.
func TestWhatWaitsIsSummedUpByClass(t *testing.T) {
	s := newStore(t)
	if w, err := s.Waiting(t.Context()); len(w) != 0 || err != nil {
		t.Fatalf("of an empty outbox: %+v, %v", w, err)
	}
	s.mustBatch(t, upsert(t, object.Pods, pod("a", "u1", 5)))
	s.mustApply(t, withStatus(t, s.mustGet(t, podKey("a")), corev1.PodRunning))
	old, dead := event("old", 10), event("dead", 10)
	old.Created = s.clock.Now().Add(-time.Hour)
	dead.Expires = s.clock.Now().Add(-time.Second)
	if err := s.enqueue(t, event("new", 10), old, dead); err != nil {
		t.Fatal(err)
	}
	w, err := s.Waiting(t.Context())
	if err != nil || len(w) != 2 {
		t.Fatalf("%+v, %v", w, err)
	}
	if st := w[0]; st.Class != "state" || st.Count != 1 || st.Bytes == 0 {
		t.Errorf("state: %+v", st)
	}
	if ev := w[1]; ev.Class != "event" || ev.Count != 2 || ev.Bytes < 20 || ev.Oldest.UnixMilli() != old.Created.UnixMilli() {
		t.Errorf("events: %+v, expected 2 since %s", ev, old.Created)
	}
}

// Whatever becomes of writes, what was found at start and accepted since is what was answered, replaced, lost or waits.
func TestEveryWriteIsAccountedFor(t *testing.T) {
	clock := &fakeClock{now: time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)}
	cfg := testConfig(t.TempDir())
	cfg.EventQuota = 4_000
	draw := rand.New(rand.NewPCG(1, 2))
	seen := map[string]float64{}
	for range 4 {
		s, stop := running(t, cfg, Deps{Clock: clock})
		for range 60 {
			switch draw.IntN(6) {
			case 0, 1:
				e := event(fmt.Sprint("e", draw.IntN(1000)), draw.IntN(900))
				e.Expires = clock.Now().Add(time.Duration(1+draw.IntN(5)) * time.Minute)
				e.Policy = object.FullPolicy(draw.IntN(2))
				if err := s.enqueue(t, e); err != nil && !errors.Is(err, object.ErrFull) {
					t.Fatal(err)
				}
			case 2, 3:
				if err := s.enqueue(t, object.Outgoing{Key: podKey(fmt.Sprint("p", draw.IntN(4))), UID: "u", Op: object.OpDelete, Body: make([]byte, 10)}); err != nil {
					t.Fatal(err)
				}
			case 4:
				if q := s.queue(t); len(q) > 0 {
					id := q[draw.IntN(len(q))].ID
					if err := s.Drop(t.Context(), id, id, 1<<40); err != nil {
						t.Fatal(err)
					}
				}
			case 5:
				clock.add(time.Minute)
				if err := s.expireIfAny(t.Context()); err != nil {
					t.Fatal(err)
				}
			}
			waiting, err := s.Waiting(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			for _, class := range []string{"state", "event"} {
				n := 0.0
				for _, w := range waiting {
					if w.Class == class {
						n = float64(w.Count)
					}
				}
				is := func(what string) float64 {
					v := testutil.ToFloat64(s.metrics.messages.WithLabelValues(class, what))
					seen[what] += v
					return v
				}
				lost := func(why string) float64 {
					v := testutil.ToFloat64(s.metrics.lost.WithLabelValues(class, why))
					seen[why] += v
					return v
				}
				if in, out := is("found")+is("accepted"), is("answered")+is("replaced")+lost(lostExpired)+lost(lostEvicted)+n; in != out {
					t.Fatalf("class %s: %v came in, %v are accounted for", class, in, out)
				}
			}
		}
		stop()
	}
	for _, what := range []string{"found", "accepted", "answered", "replaced", lostExpired, lostEvicted} {
		if seen[what] == 0 {
			t.Errorf("nothing was %s", what)
		}
	}
}
