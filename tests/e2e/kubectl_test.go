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
	"strconv"
	"strings"
	"testing"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/tether-edge/tether/tests/cluster"
)

// said is what one run of kubectl said.
type said struct {
	code     int
	out, err string
}

// kubectl runs the stock kubectl as the admin.
func (s *system) kubectl(stdin string, args ...string) said {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(s.t.Context(), time.Minute)
	defer cancel()
	cmd := s.kubectlCommand(ctx, args...)
	var out, errOut bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(stdin), &out, &errOut
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && (!errors.As(err, &exit) || ctx.Err() != nil) {
		s.t.Fatalf("kubectl %q: %v\n%s", args, errors.Join(err, ctx.Err()), errOut.String())
	}
	return said{cmd.ProcessState.ExitCode(), out.String(), errOut.String()}
}

func (s *system) kubectlCommand(ctx context.Context, args ...string) *exec.Cmd {
	s.t.Helper()
	program, err := cluster.Program(ctx, "kubectl")
	s.must(err)
	return exec.CommandContext(ctx, program, append([]string{"--kubeconfig", s.Control.Kubeconfig, "--cache-dir", filepath.Join(s.Cluster.Dir(), "kubectl"), "-n", namespace}, args...)...)
}

// stock adds a node with a stock kubelet to the shared system.
func (s *system) stock(name string) *cluster.EdgeHost {
	s.t.Helper()
	ctx := context.Background() // it outlives the test
	if h := s.Cluster.Host(name); h != nil {
		return h
	}
	images, err := cluster.Images(ctx)
	s.must(err)
	h, err := s.Cluster.NewEdgeHost(ctx, cluster.EdgeConfig{Name: name, Images: images})
	s.must(err)
	_, err = s.StockKubelet(ctx, h, s.Cluster.Machine().SysResource)
	s.must(err)
	// For the pods that name it only: those of other tests are the edge's.
	_, err = s.Admin.CoreV1().Nodes().Patch(ctx, name, types.MergePatchType, []byte(`{"spec":{"unschedulable":true}}`), metav1.PatchOptions{})
	s.must(err)
	return h
}

// subject is a pod on a node whose server prints one line.
func (s *system) subject(name, node string) *corev1.Pod {
	s.t.Helper()
	p := demoPod(name)
	p.Spec.Volumes = []corev1.Volume{{Name: "data", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}}}
	p.Spec.Containers[0].VolumeMounts = []corev1.VolumeMount{{Name: "data", MountPath: "/data"}}
	p.Spec.Containers = append(p.Spec.Containers, corev1.Container{Name: "listener", Image: p.Spec.Containers[0].Image, Args: []string{"cat", "/dev/stdin"}, Stdin: true, StdinOnce: false})
	p.Spec.NodeName = node
	for i := range p.Spec.Containers {
		p.Spec.Containers[i].ImagePullPolicy = corev1.PullIfNotPresent
	}
	p.Spec.TerminationGracePeriodSeconds = new(int64(1))
	_, err := s.Admin.CoreV1().Pods(namespace).Create(s.t.Context(), p, metav1.CreateOptions{})
	s.must(err)
	return s.waitPod(name, time.Minute, podReady)
}

// alike are things that differ between two nodes and do not matter.
var alike = regexp.MustCompile(`[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9:.]+Z|[0-9a-f]{8}-[0-9a-f-]{27}|[0-9a-f]{64}|https://[0-9.:]+`)

