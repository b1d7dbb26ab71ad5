package e2e

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/remotecommand"

	"github.com/tether-edge/tether/apis/config/v1alpha1"
	"github.com/tether-edge/tether/tests/cluster"
)

// takeover is an edge that knows two CloudCores of one cluster, by the addresses they have.
type takeover struct {
	*system
	clouds map[string]*replica
	// shown is what the Node shows of its kubelet, which stays whatever happens.
	shown string
	token string
}

type replica struct {
	*cluster.Process
	metrics string // URL
}

// TestASecondCloudCoreTakesOver: an edge knows two CloudCores of one cluster. Whichever it is connected to is killed; it
// goes to the other one, which takes the node over while what the dead one wrote still stands, and writes nothing to its Node. Its kubelet is asked
// through either CloudCore, whichever holds the node, and through the one that is left, and its Node shows the same address and port as before.
func TestASecondCloudCoreTakesOver(t *testing.T) {
	s := sharedSystem(t)
	ctx := t.Context()
	second, err := s.FurtherCloud(ctx, 1)
	if second != nil {
		t.Cleanup(func() { s.must(second.Stop(20 * time.Second)) })
	}
	s.must(err)
	w := &takeover{system: s, clouds: map[string]*replica{hostOf(s.Server()): {s.Cloud, s.CloudMetrics()}, hostOf(second.WebSocket): {second.Process, "http://" + second.Metrics + "/metrics"}}}
	servers := func(all ...string) {
		s.must(s.edge.Supervisor.Stop(20 * time.Second))
		s.must(s.edge.Change(func(cfg *v1alpha1.EdgeCore) { cfg.Cloud.Servers, cfg.Cloud.Protocol = all, protocol }))
		s.must(s.edge.StartCore(context.Background()))
	}
	servers(s.Server(), second.WebSocket)
	t.Cleanup(func() { servers(s.Server()) })
	s.must(s.edge.WaitReady(ctx, time.Minute))
	s.runPod("steady")
	before := s.containers()
	w.token, w.shown = s.user("prober", "nodes/metrics"), w.shows()
	w.through(slices.Collect(maps.Keys(w.clouds))...)
	for i := range 2 {
		was, err := s.edge.Status(ctx)
		s.must(err)
		dead, left := w.clouds[hostOf(was.Link.Server)], ""
		if dead == nil {
			t.Fatalf("the edge is connected to %q, expected one of %v", was.Link.Server, w.clouds)
		}
		for host, c := range w.clouds {
			if c != dead {
				left = host
			}
		}
		writes, reported := w.nodeWrites(w.clouds[left]), w.reported()
		s.must(dead.Kill())
		killed := time.Now()
		cluster.Eventually(t, 30*time.Second, "the edge to be in sync with the other one", func() error {
			is, err := s.edge.Status(ctx)
			if err == nil && (!is.Link.Synced || is.Link.Server == was.Link.Server) {
				err = fmt.Errorf("its link is %+v", is.Link)
			}
			return err
		})
		w.through(left)
		// Unless it was the kubelet's turn to report: it does so every five minutes.
		if now := w.nodeWrites(w.clouds[left]); now != writes && w.reported() == reported {
			t.Errorf("the CloudCore that took over had written to Nodes:\n%s\nand has:\n%s", writes, now)
		}
		s.runPod(fmt.Sprintf("through-the-other-%d", i))
		// With what the dead one wrote last the node would be lost within a minute.
		cluster.Eventually(t, 40*time.Second, "the other one to renew the Lease", func() error {
			l, err := s.Admin.CoordinationV1().Leases("kube-node-lease").Get(ctx, s.edge.Name(), metav1.GetOptions{})
			if err == nil && !l.Spec.RenewTime.After(killed) {
				err = errors.New("it was not renewed since")
			}
			return err
		})
		s.sameContainers(before)
		s.must(dead.Restart())
		w.through(slices.Collect(maps.Keys(w.clouds))...)
	}
}

// hostOf is the host of a host:port.
func hostOf(address string) string {
	host, _, _ := net.SplitHostPort(address)
	return host
}

// shows is what the Node shows of where its kubelet is.
func (w *takeover) shows() string {
	w.t.Helper()
	n, err := w.Admin.CoreV1().Nodes().Get(w.t.Context(), w.edge.Name(), metav1.GetOptions{})
	w.must(err)
	return fmt.Sprint(n.Status.DaemonEndpoints.KubeletEndpoint.Port, n.Status.Addresses, n.Annotations["tether.io/kubelet-port"])
}

