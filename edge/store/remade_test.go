package store

import (
	"slices"
	"testing"
	"time"

	"github.com/tether-edge/tether/common/object"
)

// status is a write that is made again after a restart.
func status(name, body string) object.Outgoing {
	return object.Outgoing{Key: object.Key{Kind: object.DeviceStatuses, Namespace: "shop", Name: name}, UID: "u", Op: object.OpPut, Body: []byte(body),
		Class: object.ClassState, Priority: object.PriorityPod / 2, Remade: true}
}

func (s *Store) keep(t *testing.T, o ...object.Outgoing) {
	t.Helper()
	if err := s.Keep(t.Context(), nil, o...); err != nil {
		t.Fatal(err)
	}
}

// What is made again after a restart waits like all state, the newest of each object, and costs the flash nothing.
func TestWhatIsMadeAgainWaitsInMemory(t *testing.T) {
	clock := &fakeClock{now: time.Unix(1_700_000_000, 0)}
	s, _ := running(t, testConfig(t.TempDir()), Deps{Clock: clock})
	box := s.Outbox()
	defer box.Close()
	take := func() (added []Head, gone []uint64) {
		t.Helper()
		added, gone, err := box.Take(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		return added, gone
	}
	s.keep(t, status("pump", "0")) // takes a block of versions
	take()
	before, _ := written()
	s.keep(t, status("pump", "1"), status("fan", "1"))
	clock.add(time.Minute)
	first := s.queue(t)
	s.keep(t, status("pump", "2"))
	if after, _ := written(); after != before {
		t.Errorf("SQLite wrote %d bytes for them, expected none", after-before)
	}
	q := s.queue(t)
	if len(q) != 2 || q[0].Key.Name != "fan" || q[1].Key.Name != "pump" || q[1].ID <= first[0].ID {
		t.Fatalf("queue %v, expected fan's and the newer of pump's", q)
	}
	if added, gone := take(); len(added) != 2 || len(gone) != 1 {
		t.Errorf("a reader was told of %v and that %v left: expected both, and the one it knew", added, gone)
	}
	o, ok, err := s.LoadOutgoing(t.Context(), q[1].ID)
	if err != nil || !ok || string(o.Body) != "2" || !o.Created.Equal(clock.Now()) || o.ID != q[1].ID {
		t.Errorf("read %+v, %v, %v, expected pump's second", o, ok, err)
	}
	if _, ok, err := s.LoadOutgoing(t.Context(), first[0].ID); ok || err != nil {
		t.Errorf("one that was replaced is there still (%v)", err)
	}
	w, err := s.Waiting(t.Context())
	if err != nil || len(w) != 1 || w[0].Class != "state" || w[0].Count != 2 || w[0].Bytes != q[0].Size+q[1].Size || !w[0].Oldest.Equal(clock.Now().Add(-time.Minute)) {
		t.Errorf("waiting: %+v, %v, expected two of state, the oldest a minute old", w, err)
	}
	if err := s.Drop(t.Context(), q[1].ID); err != nil {
		t.Fatal(err)
	}
	if added, gone := take(); len(added) != 0 || !slices.Equal(gone, []uint64{q[1].ID}) {
		t.Errorf("when the cloud had answered a reader was told of %v and that %v left", added, gone)
	}
	if q := s.queue(t); len(q) != 1 || q[0].Key.Name != "fan" {
		t.Errorf("queue %v when pump's was answered, expected fan's", q)
	}
	if err := s.Drop(t.Context(), q[1].ID); err != nil {
		t.Errorf("an answer that comes twice: %v", err)
	}
}

// It keeps its place among what waits on the disk, and takes that of one that a former version put there.
func TestWhatIsMadeAgainKeepsItsPlace(t *testing.T) {
	cfg := testConfig(t.TempDir())
	s, stop := running(t, cfg, Deps{})
	former := status("pump", "0")
	former.Remade = false
	node := object.Outgoing{Key: object.Key{Kind: object.Nodes, Name: testNode}, UID: "n", Op: object.OpOverlay, Body: []byte("{}"), Priority: object.PriorityNode}
	if err := s.enqueue(t, former, event("e", 10), node); err != nil {
		t.Fatal(err)
	}
	s.keep(t, status("pump", "1"))
	q := s.queue(t)
	var kinds []object.ID
	for _, h := range q {
		kinds = append(kinds, h.Key.Kind)
	}
	if !slices.Equal(kinds, []object.ID{object.Nodes, object.DeviceStatuses, object.Events}) {
		t.Fatalf("queue %v, expected the node, one status, the event", kinds)
	}
	old := q[1].ID
	stop()
	s, _ = running(t, cfg, Deps{})
	if q := s.queue(t); len(q) != 2 {
		t.Errorf("queue %v after a restart, expected what is on the disk alone", q)
	}
	s.keep(t, status("pump", "1"))
	if id := s.queue(t)[1].ID; id <= old {
		t.Errorf("id %d after a restart, %d before: an answer to the former one would take it", id, old)
	}
	bad := event("e", 1)
	bad.Remade = true
	if err := s.enqueue(t, bad); err == nil {
		t.Error("an event that is made again was taken")
	}
}

// A change that fails queues nothing.
func TestWhatIsMadeAgainIsQueuedWithItsTransactionOnly(t *testing.T) {
	s := newStore(t)
	big := event("e", 1<<20)
	big.Policy = object.RejectNew
	if err := s.Keep(t.Context(), nil, status("pump", "1"), big); err == nil {
		t.Fatal("an event beyond its quota was taken")
	}
	if q := s.queue(t); len(q) != 0 {
		t.Errorf("queue %v, expected nothing", q)
	}
}
