package mapper

import (
	"slices"
	"testing"

	dmi "github.com/tether-edge/tether/apis/dmi/v1beta1"
	"github.com/tether-edge/tether/common/device"
)

// A method that is called again desires what was desired before: the device is looked at, and written to where it was turned.
func TestTheSameOfAnotherCallIsDesiredAnew(t *testing.T) {
	e, p := newEdge(t), newPlant()
	e.models, e.devices = []*dmi.DeviceModel{testModel}, []*dmi.Device{newDevice("pump", "45")}
	client := e.run(p)
	e.waitFor("pump set=45 wanted 45")
	call := func(name string) {
		t.Helper()
		d := newDevice("pump", "45")
		d.Spec.Properties[1].Desired.Metadata = map[string]string{device.MetadataCall: name}
		if _, err := client.UpdateDevice(t.Context(), &dmi.UpdateDeviceRequest{Device: d}); err != nil {
			t.Fatal(err)
		}
	}
	reported := func(n int) {
		t.Helper()
		wait(t, "the value to be reported again", func() (any, bool) {
			found := slices.DeleteFunc(e.heard(), func(r string) bool { return r != "pump set=45 wanted 45" })
			return found, len(found) == n
		})
	}
	call("a")
	reported(2)
	if n := p.count(p.writes, "pump/set"); n != 1 {
		t.Errorf("expected 1 write of what the device has, found %d", n)
	}
	p.set("pump/set", "50")
	e.waitFor("pump set=50 wanted 45")
	call("b")
	reported(3)
	call("b")
	e.pass(p, "pump", 5)
	reported(3)
	if n := p.count(p.writes, "pump/set"); n != 2 {
		t.Errorf("expected 2 writes, found %d", n)
	}
}
