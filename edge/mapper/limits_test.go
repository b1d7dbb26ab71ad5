package mapper

import (
	"context"
	"encoding/base64"
	"fmt"
	"io"
	"log/slog"
	"net"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/tether-edge/tether/apis/devices/v1beta1"
	dmi "github.com/tether-edge/tether/apis/dmi/v1beta1"
)

// valve passes connections on to a socket; shut, it holds back what it is sent, as a stopped process does.
type valve struct {
	mu     sync.Mutex
	opened *sync.Cond
	closed bool
}

func newValve(t *testing.T, path, target string) *valve {
	t.Helper()
	v := &valve{}
	v.opened = sync.NewCond(&v.mu)
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	var copies sync.WaitGroup
	var conns []net.Conn
	copies.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			to, err := net.Dial("unix", target)
			if err != nil {
				t.Error(err)
				return
			}
			v.mu.Lock()
			conns = append(conns, c, to)
			v.mu.Unlock()
			copies.Go(func() { _, _ = io.Copy(v.gate(to), c) }) // ends with either connection
			copies.Go(func() { _, _ = io.Copy(c, to) })
		}
	})
	t.Cleanup(func() {
		v.shut(false)
		_ = l.Close()
		v.mu.Lock()
		for _, c := range conns {
			_ = c.Close()
		}
		v.mu.Unlock()
		copies.Wait()
	})
	return v
}

type gated struct {
	v *valve
	w io.Writer
}

func (v *valve) gate(w io.Writer) io.Writer { return gated{v, w} }

func (g gated) Write(p []byte) (int, error) {
	g.v.mu.Lock()
	for g.v.closed {
		g.v.opened.Wait()
	}
	g.v.mu.Unlock()
	return g.w.Write(p)
}

func (v *valve) shut(closed bool) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.closed = closed
	v.opened.Broadcast()
}

