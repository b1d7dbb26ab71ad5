package keadm

import (
	"bytes"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tether-edge/tether/apis/config/v1alpha1"
)

func TestSettingsAreMergedIntoTheConfiguration(t *testing.T) {
	b, err := v1alpha1.Marshal(v1alpha1.DefaultEdgeCore())
	if err != nil {
		t.Fatal(err)
	}
	b, err = withSettings(b, []string{"nodeName=edge-1", "cloud.servers=[\"a:1\", \"b:2\"]", "kubelet.maxPods=20", "kubelet.nodeLabels.zone=north", "kubelet.evictionHard={memory.available: 20Mi}"})
	if err != nil {
		t.Fatal(err)
	}
	cfg, err := v1alpha1.DecodeEdgeCore(b)
	if err != nil {
		t.Fatal(err)
	}
	if cfg.NodeName != "edge-1" || len(cfg.Cloud.Servers) != 2 || cfg.Kubelet.MaxPods != 20 || cfg.Kubelet.NodeLabels["zone"] != "north" || len(cfg.Kubelet.EvictionHard) != 1 {
		t.Errorf("got %+v", cfg)
	}
	for _, s := range []string{"", "x", "=1", "nodeName.x=1", "a=[", "kubelet.maxPods.b=1"} {
		if _, err := withSettings(b, []string{s}); err == nil {
			t.Errorf("--set %q was taken", s)
		}
	}
}

func TestThePodNetworkOfAMachineIsKept(t *testing.T) {
	root := t.TempDir()
	var out bytes.Buffer
	w := IO{Out: &out, Err: io.Discard}
	if err := writeNetwork(w, root, "10.1.2.3/24"); err == nil {
		t.Error("an address was taken for a network")
	}
	if err := writeNetwork(w, root, "10.1.2.0/24"); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(root, networkDir, networkFile)
	b, err := os.ReadFile(path)
	if err != nil || !bytes.Contains(b, []byte(`"subnet": "10.1.2.0/24"`)) {
		t.Errorf("wrote %s, %v", b, err)
	}
	if err := writeNetwork(w, root, "10.9.9.0/24"); err != nil {
		t.Fatal(err)
	}
	if after, _ := os.ReadFile(path); !bytes.Equal(b, after) || !strings.Contains(out.String(), "kept") {
		t.Errorf("a network that was there was replaced; said\n%s", out.String())
	}
}

func TestAMachineIsNamedByItsID(t *testing.T) {
	root := t.TempDir()
	if _, err := machineHash(root); err == nil || !strings.Contains(err.Error(), "/etc/machine-id") {
		t.Errorf("a machine without an id: %v", err)
	}
	put(t, root, "etc/machine-id", "0123456789abcdef0123456789abcdef\n")
	one, err := machineHash(root)
	if err != nil || len(one) != 64 || strings.Contains(one, "0123456789abcdef0123456789abcdef") {
		t.Errorf("hash %q, %v", one, err)
	}
	put(t, root, "etc/machine-id", "f123456789abcdef0123456789abcdef\n")
	if two, _ := machineHash(root); two == one {
		t.Error("two machines have one hash")
	}
}

