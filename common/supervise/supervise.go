// Package supervise keeps one command running on a host without systemd.
//
// It promises that the command is back within a second of any end, that one which keeps ending at once is tried at
// least every five seconds, that SIGTERM to the supervisor is passed on and waited for, that the command does not
// outlive the supervisor even if that is killed, that the kernel takes the command first when memory is short, where it
// lets a process say so, and that what else ends beneath it leaves no zombie. `keadm supervise` runs it for edgecore; on
// a host with systemd the units in build/systemd do the same.
package supervise

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tether-edge/tether/common/backoff"
)

const (
	// brief is the life below which an end counts as one at start.
	brief = time.Second
	// patience is how many ends at start in a row are answered at once; from then on the waits grow.
	patience = 3
	// first and longest bound the waits between starts.
	first   = time.Second
	longest = 5 * time.Second
)

// Config says what to run.
type Config struct {
	// Command is the program and its arguments. The program is looked up in PATH.
	Command []string
	// PIDFile and ChildPIDFile, if set, hold the supervisor's and the command's process id while each lives.
	PIDFile      string
	ChildPIDFile string
	// StopTimeout is how long the command may take to end after SIGTERM before it is killed. Zero waits for ever.
	StopTimeout time.Duration
	// Log, if set, is what the command writes to, and is kept from growing. It is the caller's to close.
	Log *Log
	// Stdout and Stderr are the command's where there is no Log; os.Stdout and os.Stderr if nil.
	Stdout *os.File
	Stderr *os.File
}

// A Supervisor runs one command until it is told to stop. Build it with New. It waits for all children of its process,
// so the process must have no others.
type Supervisor struct {
	cfg   Config
	path  string
	log   *slog.Logger
	waits *backoff.Backoff
	fails int    // ends at start in a row
	end   string // how the command ended last
	oom   shelter
}

// New checks the configuration. It returns an error if the command cannot be found.
func New(cfg Config, log *slog.Logger) (*Supervisor, error) {
	if len(cfg.Command) == 0 {
		return nil, errors.New("supervise: no command given: expected -- PROGRAM ARGUMENTS")
	}
	path, err := exec.LookPath(cfg.Command[0])
	if err != nil {
		return nil, fmt.Errorf("supervise: %w", err)
	}
	if cfg.Log != nil {
		cfg.Stdout, cfg.Stderr = cfg.Log.File(), cfg.Log.File()
	}
	if cfg.Stdout == nil {
		cfg.Stdout = os.Stdout
	}
	if cfg.Stderr == nil {
		cfg.Stderr = os.Stderr
	}
	return &Supervisor{
		cfg: cfg, path: path, log: log, end: endNone, oom: newShelter(),
		waits: backoff.New(backoff.Config{Base: first, Max: longest}),
	}, nil
}

// Start runs the command again and again until ctx is done, then ends it with SIGTERM and waits for it. It returns an
// error only if it cannot work at all: a live supervisor holds PIDFile, or a pid file cannot be written.
func (s *Supervisor) Start(ctx context.Context) error {
	if err := s.claim(); err != nil {
		return err
	}
	defer s.release(s.cfg.PIDFile)
	// Orphans of the command become ours, so that await can collect them.
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("supervise: adopt orphans: %w", err)
	}
	if s.cfg.Log != nil {
		watched := make(chan struct{})
		go func() { defer close(watched); s.cfg.Log.watch(ctx, s.log) }()
		defer func() { <-watched }()
	}
	if err := s.oom.enter(); err != nil {
		s.log.Info("the kernel may kill this supervisor, and the command with it, when memory is short", "reason", err)
	}
	for ctx.Err() == nil {
		begun := time.Now()
		state := s.once(ctx)
		if ctx.Err() != nil {
			s.log.Info("command stopped", "command", s.path, "state", state)
			return nil
		}
		wait := s.pause(time.Since(begun))
		s.log.Warn("command ended, starting it again", "command", s.path, "state", state,
			"ran", time.Since(begun).Round(time.Millisecond), "wait", wait.Round(time.Millisecond))
		select {
		case <-ctx.Done():
		case <-time.After(wait):
		}
	}
	return nil
}

// pause returns how long to wait after the command ran for the given time: nothing, unless it ended at start several
// times in a row.
func (s *Supervisor) pause(ran time.Duration) time.Duration {
	if ran >= brief {
		s.fails = 0
		s.waits.Reset()
		return 0
	}
	s.fails++
	if s.fails <= patience {
		return 100 * time.Millisecond // a command that cannot start must not use up a core
	}
	return s.waits.Next()
}

