package host

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// finding is what Detect is expected to find in one recorded tree.
type finding struct {
	distribution, release string
	root, sysResource     bool
	systemd               bool
	cgroup                CgroupMode
	missing               []string
	cniBin                string
	obstacles             []string // words of Usable's error, one for each obstacle; none means that it is usable
	report                []string // words that a person must read
}

var allPackages = []string{"containerd", "runc", "iptables", "mosquitto-clients", "containernetworking-plugins"}

var recorded = map[string]finding{
	"debian12-hybrid-no-sys-resource": {
		distribution: "debian", release: "12", root: true, cgroup: CgroupHybrid, missing: allPackages,
		report: []string{"Debian GNU/Linux 12", "failCgroupV1: false", "no systemd", "restrict_oom_score_adj = true", "to install: containerd runc iptables mosquitto-clients containernetworking-plugins"},
	},
	"debian13-systemd-v2": {
		distribution: "debian", release: "13", root: true, sysResource: true, systemd: true, cgroup: CgroupV2, missing: allPackages,
		report: []string{"cgroup v2", "systemd is the init", "with CAP_SYS_RESOURCE"},
	},
	"ubuntu2404-user": {
		distribution: "ubuntu", release: "24.04", systemd: true, cgroup: CgroupV2, cniBin: "/opt/cni/bin",
		obstacles: []string{"as root"},
		report:    []string{"Ubuntu 24.04", "not root", "nothing to install"},
	},
	"raspbian10-v1-no-memory": {
		distribution: "raspbian", release: "10", root: true, sysResource: true, systemd: true, cgroup: CgroupV1, missing: allPackages,
		obstacles: []string{"[memory]", "expected Debian or Ubuntu"},
		report:    []string{"cgroup v1", "only Debian and Ubuntu are known here"},
	},
	"bare-container": {
		distribution: "unknown", root: true, cgroup: CgroupNone,
		missing:   []string{"containerd", "runc", "iptables", "iproute2", "util-linux", "mount", "mosquitto-clients", "containernetworking-plugins"},
		obstacles: []string{"CAP_SYS_ADMIN", "found none mounted", "expected Debian or Ubuntu"},
		report:    []string{"no cgroups"},
	},
}

func TestDetectFindsWhatTheRecordedMachinesHave(t *testing.T) {
	for name, want := range recorded {
		t.Run(name, func(t *testing.T) {
			h, err := Detect(filepath.Join("testdata", name))
			if err != nil {
				t.Fatal(err)
			}
			if h.Distribution != want.distribution || h.Release != want.release {
				t.Errorf("distribution: expected %s %s, found %s %s", want.distribution, want.release, h.Distribution, h.Release)
			}
			if h.Root != want.root || h.SysResource != want.sysResource || h.Systemd != want.systemd || h.Cgroup != want.cgroup {
				t.Errorf("expected %+v, found %+v", want, *h)
			}
			if h.RestrictOOMScore() == want.sysResource || h.KubeletFailCgroupV1() != (want.cgroup == CgroupV2) {
				t.Errorf("what follows is wrong: restrict oom score %t, fail cgroup v1 %t", h.RestrictOOMScore(), h.KubeletFailCgroupV1())
			}
			if !slices.Equal(h.Missing(), want.missing) || h.CNIBin != want.cniBin {
				t.Errorf("expected missing packages %v and CNI in %q, found %v and %q", want.missing, want.cniBin, h.Missing(), h.CNIBin)
			}
			checkObstacles(t, h.Usable(), want.obstacles)
			for _, words := range want.report {
				if !strings.Contains(h.Report(), words) {
					t.Errorf("expected the report to say %q, found:\n%s", words, h.Report())
				}
			}
		})
	}
}

// checkObstacles wants exactly one line for each obstacle, so that a person sees all of them at once.
func checkObstacles(t *testing.T, err error, want []string) {
	t.Helper()
	var lines []string
	if err != nil {
		lines = strings.Split(err.Error(), "\n")
	}
	if len(lines) != len(want) {
		t.Errorf("expected %d obstacles %v, found %d: %v", len(want), want, len(lines), err)
		return
	}
	for i, words := range want {
		if !strings.Contains(lines[i], words) {
			t.Errorf("expected obstacle %d to say %q, found %q", i, words, lines[i])
		}
	}
}

func TestDetectListsEachHierarchyWithItsControllers(t *testing.T) {
	h, err := Detect("testdata/raspbian10-v1-no-memory")
	if err != nil {
		t.Fatal(err)
	}
	want := map[string][]string{
		"/sys/fs/cgroup/systemd":     {"name=systemd"},
		"/sys/fs/cgroup/cpu,cpuacct": {"cpu", "cpuacct"},
		"/sys/fs/cgroup/cpuset":      {"cpuset"},
		"/sys/fs/cgroup/pids":        {"pids"},
	}
	if len(h.Hierarchies) != len(want) {
		t.Errorf("expected %d hierarchies, found %+v", len(want), h.Hierarchies)
	}
	for _, tree := range h.Hierarchies {
		if !slices.Equal(tree.Controllers, want[tree.Path]) || tree.V2 {
			t.Errorf("%s: expected v1 with %v, found %+v", tree.Path, want[tree.Path], tree)
		}
	}
	v2, err := Detect("testdata/debian13-systemd-v2")
	if err != nil {
		t.Fatal(err)
	}
	if len(v2.Hierarchies) != 1 || !v2.Hierarchies[0].V2 || !slices.Contains(v2.Hierarchies[0].Controllers, "memory") {
		t.Errorf("expected one v2 tree with memory, found %+v", v2.Hierarchies)
	}
}

func TestDetectTakesNoProgramThatCannotRun(t *testing.T) {
	root := t.TempDir()
	if err := os.CopyFS(root, os.DirFS("testdata/debian13-systemd-v2")); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(root, "usr/bin/runc"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	h, err := Detect(root)
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Contains(h.Missing(), "runc") {
		t.Errorf("expected a runc without the execute bit to count as missing, found missing %v", h.Missing())
	}
}
