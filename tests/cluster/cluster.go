// Package cluster brings up the parts of a Tether system on one machine: edge hosts, each with a network, a mount
// table, a containerd and control groups of its own, and the processes of control plane, cloud and edge.
//
// It promises that everything it makes can be found again from one state file and is gone after Down: no process,
// mount, namespace, link or control group stays, even if the process that made it was killed in the middle. It ends
// only processes that it recorded (by pid and start time) or that run in control groups that it made. It touches
// neither a containerd nor a kubelet that the machine already runs.
//
// Used by the quickstart, which leaves its cluster running, and by the tests, whose clusters die with them.
package cluster

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"

	"github.com/tether-edge/tether/tests/host"
)

// Config says where a cluster lives and how long.
type Config struct {
	// Dir is the directory of the cluster. It must not hold one yet; Down removes it with all that is in it.
	Dir string
	// Keep leaves the cluster running when the process that made it ends. Without it, its processes are killed with
	// that process, and Sweep removes the rest.
	Keep bool
	// Host is what host.Detect found; nil detects it.
	Host *host.Host
	// Log gets one line for each thing that is made or removed; nil discards them.
	Log *slog.Logger
}

// Cluster owns a directory and everything that the state file in it records.
type Cluster struct {
	dir     string
	machine *host.Host
	log     *slog.Logger
	starter *starter

	mu        sync.Mutex // guards what follows and the state file
	state     state
	hosts     map[string]*EdgeHost
	processes map[string]*Process
}

// ErrExists is returned by New when the directory holds a cluster already: Open it and take it Down first.
var ErrExists = errors.New("a cluster exists here")

// New makes an empty cluster in cfg.Dir.
func New(cfg Config) (*Cluster, error) {
	c, err := prepare(cfg)
	if err != nil {
		return nil, err
	}
	unlock, err := lockMachine()
	if err != nil {
		return nil, err
	}
	defer unlock()

	if _, err := os.Stat(filepath.Join(c.dir, stateFile)); err == nil {
		return nil, fmt.Errorf("make a cluster in %s: %w", c.dir, ErrExists)
	}
	owner, err := processIdentity(os.Getpid())
	if err != nil {
		return nil, fmt.Errorf("make a cluster: %w", err)
	}
	var id [3]byte
	rand.Read(id[:]) // never fails: see crypto/rand
	c.state = state{Version: stateVersion, ID: hex.EncodeToString(id[:]), Owner: owner, Keep: cfg.Keep}
	c.state.Cgroup = "/tether-" + c.state.ID
	if err := os.MkdirAll(filepath.Join(c.dir, "log"), 0o755); err != nil {
		return nil, fmt.Errorf("make a cluster: %w", err)
	}
	if err := c.state.save(c.dir); err != nil {
		return nil, fmt.Errorf("make a cluster: %w", err)
	}
	c.starter = newStarter()
	return c, nil
}

// Open finds the cluster that another process made in dir. Its hosts and processes can be used as if they had been
// made here, except that the exit codes of processes are unknown. os.ErrNotExist says that there is none.
func Open(cfg Config) (*Cluster, error) {
	c, err := prepare(cfg)
	if err != nil {
		return nil, err
	}
	if c.state, err = loadState(c.dir); err != nil {
		return nil, fmt.Errorf("open the cluster in %s: %w", c.dir, err)
	}
	c.starter = newStarter()
	for _, h := range c.state.Hosts {
		c.hosts[h.Name] = newEdgeHost(c, h)
	}
	for _, p := range c.state.Processes {
		c.processes[p.Name] = adopt(c, p)
	}
	return c, nil
}

// prepare fills in what New and Open have in common.
func prepare(cfg Config) (*Cluster, error) {
	dir, err := filepath.Abs(cfg.Dir)
	if err != nil {
		return nil, fmt.Errorf("find the directory %s: %w", cfg.Dir, err)
	}
	c := &Cluster{dir: dir, machine: cfg.Host, log: cfg.Log, hosts: map[string]*EdgeHost{}, processes: map[string]*Process{}}
	if c.log == nil {
		c.log = slog.New(slog.DiscardHandler)
	}
	if c.machine == nil {
		if c.machine, err = host.Detect("/"); err != nil {
			return nil, err
		}
	}
	return c, nil
}

// ID is six hexadecimal digits that are in the name of every link and control group of this cluster.
func (c *Cluster) ID() string { return c.state.ID }

// Dir is the directory of the cluster.
func (c *Cluster) Dir() string { return c.dir }

// Machine is what host.Detect found.
func (c *Cluster) Machine() *host.Host { return c.machine }

// LogPath is the file that the process of this name writes to.
func (c *Cluster) LogPath(process string) string {
	return filepath.Join(c.dir, "log", process+".log")
}

// Host returns an edge host by name, or nil.
func (c *Cluster) Host(name string) *EdgeHost {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.hosts[name]
}

// Process returns a process by name, or nil.
func (c *Cluster) Process(name string) *Process {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.processes[name]
}

// Processes returns all processes in the order in which they were first started.
func (c *Cluster) Processes() []*Process {
	c.mu.Lock()
	defer c.mu.Unlock()
	var all []*Process
	for _, p := range c.state.Processes {
		all = append(all, c.processes[p.Name])
	}
	return all
}

// update changes the state and writes it out before it returns, so that what is made next can be found again.
func (c *Cluster) update(change func(*state)) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	change(&c.state)
	return c.state.save(c.dir)
}

// Release ends this process's hold on a kept cluster and leaves it running. Only for clusters made with Keep or opened.
func (c *Cluster) Release(context.Context) { c.starter.stop() }
