package e2e

import (
	"context"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/tether-edge/tether/apis/config/v1alpha1"
	"github.com/tether-edge/tether/tests/cluster"
	"github.com/tether-edge/tether/tests/host"
)

// shared is the system that most tests use one after the other: bringing one up takes longer than most tests.
var shared struct {
	sync.Mutex
	cluster *cluster.Cluster
	parts   *parts
	err     error
	// switched: the shared edge is to use another protocol than the one it runs with.
	switched bool
}

// protocol carries the links of the running tests.
var protocol = v1alpha1.ProtocolWebSocket

// faults are the tests that depend on what carries the link: they run again over QUIC.
const faults = "^Test(APodRunsThroughTheLink|CutKillHeal.*|ColdCloud.*|PowerCutOffline|DeletedWhileCut|APoisonedWrite.*|ThirtyPodsAtOnce|NobodyCanTell.*|ANodeThatIsAway.*|AFirstStart.*|ASatelliteLink.*|ABlackHole.*|StreamsUnderWay.*|DevicesWork.*|ADrillIsStopped.*|ASecondCloudCore.*)$"

// runAll runs the tests, and those of faults once more over QUIC, where they were not chosen by hand.
func runAll(m *testing.M) int {
	code := m.Run()
	chosen := flag.Lookup("test.run")
	if chosen.Value.String() != "" {
		return code
	}
	if err := chosen.Value.Set(faults); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	fmt.Println("over QUIC")
	protocol = v1alpha1.ProtocolQUIC
	shared.switched = true
	return max(code, m.Run())
}

func TestMain(m *testing.M) {
	code := runAll(m)
	if shared.cluster != nil {
		if err := shared.cluster.Down(context.Background()); err != nil {
			fmt.Fprintln(os.Stderr, "end of the shared system:", err)
			code = 1
		}
	}
	os.Exit(code)
}

// sharedSystem returns the shared system, whole: edge Ready, cable in, no pods of other tests.
func sharedSystem(t *testing.T) *system {
	t.Helper()
	shared.Lock()
	defer shared.Unlock()
	if shared.parts == nil && shared.err == nil {
		shared.err = bringUpShared(t)
	}
	if shared.err != nil {
		t.Fatalf("the shared system is not up: %v", shared.err)
	}
	s := &system{parts: shared.parts, t: t}
	if shared.switched {
		shared.switched = false
		s.must(s.edge.Supervisor.Stop(20 * time.Second))
		s.must(s.edge.SetProtocol(protocol))
	}
	s.whole()
	t.Cleanup(func() {
		if t.Failed() {
			s.showLogs()
		}
	})
	return s
}

func bringUpShared(t *testing.T) error {
	// Not the test's context: the processes outlive it.
	ctx := context.Background()
	machine, err := host.Detect("/")
	if err != nil {
		return err
	}
	if machine, err = host.Install(ctx, machine, os.Stderr, os.Stderr); err != nil {
		return err
	}
	base := filepath.Join(os.TempDir(), "tether-tests")
	log := slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn}))
	if err := cluster.Sweep(ctx, base, cluster.Config{Host: machine, Log: log}); err != nil {
		return err
	}
	if err := os.MkdirAll(base, 0o755); err != nil {
		return err
	}
	dir, err := os.MkdirTemp(base, "c")
	if err != nil {
		return err
	}
	if shared.cluster, err = cluster.New(cluster.Config{Dir: dir, Host: machine, Log: log}); err != nil {
		return err
	}
	shared.parts, err = bringUp(ctx, shared.cluster, cluster.EdgeConfig{Name: "edge-1"})
	return err
}
