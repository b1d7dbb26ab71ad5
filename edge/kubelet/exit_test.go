package kubelet

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"k8s.io/client-go/rest"
	"k8s.io/klog/v2"
)

// The kubelet's fatal faults end the process, so these tests run this test binary again with a kubelet that has one.
const (
	faultEnv  = "TETHER_TEST_KUBELET_FAULT"
	socketEnv = "TETHER_TEST_KUBELET_SOCKET"
	stateEnv  = "TETHER_TEST_KUBELET_STATE"
)

var faults = map[string]func(){
	"exit": func() {
		klog.Background().Error(errors.New("no cpuset"), "Failed to start ContainerManager")
		os.Exit(1)
	},
	"fatal": func() { klog.Fatalf("Failed to initialize CSINode after retrying: %v", "timed out") },
	"kill":  func() { _ = syscall.Kill(os.Getpid(), syscall.SIGKILL); select {} },
}

func TestMain(m *testing.M) {
	if fault := os.Getenv(faultEnv); fault != "" {
		os.Exit(runFaulty(faults[fault]))
	}
	os.Exit(m.Run())
}

func runFaulty(fault func()) int {
	state := os.Getenv(stateEnv)
	k, err := New(Config{NodeName: "n", RootDir: filepath.Join(state, "root"), StateDir: state, RuntimeEndpoint: os.Getenv(socketEnv), Port: 1},
		Deps{RESTConfig: &rest.Config{Host: "http://127.0.0.1:1"}, Log: slog.New(slog.NewTextHandler(io.Discard, nil))})
	if err != nil {
		return 99
	}
	k.kmsg, k.detect = os.DevNull, goodHost
	k.launch = func(context.Context, Host, string, *observer) error { fault(); return nil }
	if err := k.Start(context.Background()); err != nil {
		return 98
	}
	return 97
}

func TestKubeletThatEndsTheProcessLeavesItsReason(t *testing.T) {
	for fault, want := range map[string]string{
		"exit":  "the kubelet's last error: Failed to start ContainerManager: no cpuset",
		"fatal": "the kubelet's last error: Failed to initialize CSINode after retrying: timed out",
		"kill":  "the process ended without a word from the kubelet",
	} {
		t.Run(fault, func(t *testing.T) {
			state := t.TempDir()
			tr := newTrial(t, state, nil) // for its socket
			(&fakeRuntime{}).serve(t, tr.cfg.RuntimeEndpoint)
			for attempt := 1; attempt <= 2; attempt++ {
				cmd := exec.Command(os.Args[0])
				cmd.Env = append(os.Environ(), faultEnv+"="+fault, stateEnv+"="+state, socketEnv+"="+tr.cfg.RuntimeEndpoint)
				cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
				out, err := cmd.CombinedOutput()
				if exit := (*exec.ExitError)(nil); !errors.As(err, &exit) || slices.Contains([]int{97, 98, 99}, exit.ExitCode()) {
					t.Fatalf("attempt %d: %v; expected the fault to end the process:\n%s", attempt, err, out)
				}
				attempts, reason := (&marks{dir: state, boot: "boot"}).failed()
				if attempts != attempt || !strings.HasPrefix(reason, want) {
					t.Errorf("after %d ends: %d attempts, reason %q; expected %q", attempt, attempts, reason, want)
				}
			}
		})
	}
}

func TestKubeletStartsOnceInAProcess(t *testing.T) {
	started.Store(true)
	defer started.Store(false)
	if err := newTrial(t, t.TempDir(), nil).Start(context.Background()); !errors.Is(err, ErrStartedBefore) {
		t.Errorf("second Start = %v, expected %v", err, ErrStartedBefore)
	}
}
