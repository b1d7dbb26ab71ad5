package device

import (
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/tether-edge/tether/apis/devices/v1beta1"
	"github.com/tether-edge/tether/common/object"
	"github.com/tether-edge/tether/common/twin"
)

// calmly runs a test in fake time, with the device that change makes of a pump and a pause of 100 ms.
func calmly(t *testing.T, change func(*v1beta1.Device), test func(t *testing.T, w *world)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		s := newFakeStore()
		s.put(t, object.DeviceModels, pumpModel(), "")
		d := pump("p", "")
		change(d)
		s.put(t, object.Devices, d, "")
		w := newWorldWith(t, s, 100*time.Millisecond)
		time.Sleep(time.Second)
		s.sent()
		test(t, w)
		w.stop()
	})
}

// next waits for the next status within the time and takes it from the queue.
func (w *world) next(within time.Duration) (report, bool) {
	for end := time.Now().Add(within); ; time.Sleep(time.Millisecond) {
		synctest.Wait()
		if r, ok := w.store.status(w.t, "p"); ok || time.Now().After(end) {
			w.store.sent()
			return r, ok
		}
	}
}

func (w *world) reports(values ...string) {
	w.t.Helper()
	if err := w.engine.Report(w.t.Context(), "ns", "p", reported(values...)); err != nil {
		w.t.Fatal(err)
	}
}

func (r report) has(property string) bool {
	for _, t := range r.Twins {
		if t.PropertyName == property {
			return true
		}
	}
	return false
}

func TestWhatIsKeptAtTheEdgeDoesNotReachTheCloud(t *testing.T) {
	kept := func(d *v1beta1.Device) {
		d.Spec.Properties[0].ReportToCloud = new(false)
		d.Spec.Properties[1].ReportToCloud = new(true)
		d.Spec.Properties = append(d.Spec.Properties, v1beta1.DeviceProperty{Name: "unsaid"})
		d.Spec.StateReport = &v1beta1.StateReport{ReportToCloud: new(false)}
	}
	calmly(t, kept, func(t *testing.T, w *world) {
		for n := range 20 {
			w.reports("setpoint", fmt.Sprint(n))
			time.Sleep(100 * time.Millisecond)
		}
		if _, err := w.engine.SetState(t.Context(), "ns", "p", "online"); err != nil {
			t.Fatal(err)
		}
		if r, ok := w.next(time.Minute); ok {
			t.Errorf("the cloud is sent %+v, for nothing that it is to know", r)
		}
		w.reports("flow", "1", "unsaid", "2", "client", "3")
		r, ok := w.next(time.Second)
		if !ok || r.has("setpoint") || r.State != "" || r.LastOnlineTime != "" || r.value("flow") != "1" || r.value("unsaid") != "2" || r.value("client") != "3" {
			t.Errorf("the cloud is sent %v %+v", ok, r)
		}
		s, _ := w.engine.Status("ns", "p")
		if len(s.Status.Twins) != 4 || s.Status.State != "online" {
			t.Errorf("at the edge it is %+v", s.Status)
		}
		if w.ear.last().Current["flow"] == nil {
			t.Error("listeners do not hear of it")
		}
		// It is as desired, which the cloud may know.
		d := pump("p", "7")
		kept(d)
		w.store.put(t, object.Devices, d, "")
		if r, ok := w.next(time.Second); !ok || r.condition("Reported").Reason != "Pending" || r.has("setpoint") {
			t.Errorf("of the desired value the cloud is sent %v %+v", ok, r)
		}
		w.reports("setpoint", "7")
		if r, ok := w.next(time.Second); !ok || r.condition("Reported").Reason != "AsDesired" || r.has("setpoint") {
			t.Errorf("of its report the cloud is sent %v %+v", ok, r)
		}
		// The Device says otherwise, and otherwise again: what the cloud has comes and goes at once.
		open := d.DeepCopy()
		open.Spec.Properties[0].ReportToCloud, open.Spec.StateReport = nil, nil
		w.store.put(t, object.Devices, open, "")
		if r, ok := w.next(time.Second); !ok || r.value("setpoint") != "7" || r.State != "online" || r.LastOnlineTime == "" {
			t.Errorf("once it may know the cloud is sent %v %+v", ok, r)
		}
		w.store.put(t, object.Devices, d, "")
		if r, ok := w.next(time.Second); !ok || r.has("setpoint") || r.State != "" {
			t.Errorf("once it may not know any more the cloud is sent %v %+v", ok, r)
		}
	})
}

