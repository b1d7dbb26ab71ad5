package device

import (
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"

	"pgregory.net/rapid"

	"github.com/tether-edge/tether/apis/devices/v1beta1"
)

const boiler = `
metadata: {name: boiler, namespace: site}
spec:
  protocol: modbus
  properties:
  - {name: setpoint, type: INT, accessMode: ReadWrite, minimum: "20", maximum: "60"}
  - {name: flow, type: FLOAT, accessMode: ReadOnly}
  - {name: fan, type: BOOLEAN}
  - {name: odd, type: DOUBLE, minimum: low, maximum: "0x10"}
  - {name: empty, type: INT, minimum: "9223372036854775807", maximum: "9223372036854775806"}
  - {name: note, type: STRING, minimum: z, maximum: a}
  - {name: beyond, type: DOUBLE, minimum: "-1e400", maximum: "1e999"}
  - {name: wide, type: FLOAT, minimum: "1e3", maximum: "1e2"}
`

// head of a device that fits the boiler.
const fits = "deviceModelRef: {name: boiler}, protocol: {protocolName: modbus}"

func TestJudgements(t *testing.T) {
	long := strings.Repeat("n", 254)
	for _, c := range []struct {
		spec    string
		model   string // none if empty
		want    []string
		concern string // the property or method of the one finding
	}{
		{fits, boiler, nil, ""},
		{fits + `, properties: [{name: setpoint, desired: {value: "45"}}, {name: flow}, {name: fan, desired: {value: "true"}}]`, boiler, nil, ""},
		{"deviceModelRef: {name: boiler}", boiler, nil, ""}, // the model says the protocol
		{"deviceModelRef: {name: free}, protocol: {protocolName: mine}", "metadata: {name: free}", nil, ""},
		{fits + `, methods: [{name: heat, propertyNames: [setpoint, fan]}, {name: idle}], properties: [{name: setpoint}, {name: fan}]`, boiler, nil, ""},
		{fits + `, properties: [{name: flow, desired: {value: ""}}, {name: note, desired: {value: anything}}]`, boiler, nil, ""},

		{"protocol: {protocolName: modbus}", "", []string{"NoModel: expected the name of a DeviceModel in spec.deviceModelRef.name, found none"}, ""},
		{"deviceModelRef: {name: ''}, protocol: {protocolName: modbus}", boiler, []string{"NoModel: "}, ""},
		{fits, "", []string{`ModelNotFound: expected DeviceModel "boiler" in namespace "site", found none`}, ""},
		{"deviceModelRef: {name: boiler}", "", []string{"ModelNotFound: "}, ""}, // the model may say the protocol
		{"properties: []", "", []string{"NoModel: ", "NoProtocol: "}, ""},
		{"deviceModelRef: {name: free}", "metadata: {name: free}", []string{"NoProtocol: expected a protocol in spec.protocol.protocolName or in the model, found none"}, ""},
		{"deviceModelRef: {name: boiler}, protocol: {protocolName: opcua}", boiler, []string{`ProtocolMismatch: expected the protocol of DeviceModel "boiler", "modbus", found "opcua"`}, ""},
		{"deviceModelRef: {name: boiler}, protocol: {protocolName: Modbus}", boiler, []string{"ProtocolMismatch: "}, ""},
		{"deviceModelRef: {name: boiler}, protocol: {configData: {a: [0.5, 1e200, [[]]]}}", boiler, nil, ""},

		{fits + `, properties: [{name: seatpoint}]`, boiler, []string{`UnknownProperty: property "seatpoint": expected one that DeviceModel "boiler" has, found none of that name there`}, "seatpoint"},
		{fits + `, properties: [{name: flow, desired: {value: "1.5"}}]`, boiler, []string{`ReadOnlyDesired: property "flow": expected no desired value, since DeviceModel "boiler" says ReadOnly, found "1.5"`}, "flow"},
		{fits + `, properties: [{name: setpoint, desired: {value: "45.5"}}]`, boiler, []string{`InvalidValue: property "setpoint": expected a decimal number of 64 bits (INT), found "45.5"`}, "setpoint"},
		{fits + `, properties: [{name: fan, desired: {value: "yes"}}]`, boiler, []string{`InvalidValue: property "fan": expected true or false (BOOLEAN), found "yes"`}, "fan"},
		{fits + `, properties: [{name: setpoint, desired: {value: "61"}}]`, boiler, []string{`ValueOutOfRange: property "setpoint": expected at most 60, found "61"`}, "setpoint"},
		{fits + `, properties: [{name: setpoint, desired: {value: "-45"}}]`, boiler, []string{`ValueOutOfRange: property "setpoint": expected at least 20, found "-45"`}, "setpoint"},
		{fits + `, properties: [{name: ` + strings.Repeat("n", 253) + `}]`, boiler + "  - {name: " + strings.Repeat("n", 253) + "}\n", nil, ""},
		{fits + `, properties: [{name: ` + long + `}]`, boiler + "  - {name: " + long + "}\n", []string{`NameTooLong: property "nnnnn`}, long},
		{fits + `, properties: [{name: fan}, {name: fan}]`, boiler, []string{`DuplicateProperty: property "fan": expected it once, found it again`}, "fan"},
		{fits + `, properties: [{name: odd, desired: {value: "1"}}]`, boiler, []string{
			`InvalidLimit: property "odd": minimum in the model: expected a decimal number of 64 bits (DOUBLE), found "low"`,
			`InvalidLimit: property "odd": maximum in the model: expected a decimal number of 64 bits (DOUBLE), found "0x10"`,
		}, "odd"},
		{fits + `, properties: [{name: beyond}]`, boiler, []string{
			`InvalidLimit: property "beyond": minimum in the model: expected a decimal number of 64 bits (DOUBLE), found "-1e400"`,
			`InvalidLimit: property "beyond": maximum in the model: expected a decimal number of 64 bits (DOUBLE), found "1e999"`,
		}, ""},
		{fits + `, properties: [{name: wide}]`, boiler, []string{`InvalidLimit: property "wide": expected a minimum in the model of at most its maximum, 1e2, found 1e3`}, "wide"},
		{fits + `, properties: [{name: note, desired: {value: x, metadata: {a: "1", b: "2", c: "3", d: "4", e: "5", f: "6", g: "7", h: "8"}}}]`, boiler, nil, ""},
		{fits + `, properties: [{name: note, desired: {value: x, metadata: {a: "1", b: "2", c: "3", d: "4", e: "5", f: "6", g: "7", h: "8", i: "9"}}}]`, boiler,
			[]string{`MetadataTooLarge: property "note": expected at most 8 entries of metadata with 4096 bytes, found 9 with 18`}, "note"},
		{fits + `, properties: [{name: empty}]`, boiler, []string{`InvalidLimit: property "empty": expected a minimum in the model of at most its maximum, 9223372036854775806, found 9223372036854775807`}, "empty"},
		{fits + `, properties: [{name: fan, visitors: {configData: [1]}}]`, boiler, []string{`InvalidConfig: property "fan": configData: expected an object, found JSON of another kind (array)`}, "fan"},
		{"deviceModelRef: {name: boiler}, protocol: {configData: text}", boiler, []string{"InvalidConfig: configData of the protocol: expected an object"}, ""},
		{fits + `, methods: [{name: m, propertyNames: [fan, gone]}], properties: [{name: fan}]`, boiler, []string{`MethodProperty: method "m": expected properties that the device has, found "gone"`}, "m"},
		{fits + `, methods: [{name: m, propertyNames: [flow]}], properties: [{name: flow}]`, boiler, []string{`MethodProperty: method "m": expected properties that can be set, found "flow", which is ReadOnly in the model`}, "m"},
		{fits + `, properties: [{name: ` + long + `}]`, "metadata: {name: boiler, namespace: site}\nspec: {properties: [{name: " + long + "}]}",
			[]string{"NameTooLong: property " + quote(long) + ": expected a name of at most 253 bytes, found 254"}, long},

		// Several at once, those of the whole device first.
		{"deviceModelRef: {name: boiler}, protocol: {protocolName: opcua}, properties: [{name: gone}, {name: fan, desired: {value: '2'}}]", boiler, []string{"ProtocolMismatch: ", "UnknownProperty: ", "InvalidValue: "}, ""},
		// Without a model nothing is known of properties.
		{fits + `, properties: [{name: setpoint, desired: {value: "x"}}]`, "", []string{"ModelNotFound: "}, ""},
	} {
		d := from[v1beta1.Device](t, "metadata: {name: d, namespace: site}\nspec: {"+c.spec+"}")
		var m *v1beta1.DeviceModel
		if c.model != "" {
			m = from[v1beta1.DeviceModel](t, c.model)
		}
		found := Judge(d, m)
		matches := slices.EqualFunc(found, c.want, func(f Finding, want string) bool { return strings.HasPrefix(f.Reason+": "+f.Message, want) })
		if !matches {
			t.Errorf("%s: found\n%v\nexpected\n%q", c.spec, found, c.want)
			continue
		}
		if len(found) == 1 && (found[0].Property+found[0].Method != c.concern || found[0].WholeDevice() != (c.concern == "")) {
			t.Errorf("%s: it concerns %q and %q, expected %q", c.spec, found[0].Property, found[0].Method, c.concern)
		}
	}
}

