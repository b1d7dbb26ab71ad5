// Package host looks at the machine that an edge node is to run on and says what follows from it.
//
// It promises to read only: Detect changes nothing, and everything it learns comes from files below one root
// directory (proc, sys, etc, run and the program directories), so that its tests replay recorded trees of
// machines that are not at hand. Install is the one function that changes the machine, and it says first what
// it is going to do.
//
// Used by the quickstart and by the tests that need a container runtime.
package host

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
)

// CgroupMode says which generation of control groups the machine mounts.
type CgroupMode string

// The modes. Hybrid has its controllers on v1 and an empty v2 tree beside them: for the kubelet it is v1.
const (
	CgroupNone   CgroupMode = "none"
	CgroupV1     CgroupMode = "v1"
	CgroupHybrid CgroupMode = "hybrid"
	CgroupV2     CgroupMode = "v2"
)

// Host is what was found. It is a plain value: nothing in it changes after Detect.
type Host struct {
	Distribution string // ID of os-release, such as "debian"
	Release      string // VERSION_ID of os-release, such as "12"; empty on a rolling distribution
	PrettyName   string // for people

	Root        bool // effective user id 0
	SysAdmin    bool // CAP_SYS_ADMIN: namespaces and mounts can be made
	SysResource bool // CAP_SYS_RESOURCE: oom_score_adj can be lowered

	Systemd bool // systemd is the running init
	Cgroup  CgroupMode
	// Hierarchies are the mounted cgroup trees, one on v2, one per controller on v1.
	Hierarchies []Hierarchy

	// Programs maps a program name of Requirements to its path, without the root that Detect was given.
	// A program that was not found is absent.
	Programs map[string]string
	CNIBin   string // directory that holds the CNI plugins; empty if none has them all
}

// Hierarchy is one mounted control group tree.
type Hierarchy struct {
	Path        string   // where it is mounted, without the root that Detect was given
	Controllers []string // v1: its controllers, or "name=systemd"; v2: what cgroup.controllers lists
	V2          bool
}

// Detect reads the machine whose file system is at root ("/" for this one). It fails only where a file that every
// Linux has cannot be read; something that is missing is a finding, not an error.
func Detect(root string) (*Host, error) {
	h := &Host{Programs: map[string]string{}}
	if err := h.readRelease(root); err != nil {
		return nil, err
	}
	if err := h.readPrivileges(filepath.Join(root, "proc/self/status")); err != nil {
		return nil, err
	}
	if err := h.readCgroups(root); err != nil {
		return nil, err
	}
	// The test that systemd documents for this question (sd_booted): the directory exists only while it is the init.
	if info, err := os.Stat(filepath.Join(root, "run/systemd/system")); err == nil && info.IsDir() {
		h.Systemd = true
	}
	h.findPrograms(root)
	return h, nil
}

// Usable returns nil if an edge host can be made here once the missing packages are installed, and otherwise an
// error that lists every obstacle and how to mend it.
func (h *Host) Usable() error {
	var faults []error
	if !h.Root {
		faults = append(faults, errors.New("expected to run as root, found another user: network and mount namespaces, cgroups and containers need it; run again with sudo"))
	}
	if h.Root && !h.SysAdmin {
		faults = append(faults, errors.New("expected CAP_SYS_ADMIN, found root without it: no namespace can be made; run on the machine itself or in a container started with --privileged"))
	}
	if h.Cgroup == CgroupNone {
		faults = append(faults, errors.New("expected control groups below /sys/fs/cgroup, found none mounted: mount cgroup2 there (mount -t cgroup2 none /sys/fs/cgroup)"))
	}
	if missing := h.missingControllers(); h.Cgroup != CgroupNone && len(missing) > 0 {
		faults = append(faults, fmt.Errorf("expected the cgroup controllers %v, found them missing: enable them on the kernel command line (for memory: cgroup_enable=memory)", missing))
	}
	if len(h.Missing()) > 0 && !h.usesApt() {
		faults = append(faults, fmt.Errorf("expected Debian or Ubuntu to install %v, found %s: install these programs by hand and run again", h.MissingPrograms(), h.PrettyName))
	}
	return errors.Join(faults...)
}

// RestrictOOMScore reports that the container runtime must not lower oom_score_adj: without CAP_SYS_RESOURCE every
// sandbox would fail to start.
func (h *Host) RestrictOOMScore() bool { return !h.SysResource }

// KubeletFailCgroupV1 is the value for the kubelet setting failCgroupV1: false where the controllers are on v1.
func (h *Host) KubeletFailCgroupV1() bool { return h.Cgroup == CgroupV2 }
