package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"io/fs"
	"maps"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/tether-edge/tether/tests/cluster"
)

// TestJoinRevokeAndReset: a machine becomes a node by one line, loses its identity when it is revoked, and is as it was
// before after a reset; a second join works.
func TestJoinRevokeAndReset(t *testing.T) {
	ctx := t.Context()
	c := cluster.ForTest(t)
	program, err := cluster.Program(ctx, "controlplane")
	if err != nil {
		t.Fatal(err)
	}
	// As kube-apiserver has it by default; that of the shared system tries InternalIP first, as kubeadm's does.
	control, err := c.StartControlPlane(ctx, program, "--component-arg=kube-apiserver=--kubelet-preferred-address-types=Hostname,InternalDNS,InternalIP")
	if err != nil {
		t.Fatal(err)
	}
	s, host, keadm := newcomer(t, c, control)
	p := s.parts
	s.must(os.MkdirAll(p.edge.StaticPods(), 0o755))
	before := look(t, host)
	join := func(flags ...string) string {
		t.Helper()
		args, err := p.JoinArgs(ctx, host)
		s.must(err)
		start := time.Now()
		out, err := host.Run(ctx, slices.Concat([]string{keadm}, args, []string{"--service", "process"}, flags)...)
		s.must(err)
		t.Logf("joined and Ready after %s:\n%s", time.Since(start).Round(10*time.Millisecond), out)
		return out
	}
	files := []string{"--config", filepath.Join(host.Dir(), "tether", "edgecore.yaml"), "--data-dir", filepath.Join(host.Dir(), "tether", "data"),
		"--pki-dir", filepath.Join(host.Dir(), "tether", "pki")}
	reset := func() {
		t.Helper()
		// The configuration says where all the rest is.
		out, err := host.Run(ctx, append([]string{keadm, "reset", "edge", "--force", "--service", "process"}, files[:2]...)...)
		s.must(err)
		t.Logf("reset:\n%s", out)
		for _, want := range []string{"stopped  edgecore", "ended    ", "removed  configuration "} {
			if !strings.Contains(out, want) {
				t.Errorf("a reset does not say %q", want)
			}
		}
		cluster.Eventually(t, 30*time.Second, "the machine to be as it was", func() error { return differ(before, look(t, host)) })
	}

	join()
	s.must(p.edge.WaitReady(ctx, time.Second)) // join has waited for it
	s.runPod("first")
	lookAtNode(t, host, keadm, files)
	// This API server verifies no kubelets; the one of the shared system does.
	if r := s.kubectl("", "logs", "first"); r.code != 0 || !strings.Contains(r.out, "serving on") {
		t.Errorf("logs of a pod by an API server that takes any certificate: exit code %d: %s%s", r.code, r.out, r.err)
	}
	args, err := p.JoinArgs(ctx, host)
	s.must(err)
	if out, err := host.Run(ctx, append([]string{keadm}, args...)...); err == nil || !strings.Contains(err.Error(), "has joined already") || !strings.Contains(err.Error(), "keadm reset edge --config") {
		t.Errorf("a second join beside the first: %v\n%s", err, out)
	}
	// This is another node's reset: nothing of the kind may be touched.
	if out, err := host.Run(ctx, keadm, "reset", "edge", "--force", "--service", "process"); err == nil || !strings.Contains(err.Error(), "nothing was changed") {
		t.Errorf("a reset of a node that is not here: %v\n%s", err, out)
	}
	s.must(p.edge.WaitReady(ctx, time.Second))

	// A revoked identity is worth nothing within 5 s, also on the session that is open.
	_, err = p.Keadm(ctx, "certs", "revoke", "edge-1")
	s.must(err)
	cluster.Eventually(t, 5*time.Second, "the session to end", func() error {
		st, err := p.edge.Status(ctx)
		if err != nil {
			return err
		}
		if st.Link.Connected {
			return fmt.Errorf("the link is up")
		}
		return nil
	})
	cluster.Eventually(t, 15*time.Second, "a diagnosis of the revocation", func() error {
		out, err := host.Run(ctx, append([]string{keadm, "debug", "diagnose", "edge"}, files[:2]...)...)
		if err == nil || !strings.Contains(out, "ERROR link: the link is down since") || !strings.Contains(out, "keadm reset edge") {
			return fmt.Errorf("it says: %w\n%s", err, out)
		}
		return nil
	})
	out, err := p.Keadm(ctx, "certs", "list")
	s.must(err)
	if !strings.Contains(out, "revoked") {
		t.Errorf("certs list says\n%s", out)
	}
	reset()

	// For programs each says what it did in one document on standard output.
	var joined struct {
		Node, Service string
		Ready         bool
	}
	if err := json.Unmarshal([]byte(join("-o", "json")), &joined); err != nil || joined.Node != "edge-1" || joined.Service != "process" || !joined.Ready {
		t.Errorf("a join says %+v to programs, %v", joined, err)
	}
	s.runPod("second")
	out, err = host.Run(ctx, append([]string{keadm, "reset", "edge", "--force", "--service", "process", "-o", "json"}, files[:2]...)...)
	s.must(err)
	var undone struct {
		Node                 string
		Stopped, NodeRemoved bool
		Ended                int
		Drained              *struct {
			Pods   int
			Failed string
		}
	}
	if err := json.Unmarshal([]byte(out), &undone); err != nil || undone.Node != "edge-1" || !undone.Stopped || !undone.NodeRemoved || undone.Ended == 0 ||
		undone.Drained == nil || undone.Drained.Failed != "" {
		t.Errorf("a reset says to programs, %v:\n%s", err, out)
	}
	cluster.Eventually(t, 30*time.Second, "the machine to be as it was", func() error { return differ(before, look(t, host)) })
	s.initAgain()
	s.initOnABusyPort()
	if _, err := p.Admin.CoreV1().Nodes().Get(ctx, "edge-1", metav1.GetOptions{}); !apierrors.IsNotFound(err) {
		t.Errorf("after the reset the Node is still there: %v", err)
	}
	out, err = p.Keadm(ctx, "certs", "list", "-o", "json")
	s.must(err)
	if strings.TrimSpace(out) != "[]" {
		t.Errorf("after the reset the cluster remembers\n%s", out)
	}

	// Where the machine has no pod network join makes one, and the reset removes it: with what is left of the former, the
	// next one with other addresses would give pods that never start.
	s.must(os.Remove(host.Path("/etc/cni/net.d/10-tether.conflist")))
	s.must(os.RemoveAll(host.Path("/var/lib/cni/networks")))
	before = look(t, host)
	for i, network := range []string{"10.77.1.0/24", "10.77.2.0/24"} {
		join("--pod-cidr", network)
		pod := demoPod(fmt.Sprintf("network-%d", i))
		pod.Spec.Containers[0].Ports = []corev1.ContainerPort{{ContainerPort: 8080, HostPort: 18080}}
		s.createPod(pod)
		got := s.waitPod(pod.Name, time.Minute, podReady)
		if !strings.HasPrefix(got.Status.PodIP, strings.TrimSuffix(network, "0/24")) {
			t.Errorf("the pod's address is %s, expected one of %s", got.Status.PodIP, network)
		}
		reset()
		// Until the cluster has noticed that its node went, the pod would come back with the next join, and its port with it.
		s.must(p.Admin.CoreV1().Pods(namespace).Delete(ctx, pod.Name, metav1.DeleteOptions{GracePeriodSeconds: new(int64(0))}))
		if left, err := os.ReadDir(host.Path("/var/lib/cni")); err != nil || slices.ContainsFunc(left, func(e fs.DirEntry) bool { return e.Name() == "networks" }) {
			t.Errorf("of the pod network's addresses is left: %v, %v", left, err)
		}
	}
}

