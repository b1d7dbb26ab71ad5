package store

import (
	"golang.org/x/sys/unix"
)

// lowOnSpace reports whether the file system has less free space than the floor.
func (s *Store) lowOnSpace() bool { return s.lowAfter(0) }

// lowAfter reports whether it would have less after so many bytes more were written. A file system that cannot tell counts
// as having enough.
func (s *Store) lowAfter(size int64) bool {
	free, err := freeSpace(s.cfg.Dir)
	return err == nil && free-size < s.cfg.FreeSpaceFloor
}

// freeSpace returns the bytes that may still be written to the file system of dir.
func freeSpace(dir string) (int64, error) {
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return 0, err
	}
	return int64(st.Bavail) * st.Bsize, nil
}
