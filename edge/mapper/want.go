package mapper

import (
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"slices"
	"strings"

	"google.golang.org/protobuf/proto"

	"github.com/tether-edge/tether/apis/devices/v1beta1"
	dmi "github.com/tether-edge/tether/apis/dmi/v1beta1"
	"github.com/tether-edge/tether/common/device"
)

type digest [sha256.Size]byte

// A want is what a mapper is to be told of a device now.
type want struct {
	device              *dmi.Device
	model               *dmi.DeviceModel
	modelID             string
	digest, modelDigest digest
	mark                string // of exactly this state; see markOf
	born                uint64
}

// wanted returns what a mapper is to be told of an entry, without what cannot work of it. The error says why it is told nothing.
func wanted(e Entry) (want, error) {
	findings := device.Judge(e.Device, e.Model)
	for _, f := range findings {
		if f.WholeDevice() {
			reason, message := device.Summary(findings)
			return want{}, fmt.Errorf("%s: %s", reason, message)
		}
	}
	if e.Model == nil {
		return want{}, errors.New(device.ReasonModelNotFound)
	}
	told, err := device.ToDMI(fitting(e.Device, findings), e.Model)
	if err != nil {
		return want{}, err
	}
	w := want{device: told, model: device.ModelToDMI(e.Model), born: e.Born}
	w.modelID = device.ID(w.model.Namespace, w.model.Name)
	if w.modelDigest, err = digestOf(w.model); err != nil {
		return want{}, err
	}
	if w.digest, err = digestOfDevice(told, w.model); err != nil {
		return want{}, err
	}
	w.mark, err = markOf(e, told)
	return w, err
}

// markOf names a state of a device and of its model, with the time of each wish.
func markOf(e Entry, told *dmi.Device) (string, error) {
	data, err := proto.MarshalOptions{Deterministic: true}.Marshal(told)
	if err != nil {
		return "", err
	}
	h := sha256.New()
	fmt.Fprintf(h, "%s %d %s %d ", e.Device.UID, e.Device.Generation, e.Model.UID, e.Model.Generation)
	h.Write(data)
	return base64.RawURLEncoding.EncodeToString(h.Sum(nil)[:12]), nil
}

// fitting returns the device without the properties, desired values and methods that were found wrong.
func fitting(d *v1beta1.Device, findings []device.Finding) *v1beta1.Device {
	property, desired, method := map[string]bool{}, map[string]bool{}, map[string]bool{}
	twice := false
	for _, f := range findings {
		switch f.Reason {
		case device.ReasonUnknownProperty, device.ReasonInvalidConfig, device.ReasonNameTooLong:
			property[f.Property] = true
		case device.ReasonDuplicateProperty:
			twice = true
		case device.ReasonReadOnlyDesired, device.ReasonInvalidValue, device.ReasonValueOutOfRange, device.ReasonMetadataTooLarge:
			desired[f.Property] = true
		case device.ReasonMethodProperty:
			method[f.Method] = true
		}
	}
	if len(property)+len(desired)+len(method) == 0 && !twice {
		return d
	}
	out := *d
	out.Spec.Properties, out.Spec.Methods = nil, nil
	seen := map[string]bool{}
	for _, p := range d.Spec.Properties {
		if property[p.Name] || seen[p.Name] {
			continue
		}
		seen[p.Name] = true
		if desired[p.Name] {
			p.Desired = nil
		}
		out.Spec.Properties = append(out.Spec.Properties, p)
	}
	for _, m := range d.Spec.Methods {
		if !method[m.Name] {
			out.Spec.Methods = append(out.Spec.Methods, m)
		}
	}
	return &out
}

func digestOf(m proto.Message) (digest, error) {
	data, err := proto.MarshalOptions{Deterministic: true}.Marshal(m)
	return sha256.Sum256(data), err
}

// digestOfDevice is of what a mapper works by. It takes in what it read of the model for this device, since the device is told again where
// that is new. It leaves out what is for people, and when a value was desired: to desire the same again changes nothing for a mapper, and
// those of KubeEdge start a device anew at each update.
func digestOfDevice(d *dmi.Device, model *dmi.DeviceModel) (digest, error) {
	spec := &dmi.DeviceSpec{DeviceModelReference: d.Spec.DeviceModelReference, Protocol: d.Spec.Protocol}
	used := map[string]bool{}
	for _, p := range d.Spec.Properties {
		used[p.Name] = true
		spec.Properties = append(spec.Properties, &dmi.DeviceProperty{Name: p.Name, Desired: undated(p.Desired), Visitors: p.Visitors, ReportCycle: p.ReportCycle,
			CollectCycle: p.CollectCycle, ReportToCloud: p.ReportToCloud, PushMethod: p.PushMethod})
	}
	for _, m := range d.Spec.Methods {
		spec.Methods = append(spec.Methods, &dmi.DeviceMethod{Name: m.Name, PropertyNames: m.PropertyNames})
	}
	read := &dmi.DeviceModelSpec{}
	for _, p := range model.Spec.Properties {
		if used[p.Name] {
			read.Properties = append(read.Properties, &dmi.ModelProperty{Name: p.Name, Type: p.Type, AccessMode: p.AccessMode, Minimum: p.Minimum, Maximum: p.Maximum, Unit: p.Unit})
		}
	}
	slices.SortFunc(read.Properties, func(a, b *dmi.ModelProperty) int { return strings.Compare(a.Name, b.Name) })
	of, err := digestOf(read)
	if err != nil {
		return digest{}, err
	}
	data, err := proto.MarshalOptions{Deterministic: true}.Marshal(&dmi.Device{Name: d.Name, Namespace: d.Namespace, Spec: spec, Status: d.Status})
	return sha256.Sum256(append(data, of[:]...)), err
}

func undated(p *dmi.TwinProperty) *dmi.TwinProperty {
	out := &dmi.TwinProperty{Value: p.GetValue(), Metadata: map[string]string{}}
	for key, value := range p.GetMetadata() {
		if key != "timestamp" {
			out.Metadata[key] = value
		}
	}
	return out
}
