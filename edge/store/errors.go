package store

import (
	"errors"
	"fmt"
	"syscall"

	"github.com/mattn/go-sqlite3"

	"github.com/tether-edge/tether/common/object"
)

var (
	// ErrClosed: the store has stopped.
	ErrClosed = errors.New("the store is closed")
	// ErrDamaged: the database was found damaged while in use. The next Open repairs it.
	ErrDamaged = errors.New("the database is damaged")
	// errTorn: a transaction was committed and could not be made visible.
	errTorn = errors.New("the database and its readers no longer agree")
	// ErrNewer: the database was written by a newer version. It was left as it is.
	ErrNewer = errors.New("the database has a newer schema")
)

// wrap adds the operation to err, and says in the terms of this package what SQLite means.
func wrap(op string, err error) error {
	switch {
	case err == nil:
		return nil
	case isFull(err) && !errors.Is(err, object.ErrFull):
		return fmt.Errorf("%s: the disk is full: %w (%w)", op, object.ErrFull, err)
	case isDamage(err) && !errors.Is(err, ErrDamaged):
		return fmt.Errorf("%s: %w: %w", op, ErrDamaged, err)
	}
	return fmt.Errorf("%s: %w", op, err)
}

// isFull reports whether err means that the file system has no room.
func isFull(err error) bool {
	var e sqlite3.Error
	if !errors.As(err, &e) {
		return errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT)
	}
	return e.Code == sqlite3.ErrFull ||
		e.Code == sqlite3.ErrIoErr && (e.SystemErrno == syscall.ENOSPC || e.SystemErrno == syscall.EDQUOT)
}

// isDamage reports whether err means that the file does not hold what was written to it.
func isDamage(err error) bool {
	var e sqlite3.Error
	if errors.Is(err, errSum) || errors.Is(err, errRow) || errors.Is(err, errForged) || errors.Is(err, ErrDamaged) {
		return true
	}
	if !errors.As(err, &e) {
		return false
	}
	switch e.Code {
	case sqlite3.ErrCorrupt, sqlite3.ErrNotADB, sqlite3.ErrFormat:
		return true
	case sqlite3.ErrIoErr:
		return e.ExtendedCode == sqlite3.ErrIoErrRead || e.ExtendedCode == sqlite3.ErrIoErrShortRead
	}
	return false
}
