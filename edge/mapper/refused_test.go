package mapper

import (
	"errors"
	"path/filepath"
	"slices"
	"testing"
)

// Mappers on KubeEdge's framework may keep the models of a registration by their names alone, and look for them with their namespaces later.
func TestAModelUnderAnotherNameIsToldAgain(t *testing.T) {
	e := newEnv(t)
	e.put("modbus", "pump", "45")
	f := listenForeign(t, filepath.Join(e.dir, "m.sock"))
	e.register("modbus", f.address, true)
	f.mu.Lock()
	f.devices["default/pump"], f.models["modbus"] = "set=45 get=", true
	f.mu.Unlock()
	e.isConnected("modbus", true)
	e.put("modbus", "pump", "50")
	e.knows(f, "default/pump set=50 get=; model default/modbus; model modbus")
	if calls := f.heard(); !slices.Equal(calls, []string{"UpdateDevice default/pump", "CreateDeviceModel default/modbus", "UpdateDevice default/pump"}) {
		t.Errorf("found calls %q", calls)
	}
}

// A device that the mapper has, and whose news it does not take, is taken away without a question: to ask those of KubeEdge for a device that
// they have may end them.
func TestWhatIsRefusedIsTakenAwayUnasked(t *testing.T) {
	e := newEnv(t)
	e.put("modbus", "pump", "45")
	f := e.mapper("modbus", false)
	e.knows(f, "default/pump set=45 get=; model default/modbus")
	refused := make(chan struct{}, 100)
	f.on(func(method, _ string) error {
		if method != "UpdateDevice" {
			return nil
		}
		refused <- struct{}{}
		return errors.New("no such register")
	})
	e.put("modbus", "pump", "50")
	<-refused
	e.drop("pump")
	e.knows(f, "")
	if calls := f.heard(); slices.Contains(calls, "GetDevice default/pump") || !slices.Contains(calls, "RemoveDevice default/pump") {
		t.Errorf("found calls %q", calls)
	}
}
