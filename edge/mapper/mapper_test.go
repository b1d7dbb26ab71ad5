package mapper

import (
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"k8s.io/apimachinery/pkg/runtime"

	"github.com/tether-edge/tether/apis/devices/v1beta1"
)

func TestAMapperThatSharesNoCodeIsServed(t *testing.T) {
	e := newEnv(t)
	e.put("modbus", "pump", "45")
	e.put("opcua", "other", "1")
	f := listenForeign(t, filepath.Join(e.dir, "m.sock"))
	answer := e.register("modbus", f.address, true)
	for _, part := range []string{`"name":"pump"`, `"value":"45"`, `"deviceModelReference":"modbus"`, `"modelList":[{"name":"modbus"`, `"accessMode":"ReadOnly"`} {
		if !strings.Contains(strings.ReplaceAll(answer, " ", ""), part) {
			t.Errorf("expected %s in the answer, found %s", part, answer)
		}
	}
	if strings.Contains(answer, "other") {
		t.Errorf("a device of another protocol is in the answer: %s", answer)
	}
	// What it was answered with it has: KubeEdge's start a device anew at each update.
	f.mu.Lock()
	f.devices["default/pump"], f.models["default/modbus"] = "set=45 get=", true
	f.mu.Unlock()
	e.isConnected("modbus", true)
	wait(t, "the engine to hear that the device was told", func() (any, bool) { text, ok := e.engine.toldOf("default/pump"); return text, ok && text == "<nil>" })
	if calls := f.heard(); len(calls) > 0 {
		t.Errorf("expected no call after a registration with data, found %v", calls)
	}

	e.put("modbus", "pump", "50")
	e.knows(f, "default/pump set=50 get=; model default/modbus")
	e.call("ReportDeviceStatus", `{"deviceName": "pump", "deviceNamespace": "default", "reportedDevice": {"twins": [
		{"propertyName": "set", "observedDesired": {"value": "50"}, "reported": {"value": "50", "metadata": {"timestamp": "1", "type": "INT"}}},
		{"propertyName": "stranger", "reported": {"value": "1"}}]}}`)
	e.call("ReportDeviceStates", `{"deviceName": "pump", "state": "OK"}`)
	e.call("ReportDeviceStates", `{"deviceName": "pump", "state": "disconnected"}`)
	if found := e.engine.heard(); !slices.Equal(found, []string{"default/pump set=50", "default/pump is ok", "default/pump is offline"}) {
		t.Errorf("found reports %q", found)
	}

	e.drop("pump")
	e.knows(f, "")
	if calls := f.heard(); !slices.Equal(calls, []string{"UpdateDevice default/pump", "RemoveDevice default/pump", "RemoveDeviceModel default/modbus"}) {
		t.Errorf("found calls %q", calls)
	}
}

// An engine tells of a device whenever it was reported, or its desired value was set anew: that is no news to the mapper.
func TestWhatDidNotChangeIsNotTold(t *testing.T) {
	e := newEnv(t)
	e.put("modbus", "pump", "45")
	f := e.mapper("modbus", false)
	e.knows(f, "default/pump set=45 get=; model default/modbus")
	for range 20 {
		e.put("modbus", "pump", "45") // at another time
	}
	e.put("modbus", "last", "1")
	e.knows(f, "default/last set=1 get=; default/pump set=45 get=; model default/modbus")
	calls := f.heard()
	slices.Sort(calls)
	if want := []string{"CreateDeviceModel default/modbus", "RegisterDevice default/last", "RegisterDevice default/pump"}; !slices.Equal(calls, want) {
		t.Errorf("expected %q, found %q", want, calls)
	}
}

