package device

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/tether-edge/tether/apis/devices/v1beta1"
	"github.com/tether-edge/tether/common/device"
	"github.com/tether-edge/tether/common/twin"
)

// takes fails the test where the cloud would refuse a status for good.
func takes(t *testing.T, r report) {
	t.Helper()
	body, err := json.Marshal(r)
	if err != nil {
		t.Fatal(err)
	}
	if found := device.JudgeReported(r.Twins); len(found) > 0 || len(body) > v1beta1.MaxReport {
		t.Errorf("a status of %d bytes is refused: %v", len(body), found)
	}
}

// What was held back was judged when it came, with what was true then.
func TestAHeldValueGivesWayWhereTheCloudCannotTakeItWithTheRest(t *testing.T) {
	calmly(t, func(d *v1beta1.Device) { d.Spec.Properties[1].ReportCycle = 10_000 }, func(t *testing.T, w *world) {
		long := strings.Repeat("4", v1beta1.MaxReportedBytes*2/3)
		w.reports("flow", long)
		if r, ok := w.next(time.Second); !ok || r.value("flow") != long {
			t.Fatalf("the cloud is sent %v %.200s", ok, fmt.Sprint(r))
		}
		w.reports("flow", "1")
		w.reports("setpoint", long)
		r, ok := w.next(time.Second)
		if takes(t, r); !ok || r.value("flow") != "1" || r.value("setpoint") != long {
			t.Errorf("the cloud is sent %v, flow %.20q, setpoint %.20q", ok, r.value("flow"), r.value("setpoint"))
		}
		w.reports("flow", "2") // a cycle begins with what was shown
		if r, ok := w.next(5 * time.Second); ok {
			t.Errorf("within the cycle the cloud is sent flow %.20q", r.value("flow"))
		}
		if r, ok := w.next(10 * time.Second); !ok || r.value("flow") != "2" {
			t.Errorf("at its end the cloud is sent %v, flow %.20q", ok, r.value("flow"))
		}
	})
}

// What is desired and reported now fits, and so does what was desired before; both together do not.
func TestWhatWasObservedOfAnOldDesireGivesWayWhereThereIsNoRoom(t *testing.T) {
	calmly(t, func(d *v1beta1.Device) { d.Spec.Properties[1].ReportCycle = 10_000 }, func(t *testing.T, w *world) {
		full := map[string]string{"timestamp": "1", "x": strings.Repeat("m", v1beta1.MaxMetadataBytes-100)}
		desired, again, seen := map[string]twin.Update{}, map[string]string{}, map[string]string{}
		var twins []v1beta1.Twin
		for i := range 150 {
			name := fmt.Sprint("x", i)
			desired[name] = twin.Update{Desired: &v1beta1.TwinProperty{Value: "1", Metadata: full}}
			again[name], seen[name] = "2", "2"
			twins = append(twins, v1beta1.Twin{PropertyName: name, Reported: &v1beta1.TwinProperty{Value: "1", Metadata: full}})
		}
		if err := w.engine.Update(t.Context(), "ns", "p", desired); err != nil {
			t.Fatal(err)
		}
		w.reports("flow", "1")
		if err := w.engine.Desire(t.Context(), "ns", "p", "uid-p", "call", again); err != nil {
			t.Fatal(err)
		}
		for more := true; more; {
			_, more = w.next(time.Second)
		}
		w.reports("flow", "2") // held, and no reason to show it: there is room for that
		if err := w.engine.Report(t.Context(), "ns", "p", twins); err != nil {
			t.Fatal(err)
		}
		r, ok := w.next(time.Second)
		takes(t, r)
		if !ok || r.value("x149") != "1" || r.Twins[len(r.Twins)-1].ObservedDesired != nil || r.value("flow") != "1" || r.condition("Reported").Reason == "TooLarge" {
			t.Errorf("the cloud is sent %v, %d twins, flow %s, %+v", ok, len(r.Twins), r.value("flow"), r.Conditions)
		}
		for i := range twins {
			twins[i].Reported = &v1beta1.TwinProperty{Value: "3"}
		}
		if err := w.engine.Report(t.Context(), "ns", "p", twins); err != nil {
			t.Fatal(err)
		}
		if r, ok := w.next(time.Second); !ok || r.Twins[len(r.Twins)-1].ObservedDesired == nil {
			t.Error("where there is room again it is not shown")
		}
		w.engine.Took(t.Context(), "ns", "p", seen)
		r, ok = w.next(time.Second)
		takes(t, r)
		if last := r.Twins[len(r.Twins)-1]; !ok || last.ObservedDesired == nil || last.ObservedDesired.Value != "2" {
			t.Errorf("once the mapper took what is desired now the cloud is sent %v %.300s", ok, fmt.Sprint(last))
		}
	})
}
