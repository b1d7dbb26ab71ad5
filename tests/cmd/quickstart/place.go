package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/tether-edge/tether/tests/cluster"
)

// place is where the quickstart keeps its things.
type place struct {
	root  string // top of the source tree
	state string // .tether in it
}

func findPlace(ctx context.Context) (*place, error) {
	root, err := cluster.ModuleRoot(ctx)
	if err != nil {
		return nil, err
	}
	return &place{root: root, state: filepath.Join(root, ".tether")}, nil
}

// path is a path below the state directory.
func (p *place) path(elem ...string) string {
	return filepath.Join(append([]string{p.state}, elem...)...)
}

// short is a path as one types it at the top of the source tree.
func (p *place) short(path string) string {
	if short, err := filepath.Rel(p.root, path); err == nil && filepath.IsLocal(short) {
		return short
	}
	return path
}

// manifest is the demonstration's application.
func (p *place) manifest() string {
	return filepath.Join(p.root, "tests", "cmd", "quickstart", "demo.yaml")
}

// devices are the demonstration's devices.
func (p *place) devices() string {
	return filepath.Join(p.root, "tests", "cmd", "quickstart", "devices.yaml")
}

// kubectlCache goes with the cluster.
func (p *place) kubectlCache() string { return filepath.Join(p.clusterDir(), "kubectl") }

// clusterDir is the directory of the cluster; down removes it whole.
func (p *place) clusterDir() string { return p.path("run") }

// kubeconfig is the admin's, at the place that the user is told.
func (p *place) kubeconfig() string { return p.path("admin.kubeconfig") }

// lock keeps a second quickstart out while one changes the system.
func (p *place) lock() (unlock func(), err error) {
	if err := os.MkdirAll(p.path(), 0o755); err != nil {
		return nil, fmt.Errorf("lock the quickstart: %w", err)
	}
	file, err := os.OpenFile(p.path("lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("lock the quickstart: %w", err)
	}
	if err := unix.Flock(int(file.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		file.Close()
		return nil, errors.New("expected to be alone, found another quickstart at work in this directory: wait for it, or end it with Ctrl-C in its terminal")
	}
	return func() { file.Close() }, nil
}

// open finds the running system.
func (p *place) open() (*cluster.Cluster, error) {
	c, err := cluster.Open(cluster.Config{Dir: p.clusterDir()})
	if errors.Is(err, fs.ErrNotExist) {
		return nil, errors.New("expected a running system, found none: start it with `make quickstart`")
	}
	return c, err
}

// removeOld takes down what an earlier run left, whatever its state, and reports whether there was something.
func (p *place) removeOld(ctx context.Context) (bool, error) {
	c, err := cluster.Open(cluster.Config{Dir: p.clusterDir()})
	if errors.Is(err, fs.ErrNotExist) {
		// Without a state file nothing was made yet, save perhaps the empty directory.
		return false, errors.Join(os.RemoveAll(p.clusterDir()), removeIfThere(p.kubeconfig()))
	}
	if err != nil {
		return false, err
	}
	return true, errors.Join(c.Down(ctx), removeIfThere(p.kubeconfig()))
}

func removeIfThere(path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}
