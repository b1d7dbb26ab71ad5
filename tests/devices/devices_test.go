// Package devices runs the kinds of devices.kubeedge.io on a real API server: which manifests are accepted and kept as
// they were sent, which are refused and with which words, what kubectl shows, and what keadm does with the definitions.
package devices

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/yaml"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/dynamic"

	"github.com/tether-edge/tether/apis/devices/v1beta1"
	"github.com/tether-edge/tether/tests/cluster"
	"github.com/tether-edge/tether/tests/stack"
)

const namespace = "default"

// world is a control plane that keadm init prepared.
type world struct {
	*stack.Stack
	client dynamic.Interface
}

// TestDevicesOnARealAPIServer has one control plane for all.
func TestDevicesOnARealAPIServer(t *testing.T) {
	ctx := t.Context()
	c := cluster.ForTest(t)
	program, err := cluster.Program(ctx, "controlplane")
	if err != nil {
		t.Fatal(err)
	}
	control, err := c.StartControlPlane(ctx, program)
	if err != nil {
		t.Fatal(err)
	}
	s, err := stack.New(ctx, c, control)
	if err != nil {
		t.Fatal(err)
	}
	client, err := dynamic.NewForConfig(s.REST())
	if err != nil {
		t.Fatal(err)
	}
	w := &world{s, client}
	t.Run("what KubeEdge accepts is accepted and kept", w.accepted)
	t.Run("what is impossible is refused, and the words say why", w.refused)
	t.Run("a full device fits, and nothing beyond the limits", w.limits)
	t.Run("two managers own a property each", w.merged)
	t.Run("kubectl shows what a person asks for", w.shown)
	t.Run("CloudCores keep a status for each device", w.statuses)
	t.Run("the definitions outlive a reset that does not ask for them", w.reset)
}

func (w *world) resource(kind string) dynamic.ResourceInterface {
	resources := map[string]string{
		v1beta1.DeviceModelKind: v1beta1.DeviceModelResource, v1beta1.DeviceKind: v1beta1.DeviceResource,
		v1beta1.DeviceStatusKind: v1beta1.DeviceStatusResource,
	}
	return w.client.Resource(v1beta1.GroupVersion.WithResource(resources[kind])).Namespace(namespace)
}

// create sends an object as kubectl does: a field that the schema does not know is an error.
func (w *world) create(t *testing.T, obj *unstructured.Unstructured) (*unstructured.Unstructured, error) {
	return w.resource(obj.GetKind()).Create(t.Context(), obj, metav1.CreateOptions{FieldValidation: metav1.FieldValidationStrict})
}

func (w *world) accepted(t *testing.T) {
	files, err := filepath.Glob("testdata/*.yaml")
	if err != nil || len(files) < 6 {
		t.Fatalf("%d files of manifests, %v", len(files), err)
	}
	for _, file := range files {
		data, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for docs := yaml.NewYAMLOrJSONDecoder(bytes.NewReader(data), 4096); ; {
			sent := &unstructured.Unstructured{}
			if err := docs.Decode(sent); errors.Is(err, io.EOF) {
				break
			} else if err != nil {
				t.Fatalf("%s: %v", file, err)
			}
			t.Run(filepath.Base(file)+"/"+sent.GetKind()+"/"+sent.GetName(), func(t *testing.T) {
				if _, err := w.create(t, sent); err != nil {
					t.Fatal(err)
				}
				kept, err := w.resource(sent.GetKind()).Get(t.Context(), sent.GetName(), metav1.GetOptions{})
				if err != nil {
					t.Fatal(err)
				}
				want := sent.DeepCopy()
				withDefaults(want.Object)
				for _, part := range []string{"spec", "status"} {
					if !reflect.DeepEqual(want.Object[part], kept.Object[part]) {
						t.Errorf("%s was sent as\n%v\nand is kept as\n%v", part, sent.Object[part], kept.Object[part])
					}
				}
				throughTypes(t, kept)
			})
		}
	}
}

