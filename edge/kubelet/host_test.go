package kubelet

import (
	"path/filepath"
	"reflect"
	"testing"
)

// The trees are cut from /proc and /sys of a container without CAP_SYS_RESOURCE on a cgroup v1 hybrid machine, and of a
// Debian 12 machine with systemd and zram swap.
func TestHostIsDetected(t *testing.T) {
	for tree, want := range map[string]Host{
		"cgroup1-container": {
			CgroupVersion: 1, Controllers: []string{"blkio", "cpu", "cpuacct", "cpuset", "devices", "freezer", "memory", "pids"},
			OpenFilesHard: 20000, BootID: "11111111-2222-3333-4444-555555555555",
		},
		"cgroup2-systemd": {
			CgroupVersion: 2, Controllers: []string{"cpu", "cpuset", "hugetlb", "io", "memory", "misc", "pids", "rdma"},
			Systemd: true, SysResource: true, OpenFilesHard: 524288, Swap: true, BootID: "99999999-8888-7777-6666-555555555555",
		},
	} {
		got, err := DetectHost(filepath.Join("testdata", "host", tree))
		if err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("%s:\nfound    %+v, %v\nexpected %+v", tree, got, err, want)
		}
	}
}

func TestUnreadableHostIsSaidAndNotGuessed(t *testing.T) {
	host, err := DetectHost(t.TempDir())
	if err == nil {
		t.Error("expected an error for an empty tree, found none")
	}
	if host.SysResource || host.Systemd || len(host.Controllers) > 0 {
		t.Errorf("found %+v, expected nothing claimed", host)
	}
}
