package device

import (
	"fmt"
	"strings"

	"k8s.io/apimachinery/pkg/runtime"

	"github.com/tether-edge/tether/apis/devices/v1beta1"
	dmi "github.com/tether-edge/tether/apis/dmi/v1beta1"
)

// ID is how a device or a model is named in one text: namespace/name.
func ID(namespace, name string) string { return namespace + "/" + name }

// ParseID is the reverse of ID.
func ParseID(id string) (namespace, name string, err error) {
	namespace, name, ok := strings.Cut(id, "/")
	if !ok || namespace == "" || name == "" || strings.Contains(name, "/") {
		return "", "", fmt.Errorf("expected namespace/name, found %s", quote(id))
	}
	return namespace, name, nil
}

// ToDMI returns what the device's mapper is told of it. Name and namespace go in fields of their own. What the model says of
// protocol and visitors is merged in, the device's own keys first; a nil model says nothing. Of the device's status nothing goes
// but whether and how often the state is reported. Mappers of KubeEdge's framework report nothing without reportToCloud, so what is absent is
// told as true, as it holds at the edge.
//
// Existing mappers read spec, status, protocol and its configData, and of each property desired, visitors and its
// configData, without asking whether they are there, so they always are. The error names what cannot be told. What comes
// shares maps and lists of texts with d and m, here as in all conversions: change neither while the other is in use.
func ToDMI(d *v1beta1.Device, m *v1beta1.DeviceModel) (*dmi.Device, error) {
	tree, err := protocolConfig(d, m)
	if err != nil {
		return nil, err
	}
	config, err := configToDMI(tree)
	if err != nil {
		return nil, fmt.Errorf("configData of the protocol: %w", err)
	}
	spec := &dmi.DeviceSpec{
		Protocol:   &dmi.ProtocolConfig{ProtocolName: Protocol(d, m), ConfigData: &dmi.CustomizedValue{Data: config}},
		Properties: make([]*dmi.DeviceProperty, len(d.Spec.Properties)),
		Methods:    make([]*dmi.DeviceMethod, len(d.Spec.Methods)),
	}
	if ref := d.Spec.DeviceModelRef; ref != nil {
		spec.DeviceModelReference = ref.Name
	}
	model := modelProperties(m)
	for i := range d.Spec.Properties {
		p := &d.Spec.Properties[i]
		if spec.Properties[i], err = propertyToDMI(p, model[p.Name]); err != nil {
			return nil, fmt.Errorf("property %s: %w", quote(p.Name), err)
		}
	}
	for i, method := range d.Spec.Methods {
		spec.Methods[i] = &dmi.DeviceMethod{Name: method.Name, Description: method.Description, PropertyNames: method.PropertyNames}
	}
	toCloud, cycle := stateReport(d)
	status := &dmi.DeviceStatus{ReportToCloud: toDMI(toCloud), ReportCycle: cycle}
	return &dmi.Device{Name: d.Name, Namespace: d.Namespace, Spec: spec, Status: status}, nil
}

func propertyToDMI(p *v1beta1.DeviceProperty, m *v1beta1.ModelProperty) (*dmi.DeviceProperty, error) {
	protocol, tree, err := visitor(p, m)
	if err != nil {
		return nil, err
	}
	config, err := configToDMI(tree)
	if err != nil {
		return nil, fmt.Errorf("configData: %w", err)
	}
	push, err := pushToDMI(p.PushMethod)
	if err != nil {
		return nil, fmt.Errorf("pushMethod: %w", err)
	}
	return &dmi.DeviceProperty{
		Name: p.Name, Desired: valueToDMI(p.Desired), ReportCycle: p.ReportCycle, CollectCycle: p.CollectCycle, ReportToCloud: toDMI(p.ReportToCloud),
		Visitors: &dmi.VisitorConfig{ProtocolName: protocol, ConfigData: &dmi.CustomizedValue{Data: config}}, PushMethod: push,
	}, nil
}

// FromDMI returns a Device as it is told to or by a mapper: the reverse of ToDMI without a model. Empty parts are absent.
func FromDMI(d *dmi.Device) (*v1beta1.Device, error) {
	out := &v1beta1.Device{}
	out.Name, out.Namespace = d.GetName(), d.GetNamespace()
	spec := d.GetSpec()
	if ref := spec.GetDeviceModelReference(); ref != "" {
		out.Spec.DeviceModelRef = &v1beta1.ModelReference{Name: ref}
	}
	config, err := rawFromDMI(spec.GetProtocol().GetConfigData())
	if err != nil {
		return nil, fmt.Errorf("configData of the protocol: %w", err)
	}
	if name := spec.GetProtocol().GetProtocolName(); name != "" || config != nil {
		out.Spec.Protocol = &v1beta1.ProtocolConfig{ProtocolName: name, ConfigData: config}
	}
	for _, p := range spec.GetProperties() {
		property, err := propertyFromDMI(p)
		if err != nil {
			return nil, fmt.Errorf("property %s: %w", quote(p.GetName()), err)
		}
		out.Spec.Properties = append(out.Spec.Properties, *property)
	}
	for _, method := range spec.GetMethods() {
		out.Spec.Methods = append(out.Spec.Methods, v1beta1.DeviceMethod{Name: method.GetName(), Description: method.GetDescription(), PropertyNames: method.GetPropertyNames()})
	}
	if s := d.GetStatus(); s != nil && (!s.GetReportToCloud() || s.GetReportCycle() != 0) {
		out.Spec.StateReport = &v1beta1.StateReport{ReportToCloud: fromDMI(s.GetReportToCloud()), ReportCycle: s.GetReportCycle()}
	}
	return out, nil
}