// once runs the command to its end and describes that.
func (s *Supervisor) once(ctx context.Context) (state string) {
	// The kernel sends Pdeathsig when the thread that started the child ends, so this thread must last as long.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	// SIGKILL: a supervisor that died leaves nobody to wait for a polite end. Setpgid: a terminal's interrupt reaches
	// the command once, through us.
	attributes := &os.ProcAttr{
		Files: []*os.File{nil, s.cfg.Stdout, s.cfg.Stderr},
		Env:   append(slices.DeleteFunc(os.Environ(), func(v string) bool { return strings.HasPrefix(v, FormerEndEnv+"=") }), FormerEndEnv+"="+s.end),
		Sys:   &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: true},
	}
	var p *os.Process
	var err error
	if err := s.oom.outside(func() { p, err = os.StartProcess(s.path, s.cfg.Command, attributes) }); err != nil {
		s.log.Warn("the kernel may choose the wrong one when memory is short", "err", err)
	}
	if err != nil {
		return "not started: " + err.Error()
	}
	s.log.Info("command started", "command", s.path, "pid", p.Pid)
	if err := writePID(s.cfg.ChildPIDFile, p.Pid); err != nil {
		s.log.Warn("cannot write the command's pid file", "err", err)
	}
	defer s.release(s.cfg.ChildPIDFile)
	ended := make(chan struct{})
	told := make(chan struct{})
	stop := context.AfterFunc(ctx, func() { defer close(told); s.terminate(p, ended) })
	status := await(p.Pid)
	if s.end = endExit; status.Signaled() {
		s.end = endSignal
	}
	close(ended)
	if !stop() {
		<-told
	}
	if err := p.Release(); err != nil {
		s.log.Debug("cannot release the process handle", "err", err)
	}
	return describe(status)
}

// await blocks until the child pid has ended, and collects every other child that ends meanwhile: as a subreaper we
// are given the command's orphans.
func await(pid int) syscall.WaitStatus {
	for {
		var status syscall.WaitStatus
		got, err := syscall.Wait4(-1, &status, 0, nil)
		if got == pid || err != nil && err != syscall.EINTR {
			return status
		}
	}
}

func describe(s syscall.WaitStatus) string {
	if s.Signaled() {
		return "killed by " + s.Signal().String()
	}
	return "exit status " + strconv.Itoa(s.ExitStatus())
}

// terminate asks p to end and kills it when it takes too long.
func (s *Supervisor) terminate(p *os.Process, ended <-chan struct{}) {
	if err := p.Signal(syscall.SIGTERM); err != nil {
		return // it has ended already
	}
	if s.cfg.StopTimeout <= 0 {
		return
	}
	select {
	case <-ended:
	case <-time.After(s.cfg.StopTimeout):
		s.log.Warn("command did not end, killing it", "pid", p.Pid, "waited", s.cfg.StopTimeout)
		if err := p.Kill(); err != nil {
			s.log.Debug("command ended while it was about to be killed", "err", err)
		}
	}
}

// claim writes our pid file unless a live process of the same program holds it.
func (s *Supervisor) claim() error {
	if s.cfg.PIDFile == "" {
		return nil
	}
	if old, ok := readPID(s.cfg.PIDFile); ok && old != os.Getpid() && program(old) == program(os.Getpid()) {
		return fmt.Errorf("supervise: %s names process %d, which is running: stop it first", s.cfg.PIDFile, old)
	}
	if err := writePID(s.cfg.PIDFile, os.Getpid()); err != nil {
		return fmt.Errorf("supervise: %w", err)
	}
	return nil
}

func (s *Supervisor) release(file string) {
	if file == "" {
		return
	}
	if err := os.Remove(file); err != nil && !errors.Is(err, os.ErrNotExist) {
		s.log.Warn("cannot remove pid file", "err", err)
	}
}

func writePID(file string, pid int) error {
	if file == "" {
		return nil
	}
	// A reader must never see half a number: written aside, then renamed.
	tmp := file + ".new"
	if err := os.WriteFile(tmp, []byte(strconv.Itoa(pid)+"\n"), 0o644); err != nil {
		return fmt.Errorf("write pid file: %w", err)
	}
	if err := os.Rename(tmp, file); err != nil {
		return fmt.Errorf("write pid file: %w", err)
	}
	return nil
}

func readPID(file string) (pid int, ok bool) {
	b, err := os.ReadFile(file)
	if err != nil {
		return 0, false
	}
	pid, err = strconv.Atoi(strings.TrimSpace(string(b)))
	return pid, err == nil && pid > 0
}

// program returns the name of the program that a process runs, empty if there is no such process. A pid from before a
// reboot may belong to anyone.
func program(pid int) string {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/comm", pid))
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(b))
}
