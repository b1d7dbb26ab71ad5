package keadm

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/tether-edge/tether/build"
	"github.com/tether-edge/tether/common/pki"
	"github.com/tether-edge/tether/common/supervise"
)

// Ways to run a service.
const (
	serviceAuto    = "auto"
	serviceSystemd = "systemd"
	serviceProcess = "process"
	serviceNone    = "none"
)

// services are what --service takes.
var services = []string{serviceAuto, serviceSystemd, serviceProcess, serviceNone}

// A service is edgecore or cloudcore on this machine.
type service struct {
	kind   string
	name   string // of the program
	config string
	// state is where the supervisor's files are, units where systemd's of this machine's administrator are.
	state, units string
}

// newService returns the service of a program with that configuration file. Where keadm itself keeps it running, its
// process ids and its log are in the directory state.
func newService(kind, name, config, state string) (*service, error) {
	s := &service{kind: kind, name: name, config: config, state: state, units: "/etc/systemd/system"}
	switch kind {
	case serviceAuto:
		s.kind = serviceProcess
		// systemd's own way to tell whether it runs the machine.
		if _, err := os.Stat("/run/systemd/system"); err == nil {
			s.kind = serviceSystemd
		}
	case serviceSystemd, serviceProcess, serviceNone:
	default:
		return nil, fmt.Errorf("%w: --service: expected auto, systemd, process or none, found %q", errUsage, kind)
	}
	return s, nil
}

// program finds the program: beside keadm, else in the path.
func (s *service) program() (string, error) {
	if self, err := os.Executable(); err == nil {
		if p := filepath.Join(filepath.Dir(self), s.name); isFile(p) {
			return p, nil
		}
	}
	p, err := exec.LookPath(s.name)
	if err != nil {
		return "", fmt.Errorf("find %s: expected it beside keadm or in the path: %w", s.name, err)
	}
	return filepath.Abs(p)
}

// runDir is where the supervisor's files are.
func runDir(data string) string { return filepath.Join(data, "run") }

func isFile(p string) bool {
	info, err := os.Stat(p)
	return err == nil && info.Mode().IsRegular()
}

func (s *service) unit() string         { return filepath.Join(s.units, s.name+".service") }
func (s *service) pidFile() string      { return filepath.Join(s.state, s.name+"-supervisor.pid") }
func (s *service) childPIDFile() string { return filepath.Join(s.state, s.name+".pid") }
func (s *service) logFile() string      { return filepath.Join(s.state, s.name+".log") }

// install makes it run now and after each boot, as far as this machine can.
func (s *service) install(ctx context.Context, w IO) error {
	program, err := s.program()
	if err != nil {
		return err
	}
	switch s.kind {
	case serviceNone:
		fmt.Fprintf(w.Out, "next:    keep this running: %s --config %s\n", program, s.config)
		return nil
	case serviceSystemd:
		unit := strings.Replace(string(build.Unit(s.name)), "ExecStart=/usr/local/bin/"+s.name+" --config /etc/tether/"+s.name+".yaml",
			"ExecStart="+program+" --config "+s.config, 1)
		if err := pki.WriteFile(s.unit(), []byte(unit), 0o644); err != nil {
			return err
		}
		for _, args := range [][]string{{"daemon-reload"}, {"enable", s.name}, {"restart", s.name}} {
			if err := command(ctx, "systemctl", args...); err != nil {
				return err
			}
		}
		fmt.Fprintf(w.Out, "started  %s under systemd: systemctl status %s\n", s.name, s.name)
		return nil
	}
	if _, err := s.stop(ctx); err != nil {
		return err
	}
	if err := s.spawn(program); err != nil {
		return err
	}
	fmt.Fprintf(w.Out, "started  %s under 'keadm supervise', log in %s\n", s.name, s.logFile())
	fmt.Fprintf(w.Err, "keadm: this machine has no systemd: have its own init run this at boot: %s\n", strings.Join(s.supervised(program), " "))
	return nil
}

func (s *service) supervised(program string) []string {
	self, err := os.Executable()
	if err != nil {
		self = "keadm"
	}
	return []string{self, "supervise", "--pid-file", s.pidFile(), "--child-pid-file", s.childPIDFile(), "--log-file", s.logFile(), "--", program, "--config", s.config}
}

// spawn starts the supervisor in a session of its own, so that it outlives keadm and its terminal.
func (s *service) spawn(program string) error {
	if err := os.MkdirAll(s.state, 0o755); err != nil {
		return fmt.Errorf("start %s: %w", s.name, err)
	}
	log, err := os.OpenFile(s.logFile(), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o640)
	if err != nil {
		return fmt.Errorf("start %s: %w", s.name, err)
	}
	defer log.Close()
	argv := s.supervised(program)
	c := exec.Command(argv[0], argv[1:]...)
	c.Stdout, c.Stderr, c.Dir = log, log, "/"
	c.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := c.Start(); err != nil {
		return fmt.Errorf("start %s: %w", s.name, err)
	}
	return c.Process.Release()
}

