package keadm

import (
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/tether-edge/tether/apis/config/v1alpha1"
	"github.com/tether-edge/tether/common/pki"
)

// preflight looks at a machine before it joins.
type preflight struct {
	root   string // of the file system
	now    pki.Clock
	config *v1alpha1.EdgeCore
	ports  *joinPorts
	// udpWait is how long an answer over UDP may take.
	udpWait time.Duration
	euid    int // of whom keadm runs as
	// file is where the configuration is or will be: an edgecore that runs with it is no other kubelet.
	file string
	// held are the addresses that this edgecore listens on.
	held []string
}

// newPreflight looks at this machine as it is to be configured in that file.
func newPreflight(w IO, cfg *v1alpha1.EdgeCore, file string) (*preflight, error) {
	ports, err := joinPortsOf(cfg)
	if err != nil {
		return nil, err
	}
	return &preflight{root: "/", now: w.Now, config: cfg, file: file, ports: ports, udpWait: udpWait, euid: os.Geteuid()}, nil
}

// run returns what it found, nothing if all is well.
func (p *preflight) run(ctx context.Context) []finding {
	var out []finding
	add := func(isError bool, name, found, remedy string) {
		out = append(out, finding{Name: name, Error: isError, Found: found, Remedy: remedy})
	}
	for _, look := range []func(func(isError bool, name, found, remedy string)){
		p.user, p.kernel, p.memory, p.network, p.disk, p.others, p.listeners, p.proxy,
	} {
		look(add)
	}
	p.runtime(ctx, add)
	p.runc(ctx, add)
	p.cloud(ctx, add)
	p.link(ctx, add)
	p.udp(ctx, add)
	return out
}

type adder = func(isError bool, name, found, remedy string)

func (p *preflight) path(elem ...string) string {
	return filepath.Join(append([]string{p.root}, elem...)...)
}

func (p *preflight) read(path string) string {
	b, err := os.ReadFile(p.path(path))
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(b))
}

func (p *preflight) exists(path string) bool {
	_, err := os.Stat(p.path(path))
	return err == nil
}

func (p *preflight) user(add adder) {
	if p.euid != 0 {
		add(true, "root", fmt.Sprintf("user id %d", p.euid), "run keadm as root: the kubelet mounts volumes and makes cgroups")
	}
}

func (p *preflight) kernel(add adder) {
	if !p.exists("sys/fs/cgroup/cgroup.controllers") {
		add(false, "cgroup-v1", "control groups of version 1", "boot with systemd.unified_cgroup_hierarchy=1: Kubernetes supports version 1 only in maintenance mode")
	}
	if fs := p.read("proc/filesystems"); fs != "" && !strings.Contains(fs, "overlay") && !p.exists("sys/module/overlay") {
		add(true, "overlayfs", "the kernel offers no overlay file system", "modprobe overlay, and have it loaded at boot (/etc/modules-load.d)")
	}
	if p.read("proc/sys/net/ipv4/ip_forward") == "0" {
		add(false, "ip-forward", "net.ipv4.ip_forward is 0", "sysctl -w net.ipv4.ip_forward=1, and set it in /etc/sysctl.d: pods reach nothing else without it")
	}
}

func (p *preflight) memory(add adder) {
	if lines := strings.Split(p.read("proc/swaps"), "\n"); len(lines) > 1 {
		add(false, "swap", strings.Fields(lines[1])[0]+" is in use", "swapoff -a and remove it from /etc/fstab, unless you know that the kubelet's limits may be passed")
	}
}

// pluginDirs are where distributions put CNI plugins.
var pluginDirs = []string{"opt/cni/bin", "usr/lib/cni", "usr/libexec/cni"}

func (p *preflight) network(add adder) {
	var missing []string
	for _, plugin := range []string{"bridge", "host-local", "loopback"} {
		if !slices.ContainsFunc(pluginDirs, func(d string) bool { return p.exists(filepath.Join(d, plugin)) }) {
			missing = append(missing, plugin)
		}
	}
	if len(missing) > 0 {
		add(true, "cni-plugins", "no "+strings.Join(missing, ", ")+" in /"+strings.Join(pluginDirs, ", /"), "install them: apt-get install containernetworking-plugins")
	}
	links, err := os.ReadDir(p.path("sys/class/net"))
	if err != nil {
		return
	}
	for _, l := range links {
		mtu, err := strconv.Atoi(p.read(filepath.Join("sys/class/net", l.Name(), "mtu")))
		if err == nil && mtu < 1280 && l.Name() != "lo" { // a device without one is no link
			add(false, "mtu", fmt.Sprintf("%s carries %d bytes at most", l.Name(), mtu), "raise it to 1280 or more, or expect the link over QUIC to fail and large packets of pods to be lost")
		}
	}
}

func (p *preflight) disk(add adder) {
	dir := p.config.DataDir
	for !p.exists(dir) && dir != "/" {
		dir = filepath.Dir(dir)
	}
	var s syscall.Statfs_t
	if err := syscall.Statfs(p.path(dir), &s); err != nil {
		return
	}
	free, total := s.Bavail*uint64(s.Bsize), s.Blocks*uint64(s.Bsize)
	switch {
	case free < 256<<20:
		add(true, "disk", fmt.Sprintf("%d MiB are free below %s", free>>20, dir), "free at least 256 MiB for the database, besides what images need")
	case free < total/10:
		add(false, "disk", fmt.Sprintf("%d MiB, %d %%, are free below %s", free>>20, free*100/total, dir), "free 10 %, or the kubelet will evict pods")
	}
}

// others looks for another kubelet: two on one machine end each other's pods.
func (p *preflight) others(add adder) {
	const name = "other-kubelet"
	_, others, err := kubelets(p.root, p.file)
	if err != nil {
		add(true, name, "whether another kubelet runs is not known: "+err.Error(), "mount it: mount -t proc proc /proc; two kubelets on one machine end each other's pods")
	}
	if len(others) > 0 {
		add(true, name, others[0].String(), "end and disable it: two kubelets on one machine end each other's pods; a node that 'keadm join' made is ended by 'keadm reset edge', with its --config")
	}
}

// listeners are the addresses that an edgecore listens on.
func listeners(cfg *v1alpha1.EdgeCore) []string {
	return []string{cfg.API.BindAddress, cfg.Metrics.BindAddress, fmt.Sprintf("127.0.0.1:%d", cfg.Kubelet.Port)}
}

func (p *preflight) listeners(add adder) {
	for _, a := range listeners(p.config) {
		if slices.Contains(p.held, a) {
			continue
		}
		l, err := net.Listen("tcp", a)
		if err != nil {
			add(true, "port", fmt.Sprintf("%s cannot be listened on: %v", a, err), "end what uses it, or choose another with --set (api.bindAddress, metrics.bindAddress, kubelet.port)")
			continue
		}
		_ = l.Close()
	}
}