func TestAReportCycleBoundsWhatReachesTheCloud(t *testing.T) {
	calmly(t, func(d *v1beta1.Device) { d.Spec.Properties[1].ReportCycle = 10_000 }, func(t *testing.T, w *world) {
		statuses, last := 0, ""
		for n := range 300 { // for 30 s
			w.reports("flow", fmt.Sprint(n))
			if r, ok := w.next(99 * time.Millisecond); ok {
				statuses, last = statuses+1, r.value("flow")
			}
			time.Sleep(time.Millisecond)
		}
		if statuses < 3 || statuses > 4 {
			t.Errorf("%d statuses in 30 s, expected one in 10 s", statuses)
		}
		if r, ok := w.next(11 * time.Second); ok {
			last = r.value("flow")
		}
		if last != "299" {
			t.Errorf("the last value is %s, expected 299", last)
		}
		// Other news do not wait for it, and do not take it along.
		w.next(time.Minute)
		w.reports("flow", "300")
		if r, ok := w.next(time.Second); !ok || r.value("flow") != "300" {
			t.Errorf("the first value after a quiet time: %v %+v", ok, r)
		}
		w.reports("flow", "301")
		w.reports("setpoint", "1")
		if r, ok := w.next(time.Second); !ok || r.value("setpoint") != "1" || r.value("flow") != "300" {
			t.Errorf("of another property the cloud is sent %v %+v", ok, r)
		}
		if s, _ := w.engine.Status("ns", "p"); s.Status.Twins[0].Reported.Value != "301" {
			t.Errorf("at the edge it is %+v", s.Status.Twins)
		}
		if r, ok := w.next(11 * time.Second); !ok || r.value("flow") != "301" {
			t.Errorf("at the end of the cycle the cloud is sent %v %+v", ok, r)
		}
		// A value that is as it was at the end of the cycle is no news.
		w.reports("flow", "302")
		w.reports("flow", "301")
		if r, ok := w.next(20 * time.Second); ok {
			t.Errorf("a value that came back costs %+v", r)
		}
	})
}

// The condition is of the values beside it.
func TestAConditionDoesNotRunAheadOfTheValues(t *testing.T) {
	calmly(t, func(d *v1beta1.Device) {
		d.Spec.Properties[0].ReportCycle, d.Spec.Properties[0].Desired = 10_000, &v1beta1.TwinProperty{Value: "45"}
	}, func(t *testing.T, w *world) {
		w.reports("setpoint", "44")
		if r, ok := w.next(time.Second); !ok || r.value("setpoint") != "44" || r.condition("Reported").Status != metav1.ConditionFalse {
			t.Errorf("at first: %v %+v", ok, r)
		}
		w.reports("setpoint", "45")
		if c, _ := w.engine.Health("ns", "p"); c[1].Reason != "AsDesired" {
			t.Errorf("at the edge it is %+v", c)
		}
		if r, ok := w.next(5 * time.Second); ok {
			t.Errorf("within the cycle the cloud is sent %+v", r)
		}
		if r, ok := w.next(10 * time.Second); !ok || r.value("setpoint") != "45" || r.condition("Reported").Status != metav1.ConditionTrue {
			t.Errorf("at its end: %v %+v", ok, r)
		}
	})
}

func TestAReportCycleBoundsStates(t *testing.T) {
	calmly(t, func(d *v1beta1.Device) { d.Spec.StateReport = &v1beta1.StateReport{ReportCycle: 10_000} }, func(t *testing.T, w *world) {
		statuses, last := 0, ""
		for n := range 301 {
			if _, err := w.engine.SetState(t.Context(), "ns", "p", []string{"unhealthy", "online"}[n%2]); err != nil {
				t.Fatal(err)
			}
			if r, ok := w.next(99 * time.Millisecond); ok {
				statuses, last = statuses+1, r.State
			}
			time.Sleep(time.Millisecond)
		}
		if r, ok := w.next(11 * time.Second); ok {
			last = r.State
		}
		if statuses < 3 || statuses > 4 || last != "unhealthy" {
			t.Errorf("%d statuses in 30 s, expected one in 10 s, the last with %s, expected unhealthy", statuses, last)
		}
	})
}