// sized is a device with n properties, whose desired values are bytes long together.
func sized(n, bytes int) *v1beta1.Device {
	d := &v1beta1.Device{}
	d.Spec.DeviceModelRef = &v1beta1.ModelReference{Name: "m"}
	d.Spec.Protocol = &v1beta1.ProtocolConfig{ProtocolName: "p"}
	for i := range n {
		size := bytes / n
		if i < bytes%n {
			size++
		}
		d.Spec.Properties = append(d.Spec.Properties, v1beta1.DeviceProperty{Name: fmt.Sprint(i), Desired: &v1beta1.TwinProperty{Value: strings.Repeat("v", size)}})
	}
	return d
}

func modelOf(d *v1beta1.Device) *v1beta1.DeviceModel {
	m := &v1beta1.DeviceModel{}
	for _, p := range d.Spec.Properties {
		m.Spec.Properties = append(m.Spec.Properties, v1beta1.ModelProperty{Name: p.Name, Type: v1beta1.String})
	}
	return m
}

func twinsOf(d *v1beta1.Device) (out []v1beta1.Twin) {
	for _, p := range d.Spec.Properties {
		out = append(out, v1beta1.Twin{PropertyName: p.Name, Reported: p.Desired})
	}
	return out
}

func TestPushesThatCannotWorkAreSaid(t *testing.T) {
	const others = "expected pushMethod http or mqtt, found others, which Tether's mappers do not support yet: of property "
	const scheme = "expected hostName with http:// or https://, port and requestPath, found "
	for spec, want := range map[string][2]string{
		`properties: [{name: a}, {name: b, pushMethod: {http: {hostName: "http://x", port: 80, requestPath: /p}, mqtt: {address: "tcp://x:1", topic: t}}}]`: {},
		`properties: [{name: a, pushMethod: {dbMethod: {}}}]`:             {},
		`properties: [{name: a, pushMethod: {anomalyDetection: {k: 1}}}]`: {"NotSupportedYet", others + `"a" (anomalyDetection)`},
		`properties: [{name: a, pushMethod: {otel: {endpointURL: x}, http: {hostName: "https://x"}}}, {name: b}, {name: c, pushMethod: {dbMethod: {influxdb2: {}, redis: {}, TDEngine: {}, mysql: {}}}}]`: {
			"NotSupportedYet", others + `"a" (otel), "c" (influxdb2, redis, TDEngine, mysql)`},
		`properties: [{name: a, pushMethod: {http: {hostName: 192.0.2.1, port: 80, requestPath: /p}}}, {name: b, pushMethod: {otel: {}, mqtt: {address: "x:1", topic: t}}}, {name: c, pushMethod: {mqtt: {address: "tcp://x:1"}}}]`: {
			"InvalidPush", `property "a": http: ` + scheme + `"192.0.2.1:80/p"; property "b": mqtt: expected an address such as tcp://192.0.2.1:1883, found "x:1"; property "c": mqtt: expected a topic without the wildcards + and # and a qos of 0 to 2, found "" and 0; ` + others + `"b" (otel)`},
	} {
		d := from[v1beta1.Device](t, "spec: {"+spec+"}")
		if reason, message := JudgePushes(d); reason != want[0] || message != want[1] {
			t.Errorf("%s:\nfound    %s %s\nexpected %s %s", spec, reason, message, want[0], want[1])
		}
		for _, f := range Judge(d, nil) {
			if f.Property != "" {
				t.Errorf("%s: it is a finding: %+v", spec, f)
			}
		}
	}
	var many v1beta1.Device
	for i := range v1beta1.MaxProperties {
		many.Spec.Properties = append(many.Spec.Properties, v1beta1.DeviceProperty{Name: fmt.Sprint(i, strings.Repeat("n", 60000)),
			PushMethod: &v1beta1.PushMethod{OTEL: &v1beta1.PushMethodOTEL{}, HTTP: &v1beta1.PushMethodHTTP{HostName: strings.Repeat("h", 60000)}}})
	}
	if _, got := JudgePushes(&many); len(got) > 32<<10 || strings.Count(got, ", and 990 more") != 2 {
		t.Errorf("%d bytes, at the end %q; a condition takes 32,768", len(got), got[len(got)-40:])
	}
}

