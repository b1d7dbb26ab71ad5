package keadm

import (
	"bytes"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes/fake"

	"github.com/tether-edge/tether/apis/config/v1alpha1"
	"github.com/tether-edge/tether/build"
)

// again makes the configuration as init does that finds what is there.
func again(t *testing.T, client *clusterClient, f *initFlags) (*v1alpha1.CloudCore, []byte) {
	t.Helper()
	before, err := f.before(t.Context(), client)
	if err != nil {
		t.Fatal(err)
	}
	cfg, file, err := cloudConfig(f, before)
	if err != nil {
		t.Fatal(err)
	}
	return cfg, file
}

// holdsBoth: what an earlier init was told, and what a later one was.
func holdsBoth(t *testing.T, cfg *v1alpha1.CloudCore) {
	t.Helper()
	if cfg.Hub.WebSocketPort != 443 || cfg.Join.Port != 8443 || strings.Join(cfg.Hub.AdvertiseAddresses, " ") != "b.example" {
		t.Errorf("webSocketPort %d, join.port %d, addresses %q: expected 443 of before, 8443 and b.example of now", cfg.Hub.WebSocketPort, cfg.Join.Port, cfg.Hub.AdvertiseAddresses)
	}
}

func TestInitAgainKeepsEarlierSettings(t *testing.T) {
	path := filepath.Join(t.TempDir(), "cloudcore.yaml")
	first := &initFlags{local: true, config: path, addresses: []string{"a.example"}, settings: []string{"hub.webSocketPort=443", "join.port=10000"}}
	second := &initFlags{local: true, config: path, addresses: []string{"b.example"}, settings: []string{"join.port=8443"}}
	cfg, file := again(t, nil, first)
	if cfg.Kubeconfig != filepath.Join(filepath.Dir(path), "cloudcore.kubeconfig") {
		t.Errorf("kubeconfig %q", cfg.Kubeconfig)
	}
	if err := os.WriteFile(path, file, 0o600); err != nil {
		t.Fatal(err)
	}
	cfg, _ = again(t, nil, second)
	holdsBoth(t, cfg)

	if err := os.WriteFile(path, []byte("kind: Nothing\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	before, err := second.before(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := cloudConfig(second, before); err == nil || !strings.Contains(err.Error(), path) || !strings.Contains(err.Error(), "mend it, or remove it") {
		t.Errorf("a file that cannot be read: %v", err)
	}
}

func TestInitAgainKeepsTheSettingsOfTheDeployment(t *testing.T) {
	client := &clusterClient{Interface: fake.NewClientset()}
	first := &initFlags{addresses: []string{"a.example"}, settings: []string{"hub.webSocketPort=443"}}
	cfg, file := again(t, client, first)
	objects, err := documents(build.Deployment(build.DeploymentConfig{Image: "image", Config: file, WebSocketPort: cfg.Hub.WebSocketPort, QUICPort: cfg.Hub.QUICPort, JoinPort: cfg.Join.Port}))
	if err != nil {
		t.Fatal(err)
	}
	text, _ := objects[0].Object["data"].(map[string]any)[configKey].(string)
	m := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: objects[0].GetNamespace(), Name: objects[0].GetName()}, Data: map[string]string{configKey: text}}
	if _, err := client.CoreV1().ConfigMaps(m.Namespace).Create(t.Context(), m, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	cfg, _ = again(t, client, &initFlags{addresses: []string{"b.example"}, settings: []string{"join.port=8443"}})
	holdsBoth(t, cfg)
}

// apiServer answers with fixed texts, and returns a kubeconfig.
func apiServer(t *testing.T, answers map[string]string) string {
	t.Helper()
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		text, ok := answers[r.URL.Path]
		if !ok {
			w.WriteHeader(http.StatusNotFound)
			text = `{"kind":"Status","apiVersion":"v1","status":"Failure","reason":"NotFound","code":404}`
		}
		_, _ = w.Write([]byte(text))
	}))
	t.Cleanup(s.Close)

	path := filepath.Join(t.TempDir(), "kubeconfig")
	text := "apiVersion: v1\nkind: Config\ncurrent-context: c\ncontexts: [{name: c, context: {cluster: c}}]\nclusters: [{name: c, cluster: {server: '" + s.URL + "'}}]\n"
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestADryRunShowsTheFileOfThisMachine(t *testing.T) {
	kubeconfig := apiServer(t, map[string]string{"/version": `{"gitVersion":"v1.36.0"}`})
	path := filepath.Join(t.TempDir(), "tether", "cloudcore.yaml")
	out := do(t, "init", "--local", "--dry-run", "-o", "yaml", "--kubeconfig", kubeconfig, "--config", path, "--advertise-address", "a.example", "--set", "hub.webSocketPort=443")
	for _, want := range []string{"kind: ClusterRole\n", "\n# " + path + " on this machine:\n", "\n#   webSocketPort: 443\n", "\n#   - a.example\n"} {
		if !strings.Contains(out, want) {
			t.Errorf("expected %q in\n%s", want, out)
		}
	}
	objects, err := documents([]byte(out))
	if err != nil || len(objects) < 3 {
		t.Errorf("a cluster would read %d objects, %v", len(objects), err)
	}
	if isThere(filepath.Dir(path)) {
		t.Error("a dry run wrote something")
	}
}

func TestNoTokensAreAnEmptyListForPrograms(t *testing.T) {
	kubeconfig := apiServer(t, map[string]string{"/api/v1/namespaces/tether-system/secrets": `{"kind":"SecretList","apiVersion":"v1","items":[]}`})
	if out := do(t, "token", "list", "-o", "json", "--kubeconfig", kubeconfig); out != "[]\n" {
		t.Errorf("says %s", out)
	}
}

// keadm starts the program beside it, which may be below a home or /tmp: these two would hide it.
func TestTheUnitOfCloudCoreHidesNoDirectory(t *testing.T) {
	for _, hides := range []string{"\nProtectHome=", "\nPrivateTmp="} {
		if bytes.Contains(build.Unit("cloudcore"), []byte(hides)) {
			t.Errorf("the unit has%s", hides)
		}
	}
}

// A CloudCore that ends in the cluster, since a port of its machine is in use, has said why.
func TestAPodThatEndsIsToldWithItsLastWords(t *testing.T) {
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: build.Namespace, Name: "cloudcore-1", Labels: map[string]string{"app.kubernetes.io/name": "cloudcore"}}}
	for ended, want := range map[bool]string{
		false: "pod cloudcore-1: ImagePullBackOff: no such image",
		true:  "pod cloudcore-1: CrashLoopBackOff: back-off 10s; its last words were: fake logs",
	} {
		s := corev1.ContainerStatus{Name: "cloudcore", State: corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: "ImagePullBackOff", Message: "no such image"}}}
		if ended {
			s.State.Waiting = &corev1.ContainerStateWaiting{Reason: "CrashLoopBackOff", Message: "back-off 10s"}
			s.LastTerminationState.Terminated = &corev1.ContainerStateTerminated{ExitCode: 1}
		}
		pod.Status.ContainerStatuses = []corev1.ContainerStatus{s}
		c := &clusterClient{Interface: fake.NewClientset(pod)}
		if got := c.whyNot(t.Context()); got != want {
			t.Errorf("says %q, expected %q", got, want)
		}
	}
}
