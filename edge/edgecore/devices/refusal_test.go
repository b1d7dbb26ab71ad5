package devices

import (
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/tether-edge/tether/apis/devices/v1beta1"
	"github.com/tether-edge/tether/common/twin"
	"github.com/tether-edge/tether/edge/mqtt"
)

// reportedIs is the condition Reported of pump-1.
func (g *gateway) reportedIs(reason, message string) {
	g.t.Helper()
	g.eventually("the condition Reported", func() error {
		conditions, _ := g.core.Engine.Health("plant", "pump-1")
		for _, c := range conditions {
			if c.Type == v1beta1.ConditionReported && c.Reason == reason && strings.Contains(c.Message, message) {
				return nil
			}
		}
		return fmt.Errorf("found %+v, expected %s %q", conditions, reason, message)
	})
}

// What a device cannot have is written no more, and cluster and callers are told why.
func TestWhatADeviceRefusesIsSaidToAllWhoDesireIt(t *testing.T) {
	g := newGateway(t)
	p := g.pumps["pump-1"]
	p.edit(func() { p.full = 100 })
	g.mapper()
	g.connected("pump-1", "10")
	g.device("pump-1", "500")
	g.reportedIs("Refused", `the mapper says of "speed": expected at most 100, found 500`)
	g.device("pump-1", "20")
	g.connected("pump-1", "20")
	g.reportedIs("AsDesired", "")
	r := g.call("pump-1", "turn?timeout=5s", "", `{"speed": 700}`)
	g.is(r, http.StatusGatewayTimeout, `the mapper refuses "700": expected at most 100, found 700`)
	if b := r.Properties["speed"]; b.Result != "refused" || b.Desired != "700" || b.Reported != "20" {
		t.Errorf("answered with %+v", r)
	}
	g.wrote("pump-1", "speed=10", "speed=20")
}

// A mapper reports what changes. What a client had removed has not, and comes back all the same.
func TestAValueThatAClientRemovedComesBack(t *testing.T) {
	g := newGateway(t)
	g.mapper()
	g.connected("pump-1", "10")
	gone := func() map[string]*twin.Property {
		t.Helper()
		err := mqttDevices{g.core.Engine}.Update(t.Context(), "plant", "pump-1", mqtt.Update{Twin: map[string]mqtt.Property{
			"mode": {Metadata: &mqtt.TypeMetadata{Type: mqtt.Deleted}}, "speed": {Metadata: &mqtt.TypeMetadata{Type: mqtt.Deleted}}}})
		if err != nil {
			t.Fatal(err)
		}
		v, _ := g.core.Engine.Device("plant", "pump-1")
		return v.Properties
	}
	for range 2 {
		if p := gone(); p["speed"] == nil || p["speed"].Desired().Value != "10" {
			t.Errorf("the Device's own desire went: %+v", p["speed"])
		}
		g.connected("pump-1", "10")
		g.eventually("the other value", func() error {
			v, _ := g.core.Engine.Device("plant", "pump-1")
			if p := v.Properties["mode"]; p.Reported == nil || p.Reported.Value != "idle" {
				return fmt.Errorf("mode is %+v", p)
			}
			return nil
		})
	}
	g.wrote("pump-1", "speed=10")
}
