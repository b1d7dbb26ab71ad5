package e2e

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/tether-edge/tether/apis/config/v1alpha1"
	"github.com/tether-edge/tether/common/pki"
	"github.com/tether-edge/tether/tests/cluster"
)

// onEdge prepares what a person at the edge host runs: keadm ctl, or stock kubectl with the kubeconfig that edgecore wrote.
func (s *system) onEdge(ctx context.Context, args ...string) *exec.Cmd {
	s.t.Helper()
	program, err := cluster.Program(ctx, args[0])
	s.must(err)
	argv := []string{program, "ctl"}
	if args[0] == "kubectl" {
		argv = []string{program, "--kubeconfig", s.edge.Kubeconfig(), "--cache-dir", filepath.Join(s.edge.Dir(), "kubectl")}
	}
	argv = append(argv, args[1:]...)
	if args[0] == "keadm" {
		// Before what is a container's, and after the command below ctl that has the flag.
		at := slices.Index(argv, "--")
		if at < 0 {
			at = len(argv)
		}
		argv = slices.Insert(argv, at, "--config", s.edge.Config())
	}
	cmd, err := s.edge.Command(ctx, argv...)
	s.must(err)
	return cmd
}

// says runs one to its end.
func (s *system) says(stdin string, args ...string) said {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(s.t.Context(), 2*time.Minute)
	defer cancel()
	cmd := s.onEdge(ctx, args...)
	var out, errOut bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(stdin), &out, &errOut
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && (!errors.As(err, &exit) || ctx.Err() != nil) {
		s.t.Fatalf("%q: %v\n%s%s", args, errors.Join(err, ctx.Err()), out.String(), errOut.String())
	}
	return said{cmd.ProcessState.ExitCode(), out.String(), errOut.String()}
}

// expects runs one, and wants its exit code and words in what it says.
func (s *system) expects(code int, want, stdin string, args ...string) said {
	s.t.Helper()
	r := s.says(stdin, args...)
	if r.code != code || !strings.Contains(r.out+r.err, want) {
		s.t.Errorf("%q: exit code %d, expected %d and %q:\n%s%s", args, r.code, code, want, r.out, r.err)
	}
	return r
}

// TestAPersonAtTheGatewaySeesAndMendsItOffline: with the cable out, keadm ctl and stock kubectl on the gateway read, follow,
// enter and restart; a write that would be lost is refused with the reason, and one that can wait does.
func TestAPersonAtTheGatewaySeesAndMendsItOffline(t *testing.T) {
	s := sharedSystem(t)
	_, err := s.Admin.CoreV1().ConfigMaps(namespace).Create(t.Context(), &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "settings"}, Data: map[string]string{"a": "b"}}, metav1.CreateOptions{})
	s.must(err)
	s.subject("web", "edge-1")
	once := demoPod("once")
	once.Labels = map[string]string{"kind": "task"}
	once.Spec.RestartPolicy = corev1.RestartPolicyNever
	once.Spec.Volumes = []corev1.Volume{{Name: "settings", VolumeSource: corev1.VolumeSource{ConfigMap: &corev1.ConfigMapVolumeSource{LocalObjectReference: corev1.LocalObjectReference{Name: "settings"}}}}}
	s.createPod(once)
	s.waitPod("once", time.Minute, podReady)
	s.expects(0, "up over "+string(protocol), "", "keadm", "status")
	s.cut()

	s.getsLikeKubectl()
	s.verbsAtTheGateway()
	s.streamsAtTheGateway()
	s.measuresAtTheGateway()
	s.restartsAtTheGateway()
	s.refusesWhatWouldBeLost()
	s.expects(0, "labeled", "", "kubectl", "label", "node", "edge-1", "site=north")
	r := s.expects(0, "down since ", "", "keadm", "status")
	for _, want := range []string{"trying " + s.Server(), "of class state", "kubelet      running since", "pods         2 running\n", "certificate  until ", "disk         "} {
		if !strings.Contains(r.out, want) {
			t.Errorf("the status lacks %q:\n%s", want, r.out)
		}
	}
	if strings.Contains(r.out, "PROBLEM") {
		t.Errorf("the status of a node that is well but offline has problems:\n%s", r.out)
	}

	s.must(s.edge.Supervisor.Stop(20 * time.Second))
	s.expects(1, "edgecore     does not run\npods         2 are up in the container runtime\n", "", "keadm", "status")
	s.expects(1, "edgecore does not answer at 127.0.0.1:10550", "", "keadm", "get", "pods")
	s.expects(1, "edgecore does not answer", "", "keadm", "restart", "web")
	s.must(s.edge.StartCore(t.Context()))

	s.heal()
	cluster.Eventually(t, time.Minute, "what was done offline to reach the cluster", func() error {
		n, err := s.Admin.CoreV1().Nodes().Get(t.Context(), "edge-1", metav1.GetOptions{})
		if err != nil {
			return err
		}
		p, err := s.Admin.CoreV1().Pods(namespace).Get(t.Context(), "web", metav1.GetOptions{})
		if err != nil {
			return err
		}
		if n.Labels["site"] != "north" || p.Status.ContainerStatuses[0].RestartCount != 2 {
			return fmt.Errorf("the node's labels are %v, the pod is %+v", n.Labels, p.Status.ContainerStatuses)
		}
		return nil
	})
	s.expects(0, "unlabeled", "", "kubectl", "label", "node", "edge-1", "site-")
}

