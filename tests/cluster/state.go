package cluster

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"golang.org/x/sys/unix"
)

// stateFile is the name of the state file in a cluster's directory; stateVersion is raised when its form changes.
const (
	stateFile    = "state.json"
	stateVersion = 1
)

// state is all that is needed to find a cluster again. It is written before the things that it names are made: links
// and control groups have names that follow from ID, so an interrupted run leaves nothing that Down cannot find.
type state struct {
	Version   int            `json:"version"`
	ID        string         `json:"id"`
	Owner     identity       `json:"owner"` // the process that made the cluster
	Keep      bool           `json:"keep"`
	Cgroup    string         `json:"cgroup"` // below the root of each hierarchy
	Number    int            `json:"number"` // N in the cloud's address; 0 while there is none
	Hosts     []hostState    `json:"hosts"`
	Processes []processState `json:"processes"`
}

// hostState records one edge host.
type hostState struct {
	Name   string   `json:"name"`
	Number int      `json:"number"` // N in its addresses
	Split  bool     `json:"split"`
	Bare   bool     `json:"bare"`
	Holder identity `json:"holder"` // the process that holds its namespaces; zero while it is powered off
}

// processState records one process and how to start it again.
type processState struct {
	Name     string   `json:"name"`
	Host     string   `json:"host"` // empty for the machine itself
	Argv     []string `json:"argv"`
	Env      []string `json:"env"`
	Starts   int      `json:"starts"`
	Identity identity `json:"identity"` // of the last start
}

// save replaces the state file in one step, so that a reader sees the old or the new one, whole.
func (s *state) save(dir string) error {
	text, err := json.MarshalIndent(s, "", "  ")
	if err != nil {
		return fmt.Errorf("encode the state: %w", err)
	}
	path := filepath.Join(dir, stateFile)
	if err := os.WriteFile(path+".new", append(text, '\n'), 0o600); err != nil {
		return fmt.Errorf("write the state: %w", err)
	}
	if err := os.Rename(path+".new", path); err != nil {
		return fmt.Errorf("write the state: %w", err)
	}
	return nil
}

func loadState(dir string) (state, error) {
	var s state
	path := filepath.Join(dir, stateFile)
	text, err := os.ReadFile(path)
	if err != nil {
		return s, fmt.Errorf("read the state: %w", err)
	}
	if err := json.Unmarshal(text, &s); err != nil {
		return s, fmt.Errorf("read the state: %s: %w; remove the directory if nothing of it runs any more", path, err)
	}
	if s.Version != stateVersion || s.ID == "" || s.Cgroup != "/tether-"+s.ID {
		return s, fmt.Errorf("read the state: %s: expected version %d with an id, found version %d with id %q and cgroup %q", path, stateVersion, s.Version, s.ID, s.Cgroup)
	}
	return s, nil
}

func (s *state) host(name string) *hostState {
	if i := slices.IndexFunc(s.Hosts, func(h hostState) bool { return h.Name == name }); i >= 0 {
		return &s.Hosts[i]
	}
	return nil
}

func (s *state) process(name string) *processState {
	if i := slices.IndexFunc(s.Processes, func(p processState) bool { return p.Name == name }); i >= 0 {
		return &s.Processes[i]
	}
	return nil
}

// lockMachine serializes what must not be done by two harnesses at once: choosing addresses, making and sweeping
// clusters. The kernel lets go of the lock when its holder dies.
func lockMachine() (unlock func(), err error) {
	path := filepath.Join(os.TempDir(), "tether-harness.lock")
	file, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("lock the machine: %w", err)
	}
	if err := unix.Flock(int(file.Fd()), unix.LOCK_EX); err != nil {
		file.Close()
		return nil, fmt.Errorf("lock the machine: %s: %w", path, err)
	}
	return func() { file.Close() }, nil
}
