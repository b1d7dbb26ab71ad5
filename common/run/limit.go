package run

import (
	"math"
	"os"
	"path"
	"path/filepath"
	"strconv"
	"strings"
)

// memoryOf is the memory that this process may use, in bytes: the machine's, or what its memory group and those above that
// allow, whatever is least; 0 if none of it can be read. root is where the machine's files are, "/" but in tests.
func memoryOf(root string) uint64 {
	read := func(parts ...string) string {
		b, _ := os.ReadFile(filepath.Join(append([]string{root}, parts...)...))
		return string(b)
	}
	least := uint64(math.MaxUint64)
	for _, line := range strings.Split(read("proc/meminfo"), "\n") {
		if fields := strings.Fields(line); len(fields) > 1 && fields[0] == "MemTotal:" {
			if n, err := strconv.ParseUint(fields[1], 10, 64); err == nil {
				least = n << 10
			}
		}
	}
	for _, line := range strings.Split(read("proc/self/cgroup"), "\n") {
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
			if n, err := strconv.ParseUint(strings.TrimSpace(read(mount, group, file)), 10, 64); err == nil { // "max" is no limit
				least = min(least, n)
			}
			if group == "/" {
				break
			}
		}
	}
	if least == math.MaxUint64 {
		return 0
	}
	return least
}