// ages are what two calls one after the other may show differently, with the blanks beside them.
var ages = regexp.MustCompile(` +([0-9]+[smh])+ *| +`)

// getsLikeKubectl compares keadm's tables and objects with stock kubectl's.
func (s *system) getsLikeKubectl() {
	s.t.Helper()
	for _, args := range [][]string{
		{"pods"}, {"po", "-A"}, {"pods", "-o", "wide", "--show-labels"}, {"pod,cm"}, {"pod/web", "cm/settings"}, {"pods", "web", "once"}, {"node"},
		{"pods", "-l", "kind=task", "--no-headers"}, {"pods", "--field-selector", "metadata.name=web", "-o", "name"}, {"pods,nodes", "-o", "name"},
		{"pods", "-o", "json"}, {"pods", "web", "-o", "yaml"}, {"pod/web", "pod/once", "-o", "json"}, {"cm", "settings", "-o", "json"}, {"cm,pods", "-o", "yaml"},
		{"pods", "-L", "kind", "--sort-by", ".metadata.name"}, {"pods", "-A", "-o", "custom-columns=NAME:.metadata.name,IP:.status.podIP"},
		{"pod", "web", "-o", "jsonpath={.spec.containers[*].name}"},
		{"secrets"}, {"events", "-A"}, {"leases", "-A"}, {"leases.coordination.k8s.io", "-A", "-o", "name"},
	} {
		// Again, where something changed between the two.
		cluster.Eventually(s.t, 20*time.Second, "keadm and kubectl to say the same", func() error {
			ours, stock := s.says("", append([]string{"keadm", "get"}, args...)...), s.says("", append([]string{"kubectl", "get"}, args...)...)
			plain := func(r said) said { return said{r.code, ages.ReplaceAllString(r.out, " "), r.err} }
			if plain(ours) != plain(stock) || ours.code != 0 || ours.out+ours.err == "" {
				return fmt.Errorf("get %q differs:\nkeadm: %d\n%s%s\nkubectl: %d\n%s%s", args, ours.code, ours.out, ours.err, stock.code, stock.out, stock.err)
			}
			return nil
		})
	}
	s.expects(1, `pods "none" not found`, "", "keadm", "get", "pods", "none")
	s.expects(1, `the server doesn't have a resource type "deploy": this node holds`, "", "keadm", "get", "deploy")
	s.expects(2, "expected one of wide, name, json, yaml", "", "keadm", "get", "pods", "-o", "toml")
}

