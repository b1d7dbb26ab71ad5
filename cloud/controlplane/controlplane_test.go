package controlplane

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	authorizationv1 "k8s.io/api/authorization/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
)

func adminConfig(t *testing.T, p *process) *rest.Config {
	t.Helper()
	config, err := clientcmd.BuildConfigFromFlags("", p.info.Kubeconfig)
	if err != nil {
		t.Fatal(err)
	}
	config.Timeout = 10 * time.Second
	return config
}

func clientFor(t *testing.T, config *rest.Config) kubernetes.Interface {
	t.Helper()
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		t.Fatal(err)
	}
	return client
}

// nodeConfig is that of a node whose certificate the cluster's authority signed.
func nodeConfig(t *testing.T, p *process, dataDir, node string) *rest.Config {
	t.Helper()
	files := &pki{dir: filepath.Join(dataDir, "pki")}
	ca, err := loadKeyPair(files.cert(clusterCA), files.key(clusterCA))
	if err != nil {
		t.Fatal(err)
	}
	pair, err := ca.issue(&certSpec{user: "system:node:" + node, group: "system:nodes"}, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	config := rest.AnonymousClientConfig(adminConfig(t, p))
	config.CertData, config.KeyData = pair.certPEM, pair.keyPEM
	return config
}

func TestWholeControlPlane(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "data")
	kubeconfigOut := filepath.Join(t.TempDir(), "sub", "admin.kubeconfig")
	first := launch(t, dir, "--extra-address=127.0.0.2", "--kubeconfig-out="+kubeconfigOut)
	first.waitReady(dir + ".ready")
	t.Log(first.said())
	components := first.children()
	if len(components) != len(componentNames) {
		t.Fatalf("expected one process per component, found %v", components)
	}
	admin := clientFor(t, adminConfig(t, first))
	ctx := t.Context()

	t.Run("the line of readiness comes last and names the kubeconfig", func(t *testing.T) {
		eventually(t, 5*time.Second, "the last line", func() error {
			all := strings.Split(strings.TrimSpace(first.said()), "\n")
			if last := all[len(all)-1]; !strings.HasPrefix(last, "controlplane ready in") || !strings.HasSuffix(last, "KUBECONFIG="+kubeconfigOut) {
				return fmt.Errorf("is %q", last)
			}
			return nil
		})
	})
	t.Run("pods are accepted at once", func(t *testing.T) {
		pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "early"}, Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: "i"}}}}
		if _, err := admin.CoreV1().Pods("default").Create(ctx, pod, metav1.CreateOptions{}); err != nil {
			t.Error(err)
		}
	})
	t.Run("serves the extra address with a certificate for it", func(t *testing.T) {
		config := adminConfig(t, first)
		config.Host = fmt.Sprintf("https://127.0.0.2:%d", first.info.Ports["secure-port"])
		if _, err := clientFor(t, config).Discovery().ServerVersion(); err != nil {
			t.Error(err)
		}
	})
	t.Run("etcd refuses who has no certificate", func(t *testing.T) {
		conn, err := tls.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", first.info.Ports["etcd-port"]), &tls.Config{InsecureSkipVerify: true})
		if err == nil {
			conn.SetDeadline(time.Now().Add(5 * time.Second))
			fmt.Fprint(conn, "GET /health HTTP/1.0\r\n\r\n") // TLS 1.3 refuses a client at its first read
			_, err = conn.Read(make([]byte, 1))
			conn.Close()
		}
		if err == nil || !strings.Contains(err.Error(), "certificate required") && !strings.Contains(err.Error(), "bad certificate") {
			t.Errorf("expected a refusal for the missing certificate, got: %v", err)
		}
	})
	t.Run("authorizers", func(t *testing.T) { testAuthorizers(t, first, dir, admin) })
	t.Run("the API server's own client may reach kubelets, and read no Secrets", func(t *testing.T) {
		for resource, want := range map[string]bool{"nodes/proxy": true, "secrets": false} {
			name, sub, _ := strings.Cut(resource, "/")
			review, err := admin.AuthorizationV1().SubjectAccessReviews().Create(ctx, &authorizationv1.SubjectAccessReview{
				Spec: authorizationv1.SubjectAccessReviewSpec{
					User:               kubeletClientUser,
					ResourceAttributes: &authorizationv1.ResourceAttributes{Verb: "get", Resource: name, Subresource: sub},
				},
			}, metav1.CreateOptions{})
			if err != nil || review.Status.Allowed != want {
				t.Errorf("get %s: allowed is %v, expected %v (%v)", resource, review.Status.Allowed, want, err)
			}
		}
	})
	t.Run("its directory is refused to a second one", func(t *testing.T) {
		second := launch(t, dir)
		if code := second.exitCode(); code != 1 || !strings.Contains(second.said(), fmt.Sprintf("in use by another control plane (process %d)", first.info.PID)) {
			t.Errorf("exit code %d:\n%s", code, second.said())
		}
	})
	t.Run("a component that dies comes back", func(t *testing.T) {
		if err := syscall.Kill(components[nameAPIServer], syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		eventually(t, time.Minute, "a new API server answers", func() error {
			if pid := first.children()[nameAPIServer]; pid == 0 || pid == components[nameAPIServer] {
				return errors.New("no new process")
			}
			_, err := admin.CoreV1().Namespaces().Get(ctx, "default", metav1.GetOptions{})
			return err
		})
	})

	note := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "note"}, Data: map[string]string{"text": "still here"}}
	if _, err := admin.CoreV1().ConfigMaps("default").Create(ctx, note, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	components = first.children()
	if err := first.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if code := first.exitCode(); code != 0 {
		t.Errorf("exit code after SIGTERM is %d:\n%s", code, first.said())
	}
	if err := noneLeft(components); err != nil {
		t.Errorf("after the stop: %v", err)
	}
	if _, err := os.Stat(dir + ".ready"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the ready file is still there after the stop (%v)", err)
	}
	if i, j := strings.Index(first.said(), nameAPIServer+" stopped"), strings.Index(first.said(), nameEtcd+" stopped"); i < 0 || j < i {
		t.Errorf("etcd did not stop last:\n%s", first.said())
	}

	again := launch(t, dir)
	again.waitReady(dir + ".ready")
	found, err := clientFor(t, adminConfig(t, again)).CoreV1().ConfigMaps("default").Get(ctx, "note", metav1.GetOptions{})
	if err != nil || found.Data["text"] != "still here" {
		t.Errorf("after the restart: %v, %v", found, err)
	}
	components = again.children()
	again.cmd.Process.Kill()
	again.exitCode()
	eventually(t, 5*time.Second, "no component outlives a killed parent", func() error { return noneLeft(components) })
}

