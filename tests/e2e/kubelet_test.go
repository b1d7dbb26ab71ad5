package e2e

import (
	"context"
	"fmt"
	"os"
	"testing"
	"time"

	"github.com/tether-edge/tether/tests/cluster"
)

// TestAKubeletThatExitsAtEveryStart: the checkpoint of its CPU manager is damaged, for which the kubelet ends its process.
// The link and the local API come back first each time and stay for longer and longer; the pods never notice; when the
// file is gone the kubelet runs.
func TestAKubeletThatExitsAtEveryStart(t *testing.T) {
	s := sharedSystem(t)
	ctx := context.Background()
	p := s.runPod("steady")
	before := s.containers()
	s.must(s.edge.Supervisor.Stop(time.Minute))
	checkpoint := s.edge.Path("/var/lib/kubelet/cpu_manager_state")
	s.must(os.WriteFile(checkpoint, []byte(`{"policyName":"static","defaultCpuSet":"0","checksum":1}`), 0o600))
	t.Cleanup(func() { _ = os.Remove(checkpoint) })
	connects := s.cloudCounter(`tether_hub_connects_total{protocol="websocket"}`)
	s.must(s.edge.StartCore(ctx))

	const tries = 3
	cluster.Eventually(t, 2*time.Minute, fmt.Sprintf("%d starts of the kubelet to fail", tries), func() error {
		st, err := s.edge.Status(ctx)
		if err != nil {
			return err
		}
		if st.Kubelet.Attempts < tries || !st.Link.Connected || st.Kubelet.State != "delayed" {
			return fmt.Errorf("kubelet %+v, link up: %t", st.Kubelet, st.Link.Connected)
		}
		return nil
	})
	if blips := s.cloudCounter(`tether_hub_connects_total{protocol="websocket"}`) - connects; blips > tries+2 {
		t.Errorf("%d failed starts cost the link %d sessions, expected one each", tries, blips)
	}
	api, err := s.edge.LocalAPI()
	s.must(err)
	if _, err := api.Discovery().ServerVersion(); err != nil {
		t.Errorf("the local API beside a kubelet that cannot start: %v", err)
	}
	s.answers(p, "/healthz", "")
	s.must(os.Remove(checkpoint))
	s.eventuallyStatus(time.Minute, "the kubelet to run", `"running"`)
	s.must(s.edge.WaitReady(ctx, time.Minute))
	s.sameContainers(before)
}

// cloudCounter reads a metric without labels of CloudCore.
func (s *system) cloudCounter(name string) int {
	s.t.Helper()
	n, err := s.cloudMetric(name)
	s.must(err)
	return n
}
