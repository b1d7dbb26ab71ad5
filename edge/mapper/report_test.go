package mapper

import (
	"reflect"
	"testing"

	"github.com/tether-edge/tether/apis/devices/v1beta1"
	dmi "github.com/tether-edge/tether/apis/dmi/v1beta1"
)

// An empty text is a value of a text, and no number: there it is what mappers send that have none.
func TestAnEmptyTextIsReported(t *testing.T) {
	s, err := New(Config{}, Deps{Devices: &engine{}})
	if err != nil {
		t.Fatal(err)
	}
	d, m := &v1beta1.Device{}, &v1beta1.DeviceModel{}
	for name, kind := range map[string]v1beta1.PropertyType{"text": v1beta1.String, "bytes": v1beta1.Bytes, "number": v1beta1.Int, "silent": v1beta1.String} {
		d.Spec.Properties = append(d.Spec.Properties, v1beta1.DeviceProperty{Name: name})
		m.Spec.Properties = append(m.Spec.Properties, v1beta1.ModelProperty{Name: name, Type: kind})
	}
	twins, err := s.judge([]*dmi.Twin{{PropertyName: "text", Reported: &dmi.TwinProperty{}}, {PropertyName: "bytes", Reported: &dmi.TwinProperty{}},
		{PropertyName: "number", Reported: &dmi.TwinProperty{}}, {PropertyName: "silent"}}, Entry{Device: d, Model: m})
	none := &v1beta1.TwinProperty{}
	want := []v1beta1.Twin{{PropertyName: "text", Reported: none}, {PropertyName: "bytes", Reported: none}, {PropertyName: "number"}, {PropertyName: "silent"}}
	if err != nil || !reflect.DeepEqual(twins, want) {
		t.Errorf("taken is %+v, %v, expected %+v", twins, err, want)
	}
}