func testAuthorizers(t *testing.T, p *process, dir string, admin kubernetes.Interface) {
	ctx := t.Context()
	for _, name := range []string{"ghost", "other"} {
		secret := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: name}}
		if _, err := admin.CoreV1().Secrets("default").Create(ctx, secret, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	node := clientFor(t, nodeConfig(t, p, dir, "ghost"))
	create := func(name string, labels map[string]string) error {
		n := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: labels}}
		_, err := node.CoreV1().Nodes().Create(ctx, n, metav1.CreateOptions{})
		return err
	}
	refused := func(what string, err error, because string) {
		t.Helper()
		if !apierrors.IsForbidden(err) || !strings.Contains(err.Error(), because) {
			t.Errorf("%s: expected a refusal that says %q, got: %v", what, because, err)
		}
	}
	_, err := node.CoreV1().Secrets("default").Get(ctx, "ghost", metav1.GetOptions{})
	refused("a Secret no pod of the node refers to (Node authorizer)", err, "no relationship found between node")
	refused("another node's Node (NodeRestriction)", create("other", nil), "is not allowed to modify node")
	refused("a role label on its own Node (NodeRestriction)", create("ghost", map[string]string{"node-role.kubernetes.io/x": ""}), "node-role.kubernetes.io/x")
	if err := create("ghost", nil); err != nil {
		t.Errorf("its own Node: %v", err)
	}
	got, err := admin.CoreV1().Nodes().Get(ctx, "ghost", metav1.GetOptions{})
	if err != nil || got.Spec.PodCIDR != "" {
		t.Errorf("Node has podCIDR %q: edge nodes choose their own (%v)", got.Spec.PodCIDR, err)
	}
	config := adminConfig(t, p)
	config.Impersonate.UserName = "nobody-in-particular"
	_, err = clientFor(t, config).CoreV1().Secrets("default").List(ctx, metav1.ListOptions{})
	refused("a user without a role (RBAC)", err, "cannot list resource")
	_, err = clientFor(t, rest.AnonymousClientConfig(adminConfig(t, p))).CoreV1().Secrets("default").List(ctx, metav1.ListOptions{})
	refused("nobody", err, "system:anonymous")
}

func TestComponentThatCannotStartEndsTheStartWithItsLog(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "data")
	p := launch(t, dir, "--component-arg=kube-apiserver=--no-such-flag=1")
	if code := p.exitCode(); code != 1 {
		t.Errorf("exit code %d", code)
	}
	for _, want := range []string{"kube-apiserver ended before it was ready", "kube-apiserver.log", "unknown flag: --no-such-flag", "etcd stopped"} {
		if !strings.Contains(p.said(), want) {
			t.Errorf("the output does not say %q:\n%s", want, p.said())
		}
	}
}

func TestStopWhileStartingIsClean(t *testing.T) {
	cfg := anyPorts(filepath.Join(t.TempDir(), "data"))
	ctx, cancel := context.WithCancel(t.Context())
	cp := New(cfg, Deps{Log: testLog(t), Progress: cancelOn{"etcd ready", cancel, t}})
	if err := cp.Start(ctx); err != nil {
		t.Errorf("Start returned %v", err)
	}
	select {
	case <-cp.Ready():
		t.Error("it called itself ready")
	default:
	}
}

// cancelOn cancels at the first line of progress that begins with prefix.
type cancelOn struct {
	prefix string
	cancel context.CancelFunc
	t      *testing.T
}

func (c cancelOn) Write(b []byte) (int, error) {
	if strings.HasPrefix(string(b), c.prefix) {
		c.cancel()
	}
	return testProgress{c.t}.Write(b)
}

func TestReadyInfoNamesEveryPort(t *testing.T) {
	cfg := DefaultConfig()
	cp := &ControlPlane{cfg: cfg, dir: &dataDir{path: "/data"}}
	body, err := json.Marshal(cp.Info())
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{`"server":"https://127.0.0.1:6443"`, `"kubeconfig":"/data/admin.kubeconfig"`, `"secure-port":6443`, `"etcd-peer-port":2380`, `"scheduler-port":10259`} {
		if !strings.Contains(string(body), want) {
			t.Errorf("%s is not in %s", want, body)
		}
	}
}