func propertyFromDMI(p *dmi.DeviceProperty) (*v1beta1.DeviceProperty, error) {
	config, err := rawFromDMI(p.GetVisitors().GetConfigData())
	if err != nil {
		return nil, fmt.Errorf("configData: %w", err)
	}
	push, err := pushFromDMI(p.GetPushMethod())
	if err != nil {
		return nil, fmt.Errorf("pushMethod: %w", err)
	}
	out := &v1beta1.DeviceProperty{
		Name: p.GetName(), Desired: valueFromDMI(p.GetDesired()), ReportCycle: p.GetReportCycle(), CollectCycle: p.GetCollectCycle(),
		ReportToCloud: fromDMI(p.GetReportToCloud()), PushMethod: push,
	}
	if name := p.GetVisitors().GetProtocolName(); name != "" || config != nil {
		out.Visitors = &v1beta1.VisitorConfig{ProtocolName: name, ConfigData: config}
	}
	return out, nil
}

// toDMI and fromDMI convert reportToCloud, which is absent where it is true.
func toDMI(reportToCloud *bool) bool { return reportToCloud == nil || *reportToCloud }

func fromDMI(reportToCloud bool) *bool {
	if reportToCloud {
		return nil
	}
	return new(false)
}

func rawFromDMI(v *dmi.CustomizedValue) (*runtime.RawExtension, error) {
	data, err := ConfigFromDMI(v.GetData())
	if data == nil || err != nil {
		return nil, err
	}
	return &runtime.RawExtension{Raw: data}, nil
}

// ModelToDMI returns what mappers are told of a model. What it says of protocol and visitors comes with each device.
func ModelToDMI(m *v1beta1.DeviceModel) *dmi.DeviceModel {
	spec := &dmi.DeviceModelSpec{Properties: make([]*dmi.ModelProperty, len(m.Spec.Properties))}
	for i, p := range m.Spec.Properties {
		spec.Properties[i] = &dmi.ModelProperty{
			Name: p.Name, Description: p.Description, Type: string(p.Type), AccessMode: string(p.AccessMode), Minimum: p.Minimum, Maximum: p.Maximum, Unit: p.Unit,
		}
	}
	return &dmi.DeviceModel{Name: m.Name, Namespace: m.Namespace, Spec: spec}
}

// ModelFromDMI is the reverse of ModelToDMI.
func ModelFromDMI(m *dmi.DeviceModel) *v1beta1.DeviceModel {
	out := &v1beta1.DeviceModel{}
	out.Name, out.Namespace = m.GetName(), m.GetNamespace()
	for _, p := range m.GetSpec().GetProperties() {
		out.Spec.Properties = append(out.Spec.Properties, v1beta1.ModelProperty{
			Name: p.GetName(), Description: p.GetDescription(), Type: v1beta1.PropertyType(p.GetType()), AccessMode: v1beta1.AccessMode(p.GetAccessMode()),
			Minimum: p.GetMinimum(), Maximum: p.GetMaximum(), Unit: p.GetUnit(),
		})
	}
	return out
}

// TwinsToDMI and TwinsFromDMI convert what is known of properties. Both values of a twin are always there in DMI.
func TwinsToDMI(twins []v1beta1.Twin) []*dmi.Twin {
	out := make([]*dmi.Twin, len(twins))
	for i, t := range twins {
		out[i] = &dmi.Twin{PropertyName: t.PropertyName, ObservedDesired: valueToDMI(t.ObservedDesired), Reported: valueToDMI(t.Reported)}
	}
	return out
}

// TwinsFromDMI is the reverse of TwinsToDMI. A value that is empty and about which nothing is known is absent.
func TwinsFromDMI(twins []*dmi.Twin) []v1beta1.Twin {
	var out []v1beta1.Twin
	for _, t := range twins {
		out = append(out, v1beta1.Twin{PropertyName: t.GetPropertyName(), ObservedDesired: valueFromDMI(t.GetObservedDesired()), Reported: valueFromDMI(t.GetReported())})
	}
	return out
}

func valueToDMI(v *v1beta1.TwinProperty) *dmi.TwinProperty {
	if v == nil {
		return &dmi.TwinProperty{}
	}
	return &dmi.TwinProperty{Value: v.Value, Metadata: v.Metadata}
}

func valueFromDMI(v *dmi.TwinProperty) *v1beta1.TwinProperty {
	if v.GetValue() == "" && len(v.GetMetadata()) == 0 {
		return nil
	}
	return &v1beta1.TwinProperty{Value: v.GetValue(), Metadata: v.GetMetadata()}
}