func put(t *testing.T, root, path, text string) {
	t.Helper()
	p := filepath.Join(root, path)
	if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(p, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

// sound is the tree of a machine that is ready to join, but for its runtime and its cloud.
func sound(t *testing.T) (string, *preflight) {
	root := t.TempDir()
	put(t, root, "sys/fs/cgroup/cgroup.controllers", "cpu memory")
	put(t, root, "proc/filesystems", "nodev\toverlay\n")
	put(t, root, "proc/sys/net/ipv4/ip_forward", "1\n")
	put(t, root, "proc/swaps", "Filename Type Size Used Priority\n")
	for _, p := range []string{"bridge", "host-local", "loopback"} {
		put(t, root, "opt/cni/bin/"+p, "")
	}
	put(t, root, "sys/class/net/eth0/mtu", "1500\n")
	put(t, root, "sys/class/net/lo/mtu", "65536\n")
	put(t, root, "proc/7/comm", "bash\n")
	runcSays(t, root, "runc version 1.1.5+ds1\ncommit: 1.1.5\n")
	cfg := v1alpha1.DefaultEdgeCore()
	cfg.API.BindAddress, cfg.Metrics.BindAddress, cfg.Kubelet.Port = freePort(t), freePort(t), 1
	_, port, err := net.SplitHostPort(freePort(t))
	if err != nil {
		t.Fatal(err)
	}
	cfg.Kubelet.Port, err = strconv.Atoi(port)
	if err != nil {
		t.Fatal(err)
	}
	cfg.DataDir = "/"
	return root, &preflight{root: root, now: time.Now, config: cfg, ports: &joinPorts{}, udpWait: time.Second}
}

// runcSays makes a runc of that version the only one there is.
func runcSays(t *testing.T, root, text string) {
	t.Helper()
	put(t, root, "usr/bin/runc", "#!/bin/sh\nprintf '"+text+"'\n")
	if err := os.Chmod(filepath.Join(root, "usr/bin/runc"), 0o755); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", filepath.Join(root, "usr/bin"))
}

func freePort(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// names are the findings by name, without those of the machine that runs the test, unless they are asked for.
func names(found []finding, also ...string) map[string]finding {
	out := map[string]finding{}
	for _, f := range found {
		if f.Name != "disk" || slices.Contains(also, "disk") {
			out[f.Name] = f
		}
	}
	return out
}

func TestPreflightFindsWhatWouldHurt(t *testing.T) {
	_, p := sound(t)
	if got := names(p.run(t.Context())); len(got) != 1 || !got["runtime"].Error {
		t.Errorf("a sound machine without a runtime: %v", got)
	}
	for name, c := range map[string]struct {
		harm  func(root string, p *preflight)
		error bool
	}{
		"cgroup-v1": {func(root string, _ *preflight) {
			_ = os.Remove(filepath.Join(root, "sys/fs/cgroup/cgroup.controllers"))
		}, false},
		"overlayfs":     {func(root string, _ *preflight) { put(t, root, "proc/filesystems", "ext4\n") }, true},
		"ip-forward":    {func(root string, _ *preflight) { put(t, root, "proc/sys/net/ipv4/ip_forward", "0\n") }, false},
		"swap":          {func(root string, _ *preflight) { put(t, root, "proc/swaps", "Filename\n/dev/sda2 partition 1 0 -2\n") }, false},
		"cni-plugins":   {func(root string, _ *preflight) { _ = os.Remove(filepath.Join(root, "opt/cni/bin/bridge")) }, true},
		"mtu":           {func(root string, _ *preflight) { put(t, root, "sys/class/net/eth0/mtu", "1200\n") }, false},
		"other-kubelet": {func(root string, _ *preflight) { put(t, root, "proc/9/comm", "kubelet\n") }, true},
		"port": {func(_ string, p *preflight) {
			l, err := net.Listen("tcp", p.config.API.BindAddress)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = l.Close() })
		}, true},
		"dns":   {func(_ string, p *preflight) { p.ports.servers = []string{"no-such-host.invalid:1"} }, false},
		"cloud": {func(_ string, p *preflight) { p.ports.servers = []string{"127.0.0.1:1"} }, false},
		"udp": {func(_ string, p *preflight) {
			p.config.Cloud.Servers, p.config.Cloud.Protocol, p.config.Cloud.QUICPort = []string{"127.0.0.1:1"}, v1alpha1.ProtocolQUIC, 1
		}, true},
		"root": {func(_ string, p *preflight) { p.euid = 65534 }, true},
		"disk": {func(root string, p *preflight) {
			p.config.DataDir = "/var/lib/tether"
			dir := filepath.Join(root, p.config.DataDir)
			if err := errors.Join(os.MkdirAll(dir, 0o755), unix.Mount("tmpfs", dir, "tmpfs", 0, "size=8m")); err != nil {
				t.Fatalf("mount a small file system (this test runs as root): %v", err)
			}
			t.Cleanup(func() { _ = unix.Unmount(dir, unix.MNT_DETACH) })
		}, true},
		"runc":     {func(root string, _ *preflight) { runcSays(t, root, "runc version 1.0.2\\n") }, true},
		"no-cloud": {func(_ string, p *preflight) { p.ports.servers = []string{"127.0.0.1:1"} }, true},
	} {
		root, p := sound(t)
		c.harm(root, p)
		if err := knownFindings([]string{name}); err != nil {
			t.Error(err)
		}
		f, ok := names(p.run(t.Context()), name)[name]
		if !ok || f.Error != c.error || f.Found == "" || f.Remedy == "" {
			t.Errorf("%s: found %t, %+v; expected an error: %t", name, ok, f, c.error)
		}
	}
}

func TestFindingsStopAJoinUnlessTheyAreIgnored(t *testing.T) {
	found := []finding{{Name: "swap"}, {Name: "port", Error: true}, {Name: "disk", Error: true}}
	w := IO{Err: io.Discard}
	if err := admit(w, found, nil); err == nil || !strings.Contains(err.Error(), "port, disk") {
		t.Errorf("got %v", err)
	}
	if err := admit(w, found, []string{"port"}); err == nil || strings.Contains(err.Error(), "port,") {
		t.Errorf("got %v", err)
	}
	if err := admit(w, found, []string{"all"}); err != nil {
		t.Errorf("got %v", err)
	}
	if err := admit(w, found[:1], nil); err != nil {
		t.Errorf("a note stopped the join: %v", err)
	}
}

func TestVersionsOfARuntime(t *testing.T) {
	for v, want := range map[string]bool{"1.5.9": true, "v1.6.20~ds1": false, "2.0.1": false, "0.9": true, "unknown": false, "": false} {
		if got := tooOld(v, 1, 6); got != want {
			t.Errorf("tooOld(%q) = %t", v, got)
		}
	}
}