// TestLimitsNameThemselvesAndWhatWasFound: what the design asks for fits, and nothing beyond the limits is cut.
func TestLimitsNameThemselvesAndWhatWasFound(t *testing.T) {
	if v1beta1.MaxProperties < 500 || v1beta1.MaxDesiredBytes < 32<<10 || v1beta1.MaxReportedBytes < 32<<10 {
		t.Errorf("limits of %d properties, %d and %d bytes", v1beta1.MaxProperties, v1beta1.MaxDesiredBytes, v1beta1.MaxReportedBytes)
	}
	for _, c := range []struct {
		n, bytes          int
		desired, reported string
	}{
		{500, 32 << 10, "", ""},
		{1000, 65536, "", ""},
		{1001, 5, "TooManyProperties: expected at most 1000 properties, found 1001", "TooManyProperties: expected at most 1000 reported properties, found 1001"},
		{10, 65537, "DesiredTooLarge: expected at most 65536 bytes of desired values together, found 65537", "ReportedTooLarge: expected at most 65536 bytes of reported values together, found 65537"},
	} {
		d := sized(c.n, c.bytes)
		reason, message := Summary(Judge(d, modelOf(d)))
		if got := strings.TrimPrefix(reason+": "+message, ": "); got != c.desired {
			t.Errorf("%d properties, %d bytes desired: %q, expected %q", c.n, c.bytes, got, c.desired)
		}
		reason, message = Summary(JudgeReported(twinsOf(d)))
		if got := strings.TrimPrefix(reason+": "+message, ": "); got != c.reported {
			t.Errorf("%d properties, %d bytes reported: %q, expected %q", c.n, c.bytes, got, c.reported)
		}
	}
	d := sized(1, 1)
	d.Spec.Methods = make([]v1beta1.DeviceMethod, v1beta1.MaxMethods+1)
	if reason, message := Summary(Judge(d, modelOf(d))); reason != ReasonTooManyMethods || message != "expected at most 200 methods, found 201" {
		t.Errorf("%s: %s", reason, message)
	}
}

