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

	"golang.org/x/sys/unix"
)

// SignalComponent sends a signal to one process of the control plane: kube-controller-manager, say.
func (cp *ControlPlane) SignalComponent(name string, sig unix.Signal) error {
	children, err := children(cp.PID())
	if err != nil {
		return fmt.Errorf("signal %s: %w", name, err)
	}
	for _, child := range children {
		text, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", child.PID))
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("signal %s: %w", name, err)
		}
		if slices.Contains(strings.Split(string(text), "\x00"), name) {
			return child.signal(sig)
		}
	}
	return fmt.Errorf("signal %s: expected it among the %d processes of the control plane", name, len(children))
}

// children are the processes that a process started and that still run.
func children(parent int) (found []identity, err error) {
	stats, err := filepath.Glob("/proc/[0-9]*/stat")
	if err != nil {
		return nil, err
	}
	for _, path := range stats {
		text, err := os.ReadFile(path)
		if err != nil {
			continue // it ended meanwhile
		}
		// After the name, which may hold anything, come the state and the parent.
		fields := strings.Fields(string(text[strings.LastIndexByte(string(text), ')')+1:]))
		if len(fields) < 2 || fields[1] != strconv.Itoa(parent) {
			continue
		}
		pid, err := strconv.Atoi(filepath.Base(filepath.Dir(path)))
		if err != nil {
			return nil, fmt.Errorf("the number of %s: %w", path, err)
		}
		switch child, err := processIdentity(pid); {
		case err == nil:
			found = append(found, child)
		case !errors.Is(err, os.ErrNotExist):
			return nil, err
		}
	}
	return found, nil
}
