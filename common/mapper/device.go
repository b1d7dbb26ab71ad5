package mapper

import (
	"context"
	"encoding/json"
	"errors"
	"time"

	dmi "github.com/tether-edge/tether/apis/dmi/v1beta1"
	"github.com/tether-edge/tether/common/device"
)

// A Driver is one open device. Its methods are called one at a time, each with a deadline; one that ignores its deadline holds up
// its own device only. An error means that the device is lost: it is closed and opened again. One that wraps ErrProperty means
// that the one property does not work.
type Driver interface {
	// Read returns what the property has, as text: docs/devices.md has the form for each type.
	Read(ctx context.Context, p Property) (string, error)
	// Write sets the property. It may return before the device has done so.
	Write(ctx context.Context, p Property, value string) error
	Close() error
}

// ErrProperty is wrapped by errors that concern one property: a register that the device does not have, a value that it refuses. A
// value whose Write ends so is not written again, and the edge is told why.
var ErrProperty = errors.New("property does not work")

// A Device is what the edge says of one.
type Device struct {
	Namespace, Name, Model string
	// Config is how to reach it: protocol.configData of the Device, merged with the model's.
	Config     Config
	Properties []Property

	stateCycle time.Duration // 0: the state is reported when it changes
}

// A Property is one property of a device.
type Property struct {
	Name string
	// Type is INT, FLOAT, DOUBLE, STRING, BOOLEAN, BYTES, STREAM, or empty for anything.
	Type             string
	ReadOnly         bool
	Minimum, Maximum string
	// Desired is what the property shall be; empty for whatever the device has.
	Desired string
	// Config is how to reach it in the device: visitors.configData.
	Config Config
	// Collect is the time between two readings, Report between two reports of a value that stays, 0 for none.
	Collect, Report time.Duration

	desired *dmi.TwinProperty
	push    *dmi.PushMethod
}

// wanted is what is desired of it and by which method call: the same by another call is to be written again, where the device
// does not have it any more.
func (p *Property) wanted() wanted {
	return wanted{p.Desired, p.desired.GetMetadata()[device.MetadataCall]}
}

type wanted struct{ value, call string }

// A Config is a JSON object, nil for none.
type Config []byte

// Into decodes the object into v as encoding/json does. What v does not have is left out.
func (c Config) Into(v any) error {
	if len(c) == 0 {
		return nil
	}
	return json.Unmarshal(c, v)
}

// Readings without a collectCycle are a second apart, as with KubeEdge; none are closer than minCollect.
const (
	defaultCollect = time.Second
	minCollect     = 10 * time.Millisecond
)

func fromDMI(d *dmi.Device, m *dmi.DeviceModel) (Device, error) {
	out := Device{Namespace: d.GetNamespace(), Name: d.GetName(), Model: d.GetSpec().GetDeviceModelReference()}
	if d.GetStatus().GetReportToCloud() {
		out.stateCycle = milliseconds(d.GetStatus().GetReportCycle())
	}
	var err error
	if out.Config, err = device.ConfigFromDMI(d.GetSpec().GetProtocol().GetConfigData().GetData()); err != nil {
		return out, err
	}
	model := map[string]*dmi.ModelProperty{}
	for _, p := range m.GetSpec().GetProperties() {
		model[p.GetName()] = p
	}
	for _, p := range d.GetSpec().GetProperties() {
		in := model[p.GetName()]
		property := Property{Name: p.GetName(), Type: in.GetType(), ReadOnly: in.GetAccessMode() == "ReadOnly", Minimum: in.GetMinimum(), Maximum: in.GetMaximum(),
			Desired: p.GetDesired().GetValue(), desired: p.GetDesired(), push: p.GetPushMethod(),
			Collect: milliseconds(p.GetCollectCycle()), Report: milliseconds(p.GetReportCycle())}
		if property.Collect == 0 {
			property.Collect = defaultCollect
		}
		property.Collect = max(property.Collect, minCollect)
		if property.Config, err = device.ConfigFromDMI(p.GetVisitors().GetConfigData().GetData()); err != nil {
			return out, err
		}
		out.Properties = append(out.Properties, property)
	}
	return out, nil
}

// milliseconds bounds what a manifest may say, so that a sum with it does not overflow.
func milliseconds(n int64) time.Duration {
	return time.Duration(min(max(n, 0), int64(365*24*time.Hour/time.Millisecond))) * time.Millisecond
}
