package device

import (
	"encoding/json"
	"fmt"
	"reflect"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"
	"k8s.io/apimachinery/pkg/runtime"
	"pgregory.net/rapid"
	"sigs.k8s.io/yaml"

	"github.com/tether-edge/tether/apis/devices/v1beta1"
	dmi "github.com/tether-edge/tether/apis/dmi/v1beta1"
)

// from reads an object in YAML.
func from[T any](t testing.TB, text string) *T {
	t.Helper()
	out := new(T)
	if err := yaml.UnmarshalStrict([]byte(text), out); err != nil {
		t.Fatal(err)
	}
	return out
}

const pump = `
metadata: {name: pump, namespace: site}
spec:
  protocol: modbus
  protocolConfigData: {port: 502, timeout: 3, tls: {ca: model}}
  properties:
  - name: speed
    description: of the wheel
    type: INT
    accessMode: ReadWrite
    minimum: "0"
    maximum: "3000"
    unit: rpm
    visitors: {protocolName: modbus, configData: {register: HoldingRegister, offset: 1, scale: 0.5}}
  - {name: running, type: BOOLEAN, accessMode: ReadOnly}
`

const cellar = `
metadata: {name: cellar, namespace: site}
spec:
  deviceModelRef: {name: pump}
  nodeName: edge-1
  protocol: {protocolName: modbus, configData: {ip: 192.0.2.7, timeout: 1, tls: {insecure: true}}}
  properties:
  - name: speed
    desired: {value: "1200", metadata: {timestamp: "1700000000000"}}
    collectCycle: 100
    reportCycle: 2000
    reportToCloud: true
    visitors: {configData: {offset: 7}}
    pushMethod: {mqtt: {topic: t, qos: 1}, anomalyDetection: {k: 1.5}}
  - name: running
  methods:
  - {name: start, description: and run, propertyNames: [speed]}
  stateReport: {reportToCloud: true, reportCycle: 5000}
status: {reportCycle: 1, state: online}
`

// TestAMapperHearsTheModelUnderTheDevice: single keys of the device's configuration replace those of the model's.
func TestAMapperHearsTheModelUnderTheDevice(t *testing.T) {
	got, err := ToDMI(from[v1beta1.Device](t, cellar), from[v1beta1.DeviceModel](t, pump))
	if err != nil {
		t.Fatal(err)
	}
	config := func(v *dmi.CustomizedValue) string {
		out, err := ConfigFromDMI(v.GetData())
		if err != nil {
			t.Fatal(err)
		}
		return string(out)
	}
	speed := got.GetSpec().GetProperties()[0]
	for what, pair := range map[string][2]string{
		"name":      {ID(got.GetNamespace(), got.GetName()), "site/cellar"},
		"model":     {got.GetSpec().GetDeviceModelReference(), "pump"},
		"protocol":  {got.GetSpec().GetProtocol().GetProtocolName(), "modbus"},
		"config":    {config(got.GetSpec().GetProtocol().GetConfigData()), `{"ip":"192.0.2.7","port":502,"timeout":1,"tls":{"insecure":true}}`},
		"visitor":   {config(speed.GetVisitors().GetConfigData()), `{"offset":7,"register":"HoldingRegister","scale":0.5}`},
		"visitor's": {speed.GetVisitors().GetProtocolName(), "modbus"},
		"desired":   {speed.GetDesired().GetValue() + speed.GetDesired().GetMetadata()["timestamp"], "12001700000000000"},
		"cycles":    {fmt.Sprint(speed.GetCollectCycle(), speed.GetReportCycle(), speed.GetReportToCloud()), "100 2000 true"},
		"push":      {fmt.Sprint(speed.GetPushMethod().GetMqtt().GetTopic(), speed.GetPushMethod().GetMqtt().GetQos(), len(speed.GetPushMethod().GetAnomalyDetection().GetData())), "t1 1"},
		"method":    {fmt.Sprint(got.GetSpec().GetMethods()[0].GetName(), got.GetSpec().GetMethods()[0].GetPropertyNames()), "start[speed]"},
		"state":     {fmt.Sprint(got.GetStatus().GetReportToCloud(), got.GetStatus().GetReportCycle()), "true 5000"},
		"twins":     {fmt.Sprint(len(got.GetStatus().GetTwins())), "0"},
	} {
		if pair[0] != pair[1] {
			t.Errorf("%s: a mapper hears %s, expected %s", what, pair[0], pair[1])
		}
	}
	model := ModelToDMI(from[v1beta1.DeviceModel](t, pump))
	if p := model.GetSpec().GetProperties()[0]; ID(model.GetNamespace(), model.GetName()) != "site/pump" ||
		fmt.Sprint(p.GetName(), p.GetDescription(), p.GetType(), p.GetAccessMode(), p.GetMinimum(), p.GetMaximum(), p.GetUnit()) != "speedof the wheelINTReadWrite03000rpm" {
		t.Errorf("of the model it hears %v", model)
	}
}

