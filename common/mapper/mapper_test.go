package mapper

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	dmi "github.com/tether-edge/tether/apis/dmi/v1beta1"
	"github.com/tether-edge/tether/common/device"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// edge is the other side.
type edge struct {
	dmi.UnimplementedDeviceManagerServiceServer
	t      *testing.T
	dir    string
	socket string
	server *grpc.Server

	mu            sync.Mutex
	devices       []*dmi.Device
	models        []*dmi.DeviceModel
	reports       []string
	registrations int
	deaf          bool
	refused       int
	// registering, if set, is called before a registration is answered.
	registering func()
}

func (e *edge) MapperRegister(_ context.Context, req *dmi.MapperRegisterRequest) (*dmi.MapperRegisterResponse, error) {
	if e.registering != nil {
		e.registering()
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.registrations++
	if req.GetMapper().GetProtocol() != "test" || !req.GetWithData() || len(req.GetMapper().GetAddress()) == 0 {
		e.t.Errorf("registered as %v", req)
	}
	return &dmi.MapperRegisterResponse{DeviceList: e.devices, ModelList: e.models}, nil
}

func (e *edge) ReportDeviceStatus(_ context.Context, req *dmi.ReportDeviceStatusRequest) (*dmi.ReportDeviceStatusResponse, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.deaf {
		e.refused++
		return nil, status.Error(codes.Unavailable, "not now")
	}
	for _, t := range req.GetReportedDevice().GetTwins() {
		text := fmt.Sprintf("%s %s=%s", req.GetDeviceName(), t.GetPropertyName(), t.GetReported().GetValue())
		if d := t.GetObservedDesired().GetValue(); d != "" {
			text += " wanted " + d
		}
		if why := t.GetObservedDesired().GetMetadata()[device.MetadataError]; why != "" {
			text += ": " + why
		}
		e.reports = append(e.reports, text)
	}
	return &dmi.ReportDeviceStatusResponse{}, nil
}

func (e *edge) ReportDeviceStates(_ context.Context, req *dmi.ReportDeviceStatesRequest) (*dmi.ReportDeviceStatesResponse, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.reports = append(e.reports, req.GetDeviceName()+" is "+req.GetState())
	return &dmi.ReportDeviceStatesResponse{}, nil
}

func (e *edge) heard() []string {
	e.mu.Lock()
	defer e.mu.Unlock()
	return slices.Clone(e.reports)
}

func (e *edge) start() {
	e.t.Helper()
	l, err := net.Listen("unix", e.socket)
	if err != nil {
		e.t.Fatal(err)
	}
	server := grpc.NewServer()
	dmi.RegisterDeviceManagerServiceServer(server, e)
	e.server = server
	go func() { _ = server.Serve(l) }() // ends with Stop
	e.t.Cleanup(server.Stop)
}

func newEdge(t *testing.T) *edge {
	dir := t.TempDir()
	e := &edge{t: t, dir: dir, socket: filepath.Join(dir, "dmi.sock")}
	e.start()
	return e
}

func (e *edge) waitFor(what string) {
	e.t.Helper()
	wait(e.t, what, func() (any, bool) { found := e.heard(); return found, slices.Contains(found, what) })
}

// pass lets a device be read n times, 20 ms apart.
func (e *edge) pass(p *plant, device string, n int) {
	e.t.Helper()
	for i := range n {
		p.set(device+"/get", fmt.Sprint(100+i))
		e.waitFor(fmt.Sprintf("%s get=%d", device, 100+i))
	}
}

func wait(t *testing.T, what string, condition func() (any, bool)) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(2 * time.Millisecond) {
		found, ok := condition()
		if ok {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("expected %s, found %v", what, found)
		}
	}
}

// plant are the devices that the mapper under test reaches.
type plant struct {
	mu     sync.Mutex
	values map[string]string // device/property
	writes map[string]int
	open   map[string]int
	fault  func(call, key string) error // may block
}

