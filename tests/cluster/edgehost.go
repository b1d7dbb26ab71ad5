package cluster

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/tether-edge/tether/build/images"
)

// EdgeConfig describes an edge host.
type EdgeConfig struct {
	// Name is unique in the cluster: lower-case letters, digits and hyphens.
	Name string
	// Images are imported once its containerd runs; one of them must be images.Pause, or no pod can start.
	Images []images.Archive
	// Split puts a gap in the cable, for a packet relay: see EdgeHost.RelayLinks.
	Split bool
	// Bare is a host for programs that need nothing but a network: without private directories and containerd.
	Bare bool
}

// EdgeHost is a machine within the machine: one network namespace that a veth joins to the machine's own, one mount
// namespace with private directories, one containerd, and control groups below Cgroup.
type EdgeHost struct {
	cluster *Cluster
	name    string
	number  int
	split   bool
	bare    bool
}

func newEdgeHost(c *Cluster, s hostState) *EdgeHost {
	return &EdgeHost{cluster: c, name: s.Name, number: s.Number, split: s.Split, bare: s.Bare}
}

// NewEdgeHost makes an edge host and boots it: when it returns, its containerd, if it is to have one,
// answers and has the images.
func (c *Cluster) NewEdgeHost(ctx context.Context, cfg EdgeConfig) (*EdgeHost, error) {
	if cfg.Name == "" || strings.Trim(cfg.Name, "abcdefghijklmnopqrstuvwxyz0123456789-") != "" {
		return nil, fmt.Errorf("make an edge host: expected a name of lower-case letters, digits and hyphens, found %q", cfg.Name)
	}
	if c.Host(cfg.Name) != nil {
		return nil, fmt.Errorf("make edge host %s: there is one of this name", cfg.Name)
	}
	h, err := c.reserveHost(cfg)
	if err != nil {
		return nil, fmt.Errorf("make edge host %s: %w", cfg.Name, err)
	}
	if err := h.Boot(ctx); err != nil {
		return nil, err
	}
	if err := h.Import(ctx, cfg.Images...); err != nil {
		return nil, err
	}
	return h, nil
}

// reserveHost chooses the addresses of a new host, makes the cable that takes them, and records both.
func (c *Cluster) reserveHost(cfg EdgeConfig) (*EdgeHost, error) {
	unlock, err := lockMachine()
	if err != nil {
		return nil, err
	}
	defer unlock()
	number, err := freeNumber(edgeNet)
	if err != nil {
		return nil, err
	}
	s := hostState{Name: cfg.Name, Number: number, Split: cfg.Split, Bare: cfg.Bare}
	h := newEdgeHost(c, s)
	err = c.update(func(st *state) {
		st.Hosts = append(st.Hosts, s)
		c.hosts[cfg.Name] = h
	})
	if err != nil {
		return nil, err
	}
	return h, h.plug()
}

// plug starts the holder and joins its network to the machine's.
func (h *EdgeHost) plug() error {
	if err := h.startHolder(); err != nil {
		return err
	}
	return h.makeLink()
}

// Boot brings the host up: namespaces and cable (unless they are there), private directories, containerd. It is also
// how a host comes back after PowerCut.
func (h *EdgeHost) Boot(ctx context.Context) error {
	if _, err := h.holder(); err != nil {
		if err := h.plug(); err != nil {
			return fmt.Errorf("boot edge host %s: %w", h.name, err)
		}
	}
	if h.bare {
		h.cluster.log.Info("edge host is up", "name", h.name, "address", h.Address())
		return nil
	}
	if err := h.Inside(true, h.mountPrivate); err != nil {
		return fmt.Errorf("boot edge host %s: %w", h.name, err)
	}
	if err := h.writeCNI(); err != nil {
		return fmt.Errorf("boot edge host %s: %w", h.name, err)
	}
	if err := h.StartContainerd(ctx); err != nil {
		return fmt.Errorf("boot edge host %s: %w", h.name, err)
	}
	h.cluster.log.Info("edge host is up", "name", h.name, "address", h.Address(), "socket", h.Socket())
	return nil
}

