// Package mappers runs the mappers that come with Tether against the edge's side of the Device Mapper Interface, each over its
// own sockets: manifests go in, and what the devices do comes out.
package mappers

import (
	"context"
	"fmt"
	"io"
	"log"
	"log/slog"
	"net"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	lib "github.com/simonvetter/modbus"
	"sigs.k8s.io/yaml"

	"github.com/tether-edge/tether/apis/devices/v1beta1"
	"github.com/tether-edge/tether/common/device"
	kit "github.com/tether-edge/tether/common/mapper"
	"github.com/tether-edge/tether/edge/mapper"
	"github.com/tether-edge/tether/edge/mappers/modbus"
	"github.com/tether-edge/tether/edge/mappers/virtual"
)

// engine is the owner of one device.
type engine struct {
	mu     sync.Mutex
	entry  mapper.Entry
	values map[string]string // reported, and the state as ""
}

func (e *engine) OfProtocol(protocol string) []mapper.Entry {
	e.mu.Lock()
	defer e.mu.Unlock()
	if device.Protocol(e.entry.Device, e.entry.Model) != protocol {
		return nil
	}
	return []mapper.Entry{e.entry}
}

func (e *engine) Device(_, name string) (mapper.Entry, bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.entry, e.entry.Device.Name == name
}

func (e *engine) Report(_ context.Context, _, _ string, twins []v1beta1.Twin) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, t := range twins {
		e.values[t.PropertyName] = t.Reported.Value
	}
	return nil
}

func (e *engine) ReportState(_ context.Context, _, _, state string) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.values[""] = state
	return nil
}

func (e *engine) waitFor(t *testing.T, property, value string) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		e.mu.Lock()
		found := e.values[property]
		e.mu.Unlock()
		if found == value {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%q: expected %q, found %q", property, value, found)
		}
	}
}

// nothing is a Memory that remembers nothing.
type nothing struct{}

func (nothing) Put(context.Context, string, string, []byte) error             { return nil }
func (nothing) Delete(context.Context, string, ...string) error               { return nil }
func (nothing) All(context.Context, string, func(string, []byte) error) error { return nil }

// start runs the edge's side and a mapper with the model and the device of a manifest.
func start(t *testing.T, manifest, protocol string, open func(context.Context, kit.Device) (kit.Driver, error)) (*engine, *mapper.Server) {
	t.Helper()
	e := &engine{values: map[string]string{}, entry: mapper.Entry{Model: &v1beta1.DeviceModel{}, Device: &v1beta1.Device{}}}
	model, dev, _ := strings.Cut(manifest, "\n---\n")
	for text, into := range map[string]any{model: e.entry.Model, dev: e.entry.Device} {
		if err := yaml.UnmarshalStrict([]byte(text), into); err != nil {
			t.Fatal(err)
		}
	}
	e.entry.Model.Namespace, e.entry.Device.Namespace = "default", "default"
	if found := device.Judge(e.entry.Device, e.entry.Model); len(found) > 0 {
		t.Fatalf("the manifest is wrong: %v", found)
	}
	dir := t.TempDir()
	quiet := slog.New(slog.DiscardHandler)
	server, err := mapper.New(mapper.Config{Socket: filepath.Join(dir, "dmi.sock")}, mapper.Deps{Devices: e, Memory: nothing{}, Log: quiet})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 2)
	go func() { ended <- server.Start(ctx) }()
	go func() {
		ended <- kit.Run(ctx, kit.Options{Protocol: protocol, Socket: filepath.Join(dir, "m.sock"), EdgeSocket: filepath.Join(dir, "dmi.sock"), Open: open, Log: quiet})
	}()
	t.Cleanup(func() {
		cancel()
		for range 2 {
			if err := <-ended; err != nil {
				t.Error(err)
			}
		}
	})
	return e, server
}

// desire changes what one property shall be.
func (e *engine) desire(server *mapper.Server, property, value string) {
	e.mu.Lock()
	d := e.entry.Device.DeepCopy()
	for i := range d.Spec.Properties {
		if d.Spec.Properties[i].Name == property {
			d.Spec.Properties[i].Desired = &v1beta1.TwinProperty{Value: value}
		}
	}
	e.entry.Device = d
	e.mu.Unlock()
	server.Changed(d.Namespace, d.Name)
}