// What a mapper took is said, and not before it did.
func TestWhatAMapperWasGivenIsSaid(t *testing.T) {
	e := newEnv(t)
	given := e.engine.allGiven
	said := func(what string) {
		t.Helper()
		wait(t, what+" to be said", func() (any, bool) { all := given(); return all, slices.Contains(all, what) })
	}
	e.put("modbus", "pump", "45")
	f := e.mapper("modbus", false)
	said("pump 45")
	f.mu.Lock()
	f.hook = func(string, string) error { return status.Error(codes.Internal, "no") }
	f.mu.Unlock()
	e.put("modbus", "pump", "50")
	wait(t, "a refusal", func() (any, bool) {
		text, _ := e.engine.toldOf("default/pump")
		return text, strings.Contains(text, "no")
	})
	if all := given(); slices.Contains(all, "pump 50") {
		t.Errorf("said %q", all)
	}
	f.mu.Lock()
	f.hook = nil
	f.mu.Unlock()
	said("pump 50")
}

func TestAModelComesBeforeItsDevicesAndGoesAfterThem(t *testing.T) {
	e := newEnv(t, unhurried)
	for i := range 10 {
		e.put("modbus", fmt.Sprintf("d%d", i), "1")
	}
	f := e.mapper("modbus", false)
	wait(t, "10 devices", func() (any, bool) { s := f.state(); return s, strings.Count(s, "set=1") == 10 })
	if calls := f.heard(); calls[0] != "CreateDeviceModel default/modbus" || len(calls) != 11 {
		t.Errorf("found %q", calls)
	}
	// A change of the model is a change of its devices: what a mapper read of it for a device is old.
	for i := range 10 {
		e.put("modbus", fmt.Sprintf("d%d", i), "1", func(entry *Entry) { entry.Model.Spec.Properties[0].Maximum = "90" })
	}
	var calls []string
	wait(t, "the model and 10 devices to be updated", func() (any, bool) { calls = append(calls, f.heard()...); return calls, len(calls) == 11 })
	if calls[0] != "UpdateDeviceModel default/modbus" {
		t.Errorf("found %q", calls)
	}
	for i := range 10 {
		e.drop(fmt.Sprintf("d%d", i))
	}
	e.knows(f, "")
	if calls := f.heard(); calls[len(calls)-1] != "RemoveDeviceModel default/modbus" || len(calls) != 11 {
		t.Errorf("found %q", calls)
	}
}

// What is for people, or of other devices, does not start a device anew.
func TestOnlyWhatAMapperWorksByIsNewsOfADevice(t *testing.T) {
	e := newEnv(t, unhurried)
	f := e.mapper("modbus", false)
	model := func(change func(*v1beta1.DeviceModelSpec)) func(*Entry) {
		return func(entry *Entry) { change(&entry.Model.Spec) }
	}
	e.put("modbus", "pump", "45")
	e.knows(f, "default/pump set=45 get=; model default/modbus")
	for name, change := range map[string]func(*Entry){
		"descriptions": model(func(m *v1beta1.DeviceModelSpec) { m.Properties[0].Description = "how warm it shall be" }),
		"another property": model(func(m *v1beta1.DeviceModelSpec) {
			m.Properties = append(m.Properties, v1beta1.ModelProperty{Name: "other", Type: v1beta1.Int})
		}),
		"another order": model(func(m *v1beta1.DeviceModelSpec) { slices.Reverse(m.Properties) }),
	} {
		f.heard()
		e.put("modbus", "pump", "45", change)
		wait(t, name+" of the model to be told", func() (any, bool) {
			calls := f.heardSoFar()
			return calls, slices.Contains(calls, "UpdateDeviceModel default/modbus")
		})
		e.put("modbus", "last", "1", change) // all of it is over when this one is there
		wait(t, "another device", func() (any, bool) { s := f.state(); return s, strings.Contains(s, "default/last") })
		e.drop("last")
		wait(t, "another device to go", func() (any, bool) { s := f.state(); return s, !strings.Contains(s, "default/last") })
		if calls := f.heard(); slices.Contains(calls, "UpdateDevice default/pump") {
			t.Errorf("%s: found %q", name, calls)
		}
	}
	for name, change := range map[string]func(*Entry){
		"a maximum": model(func(m *v1beta1.DeviceModelSpec) { m.Properties[0].Maximum = "90" }),
		"a type":    model(func(m *v1beta1.DeviceModelSpec) { m.Properties[1].Type = v1beta1.Double }),
		"a method": func(entry *Entry) {
			entry.Device.Spec.Methods = []v1beta1.DeviceMethod{{Name: "heat", PropertyNames: []string{"set"}}}
		},
	} {
		f.heard()
		e.put("modbus", "pump", "45", change)
		wait(t, name+" to be told", func() (any, bool) {
			calls := f.heardSoFar()
			return calls, slices.Contains(calls, "UpdateDevice default/pump")
		})
	}
}

