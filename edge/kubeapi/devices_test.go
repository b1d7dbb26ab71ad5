package kubeapi

import (
	"context"
	"encoding/json"
	"net/http"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/tether-edge/tether/apis/devices/v1beta1"
	"github.com/tether-edge/tether/common/object"
)

// fakeDevices are the statuses of some devices, of which no mapper has seen what is desired.
type fakeDevices []v1beta1.DeviceStatus

func (f fakeDevices) Status(namespace, name string) (*v1beta1.DeviceStatus, bool) {
	for _, s := range f.Statuses(namespace) {
		if s.Name == name {
			return s, true
		}
	}
	return nil, false
}

func (f fakeDevices) Statuses(namespace string) (all []*v1beta1.DeviceStatus) {
	for _, s := range f {
		if namespace == "" || s.Namespace == namespace {
			one := s.DeepCopy()
			for i := range one.Status.Twins {
				one.Status.Twins[i].ObservedDesired = nil
			}
			all = append(all, one)
		}
	}
	return all
}

func (f fakeDevices) Twins(namespace, name string) []v1beta1.Twin {
	for _, s := range f {
		if s.Namespace == namespace && s.Name == name {
			return s.DeepCopy().Status.Twins
		}
	}
	return nil
}

// Mapper: what has a status has the protocol modbus of its model.
func (f fakeDevices) Mapper(namespace, name string) (string, metav1.ConditionStatus) {
	if _, ok := f.Status(namespace, name); ok {
		return "modbus", metav1.ConditionFalse
	}
	return "", ""
}

// askedDevices counts how many statuses were made.
type askedDevices struct {
	fakeDevices
	made *int
}

func (a askedDevices) Status(namespace, name string) (*v1beta1.DeviceStatus, bool) {
	*a.made++
	return a.fakeDevices.Status(namespace, name)
}

func aStatus(namespace, name string, twins ...v1beta1.Twin) v1beta1.DeviceStatus {
	return v1beta1.DeviceStatus{
		TypeMeta:   metav1.TypeMeta{APIVersion: v1beta1.GroupVersion.String(), Kind: v1beta1.DeviceStatusKind},
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name},
		Status: v1beta1.DeviceStatusStatus{Twins: twins, State: "online", Conditions: []metav1.Condition{
			{Type: v1beta1.ConditionMapperConnected, Status: metav1.ConditionFalse}, {Type: v1beta1.ConditionReady, Status: metav1.ConditionTrue, Reason: "Fits"}}},
	}
}

func aTwin(name, desired, reported string) v1beta1.Twin {
	return v1beta1.Twin{PropertyName: name, ObservedDesired: &v1beta1.TwinProperty{Value: desired}, Reported: &v1beta1.TwinProperty{Value: reported}}
}

const devicesPath = "/apis/devices.kubeedge.io/v1beta1/"

