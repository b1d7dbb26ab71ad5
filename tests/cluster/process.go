package cluster

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// ProcessConfig says what to run and where.
type ProcessConfig struct {
	// Name is unique in the cluster. It names the log file (log/NAME.log) and the control group.
	Name string
	// Argv is the program, as a path or found in PATH, and its arguments. Programs on an edge host start in its root
	// directory, so paths must be absolute.
	Argv []string
	// Env is added to the environment of this process.
	Env []string
	// Host runs the program inside an edge host; nil runs it on the machine itself.
	Host *EdgeHost
}

// Process is one program of a cluster. It can be started again after it ended; the log goes on.
type Process struct {
	cluster *Cluster
	name    string
	host    *EdgeHost

	mu     sync.Mutex    // guards what follows
	ended  chan struct{} // closed when the running process has ended; nil for one that another harness started
	result error         // of the last process that ended, from exec.Cmd.Wait
}

// Start starts a program and records it. It returns once the program's first instruction runs, not when it is ready.
func (c *Cluster) Start(cfg ProcessConfig) (*Process, error) {
	if cfg.Name == "" || strings.ContainsAny(cfg.Name, "/ ") || len(cfg.Argv) == 0 {
		return nil, fmt.Errorf("start a process: expected a name without slash and space, and a program, found %q and %q", cfg.Name, cfg.Argv)
	}
	if p := c.Process(cfg.Name); p != nil && p.Alive() {
		return nil, fmt.Errorf("start %s: it runs already as process %d", cfg.Name, p.PID())
	}
	p := &Process{cluster: c, name: cfg.Name, host: cfg.Host}
	record := processState{Name: cfg.Name, Argv: cfg.Argv, Env: cfg.Env}
	if cfg.Host != nil {
		record.Host = cfg.Host.name
	}
	err := c.update(func(s *state) {
		if old := s.process(cfg.Name); old != nil {
			record.Starts = old.Starts
			*old = record
		} else {
			s.Processes = append(s.Processes, record)
		}
		c.processes[cfg.Name] = p
	})
	if err != nil {
		return nil, fmt.Errorf("start %s: %w", cfg.Name, err)
	}
	if err := p.start(record); err != nil {
		return nil, err
	}
	return p, nil
}

// adopt is the Process of one that another harness started.
func adopt(c *Cluster, s processState) *Process {
	return &Process{cluster: c, name: s.Name, host: c.hosts[s.Host]}
}

// start runs the recorded program and records its identity.
func (p *Process) start(record processState) error {
	c := p.cluster
	group := c.state.Cgroup + "/machine/" + p.name
	argv := record.Argv
	if p.host != nil {
		group = p.host.Cgroup() + "/" + p.name
		enter, err := p.host.enter()
		if err != nil {
			return fmt.Errorf("start %s: %w", p.name, err)
		}
		argv = append(enter, argv...)
	}
	cmd, err := c.commandIn(group, argv)
	if err != nil {
		return fmt.Errorf("start %s: %w", p.name, err)
	}
	cmd.Env = append(os.Environ(), record.Env...)
	log, err := os.OpenFile(c.LogPath(p.name), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644)
	if err != nil {
		return fmt.Errorf("start %s: %w", p.name, err)
	}
	defer log.Close()
	cmd.Stdout, cmd.Stderr = log, log
	// A session of its own keeps a terminal's Ctrl-C from reaching it before its harness decides.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if !c.state.Keep {
		cmd.SysProcAttr.Pdeathsig = syscall.SIGKILL
	}
	if err := c.starter.start(cmd); err != nil {
		return fmt.Errorf("start %s: %w", p.name, err)
	}
	ended := make(chan struct{})
	p.mu.Lock()
	p.ended = ended
	p.mu.Unlock()
	go func() {
		err := cmd.Wait()
		p.mu.Lock()
		p.result = err
		p.mu.Unlock()
		close(ended)
	}()

	found, err := processIdentity(cmd.Process.Pid)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("start %s: %w", p.name, err)
	}
	err = c.update(func(s *state) {
		r := s.process(p.name)
		r.Identity = found
		r.Starts++
	})
	if err != nil {
		return fmt.Errorf("start %s: %w", p.name, err)
	}
	c.log.Info("process started", "name", p.name, "pid", cmd.Process.Pid, "log", c.LogPath(p.name))
	return nil
}

