package kubeapi

import (
	"context"
	"fmt"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	metainternalversion "k8s.io/apimachinery/pkg/apis/meta/internalversion"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/apiserver/pkg/registry/rest"

	"github.com/tether-edge/tether/apis/devices/v1beta1"
	"github.com/tether-edge/tether/common/device"
	"github.com/tether-edge/tether/common/object"
)

// Devices tells how the devices of this node are at this moment. What it returns is the caller's.
type Devices interface {
	// Status is the DeviceStatus of a device; not ok where this node has none of the name.
	Status(namespace, name string) (s *v1beta1.DeviceStatus, ok bool)
	// Twins are what is reported and desired now of its properties, whether its mapper has seen it or not; nil where it has none.
	Twins(namespace, name string) []v1beta1.Twin
	// Statuses are those of a namespace, empty for all of them, sorted by namespace and name.
	Statuses(namespace string) []*v1beta1.DeviceStatus
	// Mapper is the protocol of a device, its own or its model's, and the status of its condition MapperConnected; both empty
	// where this node has no such device.
	Mapper(namespace, name string) (protocol string, connected metav1.ConditionStatus)
}

// deviceStatuses are not stored here: they are made when somebody asks, so nobody can watch them.
type deviceStatuses struct{ r *resource }

var (
	_ rest.Getter         = &deviceStatuses{}
	_ rest.Lister         = &deviceStatuses{}
	_ rest.TableConvertor = &deviceStatuses{}
)

func (d *deviceStatuses) New() runtime.Object     { return d.r.New() }
func (d *deviceStatuses) NewList() runtime.Object { return d.r.NewList() }
func (d *deviceStatuses) Destroy()                {}

// NamespaceScoped implements rest.Scoper.
func (d *deviceStatuses) NamespaceScoped() bool { return true }

// Get implements rest.Getter.
func (d *deviceStatuses) Get(ctx context.Context, name string, _ *metav1.GetOptions) (runtime.Object, error) {
	s, ok := d.r.s.deps.Devices.Status(request.NamespaceValue(ctx), name)
	switch {
	case ok:
		return s, nil
	case !d.r.synced():
		return nil, d.r.errNotSynced()
	}
	return nil, notFound(d.r.groupResource(), name)
}

// List implements rest.Lister.
func (d *deviceStatuses) List(ctx context.Context, opts *metainternalversion.ListOptions) (runtime.Object, error) {
	if !d.r.synced() {
		return nil, d.r.errNotSynced()
	}
	sel := newSelector(request.NamespaceValue(ctx), opts)
	list := &v1beta1.DeviceStatusList{Items: []v1beta1.DeviceStatus{}}
	list.SetGroupVersionKind(v1beta1.GroupVersion.WithKind(v1beta1.DeviceStatusKind + "List"))
	for _, s := range d.r.s.deps.Devices.Statuses(sel.namespace) {
		if sel.mayMatch(object.KeyOf(object.DeviceStatuses, s)) && sel.matches(s) {
			list.Items = append(list.Items, *s)
		}
	}
	return list, nil
}

// ConvertToTable implements rest.TableConvertor.
func (d *deviceStatuses) ConvertToTable(ctx context.Context, o, opts runtime.Object) (*metav1.Table, error) {
	return d.r.table.ConvertToTable(ctx, o, opts)
}

// withTwins shows in a Device what is known of it here. Its place is the status that Devices had before there were
// DeviceStatuses; in the cluster that is as somebody wrote it.
func (s *Server) withTwins(o object.Object) object.Object {
	d, ok := o.(*v1beta1.Device)
	if !ok || s.deps.Devices == nil {
		return o
	}
	now, ok := s.deps.Devices.Status(d.Namespace, d.Name)
	if !ok {
		return o
	}
	if d.Status == nil {
		d.Status = &v1beta1.LegacyStatus{}
	}
	d.Status.Twins = nil
	for _, t := range s.deps.Devices.Twins(d.Namespace, d.Name) {
		d.Status.Twins = append(d.Status.Twins, v1beta1.LegacyTwin(t))
	}
	d.Status.State, d.Status.LastOnlineTime = now.Status.State, now.Status.LastOnlineTime
	return d
}

// mapperOf is the protocol of a device and whether the protocol's mapper is connected, as the node knows it. Where it does
// not, the Device itself may name the protocol.
func (s *Server) mapperOf(d *v1beta1.Device) (protocol, connected string) {
	if s.deps.Devices != nil {
		if protocol, connected := s.deps.Devices.Mapper(d.Namespace, d.Name); connected != "" {
			return protocol, string(connected)
		}
	}
	return device.Protocol(d, nil), "<unknown>"
}

