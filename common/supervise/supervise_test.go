package supervise

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"
)

// A supervisor collects every child of its process, so the tests run it in a process of its own: this binary, told by
// its environment.
const asSupervisor = "TETHER_TEST_SUPERVISE_DIR"

// withLog, in its environment, gives it a log of testLogSize.
const (
	withLog     = "TETHER_TEST_SUPERVISE_LOG"
	testLogSize = 1000
)

// withScore, in its environment, names a file that stands for the kernel's score of the process. What is written to it is noted
// in another.
const withScore = "TETHER_TEST_SUPERVISE_SCORE"

func TestMain(m *testing.M) {
	if dir := os.Getenv(asSupervisor); dir != "" {
		ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
		defer stop()
		cfg := Config{
			Command: os.Args[1:], PIDFile: filepath.Join(dir, "pid"), ChildPIDFile: filepath.Join(dir, "child"),
			StopTimeout: 3 * time.Second, // a shell that is to end in its time may be slow
		}
		var err error
		if os.Getenv(withLog) != "" {
			if cfg.Log, err = OpenLog(filepath.Join(dir, "log"), testLogSize); err != nil {
				fmt.Fprintln(os.Stderr, err)
				os.Exit(1)
			}
			cfg.Log.check = 10 * time.Millisecond
		}
		s, err := New(cfg, slog.New(slog.NewTextHandler(os.Stderr, nil)))
		if file := os.Getenv(withScore); file != "" && err == nil {
			s.oom.file, s.oom.write = file, note
		}
		if err == nil {
			err = s.Start(ctx)
		}
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	goleak.VerifyTestMain(m)
}

// process is a supervisor in a process of its own, running a shell script.
type process struct {
	t   *testing.T
	cmd *exec.Cmd
	dir string
	log *bytes.Buffer
}

func start(t *testing.T, dir, script string) *process {
	t.Helper()
	p := &process{t: t, dir: dir, log: &bytes.Buffer{}}
	p.cmd = exec.Command(os.Args[0], "/bin/sh", "-c", script)
	p.cmd.Env = append(os.Environ(), asSupervisor+"="+dir, "DIR="+dir)
	p.cmd.Stderr = p.log
	p.cmd.WaitDelay = 5 * time.Second // a command that outlives its supervisor holds the pipe open
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if p.cmd.ProcessState == nil {
			_ = p.cmd.Process.Kill()
			_ = p.cmd.Wait()
		}
	})
	return p
}

// eventually waits until ok, at most 10 s.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); !ok(); {
		if time.Now().After(deadline) {
			t.Fatalf("not within 10 s: %s", what)
		}
		<-time.After(5 * time.Millisecond)
	}
}

func alive(pid int) bool { return syscall.Kill(pid, 0) == nil }

// child waits for a running command other than not, and returns its process id.
func (p *process) child(not int) (pid int) {
	p.t.Helper()
	eventually(p.t, "a command runs", func() bool {
		var ok bool
		pid, ok = readPID(filepath.Join(p.dir, "child"))
		return ok && pid != not && alive(pid)
	})
	return pid
}

func (p *process) exists(file string) bool {
	_, err := os.Stat(filepath.Join(p.dir, file))
	return err == nil
}

const sleepForever = `touch "$DIR/started"; exec sleep 1000`

func TestBackWithinASecondOfAnyEnd(t *testing.T) {
	p := start(t, t.TempDir(), sleepForever)
	pid := p.child(0)
	for range 3 {
		killed := time.Now()
		if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		pid = p.child(pid)
		if took := time.Since(killed); took > time.Second {
			t.Errorf("back after %v, expected within a second", took)
		}
	}
	if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := p.cmd.Wait(); err != nil {
		t.Errorf("supervisor: %v", err)
	}
	if !strings.Contains(p.log.String(), "killed by killed") {
		t.Errorf("the log does not say how the command ended:\n%s", p.log)
	}
}

// What a command hears of the one before it: none, then how that ended.
func TestACommandHearsHowTheOneBeforeItEnded(t *testing.T) {
	t.Setenv(FormerEndEnv, "nonsense") // of somebody else's
	p := start(t, t.TempDir(), `echo $TETHER_FORMER_END >>"$DIR/heard"; [ -e "$DIR/leave" ] && rm "$DIR/leave" && exit 3; exec sleep 1000`)
	heard := func() []string {
		b, _ := os.ReadFile(filepath.Join(p.dir, "heard")) // it is not there at first
		return strings.Fields(string(b))
	}
	hear := func(want ...string) {
		t.Helper()
		eventually(t, fmt.Sprint("they heard ", want), func() bool { return slices.Equal(heard(), want) })
	}
	kill := func(pid int) {
		t.Helper()
		if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
	}
	hear("none")
	first := p.child(0)
	kill(first)
	hear("none", "signal")
	if err := os.WriteFile(filepath.Join(p.dir, "leave"), nil, 0o600); err != nil { // the next one ends by itself
		t.Fatal(err)
	}
	kill(p.child(first))
	hear("none", "signal", "signal", "exit")
	for end, killed := range map[string]bool{"none": true, "signal": true, "exit": false, "": false, "nonsense": false} {
		t.Setenv(FormerEndEnv, end)
		if FormerWasKilled() != killed {
			t.Errorf("after %q the former was killed: %t, expected %t", end, !killed, killed)
		}
		if Supervised() != (end != "") {
			t.Errorf("with %q supervised: %t", end, Supervised())
		}
	}
}

