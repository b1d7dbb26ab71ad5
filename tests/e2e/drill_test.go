package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/tether-edge/tether/common/drill"
	"github.com/tether-edge/tether/tests/cluster"
)

// A rehearsal is a keadm drill that runs beside the test.
type rehearsal struct {
	s    *system
	kill context.CancelFunc
	done chan struct{}
	out  string
	err  error
}

// rehearse orders a drill of the edge and waits until the link is cut.
func (s *system) rehearse(args ...string) *rehearsal {
	s.t.Helper()
	ctx, cancel := context.WithCancel(s.t.Context())
	r := &rehearsal{s: s, kill: cancel, done: make(chan struct{})}
	go func() {
		defer close(r.done)
		r.out, r.err = s.Keadm(ctx, append([]string{"drill", s.edge.Name(), "-o", "json"}, args...)...)
	}()
	s.t.Cleanup(func() { cancel(); <-r.done })
	cluster.Eventually(s.t, time.Minute, "the drill to cut the link", func() error {
		select {
		case <-r.done:
			s.t.Fatalf("keadm drill ended: %v\n%s", r.err, r.out)
		default:
		}
		if body := s.status(); !strings.Contains(body, `"connected":false`) || !strings.Contains(body, "cut by drill") {
			return fmt.Errorf("its status is %s", body)
		}
		return nil
	})
	return r
}

// rehearsed is what keadm drill tells programs.
type rehearsed struct {
	Edge    *drill.Report
	Cluster struct {
		Changes []drill.Change
		Silent  metav1.Duration
		Unready *metav1.Duration
		Ready   *metav1.Duration
	}
	Broke []string
}

// end waits for keadm's end, which is to find that nothing broke.
func (r *rehearsal) end(timeout time.Duration) (got rehearsed) {
	r.s.t.Helper()
	select {
	case <-r.done:
	case <-time.After(timeout):
		r.s.t.Fatalf("keadm drill does not end; the status of the edge is %s", r.s.status())
	}
	if r.err != nil {
		r.s.t.Fatalf("keadm drill: %v\n%s", r.err, r.out)
	}
	r.s.t.Logf("keadm drill:\n%s", r.out)
	r.s.must(json.Unmarshal([]byte(r.out), &got))
	if got.Edge == nil || len(got.Broke) != 0 {
		r.s.t.Fatalf("%+v, expected a report in which nothing broke", got)
	}
	return got
}