func conditionIn(s *v1beta1.DeviceStatus, kind string) string {
	if c := meta.FindStatusCondition(s.Status.Conditions, kind); c != nil {
		return string(c.Status)
	}
	return "<unknown>"
}

var deviceHeads = []metav1.TableColumnDefinition{
	head("Name", "string", 0), head("Model", "string", 0), head("Protocol", "string", 0), head("Mapper", "string", 0), head("State", "string", 0),
	head("Twins", "string", 0), head("Age", "string", 0), head("Node", "string", 1), head("Last-Online", "string", 1), head("All-Twins", "string", 1),
}

// deviceCells: Mapper says whether it is connected.
func (s *Server) deviceCells(o runtime.Object, now time.Time) []any {
	d, ok := o.(*v1beta1.Device)
	if !ok {
		return make([]any, len(deviceHeads))
	}
	var model string
	if d.Spec.DeviceModelRef != nil {
		model = d.Spec.DeviceModelRef.Name
	}
	status := d.Status
	if status == nil {
		status = &v1beta1.LegacyStatus{}
	}
	protocol, connected := s.mapperOf(d)
	return []any{
		d.Name, orNone(model), orNone(protocol), connected, orNone(status.State),
		orNone(twinsText(status.Twins, shownTwins)), ageOf(d.CreationTimestamp, now), orNone(d.Spec.NodeName), orNone(status.LastOnlineTime),
		orNone(twinsText(status.Twins, len(status.Twins))),
	}
}

// shownTwins is how many properties a line has room for, shownValue how much of a value, in characters.
const (
	shownTwins = 4
	shownValue = 24
)

// twinsText is what properties have, and what they are to have where that is another.
func twinsText(twins []v1beta1.LegacyTwin, most int) string {
	var said []string
	for _, t := range twins[:min(len(twins), most)] {
		text := t.PropertyName + "=" + short(t.Reported)
		if t.ObservedDesired != nil && t.ObservedDesired.Value != "" && (t.Reported == nil || t.Reported.Value != t.ObservedDesired.Value) {
			text += " (desired " + short(t.ObservedDesired) + ")"
		}
		said = append(said, text)
	}
	if more := len(twins) - len(said); more > 0 {
		said = append(said, fmt.Sprintf("%d more", more))
	}
	return strings.Join(said, ", ")
}

func short(v *v1beta1.TwinProperty) string {
	if v == nil {
		return "<none>"
	}
	text := []rune(strings.ToValidUTF8(v.Value, "?"))
	for i, r := range text {
		if r < ' ' || r == 0x7f {
			text[i] = ' ' // a line stays one, and a terminal hears no commands
		}
	}
	if len(text) > shownValue {
		return string(text[:shownValue]) + "..."
	}
	return string(text)
}

var deviceStatusHeads = []metav1.TableColumnDefinition{
	head("Name", "string", 0), head("State", "string", 0), head("Ready", "string", 0), head("Reason", "string", 0), head("Mapper", "string", 0),
	head("Reported", "string", 0), head("Last Online", "string", 1), head("Age", "string", 0),
}

func deviceStatusCells(o runtime.Object, now time.Time) []any {
	s, ok := o.(*v1beta1.DeviceStatus)
	if !ok {
		return make([]any, len(deviceStatusHeads))
	}
	reason := ""
	if c := meta.FindStatusCondition(s.Status.Conditions, v1beta1.ConditionReady); c != nil {
		reason = c.Reason
	}
	return []any{
		s.Name, s.Status.State, conditionIn(s, v1beta1.ConditionReady), reason, conditionIn(s, v1beta1.ConditionMapperConnected),
		conditionIn(s, v1beta1.ConditionReported), s.Status.LastOnlineTime, ageOf(s.CreationTimestamp, now),
	}
}

var deviceModelHeads = []metav1.TableColumnDefinition{head("Name", "string", 0), head("Protocol", "string", 0), head("Age", "string", 0)}

func deviceModelCells(o runtime.Object, now time.Time) []any {
	m, ok := o.(*v1beta1.DeviceModel)
	if !ok {
		return make([]any, len(deviceModelHeads))
	}
	return []any{m.Name, m.Spec.Protocol, ageOf(m.CreationTimestamp, now)}
}
