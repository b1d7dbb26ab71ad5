package kubelet

import (
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

func TestAbsentRuntimeIsWaitedForWithoutLimit(t *testing.T) {
	clock := newHandClock()
	tr := newTrial(t, t.TempDir(), clock)
	tr.begin()
	tr.expectState(StateWaitingRuntime)
	for begun := clock.Now(); clock.Now().Sub(begun) < time.Hour; {
		eventually(t, "the next look at the runtime, within 1 s", func() bool { return clock.pending(time.Second) == 1 })
		clock.advance(time.Second)
	}
	tr.expectNoLaunch()
	status := tr.Status()
	if status.State != StateWaitingRuntime || !strings.Contains(status.Reason, tr.cfg.RuntimeEndpoint) {
		t.Errorf("status %+v: expected %s and a reason that names the socket", status, StateWaitingRuntime)
	}
	tr.cancel()
	if err := tr.expectEnd(); err != nil {
		t.Errorf("Start = %v, expected nil after a stop", err)
	}
	if left, _ := os.ReadDir(tr.cfg.StateDir); len(left) > 0 {
		t.Errorf("waiting left a mark behind: %v", left)
	}
}

func TestRuntimeThatAppearsIsNoticed(t *testing.T) {
	tr := newTrial(t, t.TempDir(), nil)
	tr.begin()
	tr.expectState(StateWaitingRuntime)
	systemd := runtimeapi.CgroupDriver_SYSTEMD
	(&fakeRuntime{driver: &systemd}).serve(t, tr.cfg.RuntimeEndpoint)
	if driver := tr.expectLaunch(); driver != CgroupDriverSystemd {
		t.Errorf("cgroup driver %s, expected the runtime's, systemd", driver)
	}
	tr.expectState(StateStarting)
}

func TestRuntimeThatIsNotReadyIsWaitedFor(t *testing.T) {
	for name, c := range map[string]struct {
		runtime fakeRuntime
		reason  string
	}{
		"runtime not ready": {fakeRuntime{notReady: "StillStarting"}, "StillStarting"},
		"no image service":  {fakeRuntime{imageErr: errors.New("images are being read")}, "images are being read"},
	} {
		t.Run(name, func(t *testing.T) {
			tr := newTrial(t, t.TempDir(), newHandClock())
			c.runtime.serve(t, tr.cfg.RuntimeEndpoint)
			tr.begin()
			if status := tr.expectState(StateWaitingRuntime); !strings.Contains(status.Reason, c.reason) {
				t.Errorf("reason %q, expected it to say %q", status.Reason, c.reason)
			}
			tr.expectNoLaunch()
		})
	}
}

func TestNothingStartsBeforeTheFirstSync(t *testing.T) {
	tr := newTrial(t, t.TempDir(), nil)
	(&fakeRuntime{}).serve(t, tr.cfg.RuntimeEndpoint)
	asked, synced := make(chan bool), make(chan bool)
	tr.waitReady = func(ctx context.Context) error {
		close(asked)
		<-synced
		return ctx.Err()
	}
	tr.begin()
	<-asked
	tr.expectNoLaunch()
	if state := tr.Status().State; state != StateWaitingSync {
		t.Errorf("state %s, expected %s", state, StateWaitingSync)
	}
	close(synced)
	tr.expectLaunch()
}

func TestBusyPortIsWaitedForInsteadOfExitedOver(t *testing.T) {
	tr := newTrial(t, t.TempDir(), nil)
	(&fakeRuntime{}).serve(t, tr.cfg.RuntimeEndpoint)
	other, err := net.Listen("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(int(tr.cfg.Port))))
	if err != nil {
		t.Fatal(err)
	}
	tr.begin()
	if status := tr.expectState(StateWaitingHost); !strings.Contains(status.Reason, "mend: stop the other kubelet") {
		t.Errorf("reason %q, expected it to say how to mend", status.Reason)
	}
	other.Close()
	tr.expectLaunch()
}

func TestMissingHostFeaturesAreAllNamed(t *testing.T) {
	tr := newTrial(t, t.TempDir(), newHandClock())
	tr.kmsg = filepath.Join(t.TempDir(), "kmsg")
	tr.detect = func() (Host, error) { return Host{CgroupVersion: 1, Controllers: []string{"cpu", "cpuacct"}}, nil }
	tr.begin()
	status := tr.expectState(StateWaitingHost)
	for _, want := range []string{"mknod " + tr.kmsg, "found none of cpuset, memory"} {
		if !strings.Contains(status.Reason, want) {
			t.Errorf("reason %q, expected it to contain %q", status.Reason, want)
		}
	}
}

func TestFailedStartsDelayTheNext(t *testing.T) {
	dir, clock := t.TempDir(), newHandClock()
	last := &marks{dir: dir, boot: "boot"}
	if err := last.set(3, clock.Now()); err != nil {
		t.Fatal(err)
	}
	last.note("it hurt")
	tr := newTrial(t, dir, clock)
	(&fakeRuntime{}).serve(t, tr.cfg.RuntimeEndpoint)
	tr.begin()
	status := tr.expectState(StateDelayed)
	if want := clock.Now().Add(4 * time.Second); status.Attempts != 3 || !status.Until.Equal(want) || !strings.Contains(status.Reason, "it hurt") {
		t.Errorf("status %+v, expected 3 attempts, until %v, and the reason of the last end", status, want)
	}
	eventually(t, "the delay to be waited out", func() bool { return clock.pending(4*time.Second) == 1 })
	clock.advance(4*time.Second - 1)
	tr.expectNoLaunch()
	clock.advance(1)
	tr.expectLaunch()
	expectFailed(t, &marks{dir: dir, boot: "boot"}, 4, "the process ended without a word from the kubelet")
}

func TestRuntimeThatVanishesDuringTheDelayIsWaitedFor(t *testing.T) {
	dir, clock := t.TempDir(), newHandClock()
	if err := (&marks{dir: dir, boot: "boot"}).set(1, clock.Now()); err != nil {
		t.Fatal(err)
	}
	tr := newTrial(t, dir, clock)
	stop := (&fakeRuntime{}).serve(t, tr.cfg.RuntimeEndpoint)
	tr.begin()
	tr.expectState(StateDelayed)
	eventually(t, "the delay to be waited out", func() bool { return clock.pending(time.Second) == 1 })
	stop()
	clock.advance(time.Second)
	tr.expectState(StateWaitingRuntime)
	tr.expectNoLaunch()
}

func TestMarkGoesOnceTheKubeletIsStable(t *testing.T) {
	dir, clock := t.TempDir(), newHandClock()
	if err := (&marks{dir: dir, boot: "boot"}).set(1, clock.Now()); err != nil {
		t.Fatal(err)
	}
	tr := newTrial(t, dir, clock)
	(&fakeRuntime{}).serve(t, tr.cfg.RuntimeEndpoint)
	tr.begin()
	tr.expectState(StateDelayed)
	eventually(t, "the delay", func() bool { return clock.pending(time.Second) == 1 })
	clock.advance(time.Second)
	tr.expectLaunch()
	tr.settle <- true
	if status := tr.expectState(StateRunning); status.Attempts != 1 {
		t.Errorf("status %+v: expected the failed try to count until the kubelet is stable", status)
	}
	eventually(t, "the wait for stability", func() bool { return clock.pending(stableAfter) == 1 })
	clock.advance(stableAfter - 1)
	if attempts, _ := (&marks{dir: dir, boot: "boot"}).failed(); attempts != 2 {
		t.Errorf("before %v have passed: %d attempts marked, expected 2", stableAfter, attempts)
	}
	clock.advance(1)
	eventually(t, "the mark to go", func() bool { n, _ := (&marks{dir: dir, boot: "boot"}).failed(); return n == 0 })
	eventually(t, "no failed tries in the status", func() bool { return tr.Status().Attempts == 0 })
	tr.cancel()
	if err := tr.expectEnd(); err != nil {
		t.Errorf("Start = %v, expected nil after a stop", err)
	}
}

func TestStopDuringTheStartIsNoFailure(t *testing.T) {
	for _, before := range []int{0, 2} {
		dir := t.TempDir()
		if before > 0 {
			if err := (&marks{dir: dir, boot: "boot"}).set(before, time.Now()); err != nil {
				t.Fatal(err)
			}
		}
		clock := newHandClock()
		tr := newTrial(t, dir, clock)
		(&fakeRuntime{}).serve(t, tr.cfg.RuntimeEndpoint)
		tr.begin()
		if before > 0 {
			tr.expectState(StateDelayed)
			eventually(t, "the delay", func() bool { return clock.pending(time.Minute) == 1 })
			clock.advance(time.Minute)
		}
		tr.expectLaunch()
		tr.cancel()
		if err := tr.expectEnd(); err != nil {
			t.Errorf("Start = %v, expected nil after a stop", err)
		}
		if attempts, _ := (&marks{dir: dir, boot: "boot"}).failed(); attempts != before {
			t.Errorf("%d failed tries after a stop, expected %d as before", attempts, before)
		}
	}
}

func TestKubeletThatReturnsAnErrorIsReportedAndMarked(t *testing.T) {
	dir := t.TempDir()
	tr := newTrial(t, dir, nil)
	(&fakeRuntime{}).serve(t, tr.cfg.RuntimeEndpoint)
	tr.begin()
	tr.expectLaunch()
	broken := errors.New("no cgroup mounts")
	tr.end <- broken
	if err := tr.expectEnd(); !errors.Is(err, broken) {
		t.Errorf("Start = %v, expected %v", err, broken)
	}
	expectFailed(t, &marks{dir: dir, boot: "boot"}, 1, "the kubelet's last error: no cgroup mounts")
}

func TestCgroupDriverIsTheConfiguredElseTheRuntimesElseTheHosts(t *testing.T) {
	for _, c := range []struct {
		configured, runtime string
		systemd             bool
		want                string
	}{
		{CgroupDriverCgroupfs, CgroupDriverSystemd, true, CgroupDriverCgroupfs},
		{CgroupDriverAuto, CgroupDriverCgroupfs, true, CgroupDriverCgroupfs},
		{CgroupDriverAuto, "", true, CgroupDriverSystemd},
		{CgroupDriverAuto, "", false, CgroupDriverCgroupfs},
	} {
		if got := chooseDriver(c.configured, c.runtime, c.systemd); got != c.want {
			t.Errorf("chooseDriver(%q, %q, %v) = %s, expected %s", c.configured, c.runtime, c.systemd, got, c.want)
		}
	}
}
