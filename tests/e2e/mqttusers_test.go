package e2e

import (
	"context"
	"fmt"
	"testing"
	"time"

	"golang.org/x/crypto/bcrypt"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/tether-edge/tether/apis/config/v1alpha1"
	"github.com/tether-edge/tether/tests/cluster"
)

// userSecret gives the Secret of the broker's users another list.
func (s *system) userSecret(list string) {
	s.t.Helper()
	secret := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: "mqtt-users", Namespace: namespace}, StringData: map[string]string{v1alpha1.MQTTUsersKey: list}}
	_, err := s.Admin.CoreV1().Secrets(namespace).Update(s.t.Context(), secret, metav1.UpdateOptions{})
	s.must(err)
}

// listOf is the list of one user with a password, who may say how a device is.
func (s *system) listOf(user, password string) string {
	s.t.Helper()
	hash, err := bcrypt.GenerateFromPassword([]byte(password), bcrypt.MinCost)
	s.must(err)
	return fmt.Sprintf("- name: %s\n  passwordHash: %s\n  acl:\n  - {filter: $hw/events/device/plant/pump/#, read: true, write: true}\n", user, hash)
}

// letsIn waits until the broker lets a client in, or not.
func (s *system) letsIn(want bool, password string) {
	s.t.Helper()
	cluster.Eventually(s.t, 30*time.Second, fmt.Sprintf("the broker to let %q in: %v", password, want), func() error {
		ctx, cancel := context.WithTimeout(s.t.Context(), 10*time.Second)
		defer cancel()
		out, err := s.edge.Run(ctx, "mosquitto_pub", "-p", "1884", "-u", "pump", "-P", password, "-q", "1", "-t", "$hw/events/device/plant/pump/state/update", "-m", `{"state":"ok"}`)
		if (err == nil) != want {
			return fmt.Errorf("%v: %s", err, out)
		}
		return nil
	})
}

// configured starts edgecore with another configuration.
func (s *system) configured(change func(*v1alpha1.EdgeCore)) {
	s.t.Helper()
	s.must(s.edge.Supervisor.Stop(20 * time.Second))
	s.must(s.edge.Change(change))
	s.must(s.edge.StartCore(context.Background()))
	s.must(s.edge.WaitReady(context.Background(), time.Minute))
}

// TestMQTTUsersComeFromTheCluster: a Secret that a pod of the node refers to gives the broker its users, also over a cut and a
// kill; what is changed in it takes effect at once, what cannot be used changes nothing and says so.
func TestMQTTUsersComeFromTheCluster(t *testing.T) {
	s := sharedSystem(t)
	s.configured(func(c *v1alpha1.EdgeCore) {
		c.Devices.MQTT.UsersSecret = v1alpha1.MQTTUsersSecret{Namespace: namespace, Name: "mqtt-users"}
	})
	t.Cleanup(func() {
		s.configured(func(c *v1alpha1.EdgeCore) { c.Devices.MQTT.UsersSecret = v1alpha1.MQTTUsersSecret{} })
	})
	_, err := s.Admin.CoreV1().Secrets(namespace).Create(t.Context(), &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: "mqtt-users"},
		StringData: map[string]string{v1alpha1.MQTTUsersKey: s.listOf("pump", "first")}}, metav1.CreateOptions{})
	s.must(err)
	s.letsIn(false, "first") // no pod of this node refers to it
	keeper := demoPod("mqtt-users")
	keeper.Spec.ImagePullSecrets = []corev1.LocalObjectReference{{Name: "mqtt-users"}}
	s.createPod(keeper)
	s.waitPod("mqtt-users", time.Minute, podReady)
	s.letsIn(true, "first")

	s.userSecret(s.listOf("pump", "second"))
	s.letsIn(true, "second")
	s.letsIn(false, "first")
	s.userSecret("- name: pump\n  password: third\n")
	cluster.Eventually(t, 30*time.Second, "an Event on the Secret", func() error {
		list, err := s.Admin.CoreV1().Events(namespace).List(t.Context(), metav1.ListOptions{FieldSelector: "involvedObject.kind=Secret,reason=MQTTUsersRefused"})
		if err == nil && len(list.Items) == 0 {
			err = fmt.Errorf("there is none")
		}
		return err
	})

	s.cut()
	old := s.killCore()
	s.waitCore(old)
	s.letsIn(true, "second")
	s.letsIn(false, "third")
	s.heal()
	s.userSecret(s.listOf("pump", "third"))
	s.letsIn(true, "third")
	s.deletePod("mqtt-users")
	s.letsIn(false, "third")
}
