package devices

import (
	"strings"
	"testing"
	"time"

	paho "github.com/eclipse/paho.mqtt.golang"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/tether-edge/tether/apis/config/v1alpha1"
	"github.com/tether-edge/tether/apis/devices/v1beta1"
	"github.com/tether-edge/tether/common/object"
)

// Who follows `updated` reads the device anew; what is desired goes by topics of its own.
func TestADesireAloneIsNoUpdateOfTheDevice(t *testing.T) {
	g := newGateway(t, func(c *v1alpha1.EdgeCore) {
		c.Devices.MQTT.Mode, c.Devices.MQTT.BindAddress = v1alpha1.MQTTInternal, "127.0.0.1:0"
	})
	<-g.core.mqtt.Ready()
	heard := make(chan paho.Message, 1000)
	client := paho.NewClient(paho.NewClientOptions().AddBroker("tcp://" + g.core.mqtt.Address()).SetClientID("app").SetAutoReconnect(false))
	settle := func(token paho.Token) {
		t.Helper()
		if !token.WaitTimeout(30*time.Second) || token.Error() != nil {
			t.Fatal(token.Error())
		}
	}
	settle(client.Connect())
	defer client.Disconnect(0)
	settle(client.Subscribe("$hw/events/device/plant/pump-1/#", 1, func(_ paho.Client, m paho.Message) { heard <- m }))
	updates := 0
	until := func(topic, part string) {
		t.Helper()
		for {
			select {
			case m := <-heard:
				if strings.HasSuffix(m.Topic(), "/pump-1/updated") {
					updates++
				}
				if strings.HasSuffix(m.Topic(), topic) && strings.Contains(string(m.Payload()), part) {
					return
				}
			case <-time.After(30 * time.Second):
				t.Fatalf("no %s with %s", topic, part)
			}
		}
	}
	g.device("pump-1", "30")
	until("/twin/update/document", `"30"`)
	g.device("pump-1", "31")
	until("/twin/update/document", `"31"`)
	if updates != 0 {
		t.Errorf("%d updates for other desires", updates)
	}
	g.put(&v1beta1.DeviceModel{ObjectMeta: metav1.ObjectMeta{Namespace: "plant", Name: "pump", UID: "m"}, Spec: v1beta1.DeviceModelSpec{Protocol: "test", Properties: []v1beta1.ModelProperty{
		{Name: "speed", Type: v1beta1.Int, Maximum: "2000"}, {Name: "mode", Type: v1beta1.String}}}}, object.DeviceModels)
	until("/updated", "")
}