// initAgain: an init beside one that is there says to programs which CA it kept, and the line that joins a node.
func (s *system) initAgain() {
	s.t.Helper()
	out, err := s.Keadm(s.t.Context(), "init", "--local", "--service", "none", "--config", filepath.Join(s.t.TempDir(), "cloudcore.yaml"),
		"--advertise-address", "cloud.example.org", "-o", "json")
	s.must(err)
	var r struct {
		CA, Join string
		Token    struct{ Token string }
	}
	if err := json.Unmarshal([]byte(out), &r); err != nil || r.CA == "" || !strings.HasPrefix(r.Token.Token, r.CA+".") ||
		r.Join != "keadm join --cloudcore-ipport cloud.example.org:10000 --token "+r.Token.Token {
		s.t.Errorf("init says to programs, %v:\n%s", err, out)
	}
}

// initOnABusyPort: a CloudCore that cannot listen is not waited for, and init says why it ended.
func (s *system) initOnABusyPort() {
	s.t.Helper()
	dir := s.t.TempDir()
	host, port, err := net.SplitHostPort(s.Server())
	s.must(err)
	ports, err := cluster.FreePorts(1, "")
	s.must(err)
	start := time.Now()
	_, err = s.Keadm(s.t.Context(), "init", "--local", "--service", "process", "--config", filepath.Join(dir, "cloudcore.yaml"), "--advertise-address", host,
		"--set", "hub.bindAddress="+host, "--set", "hub.webSocketPort="+port, "--set", fmt.Sprintf("metrics.bindAddress=127.0.0.1:%d", ports[0]))
	if took := time.Since(start); err == nil || took > 30*time.Second || !strings.Contains(err.Error(), "hub.webSocketPort: listen tcp "+s.Server()+": bind: address already in use") {
		s.t.Errorf("after %s: %v", took, err)
	}
	s.t.Logf("an init on a busy port ended after %s", time.Since(start).Round(10*time.Millisecond))
	text, err := os.ReadFile(filepath.Join(dir, "run", "cloudcore-supervisor.pid"))
	s.must(err)
	pid, err := strconv.Atoi(strings.TrimSpace(string(text)))
	s.must(err)
	s.must(syscall.Kill(pid, syscall.SIGTERM))
	cluster.Eventually(s.t, 30*time.Second, "the supervisor to end", func() error {
		if _, err := os.Stat(fmt.Sprintf("/proc/%d", pid)); err == nil {
			return fmt.Errorf("process %d is there", pid)
		}
		return nil
	})
}

