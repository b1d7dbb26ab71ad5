package mapper

import (
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// A mapper goes on while its edge restarts. It is given its devices again, and no change of one that did not change: those of KubeEdge
// start a device anew at each.
func TestAnEdgeThatRestartsTellsOfChangesOnly(t *testing.T) {
	e := newEnv(t, unhurried)
	e.put("modbus", "pump", "1")
	f := e.mapper("modbus", false)
	e.knows(f, "default/pump set=1 get=; model default/modbus")
	restart := func(what string, want ...string) {
		t.Helper()
		wait(t, "the mapper to have its device", func() (any, bool) { given := e.engine.allGiven(); return given, len(given) > 0 })
		e.stop()
		f.heard()
		e.engine.forgetGiven()
		if what != "" {
			e.engine.mu.Lock()
			entry := e.engine.entries["default/pump"]
			entry.Device = entry.Device.DeepCopy()
			entry.Device.Generation += 2 // as for a change and one back where the value is the same
			entry.Device.Spec.Properties[0].Desired.Value = what
			e.engine.entries["default/pump"] = entry
			e.engine.mu.Unlock()
		}
		e.start()
		wait(t, "the mapper to have its device again", func() (any, bool) { given := e.engine.allGiven(); return given, len(given) > 0 })
		if calls := f.heard(); !slices.Equal(calls, want) {
			t.Errorf("desired %q: expected calls %q, found %q", what, want, calls)
		}
	}
	restart("", "CreateDeviceModel default/modbus", "RegisterDevice default/pump")
	restart("", "CreateDeviceModel default/modbus", "RegisterDevice default/pump")
	restart("1", "CreateDeviceModel default/modbus", "RegisterDevice default/pump", "UpdateDevice default/pump")
	restart("2", "CreateDeviceModel default/modbus", "RegisterDevice default/pump", "UpdateDevice default/pump")
	e.knows(f, "default/pump set=2 get=; model default/modbus")
}

// A connection that breaks is no change either.
func TestAConnectionThatBreaksIsNoChangeOfADevice(t *testing.T) {
	e := newEnv(t, unhurried)
	e.put("modbus", "pump", "1")
	f := e.mapper("modbus", false)
	e.knows(f, "default/pump set=1 get=; model default/modbus")
	f.stop()
	e.isConnected("modbus", false)
	f.heard()
	e.engine.forgetGiven()
	f.start()
	wait(t, "the mapper to have its device again", func() (any, bool) { given := e.engine.allGiven(); return given, len(given) > 0 })
	if calls, want := f.heard(), []string{"CreateDeviceModel default/modbus", "RegisterDevice default/pump"}; !slices.Equal(calls, want) {
		t.Errorf("expected calls %q, found %q", want, calls)
	}
}

// Which state a mapper knows is saved without waiting for an end, which may not come.
func TestWhatAMapperKnowsIsSavedNowAndThen(t *testing.T) {
	e := newEnv(t, unhurried, func(c *Config) { c.MarksEvery = time.Millisecond })
	e.put("modbus", "pump", "1")
	f := e.mapper("modbus", false)
	e.knows(f, "default/pump set=1 get=; model default/modbus")
	mark := func(other string) (found string) {
		t.Helper()
		wait(t, "another mark than "+other, func() (any, bool) {
			row := e.memory.row("modbus")
			_, after, ok := strings.Cut(row, `"default/pump":"default/modbus `)
			found, _, _ = strings.Cut(after, `"`)
			return row, ok && found != other
		})
		return found
	}
	first := mark("")
	e.put("modbus", "pump", "2")
	mark(first)
}

// Before a mapper is told of a change, nothing says any more that it has the former state: the edge may end, and that state come back.
func TestAMarkGoesBeforeTheChangeIsTold(t *testing.T) {
	e := newEnv(t, unhurried, func(c *Config) { c.MarksEvery = time.Millisecond })
	e.put("modbus", "pump", "1")
	f := e.mapper("modbus", false)
	e.knows(f, "default/pump set=1 get=; model default/modbus")
	wait(t, "a mark", func() (any, bool) {
		row := e.memory.row("modbus")
		return row, strings.Contains(row, `"default/pump":"default/modbus `)
	})
	atTheTime := make(chan string, 1)
	f.on(func(method, _ string) error {
		if method == "UpdateDevice" {
			atTheTime <- e.memory.row("modbus")
		}
		return nil
	})
	e.put("modbus", "pump", "2")
	if row := <-atTheTime; !strings.Contains(row, `"default/pump":"default/modbus"`) {
		t.Errorf("the mapper was told while the record was %s", row)
	}
}

// A mapper that took a device and then refused its news has the device as it was registered, not as the one before it was.
func TestWhatWasRegisteredAndRefusedIsToldAgain(t *testing.T) {
	e := newEnv(t, unhurried)
	e.put("modbus", "pump", "1")
	f := e.mapper("modbus", false)
	e.knows(f, "default/pump set=1 get=; model default/modbus")
	f.stop()
	e.isConnected("modbus", false)
	fresh := listenForeign(t, f.address)
	refuse := make(chan struct{})
	fresh.on(func(method, _ string) error {
		if method != "UpdateDevice" {
			return nil
		}
		select {
		case <-refuse:
			return nil
		default:
			return status.Error(codes.Internal, "not now")
		}
	})
	e.put("modbus", "pump", "2")
	e.isConnected("modbus", true)
	wait(t, "the refusal", func() (any, bool) {
		calls := fresh.heardSoFar()
		return calls, slices.Contains(calls, "UpdateDevice default/pump")
	})
	e.put("modbus", "pump", "1")
	close(refuse)
	e.knows(fresh, "default/pump set=1 get=; model default/modbus")
}

// A disk that takes nothing any more holds up no change of a device.
func TestADiskThatHangsHoldsUpNoChange(t *testing.T) {
	e := newEnv(t, unhurried, func(c *Config) { c.MarksEvery = time.Millisecond })
	e.put("modbus", "pump", "1")
	e.put("modbus", "fan", "1")
	f := e.mapper("modbus", false)
	e.knows(f, "default/fan set=1 get=; default/pump set=1 get=; model default/modbus")
	wait(t, "the marks", func() (any, bool) {
		row := e.memory.row("modbus")
		return row, strings.Count(row, `:"default/modbus `) == 2
	})
	hangs := make(chan struct{})
	e.memory.mu.Lock()
	e.memory.slow = hangs
	e.memory.mu.Unlock()
	e.put("modbus", "fan", "2")
	e.knows(f, "default/fan set=2 get=; default/pump set=1 get=; model default/modbus")
	e.put("modbus", "pump", "2")
	e.knows(f, "default/fan set=2 get=; default/pump set=2 get=; model default/modbus")
	close(hangs)
}
