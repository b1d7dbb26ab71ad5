package cluster

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// teardownTimeout bounds each step of Down that has to wait for the kernel.
const teardownTimeout = 30 * time.Second

// stopGrace is how long a process may take after SIGTERM before Down kills it.
const stopGrace = 5 * time.Second

// Down ends the cluster and removes all of it, its directory included: processes first get SIGTERM, the last one
// started first. It may be called again after an error, and on a cluster that was never finished. An error lists what
// is left.
func (c *Cluster) Down(ctx context.Context) error {
	processes := c.Processes()
	slices.Reverse(processes)
	for _, p := range processes {
		if p == nil || !p.Alive() {
			continue
		}
		c.log.Info("process stops", "name", p.name)
		// One that does not heed SIGTERM is killed below with its group, so this error costs only the wait.
		_ = p.Signal(syscall.SIGTERM)
		_ = p.record().Identity.waitGone(stopGrace)
	}
	return c.erase(ctx)
}

// erase is Down without courtesy: what still runs is killed.
func (c *Cluster) erase(context.Context) error {
	trees := c.machine.Hierarchies
	var faults []error
	faults = append(faults, killGroup(trees, c.state.Cgroup, teardownTimeout, nil))
	for _, p := range c.state.Processes {
		faults = append(faults, p.Identity.signal(unix.SIGKILL))
	}
	for _, h := range c.state.Hosts {
		faults = append(faults, h.Holder.signal(unix.SIGKILL))
	}
	c.starter.stop()

	links, err := linksNamed("te" + c.state.ID + "-")
	faults = append(faults, err)
	for _, name := range links {
		faults = append(faults, removeLinkNamed(name))
	}
	faults = append(faults, removeCgroup(trees, c.state.Cgroup, teardownTimeout), unmountBelow(c.dir))
	if err := errors.Join(faults...); err != nil {
		return fmt.Errorf("take the cluster %s down: %w", c.dir, err)
	}
	// Last, since with the state file nothing could be found again.
	if err := removeTree(c.dir); err != nil {
		return fmt.Errorf("take the cluster %s down: %w", c.dir, err)
	}
	c.log.Info("cluster removed", "dir", c.dir, "id", c.state.ID)
	return nil
}

// removeTree removes a directory with its state file last, so that an interrupted removal is found and repeated.
func removeTree(dir string) error {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, entry := range entries {
		if entry.Name() == stateFile {
			continue
		}
		if err := os.RemoveAll(filepath.Join(dir, entry.Name())); err != nil {
			return err
		}
	}
	return os.RemoveAll(dir)
}

// unmountBelow takes away what is mounted below dir in the machine's own mount table. The edge hosts mount in tables of
// their own, which end with them; this is for what somebody mounted by hand, which a removal would otherwise walk into.
func unmountBelow(dir string) error {
	points, err := mountsBelow(dir)
	if err != nil {
		return err
	}
	slices.Reverse(points) // the innermost first
	for _, point := range points {
		// EINVAL: it is gone by itself.
		if err := unix.Unmount(point, unix.MNT_DETACH); err != nil && !errors.Is(err, unix.EINVAL) {
			return fmt.Errorf("unmount %s: %w", point, err)
		}
	}
	return nil
}

// mountsBelow lists the mount points below dir, in the order in which they were mounted.
func mountsBelow(dir string) ([]string, error) {
	// Not /proc/self: that is the first thread, which Go leaves in an edge host's namespace if Inside ran on it.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	file, err := os.Open("/proc/thread-self/mountinfo")
	if err != nil {
		return nil, fmt.Errorf("list the mounts: %w", err)
	}
	defer file.Close()
	var points []string
	scanner := bufio.NewScanner(file)
	for scanner.Scan() {
		fields := strings.Fields(scanner.Text())
		if len(fields) > 4 && strings.HasPrefix(fields[4], dir+"/") {
			points = append(points, fields[4])
		}
	}
	if err := scanner.Err(); err != nil {
		return nil, fmt.Errorf("list the mounts: %w", err)
	}
	return points, nil
}

// Sweep removes the clusters below base whose maker is dead and that were not meant to stay. Those of a running
// harness are left alone.
func Sweep(ctx context.Context, base string, cfg Config) error {
	unlock, err := lockMachine()
	if err != nil {
		return err
	}
	defer unlock()
	entries, err := os.ReadDir(base)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("sweep %s: %w", base, err)
	}
	var faults []error
	for _, entry := range entries {
		if !entry.IsDir() {
			continue
		}
		cfg.Dir = filepath.Join(base, entry.Name())
		faults = append(faults, sweepOne(ctx, cfg))
	}
	return errors.Join(faults...)
}

// sweepOne removes one left cluster, if it is one.
func sweepOne(ctx context.Context, cfg Config) error {
	c, err := Open(cfg)
	if errors.Is(err, fs.ErrNotExist) {
		return nil // not a cluster, or one whose maker has not written its state yet
	}
	if err != nil {
		return err
	}
	if c.state.Keep || c.state.Owner.alive() {
		c.Release(ctx)
		return nil
	}
	c.log.Info("cluster of a dead run is removed", "dir", c.dir, "id", c.state.ID)
	return c.erase(ctx)
}
