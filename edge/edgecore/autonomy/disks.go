package autonomy

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
	"k8s.io/apimachinery/pkg/api/resource"

	"github.com/tether-edge/tether/edge/horizon"
)

// Disks returns the file systems of the store, with the store's floor, and those on which the kubelet evicts, with the
// eviction's. Of several directories on one file system the first whose pods would go counts.
func (s *sources) Disks(ctx context.Context) (disks []horizon.Disk, err error) {
	store, _, err := statDisk(s.cfg.DataDir)
	if err != nil {
		return nil, err
	}
	store.Cause, store.Floor = horizon.StoreFills, int64(s.cfg.Store.FreeSpaceFloor)
	disks = append(disks, store)

	nodefs, device, err := statDisk(s.cfg.Kubelet.RootDir)
	if errors.Is(err, fs.ErrNotExist) {
		return disks, nil // no kubelet has run
	}
	if err != nil {
		return disks, err
	}
	nodefs.Cause, nodefs.Floor = horizon.DiskFills, floorOf(s.cfg.Kubelet.EvictionHard["nodefs.available"], nodefs.Total)
	if nodefs.Logs, err = s.logs(device); err != nil {
		return disks, err
	}
	byDevice := map[uint64]int{device: len(disks)}
	disks = append(disks, nodefs)

	mounts, err := s.deps.Images.Mounts(ctx)
	for _, mount := range mounts {
		d, device, err := statDisk(mount)
		if err != nil {
			return disks, err
		}
		d.Cause, d.Floor = horizon.DiskFills, floorOf(s.cfg.Kubelet.EvictionHard["imagefs.available"], d.Total)
		if i, ok := byDevice[device]; ok {
			disks[i].Floor = max(disks[i].Floor, d.Floor)
			continue
		}
		byDevice[device] = len(disks)
		disks = append(disks, d)
	}
	return disks, err
}

func statDisk(path string) (d horizon.Disk, device uint64, err error) {
	var st unix.Statfs_t
	var info unix.Stat_t
	if err = unix.Statfs(path, &st); err == nil {
		err = unix.Stat(path, &info)
	}
	if err != nil {
		return d, 0, fmt.Errorf("look at the file system of %s: %w", path, err)
	}
	return horizon.Disk{Path: path, Free: int64(st.Bavail) * st.Bsize, Total: int64(st.Blocks) * st.Bsize}, info.Dev, nil
}

// floorOf is the free space at which the kubelet evicts: a quantity or a share of the whole. Where no such signal is
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