// verbsAtTheGateway are those that end by themselves.
func (s *system) verbsAtTheGateway() {
	s.t.Helper()
	dir := s.t.TempDir()
	local := filepath.Join(dir, "local")
	s.must(os.WriteFile(local, []byte("some content\n"), 0o644))
	for _, c := range []struct {
		code        int
		want, stdin string
		args        []string
	}{
		{0, "Restart Count:  0", "", []string{"keadm", "describe", "pod", "web"}},
		{0, "Container started", "", []string{"keadm", "describe", "pod/web"}},
		{0, "KubeletReady", "", []string{"keadm", "describe", "node"}},
		{1, `pods "none" not found`, "", []string{"keadm", "describe", "pod", "none"}},
		{2, "expected pod, node or device", "", []string{"keadm", "describe", "cm", "settings"}},
		{0, "demo: serving on", "", []string{"keadm", "logs", "web", "--tail", "1"}},
		{0, `Defaulted container "demo" out of: demo, listener`, "", []string{"keadm", "logs", "pod/web", "--since", "1h", "--timestamps"}},
		{0, "[pod/once/demo] demo: serving on", "", []string{"keadm", "logs", "-l", "kind=task", "--prefix", "--all-containers"}},
		{1, "previous terminated container", "", []string{"keadm", "logs", "web", "-c", "demo", "-p"}},
		{1, "container nobody is not valid for pod web", "", []string{"keadm", "logs", "web", "-c", "nobody"}},
		{0, "web\n", "", []string{"keadm", "exec", "web", "--", "/demo", "cat", "/etc/hostname"}},
		{0, "what I say", "what I say", []string{"keadm", "exec", "-i", "web", "-c", "listener", "--", "/demo", "cat", "/dev/stdin"}},
		{3, "command terminated with exit code 3", "", []string{"keadm", "exec", "web", "--", "/demo", "exit", "3"}},
		{1, "/nothing", "", []string{"keadm", "exec", "web", "--", "/nothing"}},
		{2, "expected a pod, -- and the command", "", []string{"keadm", "exec", "web"}},

		{0, "Restart Count:  0", "", []string{"kubectl", "describe", "pod", "web"}},
		{0, "KubeletReady", "", []string{"kubectl", "describe", "node", "edge-1"}},
		{0, "demo: serving on", "", []string{"kubectl", "logs", "web", "-c", "demo", "--tail=1"}},
		{1, "Error from server (BadRequest): previous terminated container", "", []string{"kubectl", "logs", "web", "-c", "demo", "-p"}},
		{3, "command terminated with exit code 3", "", []string{"kubectl", "exec", "web", "-c", "demo", "--", "/demo", "exit", "3"}},
		{0, "what I say", "what I say", []string{"kubectl", "exec", "-i", "web", "-c", "demo", "--", "/demo", "cat", "/dev/stdin"}},
		{0, "", "", []string{"kubectl", "cp", local, "web:/data/copied", "-c", "demo"}},
		{0, "", "", []string{"kubectl", "cp", "web:/data/copied", filepath.Join(dir, "back"), "-c", "demo"}},
		{0, "ok", "", []string{"kubectl", "get", "--raw", "/api/v1/nodes/edge-1/proxy/healthz"}},
	} {
		s.expects(c.code, c.want, c.stdin, c.args...)
	}
	if b, err := os.ReadFile(filepath.Join(dir, "back")); err != nil || string(b) != "some content\n" {
		s.t.Errorf("copied back: %q, %v", b, err)
	}
}

// until reads until the text has come.
func (s *system) until(what string, r io.Reader, text string) string {
	s.t.Helper()
	var all strings.Builder
	b := make([]byte, 1024)
	for !strings.Contains(all.String(), text) {
		n, err := r.Read(b)
		all.Write(b[:n])
		if err != nil {
			s.t.Fatalf("%s ended with %q, expected %q: %v", what, all.String(), text, err)
		}
	}
	return all.String()
}

