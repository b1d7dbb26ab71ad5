package chaos

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"time"
)

// smallest is the control group that edgecore is promised to run in, in bytes.
const smallest = 80 << 20

// hogged is what something else takes of it, in bytes. What is left is enough for a supervisor, and too little for edgecore.
const hogged = 56 << 20

func memoryFaults() []Fault {
	return []Fault{{Name: "memory-short", Class: Edge, What: "edgecore is in the smallest control group, 80 MiB, and something in it takes what there is, until the kernel kills.",
		Promise: "edgecore runs on in it; killed for want of memory it starts by itself, and no container is restarted.", Least: 20 * time.Second, Most: 30 * time.Second, Forgets: handful, begin: takeMemory}}
}

// hogScore is what the kernel adds to the size of who takes memory, in thousandths of the group, when it chooses whom to kill: that makes it larger
// than edgecore's supervisor, and not than edgecore. For a moment edgecore is killed already and its memory not yet free, and the
// kernel takes the next.
const hogScore = 500

// takeMemory limits edgecore's group and has it filled, with files in memory that no reclaim gives back, until the kernel kills edgecore.
func takeMemory(f *fault) (func() error, error) {
	group, limit, err := f.w.memoryGroup()
	if err != nil {
		return nil, err
	}
	// More than what is in use can be refused at first: the kernel writes pages back meanwhile.
	err = until(f.ctx, patience, "the group to be small", func() error { return os.WriteFile(limit, []byte(strconv.Itoa(smallest)), 0o644) })
	if err != nil {
		return nil, err
	}
	unlimited := "-1"
	if filepath.Base(limit) == "memory.max" {
		unlimited = "max"
	}
	// It has the first half of the time to show that it runs there.
	f.wait(f.left() / 2)
	pid, err := f.w.edge.CorePID()
	if err != nil {
		return nil, err
	}
	dir := filepath.Join(f.w.edge.Dir(), "hog")
	if _, err := f.w.edge.Run(f.ctx, "/bin/sh", "-c", fmt.Sprintf("mkdir -p %[1]s && mount -t tmpfs hog %[1]s", dir)); err != nil {
		return nil, err
	}
	_, filled := f.w.edge.Run(f.ctx, "/bin/sh", "-c", fmt.Sprintf("echo %d > /proc/self/oom_score_adj && echo 0 > %s/cgroup.procs && exec dd if=/dev/zero of=%s/hog bs=1M count=%d",
		hogScore, group, dir, hogged>>20))
	err = until(f.ctx, patience, fmt.Sprintf("the kernel to kill edgecore, process %d", pid), func() error {
		if _, err := os.Stat(fmt.Sprintf("/proc/%d", pid)); err == nil {
			return fmt.Errorf("it runs as before; what takes memory ended with: %v", filled)
		}
		return nil
	})
	return func() error {
		_, freed := f.w.edge.Run(f.ctx, "umount", dir)
		return errors.Join(freed, os.WriteFile(limit, []byte(unlimited), 0o644))
	}, err
}

// memoryGroup returns the directory of edgecore's control group, and the file with its limit.
func (w *world) memoryGroup() (dir, limit string, err error) {
	for _, tree := range w.cluster.Machine().Hierarchies {
		if !slices.Contains(tree.Controllers, "memory") {
			continue
		}
		dir = filepath.Join(tree.Path, w.edge.Cgroup(), w.edge.Supervisor.Name())
		if tree.V2 {
			return dir, filepath.Join(dir, "memory.max"), nil
		}
		return dir, filepath.Join(dir, "memory.limit_in_bytes"), nil
	}
	return "", "", errors.New("expected a control group tree with memory, found none")
}
