package e2e

import (
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/tether-edge/tether/apis/devices/v1beta1"
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
		giveRights(t, s.Admin)
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

// giveRights waits until the cluster's own roles let their users at devices, and at no status.
func giveRights(t *testing.T, admin kubernetes.Interface) {
	t.Helper()
	allows := func(role *rbacv1.ClusterRole, resource, verb string) bool {
		return slices.ContainsFunc(role.Rules, func(r rbacv1.PolicyRule) bool {
			return slices.Contains(r.APIGroups, v1beta1.GroupVersion.Group) && slices.Contains(r.Resources, resource) && slices.Contains(r.Verbs, verb)
		})
	}
	for name, writes := range map[string]bool{"view": false, "edit": true, "admin": true} {
		cluster.Eventually(t, 30*time.Second, "the role "+name+" to know devices", func() error {
			role, err := admin.RbacV1().ClusterRoles().Get(t.Context(), name, metav1.GetOptions{})
			if err != nil {
				return err
			}
			for _, resource := range []string{"devices", "devicemodels", "devicestatuses"} {
				for _, verb := range []string{"get", "list", "watch", "create", "update", "patch", "delete", "deletecollection"} {
					reads := verb == "get" || verb == "list" || verb == "watch"
					if want := reads || writes && resource != "devicestatuses"; allows(role, resource, verb) != want {
						return fmt.Errorf("to %s %s is allowed: %v, expected %v", verb, resource, !want, want)
					}
				}
			}
			return nil
		})
	}
}