// lookAtNode: keadm reads what edgecore tells of itself, and finds a node that has just joined well.
func lookAtNode(t *testing.T, host *cluster.EdgeHost, keadm string, files []string) {
	t.Helper()
	config := files[:2]
	for _, command := range [][]string{{"check"}, {"debug", "diagnose", "edge"}} {
		// Other things than the node may be wrong with the machine that runs the test.
		out, said := host.Run(t.Context(), slices.Concat([]string{keadm}, command, config, []string{"-o", "json"})...)
		var r struct {
			Node string
			Link struct {
				Connected, Synced       bool
				Protocol, Server, Since string
			}
			Kubelet  struct{ State string }
			Findings []struct{ Name, Found string }
		}
		if err := json.Unmarshal([]byte(out), &r); err != nil {
			t.Fatalf("keadm %q: %v: %v\n%s", command, err, said, out)
		}
		if r.Node != host.Name() || !r.Link.Connected || !r.Link.Synced || r.Link.Protocol != "websocket" || r.Link.Server == "" || r.Link.Since == "" ||
			command[0] == "debug" && r.Kubelet.State != "running" {
			t.Errorf("keadm %q says of a node that has just joined:\n%s", command, out)
		}
		for _, f := range r.Findings {
			if !slices.Contains([]string{"disk", "other-kubelet", "cgroup-v1", "swap", "ip-forward"}, f.Name) {
				t.Errorf("keadm %q finds %s: %s", command, f.Name, f.Found)
			}
		}
	}
	dir := t.TempDir()
	out, err := host.Run(t.Context(), slices.Concat([]string{keadm, "debug", "collect", "--output-path", dir}, config)...)
	if err != nil {
		t.Fatal(err)
	}
	bundle, err := filepath.Glob(filepath.Join(dir, "*.tar.gz"))
	if err != nil || len(bundle) != 1 {
		t.Fatalf("%q, %v\n%s", bundle, err, out)
	}
	list, err := exec.CommandContext(t.Context(), "tar", "-tzf", bundle[0]).CombinedOutput()
	for _, name := range []string{"edgecore.yaml", "status.json", "metrics.txt", "edgecore.log", "findings.json", "versions.txt", "certificates.txt"} {
		if !strings.Contains(string(list), "/"+name+"\n") {
			t.Errorf("no %s in the bundle: %v\n%s", name, err, list)
		}
	}
	if strings.Contains(string(list), "missing.txt") {
		t.Errorf("something is missing from the bundle:\n%s", list)
	}
}

