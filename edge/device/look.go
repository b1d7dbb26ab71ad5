package device

import (
	"slices"
	"strings"
	"time"

	"github.com/tether-edge/tether/apis/devices/v1beta1"
	"github.com/tether-edge/tether/common/device"
	"github.com/tether-edge/tether/common/twin"
)

// A View is one device as it is now. It is the caller's.
type View struct {
	// Device is the Device with the desired values that hold.
	Device *v1beta1.Device
	// Model is its model, nil where there is none; it must not be changed.
	Model      *v1beta1.DeviceModel
	Properties map[string]*twin.Property
	// Born is another number for each Device of the name, and for one that was away: what was reported before is forgotten. It
	// counts for one process.
	Born uint64
	// State is what a mapper or client said, empty if none did; LastOnline is zero for never.
	State      string
	LastOnline time.Time
}

// Device returns a device; not ok where this node has none of that name.
func (e *Engine) Device(namespace, name string) (v View, ok bool) {
	e.mu.RLock()
	d := e.devices[device.ID(namespace, name)]
	e.mu.RUnlock()
	if d == nil {
		return View{}, false
	}
	return d.view(), true
}

// Devices returns those that keep chooses, all where it is nil, sorted by namespace and name.
func (e *Engine) Devices(keep func(protocol string) bool) []View {
	var all []View
	for _, d := range e.all() {
		d.mu.Lock()
		chosen := keep == nil || keep(device.Protocol(d.device, d.model))
		d.mu.Unlock()
		if chosen {
			all = append(all, d.view())
		}
	}
	slices.SortFunc(all, func(a, b View) int {
		return strings.Compare(device.ID(a.Device.Namespace, a.Device.Name), device.ID(b.Device.Namespace, b.Device.Name))
	})
	return all
}

func (d *entry) view() View {
	d.mu.Lock()
	defer d.mu.Unlock()
	v := View{Device: d.device.DeepCopy(), Model: d.model, Born: d.born, Properties: map[string]*twin.Property{}, State: d.state.State, LastOnline: onlineAt(d.state)}
	for _, name := range d.twin.Names() {
		v.Properties[name] = d.twin.Property(name)
	}
	for i := range v.Device.Spec.Properties {
		p := &v.Device.Spec.Properties[i]
		p.Desired = nil
		if own := v.Properties[p.Name]; own != nil && own.Desired() != nil {
			p.Desired = &v1beta1.TwinProperty{Value: own.Desired().Value, Metadata: own.Desired().Metadata}
		}
	}
	return v
}
