package host

import (
	"fmt"
	"strings"
)

// Report says to a person what was found and what follows from it, one finding a line.
func (h *Host) Report() string {
	var b strings.Builder
	line := func(found, follows string) { fmt.Fprintf(&b, "  %-34s %s\n", found, follows) }

	line(h.PrettyName, h.packagesFollow())
	switch h.Cgroup {
	case CgroupV2:
		line("cgroup v2", "the kubelet runs as upstream recommends")
	case CgroupHybrid:
		line("cgroup hybrid (controllers on v1)", "kubelet with failCgroupV1: false and cgroupDriver: cgroupfs")
	case CgroupV1:
		line("cgroup v1", "kubelet with failCgroupV1: false and cgroupDriver: cgroupfs")
	default:
		line("no cgroups", "no container can run here")
	}
	if h.Systemd {
		line("systemd is the init", "edgecore can run as a unit; the edge host made here has cgroups of its own beside it")
	} else {
		line("no systemd", "edgecore is watched by a small supervisor of ours")
	}
	switch {
	case !h.Root:
		line("not root", "no namespace, cgroup or container can be made")
	case !h.SysResource:
		line("root without CAP_SYS_RESOURCE", "containerd with restrict_oom_score_adj = true, or no sandbox would start")
	default:
		line("root with CAP_SYS_RESOURCE", "containerd sets oom_score_adj as usual")
	}
	if missing := h.Missing(); len(missing) > 0 {
		line("missing: "+strings.Join(h.MissingPrograms(), ", "), "")
		line("", "to install: "+strings.Join(missing, " "))
	} else {
		line("all programs are here", "nothing to install")
	}
	return b.String()
}

func (h *Host) packagesFollow() string {
	if h.usesApt() {
		return "packages come from apt-get"
	}
	return "packages are yours to install: only Debian and Ubuntu are known here"
}
