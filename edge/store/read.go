package store

import (
	"context"
	"fmt"

	"github.com/tether-edge/tether/common/object"
)

// readers is how many reads run at once.
const readers = 2

// read lends f a connection for reading. It waits for one until ctx is done.
func (s *Store) read(ctx context.Context, op string, f func(c *conn) error) error {
	select {
	case c := <-s.readers:
		defer func() { s.readers <- c }()
		err := wrap(op, f(c))
		if isDamage(err) {
			s.reportDamage(err)
		}
		return err
	case <-ctx.Done():
		return fmt.Errorf("%s: %w", op, ctx.Err())
	case <-s.closed:
		return fmt.Errorf("%s: %w", op, ErrClosed)
	}
}

// Get returns the record of that key, Sealed and without a body if its key is lost. ok is false if there is none, or only a tombstone; a tombstone is still returned,
// so that callers can tell an undelivered deletion from an object that never was. The record must not be changed.
func (s *Store) Get(ctx context.Context, k object.Key) (r *object.Record, ok bool, err error) {
	err = s.read(ctx, "get", func(c *conn) error {
		r, err = c.record(k)
		return err
	})
	if err != nil {
		return nil, false, err
	}
	return r, visible(r), nil
}

// List returns the records of a kind in order of namespace and name, without tombstones, in one namespace or, where it
// is empty, in all, and the local resourceVersion at which they were so: Watch continues from there. The records must
// not be changed.
func (s *Store) List(ctx context.Context, kind object.ID, namespace string) (list []*object.Record, rv uint64, err error) {
	err = s.read(ctx, "list "+string(kind), func(c *conn) error {
		return s.snapshot(c, func(at uint64) error {
			rv = at
			q, args := selectKind+" AND tombstone = 0 ORDER BY namespace, name", []any{string(kind)}
			if namespace != "" {
				q, args = selectKind+" AND namespace = ? AND tombstone = 0 ORDER BY name", append(args, namespace)
			}
			return c.query(q, args, func(scan func(...any) error) error {
				r, err := c.scanRecord(scan)
				list = append(list, r)
				return err
			})
		})
	})
	if err != nil {
		return nil, 0, err
	}
	return list, rv, nil
}

// snapshot runs f in a read transaction and tells it the last local resourceVersion that the transaction sees.
func (s *Store) snapshot(c *conn, f func(rv uint64) error) error {
	if _, err := c.exec("BEGIN"); err != nil {
		return err
	}
	rv, err := s.pin(c)
	if err == nil {
		err = f(rv)
	}
	if rollback := c.rollback(); err == nil {
		err = rollback
	}
	return err
}

// pin fixes what a read transaction sees: SQLite does so at its first read. No commit happens meanwhile.
func (s *Store) pin(c *conn) (uint64, error) {
	s.snapshots.RLock()
	defer s.snapshots.RUnlock()
	_, err := c.number("SELECT 1 FROM meta LIMIT 1")
	return s.committed, err
}

// Digests returns a digest per kind of what the cloud sent and the edge still has: tombstones count, what was made on
// the edge or is held does not, nor what cannot be opened: the cloud sends it again. Kinds of which there is nothing are absent: their digest is the zero Digest.
func (s *Store) Digests(ctx context.Context) (map[object.ID]object.Digest, error) {
	out := map[object.ID]object.Digest{}
	err := s.versions(ctx, "", func(k object.Key, v object.Version) error {
		d := out[k.Kind]
		d.Add(k, v)
		out[k.Kind] = d
		return nil
	})
	if err != nil {
		return nil, err
	}
	return out, nil
}

// Inventory calls visit with what the digest of the kind sums up, in order of namespace and name, until it returns an
// error. visit must not block.
func (s *Store) Inventory(ctx context.Context, kind object.ID, visit func(object.Key, object.Version) error) error {
	return s.versions(ctx, kind, visit)
}

func (s *Store) versions(ctx context.Context, kind object.ID, visit func(object.Key, object.Version) error) error {
	q, args := "SELECT kind, namespace, name, uid, rv FROM objects WHERE origin = 0 AND held & 1 = 0 AND "+s.sealing.readable(), []any{}
	if kind != "" {
		q, args = q+" AND kind = ?", append(args, string(kind))
	}
	return s.read(ctx, "read versions", func(c *conn) error {
		return c.query(q+" ORDER BY kind, namespace, name", args, func(scan func(...any) error) error {
			var k object.Key
			var v object.Version
			var rv int64
			if err := scan(&k.Kind, &k.Namespace, &k.Name, &v.UID, &rv); err != nil {
				return err
			}
			v.RV = uint64(rv)
			return visit(k, v)
		})
	})
}

// NodeUID returns the uid of this edge's Node, or "" if the store does not have it.
func (s *Store) NodeUID(ctx context.Context) (uid string, err error) {
	err = s.read(ctx, "read the node's uid", func(c *conn) error {
		return c.query("SELECT uid FROM objects WHERE kind = 'nodes' AND namespace = '' AND name = ?", []any{s.cfg.NodeName},
			func(scan func(...any) error) error { return scan(&uid) })
	})
	return uid, err
}
