package store

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// keepAside is how many damaged databases are kept for a person to look at.
const keepAside = 2

// files names what lies in the store's directory.
type files struct{ dir string }

func (f files) main() string { return filepath.Join(f.dir, "tether.db") }

// copy is the second copy.
func (f files) copy() string { return filepath.Join(f.dir, "tether.db.copy") }

// fresh is a database in the making; it is removed when found at Open.
func (f files) fresh() string { return filepath.Join(f.dir, "tether.db.new") }

// scratch is a damaged database with a new first page; it is removed when found at Open.
func (f files) scratch() string { return filepath.Join(f.dir, "tether.db.scratch") }

// ready is a repaired database, complete, that only has to be moved into place.
func (f files) ready() string { return filepath.Join(f.dir, "tether.db.ready") }

// reserve takes room that Open needs on a full disk.
func (f files) reserve() string { return filepath.Join(f.dir, "reserve") }

// mark says that the database was found damaged in use.
func (f files) mark() string { return filepath.Join(f.dir, "damaged") }

// companions are the files that SQLite keeps beside a database.
func companions(path string) []string {
	return []string{path + "-wal", path + "-shm", path + "-journal"}
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}

// unclean reports whether the last process ended without closing the database.
func (f files) unclean() bool {
	info, err := os.Stat(f.main() + "-wal")
	return err == nil && info.Size() > 0
}

func (f files) suspect(log *slog.Logger) {
	if err := os.WriteFile(f.mark(), nil, 0o600); err != nil {
		log.Error("cannot note that the database is damaged", "error", err)
	}
}

// setAside renames the main file and its companions, and removes the oldest set aside beyond keepAside.
func (f files) setAside(now time.Time) (string, error) {
	base := f.main() + ".damaged-" + now.UTC().Format("20060102T150405.000Z")
	name := base
	for i := 1; exists(name); i++ {
		name = fmt.Sprintf("%s-%d", base, i)
	}
	for _, suffix := range []string{"-wal", "-shm", "-journal", ""} {
		if err := os.Rename(f.main()+suffix, name+suffix); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return "", fmt.Errorf("set the damaged database aside: %w", err)
		}
	}
	return name, f.forget(keepAside)
}

// forget removes set-aside databases but the newest, as many as keep.
func (f files) forget(keep int) error {
	all, err := filepath.Glob(f.main() + ".damaged-*")
	if err != nil {
		return fmt.Errorf("list damaged databases: %w", err)
	}
	all = slices.DeleteFunc(all, func(p string) bool {
		return strings.HasSuffix(p, "-wal") || strings.HasSuffix(p, "-shm") || strings.HasSuffix(p, "-journal")
	})
	slices.Sort(all)
	for _, p := range all[:max(0, len(all)-keep)] {
		if err := removeDatabase(p); err != nil {
			return err
		}
	}
	return nil
}

// removeDatabase removes a database and its companions, if they are there.
func removeDatabase(path string) error {
	for _, p := range append(companions(path), path) {
		if err := os.Remove(p); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("remove %s: %w", filepath.Base(p), err)
		}
	}
	return nil
}

// moveIn renames a complete, closed database to its place, durably.
func moveIn(from, to string) error {
	if err := syncPath(from); err != nil {
		return err
	}
	if err := os.Rename(from, to); err != nil {
		return fmt.Errorf("move %s into place: %w", filepath.Base(from), err)
	}
	return syncPath(filepath.Dir(to))
}

// syncPath writes a file or directory through to the disk.
func syncPath(path string) (err error) {
	f, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("sync: %w", err)
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	if err := f.Sync(); err != nil {
		return fmt.Errorf("sync %s: %w", path, err)
	}
	return nil
}

func copyFile(from, to string) (err error) {
	src, err := os.Open(from)
	if err != nil {
		return fmt.Errorf("copy: %w", err)
	}
	defer func() { err = errors.Join(err, src.Close()) }()
	dst, err := os.OpenFile(to, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o600)
	if err != nil {
		return fmt.Errorf("copy: %w", err)
	}
	defer func() { err = errors.Join(err, dst.Close()) }()
	if _, err := io.Copy(dst, src); err != nil {
		return fmt.Errorf("copy %s: %w", from, err)
	}
	return nil
}
