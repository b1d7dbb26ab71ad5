package store

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"os"

	"github.com/tether-edge/tether/common/object"
)

// rvJump is added to the highest local resourceVersion known after a database was lost: the copy is older than the last
// ones that were given out. An edge would need centuries for so many changes.
const rvJump = 1 << 32

// Status says how the store came up. It does not change after Open.
type Status struct {
	// Damaged is why the database was set aside at Open, or "".
	Damaged string `json:"damaged,omitempty"`
	// SetAside is where it was moved to, or "".
	SetAside string `json:"setAside,omitempty"`
	// Restored says what the new one was made from: "copy", "salvage" (all objects could be read from the damaged
	// file), "nothing", or "" if there was no damage.
	Restored string `json:"restored,omitempty"`
	// Writes and Objects are how many outgoing writes and object rows were read from the damaged file.
	Writes  int `json:"writes,omitempty"`
	Objects int `json:"objects,omitempty"`
	// Unreadable is how many Secrets and tokens could not be opened at Open, for want of the key that sealed them.
	Unreadable int `json:"unreadable,omitempty"`
}

// Status returns how the store came up.
func (s *Store) Status() Status {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.status
}

// mend makes sure that a sound database is in place, or none where none ever was. A database that lacks or lost its
// content is restored from the second copy; a damaged one is set aside, after what can be read of it was saved.
func (s *Store) mend(ctx context.Context, scripts []string) error {
	if err := errors.Join(removeDatabase(s.files.fresh()), removeDatabase(s.files.scratch())); err != nil {
		return err
	}
	if exists(s.files.ready()) { // an earlier repair was cut short after its last step but the moves
		return s.replace()
	}
	reason, err := s.examine(scripts)
	if err != nil || reason == "" {
		return err
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	s.metrics.damaged.Inc()
	s.log.Error("the database is damaged or lost: it is set aside and made anew", "path", s.files.main(), "reason", reason)
	st, err := s.rebuild(scripts)
	if err != nil {
		return fmt.Errorf("store: repair the database (%s): %w", reason, err)
	}
	st.Damaged = reason
	s.status = st
	if err := s.replace(); err != nil {
		return err
	}
	s.metrics.salvaged.Add(float64(st.Writes))
	s.log.Error("the database was made anew", "from", st.Restored, "salvagedWrites", st.Writes, "salvagedObjects", st.Objects,
		"setAside", s.status.SetAside)
	return nil
}

// examine returns why the database cannot be used, or "" if it can or never was.
func (s *Store) examine(scripts []string) (string, error) {
	main, second := exists(s.files.main()), exists(s.files.copy())
	if !main {
		if second {
			return "the file is missing", nil
		}
		return "", nil
	}
	version, err := check(s.files.main(), scripts, s.sealing)
	switch {
	case err == nil && exists(s.files.mark()):
		return "it was found damaged while in use", nil
	case err == nil && version == 0 && second:
		return "the file is empty", nil
	case err == nil:
		return "", nil
	case isDamage(err):
		return err.Error(), nil
	}
	return "", fmt.Errorf("store: %w", err)
}

// rebuild makes a complete database from the second copy and from what can be read of the damaged one.
func (s *Store) rebuild(scripts []string) (st Status, err error) {
	st.Restored = "nothing"
	fresh := s.files.fresh()
	if exists(s.files.copy()) {
		version, err := check(s.files.copy(), scripts, s.sealing)
		switch {
		case err != nil:
			s.log.Error("the second copy cannot be used", "path", s.files.copy(), "error", err)
		case version > 0:
			if err := copyFile(s.files.copy(), fresh); err != nil {
				return st, err
			}
			st.Restored = "copy"
		}
	}
	c, err := openWriter(fresh)
	if err != nil {
		return st, err
	}
	c.sealing = s.sealing
	err = migrate(c, scripts)
	if err == nil {
		err = c.transaction(func() error { return s.fill(c, scripts, &st) })
	}
	if err = errors.Join(wrap("rebuild", err), c.close()); err != nil {
		return st, err
	}
	return st, errors.Join(removeDatabase(s.files.scratch()), moveIn(fresh, s.files.ready()))
}

// fill adds to a new database what can be salvaged, and gives it an identity above the old one's.
func (s *Store) fill(c *conn, scripts []string, st *Status) error {
	sv := &salvage{log: s.log, to: c, keepKinds: st.Restored == "nothing"}
	if exists(s.files.main()) {
		if err := sv.from(s.files.main(), s.files.scratch(), scripts); err != nil {
			return err
		}
	}
	st.Writes, st.Objects = sv.writes, sv.objects
	if sv.keepKinds && sv.complete {
		st.Restored = "salvage"
	}
	if st.Restored == "copy" && !sv.whole {
		if err := c.setMeta(metaPartial, "yes"); err != nil {
			return err
		}
	}
	if err := requeueDeletes(c, s.clock); err != nil {
		return err
	}
	high := sv.highest
	switch n, err := readBlock(c); {
	case err == nil:
		high = max(high, n)
	case !isDamage(err): // a copy without one, or none, is no error
		return err
	}
	n, err := c.number("SELECT max(local_rv) FROM objects")
	if err != nil {
		return err
	}
	if high = max(high, uint64(n)); high == 0 {
		_, err := c.exec("DELETE FROM meta WHERE name = ?", metaID)
		return err // ensureIdentity begins anew
	}
	if err := c.setMeta(metaRVBlock, object.FormatRV(high+rvJump)); err != nil {
		return err
	}
	return c.setMeta(metaID, rand.Text())
}

// requeueDeletes queues the delete of each tombstoned object again whose outgoing write is lost: nothing else would
// ever end that object in the cloud. One that was answered already gets a definitive 404.
func requeueDeletes(c *conn, clock Clock) error {
	var rows []*object.Record
	if err := c.query(selectAll+" AS o WHERE tombstone = 1 AND origin = 0 AND NOT EXISTS (SELECT 1 FROM outbox AS w WHERE w.class = 0 "+
		"AND w.kind = o.kind AND w.namespace = o.namespace AND w.name = o.name AND w.op = 2 AND w.uid = o.uid)", nil,
		func(scan func(...any) error) error {
			r, err := c.scanRecord(scan)
			rows = append(rows, r)
			return err
		}); err != nil {
		return wrap("find deletes", err)
	}
	for _, r := range rows {
		if _, err := c.putOutgoing(&object.Outgoing{Key: r.Key, UID: r.Version.UID, Op: object.OpDelete, Class: object.ClassState,
			Created: clock.Now()}); err != nil {
			return err
		}
	}
	return nil
}

// replace moves the repaired database into place and the damaged one aside. It can be cut short at any point and done
// again.
func (s *Store) replace() error {
	if exists(s.files.main()) {
		name, err := s.files.setAside(s.clock.Now())
		if err != nil {
			return err
		}
		s.status.SetAside = name
	} else if err := removeDatabase(s.files.main()); err != nil { // a log without its database
		return err
	}
	if err := moveIn(s.files.ready(), s.files.main()); err != nil {
		return err
	}
	if err := os.Remove(s.files.mark()); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("store: %w", err)
	}
	return nil
}