// streamsAtTheGateway are the verbs that last: a line that is said to a container through kubectl attach is seen by those
// who follow its log; a forwarded port reaches a pod; a command has a terminal.
func (s *system) streamsAtTheGateway() {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(s.t.Context(), time.Minute)
	defer cancel()
	begin := func(args ...string) (in io.Writer, out io.Reader) {
		cmd := s.onEdge(ctx, args...)
		in, err := cmd.StdinPipe()
		s.must(err)
		out, err = cmd.StdoutPipe()
		s.must(err)
		s.must(cmd.Start())
		s.t.Cleanup(func() { cancel(); _ = cmd.Wait() })
		return in, out
	}
	_, ours := begin("keadm", "logs", "-f", "web", "-c", "listener")
	_, stock := begin("kubectl", "logs", "-f", "web", "-c", "listener")
	in, heard := begin("kubectl", "attach", "-i", "web", "-c", "listener")
	_, err := io.WriteString(in, "a line from the gateway\n")
	s.must(err)
	for what, r := range map[string]io.Reader{"keadm ctl logs -f": ours, "kubectl logs -f": stock, "kubectl attach": heard} {
		s.until(what, r, "a line from the gateway")
	}

	_, watched := begin("keadm", "get", "pods", "-w")
	s.until("keadm ctl get -w", watched, "web ")

	_, forwarded := begin("kubectl", "port-forward", "pod/web", ":8080")
	port := regexp.MustCompile(`127\.0\.0\.1:([0-9]+)`).FindStringSubmatch(s.until("kubectl port-forward", forwarded, "-> 8080"))
	client := &http.Client{Transport: &http.Transport{DialContext: s.edge.DialContext, DisableKeepAlives: true}, Timeout: 10 * time.Second}
	resp, err := client.Get("http://127.0.0.1:" + port[1] + "/")
	s.must(err)
	body, err := io.ReadAll(resp.Body)
	s.must(errors.Join(err, resp.Body.Close()))
	if !strings.Contains(string(body), `"hostname":"web"`) {
		s.t.Errorf("through port-forward the pod's server answers %q", body)
	}

	master, terminal := s.pty()
	s.t.Cleanup(func() { _ = master.Close() })
	cmd := s.onEdge(ctx, "keadm", "exec", "-it", "web", "-c", "demo", "--", "/demo", "cat", "/dev/stdin")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = terminal, terminal, terminal
	s.must(cmd.Start())
	s.must(terminal.Close())
	// What is typed comes twice: the container's terminal echoes it, and the command repeats it.
	_, err = io.WriteString(master, "typed\r")
	s.must(err)
	s.until("a terminal", master, "typed\r\ntyped\r\n")
	_, err = io.WriteString(master, "\x04") // the end of the input, which only a terminal makes of it
	s.must(err)
	if err := cmd.Wait(); err != nil {
		s.t.Errorf("a command on a terminal: %v", err)
	}
}

func (s *system) measuresAtTheGateway() {
	s.t.Helper()
	for _, c := range []struct {
		want string // a regular expression
		args []string
	}{
		{`edge-1 +[0-9]+m +[0-9]+% +[0-9]+Mi +[0-9]+%`, []string{"keadm", "top", "node"}},
		{`default +web +[0-9]+m +[1-9][0-9]*Mi`, []string{"keadm", "top", "pods", "-A"}},
		{`web +demo +[0-9]+m +[0-9]+Mi *\nweb +listener`, []string{"keadm", "top", "pods", "web", "--containers"}},
		{`edge-1 +[0-9]+m +[0-9]+% +[0-9]+Mi +[0-9]+%`, []string{"kubectl", "top", "node"}},
		{`web +[0-9]+m +[1-9][0-9]*Mi`, []string{"kubectl", "top", "pod"}},
	} {
		cluster.Eventually(s.t, time.Minute, "a measurement", func() error {
			if r := s.says("", c.args...); r.code != 0 || !regexp.MustCompile(c.want).MatchString(r.out) {
				return fmt.Errorf("%q: exit code %d\n%s%s, expected %s", c.args, r.code, r.out, r.err, c.want)
			}
			return nil
		})
	}
}

// restartsAtTheGateway restarts a pod twice: all of it, and one container. No other container notices.
func (s *system) restartsAtTheGateway() {
	s.t.Helper()
	before := s.containers()
	s.expects(0, "pod web", "", "keadm", "restart", "web")
	after := s.containers()
	for name, was := range before {
		mine := strings.HasPrefix(name, namespace+"/web/")
		if (after[name] != was) != mine || after[name] == "" {
			s.t.Errorf("after a restart of pod web container %s was %q, is %q", name, was, after[name])
		}
	}
	s.expects(0, "pod web", "", "keadm", "restart", "web", "-c", "demo")
	if now := s.containers(); now[namespace+"/web/listener"] != after[namespace+"/web/listener"] || now[namespace+"/web/demo"] == after[namespace+"/web/demo"] {
		s.t.Errorf("after a restart of container demo: %v, before %v", now, after)
	}
	s.expects(0, "web    2/2     Running   3 (", "", "keadm", "get", "pods")
	s.expects(1, "container demo of pod once has the restart policy Never", "", "keadm", "restart", "once")
}

