package device

import (
	"fmt"
	"strings"

	"github.com/tether-edge/tether/apis/devices/v1beta1"
)

// Reasons of findings, fit for a condition.
const (
	// These concern the whole device: its mapper gets nothing of it until they are mended.
	ReasonNoModel           = "NoModel"
	ReasonModelNotFound     = "ModelNotFound"
	ReasonNoProtocol        = "NoProtocol"
	ReasonProtocolMismatch  = "ProtocolMismatch"
	ReasonInvalidConfig     = "InvalidConfig" // also of one property
	ReasonTooManyProperties = "TooManyProperties"
	ReasonTooManyMethods    = "TooManyMethods"
	ReasonDesiredTooLarge   = "DesiredTooLarge"
	ReasonReportedTooLarge  = "ReportedTooLarge"
	// These concern one property.
	ReasonUnknownProperty   = "UnknownProperty"
	ReasonNameTooLong       = "NameTooLong"
	ReasonDuplicateProperty = "DuplicateProperty"
	ReasonInvalidLimit      = "InvalidLimit"
	ReasonReadOnlyDesired   = "ReadOnlyDesired"
	ReasonInvalidValue      = "InvalidValue"
	ReasonValueOutOfRange   = "ValueOutOfRange"
	ReasonMetadataTooLarge  = "MetadataTooLarge"
	// ReasonFits is that of a device without findings.
	ReasonFits = "Fits"
	// These concern one method.
	ReasonMethodProperty = "MethodProperty"
)

// A Finding is one thing that is wrong with a device, or between it and its model.
type Finding struct {
	// Reason is one of the constants above.
	Reason string
	// Message says for people what was expected and what was found, and names the property or method.
	Message string
	// Property or Method is set where the finding concerns that one only; the others work.
	Property, Method string
}

// WholeDevice says that nothing of the device can work, rather than one property or method.
func (f Finding) WholeDevice() bool { return f.Property == "" && f.Method == "" }

// findings collects them.
type findings []Finding

func (f *findings) device(reason, format string, args ...any) {
	*f = append(*f, Finding{Reason: reason, Message: fmt.Sprintf(format, args...)})
}

func (f *findings) property(name, reason, format string, args ...any) {
	*f = append(*f, Finding{Reason: reason, Property: name, Message: "property " + quote(name) + ": " + fmt.Sprintf(format, args...)})
}

func (f *findings) method(name, format string, args ...any) {
	*f = append(*f, Finding{Reason: ReasonMethodProperty, Method: name, Message: "method " + quote(name) + ": " + fmt.Sprintf(format, args...)})
}

// Judge says what is wrong with a device, alone and together with its model; nil means that it can work. The model is the
// one in the device's namespace that it refers to, nil where there is none. The same objects give the same findings in
// the same order: those of the whole device first.
func Judge(d *v1beta1.Device, m *v1beta1.DeviceModel) []Finding {
	var f findings
	f.limits(d)
	model := modelProperties(m)
	switch {
	case d.Spec.DeviceModelRef == nil || d.Spec.DeviceModelRef.Name == "":
		f.device(ReasonNoModel, "expected the name of a DeviceModel in spec.deviceModelRef.name, found none")
	case m == nil:
		f.device(ReasonModelNotFound, "expected DeviceModel %s in namespace %s, found none", quote(d.Spec.DeviceModelRef.Name), quote(d.Namespace))
	}
	f.protocol(d, m)
	own := map[string]bool{}
	for i := range d.Spec.Properties {
		p := &d.Spec.Properties[i]
		if own[p.Name] {
			f.property(p.Name, ReasonDuplicateProperty, "expected it once, found it again")
			continue
		}
		own[p.Name] = true
		f.propertyOf(p, model[p.Name], m)
	}
	f.methods(d, own, model)
	return f
}

// limits are those of docs/devices.md.
func (f *findings) limits(d *v1beta1.Device) {
	if n := len(d.Spec.Properties); n > v1beta1.MaxProperties {
		f.device(ReasonTooManyProperties, "expected at most %d properties, found %d", v1beta1.MaxProperties, n)
	}
	if n := len(d.Spec.Methods); n > v1beta1.MaxMethods {
		f.device(ReasonTooManyMethods, "expected at most %d methods, found %d", v1beta1.MaxMethods, n)
	}
	desired := 0
	for _, p := range d.Spec.Properties {
		desired += valueBytes(p.Desired)
	}
	if desired > v1beta1.MaxDesiredBytes {
		f.device(ReasonDesiredTooLarge, "expected at most %d bytes of desired values together, found %d", v1beta1.MaxDesiredBytes, desired)
	}
}

func valueBytes(v *v1beta1.TwinProperty) int {
	if v == nil {
		return 0
	}
	return len(v.Value)
}

// JudgeReported says where what a device reported is beyond the limits; nil means that a DeviceStatus can hold it.
func JudgeReported(twins []v1beta1.Twin) []Finding {
	var f findings
	if n := len(twins); n > v1beta1.MaxProperties {
		f.device(ReasonTooManyProperties, "expected at most %d reported properties, found %d", v1beta1.MaxProperties, n)
	}
	reported := 0
	for _, t := range twins {
		reported += valueBytes(t.Reported)
	}
	if reported > v1beta1.MaxReportedBytes {
		f.device(ReasonReportedTooLarge, "expected at most %d bytes of reported values together, found %d", v1beta1.MaxReportedBytes, reported)
	}
	return f
}