func TestGarbageIsRefused(t *testing.T) {
	e := newEnv(t)
	e.put("modbus", "pump", "1")
	register := func(protocol, address string) string {
		return fmt.Sprintf(`{"mapper": {"protocol": %q, "address": %q}}`, protocol, base64.StdEncoding.EncodeToString([]byte(address)))
	}
	report := func(twins string) string {
		return `{"deviceName": "pump", "deviceNamespace": "default", "reportedDevice": {"twins": [` + twins + `]}}`
	}
	many := make([]string, 1001)
	for i := range many {
		many[i] = fmt.Sprintf(`{"propertyName": "p%d"}`, i)
	}
	for _, c := range []struct {
		code            codes.Code
		method, request string
	}{
		{codes.InvalidArgument, "MapperRegister", `{}`},
		{codes.InvalidArgument, "MapperRegister", register("", "/run/a.sock")},
		{codes.InvalidArgument, "MapperRegister", register("modbus", "")},
		{codes.InvalidArgument, "MapperRegister", register("modbus", "relative.sock")},
		{codes.InvalidArgument, "MapperRegister", register("modbus", "tcp://192.0.2.1:1")},
		{codes.InvalidArgument, "MapperRegister", register("modbus", "@abstract")},
		{codes.InvalidArgument, "MapperRegister", register("modbus", "/run/../etc/a.sock")},
		{codes.InvalidArgument, "MapperRegister", register("modbus", "/run/a\x00.sock")},
		{codes.InvalidArgument, "MapperRegister", register("modbus", "/"+strings.Repeat("a", 200))},
		{codes.InvalidArgument, "MapperRegister", register("modbus", e.socket)},
		{codes.InvalidArgument, "MapperRegister", register("mod\nbus", "/run/a.sock")},
		{codes.InvalidArgument, "MapperRegister", register(strings.Repeat("m", 300), "/run/a.sock")},
		{codes.NotFound, "ReportDeviceStatus", `{"deviceName": "stranger", "reportedDevice": {"twins": [{"propertyName": "get"}]}}`},
		{codes.InvalidArgument, "ReportDeviceStatus", `{"deviceName": "a/b", "reportedDevice": {"twins": [{"propertyName": "get"}]}}`},
		{codes.InvalidArgument, "ReportDeviceStatus", `{}`},
		{codes.InvalidArgument, "ReportDeviceStatus", report("")},
		{codes.InvalidArgument, "ReportDeviceStatus", report(`{"propertyName": "stranger", "reported": {"value": "1"}}`)},
		{codes.InvalidArgument, "ReportDeviceStatus", report(`{"propertyName": "get", "reported": {"value": "` + strings.Repeat("v", v1beta1.MaxReportedBytes+1) + `"}}`)},
		{codes.InvalidArgument, "ReportDeviceStatus", report(`{"propertyName": "get", "observedDesired": {"value": "` + strings.Repeat("v", v1beta1.MaxDesiredBytes+1) + `"}}`)},
		{codes.InvalidArgument, "ReportDeviceStatus", report(`{"propertyName": "get", "reported": {"value": "1", "metadata": {"k": "` + strings.Repeat("v", v1beta1.MaxMetadataBytes) + `"}}}`)},
		{codes.InvalidArgument, "ReportDeviceStatus", report(`{"propertyName": "get", "reported": {"value": "1", "metadata": ` + entries(v1beta1.MaxMetadata+1) + `}}`)},
		{codes.InvalidArgument, "ReportDeviceStatus", report(`{"propertyName": "get", "observedDesired": {"value": "1", "metadata": ` + entries(v1beta1.MaxMetadata+2) + `}}`)},
		{codes.InvalidArgument, "ReportDeviceStatus", report(strings.Join(many, ", "))},
		{codes.ResourceExhausted, "ReportDeviceStatus", report(`{"propertyName": "get", "reported": {"value": "` + strings.Repeat("v", 2<<20) + `"}}`)},
		{codes.InvalidArgument, "ReportDeviceStates", `{"deviceName": "pump", "state": "splendid"}`},
		{codes.NotFound, "ReportDeviceStates", `{"deviceName": "stranger", "state": "ok"}`},
	} {
		if _, err := e.try(c.method, c.request); status.Code(err) != c.code {
			t.Errorf("%s %.120s: expected %v, found %v", c.method, c.request, c.code, err)
		}
	}
	if found := e.engine.heard(); len(found) > 0 {
		t.Errorf("the engine heard %q", found)
	}
	e.engine.fail = status.Error(codes.FailedPrecondition, "full")
	if _, err := e.try("ReportDeviceStates", `{"deviceName": "pump", "state": "ok"}`); status.Code(err) != codes.FailedPrecondition {
		t.Errorf("expected the engine's own code, found %v", err)
	}
}

// entries are so many of metadata, as JSON.
func entries(n int) string {
	var all []string
	for i := range n {
		all = append(all, fmt.Sprintf(`"k%d": "v"`, i))
	}
	return "{" + strings.Join(all, ", ") + "}"
}

func TestAFaultOfOursEndsOneCall(t *testing.T) {
	e := newEnv(t)
	e.engine.mu.Lock()
	e.engine.entries["default/odd"] = Entry{Device: &v1beta1.Device{}, Model: nil}
	e.engine.mu.Unlock()
	e.server.deps.Devices = panicking{e.engine}
	if _, err := e.try("ReportDeviceStates", `{"deviceName": "odd", "state": "ok"}`); status.Code(err) != codes.Internal {
		t.Errorf("expected Internal, found %v", err)
	}
}

type panicking struct{ *engine }

func (panicking) ReportState(context.Context, string, string, string) error { panic("boom") }

func TestMappersAreBounded(t *testing.T) {
	e := newEnv(t, func(c *Config) { c.MaxMappers = 2 })
	first := e.mapper("a", false)
	e.mapper("b", false)
	e.isConnected("a", true)
	e.isConnected("b", true)
	request := fmt.Sprintf(`{"mapper": {"protocol": "c", "address": %q}}`, base64.StdEncoding.EncodeToString([]byte(filepath.Join(e.dir, "c.sock"))))
	if _, err := e.try("MapperRegister", request); status.Code(err) != codes.ResourceExhausted {
		t.Errorf("expected ResourceExhausted, found %v", err)
	}
	first.stop()
	e.isConnected("a", false)
	e.call("MapperRegister", request)
	wait(t, "the one that is away to be forgotten", func() (any, bool) { row := e.memory.row("a"); return row, row == "" })
}

