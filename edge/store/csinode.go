package store

import (
	storagev1 "k8s.io/api/storage/v1"

	"github.com/tether-edge/tether/common/object"
)

// csiNode merges a change of a CSINode that is here already. The kubelet owns the object whole and writes it here first:
// while its last write (an OpPut) waits in the outbox, the cloud's picture of it is older than the edge's.
func (t *tx) csiNode(old *object.Record, a *arrival) error {
	waits, err := t.c.number("SELECT count(*) FROM outbox WHERE class = 0 AND kind = ? AND namespace = ? AND name = ? AND op = ?",
		string(a.Key.Kind), a.Key.Namespace, a.Key.Name, int64(object.OpPut))
	if err != nil {
		return wrap("read the outbox", err)
	}
	if a.obj == nil {
		switch {
		case old.Origin == object.FromEdge:
			return nil
		case waits == 0 || old.Tombstone:
			return t.depart(old, a.Cause)
		}
		// The write that waits will create it again: until then it is the edge's alone.
		r := *old
		r.Origin, r.Version = object.FromEdge, object.Version{UID: old.Version.UID}
		t.changed = true
		return t.put(old, &r)
	}
	if waits > 0 && visible(old) {
		if err := keepSpec(old, a); err != nil {
			t.s.log.Warn("stored CSINode does not decode, the cloud's is taken", "key", a.Key.String(), "error", err)
		}
	}
	if old.Origin == object.FromEdge {
		// Its uid was the edge's own invention, so watchers see another object.
		r, _, err := merged(a, nil)
		if err != nil {
			return err
		}
		_, err = t.store(old, r)
		return err
	}
	return t.arrive(old, a)
}

// keepSpec puts what the kubelet wrote into the object that arrived.
func keepSpec(old *object.Record, a *arrival) error {
	have, err := object.Decode(a.kind, old.Body)
	if err != nil {
		return err
	}
	local, arrived := have.(*storagev1.CSINode), a.obj.DeepCopyObject().(*storagev1.CSINode)
	arrived.Spec, arrived.Labels, arrived.Annotations = local.Spec, local.Labels, local.Annotations
	body, err := object.Encode(a.kind, arrived)
	if err != nil {
		return err
	}
	next := *a.Incoming
	next.Body = body
	a.Incoming, a.obj = &next, arrived
	return nil
}