func TestTermIsPassedOnAndWaitedFor(t *testing.T) {
	p := start(t, t.TempDir(), `trap 'sleep 0.2; touch "$DIR/done"; exit 7' TERM; touch "$DIR/started"; while :; do sleep 0.05; done`)
	pid := p.child(0)
	eventually(t, "the trap is set", func() bool { return p.exists("started") })
	if own, _ := readPID(filepath.Join(p.dir, "pid")); own != p.cmd.Process.Pid {
		t.Errorf("pid file names %d, expected %d", own, p.cmd.Process.Pid)
	}
	if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := p.cmd.Wait(); err != nil {
		t.Errorf("supervisor: %v", err)
	}
	if !p.exists("done") || alive(pid) {
		t.Errorf("the supervisor ended before its command: done %v, alive %v\n%s", p.exists("done"), alive(pid), p.log)
	}
	if p.exists("pid") || p.exists("child") {
		t.Error("pid files were left behind")
	}
}

func TestACommandThatWillNotEndIsKilled(t *testing.T) {
	p := start(t, t.TempDir(), `trap '' TERM; touch "$DIR/started"; while :; do sleep 0.05; done`)
	pid := p.child(0)
	eventually(t, "the trap is set", func() bool { return p.exists("started") })
	if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	asked := time.Now()
	if err := p.cmd.Wait(); err != nil || alive(pid) {
		t.Errorf("supervisor: %v, command alive: %v", err, alive(pid))
	}
	if took := time.Since(asked); took > 10*time.Second {
		t.Errorf("killed after %v, expected after three seconds", took)
	}
}

func TestNothingOutlivesAKilledSupervisor(t *testing.T) {
	p := start(t, t.TempDir(), sleepForever)
	pid := p.child(0)
	if err := p.cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = p.cmd.Wait() // reports the kill
	eventually(t, "the command died with its supervisor", func() bool { return !alive(pid) })
}

func TestOrphansAreAdoptedAndLeaveNoZombie(t *testing.T) {
	p := start(t, t.TempDir(), `(sleep 1000 & echo $! >"$DIR/orphan.new"; mv "$DIR/orphan.new" "$DIR/orphan"); exec sleep 1000`)
	p.child(0)
	var orphan int
	eventually(t, "the orphan was made", func() (ok bool) { orphan, ok = readPID(filepath.Join(p.dir, "orphan")); return })
	t.Cleanup(func() { _ = syscall.Kill(orphan, syscall.SIGKILL) })
	adopted := fmt.Sprintf("\nPPid:\t%d\n", p.cmd.Process.Pid)
	eventually(t, "the supervisor adopted the orphan", func() bool {
		status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", orphan))
		return err == nil && strings.Contains(string(status), adopted)
	})
	if err := syscall.Kill(orphan, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the orphan was collected", func() bool { return !alive(orphan) }) // a zombie still takes signals
}

func TestOneSupervisorForOnePIDFile(t *testing.T) {
	dir := t.TempDir()
	p := start(t, dir, sleepForever)
	pid := p.child(0)
	second := start(t, dir, sleepForever)
	var exit *exec.ExitError
	if err := second.cmd.Wait(); !errors.As(err, &exit) || !strings.Contains(second.log.String(), fmt.Sprintf("process %d", p.cmd.Process.Pid)) {
		t.Errorf("second supervisor: %v, expected a refusal that names the first:\n%s", err, second.log)
	}
	if !alive(pid) || !p.exists("pid") {
		t.Error("the second supervisor disturbed the first")
	}
}

func TestAStalePIDFileIsNoObstacle(t *testing.T) {
	dir := t.TempDir()
	// Process 1 lives always, and is not ours: a pid from before a reboot.
	if err := os.WriteFile(filepath.Join(dir, "pid"), []byte("1\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	start(t, dir, sleepForever).child(0)
}

func TestWaitsGrowOnlyForACommandThatKeepsEndingAtStart(t *testing.T) {
	s, err := New(Config{Command: []string{"/bin/sh"}}, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	for i := range patience {
		if d := s.pause(time.Millisecond); d > time.Second {
			t.Errorf("end %d at start: waits %v, expected at most a second", i+1, d)
		}
	}
	var most time.Duration
	for range 1000 {
		d := s.pause(time.Millisecond)
		if d > 5*time.Second {
			t.Fatalf("waits %v, expected at most 5 s", d)
		}
		most = max(most, d)
	}
	if most < 2*time.Second {
		t.Errorf("1,000 ends at start waited %v at most, expected the waits to grow", most)
	}
	if d := s.pause(time.Minute); d != 0 {
		t.Errorf("waits %v after a run of a minute, expected none", d)
	}
	if d := s.pause(0); d > time.Second {
		t.Errorf("waits %v: the good run was not counted", d)
	}
}

func TestAnAbsentProgramIsToldAtOnce(t *testing.T) {
	for _, command := range [][]string{nil, {"/no/such/program"}} {
		if _, err := New(Config{Command: command}, slog.New(slog.DiscardHandler)); err == nil {
			t.Errorf("New accepted command %q", command)
		}
	}
}
