package cluster

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tether-edge/tether/tests/host"
)

// makeCgroup makes the group at path below the root of every hierarchy, with its parents, ready to take processes.
// On v2 only a leaf may hold processes, and a parent hands its controllers on.
func makeCgroup(trees []host.Hierarchy, path string) error {
	for _, tree := range trees {
		current := tree.Path
		for part := range strings.SplitSeq(strings.Trim(path, "/"), "/") {
			if tree.V2 {
				handOn(current, tree.Controllers)
			}
			parent := current
			current = filepath.Join(current, part)
			if err := os.Mkdir(current, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
				return fmt.Errorf("make the control group: %w", err)
			}
			if !tree.V2 && slices.Contains(tree.Controllers, "cpuset") {
				if err := inheritCpuset(parent, current); err != nil {
					return fmt.Errorf("make the control group: %w", err)
				}
			}
		}
	}
	return nil
}

// handOn enables each controller for the children of a v2 group, one by one: a kernel or a parent that withholds one
// must not cost the others. A controller that is really missed shows in the kubelet's own check.
func handOn(group string, controllers []string) {
	for _, name := range controllers {
		_ = os.WriteFile(filepath.Join(group, "cgroup.subtree_control"), []byte("+"+name), 0o644)
	}
}

// inheritCpuset copies processors and memory nodes: a new v1 cpuset has none and takes no process until it has.
func inheritCpuset(parent, child string) error {
	for _, name := range []string{"cpuset.cpus", "cpuset.mems"} {
		if own, err := os.ReadFile(filepath.Join(child, name)); err == nil && strings.TrimSpace(string(own)) != "" {
			continue // a group that was here before
		}
		value, err := os.ReadFile(filepath.Join(parent, name))
		if err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(child, name), value, 0o644); err != nil {
			return err
		}
	}
	return nil
}

// groupDirs are the directories of the group at path, one for each hierarchy.
func groupDirs(trees []host.Hierarchy, path string) []string {
	var dirs []string
	for _, tree := range trees {
		dirs = append(dirs, filepath.Join(tree.Path, path))
	}
	return dirs
}

// members lists the processes in the group at path and below it, in any hierarchy.
func members(trees []host.Hierarchy, path string) ([]int, error) {
	found := map[int]bool{}
	for _, dir := range groupDirs(trees, path) {
		err := filepath.WalkDir(dir, func(file string, entry fs.DirEntry, err error) error {
			if errors.Is(err, fs.ErrNotExist) {
				return nil
			}
			if err != nil || entry.Name() != "cgroup.procs" {
				return err
			}
			text, err := os.ReadFile(file)
			// ENODEV: the group was removed while it was being read. EOPNOTSUPP: a threaded v2 group.
			if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENODEV) || errors.Is(err, unix.EOPNOTSUPP) {
				return nil
			}
			if err != nil {
				return err
			}
			for field := range strings.FieldsSeq(string(text)) {
				if pid, err := strconv.Atoi(field); err == nil && pid > 0 {
					found[pid] = true
				}
			}
			return nil
		})
		if err != nil {
			return nil, fmt.Errorf("list the processes of the control group %s: %w", path, err)
		}
	}
	var pids []int
	for pid := range found {
		pids = append(pids, pid)
	}
	slices.Sort(pids)
	return pids, nil
}

// inGroup reports whether a process is in the group at path or below it, in any hierarchy.
func inGroup(pid int, path string) bool {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", pid))
	if err != nil {
		return false
	}
	for line := range strings.Lines(string(text)) {
		parts := strings.SplitN(strings.TrimSpace(line), ":", 3)
		if len(parts) == 3 && (parts[2] == path || strings.HasPrefix(parts[2], path+"/")) {
			return true
		}
	}
	return false
}

// killGroup ends every process in the group at path and below it, and waits until none is left. spare, if not nil,
// names those that are left alone.
func killGroup(trees []host.Hierarchy, path string, timeout time.Duration, spare func(pid int) bool) error {
	return poll(timeout, "the end of every process in the control group "+path, func() error {
		pids, err := members(trees, path)
		if err != nil {
			return err
		}
		if spare != nil {
			pids = slices.DeleteFunc(pids, spare)
		}
		for _, pid := range pids {
			if err := signalIf(pid, unix.SIGKILL, func() bool { return inGroup(pid, path) }); err != nil {
				return err
			}
		}
		if len(pids) > 0 {
			return fmt.Errorf("expected no process, found %v", pids)
		}
		return nil
	})
}

// removeCgroup removes the group at path and all below it, from every hierarchy. The kernel refuses while a process
// that was killed is still on its way out, so it is tried until timeout.
func removeCgroup(trees []host.Hierarchy, path string, timeout time.Duration) error {
	return poll(timeout, "the removal of the control group "+path, func() error {
		var faults []error
		for _, dir := range groupDirs(trees, path) {
			faults = append(faults, removeGroupDir(dir))
		}
		return errors.Join(faults...)
	})
}

// removeGroupDir removes one group, its children first. The files in it are the kernel's and go with it.
func removeGroupDir(dir string) error {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, entry := range entries {
		if entry.IsDir() {
			if err := removeGroupDir(filepath.Join(dir, entry.Name())); err != nil {
				return err
			}
		}
	}
	if err := unix.Rmdir(dir); err != nil && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("remove %s: %w", dir, err)
	}
	return nil
}
