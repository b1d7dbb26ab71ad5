package device

import (
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/tether-edge/tether/apis/devices/v1beta1"
	"github.com/tether-edge/tether/common/object"
	"github.com/tether-edge/tether/common/twin"
)

func desired(v View) string {
	if len(v.Device.Spec.Properties) == 0 || v.Device.Spec.Properties[0].Desired == nil {
		return ""
	}
	return v.Device.Spec.Properties[0].Desired.Value
}

func TestWhatTheEdgeDesiredIsLostAloudWithItsPropertyAndItsRange(t *testing.T) {
	for name, c := range map[string]struct {
		change func(w *world)
		want   string // desired then
		said   string
	}{
		"narrowed": {func(w *world) {
			m := pumpModel()
			m.Spec.Properties[0].Maximum = "49"
			w.store.put(t, object.DeviceModels, m, "")
		}, "45", "expected at most 49"},
		"read-only": {func(w *world) {
			m := pumpModel()
			m.Spec.Properties[0].AccessMode = v1beta1.ReadOnly
			w.store.put(t, object.DeviceModels, m, "")
		}, "45", "ReadOnly"},
		"taken away": {func(w *world) {
			d := pump("p", "45")
			d.Spec.Properties = d.Spec.Properties[1:]
			w.store.put(t, object.Devices, d, "")
		}, "", "no such property any more"},
	} {
		t.Run(name, func(t *testing.T) {
			w := withPump(t, "45")
			if err := w.engine.Update(t.Context(), "ns", "p", map[string]twin.Update{"setpoint": {Desired: &v1beta1.TwinProperty{Value: "50"}}}); err != nil {
				t.Fatal(err)
			}
			w.settled("p", func(v View) bool { return desired(v) == "50" })
			c.change(w)
			w.settled("p", func(v View) bool { return desired(v) == c.want })
			if all := w.store.events(); len(all) != 1 || !strings.Contains(all[0], "DesireReplaced") || !strings.Contains(all[0], `"50"`) || !strings.Contains(all[0], c.said) {
				t.Errorf("events %q, expected one that names 50 and says %s", all, c.said)
			}
			if n := testutil.ToFloat64(w.engine.m.conflicts); n != 1 {
				t.Errorf("%v conflicts are counted", n)
			}
		})
	}
}

// The Event that says so has a name of its own, for which the Device's may be too long.
func TestADeviceWithALongNameGetsTheCloudsValueToo(t *testing.T) {
	for _, n := range []int{236, 237, 253} {
		w := withPump(t, "45")
		name := strings.Repeat("p", n)
		w.store.put(t, object.Devices, pump(name, "45"), "")
		w.settled(name, func(v View) bool { return desired(v) == "45" })
		if err := w.engine.Update(t.Context(), "ns", name, map[string]twin.Update{"setpoint": {Desired: &v1beta1.TwinProperty{Value: "50"}}}); err != nil {
			t.Fatal(err)
		}
		w.settled(name, func(v View) bool { return desired(v) == "50" })
		w.store.put(t, object.Devices, pump(name, "47"), "")
		w.settled(name, func(v View) bool { return desired(v) == "47" })
		if all := w.store.events(); len(all) != 1 || !strings.Contains(all[0], "DesireReplaced") {
			t.Errorf("a name of %d bytes: events %q, expected one", n, all)
		}
		w.stop()
	}
}

// What was reported while the clock was wrong keeps its time, and the next report has the right one.
func TestAWrongClockLeavesNoMarkOnLaterReports(t *testing.T) {
	w := withPump(t, "45")
	times := func(at time.Time, w *world, value string) string {
		w.mu.Lock()
		w.now = at
		w.mu.Unlock()
		if err := w.engine.Report(t.Context(), "ns", "p", reported("flow", value)); err != nil {
			t.Fatal(err)
		}
		v, _ := w.engine.Device("ns", "p")
		return v.Properties["flow"].Reported.Metadata["timestamp"]
	}
	ahead, now := time.UnixMilli(4_070_908_800_000), time.UnixMilli(1_796_000_000_000)
	if got := times(ahead, w, "1"); got != "4070908800000" {
		t.Errorf("reported at %s, expected what the clock said", got)
	}
	if got := times(now, w, "2"); got != "1796000000000" {
		t.Errorf("after the clock was put right: reported at %s, expected 1796000000000", got)
	}
	w.stop()
	if got := times(now.Add(time.Second), newWorld(t, w.store), "3"); got != "1796000001000" {
		t.Errorf("after a restart: reported at %s, expected 1796000001000", got)
	}
}
