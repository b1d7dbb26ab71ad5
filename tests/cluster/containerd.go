package cluster

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tether-edge/tether/build/images"
)

// containerdReady bounds the wait for containerd's CRI after its start; it takes well under a second, and longer on a
// machine that is compiling.
const containerdReady = 60 * time.Second

// maxSocketPath is what the kernel allows for a Unix socket's path (sun_path of unix(7), with the closing zero).
const maxSocketPath = 107

// Socket is the path of containerd's socket, outside and inside. For the kubelet put "unix://" before it.
func (h *EdgeHost) Socket() string { return filepath.Join(h.Dir(), "run", "containerd.sock") }

// Containerd is the host's containerd process, or nil before the first boot.
func (h *EdgeHost) Containerd() *Process { return h.cluster.Process(h.name + "-containerd") }

// StartContainerd starts containerd, also after it was killed, and waits until its CRI and the pod network are ready.
func (h *EdgeHost) StartContainerd(ctx context.Context) error {
	if len(h.Socket()) > maxSocketPath {
		return fmt.Errorf("start containerd: expected a socket path of at most %d bytes, found %d (%s): use a directory nearer to the root", maxSocketPath, len(h.Socket()), h.Socket())
	}
	version, err := containerdVersion(ctx, h.cluster.machine.Programs["containerd"])
	if err != nil {
		return fmt.Errorf("start containerd: %w", err)
	}
	snapshotter, err := chooseSnapshotter(h.cluster.dir)
	if err != nil {
		return fmt.Errorf("start containerd: %w", err)
	}
	text := containerdConfig{
		Root:             filepath.Join(h.Dir(), "disk", "containerd"),
		State:            filepath.Join(h.Dir(), "run", "containerd"),
		Socket:           h.Socket(),
		Runc:             h.cluster.machine.Programs["runc"],
		CNIBin:           h.cluster.machine.CNIBin,
		CNIConf:          "/etc/cni/net.d",
		Pause:            images.Pause,
		Snapshotter:      snapshotter,
		Registries:       h.registries(),
		RestrictOOMScore: h.cluster.machine.RestrictOOMScore(),
	}.text(version)
	path := filepath.Join(h.Dir(), "containerd.toml")
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		return fmt.Errorf("start containerd: %w", err)
	}
	p, err := h.Start(ProcessConfig{Name: h.name + "-containerd", Argv: []string{h.cluster.machine.Programs["containerd"], "--config", path}})
	if err != nil {
		return err
	}
	if err := h.waitRuntime(ctx, p); err != nil {
		return fmt.Errorf("start containerd: %w; the end of its log:\n%s", err, p.LogTail(10))
	}
	return nil
}

// waitRuntime waits until the CRI says that runtime and network are ready.
func (h *EdgeHost) waitRuntime(ctx context.Context, p *Process) error {
	return poll(containerdReady, "containerd to be ready", func() error {
		cri, err := h.CRI(ctx)
		if err != nil {
			return err
		}
		defer cri.Close()
		return cri.Ready(ctx)
	}, ctx.Err, func() error {
		if !p.Alive() {
			return fmt.Errorf("it ended: %v", p.Result())
		}
		return nil
	})
}

// Import puts images into the host's containerd, where the kubelet finds them by their names.
func (h *EdgeHost) Import(ctx context.Context, archives ...images.Archive) error {
	for _, a := range archives {
		cmd := exec.CommandContext(ctx, h.cluster.machine.Programs["ctr"], "--address", h.Socket(), "--namespace", "k8s.io", "images", "import", a.Path)
		if text, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("import image %s: %w: %s", a.Name, err, strings.TrimSpace(string(text)))
		}
	}
	return nil
}

// registries is the folder in which containerd looks for how to reach a registry.
func (h *EdgeHost) registries() string { return filepath.Join(h.Dir(), "disk", "registries") }

// TrustRegistry tells the host's containerd, also while it runs, that the registry at host:port has a certificate of the
// authority (PEM).
func (h *EdgeHost) TrustRegistry(address string, authority []byte) error {
	dir := filepath.Join(h.registries(), address)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("trust registry %s: %w", address, err)
	}
	ca := filepath.Join(dir, "ca.crt")
	// docs/hosts.md of containerd. A host section of its own would be another host to try.
	text := fmt.Sprintf("server = \"https://%s\"\nca = %q\n", address, ca)
	if err := errors.Join(os.WriteFile(ca, authority, 0o644), os.WriteFile(filepath.Join(dir, "hosts.toml"), []byte(text), 0o644)); err != nil {
		return fmt.Errorf("trust registry %s: %w", address, err)
	}
	return nil
}

