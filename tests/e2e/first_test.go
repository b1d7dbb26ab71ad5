package e2e

import (
	"fmt"
	"testing"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/tether-edge/tether/tests/cluster"
)

// TestAFirstStartIsCutAtTheWorstMoment: the cable is pulled after the first sync and before the kubelet's first start,
// so that neither its Node nor its CSINode is in the cloud. A kubelet that cannot make its CSINode ends its process after
// some retries; here it finds both made, and the node joins when the cable is back.
func TestAFirstStartIsCutAtTheWorstMoment(t *testing.T) {
	ctx := t.Context()
	p, err := bringUpCloud(ctx, cluster.ForTest(t), cluster.EdgeConfig{Name: "edge-1"}, nil)
	if err != nil {
		t.Fatal(err)
	}
	s := &system{parts: p, t: t}
	// Without a runtime the kubelet is not started.
	s.must(s.edge.Containerd().Stop(20 * time.Second))
	s.must(s.edge.StartCore(ctx))
	s.eventuallyStatus(time.Minute, "the kubelet to wait for the runtime only", "waiting-runtime")
	s.cut()
	for what, get := range map[string]func() error{
		"Node": func() error { _, err := s.Admin.CoreV1().Nodes().Get(ctx, "edge-1", metav1.GetOptions{}); return err },
		"CSINode": func() error {
			_, err := s.Admin.StorageV1().CSINodes().Get(ctx, "edge-1", metav1.GetOptions{})
			return err
		},
	} {
		if err := get(); !apierrors.IsNotFound(err) {
			t.Fatalf("the cloud has a %s already (%v): this is not the worst moment", what, err)
		}
	}
	pid, err := s.edge.CorePID()
	s.must(err)
	sameProcess := func() error {
		if now, err := s.edge.CorePID(); err != nil || now != pid {
			return fmt.Errorf("edgecore was process %d, is %d (%v)\n%s", pid, now, err, s.edge.Supervisor.LogTail(20))
		}
		return nil
	}

	s.must(s.edge.StartContainerd(ctx))
	s.eventuallyStatus(time.Minute, "the kubelet to run, offline", `"running"`)
	local, err := s.edge.LocalAPI()
	s.must(err)
	cluster.Eventually(t, 20*time.Second, "the Node and the CSINode to be made on the edge", func() error {
		if _, err := local.CoreV1().Nodes().Get(ctx, "edge-1", metav1.GetOptions{}); err != nil {
			return err
		}
		_, err := local.StorageV1().CSINodes().Get(ctx, "edge-1", metav1.GetOptions{})
		return err
	})
	s.must(sameProcess())

	s.heal()
	s.must(s.edge.WaitReady(ctx, time.Minute))
	cluster.Eventually(t, 20*time.Second, "the CSINode to be in the cloud", func() error {
		_, err := s.Admin.StorageV1().CSINodes().Get(ctx, "edge-1", metav1.GetOptions{})
		return err
	})
	s.runPod("first")
	s.must(sameProcess())
}
