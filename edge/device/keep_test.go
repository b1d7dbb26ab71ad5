package device

import (
	"errors"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/tether-edge/tether/apis/devices/v1beta1"
	"github.com/tether-edge/tether/common/object"
	"github.com/tether-edge/tether/common/twin"
)

// A value may be of nothing but characters that JSON writes in six bytes, and be desired, observed and reported.
func TestTheLongestValuesAreKept(t *testing.T) {
	for name, char := range map[string]string{"less than": "<", "control": "\x01"} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, newFakeStore())
			d, m := pump("p", strings.Repeat(char, v1beta1.MaxDesiredBytes)), pumpModel()
			m.Spec.Properties[0] = v1beta1.ModelProperty{Name: "setpoint", Type: v1beta1.String}
			w.store.put(t, object.DeviceModels, m, "")
			w.store.put(t, object.Devices, d, "")
			w.settled("p", func(v View) bool { return v.Model != nil })
			for _, char := range []string{char, "\x02"} {
				long := strings.Repeat(char, v1beta1.MaxReportedBytes)
				if err := w.engine.Update(t.Context(), "ns", "p", map[string]twin.Update{"setpoint": {Desired: &v1beta1.TwinProperty{Value: long}}}); err != nil {
					t.Fatal(err)
				}
				w.engine.Took(t.Context(), "ns", "p", map[string]string{"setpoint": long})
				if err := w.engine.Report(t.Context(), "ns", "p", reported("setpoint", long)); err != nil {
					t.Fatal(err)
				}
				v, _ := w.engine.Device("ns", "p")
				if p := v.Properties["setpoint"]; p.Desired().Value != long || p.Observed == nil || p.Observed.Value != long || p.Reported.Value != long {
					t.Errorf("of %q it has desired %.9q, observed %.9v, reported %.9q", char, p.Desired().Value, p.Observed, p.Reported.Value)
				}
			}
			w.store.mu.Lock()
			note := len(w.store.notes[bucketTwins]["ns/p/setpoint"])
			w.store.mu.Unlock()
			w.stop()
			if v, _ := newWorld(t, w.store).engine.Device("ns", "p"); v.Properties["setpoint"].Reported == nil {
				t.Errorf("after a restart the note of %d bytes is lost", note)
			}
		})
	}
}

func TestWhatADeviceSaysIsTakenOnceTheStoreTakesIt(t *testing.T) {
	w := withPump(t, "45")
	w.store.fail(errors.New("the disk is full"))
	w.store.put(t, object.Devices, pump("p", "60"), "")
	w.eventually("the refused change", func() error {
		if testutil.ToFloat64(w.engine.m.failures) == 0 {
			return errors.New("nothing failed")
		}
		return nil
	})
	w.store.fail(nil)
	w.settled("p", func(v View) bool { return v.Device.Spec.Properties[0].Desired.Value == "60" })
}
