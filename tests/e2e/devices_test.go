package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/tether-edge/tether/apis/devices/v1beta1"
	"github.com/tether-edge/tether/tests/cluster"
)

// deviceManifests are a pump of the virtual mapper and a meter that speaks MQTT itself.
const deviceManifests = `
apiVersion: devices.kubeedge.io/v1beta1
kind: DeviceModel
metadata: {name: pump}
spec:
  protocol: virtual
  properties:
  - {name: setpoint, type: INT, accessMode: ReadWrite, minimum: "0", maximum: "100"}
  - {name: runs, type: INT, accessMode: ReadOnly}
---
apiVersion: devices.kubeedge.io/v1beta1
kind: Device
metadata: {name: pump-1}
spec:
  deviceModelRef: {name: pump}
  nodeName: edge-1
  protocol: {protocolName: virtual}
  properties:
  - {name: setpoint, desired: {value: "45"}, collectCycle: 100, reportCycle: 100, reportToCloud: true, visitors: {protocolName: virtual, configData: {}}}
  - {name: runs, collectCycle: 100, reportCycle: 100, reportToCloud: true, visitors: {protocolName: virtual, configData: {wave: counter, period: 300}}}
  methods:
  - {name: set, description: runs the pump at another setpoint, propertyNames: [setpoint]}
---
apiVersion: devices.kubeedge.io/v1beta1
kind: DeviceModel
metadata: {name: meter}
spec:
  protocol: mqtt
  properties:
  - {name: power, type: FLOAT, accessMode: ReadOnly}
---
apiVersion: devices.kubeedge.io/v1beta1
kind: Device
metadata: {name: meter-1}
spec:
  deviceModelRef: {name: meter}
  nodeName: edge-1
  protocol: {protocolName: mqtt}
  properties:
  - {name: power, reportToCloud: true}
`

// deviceStatus is what the cluster shows of a device.
func (s *system) deviceStatus(name string) (*v1beta1.DeviceStatus, error) {
	r := s.kubectl("", "get", "devicestatus", name, "-o", "json")
	if r.code != 0 {
		return nil, fmt.Errorf("get devicestatus %s: %s", name, r.err)
	}
	d := &v1beta1.DeviceStatus{}
	return d, json.Unmarshal([]byte(r.out), d)
}

// reports waits until the cluster shows a reported value, and a condition's status.
func (s *system) reports(device, property, value string, conditions ...string) {
	s.t.Helper()
	cluster.Eventually(s.t, 30*time.Second, fmt.Sprintf("%s of %s to be reported as %q with %v", property, device, value, conditions), func() error {
		d, err := s.deviceStatus(device)
		if err != nil {
			return err
		}
		var found string
		for _, t := range d.Status.Twins {
			if t.PropertyName == property && t.Reported != nil {
				found = t.Reported.Value
			}
		}
		var holds []string
		for _, c := range d.Status.Conditions {
			holds = append(holds, c.Type+"="+string(c.Status))
		}
		shown := strings.Join(holds, " ")
		for _, c := range conditions {
			if !strings.Contains(shown, c) {
				return fmt.Errorf("conditions %+v", d.Status.Conditions)
			}
		}
		if found != value {
			return fmt.Errorf("it is %q of %+v", found, d.Status.Twins)
		}
		return nil
	})
}

func (s *system) desires(device, property, value string) {
	s.t.Helper()
	patch := fmt.Sprintf(`[{"op":"replace","path":"/spec/properties/0/desired/value","value":%q}]`, value)
	if r := s.kubectl("", "patch", "device", device, "--type", "json", "-p", patch); r.code != 0 {
		s.t.Fatalf("desire %s of %s: %s", property, device, r.err)
	}
}

// publish publishes at the edge with another project's client, and waits for the answer.
func (s *system) publish(device, payload string) {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(s.t.Context(), 30*time.Second)
	defer cancel()
	out, err := s.edge.Run(ctx, "mosquitto_rr", "-h", "127.0.0.1", "-p", "1884", "-q", "1", "-W", "20", "-e", "$hw/events/device/default/"+device+"/twin/update/result",
		"-t", "$hw/events/device/default/"+device+"/twin/update", "-m", payload)
	s.must(err)
	if strings.Contains(out, `"code"`) || !strings.Contains(out, "power") {
		s.t.Fatalf("the answer to %s is %s", payload, out)
	}
}

// methodCall is the answer to the call of a method.
type methodCall struct {
	Code       int
	Reasons    []string
	Call       string
	Properties map[string]struct{ Desired, Result, Reported string }
}

// call calls method set of the pump at the edge, with a key of its own for each setpoint.
func (s *system) call(setpoint string) (c methodCall, err error) {
	ctx, cancel := context.WithTimeout(s.t.Context(), time.Minute)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://127.0.0.1:9060/v1/devices/default/pump-1/methods/set?timeout=50s", strings.NewReader(`{"setpoint": `+setpoint+`}`))
	if err != nil {
		return c, err
	}
	r.Header.Set("Idempotency-Key", "setpoint-"+setpoint)
	client := s.edge.HTTPClient(time.Minute)
	defer client.CloseIdleConnections()
	resp, err := client.Do(r)
	if err != nil {
		return c, err
	}
	defer resp.Body.Close()
	err = json.NewDecoder(resp.Body).Decode(&c)
	if p := c.Properties["setpoint"]; err == nil && (c.Code != http.StatusOK || p.Desired != setpoint || p.Result != "done" || p.Reported != setpoint) {
		err = fmt.Errorf("the call of setpoint %s is answered with %+v", setpoint, c)
	}
	return c, err
}

