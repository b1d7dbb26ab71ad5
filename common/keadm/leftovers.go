package keadm

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
)

// execute runs a program with that input and returns what it writes.
func execute(ctx context.Context, input string, argv ...string) ([]byte, error) {
	c := exec.CommandContext(ctx, argv[0], argv[1:]...)
	c.Stdin = strings.NewReader(input)
	out, err := c.Output()
	if exit := (*exec.ExitError)(nil); errors.As(err, &exit) {
		return out, fmt.Errorf("%s: %w: %s", strings.Join(argv, " "), err, bytes.TrimSpace(exit.Stderr))
	}
	return out, err
}

// removeRules removes the chains that a kubelet makes at its start. What is not there, a program included, needs no
// removing.
func (r *edgeReset) removeRules(ctx context.Context) {
	for _, program := range []string{"iptables", "ip6tables"} {
		for _, args := range []string{
			"-t filter -D INPUT -j KUBE-FIREWALL", "-t filter -D OUTPUT -j KUBE-FIREWALL", "-t filter -F KUBE-FIREWALL", "-t filter -X KUBE-FIREWALL",
			"-t filter -X KUBE-KUBELET-CANARY", "-t nat -X KUBE-KUBELET-CANARY", "-t mangle -X KUBE-KUBELET-CANARY", "-t mangle -X KUBE-IPTABLES-HINT",
		} {
			_, _ = r.run(ctx, "", append([]string{program, "--wait", "5"}, strings.Fields(args)...)...)
		}
	}
}

// unmountBelow unmounts all that is mounted below dir, and fails if anything still is: what is removed then would be gone
// from the volume itself.
func unmountBelow(dir string) error {
	points, err := mountsBelow(dir)
	if err != nil {
		return fmt.Errorf("unmount volumes: %w", err)
	}
	for _, p := range points {
		if err := syscall.Unmount(p, syscall.MNT_DETACH); err != nil && !errors.Is(err, syscall.EINVAL) && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("unmount %s: %w", p, err)
		}
	}
	if left, err := mountsBelow(dir); err != nil || len(left) > 0 {
		return errors.Join(err, fmt.Errorf("expected nothing to be mounted below %s, found %v: unmount it, and run this again", dir, left))
	}
	return nil
}

// mountsBelow are the mount points below dir, wherever it leads, those that are below others first.
func mountsBelow(dir string) ([]string, error) {
	if real, err := filepath.EvalSymlinks(dir); err == nil {
		dir = real // as the kernel names it
	}
	b, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		return nil, err
	}
	var points []string
	for line := range strings.Lines(string(b)) {
		if f := strings.Fields(line); len(f) > 1 {
			if point := unescape.Replace(f[1]); strings.HasPrefix(point, strings.TrimSuffix(dir, "/")+"/") {
				points = append(points, point)
			}
		}
	}
	slices.Sort(points)
	slices.Reverse(points)
	return points, nil
}

// unescape undoes what proc(5) does to names in a list of mounts.
var unescape = strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`, `\043`, "#")

// removeCgroups removes the kubelet's empty groups in every hierarchy.
func removeCgroups(root string) error {
	for _, pattern := range []string{filepath.Join("/sys/fs/cgroup", root, "kubepods*"), filepath.Join("/sys/fs/cgroup", "*", root, "kubepods*")} {
		found, err := filepath.Glob(pattern)
		if err != nil {
			return fmt.Errorf("remove control groups: %w", err)
		}
		for _, top := range found {
			var dirs []string
			_ = filepath.WalkDir(top, func(path string, d fs.DirEntry, err error) error {
				if err == nil && d.IsDir() {
					dirs = append(dirs, path)
				}
				return nil
			})
			slices.Reverse(dirs)
			for _, d := range dirs {
				_ = syscall.Rmdir(d) // one with a process in it is not the kubelet's any more
			}
		}
	}
	return nil
}
