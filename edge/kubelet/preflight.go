package kubelet

import (
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"strconv"
	"strings"
)

// needs are the controllers without which the kubelet refuses to start, by cgroup version.
var needs = map[int][]string{
	1: {"cpu", "cpuacct", "cpuset", "memory"},
	2: {"cpu", "cpuset", "memory"},
}

// preflight lists what this machine lacks now and the kubelet would end the process over, and how to mend it. All of it
// can change while we wait: a port is freed, a device node is made.
func preflight(host Host, kmsg string, cfg Config) error {
	var errs []error
	if f, err := os.Open(kmsg); err != nil {
		errs = append(errs, fmt.Errorf("the kubelet reads out-of-memory kills from the kernel log: expected to open %s, found: %w (mend: mknod %s c 1 11, "+
			"or give the container that device)", kmsg, err, kmsg))
	} else {
		f.Close()
	}
	var missing []string
	for _, controller := range needs[host.CgroupVersion] {
		if !slices.Contains(host.Controllers, controller) {
			missing = append(missing, controller)
		}
	}
	if len(missing) > 0 {
		errs = append(errs, fmt.Errorf("cgroup v%d controllers: expected %s, found none of %s (mend: mount them, or enable them on the kernel command line, such as "+
			"cgroup_enable=memory)", host.CgroupVersion, strings.Join(needs[host.CgroupVersion], ", "), strings.Join(missing, ", ")))
	}
	address := net.JoinHostPort("127.0.0.1", strconv.Itoa(int(cfg.Port)))
	if l, err := net.Listen("tcp", address); err != nil {
		errs = append(errs, fmt.Errorf("the kubelet's port: expected %s to be free, found: %w (mend: stop the other kubelet, or set another port)", address, err))
	} else {
		l.Close()
	}
	// The kubelet logs an error each second while the directory of static pods is absent.
	for _, dir := range []string{cfg.RootDir, cfg.StateDir, cfg.StaticPodPath} {
		if dir == "" {
			continue
		}
		if err := os.MkdirAll(dir, 0o750); err != nil {
			errs = append(errs, fmt.Errorf("make the kubelet's directory: %w", err))
		}
	}
	return errors.Join(errs...)
}
