package methods

import (
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/tether-edge/tether/apis/devices/v1beta1"
	common "github.com/tether-edge/tether/common/device"
)

// A setting is what a call desires of one property.
type setting struct {
	Value string               `json:"value"`
	Type  v1beta1.PropertyType `json:"type,omitempty"`
	// Reported is what the device had when it was read back; nil before.
	Reported *string `json:"reported,omitempty"`
}

// same says whether a text is the value that is desired.
func (s setting) same(text string) bool { return common.Same(s.Type, s.Value, text) }

// methodOf returns a method of a device; nil if it has none of the name.
func methodOf(d *v1beta1.Device, name string) *v1beta1.DeviceMethod {
	for i := range d.Spec.Methods {
		if d.Spec.Methods[i].Name == name {
			return &d.Spec.Methods[i]
		}
	}
	return nil
}

// judge makes settings of what a call of a method was given, of a device that is not broken. Found says everything that is wrong with
// it.
func judge(d Device, m *v1beta1.DeviceMethod, given map[string]literal) (settings map[string]setting, found faults) {
	if len(m.PropertyNames) == 0 {
		found.add("method %s: expected propertyNames in the Device, found none", quoted(m.Name))
	}
	settings = map[string]setting{}
	for _, name := range m.PropertyNames {
		l, ok := given[name]
		if !ok {
			found.add("property %s: expected a value, found none", quoted(name))
			continue
		}
		p, why := settable(d, name)
		if why != "" {
			found.add("property %s: %s", quoted(name), why)
			continue
		}
		if err := fits(p, l); err != nil {
			found.add("property %s: %v", quoted(name), err)
			continue
		}
		settings[name] = setting{Value: l.text, Type: p.Type}
	}
	for _, name := range slices.Sorted(maps.Keys(given)) {
		if !slices.Contains(m.PropertyNames, name) {
			found.add("property %s: expected one that method %s sets", quoted(name), quoted(m.Name))
		}
	}
	return settings, found
}

// settable returns what the model says of a property, or why it cannot be set.
func settable(d Device, name string) (p v1beta1.ModelProperty, why string) {
	if !slices.ContainsFunc(d.Device.Spec.Properties, func(p v1beta1.DeviceProperty) bool { return p.Name == name }) {
		return p, "expected one that the device has; the Device names it in the method only"
	}
	i := slices.IndexFunc(d.Model.Spec.Properties, func(p v1beta1.ModelProperty) bool { return p.Name == name })
	if i < 0 {
		return p, "expected one that the DeviceModel has"
	}
	p = d.Model.Spec.Properties[i]
	if p.AccessMode == v1beta1.ReadOnly {
		return p, "expected one that can be set, found ReadOnly in the DeviceModel"
	}
	return p, ""
}

// broken says why a device cannot work at all; empty if it can.
func broken(d Device) string {
	found := common.Judge(d.Device, d.Model)
	if slices.ContainsFunc(found, common.Finding.WholeDevice) {
		reason, message := common.Summary(found)
		return reason + ": " + message
	}
	return ""
}

// fits says whether a value is one that the property may have.
func fits(p v1beta1.ModelProperty, l literal) error {
	numeric := p.Type == v1beta1.Int || p.Type == v1beta1.Float || p.Type == v1beta1.Double
	switch {
	case l.text == "":
		return errors.New("expected a value, found an empty text, which desires nothing")
	case l.kind == number && !numeric && p.Type != "", l.kind == boolean && p.Type != v1beta1.Boolean && p.Type != "":
		return fmt.Errorf("expected a text (%s), found %s", p.Type, l.kind)
	}
	if err := common.CheckValue(p.Type, l.text); err != nil {
		return err
	}
	return common.CheckRange(p, l.text)
}
