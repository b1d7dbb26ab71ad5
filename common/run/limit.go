package run

import (
	"os"
	"path"
	"path/filepath"
	"strconv"
	"strings"
)

// memoryOf is the memory that this process may use, in bytes: the machine's, or what its groups allow, whatever is least; 0 if
// none of it can be read. root is where the machine's files are, "/" but in tests.
func memoryOf(root string) uint64 {
	machine, group := machineMemory(root), groupMemory(root)
	if machine == 0 || group != 0 && group < machine {
		return group
	}
	return machine
}

// machineMemory is the memory of the machine, in bytes; 0 if it cannot be read.
func machineMemory(root string) uint64 {
	for _, line := range strings.Split(text(root, "proc/meminfo"), "\n") {
		if fields := strings.Fields(line); len(fields) > 1 && fields[0] == "MemTotal:" {
			if n, err := strconv.ParseUint(fields[1], 10, 64); err == nil {
				return n << 10
			}
		}
	}
	return 0
}

// unlimited is no limit: a group of version 1 without one says the largest number of whole pages that fits into an int64.
const unlimited = 1 << 62

// groupMemory is what the memory group of this process and those above it allow, in bytes, whatever is least; 0 if there is no limit.
// It takes less than a millisecond of a loaded machine.
func groupMemory(root string) uint64 {
	least := uint64(unlimited)
	for _, line := range strings.Split(text(root, "proc/self/cgroup"), "\n") {
		fields := strings.SplitN(line, ":", 3) // cgroups(7)
		if len(fields) < 3 {
			continue
		}
		mount, file := "sys/fs/cgroup", "memory.max"
		if fields[1] == "memory" {
			mount, file = "sys/fs/cgroup/memory", "memory.limit_in_bytes"
		} else if fields[1] != "" {
			continue
		}
		for group := path.Clean("/" + fields[2]); ; group = path.Dir(group) {
			if n, err := strconv.ParseUint(strings.TrimSpace(text(root, mount, group, file)), 10, 64); err == nil { // "max" is no limit
				least = min(least, n)
			}
			if group == "/" {
				break
			}
		}
	}
	if least == unlimited {
		return 0
	}
	return least
}

// text is what a file says; nothing if it cannot be read.
func text(root string, parts ...string) string {
	b, _ := os.ReadFile(filepath.Join(append([]string{root}, parts...)...))
	return string(b)
}