// TestNobodyCanTellAnEdgePodByKubectl: each verb says the same of a pod at the edge as of one on a stock kubelet's node.
func TestNobodyCanTellAnEdgePodByKubectl(t *testing.T) {
	s := sharedSystem(t)
	s.stock("stock-1")
	s.subject("on-edge-1", "edge-1")
	s.subject("on-stock-1", "stock-1")
	dir := t.TempDir()
	local := filepath.Join(dir, "local")
	s.must(os.WriteFile(local, []byte("some content\n"), 0o644))
	for _, c := range []struct {
		name  string
		stdin string
		args  []string
		code  int
		want  string // in either output
	}{
		{"logs", "", []string{"logs", "POD", "-c", "demo"}, 0, "demo: serving on"},
		{"the last line of logs", "", []string{"logs", "POD", "-c", "demo", "--tail=1", "--timestamps"}, 0, "demo: serving on"},
		{"logs of a container that is not there", "", []string{"logs", "POD", "-c", "nobody"}, 1, "nobody"},
		{"logs of a container before this one", "", []string{"logs", "POD", "-c", "demo", "-p"}, 1, "previous terminated container"},
		{"exec", "", []string{"exec", "POD", "-c", "demo", "--", "/demo", "cat", "/etc/hostname"}, 0, "POD"},
		{"exec with input", "what I say", []string{"exec", "-i", "POD", "-c", "demo", "--", "/demo", "cat", "/dev/stdin"}, 0, "what I say"},
		{"the exit code of exec", "", []string{"exec", "POD", "-c", "demo", "--", "/demo", "exit", "3"}, 3, "exit code 3"},
		{"exec of nothing", "", []string{"exec", "POD", "-c", "demo", "--", "/nothing"}, 1, "nothing"},
		{"cp to the pod", "", []string{"cp", local, "POD:/data/copied", "-c", "demo"}, 0, ""},
		{"what was copied", "", []string{"exec", "POD", "-c", "demo", "--", "/demo", "cat", "/data/copied"}, 0, "some content"},
		{"cp from the pod", "", []string{"cp", "POD:/data/copied", filepath.Join(dir, "POD"), "-c", "demo"}, 0, ""},
		{"the kubelet's health", "", []string{"get", "--raw", "/api/v1/nodes/NODE/proxy/healthz"}, 0, "ok"},
		{"a path that the kubelet has not", "", []string{"get", "--raw", "/api/v1/nodes/NODE/proxy/nothing"}, 1, "could not find"},
		{"a pod's own server", "", []string{"get", "--raw", "/api/v1/nodes/NODE/proxy/runningpods/"}, 0, "PodList"},
	} {
		var got [2]said
		for i, node := range []string{"edge-1", "stock-1"} {
			pod := "on-" + node
			args := make([]string, len(c.args))
			for j, a := range c.args {
				args[j] = strings.NewReplacer("POD", pod, "NODE", node).Replace(a)
			}
			r := s.kubectl(c.stdin, args...)
			plain := func(text string) string {
				return alike.ReplaceAllString(strings.ReplaceAll(strings.ReplaceAll(text, pod, "POD"), node, "NODE"), "_")
			}
			got[i] = said{r.code, plain(r.out), plain(r.err)}
		}
		edge, stock := got[0], got[1]
		if edge.code != c.code || !strings.Contains(edge.out+edge.err, c.want) {
			t.Errorf("%s: exit code %d, %q, %q; expected code %d and %q", c.name, edge.code, edge.out, edge.err, c.code, c.want)
		}
		if c.name == "a pod's own server" {
			continue // its list is in no order
		}
		if edge != stock {
			t.Errorf("%s differs:\nedge:  %+v\nstock: %+v", c.name, edge, stock)
		}
	}
	if b, err := os.ReadFile(filepath.Join(dir, "on-edge-1")); err != nil || string(b) != "some content\n" {
		t.Errorf("copied back: %q, %v", b, err)
	}
	for _, pod := range []string{"on-edge-1", "on-stock-1"} {
		s.forwards(pod)
		s.attachesAndFollows(pod)
	}
}

// forwards asks a pod's server through kubectl port-forward.
func (s *system) forwards(pod string) {
	s.t.Helper()
	ctx, cancel := context.WithCancel(s.t.Context())
	defer cancel()
	cmd := s.kubectlCommand(ctx, "port-forward", "pod/"+pod, ":8080")
	out, err := cmd.StdoutPipe()
	s.must(err)
	s.must(cmd.Start())
	defer func() { cancel(); _ = cmd.Wait() }()
	b := make([]byte, 256)
	n, err := out.Read(b)
	s.must(err)
	m := regexp.MustCompile(`127\.0\.0\.1:([0-9]+) ->`).FindSubmatch(b[:n])
	if m == nil {
		s.t.Fatalf("port-forward said %q", b[:n])
	}
	for range 3 {
		r, err := http.Get("http://127.0.0.1:" + string(m[1]) + "/")
		s.must(err)
		body, err := io.ReadAll(r.Body)
		s.must(errors.Join(err, r.Body.Close()))
		if !strings.Contains(string(body), pod) {
			s.t.Errorf("through port-forward the pod's server answers %q, expected its name", body)
		}
	}
}