// TestADrillEndsAtItsDeadlineThoughCloudCoreIsKilled: the link is cut by agreement, for longer than the cluster waits for a node.
// CloudCore is killed meanwhile and is not there when the time is over; the site goes on, its devices report, a person at it writes;
// and once CloudCore is back all of it arrives, no container was touched, and the report says so.
func TestADrillEndsAtItsDeadlineThoughCloudCoreIsKilled(t *testing.T) {
	s := sharedSystem(t)
	s.kubectlApply("default", deviceManifests)
	t.Cleanup(func() {
		for _, kind := range []string{"devices", "devicemodels"} {
			if out, err := s.kubectlCommand(context.Background(), "delete", kind, "--all").CombinedOutput(); err != nil {
				t.Errorf("delete %s: %v: %s", kind, err, out)
			}
		}
	})
	s.runPod("tenant")
	s.reports("meter-1", "power", "", "Ready=True")
	before := s.containers()

	r := s.rehearse("--for", "75s")
	s.expects(0, "phase   cut", "", "keadm", "drill")
	s.expects(0, "cut by drill", "", "keadm", "status")
	s.must(s.Cloud.Kill())
	s.publish("meter-1", `{"twin":{"power":{"actual":{"value":"2"}}}}`)
	s.expects(0, "tenant", "", "keadm", "get", "pods")
	s.expects(0, "labeled", "", "kubectl", "label", "node", "edge-1", "drilled=yes")
	cluster.Eventually(t, 2*time.Minute, "the drill to be over with nobody to hear of it", func() error {
		if said := s.says("", "keadm", "drill"); !strings.Contains(said.out, "phase   back") {
			return fmt.Errorf("the node says %s%s", said.out, said.err)
		}
		return nil
	})
	s.must(s.Cloud.Restart())

	got := r.end(3 * time.Minute)
	if e := got.Edge; e.Pods < 1 || e.Containers < 1 || e.Reads < 20 || e.DeviceUpdates != 1 || len(e.Waited) == 0 || e.Ended.Sub(e.Began) < 74*time.Second || e.Ended.Sub(e.Began) > 80*time.Second {
		t.Errorf("the edge reports %+v", e)
	}
	if c := got.Cluster; c.Unready == nil || c.Ready == nil || c.Silent.Duration < 30*time.Second {
		t.Errorf("the cluster was seen as %+v, expected not Ready and Ready again", c)
	}
	s.sameContainers(before)
	s.reports("meter-1", "power", "2")
	n, err := s.Admin.CoreV1().Nodes().Get(t.Context(), "edge-1", metav1.GetOptions{})
	s.must(err)
	if n.Labels["drilled"] != "yes" {
		t.Errorf("the label that was set at the gateway has not arrived: %v", n.Labels)
	}
	cluster.Eventually(t, 30*time.Second, "the Events of the drill", func() error {
		l, err := s.Admin.CoreV1().Events("default").List(t.Context(), metav1.ListOptions{FieldSelector: "involvedObject.kind=Node,involvedObject.name=edge-1"})
		if err != nil {
			return err
		}
		seen := map[string]corev1.Event{}
		for _, e := range l.Items {
			seen[e.Reason] = e
		}
		if !strings.Contains(seen["DrillEnded"].Message, "nothing broke") || seen["DrillBegan"].Message == "" {
			return fmt.Errorf("found %v", seen)
		}
		return nil
	})
}

// TestADrillWithAPowerCut: the agent is killed in the middle, its supervisor starts it again, and it heeds the cut of the one
// before it.
func TestADrillWithAPowerCut(t *testing.T) {
	s := sharedSystem(t)
	s.runPod("tenant")
	before := s.containers()
	pid, err := s.edge.CorePID()
	s.must(err)

	r := s.rehearse("--for", "40s", "--power")
	s.waitCore(pid)
	s.eventuallyStatus(30*time.Second, "the agent that was started again to heed the cut", "cut by drill")
	got := r.end(3 * time.Minute)
	if e := got.Edge; !e.Power || e.Starts != 1 {
		t.Errorf("the edge reports %+v, expected one start after the power cut", e)
	}
	s.sameContainers(before)
	if out, err := s.Keadm(t.Context(), "drill", "edge-1", "--show"); err != nil || !strings.Contains(out, "killed in the middle and started 1 times") || !strings.Contains(out, "broke       nothing") {
		t.Errorf("--show says %v\n%s", err, out)
	}
}

// TestADrillIsStoppedAtTheGateway: whoever ordered it is gone, and a person at the gateway wants the link back.
func TestADrillIsStoppedAtTheGateway(t *testing.T) {
	s := sharedSystem(t)
	s.expects(1, "no drill cuts the link", "", "keadm", "drill", "stop")
	r := s.rehearse("--for", "1h")
	if out, err := s.Keadm(t.Context(), "drill", "edge-1", "--for", "10s"); err == nil || !strings.Contains(err.Error(), "is under way") {
		t.Errorf("a second drill is answered with %v\n%s", err, out)
	}
	r.kill() // the command, not the drill
	<-r.done
	s.eventuallyStatus(10*time.Second, "the drill to go on", "cut by drill")
	s.expects(0, "stopped  after", "", "keadm", "drill", "stop")
	s.eventuallyStatus(time.Minute, "the link to be back", `"synced":true`)
	cluster.Eventually(t, time.Minute, "the report", func() error {
		out, err := s.Keadm(t.Context(), "drill", "edge-1", "--show")
		if err == nil && !strings.Contains(out, "ended by somebody at the node") {
			err = fmt.Errorf("it says\n%s", out)
		}
		return err
	})
}
