package chaos

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/tether-edge/tether/tests/cluster"
)

// What the file systems of the edge have, in bytes.
const (
	storeSize = 192 << 20
	podsSize  = 128 << 20
)

// shutdownIoctl is EXT4_IOC_SHUTDOWN (fs/ext4/ext4.h), and noLogFlush its flag by which nothing more is written, not even the journal.
const (
	shutdownIoctl = 0x8004587d
	noLogFlush    = 2
)

// disk is a file system of its own for the edge's database, or for the volumes of its pods, which can lose what was not synced, fill
// up and fail. It is mounted in the host's mount namespace and goes with it.
type disk struct {
	host  *cluster.EdgeHost
	image string
	at    string
	size  int64
}

// make makes the file system.
func (d *disk) make(ctx context.Context) error {
	if err := os.MkdirAll(d.at, 0o700); err != nil {
		return fmt.Errorf("make the edge's disk: %w", err)
	}
	f, err := os.Create(d.image)
	if err != nil {
		return fmt.Errorf("make the edge's disk: %w", err)
	}
	if err := errors.Join(f.Truncate(d.size), f.Close()); err != nil {
		return fmt.Errorf("make the edge's disk: %w", err)
	}
	_, err = d.host.Run(ctx, "mkfs.ext4", "-q", "-F", "-m", "0", d.image)
	return err
}

// mount checks it and mounts it, as a boot does.
func (d *disk) mount(ctx context.Context) error {
	// Exit code 1 says that it found faults and mended them.
	if _, err := d.host.Run(ctx, "/bin/sh", "-c", "e2fsck -p "+d.image+" || test $? -eq 1"); err != nil {
		return err
	}
	_, err := d.host.Run(ctx, "mount", "-o", "loop", d.image, d.at)
	return err
}

func (d *disk) unmount(ctx context.Context) error {
	_, err := d.host.Run(ctx, "umount", d.at)
	return err
}

// inside runs f with the directory as the host sees it.
func (d *disk) inside(f func(dir string) error) error {
	return d.host.Inside(true, func() error { return f(d.at) })
}

// lose ends the file system as a power cut does: what was not synced is gone, and nothing more can be written.
func (d *disk) lose() error {
	return d.inside(func(dir string) error {
		f, err := os.Open(dir)
		if err != nil {
			return fmt.Errorf("cut the disk's power: %w", err)
		}
		defer f.Close()
		if err := unix.IoctlSetPointerInt(int(f.Fd()), shutdownIoctl, noLogFlush); err != nil {
			return fmt.Errorf("cut the disk's power: %w", err)
		}
		return nil
	})
}

// fail makes it read-only, as ext4 does by itself after an error of the device; it takes a mount to get it back.
func (d *disk) fail(ctx context.Context) error {
	_, err := d.host.Run(ctx, "mount", "-o", "remount,abort", d.at)
	return err
}

// fill takes all space but left bytes, until the returned function is called.
func (d *disk) fill(left int64) (empty func() error, err error) {
	filler := filepath.Join(d.at, "filler")
	return func() error { return d.inside(func(string) error { return os.Remove(filler) }) }, d.inside(func(dir string) error {
		var s unix.Statfs_t
		if err := unix.Statfs(dir, &s); err != nil {
			return fmt.Errorf("fill the disk: %w", err)
		}
		f, err := os.Create(filler)
		if err != nil {
			return fmt.Errorf("fill the disk: %w", err)
		}
		defer f.Close()
		if size := int64(s.Bavail)*s.Bsize - left; size > 0 {
			if err := unix.Fallocate(int(f.Fd()), 0, 0, size); err != nil && !errors.Is(err, syscall.ENOSPC) {
				return fmt.Errorf("fill the disk: %w", err)
			}
		}
		return nil
	})
}

// used is the size of the files on it, in bytes.
func (d *disk) used() (size int64, err error) {
	err = d.inside(func(dir string) error {
		return filepath.Walk(dir, func(_ string, info os.FileInfo, err error) error {
			if err == nil {
				size += info.Size()
			}
			return err
		})
	})
	return size, err
}