// attachesAndFollows says a line to a container that repeats what it hears, through attach, and reads it from there and
// from logs -f.
func (s *system) attachesAndFollows(pod string) {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(s.t.Context(), time.Minute)
	defer cancel()
	begin := func(args ...string) (in io.Writer, out io.Reader) {
		cmd := s.kubectlCommand(ctx, args...)
		in, err := cmd.StdinPipe()
		s.must(err)
		out, err = cmd.StdoutPipe()
		s.must(err)
		s.must(cmd.Start())
		s.t.Cleanup(func() { cancel(); _ = cmd.Wait() })
		return in, out
	}
	_, logs := begin("logs", "-f", pod, "-c", "listener")
	in, heard := begin("attach", "-i", pod, "-c", "listener")
	line := "a line for " + pod
	_, err := io.WriteString(in, line+"\n")
	s.must(err)
	for what, r := range map[string]io.Reader{"attach": heard, "logs -f": logs} {
		var all strings.Builder
		b := make([]byte, 1024)
		for !strings.Contains(all.String(), line) {
			n, err := r.Read(b)
			all.Write(b[:n])
			if err != nil {
				s.t.Fatalf("%s of %s ended with %q: %v", what, pod, all.String(), err)
			}
		}
	}
}

// TestWhoMayAskAKubelet: the endpoint in the cloud and the kubelet's own port, asked by those who may not.
func TestWhoMayAskAKubelet(t *testing.T) {
	s := sharedSystem(t)
	ctx := t.Context()
	n, err := s.Admin.CoreV1().Nodes().Get(ctx, "edge-1", metav1.GetOptions{})
	s.must(err)
	port := n.Status.DaemonEndpoints.KubeletEndpoint.Port
	host, _, err := net.SplitHostPort(s.Server())
	s.must(err)
	if port < 20000 || n.Annotations["tether.io/kubelet-port"] != strconv.Itoa(int(port)) {
		t.Errorf("the Node shows the kubelet's port as %d, annotation %q", port, n.Annotations["tether.io/kubelet-port"])
	}
	for _, a := range n.Status.Addresses {
		if a.Address != host {
			t.Errorf("the Node shows the address %v, expected CloudCore's %s", a, host)
		}
	}
	local, err := s.edge.LocalAPI()
	s.must(err)
	own, err := local.CoreV1().Nodes().Get(ctx, "edge-1", metav1.GetOptions{})
	s.must(err)
	if a := own.Status.Addresses; len(a) == 0 || a[0].Address != s.edge.Address() {
		t.Errorf("at the edge the Node shows %v, expected its own address %s", a, s.edge.Address())
	}

	nobody, reader := s.user("nobody"), s.user("reader", "nodes/metrics")
	url := fmt.Sprintf("https://%s:%d", host, port)
	for _, c := range []struct {
		path, token string
		code        int
	}{
		{"/pods", "", 401}, {"/metrics", "", 401}, {"/healthz", "", 401}, {"/pods", "no.such.token", 401},
		{"/pods", nobody, 403}, {"/logs/", nobody, 403}, {"/metrics", nobody, 403},
		{"/metrics/resource", reader, 200}, {"/pods", reader, 403}, {"/metrics/../pods", reader, 400}, {"/metrics/..%2fpods", reader, 400},
	} {
		if code, body := ask(t, url+c.path, c.token); code != c.code {
			t.Errorf("GET %s with token %.10q: status %d, expected %d: %.200s", c.path, c.token, code, c.code, body)
		}
	}
	// The kubelet's own port is on loopback, and takes the certificates of the edge's local CA only.
	inside := &http.Client{Timeout: 20 * time.Second, Transport: &http.Transport{DialContext: s.edge.DialContext, TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}}
	for _, path := range []string{"/pods", "/metrics", "/stats/summary"} {
		r, err := inside.Get("https://127.0.0.1:10350" + path)
		s.must(err)
		if r.StatusCode != http.StatusUnauthorized {
			t.Errorf("the kubelet's own port answers a stranger on %s with %s, expected 401", path, r.Status)
		}
		s.must(r.Body.Close())
	}
	if c, err := net.DialTimeout("tcp", net.JoinHostPort(s.edge.Address(), "10350"), 5*time.Second); err == nil {
		t.Errorf("the kubelet's own port is open to the network: %s", c.RemoteAddr())
		_ = c.Close()
	}
}

