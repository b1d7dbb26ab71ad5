package e2e

import (
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/tether-edge/tether/tests/cluster"
	"github.com/tether-edge/tether/tests/stack"
)

// TestACloudThatIsResetLeavesTheMachineAsItWas: CloudCore as a service of a machine, made twice by init and ended by reset,
// after which neither the machine nor the cluster shows it.
func TestACloudThatIsResetLeavesTheMachineAsItWas(t *testing.T) {
	ctx := t.Context()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	c := cluster.ForTest(t)
	program, err := cluster.Program(ctx, "controlplane")
	must(err)
	control, err := c.StartControlPlane(ctx, program)
	must(err)
	s, err := stack.Attach(c, control)
	must(err)
	h, err := c.NewEdgeHost(ctx, cluster.EdgeConfig{Name: "cloud-1"})
	must(err)
	keadm, err := cluster.Program(ctx, "keadm")
	must(err)
	text, err := os.ReadFile(control.Kubeconfig)
	must(err)
	config, err := control.RESTConfig()
	must(err)
	local, err := url.Parse(config.Host)
	must(err)
	kubeconfig := filepath.Join(t.TempDir(), "kubeconfig") // as it is on another machine
	must(os.WriteFile(kubeconfig, []byte(strings.ReplaceAll(string(text), local.String(), control.Server)), 0o600))

	file := filepath.Join(h.Dir(), "tether", "cloudcore.yaml")
	must(os.MkdirAll(filepath.Dir(file), 0o755))
	before := look(t, h)
	for round := range 2 {
		for range 2 {
			out, err := h.Run(ctx, keadm, "init", "--local", "--service", "process", "--kubeconfig", kubeconfig, "--config", file, "--advertise-address", h.Address())
			must(err)
			if !strings.Contains(out, "keadm join --cloudcore-ipport "+h.Address()+":10000") {
				t.Fatalf("init prints no line to join with:\n%s", out)
			}
		}
		if err := differ(before, look(t, h)); err == nil {
			t.Fatal("an init leaves no trace: this test looks at the wrong place")
		}
		out, err := h.Run(ctx, keadm, "reset", "cloud", "--crds", "--force", "--service", "process", "--kubeconfig", kubeconfig, "--config", file)
		must(err)
		cluster.Eventually(t, 30*time.Second, "the machine to be as it was", func() error { return differ(before, look(t, h)) })
		if _, err := s.Admin.CoreV1().Namespaces().Get(ctx, "tether-system", metav1.GetOptions{}); !apierrors.IsNotFound(err) {
			t.Errorf("round %d: the namespace is still there, %v:\n%s", round, err, out)
		}
		if roles, err := s.Admin.RbacV1().ClusterRoles().List(ctx, metav1.ListOptions{}); err != nil || strings.Contains(roles.String(), "tether:") {
			t.Errorf("round %d: a ClusterRole is left, or %v", round, err)
		}
	}
}