func TestADeviceChangesItsModelAndItsProtocol(t *testing.T) {
	e := newEnv(t)
	e.put("modbus", "pump", "45")
	modbus, opcua := e.mapper("modbus", false), e.mapper("opcua", false)
	e.knows(modbus, "default/pump set=45 get=; model default/modbus")
	e.put("modbus", "pump", "45", func(entry *Entry) {
		entry.Model.Name, entry.Device.Spec.DeviceModelRef.Name = "better", "better"
	})
	e.knows(modbus, "default/pump set=45 get=; model default/better")
	e.put("opcua", "pump", "46")
	e.knows(opcua, "default/pump set=46 get=; model default/opcua")
	e.knows(modbus, "")
}

func TestWhatCannotWorkIsNotTold(t *testing.T) {
	long := strings.Repeat("n", v1beta1.MaxPropertyName+1)
	e := newEnv(t)
	e.put("modbus", "pump", "45")
	f := e.mapper("modbus", false)
	e.knows(f, "default/pump set=45 get=; model default/modbus")
	e.put("modbus", "pump", "450", func(entry *Entry) {
		entry.Device.Spec.Properties = append(entry.Device.Spec.Properties, v1beta1.DeviceProperty{Name: "unknown"}, v1beta1.DeviceProperty{Name: "get"}, v1beta1.DeviceProperty{Name: long})
		entry.Model.Spec.Properties = append(entry.Model.Spec.Properties, v1beta1.ModelProperty{Name: long})
	})
	e.knows(f, "default/pump set= get=; model default/modbus")
	f.on(func(call, _ string) error {
		if call == "UpdateDevice" {
			return errors.New("no such port")
		}
		return nil
	})
	e.put("modbus", "pump", "46")
	wait(t, "the refusal to be said", func() (any, bool) {
		text, _ := e.engine.toldOf("default/pump")
		return text, strings.Contains(text, "no such port")
	})
	e.put("modbus", "pump", "46", func(entry *Entry) { entry.Model = nil })
	e.knows(f, "")
	wait(t, "the refusal to be over: nothing is told that could be refused", func() (any, bool) {
		text, _ := e.engine.toldOf("default/pump")
		return text, text == "<nil>"
	})
	f.on(nil)
	e.put("modbus", "pump", "45")
	e.knows(f, "default/pump set=45 get=; model default/modbus")
	wait(t, "the engine to hear that it was told", func() (any, bool) { text, _ := e.engine.toldOf("default/pump"); return text, text == "<nil>" })
}

func TestADeviceThatAMapperRefusesHoldsUpNoOther(t *testing.T) {
	e := newEnv(t, func(c *Config) { c.CallTimeout = time.Minute })
	f := e.mapper("modbus", false)
	release := make(chan struct{})
	f.on(func(_, id string) error {
		switch id {
		case "default/bad":
			return errors.New("no such port")
		case "default/slow":
			<-release
		}
		return nil
	})
	e.put("modbus", "bad", "1")
	e.put("modbus", "slow", "1")
	wait(t, "the refusal to be said", func() (any, bool) {
		text, _ := e.engine.toldOf("default/bad")
		return text, strings.Contains(text, "no such port")
	})
	for i := range 50 {
		e.put("modbus", fmt.Sprintf("d%d", i), "1")
	}
	wait(t, "50 devices", func() (any, bool) { s := f.state(); return s, strings.Count(s, "set=1") == 50 })
	close(release)
	f.on(nil)
	wait(t, "all devices", func() (any, bool) { s := f.state(); return s, strings.Count(s, "set=1") == 52 })
	wait(t, "success to be said", func() (any, bool) { text, _ := e.engine.toldOf("default/bad"); return text, text == "<nil>" })
}

