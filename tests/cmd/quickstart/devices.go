package main

import (
	"context"
	"encoding/json"
	"fmt"
	"path/filepath"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"

	"github.com/tether-edge/tether/apis/devices/v1beta1"
	"github.com/tether-edge/tether/tests/cluster"
)

// The devices of devices.yaml that the demonstration plays with, and what it says of them.
const (
	pump, meter     = "pump-1", "meter-1"
	setpoint, power = "setpoint", "power"
	firstSetpoint   = "45" // in devices.yaml
	secondSetpoint  = "60"
	cutSetpoint     = "75"
	firstPower      = "1.5"
	cutPower        = "2.5"
	brokerPort      = "1884" // the default of edgecore's configuration, inside the edge's network

	twinColumns = "custom-columns=NAME:.metadata.name,PROPERTIES:.status.twins[*].propertyName," +
		"DESIRED:.status.twins[*].observedDesired.value,REPORTED:.status.twins[*].reported.value"
)

// runDevices puts devices to work and shows a value on its way down, and one on its way up.
func (s *system) runDevices(ctx context.Context) (string, error) {
	program, err := cluster.Program(ctx, "mapper")
	if err != nil {
		return "", err
	}
	socket := filepath.Join(filepath.Dir(s.edge.MapperSocket()), "virtual.sock")
	argv := []string{program, "virtual", "--edge-socket", s.edge.MapperSocket(), "--socket", socket}
	if _, err := s.edge.Start(cluster.ProcessConfig{Name: "mapper", Argv: argv}); err != nil {
		return "", err
	}
	s.out.say("edge$ mapper virtual &")
	if err := s.kubectlCloud(ctx, "apply", "-f", s.place.short(s.place.devices())); err != nil {
		return "", err
	}
	if err := s.waitDevice(ctx, meter); err != nil {
		return "", err
	}
	if err := s.publishPower(ctx, firstPower); err != nil {
		return "", err
	}
	if _, err := s.waitReported(ctx, meter, power, firstPower); err != nil {
		return "", err
	}
	if _, err := s.waitReported(ctx, pump, setpoint, firstSetpoint); err != nil {
		return "", err
	}
	if err := s.kubectlCloud(ctx, "get", "devicestatuses", "-o", twinColumns); err != nil {
		return "", err
	}
	if err := s.desire(ctx, secondSetpoint); err != nil {
		return "", err
	}
	took, err := s.waitReported(ctx, pump, setpoint, secondSetpoint)
	if err != nil {
		return "", err
	}
	return fmt.Sprintf("%s has the new %s, and the cluster knows, %s after kubectl", pump, setpoint, took.Round(10*time.Millisecond)), nil
}

// desire asks for another setpoint in the cluster.
func (s *system) desire(ctx context.Context, value string) error {
	return s.kubectlCloud(ctx, "patch", "device", pump, "--type", "json", "-p",
		fmt.Sprintf(`[{"op":"replace","path":"/spec/properties/0/desired/value","value":%q}]`, value))
}

// publishPower is the meter: a client on the edge host that knows nothing of Tether but a topic. The broker acknowledges what
// is on the disk.
func (s *system) publishPower(ctx context.Context, value string) error {
	argv := []string{"mosquitto_pub", "-p", brokerPort, "-q", "1", "-t", "$hw/events/device/" + demoNamespace + "/" + meter + "/twin/update",
		"-m", fmt.Sprintf(`{"twin":{%q:{"actual":{"value":%q}}}}`, power, value)}
	s.out.say("edge$ %s", quote(argv))
	_, err := s.edge.Run(ctx, argv...)
	return err
}

// device is what the cluster shows of a device.
func (s *system) device(ctx context.Context, name string) (*v1beta1.DeviceStatus, error) {
	path := "/apis/" + v1beta1.GroupVersion.String() + "/namespaces/" + demoNamespace + "/devicestatuses/" + name
	body, err := s.stack.Admin.Discovery().RESTClient().Get().AbsPath(path).DoRaw(ctx)
	if err != nil {
		return nil, fmt.Errorf("ask for the status of %s: %w", name, err)
	}
	found := &v1beta1.DeviceStatus{}
	if err := json.Unmarshal(body, found); err != nil {
		return nil, fmt.Errorf("read the status of %s: %w", name, err)
	}
	return found, nil
}

// waitDevice waits until the node has reported the device and nothing is to mend.
func (s *system) waitDevice(ctx context.Context, name string) error {
	_, err := wait(ctx, settle, name+" to be Ready", func(ctx context.Context) error {
		found, err := s.device(ctx, name)
		if err != nil || meta.IsStatusConditionTrue(found.Status.Conditions, v1beta1.ConditionReady) {
			return err
		}
		return fmt.Errorf("conditions %+v", found.Status.Conditions)
	})
	return err
}

// waitReported waits until the cluster shows a reported value, and returns how long that took.
func (s *system) waitReported(ctx context.Context, name, property, value string) (time.Duration, error) {
	return wait(ctx, settle, fmt.Sprintf("%s of %s to be reported as %s", property, name, value), func(ctx context.Context) error {
		found, err := s.device(ctx, name)
		if err != nil {
			return err
		}
		if r := reported(found, property); r != value {
			return fmt.Errorf("it is %q, conditions %+v", r, found.Status.Conditions)
		}
		return nil
	})
}

// reported is what a device reported of a property, empty for nothing.
func reported(d *v1beta1.DeviceStatus, property string) string {
	for _, t := range d.Status.Twins {
		if t.PropertyName == property && t.Reported != nil {
			return t.Reported.Value
		}
	}
	return ""
}
