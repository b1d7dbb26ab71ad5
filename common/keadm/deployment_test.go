package keadm

import (
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"

	"github.com/tether-edge/tether/build"
)

// CloudCore listens on the machine where its pod runs, so the pod runs where the advertised address leads.
func TestCloudCoreRunsWhereItsAddressLeads(t *testing.T) {
	node := func(name string, addresses ...string) corev1.Node {
		n := corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{corev1.LabelHostname: "host-" + name}}}
		for _, a := range addresses {
			n.Status.Addresses = append(n.Status.Addresses, corev1.NodeAddress{Address: a})
		}
		return n
	}
	nodes := []corev1.Node{node("a", "10.0.0.1", "a"), node("b", "10.0.0.2", "192.0.2.7")}
	for address, want := range map[string]string{"10.0.0.1": "host-a", "192.0.2.7": "host-b", "cloud.example.org": ""} {
		if got := nodeWith(nodes, []string{"elsewhere", address}); got != want {
			t.Errorf("%s leads to %q, expected %q", address, got, want)
		}
	}
	for _, place := range []string{"", "host-b"} {
		all := string(build.Deployment(build.DeploymentConfig{Image: "i", Config: []byte("a: b"), WebSocketPort: 1, JoinPort: 2, MetricsHost: "::1", MetricsPort: "10005", Node: place}))
		var d struct {
			Spec struct {
				Template struct{ Spec corev1.PodSpec }
			}
		}
		if err := yaml.Unmarshal([]byte(all[strings.LastIndex(all, "---"):]), &d); err != nil {
			t.Fatal(err)
		}
		pod := d.Spec.Template.Spec
		if got := pod.NodeSelector[corev1.LabelHostname]; got != place {
			t.Errorf("the pod is bound to %q, expected %q", got, place)
		}
		if get := pod.Containers[0].ReadinessProbe.HTTPGet; get.Host != "::1" || get.Port.IntValue() != 10005 {
			t.Errorf("the probe asks %s:%v, expected the metrics' address", get.Host, get.Port)
		}
	}
}