func TestAHungMapperIsFoundOutAndHoldsUpNobody(t *testing.T) {
	e := newEnv(t)
	for i := range 20 {
		e.put("hung", fmt.Sprintf("h%d", i), "1")
	}
	hung := listenForeign(t, filepath.Join(e.dir, "hung.sock"))
	release := make(chan struct{})
	hung.on(func(string, string) error { <-release; return nil })
	e.register("hung", hung.address, false)
	well := e.mapper("well", false)
	e.put("well", "w", "1")
	e.knows(well, "default/w set=1 get=; model default/well")
	e.isConnected("well", true)
	wait(t, "the hung mapper to be called away", func() (any, bool) {
		i := slices.IndexFunc(e.server.Registered(), func(m Mapper) bool { return m.Protocol == "hung" && !m.Connected })
		return e.server.Registered(), i >= 0 && !e.engine.connected("hung")
	})
	close(release)
	hung.on(nil)
	e.isConnected("hung", true)
	wait(t, "its devices", func() (any, bool) { s := hung.state(); return s, strings.Count(s, "set=1") == 20 })
}

// A stopped process keeps its connection; nothing is to be told that would show it.
func TestAnIdleMapperThatStopsAnsweringIsFoundOut(t *testing.T) {
	e := newEnv(t)
	path := filepath.Join(e.dir, "proxy.sock")
	f := listenForeign(t, filepath.Join(e.dir, "m.sock"))
	valve := newValve(t, path, f.address)
	e.register("modbus", path, true)
	e.isConnected("modbus", true)
	valve.shut(true)
	e.isConnected("modbus", false)
	valve.shut(false)
	e.isConnected("modbus", true)
}

func TestAMapperRestartsWithoutRegistering(t *testing.T) {
	e := newEnv(t)
	e.put("modbus", "stays", "1")
	e.put("modbus", "goes", "1")
	f := e.mapper("modbus", false)
	e.knows(f, "default/goes set=1 get=; default/stays set=1 get=; model default/modbus")
	f.stop()
	e.isConnected("modbus", false)
	e.drop("goes")
	e.put("modbus", "stays", "2")
	e.put("modbus", "comes", "3")
	fresh := listenForeign(t, f.address)
	e.isConnected("modbus", true)
	e.knows(fresh, "default/comes set=3 get=; default/stays set=2 get=; model default/modbus")
	// One that kept what it knew has to lose the device that went meanwhile.
	fresh.stop()
	e.isConnected("modbus", false)
	e.drop("comes")
	e.put("modbus", "stays", "4")
	fresh.start()
	e.knows(fresh, "default/stays set=4 get=; model default/modbus")
}

func TestTheEdgeRestartsAndItsMappersDoNotRegisterAgain(t *testing.T) {
	e := newEnv(t)
	e.put("modbus", "stays", "1")
	e.put("modbus", "goes", "1")
	e.put("modbus", "goes-with-model", "1", func(entry *Entry) {
		entry.Model.Name, entry.Device.Spec.DeviceModelRef.Name = "rare", "rare"
	})
	f := e.mapper("modbus", false)
	e.knows(f, "default/goes set=1 get=; default/goes-with-model set=1 get=; default/stays set=1 get=; model default/modbus; model default/rare")
	e.stop()
	f.heard()
	e.memory.rows[bucket+"/broken"] = "{"
	e.engine.mu.Lock()
	delete(e.engine.entries, "default/goes")
	delete(e.engine.entries, "default/goes-with-model")
	e.engine.mu.Unlock()
	e.start()
	e.put("modbus", "stays", "2")
	e.put("modbus", "comes", "3")
	e.knows(f, "default/comes set=3 get=; default/stays set=2 get=; model default/modbus")
	e.isConnected("modbus", true)
	if e.memory.row("broken") != "" {
		t.Error("a record that cannot be read stays for ever")
	}
	// Removed while the mapper's answer was lost, it is not removed a second time.
	f.on(func(method, _ string) error {
		if method == "RemoveDevice" {
			f.mu.Lock()
			defer f.mu.Unlock()
			delete(f.devices, "default/comes")
			f.removed["default/comes"] = true
			return status.Error(codes.Internal, "lost")
		}
		return nil
	})
	e.drop("comes")
	e.knows(f, "default/stays set=2 get=; model default/modbus")
	wait(t, "the removal to be over", func() (any, bool) { i := e.server.Registered(); return i, i[0].Devices == 1 })
	if !strings.Contains(strings.Join(f.heard(), "; "), "GetDevice default/comes") {
		t.Error("the mapper was not asked whether it has the device")
	}
}

