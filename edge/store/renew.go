package store

import (
	"errors"
	"fmt"
	"os"

	"github.com/tether-edge/tether/common/object"
)

// metaSealed says that what versions that did not seal have left beside the rows is gone. The second copy is resealCopy's.
const metaSealed = "sealed"

// renew makes the database anew where versions before have left something in it, once. That is what those that did not seal wrote
// plain: in the log, in pages between rows (secure_delete overwrites what is deleted, and not what is moved), in databases that were
// set aside. And it is pages of another size. It copies all rows, sealed, into a new file; VACUUM would put the tables in other places
// than a new database has them in, where graft looks for them. Where that cannot be done, a full disk being the usual reason, the next
// start does it.
func (s *Store) renew(scripts []string) error {
	size, err := s.w.c.number("PRAGMA page_size")
	if err != nil {
		return wrap("PRAGMA page_size", err)
	}
	purge := false
	if s.sealing != nil {
		sealed, err := s.w.c.meta(metaSealed)
		if err != nil {
			return err
		}
		purge = sealed == ""
	}
	if size == pageSize && !purge {
		return nil
	}
	if purge {
		err = s.resealRows(s.w.c)
	}
	if err == nil {
		err = s.copyAnew(scripts, purge)
	}
	if isDamage(err) {
		return wrap("make the database anew", err)
	}
	if err != nil {
		s.log.Error("the database of a former version is not made anew, the next start tries again", "plain", purge, "pageSize", size, "error", err)
		return removeDatabase(s.files.fresh())
	}
	if err := s.takeOver(purge); err != nil {
		return fmt.Errorf("make the database anew: %w", err)
	}
	s.log.Info("the database of a former version was made anew", "plain", purge, "pageSize", size)
	return s.openMain(scripts)
}

// copyAnew copies all rows into a new file, which says that they are sealed if they were not.
func (s *Store) copyAnew(scripts []string, purge bool) error {
	if info, err := os.Stat(s.files.main()); err == nil && s.lowAfter(info.Size()) {
		return fmt.Errorf("%w: it would leave less than the floor of %d bytes free meanwhile", object.ErrFull, s.cfg.FreeSpaceFloor)
	}
	more := []string{"DELETE FROM main.sqlite_sequence", "INSERT INTO main.sqlite_sequence SELECT * FROM live.sqlite_sequence"}
	if purge {
		more = append(more, "INSERT INTO main.meta VALUES ('"+metaSealed+"', '1')")
	}
	return s.fillFrom(s.files.fresh(), scripts, everything, more...)
}

// takeOver puts the new file in the place of the database. purge ends those that were set aside, too.
func (s *Store) takeOver(purge bool) error {
	if err := s.w.c.close(); err != nil {
		return err
	}
	// The last connection has moved the log into the database. A log that is left would be taken for the new one's.
	if s.files.unclean() {
		return errors.New("the log of the database could not be emptied")
	}
	if purge { // first what the mark in the new file says is gone
		s.status.SetAside = ""
		if err := s.files.forget(0); err != nil {
			return err
		}
	}
	return moveIn(s.files.fresh(), s.files.main())
}
