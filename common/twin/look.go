package twin

import "github.com/tether-edge/tether/apis/devices/v1beta1"

// Pending are the names of the properties that have not reported what is desired of them, sorted.
func (t *Twin) Pending() []string {
	var names []string
	for _, name := range t.Names() {
		if t.properties[name].Differs() {
			names = append(names, name)
		}
	}
	return names
}

// Status is the twin as a DeviceStatus shows it, sorted by name. Properties of which nothing is desired and nothing was
// reported are left out.
func (t *Twin) Status() []v1beta1.Twin {
	var all []v1beta1.Twin
	for _, name := range t.Names() {
		p := t.properties[name]
		one := v1beta1.Twin{PropertyName: name, ObservedDesired: shown(p.Desired()), Reported: shown(p.Reported)}
		if one.ObservedDesired != nil || one.Reported != nil {
			all = append(all, one)
		}
	}
	return all
}

func shown(v *Value) *v1beta1.TwinProperty {
	if v == nil {
		return nil
	}
	return &v1beta1.TwinProperty{Value: v.Value, Metadata: v.clone().Metadata}
}
