package main

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
)

const mebibyte = 1 << 10 // in KiB, the unit of /proc/PID/status

// resident reads VmRSS and RssAnon of a process, in MiB.
func resident(pid int) (rss, anon float64, err error) {
	path := fmt.Sprintf("/proc/%d/status", pid)
	read := func(name string) (float64, error) {
		value := field(path, name)
		var kib float64
		if _, err := fmt.Sscan(value, &kib); err != nil {
			return 0, fmt.Errorf("read %s of process %d: expected a number of kB, found %q", name, pid, value)
		}
		return kib / mebibyte, nil
	}
	if rss, err = read("VmRSS"); err != nil {
		return 0, 0, err
	}
	anon, err = read("RssAnon")
	return rss, anon, err
}

// clockTick is the unit of the times in /proc/PID/stat: USER_HZ, 100 on every Linux that Go runs on.
const clockTick = time.Second / 100

// usage is what a process has used since its start.
type usage struct {
	cpu    time.Duration // user and system
	faults int64         // major ones: each waited for a disk
	at     time.Time
}

// used reads /proc/PID/stat, proc(5).
func used(pid int) (usage, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return usage{}, fmt.Errorf("read the times of process %d: %w", pid, err)
	}
	// The second field is a name in parentheses that may hold spaces; what follows it begins with field 3.
	_, rest, _ := strings.Cut(string(text), ") ")
	fields := strings.Fields(rest)
	number := func(n int) int64 {
		if n-3 >= len(fields) {
			return 0
		}
		v, _ := strconv.ParseInt(fields[n-3], 10, 64)
		return v
	}
	return usage{cpu: time.Duration(number(14)+number(15)) * clockTick, faults: number(12), at: time.Now()}, nil
}

// since is the use of CPU between two readings, in percent of one core.
func (u usage) since(earlier usage) float64 {
	return 100 * float64(u.cpu-earlier.cpu) / float64(u.at.Sub(earlier.at))
}

// child is the process below pid whose arguments have word among them.
func child(pid int, word string) (int, error) {
	lists, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", pid)) // each thread has its own
	if err != nil {
		return 0, err
	}
	for _, list := range lists {
		text, err := os.ReadFile(list)
		if err != nil {
			continue // the thread has ended
		}
		for _, field := range strings.Fields(string(text)) {
			args, err := os.ReadFile(fmt.Sprintf("/proc/%s/cmdline", field))
			if err == nil && slices.Contains(strings.Split(string(args), "\x00"), word) {
				return strconv.Atoi(field)
			}
		}
	}
	return 0, fmt.Errorf("expected a child of process %d with the argument %s, found none", pid, word)
}