// withDefaults adds what the API server adds to an object as it was sent.
func withDefaults(o map[string]any) {
	fill := func(m map[string]any, field string, value any) {
		if _, ok := m[field]; !ok {
			m[field] = value
		}
	}
	spec, _ := o["spec"].(map[string]any)
	if report, ok := spec["stateReport"].(map[string]any); ok {
		fill(report, "reportToCloud", true)
	}
	properties, _ := spec["properties"].([]any)
	for _, p := range properties {
		if o["kind"] == v1beta1.DeviceModelKind {
			fill(p.(map[string]any), "accessMode", string(v1beta1.ReadWrite))
		} else {
			fill(p.(map[string]any), "reportToCloud", true)
		}
	}
}

// throughTypes checks that our own Go types lose nothing of a kept object that is not empty.
func throughTypes(t *testing.T, kept *unstructured.Unstructured) {
	t.Helper()
	typed := map[string]any{
		v1beta1.DeviceModelKind: &v1beta1.DeviceModel{}, v1beta1.DeviceKind: &v1beta1.Device{}, v1beta1.DeviceStatusKind: &v1beta1.DeviceStatus{},
	}[kept.GetKind()]
	data, err := json.Marshal(kept)
	if err != nil {
		t.Fatal(err)
	}
	strict := json.NewDecoder(bytes.NewReader(data))
	strict.DisallowUnknownFields()
	if err := strict.Decode(typed); err != nil {
		t.Fatal(err)
	}
	if data, err = json.Marshal(typed); err != nil {
		t.Fatal(err)
	}
	back := &unstructured.Unstructured{}
	if err := back.UnmarshalJSON(data); err != nil {
		t.Fatal(err)
	}
	for _, part := range []string{"spec", "status"} {
		want, got := meant(kept.Object[part]), meant(back.Object[part])
		if !reflect.DeepEqual(want, got) {
			t.Errorf("the Go types make of %s\n%v\n%v", part, want, got)
		}
	}
}

// meant leaves out what says nothing: zero, false, and objects without anything in them.
func meant(v any) any {
	switch v := v.(type) {
	case map[string]any:
		out := map[string]any{}
		for k, e := range v {
			if e = meant(e); e != nil {
				out[k] = e
			}
		}
		if len(out) == 0 {
			return nil
		}
		return out
	case []any:
		var out []any
		for _, e := range v {
			out = append(out, meant(e))
		}
		return out
	case int64:
		if v == 0 {
			return nil
		}
	case bool:
		if !v {
			return nil
		}
	case string:
		if v == "" {
			return nil
		}
	}
	return v
}

// object makes one from a spec or, for a DeviceStatus, a status in YAML.
func object(t *testing.T, kind, text string) *unstructured.Unstructured {
	t.Helper()
	part := "spec"
	if kind == v1beta1.DeviceStatusKind {
		part = "status"
	}
	var body map[string]any
	if err := yaml.Unmarshal([]byte(text), &body); err != nil {
		t.Fatal(err)
	}
	obj := &unstructured.Unstructured{Object: map[string]any{part: body}}
	obj.SetGroupVersionKind(v1beta1.GroupVersion.WithKind(kind))
	obj.SetGenerateName("made-")
	return obj
}