// A mapper of KubeEdge registers before it listens.
func TestAMapperMayListenAfterItRegistered(t *testing.T) {
	e := newEnv(t)
	e.put("modbus", "pump", "1")
	address := filepath.Join(e.dir, "late.sock")
	e.register("modbus", address, false)
	f := listenForeign(t, address)
	e.knows(f, "default/pump set=1 get=; model default/modbus")
	e.register("silent", filepath.Join(e.dir, "never.sock"), false)
	wait(t, "the mapper that never listened to be away", func() (any, bool) {
		e.engine.mu.Lock()
		defer e.engine.mu.Unlock()
		up, said := e.engine.up["silent"]
		return up, said && !up
	})
}

// KubeEdge's mappers give up after a second.
func TestASlowDiskDelaysNoRegistrationForLong(t *testing.T) {
	e := newEnv(t, func(c *Config) { c.CallTimeout = 5 * time.Second })
	e.memory.slow = make(chan struct{})
	var all sync.WaitGroup
	begun := time.Now()
	for i := range 8 {
		all.Go(func() { e.register(fmt.Sprintf("p%d", i), filepath.Join(e.dir, "none.sock"), true) })
	}
	all.Wait()
	if took := time.Since(begun); took < saveTimeout || took > 2*saveTimeout {
		t.Errorf("8 registrations took %v together, expected about %v", took, saveTimeout)
	}
	close(e.memory.slow)
	wait(t, "all to be remembered", func() (any, bool) {
		e.memory.mu.Lock()
		defer e.memory.mu.Unlock()
		return len(e.memory.rows), len(e.memory.rows) == 8
	})
	// An answer comes after the commit where the disk is not slow.
	begun = time.Now()
	e.register("quick", filepath.Join(e.dir, "none.sock"), true)
	if took := time.Since(begun); took >= saveTimeout || e.memory.row("quick") == "" {
		t.Errorf("a mapper was answered after %v, remembered: %q", took, e.memory.row("quick"))
	}
}

func TestTheLastRegistrationOfAProtocolHolds(t *testing.T) {
	e := newEnv(t)
	e.put("modbus", "pump", "1")
	first := e.mapper("modbus", false)
	e.knows(first, "default/pump set=1 get=; model default/modbus")
	second := e.mapper("modbus", false)
	e.knows(second, "default/pump set=1 get=; model default/modbus")
	first.heard()
	for range 30 {
		e.register("modbus", second.address, true)
	}
	e.put("modbus", "pump", "2")
	e.knows(second, "default/pump set=2 get=; model default/modbus")
	if calls := first.heard(); len(calls) > 0 {
		t.Errorf("the former mapper still hears %q", calls)
	}
	if r := e.server.Registered(); len(r) != 1 || r[0].Address != second.address || !r[0].Connected {
		t.Errorf("registered: %+v", r)
	}
	e.engine.mu.Lock()
	if said := e.engine.said; !slices.Equal(said, []string{"modbus true"}) {
		t.Errorf("a mapper that registers again was never away, but it was said: %q", said)
	}
	e.engine.mu.Unlock()
	wait(t, "the second to be remembered", func() (any, bool) {
		row := e.memory.row("modbus")
		return row, strings.Contains(row, second.address) && strings.Contains(row, "default/pump")
	})
}