func (f *findings) protocol(d *v1beta1.Device, m *v1beta1.DeviceModel) {
	own := ""
	if d.Spec.Protocol != nil {
		own = d.Spec.Protocol.ProtocolName
	}
	awaited := m == nil && d.Spec.DeviceModelRef != nil && d.Spec.DeviceModelRef.Name != "" // the model that is missing may say it
	switch {
	case Protocol(d, m) == "" && awaited:
	case Protocol(d, m) == "":
		f.device(ReasonNoProtocol, "expected a protocol in spec.protocol.protocolName or in the model, found none")
	case m != nil && own != "" && m.Spec.Protocol != "" && own != m.Spec.Protocol:
		f.device(ReasonProtocolMismatch, "expected the protocol of DeviceModel %s, %s, found %s", quote(m.Name), quote(m.Spec.Protocol), quote(own))
	}
	tree, err := protocolConfig(d, m)
	if err == nil {
		_, err = configToDMI(tree)
	}
	if err != nil {
		f.device(ReasonInvalidConfig, "%v", err)
	}
}

// propertyOf judges a device's property; inModel is nil where the model has none of the name, m where there is no model.
func (f *findings) propertyOf(p *v1beta1.DeviceProperty, inModel *v1beta1.ModelProperty, m *v1beta1.DeviceModel) {
	if n := len(p.Name); n > v1beta1.MaxPropertyName {
		f.property(p.Name, ReasonNameTooLong, "expected a name of at most %d bytes, found %d", v1beta1.MaxPropertyName, n)
		return
	}
	if _, err := propertyToDMI(p, inModel); err != nil {
		f.property(p.Name, ReasonInvalidConfig, "%v", err)
	}
	if m == nil {
		return
	}
	if inModel == nil {
		f.property(p.Name, ReasonUnknownProperty, "expected one that DeviceModel %s has, found none of that name there", quote(m.Name))
		return
	}
	f.modelLimits(inModel)
	// An empty value is what clients write that desire nothing.
	if p.Desired == nil || p.Desired.Value == "" {
		return
	}
	if inModel.AccessMode == v1beta1.ReadOnly {
		f.property(p.Name, ReasonReadOnlyDesired, "expected no desired value, since DeviceModel %s says ReadOnly, found %s", quote(m.Name), quote(p.Desired.Value))
		return
	}
	if err := CheckValue(inModel.Type, p.Desired.Value); err != nil {
		f.property(p.Name, ReasonInvalidValue, "%v", err)
	} else if err := CheckRange(*inModel, p.Desired.Value); err != nil {
		f.property(p.Name, ReasonValueOutOfRange, "%v", err)
	} else if err := CheckMetadata(p.Desired.Metadata); err != nil {
		f.property(p.Name, ReasonMetadataTooLarge, "%v", err)
	}
}

// modelLimits judges the limits of a number in the model: without it a wrong one would limit nothing and nobody would know.
func (f *findings) modelLimits(p *v1beta1.ModelProperty) {
	if p.Type != v1beta1.Int && p.Type != v1beta1.Float && p.Type != v1beta1.Double {
		return
	}
	valid := true
	for _, limit := range []struct{ word, text string }{{"minimum", p.Minimum}, {"maximum", p.Maximum}} {
		if limit.text == "" {
			continue
		}
		if err := CheckValue(p.Type, limit.text); err != nil {
			valid = false
			f.property(p.Name, ReasonInvalidLimit, "%s in the model: %v", limit.word, err)
		}
	}
	if order, ok := compare(p.Type, p.Minimum, p.Maximum); valid && ok && order > 0 {
		f.property(p.Name, ReasonInvalidLimit, "expected a minimum in the model of at most its maximum, %s, found %s", p.Maximum, p.Minimum)
	}
}

// methods may set only properties that the device uses and the model lets be set.
func (f *findings) methods(d *v1beta1.Device, own map[string]bool, model map[string]*v1beta1.ModelProperty) {
	for _, method := range d.Spec.Methods {
		for _, name := range method.PropertyNames {
			inModel := model[name]
			switch {
			case !own[name]:
				f.method(method.Name, "expected properties that the device has, found %s", quote(name))
			case inModel != nil && inModel.AccessMode == v1beta1.ReadOnly:
				f.method(method.Name, "expected properties that can be set, found %s, which is ReadOnly in the model", quote(name))
			}
		}
	}
}

// maxSaid bounds how many findings one message holds.
const maxSaid = 10

// Summary puts findings into one condition: the first's reason, and what all say, in at most about 10 KiB. Nothing gives
// two empty strings.
func Summary(all []Finding) (reason, message string) {
	if len(all) == 0 {
		return "", ""
	}
	var said []string
	for _, f := range all[:min(len(all), maxSaid)] {
		said = append(said, cut(f.Message))
	}
	if more := len(all) - len(said); more > 0 {
		said = append(said, fmt.Sprintf("and %d more", more))
	}
	return all[0].Reason, strings.Join(said, "; ")
}