// seesDevices looks at the devices at the gateway, which the cable is out of.
func (s *system) seesDevices() {
	s.t.Helper()
	for _, who := range []string{"keadm", "kubectl"} {
		s.expects(0, "power=3.5", "", who, "get", "devices")
		s.expects(0, "value: \"3.5\"", "", who, "get", "device", "meter-1", "-o", "yaml")
		s.expects(0, "setpoint=57", "", who, "get", "dev", "-o", "wide")
		s.expects(0, "meter-1", "", who, "get", "devicestatuses")
		s.expects(0, "propertyName: power", "", who, "get", "devst", "meter-1", "-o", "yaml")
		s.expects(0, "power", "", who, "describe", "device", "meter-1")
	}
	s.expects(0, "not connected, NoMapper", "", "keadm", "describe", "device", "meter-1")
}

// TestDevicesWorkWithAndWithoutTheCloud: kubectl apply puts a device to work; what is desired reaches it and what it reports
// reaches the cluster, also what happened on either side while the cable was out, and after the node's agent was killed. Its method
// is called at the edge, with and without the cloud, and a call that is repeated after the kill is the same call.
func TestDevicesWorkWithAndWithoutTheCloud(t *testing.T) {
	s := sharedSystem(t)
	s.kubectlApply("default", deviceManifests)
	t.Cleanup(func() {
		for _, kind := range []string{"devices", "devicemodels"} {
			if out, err := s.kubectlCommand(context.Background(), "delete", kind, "--all").CombinedOutput(); err != nil {
				t.Errorf("delete %s: %v: %s", kind, err, out)
			}
		}
	})
	s.reports("meter-1", "power", "", "MapperConnected=False", "Ready=True")
	program, err := cluster.Program(t.Context(), "mapper")
	s.must(err)
	socket := filepath.Join(filepath.Dir(s.edge.MapperSocket()), "virtual.sock")
	mapper, err := s.edge.Start(cluster.ProcessConfig{Name: "mapper", Argv: []string{program, "virtual", "--edge-socket", s.edge.MapperSocket(), "--socket", socket}})
	s.must(err)
	t.Cleanup(func() { s.must(mapper.Stop(20 * time.Second)) })
	s.reports("pump-1", "setpoint", "45", "MapperConnected=True", "Reported=True", "Ready=True")
	s.publish("meter-1", `{"event_id":"1","twin":{"power":{"actual":{"value":"1.5"}}}}`)
	s.reports("meter-1", "power", "1.5")
	s.desires("pump-1", "setpoint", "50")
	s.reports("pump-1", "setpoint", "50", "Reported=True")

	s.cut()
	s.publish("meter-1", `{"twin":{"power":{"actual":{"value":"2"}}}}`)
	s.publish("meter-1", `{"twin":{"power":{"actual":{"value":"2.5"}}}}`)
	s.desires("pump-1", "setpoint", "55")
	s.heal()
	s.reports("meter-1", "power", "2.5")
	s.reports("pump-1", "setpoint", "55", "Reported=True")
	_, err = s.call("56")
	s.must(err)
	s.reports("pump-1", "setpoint", "56", "Reported=True")

	s.cut()
	s.publish("meter-1", `{"twin":{"power":{"actual":{"value":"3.5"}}}}`)
	called, err := s.call("57")
	s.must(err)
	old := s.killCore()
	s.waitCore(old)
	cluster.Eventually(t, 30*time.Second, "the call to be known after the kill", func() error {
		again, err := s.call("57")
		if err == nil && again.Call != called.Call {
			t.Fatalf("the call %+v is another one after the kill: %+v", called, again)
		}
		return err
	})
	s.desires("pump-1", "setpoint", "60")
	s.seesDevices()
	s.heal()
	s.reports("meter-1", "power", "3.5")
	// The mapper registered with the agent that was killed, and is remembered.
	s.reports("pump-1", "setpoint", "60", "MapperConnected=True", "Reported=True")

	if r := s.kubectl("", "delete", "device", "pump-1"); r.code != 0 {
		t.Fatal(r.err)
	}
	cluster.Eventually(t, 30*time.Second, "the device's status to go with it", func() error {
		if _, err := s.deviceStatus("pump-1"); err == nil {
			return fmt.Errorf("it is there")
		}
		return nil
	})
	cluster.Eventually(t, 30*time.Second, "the edge to have one device", func() error {
		local, err := s.edge.LocalAPI()
		s.must(err)
		body, err := local.Discovery().RESTClient().Get().AbsPath("/apis/devices.kubeedge.io/v1beta1/devices").DoRaw(t.Context())
		if err == nil && (strings.Contains(string(body), `"name":"pump-1"`) || !strings.Contains(string(body), `"name":"meter-1"`)) {
			err = fmt.Errorf("it has %s", body)
		}
		return err
	})
}
