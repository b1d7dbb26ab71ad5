package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/tether-edge/tether/tests/cluster"
	"github.com/tether-edge/tether/tests/host"
)

// kept is a folder of the module for what is got once and used by every run.
func (s *system) kept(name string) string {
	s.t.Helper()
	root, err := cluster.ModuleRoot(s.t.Context())
	s.must(err)
	return filepath.Join(root, ".tether", name)
}

// blockWith is the indented block of a document that has a line.
func (s *system) blockWith(document, line string) string {
	s.t.Helper()
	root, err := cluster.ModuleRoot(s.t.Context())
	s.must(err)
	b, err := os.ReadFile(filepath.Join(root, document))
	s.must(err)
	for block := range strings.SplitSeq(string(b), "\n\n") {
		var out strings.Builder
		found := false
		for l := range strings.Lines(block) {
			l = strings.TrimPrefix(l, "    ")
			found = found || strings.TrimSpace(l) == line
			out.WriteString(l)
		}
		if found && strings.HasPrefix(block, "    ") {
			return out.String() + "\n"
		}
	}
	s.t.Fatalf("%s has no indented block with the line %q", document, line)
	return ""
}

// kubectlApply applies manifests of a namespace, and deletes them after the test.
func (s *system) kubectlApply(namespace, manifests string) {
	s.t.Helper()
	if r := s.kubectl(manifests, "apply", "-n", namespace, "-f", "-"); r.code != 0 {
		s.t.Fatalf("kubectl apply: %s%s", r.out, r.err)
	}
	s.t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		cmd := s.kubectlCommand(ctx, "delete", "-n", namespace, "--wait=false", "--ignore-not-found", "-f", "-")
		cmd.Stdin = strings.NewReader(manifests)
		if out, err := cmd.CombinedOutput(); err != nil {
			s.t.Errorf("kubectl delete: %v: %s", err, out)
		}
	})
}