// refusesWhatWouldBeLost: stock kubectl says why.
func (s *system) refusesWhatWouldBeLost() {
	s.t.Helper()
	manifest := filepath.Join(s.t.TempDir(), "settings.yaml")
	s.must(os.WriteFile(manifest, []byte("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: settings, namespace: default}\ndata: {a: c}\n"), 0o644))
	const lost = "a change made here would be lost, make it in the cluster"
	for _, c := range []struct {
		want string
		args []string
	}{
		{lost, []string{"apply", "-f", manifest}},
		{lost, []string{"annotate", "cm", "settings", "a=b"}},
		{lost, []string{"create", "configmap", "x"}},
		{lost, []string{"label", "pod", "web", "a=b"}},
		{lost, []string{"debug", "web", "--image=x", "--attach=false"}},
		{"the cloud owns this pod: delete it there", []string{"delete", "pod", "web"}},
		{"pods are made in the cluster", []string{"run", "x", "--image=y"}},
		{"it is not served at a gateway", []string{"create", "namespace", "x"}},
		{"it is not served at a gateway", []string{"create", "deployment", "x", "--image=y"}},
		{"reviews are made in the cluster", []string{"auth", "can-i", "create", "pods"}},
		{"reviews are made in the cluster", []string{"auth", "can-i", "--list"}},
		{"no link to the cloud", []string{"create", "token", "default"}},
		{"evictions are decided in the cloud", []string{"drain", "edge-1", "--force", "--delete-emptydir-data"}},
	} {
		s.expects(1, c.want, "", append([]string{"kubectl"}, c.args...)...)
	}
	s.expects(0, "and not the description of their fields: ask the", "", "kubectl", "explain", "pods")
}

// TestWhoMayAskTheLocalAPI: on loopback there are other users and pods of the host's network. The local API and the kubelet
// take the certificates of the node's own CA and no others, not even the node's.
func TestWhoMayAskTheLocalAPI(t *testing.T) {
	s := sharedSystem(t)
	cfg, err := v1alpha1.LoadEdgeCore(s.edge.Config())
	s.must(err)
	if info, err := os.Stat(s.edge.Kubeconfig()); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the operator's kubeconfig: %v, %v; expected it for its owner alone", info.Mode(), err)
	}
	node, err := tls.LoadX509KeyPair(cfg.Cloud.CertFile, cfg.Cloud.KeyFile)
	s.must(err)
	ca, err := pki.NewCA("tether-local", time.Hour, time.Now)
	s.must(err)
	pair, err := ca.IssueClient("local-admin", []string{"tether:local-admins"}, time.Hour)
	s.must(err)
	foreign, err := tls.X509KeyPair(pair.Cert, pair.Key)
	s.must(err)
	config, err := clientcmd.BuildConfigFromFlags("", s.edge.Kubeconfig())
	s.must(err)
	operator, err := tls.X509KeyPair(config.CertData, config.KeyData)
	s.must(err)
	for _, c := range []struct {
		who   string
		certs []tls.Certificate
		code  int
	}{
		{"nobody", nil, 401}, {"the node", []tls.Certificate{node}, 401}, {"another CA's operator", []tls.Certificate{foreign}, 401}, {"the operator", []tls.Certificate{operator}, 200},
	} {
		client := &http.Client{Timeout: 20 * time.Second, Transport: &http.Transport{DialContext: s.edge.DialContext, DisableKeepAlives: true, TLSClientConfig: &tls.Config{
			InsecureSkipVerify: true, GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
				// Also where the server does not name its CA.
				if len(c.certs) == 0 {
					return &tls.Certificate{}, nil
				}
				return &c.certs[0], nil
			}}}}
		for _, url := range []string{"https://127.0.0.1:10550/api/v1/pods", "https://127.0.0.1:10550/api/v1/nodes/edge-1/proxy/pods", "https://127.0.0.1:10550/openapi/v3", "https://127.0.0.1:10350/pods"} {
			r, err := client.Get(url)
			s.must(err)
			if r.StatusCode != c.code {
				t.Errorf("%s asks for %s: %s, expected %d", c.who, url, r.Status, c.code)
			}
			s.must(r.Body.Close())
		}
	}
	for _, address := range []string{"10550", "10350"} {
		if c, err := net.DialTimeout("tcp", net.JoinHostPort(s.edge.Address(), address), 5*time.Second); err == nil {
			t.Errorf("port %s of the edge is open to the network", address)
			_ = c.Close()
		}
	}
}