func TestCallsByMappersAreBounded(t *testing.T) {
	e := newEnv(t, func(c *Config) { c.MaxCalls, c.CallTimeout = 2, 5*time.Second })
	e.put("modbus", "pump", "1")
	e.engine.block = make(chan struct{})
	report := `{"deviceName": "pump", "reportedDevice": {"twins": [{"propertyName": "get", "reported": {"value": "1"}}]}}`
	var waiting sync.WaitGroup
	for range 2 {
		waiting.Go(func() { e.call("ReportDeviceStatus", report) })
	}
	wait(t, "two calls", func() (any, bool) { n := len(e.server.places); return n, n == 2 })
	if _, err := e.try("ReportDeviceStatus", report); status.Code(err) != codes.ResourceExhausted {
		t.Errorf("expected ResourceExhausted, found %v", err)
	}
	close(e.engine.block)
	waiting.Wait()
}

func FuzzParseAddress(f *testing.F) {
	for _, s := range []string{"/run/m.sock", "unix:///run/m.sock", "unix:/run/m.sock", "m.sock", "/a/../b", "\xff/", "unix:unix:///a"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, address []byte) {
		path, err := ParseAddress(address)
		if err == nil && (!filepath.IsAbs(path) || len(path) > maxPath || filepath.Clean(path) != path || strings.ContainsRune(path, 0)) {
			t.Errorf("%q became %q", address, path)
		}
	})
}

func FuzzParseRecord(f *testing.F) {
	f.Add([]byte(`{"protocol": "modbus", "address": "/run/m.sock", "devices": {"default/pump": "default/m", "x": "y"}, "models": ["default/m", ""]}`))
	f.Fuzz(func(t *testing.T, value []byte) {
		r, err := parseRecord(value)
		if err != nil {
			return
		}
		if r.Protocol == "" || r.Address == "" {
			t.Errorf("%q became %+v", value, r)
		}
	})
}

func FuzzReport(f *testing.F) {
	seed, err := proto.Marshal(&dmi.ReportDeviceStatusRequest{DeviceName: "pump", ReportedDevice: &dmi.DeviceStatus{Twins: []*dmi.Twin{{PropertyName: "get", Reported: &dmi.TwinProperty{Value: "1"}}}}})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(seed)
	s, err := New(Config{}, Deps{Devices: &engine{entries: map[string]Entry{"default/pump": {Device: &v1beta1.Device{Spec: v1beta1.DeviceSpec{Properties: []v1beta1.DeviceProperty{{Name: "get"}}}}}}}})
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		status, state, register := &dmi.ReportDeviceStatusRequest{}, &dmi.ReportDeviceStatesRequest{}, &dmi.MapperRegisterRequest{}
		if proto.Unmarshal(data, status) == nil {
			_, _ = s.judge(status.GetReportedDevice().GetTwins(), Entry{Device: &v1beta1.Device{}, Model: &v1beta1.DeviceModel{}}) // either is right; it must end
		}
		if proto.Unmarshal(data, state) == nil {
			_, _ = s.ReportDeviceStates(t.Context(), state)
		}
		if proto.Unmarshal(data, register) == nil {
			_, _ = parseRegistration(register.GetMapper())
		}
	})
}

// The edge stops while a mapper registers: the mapper's goroutine begins after the server has let go of its context.
func TestAMapperThatRegistersAtTheEndIsEnded(t *testing.T) {
	s, err := New(Config{Socket: filepath.Join(t.TempDir(), "dmi.sock")}, Deps{Devices: &engine{}, Memory: &memory{rows: map[string]string{}}, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	for range 100 {
		s.mu.Lock()
		s.ctx = t.Context()
		s.mu.Unlock()
		m, err := newMapper(s, record{Protocol: "knob", Address: "/nowhere"})
		if err != nil {
			t.Fatal(err)
		}
		if err := s.replace(m); err != nil {
			t.Fatal(err)
		}
		s.stopAll()
	}
}