// TestPrometheusScrapesTheEdge: Debian's Prometheus, set up word for word as docs/operations.md says, finds the edge and
// scrapes its kubelet.
func TestPrometheusScrapesTheEdge(t *testing.T) {
	s := sharedSystem(t)
	ctx := t.Context()
	program, err := host.Unpack(ctx, "prometheus", "usr/bin/prometheus", s.kept("packages"))
	s.must(err)
	pod := s.runPod("scraped")
	s.kubectlApply("monitoring", s.blockWith("docs/operations.md", "metadata: {name: monitoring}"))

	dir := t.TempDir()
	local := strings.NewReplacer("/etc/prometheus", dir, "cloud.example.org:10003", s.Discovery())
	script := local.Replace(s.blockWith("docs/operations.md", `kubectl --namespace tether-system get secret tether-edge-ca -o 'jsonpath={.data.ca\.crt}' | base64 -d >> /etc/prometheus/tether-ca.crt`))
	kubectl := s.kubectlCommand(ctx)
	s.must(os.Symlink(kubectl.Path, filepath.Join(dir, "kubectl")))
	cmd := exec.CommandContext(ctx, "sh", "-euc", script)
	cmd.Env = append(os.Environ(), "PATH="+dir+":"+os.Getenv("PATH"), "KUBECONFIG="+s.Control.Kubeconfig)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%s: %v: %s", script, err, out)
	}
	config := "global: {scrape_interval: 3s, scrape_timeout: 3s}\n" + local.Replace(s.blockWith("docs/operations.md", "scrape_configs:"))
	s.must(os.WriteFile(filepath.Join(dir, "prometheus.yml"), []byte(config), 0o600))
	token, err := os.ReadFile(filepath.Join(dir, "tether.token"))
	s.must(err)
	if code, body := ask(t, "https://"+s.Discovery()+"/discovery/kubelets", strings.TrimSpace(string(token))); code != http.StatusOK {
		t.Fatalf("discovery with the token of the documents: status %d: %s", code, body)
	}
	ports, err := cluster.FreePorts(1, "")
	s.must(err)
	address := fmt.Sprintf("127.0.0.1:%d", ports[0])
	p, err := s.Cluster.Start(cluster.ProcessConfig{Name: "prometheus", Argv: []string{program, "--config.file", filepath.Join(dir, "prometheus.yml"),
		"--storage.tsdb.path", filepath.Join(dir, "data"), "--web.listen-address", address}})
	s.must(err)
	t.Cleanup(func() { s.must(p.Stop(20 * time.Second)) })

	for _, job := range []string{"edge-kubelet", "edge-cadvisor", "edge-resource", "edge-probes"} {
		s.eventuallySamples(address, fmt.Sprintf(`up{job=%q, instance="edge-1", node="edge-1"} == 1`, job))
	}
	for _, query := range []string{
		`kubelet_running_pods{node="edge-1"} > 0`,
		// By its control group: cadvisor asks containerd for names at its usual socket only, and here are several.
		fmt.Sprintf(`container_memory_working_set_bytes{job="edge-cadvisor", node="edge-1", id=~".*/pod%s/.+"} > 0`, pod.UID),
		`container_cpu_usage_seconds_total{job="edge-resource", node="edge-1", namespace="default", pod="scraped", container="demo"}`,
	} {
		s.eventuallySamples(address, query)
	}
	if n := len(s.samples(address, `up == 0`)); n > 0 {
		t.Errorf("%d targets are down: expected none", n)
	}
	// The fleet is not listed to who may not list nodes.
	for token, code := range map[string]int{"": 401, s.user("nobody"): 403, s.user("reader", "nodes/metrics"): 403} {
		if got, body := ask(t, "https://"+s.Discovery()+"/discovery/kubelets", token); got != code || strings.Contains(body, "edge-1") {
			t.Errorf("discovery with token %.10q: status %d, expected %d: %s", token, got, code, body)
		}
	}
	n, err := s.Admin.CoreV1().Nodes().Get(ctx, "edge-1", metav1.GetOptions{})
	s.must(err)
	kubelet := net.JoinHostPort(n.Status.Addresses[0].Address, fmt.Sprint(n.Status.DaemonEndpoints.KubeletEndpoint.Port))
	if len(s.samples(address, `up{instance="edge-1"}`)) == 0 || !strings.Contains(s.targets(address), kubelet) {
		t.Errorf("expected the target %s in %s", kubelet, s.targets(address))
	}
}

// eventuallySamples waits until a query has a result.
func (s *system) eventuallySamples(address, query string) {
	s.t.Helper()
	cluster.Eventually(s.t, time.Minute, query, func() error {
		if len(s.samples(address, query)) == 0 {
			return fmt.Errorf("no samples; targets: %s", s.targets(address))
		}
		return nil
	})
}

// samples is the result of a query; none while Prometheus does not answer.
func (s *system) samples(address, query string) []json.RawMessage {
	s.t.Helper()
	var answer struct {
		Data struct{ Result []json.RawMessage }
	}
	resp, err := http.Get("http://" + address + "/api/v1/query?query=" + url.QueryEscape(query))
	if err != nil {
		return nil
	}
	defer resp.Body.Close()
	if resp.StatusCode == http.StatusServiceUnavailable {
		return nil // it starts
	}
	s.must(json.NewDecoder(resp.Body).Decode(&answer))
	return answer.Data.Result
}

// targets says what became of each target.
func (s *system) targets(address string) string {
	var answer struct {
		Data struct {
			ActiveTargets []struct{ ScrapeURL, Health, LastError string }
		}
	}
	resp, err := http.Get("http://" + address + "/api/v1/targets")
	if err != nil {
		return err.Error()
	}
	defer resp.Body.Close()
	if err := json.NewDecoder(resp.Body).Decode(&answer); err != nil {
		return err.Error()
	}
	return fmt.Sprintf("%+v", answer.Data.ActiveTargets)
}
