package store

import (
	"errors"
	"os"

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

// reserveSize is the room that is kept for the next Open, in bytes: SQLite wants some for its log and its index of that, and
// the kubelet, which makes room on a full disk, is not started before the store is open.
const reserveSize = 512 << 10

// useReserve gives the reserve up if the disk is full.
func (s *Store) useReserve() {
	if free, err := freeSpace(s.cfg.Dir); err != nil || free >= reserveSize {
		return
	}
	if err := os.Remove(s.files.reserve()); err == nil {
		s.log.Warn("the disk is full: going on with the room that was kept for that", "bytes", reserveSize)
	}
}

// keepReserve makes the reserve, if it is not there and the floor of free space stays.
func (s *Store) keepReserve() error {
	if exists(s.files.reserve()) || s.lowAfter(reserveSize) {
		return nil
	}
	if err := os.WriteFile(s.files.reserve(), make([]byte, reserveSize), 0o600); err != nil {
		return errors.Join(wrap("keep room", err), os.Remove(s.files.reserve()))
	}
	return nil
}

// freeSpace returns the bytes that may still be written to the file system of dir.
func freeSpace(dir string) (int64, error) {
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return 0, err
	}
	return int64(st.Bavail) * st.Bsize, nil
}