var refusals = []struct{ kind, body, says string }{
	{"DeviceModel", `{properties: [{name: a, type: int}]}`, `spec.properties[0].type: Unsupported value: "int": supported values: "INT", "FLOAT", "DOUBLE", "STRING", "BOOLEAN", "BYTES", "STREAM"`},
	{"DeviceModel", `{properties: [{name: a, accessMode: WriteOnly}]}`, `spec.properties[0].accessMode: Unsupported value: "WriteOnly": supported values: "ReadWrite", "ReadOnly"`},
	{"DeviceModel", `{properties: [{name: a}, {name: a}]}`, `spec.properties[1]: Duplicate value: {"name":"a"}`},
	{"DeviceModel", `{properties: [{type: INT}]}`, `spec.properties[0].name: Required value`},
	{"DeviceModel", `{properties: [{name: ""}]}`, `spec.properties[0].name: Invalid value: ""`},
	{"DeviceModel", `{properties: [{name: a, type: INT, minimum: "10", maximum: "9"}]}`, `minimum must not be greater than maximum`},
	{"DeviceModel", `{properties: [{name: a, type: FLOAT, minimum: "0.5", maximum: "-0.5"}]}`, `spec.properties[0].minimum: Invalid value`},
	{"DeviceModel", `{properties: [{name: a, type: DOUBLE, minimum: "1e3", maximum: "9.9E2"}]}`, `minimum must not be greater than maximum`},
	{"DeviceModel", `{properties: [{name: a, minimum: 1}]}`, `spec.properties[0].minimum: Invalid value: "integer"`},
	{"DeviceModel", `{protocolConfigData: text}`, `spec.protocolConfigData: Invalid value: "string"`},
	{"DeviceModel", `{protocolConfig: {}}`, `unknown field "spec.protocolConfig"`},
	{"Device", `{properties: [{name: a}, {name: b}, {name: a}]}`, `spec.properties[2]: Duplicate value: {"name":"a"}`},
	{"Device", `{methods: [{name: a}, {name: a}]}`, `spec.methods[1]: Duplicate value: {"name":"a"}`},
	{"Device", `{properties: [{name: a, desired: {}}]}`, `spec.properties[0].desired.value: Required value`},
	{"Device", `{properties: [{name: a, desired: {value: 5}}]}`, `spec.properties[0].desired.value: Invalid value: "integer"`},
	{"Device", `{properties: [{name: a, desired: {value: "5", metadata: {k: 1}}}]}`, `spec.properties[0].desired.metadata.k: Invalid value: "integer"`},
	{"Device", `{properties: [{name: a, collectCycle: -1}]}`, `spec.properties[0].collectCycle: Invalid value: -1: spec.properties[0].collectCycle in body should be greater than or equal to 0`},
	{"Device", `{properties: [{name: a, reportCycle: -5}]}`, `spec.properties[0].reportCycle in body should be greater than or equal to 0`},
	{"Device", `{properties: [{name: a, reportCycle: 1s}]}`, `spec.properties[0].reportCycle: Invalid value: "string"`},
	{"Device", `{properties: [{name: a, pushMethod: {mqtt: {qos: 3}}}]}`, `pushMethod.mqtt.qos in body should be less than or equal to 2`},
	{"Device", `{properties: [{name: a, pushMethod: {mqtt: {qos: -1}}}]}`, `pushMethod.mqtt.qos in body should be greater than or equal to 0`},
	{"Device", `{properties: [{name: a, pushMethod: {http: {port: 65536}}}]}`, `pushMethod.http.port in body should be less than or equal to 65535`},
	{"Device", `{properties: [{name: a, pushMethod: {http: {port: -1}}}]}`, `pushMethod.http.port in body should be greater than or equal to 0`},
	{"Device", `{properties: [{name: a, pushMethod: {http: {timeout: -1}}}]}`, `pushMethod.http.timeout in body should be greater than or equal to 0`},
	{"Device", `{properties: [{name: a, pushMethod: {dbMethod: {redis: {redisClientConfig: {db: -1}}}}}]}`, `redisClientConfig.db in body should be greater than or equal to 0`},
	{"Device", `{properties: [{name: a, pushMethod: {dbMethod: {redis: {redisClientConfig: {poolsize: -1}}}}}]}`, `redisClientConfig.poolsize in body should be greater than or equal to 0`},
	{"Device", `{properties: [{name: a, pushMethod: {anomalyDetection: [1]}}]}`, `pushMethod.anomalyDetection: Invalid value: "array"`},
	{"Device", `{protocol: {protocolName: a, configData: 5}}`, `spec.protocol.configData: Invalid value: "integer"`},
	{"Device", `{stateReport: {reportCycle: -1}}`, `spec.stateReport.reportCycle in body should be greater than or equal to 0`},
	{"Device", `{nodename: a}`, `unknown field "spec.nodename"`},
	{"DeviceStatus", `{twins: [{propertyName: a}, {propertyName: a}]}`, `status.twins[1]: Duplicate value: {"propertyName":"a"}`},
	{"DeviceStatus", `{twins: [{reported: {value: "1"}}]}`, `status.twins[0].propertyName: Required value`},
	{"DeviceStatus", `{conditions: [{type: Ready, status: Maybe, reason: A, message: "", lastTransitionTime: "2024-05-01T12:00:00Z"}]}`, `status.conditions[0].status: Unsupported value: "Maybe"`},
}

