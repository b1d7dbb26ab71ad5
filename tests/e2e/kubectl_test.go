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
	"os/exec"
	"path/filepath"
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
	logs, stats, proxied := s.user("of-logs", "nodes/log"), s.user("of-stats", "nodes/stats"), s.user("of-proxy", "nodes/proxy")
	url := fmt.Sprintf("https://%s:%d", host, port)
	for _, c := range []struct {
		path, token string
		code        int
	}{
		{"/pods", "", 401}, {"/metrics", "", 401}, {"/healthz", "", 401}, {"/pods", "no.such.token", 401},
		{"/pods", nobody, 403}, {"/logs/", nobody, 403}, {"/metrics", nobody, 403},
		{"/logs/", logs, 200}, {"/pods", logs, 403}, {"/stats/summary", logs, 403}, {"/metrics", logs, 403},
		{"/stats/summary", stats, 200}, {"/pods", stats, 403}, {"/logs/", stats, 403}, {"/metrics", stats, 403},
		{"/pods", proxied, 200}, {"/runningpods/", proxied, 200}, {"/logs/", proxied, 403}, {"/stats/summary", proxied, 403}, {"/metrics", proxied, 403},
		{"/metrics/resource", reader, 200}, {"/pods", reader, 403}, {"/logs/", reader, 403}, {"/stats/summary", reader, 403}, {"/metrics/../pods", reader, 400}, {"/metrics/..%2fpods", reader, 400},
	} {
		if code, body := ask(t, url+c.path, c.token); code != c.code {
			t.Errorf("GET %s with token %.10q: status %d, expected %d: %.200s", c.path, c.token, code, c.code, body)
		}
	}
	// Who the front proxy says that it asks for counts at the API server alone.
	proxy, err := s.Cluster.Certificate(cluster.FrontProxyClient)
	s.must(err)
	if code, body := ask(t, url+"/pods", "", proxy); code != 401 {
		t.Errorf("GET /pods by the front proxy in the name of an admin: status %d, expected 401: %.200s", code, body)
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

// ask asks an HTTPS server with a token, or without if that is empty, and with the headers of a front proxy, perhaps with certificates.
// Without an answer it returns 0 and why.
func ask(t *testing.T, url, token string, certs ...tls.Certificate) (int, string) {
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
	client := &http.Client{Timeout: 20 * time.Second, Transport: &http.Transport{DisableKeepAlives: true, TLSClientConfig: &tls.Config{InsecureSkipVerify: true, Certificates: certs}}}
	r, err := client.Do(request)
	if err != nil {
		return 0, err.Error()
	}
	defer r.Body.Close()
	b, err := io.ReadAll(r.Body)
	must(err)
	return r.StatusCode, string(b)
}

// TestWhatANodeShowsIsPutRight: CloudCore has the rights to note a node's port on it again, and to show it, when somebody took
// the one away and changed the other.
func TestWhatANodeShowsIsPutRight(t *testing.T) {
	s := sharedSystem(t)
	nodes := s.Admin.CoreV1().Nodes()
	n, err := nodes.Get(t.Context(), "edge-1", metav1.GetOptions{})
	s.must(err)
	port := n.Status.DaemonEndpoints.KubeletEndpoint.Port
	_, err = nodes.Patch(t.Context(), "edge-1", types.MergePatchType, []byte(`{"metadata":{"annotations":{"tether.io/kubelet-port":null}}}`), metav1.PatchOptions{})
	s.must(err)
	_, err = nodes.Patch(t.Context(), "edge-1", types.MergePatchType, []byte(`{"status":{"daemonEndpoints":{"kubeletEndpoint":{"Port":29999}}}}`), metav1.PatchOptions{}, "status")
	s.must(err)
	cluster.Eventually(t, 20*time.Second, "the Node to show its port again", func() error {
		n, err := nodes.Get(t.Context(), "edge-1", metav1.GetOptions{})
		if shown, noted := n.Status.DaemonEndpoints.KubeletEndpoint.Port, n.Annotations["tether.io/kubelet-port"]; err == nil && (shown != port || noted != strconv.Itoa(int(port))) {
			err = fmt.Errorf("it shows %d and is noted to have %q", shown, noted)
		}
		return err
	})
}

// TestANodeThatIsAwaySaysSo: what is asked of a node that is cut off ends in seconds, and says since when.
func TestANodeThatIsAwaySaysSo(t *testing.T) {
	s := sharedSystem(t)
	s.runPod("quiet")
	s.cut()
	cluster.Eventually(t, 30*time.Second, "the hub to notice", func() error { // docs/operations.md says 15 s
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