// reported is when the kubelet last reported the Node's status, as the cluster has it.
func (w *takeover) reported() string {
	w.t.Helper()
	n, err := w.Admin.CoreV1().Nodes().Get(w.t.Context(), w.edge.Name(), metav1.GetOptions{})
	w.must(err)
	var at []string
	for _, c := range n.Status.Conditions {
		at = append(at, c.LastHeartbeatTime.String())
	}
	return strings.Join(at, " ")
}

// nodeWrites is what a CloudCore's metrics say of its requests that write to Nodes.
func (w *takeover) nodeWrites(c *replica) string {
	w.t.Helper()
	r, err := http.Get(c.metrics)
	w.must(err)
	body, err := io.ReadAll(r.Body)
	w.must(errors.Join(err, r.Body.Close()))
	if !strings.Contains(string(body), `tether_api_requests_total{code="200",resource="leases.coordination.k8s.io"`) {
		w.t.Fatalf("%s tells of no request for Leases", c.metrics)
	}
	var writes []string
	for line := range strings.Lines(string(body)) {
		if strings.HasPrefix(line, "tether_api_requests_total") && regexp.MustCompile(`resource="nodes[/"]`).MatchString(line) && !regexp.MustCompile(`verb="(get|list|watch)"`).MatchString(line) {
			writes = append(writes, line)
		}
	}
	slices.Sort(writes)
	return strings.Join(writes, "")
}

// through asks the node's kubelet through the CloudCores at some hosts, and through the API server.
func (w *takeover) through(hosts ...string) {
	w.t.Helper()
	n, err := w.Admin.CoreV1().Nodes().Get(w.t.Context(), w.edge.Name(), metav1.GetOptions{})
	w.must(err)
	for _, host := range hosts {
		at := net.JoinHostPort(host, strconv.Itoa(int(n.Status.DaemonEndpoints.KubeletEndpoint.Port)))
		cluster.Eventually(w.t, 20*time.Second, "an answer of the kubelet through "+host, func() error {
			if code, body := ask(w.t, "https://"+at+"/metrics/resource", w.token); code != http.StatusOK || !strings.Contains(body, "node_cpu_usage") {
				return fmt.Errorf("status %d: %.200s", code, body)
			}
			return nil
		})
		// A stream both ways, too: one that does not hold the node passes it on to the other.
		cluster.Eventually(w.t, 20*time.Second, "what is said to a command through "+host, func() error {
			return w.echoes(at, "steady", "what I say")
		})
	}
	// The API server asks at the address that the Node shows, the first one's.
	if slices.Contains(hosts, n.Status.Addresses[0].Address) {
		if r := w.kubectl("", "logs", "steady"); r.code != 0 || !strings.Contains(r.out, "serving on") {
			w.t.Errorf("logs: exit code %d: %s%s", r.code, r.out, r.err)
		}
	}
	if now := w.shows(); now != w.shown {
		w.t.Errorf("the Node shows %s; before it was %s", now, w.shown)
	}
}

// echoes asks the kubelet at an address, host:port, as the API server does, to run a command in a pod that repeats what is said to it, once
// after an upgrade to SPDY and once to WebSocket.
func (s *system) echoes(at, pod, text string) error {
	target, err := url.Parse(fmt.Sprintf("https://%s/exec/%s/%s/demo?input=1&output=1&command=/demo&command=cat&command=/dev/stdin", at, namespace, pod))
	if err != nil {
		return err
	}
	config := s.Cluster.KubeletConfig(at)
	spdy, err := remotecommand.NewSPDYExecutor(config, http.MethodPost, target)
	if err != nil {
		return err
	}
	webSocket, err := remotecommand.NewWebSocketExecutor(config, http.MethodGet, target.String())
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(s.t.Context(), 20*time.Second)
	defer cancel()
	for by, executor := range map[string]remotecommand.Executor{"SPDY": spdy, "WebSocket": webSocket} {
		var out bytes.Buffer
		if err := executor.StreamWithContext(ctx, remotecommand.StreamOptions{Stdin: strings.NewReader(text), Stdout: &out}); err != nil {
			return fmt.Errorf("by %s: %w", by, err)
		}
		if out.String() != text {
			return fmt.Errorf("by %s it repeats %q, expected %q", by, out.String(), text)
		}
	}
	return nil
}