// commandIn prepares a command that moves itself into a control group and then becomes argv. Doing it in the child,
// before the program is there, leaves no moment in which a descendant could be outside the group.
func (c *Cluster) commandIn(group string, argv []string) (*exec.Cmd, error) {
	if err := makeCgroup(c.machine.Hierarchies, group); err != nil {
		return nil, err
	}
	const script = `for dir in $1; do echo 0 > "$dir/cgroup.procs" || exit 126; done; shift; exec "$@"`
	dirs := strings.Join(groupDirs(c.machine.Hierarchies, group), " ")
	return exec.Command("/bin/sh", append([]string{"-c", script, "sh", dirs}, argv...)...), nil
}

// record returns what the state says about the process.
func (p *Process) record() processState {
	p.cluster.mu.Lock()
	defer p.cluster.mu.Unlock()
	return *p.cluster.state.process(p.name)
}

// Name is the name it was started under.
func (p *Process) Name() string { return p.name }

// PID is the process id of the last start.
func (p *Process) PID() int { return p.record().Identity.PID }

// Restarts counts how often it was started again.
func (p *Process) Restarts() int { return p.record().Starts - 1 }

// Alive reports whether it runs.
func (p *Process) Alive() bool { return p.record().Identity.alive() }

// Ended is closed when the process that was started last has ended. It is nil, and so blocks for ever, for a process
// that another harness started: use Alive there.
func (p *Process) Ended() <-chan struct{} {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.ended
}

// Result is the error of the last process that ended (nil after exit code 0; an *exec.ExitError otherwise).
func (p *Process) Result() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.result
}

// Signal sends a signal. A process that has ended is no error.
func (p *Process) Signal(sig syscall.Signal) error {
	return p.record().Identity.signal(unix.Signal(sig))
}

// Kill ends it with SIGKILL and returns when it is gone.
func (p *Process) Kill() error {
	if err := p.Signal(syscall.SIGKILL); err != nil {
		return fmt.Errorf("kill %s: %w", p.name, err)
	}
	return p.waitGone(10 * time.Second)
}

// Stop ends it with SIGTERM, and with SIGKILL if it still runs after grace; that it had to be killed is an error.
func (p *Process) Stop(grace time.Duration) error {
	if err := p.Signal(syscall.SIGTERM); err != nil {
		return fmt.Errorf("stop %s: %w", p.name, err)
	}
	if err := p.waitGone(grace); err != nil {
		return errors.Join(fmt.Errorf("stop %s: SIGTERM did not end it: %w", p.name, err), p.Kill())
	}
	return nil
}

// waitGone waits for the end and, for a child of ours, until its result is there.
func (p *Process) waitGone(timeout time.Duration) error {
	if err := p.record().Identity.waitGone(timeout); err != nil {
		return err
	}
	if ended := p.Ended(); ended != nil {
		<-ended
	}
	return nil
}

// Restart starts it again with the same program, arguments and environment. It must have ended.
func (p *Process) Restart() error {
	if p.Alive() {
		return fmt.Errorf("restart %s: it still runs as process %d", p.name, p.PID())
	}
	return p.start(p.record())
}

// LogPath is the file that its standard output and error go to.
func (p *Process) LogPath() string { return p.cluster.LogPath(p.name) }

// LogTail returns the last n lines of its log, for an error message.
func (p *Process) LogTail(n int) string { return tail(p.LogPath(), n) }

// tail returns the last n lines of a file, or why there are none.
func tail(path string, n int) string {
	text, err := os.ReadFile(path)
	if err != nil {
		return fmt.Sprintf("(%v)", err)
	}
	lines := strings.Split(strings.TrimRight(string(text), "\n"), "\n")
	if len(lines) > n {
		lines = lines[len(lines)-n:]
	}
	return filepath.Base(path) + ": " + strings.Join(lines, "\n"+filepath.Base(path)+": ")
}