// look lists what a join could leave on a host: processes, mounts, links, addresses' rules, files and control groups.
func look(t *testing.T, h *cluster.EdgeHost) map[string][]string {
	t.Helper()
	out := map[string][]string{}
	for what, argv := range map[string][]string{
		"mounts": {"cut", "-d", " ", "-f", "2", "/proc/self/mounts"}, "links": {"ip", "-brief", "link"}, "rules": {"iptables-save"},
	} {
		text, err := h.Run(context.Background(), argv...)
		if err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(text) {
			// Counters and times change, and the bridge plugin's empty chains and its bridge stay, as without Tether.
			if line = strings.TrimSpace(line); line != "" && !strings.HasPrefix(line, "#") && !strings.HasPrefix(line, ":") && !strings.HasPrefix(line, "*") && line != "COMMIT" && !strings.HasPrefix(line, "cni0") {
				out[what] = append(out[what], line)
			}
		}
		slices.Sort(out[what])
	}
	for _, dir := range []string{filepath.Join(h.Dir(), "tether"), h.Path("/var/lib/kubelet"), h.Path("/var/log/pods"), h.Path("/etc/cni/net.d")} {
		_ = filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
			if err == nil && path != dir {
				out["files"] = append(out["files"], path)
			}
			return nil
		})
	}
	roots, err := filepath.Glob("/sys/fs/cgroup/*" + h.Cgroup())
	if err != nil {
		t.Fatal(err)
	}
	for _, root := range append(roots, "/sys/fs/cgroup"+h.Cgroup()) {
		_ = filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
			if err != nil || !d.IsDir() {
				return nil
			}
			out["groups"] = append(out["groups"], path)
			procs, _ := os.ReadFile(filepath.Join(path, "cgroup.procs"))
			for _, pid := range strings.Fields(string(procs)) {
				if comm, err := os.ReadFile("/proc/" + pid + "/comm"); err == nil {
					out["processes"] = append(out["processes"], strings.TrimSpace(string(comm)))
				}
			}
			return nil
		})
	}
	slices.Sort(out["processes"])
	return out
}

func differ(before, after map[string][]string) error {
	var said []string
	for _, what := range slices.Sorted(maps.Keys(after)) {
		for _, x := range after[what] {
			if !slices.Contains(before[what], x) {
				said = append(said, what+": "+x)
			}
		}
	}
	for what := range before {
		for _, x := range before[what] {
			if !slices.Contains(after[what], x) {
				said = append(said, what+": gone: "+x)
			}
		}
	}
	if len(said) > 0 {
		return fmt.Errorf("left behind:\n%s", strings.Join(said[:min(len(said), 20)], "\n"))
	}
	return nil
}