// version is a containerd version, as far as its configuration depends on it.
type version struct{ major, minor int }

// containerdVersion asks the program. Its answer looks like
// "containerd github.com/containerd/containerd 1.6.20~ds1 1.6.20~ds1-1+deb12u3".
func containerdVersion(ctx context.Context, program string) (version, error) {
	if program == "" {
		return version{}, errors.New("expected containerd to be installed, found none: see host.Install")
	}
	text, err := exec.CommandContext(ctx, program, "--version").Output()
	if err != nil {
		return version{}, fmt.Errorf("ask %s for its version: %w", program, err)
	}
	return parseVersion(string(text))
}

func parseVersion(text string) (version, error) {
	fields := strings.Fields(text)
	if len(fields) >= 3 {
		parts := strings.SplitN(strings.TrimPrefix(fields[2], "v"), ".", 3)
		if len(parts) >= 2 {
			major, majorErr := strconv.Atoi(parts[0])
			minor, minorErr := strconv.Atoi(parts[1])
			if majorErr == nil && minorErr == nil {
				return version{major, minor}, nil
			}
		}
	}
	return version{}, fmt.Errorf("expected a containerd version such as 1.6.20, found %q", strings.TrimSpace(text))
}

// chooseSnapshotter picks overlayfs, which cannot lie on an overlay file system (as inside a container) itself.
func chooseSnapshotter(dir string) (string, error) {
	var fs unix.Statfs_t
	if err := unix.Statfs(dir, &fs); err != nil {
		return "", fmt.Errorf("look at the file system of %s: %w", dir, err)
	}
	if fs.Type == unix.OVERLAYFS_SUPER_MAGIC {
		return "native", nil
	}
	return "overlayfs", nil
}

// containerdConfig is what the configuration file depends on.
type containerdConfig struct {
	Root, State, Socket string
	Runc                string
	CNIBin, CNIConf     string
	Pause               string
	Snapshotter         string
	Registries          string // a folder with one for each registry
	RestrictOOMScore    bool
}

// text is the configuration file for a containerd of this version: form 2 for 1.x (docs/cri/config.md of containerd
// 1.6), form 3 for 2.x, where the CRI is two plugins (docs/cri/config.md of containerd 2.0).
func (c containerdConfig) text(v version) string {
	var b strings.Builder
	add := func(format string, args ...any) { fmt.Fprintf(&b, format+"\n", args...) }
	form, runtime := 2, `plugins."io.containerd.grpc.v1.cri"`
	if v.major >= 2 {
		form, runtime = 3, `plugins."io.containerd.cri.v1.runtime"`
	}
	add("version = %d", form)
	add("root = %q", c.Root)
	add("state = %q", c.State)
	// It would make directories outside of root.
	add(`disabled_plugins = ["io.containerd.internal.v1.opt"]`)
	add("[grpc]\n  address = %q", c.Socket)
	if v.major >= 2 {
		add("[plugins.\"io.containerd.cri.v1.images\"]\n  snapshotter = %q", c.Snapshotter)
		add("[plugins.\"io.containerd.cri.v1.images\".pinned_images]\n  sandbox = %q", c.Pause)
	}
	registry := runtime
	if v.major >= 2 {
		registry = `plugins."io.containerd.cri.v1.images"`
	}
	add("[%s.registry]\n  config_path = %q", registry, c.Registries)
	add("[%s]", runtime)
	if v.major < 2 {
		add("  sandbox_image = %q", c.Pause)
	}
	add("  restrict_oom_score_adj = %t", c.RestrictOOMScore)
	add("[%s.cni]\n  bin_dir = %q\n  conf_dir = %q", runtime, c.CNIBin, c.CNIConf)
	add("[%s.containerd]\n  default_runtime_name = \"runc\"", runtime)
	if v.major < 2 {
		add("  snapshotter = %q", c.Snapshotter)
	}
	add("[%s.containerd.runtimes.runc]\n  runtime_type = \"io.containerd.runc.v2\"", runtime)
	add("[%s.containerd.runtimes.runc.options]\n  BinaryName = %q\n  SystemdCgroup = false", runtime, c.Runc)
	return b.String()
}
