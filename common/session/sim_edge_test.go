package session

import (
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/tether-edge/tether/common/object"
	"github.com/tether-edge/tether/common/wire"
)

// edgeWrites lets the kubelet write into one of its pods: the newest generation replaces an older one in the outbox.
func (s *sim) edgeWrites() {
	keys := slices.SortedFunc(mapKeys(s.edge.rows), object.Key.Compare)
	keys = slices.DeleteFunc(keys, func(k object.Key) bool { return k.Kind != object.Pods || s.edge.rows[k].held })
	if len(keys) == 0 {
		return
	}
	k := keys[s.rnd.IntN(len(keys))]
	uid := s.edge.rows[k].UID
	s.edge.gens[uid]++
	s.queue(k, uid)
}

func (s *sim) queue(k object.Key, uid string) {
	for id, w := range s.edge.outbox {
		if w.key == k && w.uid == uid {
			delete(s.edge.outbox, id)
			if s.edge.session != nil {
				s.edge.session.Gone(id)
			}
		}
	}
	w := simWrite{id: s.edge.nextID, key: k, uid: uid, gen: s.edge.gens[uid]}
	s.edge.nextID++
	s.edge.outbox[w.id] = w
	if s.edge.session != nil {
		s.edge.session.Queued(Head{ID: w.id, Key: k})
	}
}

func (s *sim) edgePoll() {
	effects, _ := s.edge.session.Poll(s.now, Vitals{})
	s.edgeEffects(effects)
}

func (s *sim) edgeEffects(effects []Effect) {
	for _, e := range effects {
		switch e := e.(type) {
		case Send:
			s.put(&s.link.up, e.Frame)
		case ApplyBatch, MarkSynced:
			s.edge.pending = append(s.edge.pending, e)
		case SendInventory:
			s.sendInventory(e.Kind)
		case SendWrite:
			w, ok := s.edge.outbox[e.ID]
			if !ok {
				s.edge.session.Unsent(e.ID)
				continue
			}
			s.put(&s.link.up, &wire.Frame{Body: &wire.Frame_Write{Write: &wire.Write{Id: w.id, Kind: string(w.key.Kind),
				Namespace: w.key.Namespace, Name: w.key.Name, Op: wire.Op_OP_OVERLAY, Uid: w.uid, Body: fmt.Append(nil, w.gen)}}})
		case DropWrite:
			if !e.Result.Final {
				s.t.Fatalf("write %d left the outbox with an answer that is not final", e.Result.Id)
			}
			delete(s.edge.outbox, e.Result.Id)
		case Close:
			s.cut()
			return
		}
	}
}

func (s *sim) sendInventory(id object.ID) {
	m := &wire.Inventory{Kind: string(id)}
	for _, k := range slices.SortedFunc(mapKeys(s.edge.rows), object.Key.Compare) {
		r := s.edge.rows[k]
		if k.Kind != id || r.held {
			continue
		}
		m.Entries = append(m.Entries, &wire.InventoryEntry{Namespace: k.Namespace, Name: k.Name, Uid: r.UID, ResourceVersion: r.RV})
		if len(m.Entries) == 3 {
			m.More = true
			s.put(&s.link.up, &wire.Frame{Body: &wire.Frame_Inventory{Inventory: m}})
			m = &wire.Inventory{Kind: string(id)}
		}
	}
	s.put(&s.link.up, &wire.Frame{Body: &wire.Frame_Inventory{Inventory: m}})
}

// commit finishes the oldest batch that waits.
func (s *sim) commit() {
	if len(s.edge.pending) == 0 || s.edge.session == nil {
		return
	}
	e := s.edge.pending[0]
	s.edge.pending = s.edge.pending[1:]
	s.apply(e)
	if b, ok := e.(ApplyBatch); ok {
		s.edgeEffects(s.edge.session.Applied(b.Batch.Seq))
	}
}

func (s *sim) apply(e Effect) {
	if m, ok := e.(MarkSynced); ok {
		s.edge.synced = true
		if m.Restored && s.restores == 0 {
			s.t.Fatal("a sync was marked as a restore, but there was none")
		}
		return
	}
	if s.rnd.IntN(3) == 0 {
		s.edge.durable = maps.Clone(s.edge.rows)
	}
	for _, it := range e.(ApplyBatch).Batch.Items {
		k := object.Key{Kind: object.ID(it.Kind), Namespace: it.Namespace, Name: it.Name}
		have, ok := s.edge.rows[k]
		if it.Cause != wire.Cause_CAUSE_NONE {
			s.applyDelete(k, have, it.Cause)
			continue
		}
		var gen uint64
		fmt.Sscan(string(it.Body), &gen)
		// What is held is no longer the cloud's: a hub that has not yet seen it go may send it once more.
		if ok && !have.held && s.restores == 0 && it.ResourceVersion < have.RV {
			s.t.Fatalf("I4: %s went back from %d to %d", k, have.RV, it.ResourceVersion)
		}
		s.edge.rows[k] = simRow{Version: object.Version{UID: it.Uid, RV: it.ResourceVersion}, cloudGen: gen}
		s.reassert(k)
	}
}