// TestASummaryFitsIntoACondition: the API server refuses a message of more than 32,768 characters.
func TestASummaryFitsIntoACondition(t *testing.T) {
	if reason, message := Summary(nil); reason != "" || message != "" {
		t.Errorf("of nothing: %q, %q", reason, message)
	}
	d := sized(1000, 60_000)
	m := modelOf(sized(0, 0))
	m.Name = strings.Repeat("\x00", 200)
	if reason, message := Summary(Judge(d, m)); reason != ReasonUnknownProperty || !strings.HasSuffix(message, "; and 990 more") || len(message) > 12_000 {
		t.Errorf("%s, %d bytes that end with %q", reason, len(message), message[max(0, len(message)-40):])
	}
	for i := range d.Spec.Properties {
		d.Spec.Properties[i].Name += strings.Repeat("é\x00", 80)
	}
	reason, message := Summary(Judge(d, m))
	if reason != ReasonUnknownProperty || !strings.HasSuffix(message, "; and 990 more") || len(message) > 12_000 || !utf8.ValidString(message) {
		t.Errorf("%s, %d bytes that end with %q", reason, len(message), message[max(0, len(message)-40):])
	}
	// The way to a value inside a configuration may be long.
	d = sized(20, 0)
	for i := range d.Spec.Properties {
		key := `{"` + strings.Repeat(`\u0001`, 64) + `":`
		d.Spec.Properties[i].Visitors = &v1beta1.VisitorConfig{ConfigData: raw([]byte(strings.Repeat(key, 60) + "1e999" + strings.Repeat("}", 60)))}
	}
	if reason, message = Summary(Judge(d, modelOf(d))); reason != ReasonInvalidConfig || len(message) > 12_000 {
		t.Errorf("%s, %d bytes", reason, len(message))
	}
}

