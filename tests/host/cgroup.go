package host

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// needed are the controllers without which the kubelet refuses to start.
var needed = []string{"cpu", "cpuset", "memory", "pids"}

// readCgroups lists the mounted trees from mountinfo (proc(5)) and tells v1, hybrid and v2 apart: what matters is
// where the controllers are, not which file systems are mounted.
func (h *Host) readCgroups(root string) error {
	text, err := os.ReadFile(filepath.Join(root, "proc/self/mountinfo"))
	if err != nil {
		return fmt.Errorf("read the mounted cgroups: %w", err)
	}
	seen := map[string]bool{}
	for line := range strings.Lines(string(text)) {
		before, after, found := strings.Cut(strings.TrimSpace(line), " - ")
		left, right := strings.Fields(before), strings.Fields(after)
		if !found || len(left) < 5 || len(right) < 3 {
			continue
		}
		path, kind := left[4], right[0]
		// Only a whole tree at the usual place counts: container engines bind parts of it elsewhere.
		if !strings.HasPrefix(path, "/sys/fs/cgroup") || seen[path] {
			continue
		}
		switch kind {
		case "cgroup2":
			h.Hierarchies = append(h.Hierarchies, Hierarchy{Path: path, Controllers: readControllers(root, path), V2: true})
		case "cgroup":
			h.Hierarchies = append(h.Hierarchies, Hierarchy{Path: path, Controllers: v1Controllers(right[2])})
		default:
			continue
		}
		seen[path] = true
	}
	h.Cgroup = cgroupMode(h.Hierarchies)
	return nil
}

// cgroupMode derives the mode from the mounted trees.
func cgroupMode(trees []Hierarchy) CgroupMode {
	v1 := slices.ContainsFunc(trees, func(t Hierarchy) bool { return !t.V2 })
	v2 := slices.ContainsFunc(trees, func(t Hierarchy) bool { return t.V2 })
	switch {
	case v1 && v2:
		return CgroupHybrid
	case v1:
		return CgroupV1
	case v2:
		return CgroupV2
	}
	return CgroupNone
}

// readControllers reads what a v2 tree offers; a tree without the file (an empty one beside v1) offers nothing.
func readControllers(root, path string) []string {
	text, err := os.ReadFile(filepath.Join(root, path, "cgroup.controllers"))
	if err != nil {
		return nil
	}
	return strings.Fields(string(text))
}

// v1Controllers picks the controllers out of the options of a v1 mount.
func v1Controllers(options string) []string {
	var found []string
	for option := range strings.SplitSeq(options, ",") {
		switch option {
		case "rw", "ro", "xattr", "clone_children", "noprefix", "all", "none":
			continue
		}
		if strings.HasPrefix(option, "release_agent=") {
			continue
		}
		found = append(found, option)
	}
	return found
}

// missingControllers lists the needed controllers that no tree offers.
func (h *Host) missingControllers() []string {
	var missing []string
	for _, name := range needed {
		if !slices.ContainsFunc(h.Hierarchies, func(t Hierarchy) bool { return slices.Contains(t.Controllers, name) }) {
			missing = append(missing, name)
		}
	}
	return missing
}
