package store

import (
	"errors"
	"fmt"
	"os"

	"github.com/tether-edge/tether/common/object"
)

// metaSealed says that what versions that did not seal have left beside the rows is gone. The second copy is resealCopy's.
const metaSealed = "sealed"

// purge removes, once, what versions that did not seal have left: in the log, in pages between rows (secure_delete
// overwrites what is deleted, and not what is moved), in databases that were set aside. It copies all rows, sealed, into a
// new file; VACUUM would put the tables in other places than a new database has them in, where graft looks for them. Where
// that cannot be done, a full disk being the usual reason, the next start does it.
func (s *Store) purge(scripts []string) error {
	if s.sealing == nil {
		return nil
	}
	done, err := s.w.c.meta(metaSealed)
	if err != nil || done != "" {
		return err
	}
	err = s.resealRows(s.w.c)
	if info, serr := os.Stat(s.files.main()); err == nil && serr == nil && s.lowAfter(info.Size()) {
		err = fmt.Errorf("%w: it would leave less than the floor of %d bytes free meanwhile", object.ErrFull, s.cfg.FreeSpaceFloor)
	}
	if err == nil {
		err = s.fillFrom(s.files.fresh(), scripts, everything, "DELETE FROM main.sqlite_sequence",
			"INSERT INTO main.sqlite_sequence SELECT * FROM live.sqlite_sequence", "INSERT INTO main.meta VALUES ('"+metaSealed+"', '1')")
	}
	if isDamage(err) {
		return wrap("seal what was stored plain", err)
	}
	if err != nil {
		s.log.Error("what was stored plain is not removed, the next start tries again", "error", err)
		return removeDatabase(s.files.fresh())
	}
	if err := s.takeOver(); err != nil {
		return fmt.Errorf("seal what was stored plain: %w", err)
	}
	s.log.Info("the database was made anew, with Secrets and tokens sealed")
	return s.openMain(scripts)
}

// takeOver puts the new file in the place of the database, and ends those that were set aside.
func (s *Store) takeOver() error {
	if err := s.w.c.close(); err != nil {
		return err
	}
	// The last connection has moved the log into the database. A log that is left would be taken for the new one's.
	if s.files.unclean() {
		return errors.New("the log of the database could not be emptied")
	}
	// First what the mark in the new file says is gone.
	s.status.SetAside = ""
	if err := s.files.forget(0); err != nil {
		return err
	}
	return moveIn(s.files.fresh(), s.files.main())
}
