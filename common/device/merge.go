package device

import (
	"fmt"
	"maps"

	"k8s.io/apimachinery/pkg/runtime"

	"github.com/tether-edge/tether/apis/devices/v1beta1"
)

// Protocol returns the protocol whose mapper looks after the device: its own, or else its model's. The model may be nil.
func Protocol(d *v1beta1.Device, m *v1beta1.DeviceModel) string {
	if p := d.Spec.Protocol; p != nil && p.ProtocolName != "" {
		return p.ProtocolName
	}
	if m != nil {
		return m.Spec.Protocol
	}
	return ""
}

// merged returns the keys of both objects; where both have one, the device's own holds.
func merged(model, own *runtime.RawExtension) (map[string]any, error) {
	out := map[string]any{}
	for _, object := range []*runtime.RawExtension{model, own} {
		if object == nil {
			continue
		}
		tree, err := decode(object.Raw)
		if err != nil {
			return nil, err
		}
		maps.Copy(out, tree)
	}
	return out, nil
}

// protocolConfig is how a mapper reaches the device: what the model says and what the device says.
func protocolConfig(d *v1beta1.Device, m *v1beta1.DeviceModel) (map[string]any, error) {
	var model, own *runtime.RawExtension
	if m != nil {
		model = m.Spec.ProtocolConfigData
	}
	if d.Spec.Protocol != nil {
		own = d.Spec.Protocol.ConfigData
	}
	out, err := merged(model, own)
	if err != nil {
		return nil, fmt.Errorf("configData of the protocol: %w", err)
	}
	return out, nil
}

// visitor is how a mapper reaches a property of the device: what the model's property says (nil if the model has none)
// and what the device's says.
func visitor(p *v1beta1.DeviceProperty, m *v1beta1.ModelProperty) (protocol string, config map[string]any, err error) {
	var model, own v1beta1.VisitorConfig
	if m != nil && m.Visitors != nil {
		model = *m.Visitors
	}
	if p.Visitors != nil {
		own = *p.Visitors
	}
	if protocol = own.ProtocolName; protocol == "" {
		protocol = model.ProtocolName
	}
	if config, err = merged(model.ConfigData, own.ConfigData); err != nil {
		return "", nil, fmt.Errorf("configData: %w", err)
	}
	return protocol, config, nil
}

// modelProperties are a model's properties by name; none of a nil model.
func modelProperties(m *v1beta1.DeviceModel) map[string]*v1beta1.ModelProperty {
	out := map[string]*v1beta1.ModelProperty{}
	if m != nil {
		for i := range m.Spec.Properties {
			out[m.Spec.Properties[i].Name] = &m.Spec.Properties[i]
		}
	}
	return out
}
