package controlplane

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"runtime"
	"syscall"
	"time"
)

const (
	restartDelayMin = time.Second
	restartDelayMax = 30 * time.Second
	// steadyAfter is how long a component must run for its next exit to be a new trouble, not the old one.
	steadyAfter = time.Minute
	// outputGrace is how long output may keep coming from a dead component's pipe.
	outputGrace = time.Second
)

// child keeps one component running: started once, restarted with back-off
// after unexpected exits, until stopped.
type child struct {
	name       string
	executable string
	args       []string
	lock       *os.File // of the data directory; see dataDir
	output     *logFile
	log        *slog.Logger
	stopGrace  time.Duration // between SIGTERM and SIGKILL

	stopping chan struct{} // closed by stop
	gone     chan struct{} // closed when the component is gone and stays so
	// firstExit is closed at the first exit, with exitErr set before; see wait in startup.go.
	firstExit chan struct{}
	exitErr   error
}

// startChild starts the component, or says why it cannot be started.
func startChild(c child) (*child, error) {
	c.stopping, c.gone, c.firstExit = make(chan struct{}), make(chan struct{}), make(chan struct{})
	started := make(chan error, 1)
	go c.keep(started)
	if err := <-started; err != nil {
		return nil, fmt.Errorf("start %s: %w", c.name, err)
	}
	return &c, nil
}

// keep stays on one thread, since the kernel's "signal at the death of the
// parent" means the thread that made the child, not the process.
func (c *child) keep(started chan<- error) {
	defer close(c.gone)
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()

	delay := restartDelayMin
	for first := true; ; first = false {
		began := time.Now()
		cmd, err := c.spawn()
		if first {
			started <- err
			if err != nil {
				return
			}
		}
		if err == nil {
			err = c.wait(cmd)
		}
		if first {
			c.exitErr = err
			close(c.firstExit)
		}
		select {
		case <-c.stopping:
			return
		default:
		}
		if time.Since(began) > steadyAfter {
			delay = restartDelayMin
		}
		c.log.Error("component ended, starting it again", "component", c.name, "cause", err, "in", delay, "log", c.output.path)
		select {
		case <-c.stopping:
			return
		case <-time.After(delay):
		}
		delay = min(2*delay, restartDelayMax)
	}
}

func (c *child) spawn() (*exec.Cmd, error) {
	cmd := exec.Command(c.executable, append([]string{componentVerb, c.name}, c.args...)...)
	cmd.Env = childEnvironment(os.Environ())
	cmd.Dir = "/"
	cmd.Stdout, cmd.Stderr = c.output, c.output
	cmd.ExtraFiles = []*os.File{c.lock}
	cmd.WaitDelay = outputGrace
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Pdeathsig: syscall.SIGKILL,
		Setpgid:   true, // Ctrl-C reaches us alone: we stop the components in order
	}
	fmt.Fprintf(c.output, "=== %s starting %s\n", time.Now().UTC().Format(time.RFC3339), c.name)
	return cmd, cmd.Start()
}

// wait returns how the process ended, having passed a stop on to it.
func (c *child) wait(cmd *exec.Cmd) error {
	ended := make(chan struct{})
	passed := make(chan struct{})
	go func() {
		defer close(passed)
		select {
		case <-ended:
			return
		case <-c.stopping:
		}
		cmd.Process.Signal(syscall.SIGTERM)
		select {
		case <-ended:
		case <-time.After(c.stopGrace):
			c.log.Warn("component did not stop in time, killing it", "component", c.name, "after", c.stopGrace)
			cmd.Process.Kill()
		}
	}()
	err := cmd.Wait()
	close(ended)
	<-passed
	if err == nil {
		err = errors.New("exit status 0")
	}
	return err
}

// stop ends the component and returns once it is gone. Call it once.
func (c *child) stop() {
	close(c.stopping)
	<-c.gone
}
