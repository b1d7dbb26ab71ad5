package twin

import "github.com/tether-edge/tether/apis/devices/v1beta1"

// A Lens shows a property: as it is, as another, or not at all (nil). It does not change what it is given. A nil Lens shows all
// as they are.
type Lens func(name string, p *Property) *Property

func (l Lens) see(name string, p *Property) *Property {
	if l == nil || p == nil {
		return p
	}
	return l(name, p)
}

// Pending are the names of the properties seen that have not reported what is desired of them, sorted.
func (t *Twin) Pending(l Lens) []string {
	var names []string
	for _, name := range t.Names() {
		if p := l.see(name, t.properties[name]); p != nil && p.Differs() {
			names = append(names, name)
		}
	}
	return names
}

// Status is the twin as a DeviceStatus shows it, sorted by name. Properties of which nothing desired was observed and nothing was
// reported are left out.
func (t *Twin) Status(l Lens) []v1beta1.Twin {
	return t.list(l, func(p *Property) *Value { return p.Observed })
}

// Now is as Status, with what is desired in the place of what was observed.
func (t *Twin) Now() []v1beta1.Twin {
	return t.list(nil, (*Property).Desired)
}

func (t *Twin) list(l Lens, desired func(*Property) *Value) []v1beta1.Twin {
	var all []v1beta1.Twin
	for _, name := range t.Names() {
		p := l.see(name, t.properties[name])
		if p == nil {
			continue
		}
		one := v1beta1.Twin{PropertyName: name, ObservedDesired: shown(desired(p)), Reported: shown(p.Reported)}
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
