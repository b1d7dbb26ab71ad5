package host

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
)

// Install brings what Missing lists with apt-get and returns the machine as it is afterwards. It says on out what it is
// about to install before it does, and apt-get's own output goes to log. With nothing missing it runs nothing.
//
// On a machine with systemd Debian's containerd package may start a daemon; it is left as the package wants it, since
// the edge host runs a containerd of its own and never speaks to that one.
func Install(ctx context.Context, h *Host, out, log io.Writer) (*Host, error) {
	return install(ctx, h, out, log, aptGet, func() (*Host, error) { return Detect("/") })
}

// install is Install with the two things that touch the machine passed in.
func install(ctx context.Context, h *Host, out, log io.Writer, apt func(context.Context, io.Writer, ...string) error, detect func() (*Host, error)) (*Host, error) {
	packages := h.Missing()
	if len(packages) == 0 {
		return h, nil
	}
	if err := h.Usable(); err != nil {
		return nil, err
	}
	if _, err := fmt.Fprintf(out, "  installing with apt-get: %s\n", strings.Join(packages, " ")); err != nil {
		return nil, fmt.Errorf("report the packages: %w", err)
	}
	// A stale index is tolerable where the packages are still served, so a failing update is told only if the
	// installation fails too.
	updateErr := apt(ctx, log, "update")
	args := append([]string{"install", "--yes", "--no-install-recommends"}, packages...)
	if err := apt(ctx, log, args...); err != nil {
		return nil, fmt.Errorf("install %s: %w; mend apt and run again, or install the packages by hand", strings.Join(packages, " "), errors.Join(err, updateErr))
	}
	after, err := detect()
	if err != nil {
		return nil, fmt.Errorf("look at the machine after the installation: %w", err)
	}
	if left := after.MissingPrograms(); len(left) > 0 {
		return nil, fmt.Errorf("expected the packages %s to bring every program, found still missing: %s", strings.Join(packages, " "), strings.Join(left, ", "))
	}
	return after, nil
}

// aptGet runs apt-get without questions and puts the end of its output into the error.
func aptGet(ctx context.Context, log io.Writer, args ...string) error {
	var tail bytes.Buffer
	// Waiting for the lock lets an unattended upgrade finish instead of failing at once.
	cmd := exec.CommandContext(ctx, "apt-get", append([]string{"-o", "DPkg::Lock::Timeout=120"}, args...)...)
	cmd.Env = append(os.Environ(), "DEBIAN_FRONTEND=noninteractive", "NEEDRESTART_MODE=l")
	cmd.Stdout = io.MultiWriter(log, &tail)
	cmd.Stderr = cmd.Stdout
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("apt-get %s: %w: %s", args[0], err, lastLines(tail.String(), 6))
	}
	return nil
}

// lastLines returns the last n lines of text, joined for an error message.
func lastLines(text string, n int) string {
	lines := strings.Split(strings.TrimSpace(text), "\n")
	if len(lines) > n {
		lines = lines[len(lines)-n:]
	}
	return strings.Join(lines, " | ")
}
