package e2e

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/tether-edge/tether/tests/cluster"
)

// TestAFirstStartIsCutAtTheWorstMoment: the cable is pulled after the first sync and before the kubelet's first start,
// so that neither its Node nor its CSINode is in the cloud, and it can register neither. A kubelet that was once told
// whether there is a CSINode ends its process where it cannot make one; here it is told nothing before its Node is
// registered, and the same process joins when the cable is back.
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
	s.eventuallyStatus(time.Minute, "the kubelet to start, offline", `"starting"`)
	local, err := s.edge.LocalAPI()
	s.must(err)
	cluster.Eventually(t, 20*time.Second, "the kubelet to be told nothing of its CSINode", func() error {
		if _, err := local.StorageV1().CSINodes().Get(ctx, "edge-1", metav1.GetOptions{}); !apierrors.IsServiceUnavailable(err) {
			return fmt.Errorf("it is told %v, expected 503", err)
		}
		return nil
	})
	cluster.Eventually(t, 30*time.Second, "the kubelet to try to register its Node", func() error {
		if log := s.edge.Supervisor.LogTail(2000); !strings.Contains(log, "Unable to register node with API server") {
			return errors.New("it did not yet")
		}
		return nil
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
