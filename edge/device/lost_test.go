package device

import (
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/tether-edge/tether/apis/devices/v1beta1"
	"github.com/tether-edge/tether/common/object"
	"github.com/tether-edge/tether/common/twin"
)

func TestWhatTheEdgeDesiredIsLostAloudWithItsPropertyAndItsRange(t *testing.T) {
	desired := func(v View) string {
		if len(v.Device.Spec.Properties) == 0 || v.Device.Spec.Properties[0].Desired == nil {
			return ""
		}
		return v.Device.Spec.Properties[0].Desired.Value
	}
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
