package modbus

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	lib "github.com/simonvetter/modbus"

	"github.com/tether-edge/tether/common/mapper"
)

// plc is a Modbus server with one slave, number 7.
type plc struct {
	mu               sync.Mutex
	holding, input   map[uint16]uint16
	coils, discretes map[uint16]bool
	requests         int
	quiet            chan struct{}
}

func (p *plc) enter(unit uint8) error {
	p.mu.Lock()
	p.requests++
	quiet := p.quiet
	p.mu.Unlock()
	if quiet != nil {
		<-quiet
	}
	if unit != 7 {
		return lib.ErrGWTargetFailedToRespond
	}
	return nil
}

func bits(p *plc, unit uint8, of map[uint16]bool, addr, n uint16, write bool, args []bool) (out []bool, err error) {
	if err := p.enter(unit); err != nil {
		return nil, err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	for i := range n {
		if _, ok := of[addr+i]; !ok {
			return nil, lib.ErrIllegalDataAddress
		}
		if write {
			of[addr+i] = args[i]
		}
		out = append(out, of[addr+i])
	}
	return out, nil
}

func words(p *plc, unit uint8, of map[uint16]uint16, addr, n uint16, write bool, args []uint16) (out []uint16, err error) {
	if err := p.enter(unit); err != nil {
		return nil, err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	for i := range n {
		if _, ok := of[addr+i]; !ok {
			return nil, lib.ErrIllegalDataAddress
		}
		if write {
			of[addr+i] = args[i]
		}
		out = append(out, of[addr+i])
	}
	return out, nil
}

func (p *plc) HandleCoils(r *lib.CoilsRequest) ([]bool, error) {
	return bits(p, r.UnitId, p.coils, r.Addr, r.Quantity, r.IsWrite, r.Args)
}
func (p *plc) HandleDiscreteInputs(r *lib.DiscreteInputsRequest) ([]bool, error) {
	return bits(p, r.UnitId, p.discretes, r.Addr, r.Quantity, false, nil)
}
func (p *plc) HandleHoldingRegisters(r *lib.HoldingRegistersRequest) ([]uint16, error) {
	return words(p, r.UnitId, p.holding, r.Addr, r.Quantity, r.IsWrite, r.Args)
}
func (p *plc) HandleInputRegisters(r *lib.InputRegistersRequest) ([]uint16, error) {
	return words(p, r.UnitId, p.input, r.Addr, r.Quantity, false, nil)
}

// start serves the PLC and returns where.
func (p *plc) start(t *testing.T) (host, port string, stop func()) {
	t.Helper()
	// The library takes no listener and does not say its port: one that was free a moment ago.
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := l.Addr().String()
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	return p.startAt(t, address)
}

func (p *plc) startAt(t *testing.T, address string) (host, port string, stop func()) {
	t.Helper()
	server, err := lib.NewServer(&lib.ServerConfiguration{URL: "tcp://" + address, Timeout: time.Minute, MaxClients: 10, Logger: log.New(io.Discard, "", 0)}, p)
	if err != nil {
		t.Fatal(err)
	}
	if err := server.Start(); err != nil {
		t.Fatal(err)
	}
	stop = sync.OnceFunc(func() { _ = server.Stop() })
	t.Cleanup(stop)
	host, port, err = net.SplitHostPort(address)
	if err != nil {
		t.Fatal(err)
	}
	return host, port, stop
}

func newPLC() *plc {
	p := &plc{holding: map[uint16]uint16{}, input: map[uint16]uint16{}, coils: map[uint16]bool{0: false}, discretes: map[uint16]bool{3: true}}
	for i := range uint16(20) {
		p.holding[i], p.input[i] = 0, 0
	}
	return p
}

func open(t *testing.T, m *Modbus, config string) mapper.Driver {
	t.Helper()
	d, err := m.Open(t.Context(), mapper.Device{Name: "pump", Config: mapper.Config(config)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = d.Close() })
	return d
}

func TestEveryKindOfRegisterAndValue(t *testing.T) {
	p := newPLC()
	host, port, _ := p.start(t)
	d := open(t, New(), fmt.Sprintf(`{"communicateType": "tcp", "ip": %q, "port": %s, "slaveID": 7}`, host, port))
	for _, c := range []struct {
		kind, config, value string
		words               []uint16 // at offset 2, as they are on the wire
	}{
		{"INT", `"limit": 1`, "45", []uint16{45}},
		{"INT", `"limit": 1, "scale": 1`, "65535", []uint16{0xffff}},
		{"INT", `"dataType": "int16"`, "-2", []uint16{0xfffe}},
		{"FLOAT", `"limit": 1, "scale": 0.1`, "21.3", []uint16{213}},
		{"DOUBLE", `"limit": 1, "scale": 0.1`, "21.3", []uint16{213}},
		{"FLOAT", `"limit": 2`, "1.5", []uint16{0x3fc0, 0}},
		{"FLOAT", `"limit": 2, "isRegisterSwap": true`, "1.5", []uint16{0, 0x3fc0}},
		{"FLOAT", `"limit": 2, "isSwap": true`, "1.5", []uint16{0xc03f, 0}},
		{"FLOAT", `"limit": 2, "isSwap": true, "isRegisterSwap": true`, "1.5", []uint16{0, 0xc03f}},
		{"DOUBLE", `"limit": 4`, "-0.25", []uint16{0xbfd0, 0, 0, 0}},
		{"DOUBLE", `"dataType": "float32"`, "0.1", []uint16{0x3dcc, 0xcccd}},
		{"DOUBLE", `"dataType": "float32", "scale": 0.1`, "21.3", []uint16{0x4355, 0}},
		{"INT", `"limit": 2`, "4294967295", []uint16{0xffff, 0xffff}},
		{"INT", `"dataType": "int32", "isRegisterSwap": true`, "-3", []uint16{0xfffd, 0xffff}},
		{"INT", `"dataType": "int64", "limit": 4`, "-9007199254740993", []uint16{0xffdf, 0xffff, 0xffff, 0xffff}},
		{"STRING", `"limit": 3`, "abcd", []uint16{0x6162, 0x6364, 0}},
		{"STRING", `"limit": 2, "isSwap": true`, "abcd", []uint16{0x6261, 0x6463}},
		{"BOOLEAN", `"limit": 1`, "true", []uint16{1}},
	} {
		property := mapper.Property{Name: "p", Type: c.kind, Config: mapper.Config(`{"register": "HoldingRegister", "offset": "2", ` + c.config + `}`)}
		if err := d.Write(t.Context(), property, c.value); err != nil {
			t.Errorf("%s %s: write %s: %v", c.kind, c.config, c.value, err)
			continue
		}
		p.mu.Lock()
		for i, w := range c.words {
			if found := p.holding[2+uint16(i)]; found != w {
				t.Errorf("%s %s: register %d: expected %#04x, found %#04x", c.kind, c.config, i, w, found)
			}
			p.input[2+uint16(i)] = w
		}
		p.mu.Unlock()
		for _, register := range []string{"HoldingRegister", "InputRegister"} {
			property.Config = mapper.Config(strings.Replace(string(property.Config), "HoldingRegister", register, 1))
			if found, err := d.Read(t.Context(), property); err != nil || found != c.value {
				t.Errorf("%s %s of %s: expected %s, found %s, %v", c.kind, c.config, register, c.value, found, err)
			}
		}
	}
	coil := mapper.Property{Type: "BOOLEAN", Config: mapper.Config(`{"register": "CoilRegister", "offset": 0, "limit": 1, "isSwap": true, "scale": 3}`)}
	if err := d.Write(t.Context(), coil, "true"); err != nil {
		t.Error(err)
	}
	discrete := mapper.Property{Type: "INT", Config: mapper.Config(`{"register": "DiscreteInputRegister", "offset": 3, "isSwap": true}`)}
	for property, want := range map[*mapper.Property]string{&coil: "true", &discrete: "1"} {
		if found, err := d.Read(t.Context(), *property); err != nil || found != want {
			t.Errorf("%s: expected %s, found %s, %v", property.Config, want, found, err)
		}
	}
}

func TestWhatAPropertyCannotDoCostsThePropertyOnly(t *testing.T) {
	p := newPLC()
	host, port, _ := p.start(t)
	d := open(t, New(), fmt.Sprintf(`{"tcp": {"ip": %q, "port": %q}, "slaveID": 7}`, host, port))
	for _, c := range []struct{ kind, config, write string }{
		{"INT", `{"register": "HoldingRegister", "offset": 500}`, ""},
		{"INT", `{"register": "Holding"}`, ""},
		{"INT", `{"register": "HoldingRegister", "offset": 1.5}`, ""},
		{"INT", `{"register": "HoldingRegister", "offset": 70000}`, ""},
		{"INT", `{"register": "HoldingRegister", "offset": 65535, "limit": 2}`, ""},
		{"INT", `{"register": "HoldingRegister", "limit": 200}`, ""},
		{"INT", `{"register": "HoldingRegister", "limit": 2, "dataType": "int16"}`, ""},
		{"INT", `{"register": "HoldingRegister", "dataType": "int8"}`, ""},
		{"INT", `{"register": "HoldingRegister", "limit": "x"}`, ""},
		{"INT", `{"register": "HoldingRegister"}`, "65536"},
		{"INT", `{"register": "HoldingRegister"}`, "-1"},
		{"INT", `{"register": "HoldingRegister"}`, "much"},
		{"FLOAT", `{"register": "HoldingRegister", "limit": 1, "scale": 0.1}`, "6553.6"},
		{"FLOAT", `{"register": "HoldingRegister", "limit": 1}`, "2.5"},
		{"FLOAT", `{"register": "HoldingRegister", "dataType": "int16"}`, "2.5"},
		{"FLOAT", `{"register": "HoldingRegister", "dataType": "int16"}`, "70000"},
		{"FLOAT", `{"register": "HoldingRegister", "limit": 1, "scale": 0.1}`, "21.37"},
		{"INT", `{"register": "HoldingRegister", "limit": 1, "scale": 10}`, "45"},
		{"INT", `{"register": "HoldingRegister", "dataType": "float32"}`, "16777217"},
		{"DOUBLE", `{"register": "HoldingRegister", "dataType": "float32"}`, "0.123456789"},
		{"", `{"register": "HoldingRegister"}`, "2.5"},
		{"STRING", `{"register": "HoldingRegister", "limit": 1}`, "abc"},
		{"INT", `{"register": "InputRegister"}`, "1"},
		{"BOOLEAN", `{"register": "DiscreteInputRegister", "offset": 3}`, "true"},
		{"BOOLEAN", `{"register": "CoilRegister"}`, "maybe"},
	} {
		property := mapper.Property{Type: c.kind, Config: mapper.Config(c.config)}
		var err error
		if c.write == "" {
			_, err = d.Read(t.Context(), property)
		} else {
			err = d.Write(t.Context(), property, c.write)
		}
		if !errors.Is(err, mapper.ErrProperty) {
			t.Errorf("%s, write %q: expected it to concern the property, found %v", c.config, c.write, err)
		}
	}
	p.mu.Lock()
	for offset, word := range p.holding {
		if word != 0 {
			t.Errorf("register %d: %d was written of a value that does not fit", offset, word)
		}
	}
	p.mu.Unlock()
	if text, err := d.Read(t.Context(), mapper.Property{Type: "INT", Config: mapper.Config(`{"register": "HoldingRegister"}`)}); err != nil || text != "0" {
		t.Errorf("found %s, %v", text, err)
	}
}

func TestDevicesOfOneServerTakeTurnsAndItMayRestart(t *testing.T) {
	p := newPLC()
	host, port, stop := p.start(t)
	m := New()
	config := fmt.Sprintf(`{"ip": %q, "port": %s, "timeout": 200, "slaveID": `, host, port)
	good, absent := open(t, m, config+"7}"), open(t, m, config+"8}")
	property := mapper.Property{Type: "INT", Config: mapper.Config(`{"register": "HoldingRegister"}`)}
	if len(m.buses) != 1 {
		t.Errorf("expected one connection, found %d", len(m.buses))
	}
	if _, err := absent.Read(t.Context(), property); err == nil || errors.Is(err, mapper.ErrProperty) || !strings.Contains(err.Error(), "slave 8") {
		t.Errorf("expected the device to be lost, found %v", err)
	}
	if _, err := good.Read(t.Context(), property); err != nil {
		t.Errorf("one slave that is absent costs another: %v", err)
	}
	// Who waits for a turn waits no longer than it may.
	quiet := make(chan struct{})
	p.mu.Lock()
	p.quiet = quiet
	before := p.requests
	p.mu.Unlock()
	var slow sync.WaitGroup
	slow.Go(func() {
		if _, err := good.Read(t.Context(), property); err == nil {
			t.Error("expected a timeout")
		}
	})
	for {
		p.mu.Lock()
		n := p.requests
		p.mu.Unlock()
		if n > before {
			break
		}
		time.Sleep(time.Millisecond)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	if _, err := absent.Read(ctx, property); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("expected the deadline, found %v", err)
	}
	slow.Wait()
	p.mu.Lock()
	p.quiet = nil
	p.mu.Unlock()
	close(quiet)
	stop()
	if _, err := good.Read(t.Context(), property); err == nil {
		t.Error("expected an error from a server that is gone")
	}
	p.startAt(t, net.JoinHostPort(host, port))
	if _, err := good.Read(t.Context(), property); err != nil {
		t.Errorf("after the restart: %v", err)
	}
	for _, d := range []mapper.Driver{good, absent} {
		if err := d.Close(); err != nil {
			t.Error(err)
		}
	}
	if len(m.buses) != 0 {
		t.Errorf("%d connections are left", len(m.buses))
	}
}

func TestConfigurationsOfDevices(t *testing.T) {
	rtu, err := parseConfig(mapper.Config(`{"communicateType": "rtu", "serialPort": "/dev/ttyS0", "baudRate": "9600", "dataBits": 8, "parity": "even", "stopBits": 1, "slaveID": 17}`))
	if err != nil || rtu.URL != "rtu:///dev/ttyS0" || rtu.Speed != 9600 || rtu.DataBits != 8 || rtu.Parity != lib.PARITY_EVEN || rtu.StopBits != 1 || rtu.unit != 17 || rtu.Timeout != time.Second {
		t.Errorf("%+v, %v", rtu, err)
	}
	com, err := parseConfig(mapper.Config(`{"com": {"serialPort": "/dev/ttyUSB0", "baudRate": 115200}}`))
	if err != nil || com.URL != "rtu:///dev/ttyUSB0" || com.Speed != 115200 || com.StopBits != 2 || com.unit != 1 {
		t.Errorf("%+v, %v", com, err)
	}
	six, err := parseConfig(mapper.Config(`{"ip": "2001:db8::7"}`))
	if err != nil || six.URL != "tcp://[2001:db8::7]:502" {
		t.Errorf("%+v, %v", six, err)
	}
	none, err := parseConfig(mapper.Config(`{"ip": "a", "port": "0", "timeout": 0, "slaveID": null}`))
	if err != nil || none.URL != "tcp://a:502" || none.unit != 1 || none.Timeout != time.Second {
		t.Errorf("%+v, %v", none, err)
	}
	for _, bad := range []string{``, `{}`, `{"ip": "a", "slaveID": 0}`, `{"ip": "a", "slaveID": "NaN"}`, `{"communicateType": "can"}`, `{"ip": "a", "port": 70000}`, `{"ip": "a", "slaveID": 248}`, `{"ip": "a", "slaveID": -1}`, `{"ip": "a", "timeout": 1e9}`,
		`{"communicateType": "rtu"}`, `{"serialPort": "/dev/a", "parity": "mark"}`, `{"serialPort": "/dev/a", "dataBits": 9}`, `{"serialPort": "/dev/a", "stopBits": 3}`, `{"serialPort": "/dev/a", "baudRate": 0.5}`} {
		if got, err := parseConfig(mapper.Config(bad)); err == nil {
			t.Errorf("%s: expected it to be refused, found %+v", bad, got)
		}
	}
}

// Whatever a manifest and a device say, a value that was read can be written and is the same again.
func FuzzValues(f *testing.F) {
	f.Add(`{"register": "HoldingRegister", "limit": 2, "scale": 0.1}`, "FLOAT", "1.5", []byte{1, 2, 3, 4})
	f.Add(`{"register": "HoldingRegister", "dataType": "text", "limit": 3}`, "STRING", "a", []byte("\xff\xfe1234"))
	f.Fuzz(func(t *testing.T, config, kind, value string, data []byte) {
		at, err := parseVisitor(mapper.Property{Type: kind, Config: mapper.Config(config)})
		if err != nil {
			return
		}
		if b, err := at.encode(value, kind); err == nil && len(b) != 2*int(at.count) {
			t.Errorf("%q became %d bytes", value, len(b))
		}
		_, _ = at.decode(data, kind) // either is right; it must not panic
		_, _ = parseConfig(mapper.Config(config))
	})
}