// The end of one cycle is none of another, and what came back within it is no news.
func TestACycleThatEndsWithoutNewsCostsNoStatus(t *testing.T) {
	calmly(t, func(d *v1beta1.Device) {
		d.Spec.Properties[0].ReportCycle, d.Spec.Properties[1].ReportCycle = 15_000, 10_000
		d.Spec.StateReport = &v1beta1.StateReport{ReportCycle: 20_000}
	}, func(t *testing.T, w *world) {
		state := func(s string) {
			if _, err := w.engine.SetState(t.Context(), "ns", "p", s); err != nil {
				t.Fatal(err)
			}
		}
		state("online")
		w.reports("setpoint", "1", "flow", "1")
		time.Sleep(time.Second)
		w.store.sent()
		w.reports("flow", "2")
		w.reports("flow", "1")
		w.reports("setpoint", "2")
		state("offline")
		if r, ok := w.next(12 * time.Second); ok {
			t.Errorf("at the end of a cycle in which the value came back the cloud is sent %+v", r)
		}
		if r, ok := w.next(5 * time.Second); !ok || r.value("setpoint") != "2" || r.State != "online" {
			t.Errorf("at the end of the next the cloud is sent %v %+v", ok, r)
		}
		if r, ok := w.next(5 * time.Second); !ok || r.State != "offline" {
			t.Errorf("at the end of the state's the cloud is sent %v %+v", ok, r)
		}
		if r, ok := w.next(time.Minute); ok {
			t.Errorf("afterwards the cloud is sent %+v", r)
		}
	})
}

// TestAStatusThatWaitsOutlivesADiskThatFails: it is tried again until it is queued.
func TestAStatusThatWaitsOutlivesADiskThatFails(t *testing.T) {
	calmly(t, func(d *v1beta1.Device) { d.Spec.Properties[1].ReportCycle = 10_000 }, func(t *testing.T, w *world) {
		w.reports("flow", "1")
		w.next(time.Second)
		w.reports("flow", "2")
		w.store.fail(errors.New("the disk is full"))
		time.Sleep(15 * time.Second)
		w.store.fail(nil)
		if r, ok := w.next(3 * time.Second); !ok || r.value("flow") != "2" {
			t.Errorf("then the cloud is sent %v %+v", ok, r)
		}
	})
}

func TestADesiredValueIsShownAsObservedOnceSomebodyTookIt(t *testing.T) {
	calmly(t, func(*v1beta1.Device) {}, func(t *testing.T, w *world) {
		observed := func(r report) string {
			for _, t := range r.Twins {
				if t.PropertyName == "setpoint" && t.ObservedDesired != nil {
					return t.ObservedDesired.Value
				}
			}
			return ""
		}
		want := func(after, value string) {
			t.Helper()
			if r, ok := w.next(time.Second); !ok || observed(r) != value {
				t.Errorf("%s the cloud is sent %v %+v, expected %q as observed", after, ok, r, value)
			}
		}
		w.store.put(t, object.Devices, pump("p", "45"), "")
		want("while nobody took it,", "")
		w.engine.Took(t.Context(), "ns", "p", map[string]string{"setpoint": "45", "flow": ""})
		want("once the mapper took it,", "45")
		heard := len(w.ear.changes)
		w.engine.Took(t.Context(), "ns", "p", map[string]string{"setpoint": "45", "flow": ""})
		if r, ok := w.next(time.Second); ok || len(w.ear.changes) != heard {
			t.Errorf("what is said again costs %+v", r)
		}
		w.reports("setpoint", "45")
		want("once it is reported,", "45")
		w.store.put(t, object.Devices, pump("p", "46"), "")
		want("while nobody took the next,", "45")
		if err := w.engine.Report(t.Context(), "ns", "p", []v1beta1.Twin{{PropertyName: "setpoint", ObservedDesired: &v1beta1.TwinProperty{Value: "46"}}}); err != nil {
			t.Fatal(err)
		}
		want("once the mapper said it has seen it,", "46")
		w.store.put(t, object.Devices, pump("p", "47"), "")
		synctest.Wait()
		if err := w.engine.Update(t.Context(), "ns", "p", map[string]twin.Update{"setpoint": {Reported: &v1beta1.TwinProperty{Value: "40"}}}); err != nil {
			t.Fatal(err)
		}
		want("once a client was answered,", "47")
		w.stop()
		w.store.loseTrack()
		w.store.sent()
		again := newWorld(t, w.store)
		if r, ok := again.store.status(t, "p"); !ok || observed(r) != "47" {
			t.Errorf("after a restart the cloud is sent %v %+v", ok, r)
		}
		again.stop()
	})
}

