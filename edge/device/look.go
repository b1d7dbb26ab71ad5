package device

import (
	"slices"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

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
	// Refused is why the device does not have what is desired, as its mapper says, by property.
	Refused map[string]string
	// Born is another number for each Device of the name, for one that was away, and once a client had what was reported removed: it
	// is forgotten, so its mapper has to say it again. It counts for one process.
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

// Health returns the conditions of a device that this edge knows, and whether the mapper of its protocol is there.
func (e *Engine) Health(namespace, name string) (conditions []metav1.Condition, connected bool) {
	e.mu.RLock()
	d := e.devices[device.ID(namespace, name)]
	e.mu.RUnlock()
	if d == nil {
		return nil, false
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, c := range e.conditions(d, nil) {
		conditions = append(conditions, metav1.Condition{Type: c.Type, Status: c.Status, Reason: c.Reason, Message: c.Message})
	}
	e.mu.RLock()
	defer e.mu.RUnlock()
	return conditions, e.mappers[device.Protocol(d.device, d.model)].connected
}

// Mapper returns the protocol of a device, its own or its model's, and the status of its condition MapperConnected; both
// empty where this node has no such device. It costs less than a Status.
func (e *Engine) Mapper(namespace, name string) (protocol string, connected metav1.ConditionStatus) {
	e.mu.RLock()
	d := e.devices[device.ID(namespace, name)]
	e.mu.RUnlock()
	if d == nil {
		return "", ""
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	return device.Protocol(d.device, d.model), e.mapperConnected(d).Status
}

// Names returns the namespace and name of each device, sorted.
func (e *Engine) Names() [][2]string {
	var all [][2]string
	for _, d := range e.all() {
		all = append(all, [2]string{d.namespace, d.name})
	}
	slices.SortFunc(all, func(a, b [2]string) int { return strings.Compare(device.ID(a[0], a[1]), device.ID(b[0], b[1])) })
	return all
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
	v := View{Device: d.device.DeepCopy(), Model: d.model, Born: d.born, Properties: map[string]*twin.Property{}, Refused: map[string]string{}, State: d.state.State, LastOnline: onlineAt(d.state)}
	for _, name := range d.twin.Names() {
		p := d.twin.Property(name)
		v.Properties[name] = p
		if why := d.refused(name, p); why != "" {
			v.Refused[name] = why
		}
	}
	for i := range v.Device.Spec.Properties {
		p := &v.Device.Spec.Properties[i]
		p.Desired = nil
		if own := v.Properties[p.Name]; own != nil && own.Desired() != nil {
			p.Desired = toldAs(own.Desired())
		}
	}
	return v
}

// toldAs is a desired value as a mapper is told it: one that a call desires differs from the same of another call. Where a Device
// says itself which call desires a value, or why it cannot be, that is left out.
func toldAs(v *twin.Value) *v1beta1.TwinProperty {
	out := &v1beta1.TwinProperty{Value: v.Value, Metadata: map[string]string{}}
	for key, text := range v.Metadata {
		if key != device.MetadataCall && key != device.MetadataError {
			out.Metadata[key] = text
		}
	}
	if v.Call != "" {
		out.Metadata[device.MetadataCall] = v.Call
	}
	return out
}

// Status is the DeviceStatus of a device as this node knows it, with or without the cloud; not ok where it has no such
// device. It has no uid and no resourceVersion, and its conditions no time: those are the cluster's.
func (e *Engine) Status(namespace, name string) (s *v1beta1.DeviceStatus, ok bool) {
	e.mu.RLock()
	d := e.devices[device.ID(namespace, name)]
	e.mu.RUnlock()
	if d == nil {
		return nil, false
	}
	return e.shown(d), true
}

// Twins are what is reported and what is desired now of a device's properties, whether anybody has seen it or not; nil where this
// node has no such device.
func (e *Engine) Twins(namespace, name string) []v1beta1.Twin {
	e.mu.RLock()
	d := e.devices[device.ID(namespace, name)]
	e.mu.RUnlock()
	if d == nil {
		return nil
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.twin.Now()
}

// Statuses are those of all devices of a namespace, empty for all namespaces, sorted by namespace and name.
func (e *Engine) Statuses(namespace string) []*v1beta1.DeviceStatus {
	var all []*v1beta1.DeviceStatus
	for _, d := range e.all() {
		if namespace == "" || d.namespace == namespace {
			all = append(all, e.shown(d))
		}
	}
	slices.SortFunc(all, func(a, b *v1beta1.DeviceStatus) int {
		return strings.Compare(device.ID(a.Namespace, a.Name), device.ID(b.Namespace, b.Name))
	})
	return all
}

func (e *Engine) shown(d *entry) *v1beta1.DeviceStatus {
	d.mu.Lock()
	defer d.mu.Unlock()
	s := &v1beta1.DeviceStatus{TypeMeta: metav1.TypeMeta{APIVersion: v1beta1.GroupVersion.String(), Kind: v1beta1.DeviceStatusKind}}
	s.Namespace, s.Name, s.CreationTimestamp = d.namespace, d.name, d.device.CreationTimestamp
	s.OwnerReferences = []metav1.OwnerReference{{APIVersion: v1beta1.GroupVersion.String(), Kind: v1beta1.DeviceKind, Name: d.name, UID: types.UID(d.uid), Controller: new(true)}}
	s.Status.Twins, s.Status.State, s.Status.LastOnlineTime = d.twin.Status(nil), d.state.State, d.state.lastOnline()
	for _, c := range e.conditions(d, nil) {
		s.Status.Conditions = append(s.Status.Conditions, metav1.Condition{Type: c.Type, Status: c.Status, Reason: c.Reason, Message: c.Message})
	}
	ready := metav1.Condition{Type: v1beta1.ConditionReady, Status: metav1.ConditionTrue, Reason: device.ReasonFits, Message: "device and model fit together, and the node has the device"}
	if found := device.Judge(d.device, d.model); len(found) > 0 {
		ready.Status = metav1.ConditionFalse
		ready.Reason, ready.Message = device.Summary(found)
	}
	ready.ObservedGeneration = d.device.Generation
	s.Status.Conditions = append(s.Status.Conditions, ready)
	if reason, text := device.JudgePushes(d.device); reason != "" {
		s.Status.Conditions = append(s.Status.Conditions, metav1.Condition{Type: v1beta1.ConditionPushSupported, Status: metav1.ConditionFalse,
			Reason: reason, Message: text, ObservedGeneration: d.device.Generation})
	}
	return s
}
