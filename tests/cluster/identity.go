package cluster

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// identity names one process for ever: a pid alone is used again.
type identity struct {
	PID   int    `json:"pid"`
	Start uint64 `json:"start"` // clock ticks after boot: field 22 of /proc/PID/stat
	Boot  string `json:"boot"`  // the boot that Start counts from
}

// processIdentity reads the identity of a running process. os.ErrNotExist says that there is none.
func processIdentity(pid int) (identity, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if errors.Is(err, unix.ESRCH) {
		err = os.ErrNotExist
	}
	if err != nil {
		return identity{}, fmt.Errorf("identify process %d: %w", pid, err)
	}
	// The second field is the name in brackets and may hold spaces and brackets itself, so count from its end.
	fields := strings.Fields(string(text[bytes.LastIndexByte(text, ')')+1:]))
	if len(fields) < 20 {
		return identity{}, fmt.Errorf("identify process %d: expected 22 fields or more in its stat, found %q", pid, text)
	}
	if fields[0] == "Z" || fields[0] == "X" {
		return identity{}, fmt.Errorf("identify process %d: it has ended: %w", pid, os.ErrNotExist)
	}
	start, err := strconv.ParseUint(fields[19], 10, 64)
	if err != nil {
		return identity{}, fmt.Errorf("identify process %d: %w", pid, err)
	}
	boot, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return identity{}, fmt.Errorf("identify process %d: %w", pid, err)
	}
	return identity{PID: pid, Start: start, Boot: strings.TrimSpace(string(boot))}, nil
}

// alive reports whether exactly this process still runs. A zombie does not.
func (p identity) alive() bool {
	if p.PID == 0 {
		return false
	}
	found, err := processIdentity(p.PID)
	return err == nil && found == p
}

// signal sends sig to exactly this process. A process that is gone is no error.
func (p identity) signal(sig unix.Signal) error {
	return signalIf(p.PID, sig, p.alive)
}

// signalIf sends sig to the process that has the pid now, if still is true of it. The descriptor pins the process
// before the question is asked, so the signal cannot reach another one that was given the pid in between.
func signalIf(pid int, sig unix.Signal, still func() bool) error {
	if pid <= 1 {
		return nil
	}
	fd, err := unix.PidfdOpen(pid, 0)
	if errors.Is(err, unix.ESRCH) || errors.Is(err, unix.ENOENT) || errors.Is(err, unix.EINVAL) {
		return nil // there is none, or the number is that of a thread now; kernels differ in how they say so
	}
	if err != nil {
		return fmt.Errorf("open process %d: %w", pid, err)
	}
	defer unix.Close(fd)
	if !still() {
		return nil
	}
	if err := unix.PidfdSendSignal(fd, sig, nil, 0); err != nil && !errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("signal process %d: %w", pid, err)
	}
	return nil
}

// waitGone waits until the process has ended.
func (p identity) waitGone(timeout time.Duration) error {
	return poll(timeout, fmt.Sprintf("end of process %d", p.PID), func() error {
		if p.alive() {
			return errors.New("it still runs")
		}
		return nil
	})
}