// A client that mistypes a value or a name does not spoil what the cluster is told of the Device's own properties.
func TestAClientsMistakeDoesNotLast(t *testing.T) {
	calmly(t, func(d *v1beta1.Device) { d.Spec.Properties[0].Desired = &v1beta1.TwinProperty{Value: "45"} }, func(t *testing.T, w *world) {
		say := func(property, value string) error {
			return w.engine.Update(t.Context(), "ns", "p", map[string]twin.Update{property: {Reported: &v1beta1.TwinProperty{Value: value}}})
		}
		if err := say("setpoint", "45"); err != nil {
			t.Fatal(err)
		}
		w.next(time.Second)
		for _, value := range []string{"warm", "", "4.5", "1e999"} {
			if err := say("setpoint", value); !errors.Is(err, ErrInvalid) {
				t.Errorf("%q for an INT: %v", value, err)
			}
		}
		if r, ok := w.next(time.Second); ok {
			t.Errorf("what is refused costs %+v", r)
		}
		if err := w.engine.Update(t.Context(), "ns", "p", map[string]twin.Update{"setpiont": {Desired: &v1beta1.TwinProperty{Value: "50"}}}); err != nil {
			t.Fatal(err)
		}
		if c := w.ear.last(); c.Pending["setpiont"] == nil {
			t.Errorf("its own property is not pending for clients: %+v", c)
		}
		w.next(time.Second)
		if s, _ := w.engine.Status("ns", "p"); s.Status.Conditions[1].Reason != "AsDesired" {
			t.Errorf("a property that the Device does not name makes it %+v", s.Status.Conditions[1])
		}
		if err := say("setpoint", "44"); err != nil {
			t.Fatal(err)
		}
		if r, _ := w.next(time.Second); r.condition("Reported").Reason != "Pending" || r.value("setpoint") != "44" {
			t.Errorf("the next good value: %+v", r)
		}
		if err := say("setpoint", "45"); err != nil {
			t.Fatal(err)
		}
		if r, _ := w.next(time.Second); r.condition("Reported").Reason != "AsDesired" {
			t.Errorf("the next good value: %+v", r)
		}
		// What the mapper says the device has, it has.
		w.reports("flow", "NaN")
		if r, _ := w.next(time.Second); r.value("flow") != "NaN" {
			t.Errorf("of its mapper: %+v", r)
		}
	})
}

// TestARefusalGoesWithTheMapperThatRefused: the device is another mapper's now, or nobody's.
func TestARefusalGoesWithTheMapperThatRefused(t *testing.T) {
	w := withPump(t, "")
	w.engine.Connected(t.Context(), "virtual", true)
	w.engine.Connected(t.Context(), "modbus", true)
	w.engine.Told(t.Context(), "ns", "p", errors.New("no such port"))
	if _, c := w.engine.Mapper("ns", "p"); c != metav1.ConditionFalse {
		t.Errorf("a device that its mapper refused: %s", c)
	}
	d := pump("p", "")
	d.Spec.Protocol.ProtocolName = "modbus"
	w.store.put(t, object.Devices, d, "")
	w.eventually("another mapper's", func() error {
		if protocol, c := w.engine.Mapper("ns", "p"); protocol != "modbus" || c != metav1.ConditionTrue {
			return fmt.Errorf("the device of %s is %s", protocol, c)
		}
		return nil
	})
}