func TestAMapperThatAnswersGarbageCostsNobodyAnything(t *testing.T) {
	e := newEnv(t)
	path := filepath.Join(e.dir, "garbage.sock")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			_, _ = c.Write([]byte(strings.Repeat("garbage\x00\xff", 1000))) // the other end may be gone
			_ = c.Close()
		}
	}()
	t.Cleanup(func() { _ = l.Close() })
	e.put("bad", "b", "1")
	e.register("bad", path, false)
	f := e.mapper("modbus", false)
	e.put("modbus", "pump", "1")
	e.knows(f, "default/pump set=1 get=; model default/modbus")
	wait(t, "the other to be away", func() (any, bool) {
		e.engine.mu.Lock()
		defer e.engine.mu.Unlock()
		up, said := e.engine.up["bad"]
		return up, said && !up
	})
}

func TestFiveHundredDevices(t *testing.T) {
	e := newEnv(t, unhurried)
	for i := range 500 {
		e.put("modbus", fmt.Sprintf("d%d", i), "1")
	}
	f := e.mapper("modbus", false)
	count := func(want int, part string) {
		t.Helper()
		wait(t, fmt.Sprintf("%d devices with %s", want, part), func() (any, bool) {
			n := strings.Count(f.state(), part)
			return n, n == want
		})
	}
	count(500, "set=1 ")
	for i := range 500 {
		e.put("modbus", fmt.Sprintf("d%d", i), "2")
	}
	count(500, "set=2 ")
	if n := len(f.heard()); n != 1001 {
		t.Errorf("expected 1 model and 1,000 calls for devices, found %d", n)
	}
	e.stop()
	e.start()
	f2 := f.address
	answer := e.register("modbus", f2, true)
	if n := strings.Count(answer, `"deviceModelReference"`); n != 500 {
		t.Errorf("expected 500 devices in the answer, found %d", n)
	}
	for i := range 500 {
		e.drop(fmt.Sprintf("d%d", i))
	}
	e.knows(f, "")
	wait(t, "the record to be empty", func() (any, bool) {
		row := e.memory.row("modbus")
		return row, !strings.Contains(row, "devices") && !strings.Contains(row, "models")
	})
	if n := testutil.ToFloat64(e.server.metrics.devices.WithLabelValues("modbus")); n != 0 {
		t.Errorf("tether_mapper_devices is %v", n)
	}
}

func TestAnAnswerThatIsTooLargeForAMapperIsCut(t *testing.T) {
	e := newEnv(t, func(c *Config) { c.CallTimeout = 10 * time.Second })
	visitor := &v1beta1.VisitorConfig{ConfigData: &runtime.RawExtension{Raw: []byte(`{"note": "` + strings.Repeat("x", 800) + `"}`)}}
	for i := range 10 {
		e.put("modbus", fmt.Sprintf("d%d", i), "1", func(entry *Entry) {
			for n := range 900 {
				name := fmt.Sprintf("p%d", n)
				entry.Model.Spec.Properties = append(entry.Model.Spec.Properties, v1beta1.ModelProperty{Name: name})
				entry.Device.Spec.Properties = append(entry.Device.Spec.Properties, v1beta1.DeviceProperty{Name: name, Visitors: visitor})
			}
		})
	}
	f := listenForeign(t, filepath.Join(e.dir, "m.sock"))
	answer := e.register("modbus", f.address, true)
	if n := strings.Count(answer, `"deviceModelReference"`); n < 1 || n > 9 {
		t.Errorf("expected some of 10 devices in the answer, found %d", n)
	}
	f.mu.Lock()
	f.models["default/modbus"] = true
	f.mu.Unlock()
	wait(t, "the rest by calls", func() (any, bool) {
		n := strings.Count(f.state(), "default/d")
		return n, n+strings.Count(answer, `"deviceModelReference"`) == 10
	})
}