// TestWhatMappersReadUnaskedIsThere: existing mappers end with a nil pointer where one of these is missing.
func TestWhatMappersReadUnaskedIsThere(t *testing.T) {
	d, err := ToDMI(from[v1beta1.Device](t, "spec: {properties: [{name: a}]}"), nil)
	if err != nil {
		t.Fatal(err)
	}
	p := d.Spec.Properties[0]
	for what, there := range map[string]bool{
		"status": d.Status != nil, "protocol": d.Spec.Protocol != nil, "its configData": d.Spec.Protocol.ConfigData != nil,
		"desired": p.Desired != nil, "visitors": p.Visitors != nil, "their configData": p.Visitors.ConfigData != nil,
	} {
		if !there {
			t.Errorf("%s is missing", what)
		}
	}
	// Not so a push method: mappers take an empty one for one that they do not support.
	if p.PushMethod != nil {
		t.Error("a push method that nobody asked for")
	}
	twin := TwinsToDMI([]v1beta1.Twin{{PropertyName: "a"}})[0]
	if twin.ObservedDesired == nil || twin.Reported == nil {
		t.Errorf("a value of twin %v is missing", twin)
	}
	// The state's cycle was in the status once.
	if d, err = ToDMI(from[v1beta1.Device](t, "status: {reportToCloud: true, reportCycle: 7}"), nil); err != nil || !d.Status.ReportToCloud || d.Status.ReportCycle != 7 {
		t.Errorf("of the former status a mapper hears %v, %v", d.GetStatus(), err)
	}
}

func TestConfigurationsThatCannotBeToldAreNamed(t *testing.T) {
	const long = "123456789012345678901234567890"
	for text, want := range map[string]string{
		"spec: {protocol: {configData: {a: " + long + "}}}":                                  `configData of the protocol: "a": expected an integer`,
		"spec: {properties: [{name: p, visitors: {configData: {b: [" + long + "]}}}]}":       `property "p": configData: "b": [0]: expected an integer`,
		"spec: {properties: [{name: p, pushMethod: {anomalyDetection: {c: " + long + "}}}]}": `property "p": pushMethod: anomalyDetection: "c": expected an integer`,
	} {
		// JSON, since YAML would make another number of it.
		d := &v1beta1.Device{}
		data, err := yaml.YAMLToJSON([]byte(strings.ReplaceAll(text, long, "'"+long+"'")))
		if err != nil {
			t.Fatal(err)
		}
		if err := json.Unmarshal([]byte(strings.ReplaceAll(string(data), `"`+long+`"`, long)), d); err != nil {
			t.Fatal(err)
		}
		if _, err := ToDMI(d, nil); err == nil || !strings.HasPrefix(err.Error(), want) {
			t.Errorf("%s: %v, expected %s", text, err, want)
		}
	}
}

func TestIDsNameTheNamespace(t *testing.T) {
	if ns, name, err := ParseID(ID("site", "cellar")); err != nil || ns != "site" || name != "cellar" {
		t.Errorf("%s %s %v", ns, name, err)
	}
	for _, bad := range []string{"", "/", "cellar", "site/", "/cellar", "a/b/c"} {
		if _, _, err := ParseID(bad); err == nil {
			t.Errorf("%q is taken", bad)
		}
	}
}

// draw fills v, and leaves out what is absent in DMI if it is empty.
func draw(rt *rapid.T, v reflect.Value) {
	switch {
	case v.Type() == reflect.TypeFor[runtime.RawExtension]():
		v.Set(reflect.ValueOf(runtime.RawExtension{Raw: []byte(compact(rt, rapid.MapOfN(rapid.String(), anyJSON(3), 1, 3).Draw(rt, "config")))}))
	case v.Type() == reflect.TypeFor[*bool](): // absent is true
		if rapid.Bool().Draw(rt, "kept") {
			v.Set(reflect.ValueOf(new(false)))
		}
	case v.Kind() == reflect.Pointer:
		if rapid.Bool().Draw(rt, "there") {
			v.Set(reflect.New(v.Type().Elem()))
			draw(rt, v.Elem())
			if v.Elem().IsZero() && absent[v.Type().Elem()] {
				v.SetZero()
			}
		}
	case v.Kind() == reflect.Struct:
		for i := range v.NumField() {
			draw(rt, v.Field(i))
		}
	case v.Kind() == reflect.Slice:
		n := rapid.IntRange(0, 3).Draw(rt, "n")
		for range n {
			e := reflect.New(v.Type().Elem()).Elem()
			draw(rt, e)
			v.Set(reflect.Append(v, e))
		}
	case v.Kind() == reflect.Map:
		if m := rapid.MapOfN(rapid.String(), rapid.String(), 0, 2).Draw(rt, "map"); len(m) > 0 {
			v.Set(reflect.ValueOf(m))
		}
	case v.Kind() == reflect.String:
		v.SetString(rapid.StringN(0, 8, -1).Draw(rt, "text"))
	case v.Kind() == reflect.Bool:
		v.SetBool(rapid.Bool().Draw(rt, "bool"))
	case v.Kind() == reflect.Int32:
		v.SetInt(int64(rapid.Int32().Draw(rt, "int32")))
	case v.Kind() == reflect.Int64:
		v.SetInt(rapid.Int64().Draw(rt, "int64"))
	}
}