// foreign returns the configuration file that systemd's unit of this name has, where it is another one than ours.
func (s *service) foreign() string {
	if s.kind != serviceSystemd {
		return ""
	}
	b, err := os.ReadFile(s.unit())
	if err != nil {
		return ""
	}
	for line := range strings.Lines(string(b)) {
		if _, config, ok := strings.Cut(strings.TrimSpace(line), " --config "); ok && strings.HasPrefix(line, "ExecStart=") && config != s.config {
			return config
		}
	}
	return ""
}

// supervisor returns the process id of a supervisor of ours that runs, 0 if none does.
func (s *service) supervisor() (int, error) {
	b, err := os.ReadFile(s.pidFile())
	if errors.Is(err, os.ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, fmt.Errorf("stop %s: %w", s.name, err)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(b)))
	if err != nil {
		return 0, fmt.Errorf("stop %s: expected a process id in %s: %w; end its supervisor and remove the file", s.name, s.pidFile(), err)
	}
	// A number from before a reboot may belong to anybody.
	line, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
	if err != nil || !strings.Contains(string(line), "supervise\x00") || !strings.Contains(string(line), s.config) {
		return 0, nil
	}
	return pid, nil
}

// pid is the process of the program itself; 0 where it does not run. An error means that nothing says.
func (s *service) pid(ctx context.Context) (int, error) {
	var text []byte
	var err error
	if s.kind == serviceSystemd {
		text, err = exec.CommandContext(ctx, "systemctl", "show", "--property", "MainPID", "--value", s.name).Output()
	} else if text, err = os.ReadFile(s.childPIDFile()); errors.Is(err, os.ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, fmt.Errorf("look for the process of %s: %w", s.name, err)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil {
		return 0, fmt.Errorf("look for the process of %s: expected its id: %w", s.name, err)
	}
	return pid, nil
}

// started reports whether that process of the machine below root is one that stop ends: systemd's, or a child of our
// supervisor.
func (s *service) started(ctx context.Context, root, process string) (bool, error) {
	if s.kind == serviceSystemd && isFile(s.unit()) {
		pid, err := s.pid(ctx)
		if err != nil || strconv.Itoa(pid) == process {
			return err == nil, err
		}
	}
	supervisor, err := s.supervisor()
	if err != nil || supervisor == 0 {
		return false, err
	}
	status, err := os.ReadFile(filepath.Join(root, "proc", process, "status"))
	if errors.Is(err, os.ErrNotExist) {
		return true, nil // it has ended meanwhile
	}
	return strings.Contains(string(status), fmt.Sprintf("\nPPid:\t%d\n", supervisor)), err
}

// stop ends the service, whichever way it runs, and reports whether it ran.
func (s *service) stop(ctx context.Context) (ran bool, err error) {
	if s.kind == serviceSystemd && isFile(s.unit()) {
		ran = command(ctx, "systemctl", "is-active", "--quiet", s.name) == nil
		if err := command(ctx, "systemctl", "stop", s.name); err != nil {
			return false, err
		}
	}
	pid, err := s.supervisor()
	if err != nil || pid == 0 {
		return ran, err
	}
	if err := syscall.Kill(pid, syscall.SIGTERM); err != nil && !errors.Is(err, syscall.ESRCH) {
		return false, fmt.Errorf("stop %s: %w", s.name, err)
	}
	for limit := time.Now().Add(40 * time.Second); time.Now().Before(limit); time.Sleep(50 * time.Millisecond) {
		if _, err := os.Stat(fmt.Sprintf("/proc/%d", pid)); errors.Is(err, os.ErrNotExist) {
			return true, nil
		}
	}
	return false, fmt.Errorf("stop %s: process %d did not end within 40 s", s.name, pid)
}

// remove undoes install and reports whether the service ran.
func (s *service) remove(ctx context.Context) (ran bool, err error) {
	if config := s.foreign(); config != "" {
		return false, fmt.Errorf("stop %s: %s is for another configuration: expected %s, found %s; name that one with --config", s.name, s.unit(), s.config, config)
	}
	if ran, err = s.stop(ctx); err != nil {
		return false, err
	}
	if s.kind == serviceSystemd && isFile(s.unit()) {
		if err := errors.Join(command(ctx, "systemctl", "disable", s.name), os.Remove(s.unit()), command(ctx, "systemctl", "daemon-reload")); err != nil {
			return ran, err
		}
	}
	for _, f := range []string{s.pidFile(), s.childPIDFile(), s.logFile(), supervise.FormerLog(s.logFile())} {
		if err := os.Remove(f); err != nil && !errors.Is(err, os.ErrNotExist) {
			return ran, err
		}
	}
	removeEmpty(s.state)
	return ran, nil
}

// removeEmpty removes directories that hold nothing any more.
func removeEmpty(dirs ...string) {
	for _, d := range dirs {
		_ = os.Remove(d) // one that holds something, or is not there, stays as it is
	}
}

func command(ctx context.Context, name string, args ...string) error {
	if out, err := exec.CommandContext(ctx, name, args...).CombinedOutput(); err != nil {
		return fmt.Errorf("%s %s: %w: %s", name, strings.Join(args, " "), err, strings.TrimSpace(string(out)))
	}
	return nil
}
