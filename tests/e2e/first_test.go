package e2e

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/tether-edge/tether/tests/cluster"
)

// TestAFirstStartIsCutAtTheWorstMoment: the cable is pulled while the kubelet starts for the first time, with neither
// its Node nor its CSINode in the cloud. The kubelet ends its process where it cannot make its CSINode; here it must
// not, and the node joins when the cable is back.
func TestAFirstStartIsCutAtTheWorstMoment(t *testing.T) {
	ctx := t.Context()
	p, err := bringUpCloud(ctx, cluster.ForTest(t), cluster.EdgeConfig{Name: "edge-1"}, nil)
	if err != nil {
		t.Fatal(err)
	}
	s := &system{parts: p, t: t}
	s.must(s.edge.StartCore(ctx))
	s.eventuallyStatus(time.Minute, "the kubelet to start", `"starting"`)
	s.must(s.edge.Cut())
	pid, err := s.edge.CorePID()
	s.must(err)
	// Long enough for the kubelet's own patience with its first requests to be tried.
	hold, cancel := context.WithTimeout(ctx, 25*time.Second)
	defer cancel()
	tick := time.NewTicker(200 * time.Millisecond)
	defer tick.Stop()
	for hold.Err() == nil {
		select {
		case <-tick.C:
		case <-hold.Done():
		}
		if now, err := s.edge.CorePID(); err != nil || now != pid {
			t.Fatalf("edgecore was process %d, is %d (%v): the kubelet ended it while offline\n%s", pid, now, err, s.edge.Supervisor.LogTail(20))
		}
	}
	s.heal()
	s.must(s.edge.WaitReady(ctx, time.Minute))
	s.runPod("first")
	cluster.Eventually(t, 10*time.Second, "the same process to run on", func() error {
		if now, err := s.edge.CorePID(); err != nil || now != pid {
			return fmt.Errorf("edgecore was process %d, is %d (%v)", pid, now, err)
		}
		return nil
	})
}
