package scenario

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/tether-edge/tether/common/transport"
	"github.com/tether-edge/tether/tests/fleet"
)

// edgesVerb is the first argument by which the test runs itself as the simulated edges.
const edgesVerb = "edges"

func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == edgesVerb {
		ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
		defer stop()
		if err := fleet.Serve(ctx, os.Args[2:]); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

func small(t *testing.T, protocol transport.Protocol, scenarios ...string) {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	// Not t.TempDir: its path may be too long for a socket, and a killed run must be found again.
	r, err := Run(t.Context(), Config{Nodes: 200, PerProcess: 100, Small: true, PingInterval: 3 * time.Second, Protocol: protocol, Scenarios: scenarios,
		Self: []string{self, edgesVerb}, Base: filepath.Join(os.TempDir(), "tether-fleet-test"), Out: t.Output()})
	if err != nil {
		t.Fatal(err)
	}
	if _, broken := r.Missed(); broken > 0 {
		t.Errorf("%d promises were broken; see the tables above", broken)
	}
	for _, o := range r.Outcomes {
		if len(o.Figures) == 0 {
			t.Errorf("%s: expected figures, found none", o.Scenario)
		}
	}
}

// TestAFleetGoesThroughAllScenarios with a few hundred edges: the promises that hold at any size.
func TestAFleetGoesThroughAllScenarios(t *testing.T) { small(t, transport.WebSocket) }

// TestAFleetComesBackOverQUIC from the storm, in which the protocols differ most.
func TestAFleetComesBackOverQUIC(t *testing.T) { small(t, transport.QUIC, "storm") }