func TestAVirtualDevice(t *testing.T) {
	e, server := start(t, `
metadata: {name: oven}
spec:
  protocol: virtual
  properties:
  - {name: target, type: INT, accessMode: ReadWrite, maximum: "300"}
  - {name: door, type: STRING, accessMode: ReadOnly}
---
metadata: {name: oven-1}
spec:
  deviceModelRef: {name: oven}
  properties:
  - {name: target, collectCycle: 20, desired: {value: "180"}, visitors: {configData: {value: 20, lag: 50}}}
  - {name: door, collectCycle: 20, visitors: {configData: {wave: constant, value: closed}}}
`, "virtual", virtual.Open)
	e.waitFor(t, "door", "closed")
	e.waitFor(t, "target", "180")
	e.waitFor(t, "", "online")
	e.desire(server, "target", "200")
	e.waitFor(t, "target", "200")
}

// plc has holding registers 0 to 9.
type plc struct {
	mu    sync.Mutex
	words [10]uint16
}

func (p *plc) HandleCoils(*lib.CoilsRequest) ([]bool, error) { return nil, lib.ErrIllegalFunction }
func (p *plc) HandleDiscreteInputs(*lib.DiscreteInputsRequest) ([]bool, error) {
	return nil, lib.ErrIllegalFunction
}
func (p *plc) HandleInputRegisters(*lib.InputRegistersRequest) ([]uint16, error) {
	return nil, lib.ErrIllegalFunction
}

func (p *plc) HandleHoldingRegisters(r *lib.HoldingRegistersRequest) ([]uint16, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if int(r.Addr)+int(r.Quantity) > len(p.words) {
		return nil, lib.ErrIllegalDataAddress
	}
	at := p.words[r.Addr : r.Addr+r.Quantity]
	if r.IsWrite {
		copy(at, r.Args)
	}
	return append([]uint16{}, at...), nil
}

func TestAModbusDevice(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := l.Addr().(*net.TCPAddr)
	if err := l.Close(); err != nil { // the library listens itself
		t.Fatal(err)
	}
	p := &plc{}
	p.words[3] = 215
	serve := func() *lib.ModbusServer {
		server, err := lib.NewServer(&lib.ServerConfiguration{URL: "tcp://" + address.String(), Logger: log.New(io.Discard, "", 0)}, p)
		if err == nil {
			err = server.Start()
		}
		if err != nil {
			t.Fatal(err)
		}
		return server
	}
	device := serve()
	e, server := start(t, fmt.Sprintf(`
metadata: {name: heat-pump}
spec:
  protocol: modbus
  properties:
  - {name: setpoint, type: INT, accessMode: ReadWrite}
  - {name: flow, type: FLOAT, accessMode: ReadOnly}
  - {name: absent, type: INT, accessMode: ReadOnly}
---
metadata: {name: cellar}
spec:
  deviceModelRef: {name: heat-pump}
  protocol: {protocolName: modbus, configData: {communicateType: tcp, ip: 127.0.0.1, port: %d, slaveID: 1}}
  properties:
  - {name: setpoint, collectCycle: 20, desired: {value: "45"}, visitors: {configData: {register: HoldingRegister, offset: 2, limit: 1}}}
  - {name: flow, collectCycle: 20, visitors: {configData: {register: HoldingRegister, offset: 3, limit: 1, scale: 0.1}}}
  - {name: absent, collectCycle: 20, visitors: {configData: {register: HoldingRegister, offset: 99, limit: 1}}}
`, address.Port), "modbus", modbus.New().Open)
	e.waitFor(t, "flow", "21.5")
	e.waitFor(t, "setpoint", "45")
	e.waitFor(t, "", "unhealthy") // one register does not exist
	if err := device.Stop(); err != nil {
		t.Fatal(err)
	}
	e.waitFor(t, "", "offline")
	e.desire(server, "setpoint", "50")
	device = serve()
	e.waitFor(t, "setpoint", "50")
	e.waitFor(t, "", "unhealthy")
	if err := device.Stop(); err != nil {
		t.Fatal(err)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.words[2] != 50 {
		t.Errorf("the device has %d", p.words[2])
	}
}