// TestWhatIsJudgedWellCanBeTold: no mapper gets a device that was not judged, and no device that was judged well fails on its way.
func TestWhatIsJudgedWellCanBeTold(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		d, m := &v1beta1.Device{}, &v1beta1.DeviceModel{}
		draw(rt, reflect.ValueOf(&d.Spec).Elem())
		draw(rt, reflect.ValueOf(&m.Spec).Elem())
		found := Judge(d, m)
		_, err := ToDMI(d, m)
		invalid := slices.ContainsFunc(found, func(f Finding) bool { return f.Reason == ReasonInvalidConfig })
		if (err != nil) != invalid {
			rt.Fatalf("told: %v, judged: %v", err, found)
		}
		if again := Judge(d, m); !slices.Equal(found, again) {
			rt.Fatalf("judged %v, and then %v", found, again)
		}
	})
}

// FuzzJudge: nothing makes it panic, and every message names a reason and can be shown.
func FuzzJudge(f *testing.F) {
	f.Add("INT", "5", "1", "9", "ReadWrite", []byte(`{"a":1}`))
	f.Add("DOUBLE", "\xff", "x", "1e999", "", []byte(`[`))
	f.Fuzz(func(t *testing.T, kind, value, minimum, maximum, mode string, config []byte) {
		d := sized(1, 0)
		d.Spec.Properties[0].Desired.Value = value
		d.Spec.Properties[0].Visitors = &v1beta1.VisitorConfig{}
		d.Spec.Properties[0].Visitors.ConfigData = raw(config)
		m := modelOf(d)
		p := &m.Spec.Properties[0]
		p.Type, p.Minimum, p.Maximum, p.AccessMode = v1beta1.PropertyType(kind), minimum, maximum, v1beta1.AccessMode(mode)
		m.Spec.ProtocolConfigData = raw(config)
		found := Judge(d, m)
		for _, f := range found {
			if f.Reason == "" || f.Message == "" {
				t.Errorf("a finding without words: %+v", f)
			}
		}
		if _, message := Summary(found); len(message) > 32_768 {
			t.Errorf("a message of %d bytes", len(message))
		}
	})
}