// ask asks an HTTPS server with a token, or without if that is empty, and with the headers of a front proxy.
func ask(t *testing.T, url, token string) (int, string) {
	t.Helper()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
	must(err)
	if token != "" {
		request.Header.Set("Authorization", "Bearer "+token)
	}
	request.Header.Set("X-Remote-User", "admin")
	request.Header.Set("X-Remote-Group", "system:masters")
	client := &http.Client{Timeout: 20 * time.Second, Transport: &http.Transport{DisableKeepAlives: true, TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}}
	r, err := client.Do(request)
	must(err)
	defer r.Body.Close()
	b, err := io.ReadAll(r.Body)
	must(err)
	return r.StatusCode, string(b)
}

// TestANodeThatIsAwaySaysSo: what is asked of a node that is cut off ends in seconds, and says since when.
func TestANodeThatIsAwaySaysSo(t *testing.T) {
	s := sharedSystem(t)
	s.runPod("quiet")
	s.cut()
	cluster.Eventually(t, time.Minute, "the hub to notice", func() error {
		r := s.kubectl("", "logs", "quiet")
		if r.code == 0 || !strings.Contains(r.err, `edge-1\" cannot be asked: the node is not connected`) || !strings.Contains(r.err, "last heard of") {
			return fmt.Errorf("exit code %d: %s%s", r.code, r.out, r.err)
		}
		return nil
	})
	s.heal()
	cluster.Eventually(t, 20*time.Second, "logs to be there again", func() error {
		if r := s.kubectl("", "logs", "quiet"); r.code != 0 {
			return errors.New(r.err)
		}
		return nil
	})
}

// user makes a service account that may get some resources, and returns a token of it.
func (s *system) user(name string, resources ...string) string {
	s.t.Helper()
	ctx := context.Background()
	s.t.Cleanup(func() {
		s.must(ignoreNotFound(s.Admin.CoreV1().ServiceAccounts(namespace).Delete(ctx, name, metav1.DeleteOptions{})))
		s.must(ignoreNotFound(s.Admin.RbacV1().ClusterRoles().Delete(ctx, "test:"+name, metav1.DeleteOptions{})))
		s.must(ignoreNotFound(s.Admin.RbacV1().ClusterRoleBindings().Delete(ctx, "test:"+name, metav1.DeleteOptions{})))
	})
	meta := metav1.ObjectMeta{Name: "test:" + name}
	_, err := s.Admin.CoreV1().ServiceAccounts(namespace).Create(ctx, &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: name}}, metav1.CreateOptions{})
	s.must(err)
	if len(resources) > 0 {
		_, err = s.Admin.RbacV1().ClusterRoles().Create(ctx, &rbacv1.ClusterRole{ObjectMeta: meta,
			Rules: []rbacv1.PolicyRule{{APIGroups: []string{""}, Resources: resources, Verbs: []string{"get"}}}}, metav1.CreateOptions{})
		s.must(err)
		_, err = s.Admin.RbacV1().ClusterRoleBindings().Create(ctx, &rbacv1.ClusterRoleBinding{ObjectMeta: meta,
			RoleRef:  rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: meta.Name},
			Subjects: []rbacv1.Subject{{Kind: "ServiceAccount", Namespace: namespace, Name: name}}}, metav1.CreateOptions{})
		s.must(err)
	}
	token, err := s.Admin.CoreV1().ServiceAccounts(namespace).CreateToken(ctx, name, &authenticationv1.TokenRequest{}, metav1.CreateOptions{})
	s.must(err)
	return token.Status.Token
}