// tableAt asks for a table as kubectl does, and returns its cells, one line for each object.
func (e *env) tableAt(path string) (lines []string) {
	e.t.Helper()
	req, err := http.NewRequestWithContext(e.t.Context(), http.MethodGet, "http://edge"+path, nil)
	if err != nil {
		e.t.Fatal(err)
	}
	req.Header.Set("Accept", "application/json;as=Table;v=v1;g=meta.k8s.io,application/json")
	resp, err := e.Transport().RoundTrip(req)
	if err != nil {
		e.t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	var t metav1.Table
	if err := json.NewDecoder(resp.Body).Decode(&t); err != nil || t.Kind != "Table" {
		e.t.Fatalf("%s: %d, %q, %v, expected a table", path, resp.StatusCode, t.Kind, err)
	}
	for _, r := range t.Rows {
		var cells []string
		for i, c := range r.Cells {
			if text, ok := c.(string); ok && t.ColumnDefinitions[i].Name != "Age" {
				cells = append(cells, text)
			}
		}
		lines = append(lines, strings.Join(cells, "|"))
	}
	return lines
}

func newDevicesEnv(t *testing.T) *env {
	long := strings.Repeat("x", 40)
	return newEnv(t, func(_ *Config, d *Deps) {
		d.Devices = fakeDevices{
			aStatus("plant", "pump", aTwin("a", "", "1"), aTwin("b", "2", "2"), aTwin("c", "4", "3"), aTwin("d", "", "\x1b[2J"), aTwin("e", "", long)),
			aStatus("shop", "door"),
		}
	})
}

func TestDevicesShowTheirTwinsAtTheNode(t *testing.T) {
	e := newDevicesEnv(t)
	pump := &v1beta1.Device{ObjectMeta: e.meta("plant", "pump", "u"), Spec: v1beta1.DeviceSpec{NodeName: node, DeviceModelRef: &v1beta1.ModelReference{Name: "m"}},
		Status: &v1beta1.LegacyStatus{ReportToCloud: new(true)}}
	rec := e.store.fromCloud(t, object.Devices, pump)
	code, body := e.raw(http.MethodGet, devicesPath+"namespaces/plant/devices/pump", "", "")
	var got v1beta1.Device
	if err := json.Unmarshal([]byte(body), &got); code != http.StatusOK || err != nil || got.Status == nil || len(got.Status.Twins) != 5 || got.Status.State != "online" || got.Status.ReportToCloud == nil {
		t.Errorf("the device: %d %s", code, body)
	}
	if again, _, err := e.store.Get(t.Context(), rec.Key); err != nil || strings.Contains(string(again.Body), "online") {
		t.Errorf("what is shown was stored: %v", err)
	}
	short, long := "a=1, b=2, c=3 (desired 4), d= [2J", strings.Repeat("x", shownValue)+"..."
	if got, want := e.tableAt(devicesPath+"devices"), "pump|m|modbus|False|online|"+short+", 1 more|"+node+"|<none>|"+short+", e="+long; len(got) != 1 || got[0] != want {
		t.Errorf("the table of devices is\n%q, expected\n%q", got, want)
	}
	if got := e.tableAt(devicesPath + "devicestatuses"); len(got) != 2 || got[0] != "pump|online|True|Fits|False|<unknown>|" {
		t.Errorf("the table of statuses is %q", got)
	}
}

// A status has all twins of its device, so a table makes one for each line.
func TestTheTableOfDevicesShowsTheModelsProtocol(t *testing.T) {
	made := 0
	e := newEnv(t, func(_ *Config, d *Deps) {
		d.Devices = askedDevices{fakeDevices{aStatus("plant", "pump"), aStatus("shop", "door")}, &made}
	})
	for _, d := range []*v1beta1.Device{
		{ObjectMeta: e.meta("plant", "pump", "u")},
		{ObjectMeta: e.meta("shop", "door", "v")},
		{ObjectMeta: e.meta("shop", "gate", "w"), Spec: v1beta1.DeviceSpec{Protocol: &v1beta1.ProtocolConfig{ProtocolName: "virtual"}}}, // not known yet
	} {
		e.store.fromCloud(t, object.Devices, d)
	}
	made = 0
	got := e.tableAt(devicesPath + "devices")
	for i, want := range []string{"pump|<none>|modbus|False|online|", "door|<none>|modbus|False|online|", "gate|<none>|virtual|<unknown>|<none>|"} {
		if len(got) != 3 || !strings.HasPrefix(got[i], want) {
			t.Errorf("the table is %q, expected line %d to begin with %q", got, i+1, want)
		}
	}
	if made != 3 {
		t.Errorf("%d statuses were made for three devices", made)
	}
}

func TestDeviceStatusesAreMadeWhenSomebodyAsks(t *testing.T) {
	e := newDevicesEnv(t)
	for _, c := range []struct {
		method, path string
		code         int
		has, lacks   string
	}{
		{http.MethodGet, "namespaces/plant/devicestatuses/pump", http.StatusOK, `"propertyName":"c"`, `"door"`},
		{http.MethodGet, "namespaces/plant/devicestatuses/door", http.StatusNotFound, `devicestatuses.devices.kubeedge.io \"door\" not found`, ""},
		{http.MethodGet, "devicestatuses", http.StatusOK, `"name":"door"`, ""},
		{http.MethodGet, "namespaces/shop/devicestatuses", http.StatusOK, `"name":"door"`, `"name":"pump"`},
		{http.MethodGet, "devicestatuses?fieldSelector=metadata.name%3Dpump", http.StatusOK, `"name":"pump"`, `"name":"door"`},
		{http.MethodGet, "devicestatuses?watch=true", http.StatusMethodNotAllowed, "", ""},
		{http.MethodDelete, "namespaces/plant/devicestatuses/pump", http.StatusForbidden, "make it in the cluster", ""},
	} {
		code, body := e.raw(c.method, devicesPath+c.path, "", "")
		if code != c.code || !strings.Contains(body, c.has) || c.lacks != "" && strings.Contains(body, c.lacks) {
			t.Errorf("%s %s: %d %s, expected %d with %q and without %q", c.method, c.path, code, body, c.code, c.has, c.lacks)
		}
	}
	e.store.unsynced[object.Devices] = true
	for path, want := range map[string]int{"devicestatuses": http.StatusServiceUnavailable, "namespaces/plant/devicestatuses/none": http.StatusServiceUnavailable,
		"namespaces/plant/devicestatuses/pump": http.StatusOK} {
		if code, body := e.raw(http.MethodGet, devicesPath+path, "", ""); code != want {
			t.Errorf("%s before the first sync: %d %s, expected %d", path, code, body, want)
		}
	}
}

func TestANodeWithoutDevicesServesNoStatuses(t *testing.T) {
	e := newEnv(t)
	if code, _ := e.raw(http.MethodGet, devicesPath+"devicestatuses", "", ""); code != http.StatusNotFound {
		t.Errorf("answers %d, expected 404", code)
	}
}

func TestEventsOfOtherPartsAreShown(t *testing.T) {
	e := newEnv(t)
	kind, _ := object.Lookup(object.Events)
	body, err := object.Encode(kind, &corev1.Event{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Event"}, ObjectMeta: metav1.ObjectMeta{Namespace: "plant", Name: "pump.1"},
		InvolvedObject: corev1.ObjectReference{Kind: "Device", Name: "pump"}, Reason: "DesireReplaced"})
	if err != nil {
		t.Fatal(err)
	}
	if err := e.Happened(t.Context(), object.Outgoing{Key: object.Key{Kind: object.Events, Namespace: "plant", Name: "pump.1"}, Body: body}); err != nil {
		t.Fatal(err)
	}
	list, err := e.client.CoreV1().Events("plant").List(context.Background(), metav1.ListOptions{FieldSelector: "involvedObject.kind=Device,involvedObject.name=pump"})
	if err != nil || len(list.Items) != 1 || list.Items[0].Reason != "DesireReplaced" || list.Items[0].UID == "" {
		t.Errorf("the events are %+v, %v", list, err)
	}
	if len(e.store.outgoing) != 0 {
		t.Error("it is queued twice")
	}
	if err := e.Happened(t.Context(), object.Outgoing{Body: []byte("garbage")}); err == nil {
		t.Error("garbage is shown")
	}
}
