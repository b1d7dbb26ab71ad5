package e2e

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/remotecommand"

	"github.com/tether-edge/tether/apis/config/v1alpha1"
	"github.com/tether-edge/tether/tests/cluster"
)

// TestASecondCloudCoreTakesOver: an edge knows two CloudCores of one cluster. Whichever it is connected to is killed; it
// goes to the other one, which takes the node over while what the dead one wrote still stands. Its kubelet is asked through
// either CloudCore, whichever holds the node, and its Node shows the same address and port as before.
func TestASecondCloudCoreTakesOver(t *testing.T) {
	s := sharedSystem(t)
	ctx := t.Context()
	second, err := s.FurtherCloud(ctx, 1)
	if second != nil {
		t.Cleanup(func() { s.must(second.Stop(20 * time.Second)) })
	}
	s.must(err)
	server := second.WebSocket
	clouds := map[string]*cluster.Process{s.Server(): s.Cloud, server: second.Process}
	servers := func(all ...string) {
		s.must(s.edge.Supervisor.Stop(20 * time.Second))
		s.must(s.edge.Change(func(cfg *v1alpha1.EdgeCore) { cfg.Cloud.Servers, cfg.Cloud.Protocol = all, v1alpha1.ProtocolWebSocket }))
		s.must(s.edge.StartCore(context.Background()))
	}
	servers(s.Server(), server)
	t.Cleanup(func() {
		servers(s.Server())
		s.must(s.edge.Supervisor.Stop(20 * time.Second))
		s.must(s.edge.SetProtocol(protocol))
	})
	s.must(s.edge.WaitReady(ctx, time.Minute))
	s.runPod("steady")
	before := s.containers()
	renewed := func() time.Time {
		l, err := s.Admin.CoordinationV1().Leases("kube-node-lease").Get(ctx, s.edge.Name(), metav1.GetOptions{})
		s.must(err)
		return l.Spec.RenewTime.Time
	}
	token := s.user("prober", "nodes/metrics")
	endpoint := func() (corev1.NodeDaemonEndpoints, []corev1.NodeAddress, string) {
		n, err := s.Admin.CoreV1().Nodes().Get(ctx, s.edge.Name(), metav1.GetOptions{})
		s.must(err)
		return n.Status.DaemonEndpoints, n.Status.Addresses, n.Annotations["tether.io/kubelet-port"]
	}
	port, addresses, noted := endpoint()
	throughEither := func() {
		t.Helper()
		for server := range clouds {
			host, _, err := net.SplitHostPort(server)
			s.must(err)
			cluster.Eventually(t, 20*time.Second, "an answer of the kubelet through "+host, func() error {
				if code, body := ask(t, fmt.Sprintf("https://%s:%d/metrics/resource", host, port.KubeletEndpoint.Port), token); code != http.StatusOK || !strings.Contains(body, "node_cpu_usage") {
					return fmt.Errorf("status %d: %.200s", code, body)
				}
				return nil
			})
			// A stream both ways, too: one of the two passes it on to the other.
			at := net.JoinHostPort(host, strconv.Itoa(int(port.KubeletEndpoint.Port)))
			cluster.Eventually(t, 20*time.Second, "what is said to a command through "+host, func() error {
				return s.echoes(at, "steady", "what I say")
			})
		}
		if r := s.kubectl("", "logs", "steady"); r.code != 0 || !strings.Contains(r.out, "serving on") {
			t.Errorf("logs: exit code %d: %s%s", r.code, r.out, r.err)
		}
		if p, a, n := endpoint(); p != port || !slices.Equal(a, addresses) || n != noted {
			t.Errorf("the Node shows %v, %v, %s; before it was %v, %v, %s", p, a, n, port, addresses, noted)
		}
	}
	throughEither()
	for i := range 2 {
		was, err := s.edge.Status(ctx)
		s.must(err)
		dead := clouds[was.Link.Server]
		if dead == nil {
			t.Fatalf("the edge is connected to %q, expected one of %q and %q", was.Link.Server, s.Server(), server)
		}
		s.must(dead.Kill())
		killed := time.Now()
		cluster.Eventually(t, 30*time.Second, "the edge to be in sync with the other one", func() error {
			is, err := s.edge.Status(ctx)
			if err == nil && (!is.Link.Synced || is.Link.Server == was.Link.Server) {
				err = fmt.Errorf("its link is %+v", is.Link)
			}
			return err
		})
		s.runPod(fmt.Sprintf("through-the-other-%d", i))
		// With what the dead one wrote last the node would be lost within a minute.
		cluster.Eventually(t, 40*time.Second, "the other one to renew the Lease", func() error {
			if !renewed().After(killed) {
				return errors.New("it was not renewed since")
			}
			return nil
		})
		s.sameContainers(before)
		s.must(dead.Restart())
		throughEither()
	}
}

// echoes asks the kubelet at an address, host:port, as the API server does, to run a command in a pod that repeats what is said to it.
func (s *system) echoes(at, pod, text string) error {
	target, err := url.Parse(fmt.Sprintf("https://%s/exec/%s/%s/demo?input=1&output=1&command=/demo&command=cat&command=/dev/stdin", at, namespace, pod))
	if err != nil {
		return err
	}
	executor, err := remotecommand.NewSPDYExecutor(s.Cluster.KubeletConfig(at), http.MethodPost, target)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(s.t.Context(), 20*time.Second)
	defer cancel()
	var out bytes.Buffer
	if err := executor.StreamWithContext(ctx, remotecommand.StreamOptions{Stdin: strings.NewReader(text), Stdout: &out}); err != nil {
		return err
	}
	if out.String() != text {
		return fmt.Errorf("it repeats %q, expected %q", out.String(), text)
	}
	return nil
}
