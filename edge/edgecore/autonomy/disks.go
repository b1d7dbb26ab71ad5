package autonomy

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
	"k8s.io/apimachinery/pkg/api/resource"

	"github.com/tether-edge/tether/edge/horizon"
)

// Disks returns the file systems of the store, with the store's floor, and those on which the kubelet evicts, with the
// eviction's, in bytes and, where they have a table of inodes, in those. Of several directories on one file system the first whose pods
// would go counts.
func (s *sources) Disks(ctx context.Context) (disks []horizon.Disk, err error) {
	store, err := statDisk(filepath.Join(s.cfg.DataDir, "store")) // a mount of its own, where somebody likes that
	if errors.Is(err, fs.ErrNotExist) {
		store, err = statDisk(s.cfg.DataDir)
	}
	if err != nil {
		return nil, err
	}
	store.space.Cause, store.space.Floor = horizon.StoreFills, int64(s.cfg.Store.FreeSpaceFloor)
	disks = append(disks, store.space)

	nodefs, err := statDisk(s.cfg.Kubelet.RootDir)
	if errors.Is(err, fs.ErrNotExist) {
		return disks, nil // no kubelet has run
	}
	if err != nil {
		return disks, err
	}
	if nodefs.space.Logs, err = s.logs(nodefs.device); err != nil {
		return disks, err
	}
	all := []fileSystem{nodefs}
	s.evicts(&all[0], "nodefs")
	mounts, err := s.deps.Images.Mounts(ctx)
	for _, mount := range mounts {
		d, failed := statDisk(mount)
		if failed != nil {
			err = errors.Join(err, failed)
			continue
		}
		s.evicts(&d, "imagefs")
		i := slices.IndexFunc(all, func(other fileSystem) bool { return other.device == d.device })
		if i < 0 {
			all = append(all, d)
			continue
		}
		all[i].space.Floor = max(all[i].space.Floor, d.space.Floor)
		all[i].inodes.Floor = max(all[i].inodes.Floor, d.inodes.Floor)
	}
	for _, f := range all {
		disks = append(disks, f.space)
		if f.inodes.Total > 0 {
			disks = append(disks, f.inodes)
		}
	}
	return disks, err
}

// evicts sets the floors at which the kubelet evicts, by its signals of a file system.
func (s *sources) evicts(f *fileSystem, signal string) {
	f.space.Cause, f.space.Floor = horizon.DiskFills, floorOf(s.cfg.Kubelet.EvictionHard[signal+".available"], f.space.Total)
	f.inodes.Cause, f.inodes.Floor = horizon.DiskFills, floorOf(s.cfg.Kubelet.EvictionHard[signal+".inodesFree"], f.inodes.Total)
}

// fileSystem is what is known of one: its bytes, and its inodes, of which there are none in all where they come as they are needed.
type fileSystem struct {
	space, inodes horizon.Disk
	device        uint64
}

func statDisk(path string) (f fileSystem, err error) {
	var st unix.Statfs_t
	var info unix.Stat_t
	if err = unix.Statfs(path, &st); err == nil {
		err = unix.Stat(path, &info)
	}
	if err != nil {
		return f, fmt.Errorf("look at the file system of %s: %w", path, err)
	}
	return fileSystem{
		space:  horizon.Disk{Path: path, Free: int64(st.Bavail) * st.Bsize, Total: int64(st.Blocks) * st.Bsize},
		inodes: horizon.Disk{Path: path, Inodes: true, Free: int64(st.Ffree), Total: int64(st.Files)},
		device: info.Dev,
	}, nil
}

// floorOf is the free space, or inodes, at which the kubelet evicts: a quantity or a share of the whole. Where no such signal is
// configured it is nothing: a disk that is full.
func floorOf(threshold string, total int64) int64 {
	if share, ok := strings.CutSuffix(threshold, "%"); ok {
		p, err := strconv.ParseFloat(share, 64)
		if err != nil {
			return 0 // the configuration's validation knows none
		}
		return int64(p / 100 * float64(total))
	}
	q, err := resource.ParseQuantity(threshold)
	if err != nil {
		return 0
	}
	return q.Value()
}

// logs is what the logs of all containers may still grow by, in bytes, if they are on that device.
func (s *sources) logs(device uint64) (room int64, err error) {
	var info unix.Stat_t
	if err := unix.Stat(s.deps.LogsDir, &info); err != nil || info.Dev != device {
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return 0, fmt.Errorf("look at the logs of pods: %w", err)
		}
		return 0, nil
	}
	// namespace_name_uid/container/0.log
	containers, err := filepath.Glob(filepath.Join(s.deps.LogsDir, "*", "*"))
	if err != nil {
		return 0, err
	}
	for _, dir := range containers {
		files, err := os.ReadDir(dir)
		if err != nil {
			continue // removed meanwhile, or a file
		}
		rest := s.deps.LogsOfAContainer
		for _, f := range files {
			if info, err := f.Info(); err == nil && info.Mode().IsRegular() {
				rest -= info.Size()
			}
		}
		room += max(0, rest)
	}
	return room, nil
}