func (w *world) refused(t *testing.T) {
	for _, r := range refusals {
		_, err := w.create(t, object(t, r.kind, r.body))
		if err == nil || !strings.Contains(err.Error(), r.says) {
			t.Errorf("%s %s: %v, expected %s", r.kind, r.body, err, r.says)
		}
	}
}

// full is an object with n properties or twins, whose values are bytes long together.
func full(t *testing.T, kind string, n, bytes int) *unstructured.Unstructured {
	t.Helper()
	var list []any
	for i := range n {
		size := bytes/n + map[bool]int{true: 1}[i < bytes%n]
		value := map[string]any{"value": strings.Repeat("v", size)}
		name := fmt.Sprintf("property-%04d", i)
		list = append(list, map[string]any{
			v1beta1.DeviceModelKind: map[string]any{"name": name, "type": "DOUBLE", "minimum": "-1000000000.25", "maximum": "1000000000.25"},
			v1beta1.DeviceKind: map[string]any{"name": name, "desired": value, "visitors": map[string]any{
				"protocolName": "modbus", "configData": map[string]any{"register": "HoldingRegister", "offset": int64(i), "limit": int64(1)}}},
			v1beta1.DeviceStatusKind: map[string]any{"propertyName": name, "observedDesired": value, "reported": value},
		}[kind])
	}
	obj := object(t, kind, "{}")
	for part, field := range map[string]string{v1beta1.DeviceModelKind: "spec properties", v1beta1.DeviceKind: "spec properties", v1beta1.DeviceStatusKind: "status twins"} {
		if part == kind {
			if err := unstructured.SetNestedSlice(obj.Object, list, strings.Fields(field)...); err != nil {
				t.Fatal(err)
			}
		}
	}
	return obj
}

func (w *world) limits(t *testing.T) {
	for _, kind := range []string{v1beta1.DeviceModelKind, v1beta1.DeviceKind, v1beta1.DeviceStatusKind} {
		made, err := w.create(t, full(t, kind, v1beta1.MaxProperties, v1beta1.MaxDesiredBytes))
		if err != nil {
			t.Errorf("a %s at its limits: %v", kind, err)
			continue
		}
		// A change of it is judged again.
		made.SetLabels(map[string]string{"changed": "true"})
		if _, err := w.resource(kind).Update(t.Context(), made, metav1.UpdateOptions{}); err != nil {
			t.Errorf("a change of a %s at its limits: %v", kind, err)
		}
		_, err = w.create(t, full(t, kind, v1beta1.MaxProperties+1, 100))
		if says := fmt.Sprintf("Too many: %d: must have at most %d items", v1beta1.MaxProperties+1, v1beta1.MaxProperties); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("one property more: %v, expected %s", err, says)
		}
	}
	_, err := w.create(t, full(t, v1beta1.DeviceKind, 1, v1beta1.MaxDesiredBytes+1))
	if err == nil || !strings.Contains(err.Error(), "spec.properties[0].desired.value: Too long") {
		t.Errorf("a value beyond the limit: %v", err)
	}
}

