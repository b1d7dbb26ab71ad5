package store

import (
	"database/sql"
	"errors"
	"fmt"

	"github.com/tether-edge/tether/common/object"
)

const (
	objectColumns = "kind, namespace, name, uid, rv, local_rv, origin, tombstone, held, key_id, sum, body, base, overlay"

	selectObject = "SELECT " + objectColumns + " FROM objects WHERE kind = ? AND namespace = ? AND name = ?"
	selectKind   = "SELECT " + objectColumns + " FROM objects WHERE kind = ?"
	selectAll    = "SELECT " + objectColumns + " FROM objects"

	// In place and not OR REPLACE, which gives the row another rowid: more pages would change, and flash wears by the page.
	upsertObject = "INSERT INTO objects (" + objectColumns + ") VALUES (?,?,?,?,?,?,?,?,?,?,?,?,?,?) ON CONFLICT (kind, namespace, name) DO UPDATE SET " +
		"uid = excluded.uid, rv = excluded.rv, local_rv = excluded.local_rv, origin = excluded.origin, tombstone = excluded.tombstone, held = excluded.held, " +
		"key_id = excluded.key_id, sum = excluded.sum, body = excluded.body, base = excluded.base, overlay = excluded.overlay"
	deleteObject = "DELETE FROM objects WHERE kind = ? AND namespace = ? AND name = ?"

	outboxColumns  = "kind, namespace, name, uid, op, class, priority, policy, created, expires, size, key_id, sum, body"
	selectOutgoing = "SELECT id, " + outboxColumns + " FROM outbox WHERE id = ?"
	selectOutbox   = "SELECT id, " + outboxColumns + " FROM outbox ORDER BY id"
	insertOutgoing = "INSERT INTO outbox (" + outboxColumns + ") VALUES (?,?,?,?,?,?,?,?,?,?,?,?,?,?)"
)

// Bits of the column held. Sums were made of it as a flag before there was a second one, so they stay right.
const (
	markHeld     = 1
	markWithheld = 2
)

func marksOf(r *object.Record) int64 {
	return flag(r.Held)*markHeld + flag(r.Withheld)*markWithheld
}

// neverSealed is for the key ids of tables whose bodies are not sealed.
func neverSealed(id int64) error {
	if id == plain {
		return nil
	}
	return fmt.Errorf("%w: its body is sealed with key %d", errRow, id)
}

// scanRow reads a row of objectColumns as it is stored. It returns errSum for one that is not what was written.
func scanRow(scan func(...any) error) (*row, error) {
	var r row
	var rv, local, marks, sum int64
	if err := scan(&r.Key.Kind, &r.Key.Namespace, &r.Key.Name, &r.Version.UID, &rv, &local, &r.Origin, &r.Tombstone,
		&marks, &r.keyID, &sum, &r.Body, &r.Base, &r.Overlay); err != nil {
		return nil, ours(err)
	}
	r.Version.RV, r.LocalRV = uint64(rv), uint64(local)
	r.Held, r.Withheld = marks&markHeld != 0, marks&markWithheld != 0
	if sumRow(&r) != sum {
		return nil, fmt.Errorf("%s: %w", r.Key, errSum)
	}
	if r.LocalRV > maxRV {
		return nil, fmt.Errorf("%s: %w: local resourceVersion %d", r.Key, errRow, r.LocalRV)
	}
	return &r, nil
}

// scanRecord reads a row of objectColumns and opens it.
func (c *conn) scanRecord(scan func(...any) error) (*object.Record, error) {
	r, err := scanRow(scan)
	if err != nil {
		return nil, err
	}
	return c.sealing.open(r)
}

// record returns the row of that key, tombstones included, or nil.
func (c *conn) record(k object.Key) (r *object.Record, err error) {
	err = c.query(selectObject, []any{string(k.Kind), k.Namespace, k.Name}, func(scan func(...any) error) error {
		r, err = c.scanRecord(scan)
		return err
	})
	return r, wrap("read "+k.String(), err)
}

