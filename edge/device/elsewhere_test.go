package device

import (
	"fmt"
	"testing"

	"github.com/tether-edge/tether/common/object"
)

// A Device that went to another node and came back, which a node that was cut off meanwhile sees as one change, is spoken for anew: the cloud
// may show what the other node said.
func TestADeviceThatWasElsewhereMeanwhileIsSpokenForAnew(t *testing.T) {
	w := withPump(t, "45")
	if err := w.engine.Report(t.Context(), "ns", "p", reported("setpoint", "45")); err != nil {
		t.Fatal(err)
	}
	w.store.sent()
	for _, generation := range []int64{1, 2, 4} {
		d := pump("p", "45")
		d.Generation = generation
		w.store.put(t, object.Devices, d, "")
		w.eventually("the Device to be seen", func() error {
			if v, ok := w.engine.Device("ns", "p"); !ok || v.Device.Generation != generation {
				return fmt.Errorf("it is of generation %d", v.Device.Generation)
			}
			return nil
		})
		if sent := w.store.sent(); (sent > 0) != (generation == 4) {
			t.Errorf("of generation %d it is spoken for %d times", generation, sent)
		}
	}
}
