package device

import (
	"slices"
	"strings"
	"testing"

	"github.com/tether-edge/tether/apis/devices/v1beta1"
	"github.com/tether-edge/tether/common/device"
	"github.com/tether-edge/tether/common/object"
	"github.com/tether-edge/tether/common/twin"
)

// observed is a report of setpoint by a mapper that says what was desired, and why the device does not have it.
func observed(value, desired, why string) []v1beta1.Twin {
	twins := reported("setpoint", value)
	twins[0].ObservedDesired = &v1beta1.TwinProperty{Value: desired, Metadata: map[string]string{"timestamp": "1"}}
	if why != "" {
		twins[0].ObservedDesired.Metadata[device.MetadataError] = why
	}
	return twins
}

func TestWhatAMapperSaysOfADesiredValueShowsForAsLongAsItIsDesired(t *testing.T) {
	w := withPump(t, "45")
	report := func(twins []v1beta1.Twin) {
		t.Helper()
		if err := w.engine.Report(t.Context(), "ns", "p", twins); err != nil {
			t.Fatal(err)
		}
	}
	want := func(step, reason, message string) {
		t.Helper()
		r, _ := w.store.status(t, "p")
		if c := r.condition("Reported"); c.Reason != reason || !strings.Contains(c.Message, message) {
			t.Errorf("%s: %+v, expected %s %q", step, c, reason, message)
		}
		v, _ := w.engine.Device("ns", "p")
		if refused := v.Refused["setpoint"]; (refused != "") != (reason == "Refused") {
			t.Errorf("%s: the view says %q", step, refused)
		}
	}
	report(observed("7", "45", ""))
	want("it is pending", "Pending", "setpoint")
	report(observed("7", "45", "expected at most 40"))
	want("it is refused, and nothing else is new", "Refused", `the mapper says of "setpoint": expected at most 40`)
	report(observed("7", "46", "of another value"))
	want("another value is refused", "Pending", "")
	report(observed("7", "+45", "expected at most 40"))
	want("the same in other words is", "Refused", "at most 40")
	report(observed("7", "45", "\xff"))
	want("what is said is no text", "Pending", "")
	report(observed("7", "45", strings.Repeat("ü", 4000)))
	if r, _ := w.store.status(t, "p"); len(r.condition("Reported").Message) > 1000 {
		t.Errorf("%d bytes are said", len(r.condition("Reported").Message))
	}
	if err := w.engine.Update(t.Context(), "ns", "p", map[string]twin.Update{"setpoint": {Desired: &v1beta1.TwinProperty{Value: "40"}}}); err != nil {
		t.Fatal(err)
	}
	want("another one is desired", "Pending", "")
	report(observed("40", "40", "too late"))
	want("the device has it", "AsDesired", "")
}

// A mapper says what changes. What was forgotten here has not changed there, so it is asked anew.
func TestWhatAClientHadRemovedIsAskedOfTheMapperAnew(t *testing.T) {
	w := withPump(t, "45")
	if err := w.engine.Report(t.Context(), "ns", "p", reported("flow", "2")); err != nil {
		t.Fatal(err)
	}
	remove := map[string]twin.Update{"flow": {Remove: true}}
	before, _ := w.engine.Device("ns", "p")
	w.ear.mu.Lock()
	heard := len(w.ear.placed)
	w.ear.mu.Unlock()
	if err := w.engine.Update(t.Context(), "ns", "p", remove); err != nil {
		t.Fatal(err)
	}
	after, _ := w.engine.Device("ns", "p")
	if p := after.Properties["flow"]; p == nil || p.Reported != nil || after.Born == before.Born {
		t.Errorf("flow is %+v, and the device is taken for the same as before: %v", p, after.Born == before.Born)
	}
	w.ear.mu.Lock()
	if got := w.ear.placed[heard:]; !slices.Equal(got, []string{"=p"}) {
		t.Errorf("heard %v, expected that the mapper is to look", got)
	}
	w.ear.mu.Unlock()
	if err := w.engine.Update(t.Context(), "ns", "p", remove); err != nil { // there is nothing left to forget
		t.Fatal(err)
	}
	if v, _ := w.engine.Device("ns", "p"); v.Born != after.Born {
		t.Error("the mapper is asked again though nothing was forgotten")
	}
	if err := w.engine.Report(t.Context(), "ns", "p", reported("flow", "2")); err != nil {
		t.Fatal(err)
	}
	if s, _ := w.store.status(t, "p"); s.value("flow") != "2" {
		t.Errorf("the cloud is told %q, expected 2", s.value("flow"))
	}
}

func TestADesireAloneAltersNoDevice(t *testing.T) {
	w := withPump(t, "45")
	w.store.put(t, object.Devices, pump("p", "46"), "")
	w.settled("p", func(v View) bool { return v.Device.Spec.Properties[0].Desired.Value == "46" })
	other := pump("p", "46")
	other.Spec.Properties[1].CollectCycle = 500
	w.store.put(t, object.Devices, other, "")
	w.settled("p", func(v View) bool { return v.Device.Spec.Properties[1].CollectCycle == 500 })
	m := pumpModel()
	w.store.put(t, object.DeviceModels, m.DeepCopy(), "")
	m.Spec.Properties[1].Unit = "l/s"
	w.store.put(t, object.DeviceModels, m, "")
	w.settled("p", func(v View) bool { return v.Model.Spec.Properties[1].Unit == "l/s" })
	w.ear.mu.Lock()
	defer w.ear.mu.Unlock()
	if want := []string{"+!p", "=p", "+p", "=p", "+p"}; !slices.Equal(w.ear.placed, want) {
		t.Errorf("heard %v, expected %v", w.ear.placed, want)
	}
}

// A mapper tells by it which method call it saw: were it the Device's own, a call that desires the same would wait in vain.
func TestTheMetadataOfCallsIsTheEdgesOwn(t *testing.T) {
	s := newFakeStore()
	s.put(t, object.DeviceModels, pumpModel(), "")
	d := pump("p", "45")
	d.Spec.Properties[0].Desired.Metadata = map[string]string{device.MetadataCall: "mine", device.MetadataError: "mine", "unit": "C"}
	s.put(t, object.Devices, d, "")
	w := newWorld(t, s)
	v, _ := w.engine.Device("ns", "p")
	if got := v.Device.Spec.Properties[0].Desired.Metadata; len(got) != 1 || got["unit"] != "C" {
		t.Errorf("the mapper is told %v", got)
	}
	if err := w.engine.Desire(t.Context(), "ns", "p", "uid-p", "ours", map[string]string{"setpoint": "45"}); err != nil {
		t.Fatal(err)
	}
	v, _ = w.engine.Device("ns", "p")
	if got := v.Device.Spec.Properties[0].Desired.Metadata[device.MetadataCall]; got != "ours" {
		t.Errorf("the mapper is told of call %q", got)
	}
}
