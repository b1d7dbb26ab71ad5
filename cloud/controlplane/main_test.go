package controlplane

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/spf13/pflag"
)

// asProgram makes the test binary the program controlplane.
const asProgram = "run-controlplane"

func TestMain(m *testing.M) {
	switch {
	case IsComponent(os.Args[1:]):
		os.Exit(RunComponent(os.Args[1:]))
	case len(os.Args) > 1 && os.Args[1] == asProgram:
		os.Exit(program(os.Args[2:]))
	}
	os.Exit(m.Run())
}

func program(args []string) int {
	cfg, fs := DefaultConfig(), pflag.NewFlagSet("", pflag.ExitOnError)
	cfg.AddFlags(fs)
	fs.Parse(args)
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	if err := New(cfg, Deps{Log: slog.New(slog.NewTextHandler(os.Stderr, nil)), Progress: os.Stdout}).Start(ctx); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

func testLog(t *testing.T) *slog.Logger { return slog.New(slog.NewTextHandler(testProgress{t}, nil)) }

type testProgress struct{ t *testing.T }

func (p testProgress) Write(b []byte) (int, error) {
	p.t.Log(strings.TrimSpace(string(b)))
	return len(b), nil
}

// process is a control plane that runs as a program of its own.
type process struct {
	t      *testing.T
	cmd    *exec.Cmd
	info   ReadyInfo
	output string // file
	done   chan struct{}
}

// launch starts the program, to be killed at the end of the test at the latest.
func launch(t *testing.T, dataDir string, flags ...string) *process {
	t.Helper()
	out, err := os.Create(filepath.Join(t.TempDir(), "output"))
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	args := []string{asProgram, "--data-dir=" + dataDir, "--ready-file=" + dataDir + ".ready"}
	for _, port := range (&Config{}).ports() {
		args = append(args, port.flag+"=0")
	}
	p := &process{t: t, cmd: exec.Command(exe, append(args, flags...)...), output: out.Name(), done: make(chan struct{})}
	p.cmd.Stdout, p.cmd.Stderr = out, out
	// Should the tests be killed, this one is too, and its components with it.
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		defer close(p.done)
		p.cmd.Wait()
	}()
	t.Cleanup(func() {
		p.cmd.Process.Kill()
		<-p.done
	})
	return p
}

func (p *process) said() string {
	body, _ := os.ReadFile(p.output)
	return string(body)
}

func (p *process) waitReady(readyFile string) {
	p.t.Helper()
	eventually(p.t, 2*time.Minute, "the control plane is ready", func() error {
		select {
		case <-p.done:
			p.t.Fatalf("the control plane ended before it was ready:\n%s", p.said())
		default:
		}
		body, err := os.ReadFile(readyFile)
		if err != nil {
			return err
		}
		return json.Unmarshal(body, &p.info)
	})
}

// exitCode waits for the program to end by itself.
func (p *process) exitCode() int {
	p.t.Helper()
	select {
	case <-p.done:
	case <-time.After(time.Minute):
		p.t.Fatalf("the control plane did not end:\n%s", p.said())
	}
	return p.cmd.ProcessState.ExitCode()
}

// children returns the pids of the components by name.
func (p *process) children() map[string]int {
	p.t.Helper()
	out := map[string]int{}
	entries, err := os.ReadDir("/proc")
	if err != nil {
		p.t.Fatal(err)
	}
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil || parentOf(pid) != p.cmd.Process.Pid {
			continue
		}
		cmdline, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
		if args := strings.Split(string(cmdline), "\x00"); len(args) > 2 && IsComponent(args[1:]) {
			out[args[2]] = pid
		}
	}
	return out
}

// parentOf returns 0 if there is no such process, or it is only waiting to be reaped.
func parentOf(pid int) int {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0
	}
	fields := strings.Fields(string(stat[strings.LastIndexByte(string(stat), ')')+1:]))
	if fields[0] == "Z" || fields[0] == "X" {
		return 0
	}
	parent, _ := strconv.Atoi(fields[1])
	return parent
}

func noneLeft(pids map[string]int) error {
	var left []error
	for name, pid := range pids {
		if parentOf(pid) != 0 {
			left = append(left, fmt.Errorf("%s (%d) is still there", name, pid))
		}
	}
	return errors.Join(left...)
}

func eventually(t *testing.T, within time.Duration, what string, check func() error) {
	t.Helper()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	deadline := time.Now().Add(within)
	for {
		err := check()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("not within %v: %s: %v", within, what, err)
		}
		<-tick.C
	}
}
