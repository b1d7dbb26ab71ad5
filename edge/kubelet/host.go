package kubelet

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// Host is what the kubelet's settings depend on and the machine decides.
type Host struct {
	// CgroupVersion is 2 where /sys/fs/cgroup is a cgroup2 file system, else 1 (the hybrid layout included).
	CgroupVersion int
	// Controllers are the cgroup controllers that pods can use, sorted.
	Controllers []string
	// Systemd says that systemd is pid 1 and manages this root.
	Systemd bool
	// SysResource says that this process holds CAP_SYS_RESOURCE: without it, it cannot lower an OOM score or raise a
	// hard limit, here or in a container.
	SysResource bool
	// OOMScoreAdj is this process's own.
	OOMScoreAdj int32
	// OpenFilesHard is the hard limit of open files; 0 for none.
	OpenFilesHard uint64
	// Swap says that some swap is on.
	Swap bool
	// BootID is the kernel's id of this boot.
	BootID string
}

// capSysResource is the bit of CAP_SYS_RESOURCE, from linux/capability.h.
const capSysResource = 24

// DetectHost reads the facts from /proc, /sys and /run under root, "/" on a real machine and a recorded tree in tests.
func DetectHost(root string) (Host, error) {
	h := Host{CgroupVersion: 1}
	var errs []error
	read := func(path string) []byte {
		data, err := os.ReadFile(filepath.Join(root, path))
		if err != nil {
			errs = append(errs, fmt.Errorf("detect host: %w", err))
		}
		return data
	}
	for _, line := range lines(read("proc/self/mountinfo")) {
		mountPoint, fsType := mountOf(line)
		if mountPoint == "/sys/fs/cgroup" && fsType == "cgroup2" {
			h.CgroupVersion = 2
		}
	}
	if h.CgroupVersion == 2 {
		h.Controllers = strings.Fields(string(read("sys/fs/cgroup/cgroup.controllers")))
	} else {
		h.Controllers = controllersV1(read("proc/cgroups"), read("proc/self/mountinfo"))
	}
	slices.Sort(h.Controllers)

	_, err := os.Stat(filepath.Join(root, "run/systemd/system")) // the test that sd_booted(3) makes
	h.Systemd = err == nil

	status := read("proc/self/status")
	if caps, err := strconv.ParseUint(field(status, "CapEff:"), 16, 64); err == nil {
		h.SysResource = caps&(1<<capSysResource) != 0
	}
	if adj, err := strconv.ParseInt(strings.TrimSpace(string(read("proc/self/oom_score_adj"))), 10, 32); err == nil {
		h.OOMScoreAdj = int32(adj)
	}
	if limit := strings.Fields(field(read("proc/self/limits"), "Max open files")); len(limit) >= 2 && limit[1] != "unlimited" {
		h.OpenFilesHard, _ = strconv.ParseUint(limit[1], 10, 64)
	}
	// The file is absent in kernels without swap; its first line is a heading.
	if swaps, err := os.ReadFile(filepath.Join(root, "proc/swaps")); err == nil {
		h.Swap = len(lines(swaps)) > 1
	}
	h.BootID = strings.TrimSpace(string(read("proc/sys/kernel/random/boot_id")))
	return h, errors.Join(errs...)
}

// lines splits data into lines that are not empty.
func lines(data []byte) []string {
	var out []string
	for s := bufio.NewScanner(bytes.NewReader(data)); s.Scan(); {
		if s.Text() != "" {
			out = append(out, s.Text())
		}
	}
	return out
}

// field returns what follows key on the line that begins with it; empty if there is none.
func field(data []byte, key string) string {
	for _, line := range lines(data) {
		if rest, ok := strings.CutPrefix(line, key); ok {
			return strings.TrimSpace(rest)
		}
	}
	return ""
}

// mountOf returns mount point and file system type of a line of /proc/self/mountinfo, whose optional fields end in " - ".
func mountOf(line string) (mountPoint, fsType string) {
	head, tail, ok := strings.Cut(line, " - ")
	if h, t := strings.Fields(head), strings.Fields(tail); ok && len(h) > 4 && len(t) > 0 {
		return h[4], t[0]
	}
	return "", ""
}

// controllersV1 returns the controllers that /proc/cgroups enables and a cgroup v1 hierarchy carries.
func controllersV1(cgroups, mountinfo []byte) []string {
	mounted := map[string]bool{}
	for _, line := range lines(mountinfo) {
		if _, fsType := mountOf(line); fsType == "cgroup" {
			_, tail, _ := strings.Cut(line, " - ")
			t := strings.Fields(tail)
			for _, option := range strings.Split(t[len(t)-1], ",") {
				mounted[option] = true
			}
		}
	}
	var out []string
	for _, line := range lines(cgroups) {
		if f := strings.Fields(line); len(f) == 4 && f[3] == "1" && mounted[f[0]] {
			out = append(out, f[0])
		}
	}
	return out
}