// put writes the row of r.
func (c *conn) put(r *object.Record) error {
	if r.Sealed {
		return fmt.Errorf("write %s: its body could not be opened", r.Key)
	}
	return c.putRow(c.sealing.seal(r))
}

func (c *conn) putRow(r *row) error {
	c.touch(wornObjects, len(r.Body)+len(r.Base)+len(r.Overlay))
	_, err := c.exec(upsertObject, string(r.Key.Kind), r.Key.Namespace, r.Key.Name, r.Version.UID, int64(r.Version.RV),
		int64(r.LocalRV), int64(r.Origin), flag(r.Tombstone), marksOf(&r.Record), r.keyID, sumRow(r), r.Body, r.Base, r.Overlay)
	return wrap("write "+r.Key.String(), err)
}

func (c *conn) remove(k object.Key) error {
	c.touch(wornObjects, 0)
	_, err := c.exec(deleteObject, string(k.Kind), k.Namespace, k.Name)
	return wrap("remove "+k.String(), err)
}

// scanOutgoing reads a row of id and outboxColumns.
func scanOutgoing(scan func(...any) error) (object.Outgoing, error) {
	var o object.Outgoing
	var id, created, expires, size, keyID, sum int64
	if err := scan(&id, &o.Key.Kind, &o.Key.Namespace, &o.Key.Name, &o.UID, &o.Op, &o.Class, &o.Priority, &o.Policy,
		&created, &expires, &size, &keyID, &sum, &o.Body); err != nil {
		return o, ours(err)
	}
	o.ID, o.Created, o.Expires = uint64(id), fromMillis(created), fromMillis(expires)
	if err := neverSealed(keyID); err != nil {
		return o, fmt.Errorf("outgoing write %d: %w", o.ID, err)
	}
	if sumOutgoing(&o) != sum {
		return o, fmt.Errorf("outgoing write %d: %w", o.ID, errSum)
	}
	if o.Class < 0 || o.Class >= classes {
		return o, fmt.Errorf("outgoing write %d: %w: class %d", o.ID, errRow, o.Class)
	}
	return o, nil
}

// putOutgoing inserts o and returns its id.
func (c *conn) putOutgoing(o *object.Outgoing) (uint64, error) {
	c.touch(wornOutbox, len(o.Body))
	res, err := c.exec(insertOutgoing, string(o.Key.Kind), o.Key.Namespace, o.Key.Name, o.UID, int64(o.Op), int64(o.Class),
		int64(o.Priority), int64(o.Policy), millis(o.Created), millis(o.Expires), outgoingSize(o), plain, sumOutgoing(o), o.Body)
	if err != nil {
		return 0, wrap("queue a write of "+o.Key.String(), err)
	}
	id, err := res.LastInsertId()
	return uint64(id), err
}

// outgoingSize is what a queued write counts in its class's quota, in bytes: body, key and an estimate of the rest.
func outgoingSize(o *object.Outgoing) int64 {
	return int64(len(o.Body)+len(o.Key.Kind)+len(o.Key.Namespace)+len(o.Key.Name)+len(o.UID)) + 64
}

// Names in table meta.
const (
	metaID      = "id"
	metaEpoch   = "epoch"
	metaRVBlock = "rv_block"
	metaPartial = "partial" // there if objects may be missing since the database was made anew
)

func (c *conn) meta(name string) (string, error) {
	var v sql.NullString
	err := c.query("SELECT value FROM meta WHERE name = ?", []any{name}, func(scan func(...any) error) error { return scan(&v) })
	return v.String, wrap("read meta "+name, err)
}

func (c *conn) setMeta(name, value string) error {
	c.touch(wornState, 0)
	_, err := c.exec("INSERT OR REPLACE INTO meta (name, value) VALUES (?, ?)", name, value)
	return wrap("write meta "+name, err)
}

// errStop ends a query early without being an error.
var errStop = errors.New("stop")
