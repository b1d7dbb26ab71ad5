package cluster

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/tether-edge/tether/tests/host"
)

// traces lists everything on the machine that belongs to the cluster with this state.
func traces(t *testing.T, machine *host.Host, dir string, s state) []string {
	t.Helper()
	var found []string
	links, err := linksNamed("te" + s.ID)
	if err != nil {
		t.Fatal(err)
	}
	for _, link := range links {
		found = append(found, "link "+link)
	}
	for _, group := range groupDirs(machine.Hierarchies, s.Cgroup) {
		if _, err := os.Stat(group); err == nil {
			found = append(found, "control group "+group)
		}
	}
	entries, err := os.ReadDir("/proc")
	if err != nil {
		t.Fatal(err)
	}
	for _, entry := range entries {
		var pid int
		if _, err := fmt.Sscan(entry.Name(), &pid); err != nil {
			continue
		}
		if _, err := processIdentity(pid); err != nil {
			continue // ended; an orphan stays as a zombie until the machine's init collects it
		}
		line, _ := os.ReadFile(filepath.Join("/proc", entry.Name(), "cmdline")) // gone meanwhile: empty
		if inGroup(pid, s.Cgroup) || pid != os.Getpid() && strings.Contains(string(line), dir) {
			found = append(found, fmt.Sprintf("process %d %q", pid, line))
		}
	}
	mounts, err := mountsBelow(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, mount := range mounts {
		found = append(found, "mount "+mount)
	}
	if _, err := os.Stat(dir); err == nil {
		found = append(found, "directory "+dir)
	}
	return found
}

// nothingLeft fails the test if there are traces. A process that was killed may take a moment to be gone from the list.
func nothingLeft(t *testing.T, machine *host.Host, dir string, s state) {
	t.Helper()
	Eventually(t, 5*time.Second, "nothing to be left", func() error {
		if left := traces(t, machine, dir, s); len(left) > 0 {
			return fmt.Errorf("found:\n%s", strings.Join(left, "\n"))
		}
		return nil
	})
}

func machineForTest(t *testing.T) *host.Host {
	t.Helper()
	machine, err := host.Detect("/")
	if err != nil {
		t.Fatal(err)
	}
	return machine
}

func TestDownLeavesNothing(t *testing.T) {
	h := bootForTest(t, EdgeConfig{Split: true})
	c := h.cluster
	_, ip := runDemo(t, h, "demo")
	ask(t, h, ip)
	if _, err := c.CloudAddress(); err != nil {
		t.Fatal(err)
	}
	before := traces(t, c.machine, c.dir, c.state)
	for _, kind := range []string{"link " + h.RootLink(), "link te" + c.ID() + "-c", "control group", "process", "directory"} {
		if !strings.Contains(strings.Join(before, "\n"), kind) {
			t.Errorf("expected to see a %s before Down, found %q", kind, before)
		}
	}
	if err := c.Down(t.Context()); err != nil {
		t.Fatal(err)
	}
	nothingLeft(t, c.machine, c.dir, c.state)
}

func TestAKilledHarnessIsCleanedUpByTheNextRun(t *testing.T) {
	stages := map[string]func(state, string) bool{
		"before the first process": func(s state, _ string) bool { return len(s.Hosts) == 1 },
		"while containerd starts":  func(s state, _ string) bool { return len(s.Processes) == 1 },
		"with a running container": func(_ state, said string) bool { return said == "ready" },
	}
	for name, reached := range stages {
		t.Run(name, func(t *testing.T) {
			base, err := os.MkdirTemp("", "tether-kill")
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { os.RemoveAll(base) })
			dir := filepath.Join(base, "c")
			s := killHarness(t, dir, reached)
			machine := machineForTest(t)
			if name == "with a running container" && len(traces(t, machine, dir, s)) < 4 {
				t.Fatal("expected the killed harness to leave a container behind, found nothing to clean up")
			}
			if err := Sweep(t.Context(), base, Config{Host: machine}); err != nil {
				t.Fatal(err)
			}
			nothingLeft(t, machine, dir, s)
		})
	}
}

