package run

import (
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// readSingly has the kernel read what is missing of the program's own file page by page, or in large pieces as usual. Where memory is
// short, the pages around the missing one are others' that are needed: measured in a group of 64 MiB (docs/benchmarks.md), edgecore was busy reading its
// program for ever, and is at rest without.
func readSingly(singly bool) {
	advice := unix.MADV_NORMAL
	if singly {
		advice = unix.MADV_RANDOM
	}
	for _, p := range programPages() {
		// It is advice: where it is not taken, the kernel does as it does anyway.
		_, _, _ = unix.Syscall(unix.SYS_MADVISE, p.start, p.end-p.start, uintptr(advice))
	}
}

// pages are mapped from start to before end.
type pages struct{ start, end uintptr }

// programPages are the mappings of the program's file that nobody writes to: its code, its constants and its tables.
func programPages() []pages {
	program, err := os.Readlink("/proc/self/exe")
	if err != nil {
		return nil
	}
	var found []pages
	for line := range strings.Lines(text("/", "proc/self/maps")) { // proc_pid_maps(5)
		fields := strings.Fields(line)
		if len(fields) < 6 || strings.Contains(fields[1], "w") || strings.TrimSuffix(line[strings.Index(line, fields[5]):], "\n") != program {
			continue
		}
		from, to, _ := strings.Cut(fields[0], "-")
		start, err := strconv.ParseUint(from, 16, 64)
		if err != nil {
			continue
		}
		if end, err := strconv.ParseUint(to, 16, 64); err == nil && end > start {
			found = append(found, pages{uintptr(start), uintptr(end)})
		}
	}
	return found
}
