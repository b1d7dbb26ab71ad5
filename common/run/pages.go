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
	for _, p := range programPages("maps") {
		p.advise(advice)
	}
}

// unmapProgram takes the pages of the program's file out of the process's memory. Those that are in use come back one fault later, from the
// page cache, and those that only the start needed stay out: where memory is short the kernel takes a page that nobody maps before one that is mapped.
func unmapProgram() {
	for _, p := range programPages("smaps") {
		if !p.changed { // what a linker wrote to before it was write-protected would be lost
			p.advise(unix.MADV_DONTNEED)
		}
	}
}

// pages are mapped from start to before end; of changed ones some are copies that differ from the file.
type pages struct {
	start, end uintptr
	changed    bool
}

// advise is madvise(2). Where the kernel does not take the advice, it does as it does anyway.
func (p pages) advise(advice int) {
	_, _, _ = unix.Syscall(unix.SYS_MADVISE, p.start, p.end-p.start, uintptr(advice))
}

// programPages are the mappings of the program's file that nobody writes to: its code, its constants and its tables. They are read from maps,
// or from smaps, which takes longer, is not in every kernel, and alone says which have changed.
func programPages(from string) (found []pages) {
	program, err := os.Readlink("/proc/self/exe")
	if err != nil {
		return nil
	}
	ours := false
	for line := range strings.Lines(text("/", "proc/self/"+from)) { // proc_pid_maps(5), proc_pid_smaps(5)
		fields := strings.Fields(line)
		if name, ok := strings.CutSuffix(fields[0], ":"); ok {
			if ours && (name == "Anonymous" || name == "Swap") && fields[1] != "0" {
				found[len(found)-1].changed = true
			}
			continue
		}
		ours = false
		if len(fields) < 6 || strings.Contains(fields[1], "w") || strings.TrimSuffix(line[strings.Index(line, fields[5]):], "\n") != program {
			continue
		}
		first, end, _ := strings.Cut(fields[0], "-")
		start, err := strconv.ParseUint(first, 16, 64)
		if err != nil {
			continue
		}
		if end, err := strconv.ParseUint(end, 16, 64); err == nil && end > start {
			found = append(found, pages{start: uintptr(start), end: uintptr(end)})
			ours = true
		}
	}
	return found
}