// absent are the parts that DMI cannot tell apart from nothing while they are empty.
var absent = map[reflect.Type]bool{
	reflect.TypeFor[v1beta1.ModelReference](): true, reflect.TypeFor[v1beta1.ProtocolConfig](): true, reflect.TypeFor[v1beta1.VisitorConfig](): true,
	reflect.TypeFor[v1beta1.TwinProperty](): true, reflect.TypeFor[v1beta1.StateReport](): true,
}

// TestDevicesComeBackAsTheyWent sends every field through the bytes of DMI and back.
func TestDevicesComeBackAsTheyWent(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		d, m := &v1beta1.Device{}, &v1beta1.DeviceModel{}
		draw(rt, reflect.ValueOf(&d.Spec).Elem())
		draw(rt, reflect.ValueOf(&m.Spec.Properties).Elem())
		d.Spec.NodeName = ""
		d.Name, d.Namespace, m.Name, m.Namespace = "d", "n", "m", "n"
		for i := range m.Spec.Properties {
			m.Spec.Properties[i].Visitors = nil
		}
		told, err := ToDMI(d, nil)
		if err != nil {
			rt.Fatal(err)
		}
		data, err := proto.Marshal(&dmi.MapperRegisterResponse{DeviceList: []*dmi.Device{told}, ModelList: []*dmi.DeviceModel{ModelToDMI(m)}})
		if err != nil {
			rt.Fatal(err)
		}
		heard := &dmi.MapperRegisterResponse{}
		if err := proto.Unmarshal(data, heard); err != nil {
			rt.Fatal(err)
		}
		back, err := FromDMI(heard.DeviceList[0])
		if err != nil {
			rt.Fatal(err)
		}
		if want, got := compact(rt, d), compact(rt, back); want != got {
			rt.Fatalf("went as   %s\ncame back %s", want, got)
		}
		if want, got := compact(rt, m), compact(rt, ModelFromDMI(heard.ModelList[0])); want != got {
			rt.Fatalf("the model went as %s\ncame back        %s", want, got)
		}
	})
}

func TestTwinsComeBackAsTheyWent(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		var twins []v1beta1.Twin
		draw(rt, reflect.ValueOf(&twins).Elem())
		data, err := proto.Marshal(&dmi.DeviceStatus{Twins: TwinsToDMI(twins)})
		if err != nil {
			rt.Fatal(err)
		}
		heard := &dmi.DeviceStatus{}
		if err := proto.Unmarshal(data, heard); err != nil {
			rt.Fatal(err)
		}
		if want, got := compact(rt, twins), compact(rt, TwinsFromDMI(heard.GetTwins())); want != got {
			rt.Fatalf("went as   %s\ncame back %s", want, got)
		}
	})
}

// FuzzDevicesOfAMapper: whatever GetDevice answers is understood or refused, and what was understood can be told again.
func FuzzDevicesOfAMapper(f *testing.F) {
	d, err := ToDMI(from[v1beta1.Device](f, cellar), from[v1beta1.DeviceModel](f, pump))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(encoded(d))
	f.Add(encoded(&dmi.Device{Spec: &dmi.DeviceSpec{Properties: []*dmi.DeviceProperty{{}}, Methods: []*dmi.DeviceMethod{{}}}}))
	f.Fuzz(func(t *testing.T, data []byte) {
		heard := &dmi.Device{}
		if proto.Unmarshal(data, heard) != nil {
			return
		}
		d, err := FromDMI(heard)
		if err != nil {
			return
		}
		if _, err := json.Marshal(d); err != nil {
			t.Errorf("it cannot be written: %v", err)
		}
		if _, err := ToDMI(d, nil); err != nil && !strings.Contains(err.Error(), "expected an integer that is exact") {
			t.Errorf("it cannot be told again: %v", err)
		}
		Judge(d, nil)
		TwinsFromDMI(heard.GetStatus().GetTwins())
	})
}

func raw(data []byte) *runtime.RawExtension { return &runtime.RawExtension{Raw: data} }