// reassert queues the edge's own fields again where the cloud shows others: another writer overtook them.
func (s *sim) reassert(k object.Key) {
	r := s.edge.rows[k]
	if gen := s.edge.gens[r.UID]; gen == 0 || gen == r.cloudGen {
		return
	}
	for _, w := range s.edge.outbox {
		if w.key == k && w.uid == r.UID {
			return
		}
	}
	s.queue(k, r.UID)
}

func (s *sim) applyDelete(k object.Key, have simRow, cause wire.Cause) {
	switch cause {
	case wire.Cause_CAUSE_NODE_GONE:
		if have.RV > 0 {
			have.held = true
			s.edge.rows[k] = have
		}
		return
	case wire.Cause_CAUSE_DELETED:
		if k != simNodeKey && have.RV > 0 && s.restores == 0 && !s.cluster.deleted[have.UID] {
			s.t.Fatalf("I8: %s (%s) is deleted on the edge for cause DELETED, but nobody deleted it", k, have.UID)
		}
	case wire.Cause_CAUSE_OUT_OF_INTEREST:
		if s.restores == 0 && !s.cluster.hidden[have.UID] && !s.cluster.deleted[have.UID] {
			s.t.Fatalf("I8: %s (%s) is deleted on the edge for cause OUT_OF_INTEREST, but it was visible all the time", k, have.UID)
		}
	default:
		s.t.Fatalf("I8: the delete of %s has no cause", k)
	}
	delete(s.edge.rows, k)
}

func (s *sim) checkBounds() {
	for _, l := range s.links() {
		st := l.hub.Stats()
		// One object more than the window may be on its way: the check for room comes before it.
		if st.InFlightBytes > s.window+1024 {
			s.t.Fatalf("I3: %d bytes in flight, window %d", st.InFlightBytes, s.window)
		}
		// A key that became visible again stands in the queue of removals besides its own.
		if most := 2*12 + 1; st.Entries > most || st.Ready > 2*most || st.Delayed > most {
			s.t.Fatalf("I3: %+v for at most %d distinct objects", st, most)
		}
	}
}

// quiesce stops changing things and lets everything that is under way come to its end.
func (s *sim) quiesce() {
	if s.cluster.nodeUID == "" {
		s.cluster.put(simNodeKey)
	}
	s.calm = true
	s.connect()
	for range 3000 {
		s.now = s.now.Add(20 * time.Millisecond)
		for _, c := range s.caches {
			for _, id := range s.cluster.kinds {
				c.step(id)
			}
		}
		if s.link == nil {
			s.connect()
		}
		for _, l := range s.links() {
			s.deliverUp(l)
			effects, _ := l.hub.Poll(s.now)
			s.hubEffects(l, effects)
			s.apiServerAnswers(l)
			if l.checks > 0 {
				l.checks = 0
				s.hubEffects(l, l.hub.RevisionChecked(s.cluster.rv))
			}
		}
		if s.link != nil {
			s.deliverDown(s.link)
		}
		s.commit()
		if s.edge.session != nil {
			s.edgePoll()
		}
	}
}

func (s *sim) checkConverged() {
	want := map[object.Key]object.Version{}
	for k, o := range s.cluster.objects {
		if o.visible {
			want[k] = o.Version
		}
	}
	for k, v := range want {
		if got := s.edge.rows[k].Version; got != v {
			s.t.Errorf("I4: %s: the edge holds %v, the cluster has %v", k, got, v)
		}
	}
	for k, r := range s.edge.rows {
		if _, ok := want[k]; !ok && !r.held {
			s.t.Errorf("I4: %s: the edge holds %v, the cluster has none for it", k, r.Version)
		}
	}
	if len(s.edge.outbox) > 0 {
		s.t.Errorf("I2: %d writes are still in the outbox", len(s.edge.outbox))
	}
	for k, o := range s.cluster.objects {
		if s.restores > 0 && s.edge.rows[k].Version == o.Version && s.edge.rows[k].cloudGen == o.gen {
			// The cluster took the edge's write and forgot it again, before the edge saw the version that it made.
			continue
		}
		if gen := s.edge.gens[o.UID]; gen > 0 && o.visible && k.Kind == object.Pods && gen != o.gen && s.edge.rows[k].UID == o.UID {
			s.t.Errorf("I2: %s: the edge wrote generation %d, the cluster has %d", k, gen, o.gen)
		}
	}
	if !s.edge.synced {
		s.t.Errorf("the edge never completed a sync")
	}
}
