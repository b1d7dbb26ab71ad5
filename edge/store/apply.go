package store

import (
	"context"
	"fmt"

	"github.com/tether-edge/tether/common/object"
)

// Apply does one change, atomically, and returns the record as stored (for a removal, the last state with the local
// resourceVersion of the deletion; nil if there was nothing to remove, or if the change has no Record and only queues).
// When it returns nil the change is committed, and on the disk if it queues anything.
//
// Errors: object.ErrConflict if the record is not what the change expects, or if the cloud's version of it has moved
// since the caller read it; object.ErrFull if the disk has no room, or none for a message whose policy is RejectNew;
// ErrClosed; ctx's error, and then the change may or may not have happened.
//
// A change that leaves the served body as it was keeps the local resourceVersion and wakes no watcher.
func (s *Store) Apply(ctx context.Context, c object.Change) (*object.Record, error) {
	if err := checkChange(&c); err != nil {
		return nil, err
	}
	var out *object.Record
	err := s.write(ctx, &request{
		op: "apply " + changeName(&c), durable: len(c.Outgoing) > 0, rvs: 2,
		do: func(t *tx) (err error) {
			out, err = t.apply(&c)
			return err
		},
	})
	if err != nil {
		return nil, err
	}
	return out, nil
}

func changeName(c *object.Change) string {
	if c.Record != nil {
		return c.Record.Key.String()
	}
	if len(c.Outgoing) > 0 {
		return c.Outgoing[0].Key.String()
	}
	return "nothing"
}

func checkChange(c *object.Change) error {
	if c.Record == nil && (c.Remove || c.Expect != 0) {
		return fmt.Errorf("apply: a change that expects or removes a record must name it")
	}
	if c.Record != nil {
		if err := c.Record.Key.Validate(); err != nil {
			return fmt.Errorf("apply: %w", err)
		}
		if !c.Remove && c.Record.Body == nil {
			return fmt.Errorf("apply %s: the record has no body", c.Record.Key)
		}
	}
	for i := range c.Outgoing {
		if err := checkOutgoing(&c.Outgoing[i]); err != nil {
			return fmt.Errorf("apply: %w", err)
		}
	}
	return nil
}

func (t *tx) apply(c *object.Change) (*object.Record, error) {
	var out *object.Record
	if c.Record != nil {
		old, err := t.c.record(c.Record.Key)
		if err != nil {
			return nil, err
		}
		if err := expect(c, old); err != nil {
			return nil, err
		}
		if c.Remove {
			out, err = t.drop(old)
		} else {
			r := *c.Record
			out, err = t.store(old, &r)
		}
		if err != nil {
			return nil, err
		}
	}
	for _, o := range c.Outgoing {
		if err := t.queue(o); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// expect compares the stored record with what the change expects. A silent move of the cloud's version (see ApplyBatch)
// counts too: what the caller wants to store is built on the older one.
func expect(c *object.Change, old *object.Record) error {
	have := uint64(0)
	if visible(old) {
		have = old.LocalRV
	}
	if have != c.Expect {
		return fmt.Errorf("%w: it is at local resourceVersion %d, expected %d", object.ErrConflict, have, c.Expect)
	}
	if have != 0 && !c.Remove && old.Origin == object.FromCloud && c.Record.Origin == object.FromCloud &&
		old.Version.UID == c.Record.Version.UID && old.Version.RV != c.Record.Version.RV {
		return fmt.Errorf("%w: the cloud's resourceVersion is %d, the change is built on %d", object.ErrConflict,
			old.Version.RV, c.Record.Version.RV)
	}
	return nil
}

// visible reports whether the local API shows r.
func visible(r *object.Record) bool { return r != nil && !r.Tombstone }

// shown reports whether watchers know r: not one that could not be opened.
func shown(r *object.Record) bool { return visible(r) && !r.Sealed }

// remarked reports whether a pod is kept or shown otherwise than it was: that is news, though its body is the same.
func remarked(old, r *object.Record) bool {
	return r.Key.Kind == object.Pods && (old.Held != r.Held || old.Withheld != r.Withheld)
}

// store writes r over old, which may be nil, gives it its local resourceVersion and tells watchers what they see of it.
func (t *tx) store(old, r *object.Record) (*object.Record, error) {
	t.changed = true
	before, after := shown(old), visible(r)
	same := before && after && old.Version.UID == r.Version.UID
	if old != nil && (!before && !after || same && !remarked(old, r) && string(old.Body) == string(r.Body)) {
		r.LocalRV = old.LocalRV
		return r, t.put(old, r)
	}
	if before && !same {
		if err := t.vanish(old); err != nil {
			return nil, err
		}
	}
	if !after && before {
		// The version of the deletion is the tombstone's.
		r.LocalRV = t.next - 1
		return r, t.put(old, r)
	}
	var err error
	if r.LocalRV, err = t.rv(); err != nil {
		return nil, err
	}
	switch {
	case same:
		t.emit(object.Modified, r, old)
	case after:
		t.emit(object.Added, r, nil)
	}
	return r, t.put(old, r)
}

// put writes a row and what follows from a change of its incarnation.
func (t *tx) put(old, r *object.Record) error {
	if err := t.c.put(r); err != nil {
		return err
	}
	return t.afterRow(old, r)
}

// vanish tells watchers that old is gone.
func (t *tx) vanish(old *object.Record) error {
	rv, err := t.rv()
	if err != nil {
		return err
	}
	last := *old
	last.LocalRV = rv
	t.emit(object.Deleted, &last, old)
	return nil
}

// drop removes the row of old and returns its last state, or nil if there is none.
func (t *tx) drop(old *object.Record) (*object.Record, error) {
	if old == nil {
		return nil, nil
	}
	t.changed = true
	last := *old
	if shown(old) {
		if err := t.vanish(old); err != nil {
			return nil, err
		}
		last.LocalRV = t.next - 1
	}
	if err := t.c.remove(old.Key); err != nil {
		return nil, err
	}
	return &last, t.afterRow(old, nil)
}

// afterRow does what follows when a row changes: a pod that is gone for the local API takes its tokens with it, one
// whose row is gone releases what was held for it.
func (t *tx) afterRow(old, r *object.Record) error {
	key := object.Key{}
	if r != nil {
		key = r.Key
	} else if old != nil {
		key = old.Key
	}
	if key.Kind != object.Pods {
		return nil
	}
	t.refs = nil
	if old == nil {
		return nil
	}
	replaced := r == nil || r.Version.UID != old.Version.UID
	if replaced || r.Tombstone {
		if _, err := t.c.exec(eraseTokens, old.Version.UID); err != nil {
			return wrap("erase the tokens of "+key.String(), err)
		}
	}
	if replaced {
		return t.release()
	}
	return nil
}