func newPlant() *plant {
	return &plant{values: map[string]string{}, writes: map[string]int{}, open: map[string]int{}}
}

func (p *plant) set(key, value string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.values[key] = value
}

func (p *plant) on(fault func(call, key string) error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.fault = fault
}

func (p *plant) try(call, key string) error {
	p.mu.Lock()
	fault := p.fault
	p.mu.Unlock()
	if fault == nil {
		return nil
	}
	return fault(call, key)
}

func (p *plant) count(counts map[string]int, key string) int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return counts[key]
}

type machine struct {
	p    *plant
	name string
}

func (p *plant) Open(_ context.Context, d Device) (Driver, error) {
	if err := p.try("open", d.Name); err != nil {
		return nil, err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.open[d.Name]++
	return &machine{p, d.Name}, nil
}

func (m *machine) Read(_ context.Context, p Property) (string, error) {
	if err := m.p.try("read", m.name+"/"+p.Name); err != nil {
		return "", err
	}
	m.p.mu.Lock()
	defer m.p.mu.Unlock()
	return m.p.values[m.name+"/"+p.Name], nil
}

func (m *machine) Write(_ context.Context, p Property, value string) error {
	key := m.name + "/" + p.Name
	m.p.mu.Lock()
	m.p.writes[key]++
	m.p.mu.Unlock()
	switch err := m.p.try("write", key); err {
	case nil:
		m.p.set(key, value)
	case errDeaf:
	default:
		return err
	}
	return nil
}

func (m *machine) Close() error {
	m.p.mu.Lock()
	defer m.p.mu.Unlock()
	m.p.open[m.name]--
	return nil
}

var testModel = &dmi.DeviceModel{Name: "m", Namespace: "default", Spec: &dmi.DeviceModelSpec{Properties: []*dmi.ModelProperty{
	{Name: "get", Type: "FLOAT", AccessMode: "ReadOnly"}, {Name: "set", Type: "INT", AccessMode: "ReadWrite"}}}}

// newDevice has properties get and set, read every 20 ms.
func newDevice(name, desired string) *dmi.Device {
	return &dmi.Device{Name: name, Namespace: "default", Status: &dmi.DeviceStatus{}, Spec: &dmi.DeviceSpec{DeviceModelReference: "m",
		Properties: []*dmi.DeviceProperty{{Name: "get", CollectCycle: 20}, {Name: "set", CollectCycle: 20, Desired: &dmi.TwinProperty{Value: desired}}}}}
}

// run starts a mapper, waits until it is registered and returns a client of it.
func (e *edge) run(p *plant, change ...func(*Options)) dmi.DeviceMapperServiceClient {
	e.t.Helper()
	o := Options{Protocol: "test", Socket: filepath.Join(e.dir, "mapper.sock"), EdgeSocket: e.socket, Open: p.Open, Timeout: time.Second, RetryMax: 50 * time.Millisecond,
		Log: slog.New(slog.DiscardHandler)}
	for _, c := range change {
		c(&o)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- Run(ctx, o) }()
	conn, err := grpc.NewClient("unix:"+o.Socket, grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithDefaultCallOptions(grpc.WaitForReady(true)))
	if err != nil {
		e.t.Fatal(err)
	}
	e.t.Cleanup(func() {
		_ = conn.Close() // nothing is in flight
		cancel()
		if err := <-ended; err != nil {
			e.t.Errorf("Run: %v", err)
		}
	})
	client := dmi.NewDeviceMapperServiceClient(conn)
	wait(e.t, "the mapper to be registered", func() (any, bool) {
		_, err := client.GetDevice(e.t.Context(), &dmi.GetDeviceRequest{DeviceNamespace: "default", DeviceName: "none"})
		return err, status.Code(err) == codes.NotFound
	})
	return client
}

func TestADeviceIsReadWrittenAndReported(t *testing.T) {
	e, p := newEdge(t), newPlant()
	e.models, e.devices = []*dmi.DeviceModel{testModel}, []*dmi.Device{newDevice("pump", "+45")}
	p.set("pump/get", "1.5")
	client := e.run(p)
	e.waitFor("pump get=1.5")
	e.waitFor("pump set=+45 wanted +45")
	e.waitFor("pump is online")
	p.set("pump/get", "1.6")
	e.waitFor("pump get=1.6")
	// What does not change is not reported again, and what is desired once not written again, though somebody turned the knob.
	p.set("pump/set", "50")
	e.waitFor("pump set=50 wanted +45")
	e.pass(p, "pump", 10)
	if _, err := client.UpdateDevice(t.Context(), &dmi.UpdateDeviceRequest{Device: newDevice("pump", "60")}); err != nil {
		t.Fatal(err)
	}
	e.waitFor("pump set=60 wanted 60")
	seen := map[string]int{}
	for _, r := range e.heard() {
		seen[r]++
	}
	for _, r := range []string{"pump get=1.5", "pump get=1.6", "pump set=+45 wanted +45", "pump is online"} {
		if seen[r] != 1 {
			t.Errorf("%q was reported %d times", r, seen[r])
		}
	}
	if n := p.count(p.writes, "pump/set"); n != 2 {
		t.Errorf("expected 2 writes, found %d", n)
	}
	got, err := client.GetDevice(t.Context(), &dmi.GetDeviceRequest{DeviceName: "pump", DeviceNamespace: "default"})
	if err != nil || got.GetDevice().GetStatus().GetTwins()[0].GetReported().GetValue() != "109" {
		t.Errorf("GetDevice: %v, %v", got, err)
	}
	if _, err := client.RemoveDevice(t.Context(), &dmi.RemoveDeviceRequest{DeviceName: "pump", DeviceNamespace: "default"}); err != nil {
		t.Fatal(err)
	}
	wait(t, "the device to be closed", func() (any, bool) { n := p.count(p.open, "pump"); return n, n == 0 })
	if _, err := client.RemoveDevice(t.Context(), &dmi.RemoveDeviceRequest{DeviceName: "pump", DeviceNamespace: "default"}); status.Code(err) != codes.NotFound {
		t.Errorf("expected NotFound, found %v", err)
	}
}

func TestAValueThatStaysIsReportedEveryReportCycle(t *testing.T) {
	e, p := newEdge(t), newPlant()
	d := newDevice("pump", "")
	d.Spec.Properties[0].ReportCycle = 50
	d.Status = &dmi.DeviceStatus{ReportToCloud: true, ReportCycle: 50}
	e.models, e.devices = []*dmi.DeviceModel{testModel}, []*dmi.Device{d}
	p.set("pump/get", "1")
	p.set("pump/set", "7")
	e.run(p)
	count := func(what string) int {
		return len(slices.DeleteFunc(e.heard(), func(r string) bool { return r != what }))
	}
	wait(t, "repeated reports", func() (any, bool) { return e.heard(), count("pump get=1") >= 3 && count("pump is online") >= 3 })
	if n := count("pump set=7"); n != 1 {
		t.Errorf("a property without reportCycle was reported %d times", n)
	}
}

func TestALostDeviceIsOpenedAgain(t *testing.T) {
	e, p := newEdge(t), newPlant()
	e.models, e.devices = []*dmi.DeviceModel{testModel}, []*dmi.Device{newDevice("pump", "45")}
	e.run(p)
	e.waitFor("pump set=45 wanted 45")
	p.on(func(string, string) error { return errors.New("cable cut") })
	e.waitFor("pump is offline")
	wait(t, "the device to be closed", func() (any, bool) { n := p.count(p.open, "pump"); return n, n == 0 })
	p.set("pump/set", "0") // it restarted
	p.on(nil)
	wait(t, "the device to have what is desired", func() (any, bool) { n := p.count(p.writes, "pump/set"); return n, n == 2 })
	wait(t, "online after offline", func() (any, bool) {
		r := e.heard()
		return r, slices.Index(r, "pump is offline") < len(r)-1-slices.Index(reversed(r), "pump is online")
	})
}

func reversed(in []string) []string { out := slices.Clone(in); slices.Reverse(out); return out }

func TestADriverThatHangsOrPanicsHoldsUpNoOther(t *testing.T) {
	e, p := newEdge(t), newPlant()
	e.models, e.devices = []*dmi.DeviceModel{testModel}, []*dmi.Device{newDevice("hung", ""), newDevice("mad", ""), newDevice("well", "1")}
	release := make(chan struct{})
	p.on(func(_, key string) error {
		if strings.HasPrefix(key, "hung") {
			<-release
		}
		if strings.HasPrefix(key, "mad/") {
			panic("mad")
		}
		return nil
	})
	client := e.run(p)
	e.waitFor("well set=1 wanted 1")
	e.waitFor("mad is offline")
	if _, err := client.RemoveDevice(t.Context(), &dmi.RemoveDeviceRequest{DeviceName: "hung", DeviceNamespace: "default"}); err != nil {
		t.Error(err)
	}
	close(release)
}

func TestReportsThatTheEdgeDidNotTakeAreSentLater(t *testing.T) {
	e, p := newEdge(t), newPlant()
	rare := newDevice("pump", "")
	rare.Spec.Properties[0].CollectCycle, rare.Spec.Properties[1].CollectCycle = 3_600_000, 3_600_000
	e.models, e.devices, e.deaf = []*dmi.DeviceModel{testModel}, []*dmi.Device{rare}, true
	p.set("pump/get", "1")
	e.run(p)
	wait(t, "a report", func() (any, bool) { e.mu.Lock(); defer e.mu.Unlock(); return e.refused, e.refused >= 1 })
	e.mu.Lock()
	e.deaf = false
	e.mu.Unlock()
	e.waitFor("pump get=1")
	e.waitFor("pump is online")
}

func TestTheMapperRegistersAgainWhenTheEdgeRestarted(t *testing.T) {
	e, p := newEdge(t), newPlant()
	e.models, e.devices = []*dmi.DeviceModel{testModel}, []*dmi.Device{newDevice("stays", "1"), newDevice("goes", "1")}
	e.run(p)
	e.waitFor("stays set=1 wanted 1")
	e.waitFor("goes set=1 wanted 1")
	e.server.Stop()
	e.mu.Lock()
	e.devices = []*dmi.Device{newDevice("stays", "2"), newDevice("comes", "3")}
	e.mu.Unlock()
	e.start()
	e.waitFor("stays set=2 wanted 2")
	e.waitFor("comes set=3 wanted 3")
	wait(t, "the device that went to be closed", func() (any, bool) { n := p.count(p.open, "goes"); return n, n == 0 })
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.registrations != 2 || p.count(p.open, "stays") != 1 {
		t.Errorf("%d registrations, the device that stays is open %d times", e.registrations, p.count(p.open, "stays"))
	}
}

// The edge may call before the mapper has its answer, which says what there was before that call. A call is then refused, since the
// edge makes that again, instead of taken and undone by the answer.
func TestACallWhileTheMapperRegistersIsMadeAgain(t *testing.T) {
	e, p := newEdge(t), newPlant()
	var early []error
	e.registering = func() {
		conn, err := grpc.NewClient("unix://"+filepath.Join(e.dir, "mapper.sock"), grpc.WithTransportCredentials(insecure.NewCredentials()))
		if err != nil {
			t.Error(err)
			return
		}
		defer conn.Close()
		client := dmi.NewDeviceMapperServiceClient(conn)
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		_, model := client.CreateDeviceModel(ctx, &dmi.CreateDeviceModelRequest{Model: testModel})
		_, device := client.RegisterDevice(ctx, &dmi.RegisterDeviceRequest{Device: newDevice("pump", "45")})
		_, get := client.GetDevice(ctx, &dmi.GetDeviceRequest{DeviceNamespace: "default", DeviceName: "pump"})
		_, remove := client.RemoveDevice(ctx, &dmi.RemoveDeviceRequest{DeviceNamespace: "default", DeviceName: "pump"})
		_, removeModel := client.RemoveDeviceModel(ctx, &dmi.RemoveDeviceModelRequest{ModelNamespace: "default", ModelName: testModel.GetName()})
		early = []error{model, device, get, remove, removeModel}
	}
	client := e.run(p)
	for i, err := range early {
		if status.Code(err) != codes.Unavailable {
			t.Errorf("call %d during the registration: %v, expected to be told to call again", i, err)
		}
	}
	if len(early) == 0 {
		t.Error("the edge called nothing")
	}
	if _, err := client.CreateDeviceModel(t.Context(), &dmi.CreateDeviceModelRequest{Model: testModel}); err != nil {
		t.Fatal(err)
	}
	if _, err := client.RegisterDevice(t.Context(), &dmi.RegisterDeviceRequest{Device: newDevice("pump", "45")}); err != nil {
		t.Fatal(err)
	}
	e.waitFor("pump is online")
}

// Behind a new connection may be an edge that knows nothing of what was reported to the one before: of a new disk, for one.
func TestAllIsReportedToAnEdgeThatRestarted(t *testing.T) {
	e, p := newEdge(t), newPlant()
	e.models, e.devices = []*dmi.DeviceModel{testModel}, []*dmi.Device{newDevice("pump", "45")}
	p.set("pump/get", "1.5")
	e.run(p)
	all := []string{"pump get=1.5", "pump set=45 wanted 45", "pump is online"}
	for range 3 {
		for _, what := range all {
			e.waitFor(what)
		}
		e.server.Stop()
		e.mu.Lock()
		e.reports = nil
		e.mu.Unlock()
		e.start()
	}
	if n := p.count(p.writes, "pump/set"); n != 1 {
		t.Errorf("expected 1 write, found %d", n)
	}
}

func TestTheEdgeGivesDevicesByCalls(t *testing.T) {
	e, p := newEdge(t), newPlant()
	client := e.run(p)
	ctx := t.Context()
	if _, err := client.RegisterDevice(ctx, &dmi.RegisterDeviceRequest{Device: newDevice("pump", "1")}); status.Code(err) != codes.FailedPrecondition {
		t.Errorf("expected FailedPrecondition without the model, found %v", err)
	}
	if _, err := client.CreateDeviceModel(ctx, &dmi.CreateDeviceModelRequest{Model: testModel}); err != nil {
		t.Fatal(err)
	}
	if _, err := client.RegisterDevice(ctx, &dmi.RegisterDeviceRequest{Device: newDevice("pump", "1")}); err != nil {
		t.Fatal(err)
	}
	e.waitFor("pump set=1 wanted 1")
	for _, err := range []error{
		second(client.RegisterDevice(ctx, &dmi.RegisterDeviceRequest{})), second(client.UpdateDevice(ctx, &dmi.UpdateDeviceRequest{})), second(client.CreateDeviceModel(ctx, &dmi.CreateDeviceModelRequest{})),
	} {
		if status.Code(err) != codes.InvalidArgument {
			t.Errorf("expected InvalidArgument, found %v", err)
		}
	}
	if _, err := client.RemoveDeviceModel(ctx, &dmi.RemoveDeviceModelRequest{ModelName: "m", ModelNamespace: "default"}); err != nil {
		t.Error(err)
	}
}

func second[T any](_ T, err error) error { return err }

func TestValuesArePushedByHTTP(t *testing.T) {
	got := make(chan string, 100)
	web := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if err := r.ParseForm(); err != nil {
			t.Error(err)
		}
		got <- r.Method + " " + r.URL.Path + " " + r.Form.Get("get") + " " + r.Form.Get("time")
	}))
	defer web.Close()
	e, p := newEdge(t), newPlant()
	d := newDevice("pump", "")
	host, port, err := net.SplitHostPort(strings.TrimPrefix(web.URL, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	var n int64
	if _, err := fmt.Sscan(port, &n); err != nil {
		t.Fatal(err)
	}
	d.Spec.Properties[0].PushMethod = &dmi.PushMethod{Http: &dmi.PushMethodHTTP{Hostname: "http://" + host, Port: n, Requestpath: "/values"}, Otel: &dmi.PushMethodOTEL{}, AnomalyDetection: &dmi.AnomalyDetection{}}
	d.Spec.Properties[1].PushMethod = &dmi.PushMethod{Http: &dmi.PushMethodHTTP{Hostname: "ftp://nowhere"}}
	e.models, e.devices = []*dmi.DeviceModel{testModel}, []*dmi.Device{d}
	p.set("pump/get", "1 & 2")
	var log syncLog
	e.run(p, func(o *Options) { o.Log = slog.New(slog.NewTextHandler(&log, nil)) })
	if found := <-got; !strings.HasPrefix(found, "POST /values 1 & 2 20") {
		t.Errorf("found %q", found)
	}
	for _, part := range []string{"does not support the method yet\" device=default/pump property=get method=otel",
		"does not support the method yet\" device=default/pump property=get method=anomalyDetection", "expected hostName with http://"} {
		if !strings.Contains(log.String(), part) {
			t.Errorf("expected %s in the log, found %s", part, log.String())
		}
	}
	http.DefaultClient.CloseIdleConnections()
}

type syncLog struct {
	mu   sync.Mutex
	text strings.Builder
}

func (l *syncLog) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

func (l *syncLog) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

func TestWhatAnEdgeSaysOfADeviceIsRead(t *testing.T) {
	config, err := device.ConfigToDMI([]byte(`{"port": 502, "ip": "192.0.2.7"}`))
	if err != nil {
		t.Fatal(err)
	}
	d := newDevice("pump", "45")
	d.Spec.Protocol = &dmi.ProtocolConfig{ConfigData: &dmi.CustomizedValue{Data: config}}
	d.Spec.Properties[1].ReportCycle, d.Spec.Properties[1].CollectCycle = 1<<62, -1
	got, err := fromDMI(d, testModel)
	if err != nil {
		t.Fatal(err)
	}
	var c struct {
		IP   string
		Port int
	}
	if err := got.Config.Into(&c); err != nil || c.IP != "192.0.2.7" || c.Port != 502 {
		t.Errorf("config %+v, %v", c, err)
	}
	set := got.Properties[1]
	if set.Type != "INT" || set.ReadOnly || set.Desired != "45" || set.Collect != time.Second || set.Report < 0 || !got.Properties[0].ReadOnly || got.Properties[0].Collect != 20*time.Millisecond {
		t.Errorf("found %+v", got.Properties)
	}
}

func TestAMapperListensBesideTheEdge(t *testing.T) {
	open := newPlant().Open
	here, err := filepath.Abs("x/mapper-p.sock")
	if err != nil {
		t.Fatal(err)
	}
	for edge, want := range map[string]string{"x/dmi.sock": here, "": "/etc/kubeedge/mapper-p.sock", "/run/edge-1/dmi.sock": "/run/edge-1/mapper-p.sock"} {
		if o, err := (Options{Protocol: "a/p", EdgeSocket: edge, Open: open}).withDefaults(); err != nil || o.Socket != want {
			t.Errorf("beside %q: %q, %v, expected %s", edge, o.Socket, err, want)
		}
	}
}

func TestAMapperSaysWhatItLacks(t *testing.T) {
	if err := Run(t.Context(), Options{}); err == nil || !strings.Contains(err.Error(), "protocol") {
		t.Errorf("found %v", err)
	}
}