// PowerCut ends every process of the host at once, its containers included, as when the power fails: namespaces,
// mounts and volatile directories go, the disk stays. Boot brings the host back; its processes are started again by
// Process.Restart.
func (h *EdgeHost) PowerCut() error {
	if err := killGroup(h.cluster.machine.Hierarchies, h.Cgroup(), 20*time.Second, nil); err != nil {
		return fmt.Errorf("power cut of edge host %s: %w", h.name, err)
	}
	if err := errors.Join(h.removeLink(), os.RemoveAll(filepath.Join(h.Dir(), "run"))); err != nil {
		return fmt.Errorf("power cut of edge host %s: %w", h.name, err)
	}
	// What a real machine loses with its memory: the groups of the containers.
	if err := removeCgroup(h.cluster.machine.Hierarchies, h.Cgroup(), 20*time.Second); err != nil {
		return fmt.Errorf("power cut of edge host %s: %w", h.name, err)
	}
	return nil
}

// Command prepares a program that runs inside the host's namespaces and control groups. It starts in the root
// directory, so paths must be absolute; the caller sets input and output. The command is killed when ctx ends.
func (h *EdgeHost) Command(ctx context.Context, argv ...string) (*exec.Cmd, error) {
	cmd, err := h.command("commands", argv)
	if err != nil {
		return nil, err
	}
	withContext := exec.CommandContext(ctx, cmd.Path, cmd.Args[1:]...)
	return withContext, nil
}

// Run runs a program inside the host and returns its output; an error carries what it wrote to standard error.
func (h *EdgeHost) Run(ctx context.Context, argv ...string) (string, error) {
	cmd, err := h.Command(ctx, argv...)
	if err != nil {
		return "", err
	}
	out, err := cmd.Output()
	if exit := (*exec.ExitError)(nil); errors.As(err, &exit) {
		return string(out), fmt.Errorf("run %s on edge host %s: %w: %s", argv[0], h.name, err, strings.TrimSpace(string(exit.Stderr)))
	}
	if err != nil {
		return string(out), fmt.Errorf("run %s on edge host %s: %w", argv[0], h.name, err)
	}
	return string(out), nil
}

// Start starts a long-running program inside the host: Cluster.Start with Host set.
func (h *EdgeHost) Start(cfg ProcessConfig) (*Process, error) {
	cfg.Host = h
	return h.cluster.Start(cfg)
}

// Name is the host's name in the cluster.
func (h *EdgeHost) Name() string { return h.name }

// Dir is the directory of the host: disk/, run/, containerd's configuration. It has the same path inside and outside.
func (h *EdgeHost) Dir() string { return filepath.Join(h.cluster.dir, h.name) }

// Cgroup is the root of the host's control groups below each hierarchy: the kubelet's cgroupRoot. Each process has
// a group of its own below it, named after the process.
func (h *EdgeHost) Cgroup() string { return h.cluster.state.Cgroup + "/" + h.name }

// path is where the host keeps what it sees at target. kind is disk or run.
func (h *EdgeHost) path(kind, target string) string {
	return filepath.Join(h.Dir(), kind, strings.ReplaceAll(strings.Trim(target, "/"), "/", "-"))
}

// Path returns where a file of one of the host's private directories (such as /var/lib/kubelet/config.json) lies
// outside its mount namespace. Any other path is the same inside and outside and is returned as it is.
func (h *EdgeHost) Path(inside string) string {
	for kind, dirs := range map[string][]string{"disk": privateDisk, "run": privateRun} {
		for _, dir := range dirs {
			if rest, found := strings.CutPrefix(inside, dir); found && (rest == "" || rest[0] == '/') {
				return h.path(kind, dir) + rest
			}
		}
	}
	return inside
}