// killHarness runs a harness of its own, kills it once it has reached a stage, and returns the state that it left.
func killHarness(t *testing.T, dir string, reached func(state, string) bool) state {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), harnessEnv+"="+dir)
	cmd.Stderr = t.Output()
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	starter := newStarter()
	defer starter.stop()
	if err := starter.start(cmd); err != nil {
		t.Fatal(err)
	}
	lines := make(chan string, 1)
	go func() {
		scanner := bufio.NewScanner(out)
		if scanner.Scan() {
			lines <- scanner.Text()
		}
		close(lines)
	}()
	var s state
	said := ""
	Eventually(t, 2*time.Minute, "the harness to get there", func() error {
		select {
		case line, open := <-lines:
			if !open {
				t.Fatal("the harness ended by itself")
			}
			said = line
		default:
		}
		var err error
		if s, err = loadState(dir); err == nil && !reached(s, said) {
			err = fmt.Errorf("it is at %+v", s)
		}
		return err
	})
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	for range lines { // its end, after which Wait may close the pipe
	}
	_ = cmd.Wait() // killed: that is the point
	if s, err = loadState(dir); err != nil {
		t.Fatal(err)
	}
	return s
}

func TestSweepLeavesRunningAndKeptClustersAlone(t *testing.T) {
	base := t.TempDir()
	machine := machineForTest(t)
	running, err := New(Config{Dir: filepath.Join(base, "running"), Host: machine})
	if err != nil {
		t.Fatal(err)
	}
	kept, err := New(Config{Dir: filepath.Join(base, "kept"), Host: machine, Keep: true})
	if err != nil {
		t.Fatal(err)
	}
	if err := kept.update(func(s *state) { s.Owner.Start++ }); err != nil { // its maker is dead
		t.Fatal(err)
	}
	if err := Sweep(t.Context(), base, Config{Host: machine}); err != nil {
		t.Fatal(err)
	}
	for _, c := range []*Cluster{running, kept} {
		if _, err := os.Stat(c.dir); err != nil {
			t.Errorf("expected %s to stay: %v", c.dir, err)
		}
		if err := c.Down(t.Context()); err != nil {
			t.Error(err)
		}
	}
}

func TestAKeptClusterIsFoundAgainAndTakenDown(t *testing.T) {
	machine := machineForTest(t)
	dir := filepath.Join(t.TempDir(), "kept")
	c, err := New(Config{Dir: dir, Host: machine, Keep: true})
	if err != nil {
		t.Fatal(err)
	}
	p, err := c.Start(ProcessConfig{Name: "sleeper", Argv: []string{"sleep", "infinity"}})
	if err != nil {
		t.Fatal(err)
	}
	c.Release(t.Context())
	if _, err := New(Config{Dir: dir, Host: machine}); !errors.Is(err, ErrExists) {
		t.Errorf("expected a second cluster in one directory to be refused, found %v", err)
	}
	again, err := Open(Config{Dir: dir, Host: machine})
	if err != nil {
		t.Fatal(err)
	}
	found := again.Process("sleeper")
	if found == nil || found.PID() != p.PID() || !found.Alive() {
		t.Fatalf("expected to find process %d again, found %+v", p.PID(), found)
	}
	if err := found.Kill(); err != nil {
		t.Fatal(err)
	}
	if err := found.Restart(); err != nil {
		t.Fatal(err)
	}
	if found.Restarts() != 1 || !found.Alive() {
		t.Errorf("expected one restart and a running process, found %d and %t", found.Restarts(), found.Alive())
	}
	if err := again.Down(t.Context()); err != nil {
		t.Fatal(err)
	}
	if left := traces(t, machine, dir, c.state); len(left) > 0 {
		t.Errorf("expected Down to leave nothing, found:\n%s", strings.Join(left, "\n"))
	}
}

func TestASignalNeverReachesAnotherProcessWithTheSamePID(t *testing.T) {
	cmd := exec.Command("sleep", "infinity")
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	starter := newStarter()
	defer starter.stop()
	if err := starter.start(cmd); err != nil {
		t.Fatal(err)
	}
	self, err := processIdentity(cmd.Process.Pid)
	if err != nil {
		t.Fatal(err)
	}
	before := self
	before.Start-- // the one that had this pid earlier
	if err := before.signal(syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if before.alive() {
		t.Error("expected the one that had the pid earlier to be gone")
	}
	if err := self.signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	// The signal that ended it tells whether the first one reached it: that comes before, and cannot be held off.
	var exit *exec.ExitError
	if err := cmd.Wait(); !errors.As(err, &exit) || exit.Sys().(syscall.WaitStatus).Signal() != syscall.SIGTERM {
		t.Errorf("expected the process to end by SIGTERM, found %v", err)
	}
	if self.alive() {
		t.Error("expected the process to be gone")
	}
}