// merged: server-side apply takes properties by their names, so that one manager's leave another's alone.
func (w *world) merged(t *testing.T) {
	apply := func(manager, property, value string) *unstructured.Unstructured {
		obj := object(t, v1beta1.DeviceKind, fmt.Sprintf(`{properties: [{name: %s, desired: {value: "%s"}}]}`, property, value))
		obj.SetGenerateName("")
		obj.SetName("shared")
		data, err := json.Marshal(obj)
		if err != nil {
			t.Fatal(err)
		}
		out, err := w.resource(v1beta1.DeviceKind).Patch(t.Context(), "shared", types.ApplyPatchType, data, metav1.PatchOptions{FieldManager: manager})
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
	apply("one", "a", "1")
	apply("two", "b", "2")
	out := apply("one", "a", "3")
	properties, _, err := unstructured.NestedSlice(out.Object, "spec", "properties")
	if got := fmt.Sprint(properties); err != nil || got != "[map[desired:map[value:3] name:a reportToCloud:true] map[desired:map[value:2] name:b reportToCloud:true]]" {
		t.Errorf("the properties are %v, %v", got, err)
	}
}

func (w *world) shown(t *testing.T) {
	client, err := discovery.NewDiscoveryClientForConfig(w.REST())
	if err != nil {
		t.Fatal(err)
	}
	list, err := client.ServerResourcesForGroupVersion(v1beta1.GroupVersion.String())
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, r := range list.APIResources {
		got = append(got, fmt.Sprint(r.Name, r.SingularName, r.ShortNames, r.Categories, r.Namespaced))
	}
	slices.Sort(got)
	want := []string{
		"devicemodels" + "devicemodel" + "[dmodel] [tether] true", "devices" + "device" + "[dev] [tether] true", "devicestatuses" + "devicestatus" + "[devst] [tether] true",
	}
	if !slices.Equal(got, want) {
		t.Errorf("the server has %q, expected %q: no status subresource among them", got, want)
	}
	for resource, want := range map[string]string{
		"devicemodels/heat-pump":          "Name=heat-pump Protocol=modbus",
		"devices/heat-pump-cellar":        "Name=heat-pump-cellar Model=heat-pump Protocol=modbus Node=edge-1",
		"devicestatuses/heat-pump-cellar": "Name=heat-pump-cellar State=ok Ready=True Reason=Synced Mapper=False Reported=Unknown Last Online=2024-05-01T12:00:00Z",
	} {
		data, err := client.RESTClient().Get().AbsPath("/apis", v1beta1.GroupVersion.String(), "namespaces", namespace, resource).
			SetHeader("Accept", "application/json;as=Table;v=v1;g=meta.k8s.io").DoRaw(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		var table metav1.Table
		if err := json.Unmarshal(data, &table); err != nil {
			t.Fatal(err)
		}
		var got []string
		for i, c := range table.ColumnDefinitions {
			if c.Name != "Age" {
				got = append(got, fmt.Sprintf("%s=%v", c.Name, table.Rows[0].Cells[i]))
			}
		}
		if strings.Join(got, " ") != want {
			t.Errorf("%s shows %q, expected %q", resource, got, want)
		}
	}
}

func (w *world) reset(t *testing.T) {
	config := filepath.Join(t.TempDir(), "tether", "cloudcore.yaml")
	before, err := w.resource(v1beta1.DeviceKind).Get(t.Context(), "heat-pump-cellar", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	definition := w.definition(t)
	again := func() string {
		out, err := w.Keadm(t.Context(), "init", "--local", "--service", "none", "--config", config, "--advertise-address", "127.0.0.1")
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
	again()
	if after := w.definition(t); after.GetResourceVersion() != definition.GetResourceVersion() {
		t.Error("a second init wrote a definition that was the same")
	}
	reset := func(args ...string) string {
		out, err := w.Keadm(t.Context(), append([]string{"reset", "cloud", "--force", "--service", "none", "--config", config}, args...)...)
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
	devices, err := w.resource(v1beta1.DeviceKind).List(t.Context(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	counted := fmt.Sprintf("%d devices", len(devices.Items))
	if out := reset(); !strings.Contains(out, "kept     the definitions of device kinds, and with them ") || !strings.Contains(out, counted) {
		t.Errorf("a reset says no word of %s that stay:\n%s", counted, out)
	}
	again()
	after, err := w.resource(v1beta1.DeviceKind).Get(t.Context(), "heat-pump-cellar", metav1.GetOptions{})
	if err != nil || after.GetUID() != before.GetUID() {
		t.Errorf("after a reset and an init the device is another one: %v", err)
	}
	if out := reset("--crds"); !strings.Contains(out, "removed  the definitions of device kinds, and with them ") || !strings.Contains(out, counted) {
		t.Errorf("a reset with --crds says no word of %s that went:\n%s", counted, out)
	}
	left, err := w.client.Resource(definitions).List(t.Context(), metav1.ListOptions{})
	if err != nil || len(left.Items) > 0 {
		t.Errorf("%d definitions are left, %v", len(left.Items), err)
	}
	if out := reset(); strings.Contains(out, "kept     the definitions") {
		t.Errorf("a reset of nothing says\n%s", out)
	}
}

var definitions = schema.GroupVersionResource{Group: "apiextensions.k8s.io", Version: "v1", Resource: "customresourcedefinitions"}

func (w *world) definition(t *testing.T) *unstructured.Unstructured {
	t.Helper()
	out, err := w.client.Resource(definitions).Get(t.Context(), "devices.devices.kubeedge.io", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return out
}
