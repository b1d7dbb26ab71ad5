package device

import (
	"fmt"
	"strings"
	"testing"

	"github.com/tether-edge/tether/apis/devices/v1beta1"
	"github.com/tether-edge/tether/common/device"
)

// failing is a report by a mapper that cannot say what a property has.
func failing(property, why string) []v1beta1.Twin {
	return []v1beta1.Twin{{PropertyName: property, ObservedDesired: &v1beta1.TwinProperty{Metadata: map[string]string{device.MetadataError: why}}}}
}

func TestWhyAPropertyIsNotReportedShowsUntilItIs(t *testing.T) {
	w := withPump(t, "45")
	report := func(twins []v1beta1.Twin) {
		t.Helper()
		if err := w.engine.Report(t.Context(), "ns", "p", twins); err != nil {
			t.Fatal(err)
		}
	}
	want := func(step, reason string, parts ...string) {
		t.Helper()
		r, _ := w.store.status(t, "p")
		c := r.condition("Reported")
		if c.Reason != reason || (c.Status == "True") != (reason == "AsDesired") {
			t.Errorf("%s: %+v, expected %s", step, c, reason)
		}
		for _, part := range parts {
			if !strings.Contains(c.Message, part) {
				t.Errorf("%s: expected %q in %q", step, part, c.Message)
			}
		}
	}
	report(append(observed("45", "45", ""), reported("flow", "1.5")...))
	want("all is well", "AsDesired")
	report(failing("flow", "expected text in UTF-8"))
	want("a property fails, and nothing else is new", "PropertyFailed", `the mapper does not report "flow": expected text in UTF-8`)
	if r, _ := w.store.status(t, "p"); r.value("flow") != "1.5" {
		t.Errorf("what it had last is %q, expected 1.5", r.value("flow"))
	}
	report(observed("7", "45", ""))
	want("another is pending beside", "PropertyFailed", "1 properties have not reported what is desired: setpoint", `"flow": expected text`)
	report(observed("7", "45", "too hot"))
	want("another is refused beside", "Refused", `"flow": expected text`, `of "setpoint": too hot`)
	report(observed("45", "45", ""))
	report(failing("flow", strings.Repeat("\u00fc", 4000)+"\xff"))
	want("the mapper says much", "PropertyFailed")
	if r, _ := w.store.status(t, "p"); len(r.condition("Reported").Message) > 1000 {
		t.Errorf("%d bytes are said", len(r.condition("Reported").Message))
	}
	report(failing("gone", "of a property that the Device does not have"))
	if err := w.engine.Report(t.Context(), "ns", "p", append(reported("flow", "1.6"), reported("other", strings.Repeat("1", v1beta1.MaxReportedBytes+1))...)); err == nil {
		t.Fatal("a report over the limit is taken")
	}
	report(observed("45", "45", ""))
	want("a report that is refused says nothing", "PropertyFailed")
	report(reported("flow", "1.5"))
	want("it is reported again, with the same value", "AsDesired")
}

func TestOfManyPropertiesThatFailTheFirstAreShown(t *testing.T) {
	d := &entry{device: &v1beta1.Device{}}
	for i := range 100 {
		name := fmt.Sprintf("p%03d", i)
		d.device.Spec.Properties = append(d.device.Spec.Properties, v1beta1.DeviceProperty{Name: name})
		d.hearFailures(failures(failing(name, strings.Repeat("x", 1000))))
	}
	text := d.failureMessage()
	if !strings.Contains(text, "p009") || strings.Contains(text, "p010") || !strings.HasSuffix(text, "; and more") || len(text) > 4000 {
		t.Errorf("%d bytes: %s", len(text), text)
	}
}
