package mapper

import (
	"context"
	"encoding/base64"
	"fmt"
	"log/slog"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"github.com/tether-edge/tether/apis/devices/v1beta1"
	dmi "github.com/tether-edge/tether/apis/dmi/v1beta1"
	"github.com/tether-edge/tether/common/device"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// engine is the owner of devices.
type engine struct {
	mu      sync.Mutex
	entries map[string]Entry
	reports []string
	told    map[string]string
	up      map[string]bool
	said    []string // every call of Connected
	given   []string // every call of Given
	fail    error
	block   chan struct{}
}

func (e *engine) OfProtocol(protocol string) (out []Entry) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, id := range slices.Sorted(maps.Keys(e.entries)) {
		if entry := e.entries[id]; device.Protocol(entry.Device, entry.Model) == protocol {
			out = append(out, entry)
		}
	}
	return out
}

func (e *engine) Device(namespace, name string) (Entry, bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	entry, ok := e.entries[device.ID(namespace, name)]
	return entry, ok
}

func (e *engine) Report(ctx context.Context, namespace, name string, twins []v1beta1.Twin) error {
	if e.block != nil {
		select {
		case <-e.block:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, t := range twins {
		if t.Reported == nil {
			e.reports = append(e.reports, fmt.Sprintf("%s/%s %s: %s", namespace, name, t.PropertyName, t.ObservedDesired.Metadata[device.MetadataError]))
			continue
		}
		e.reports = append(e.reports, fmt.Sprintf("%s/%s %s=%s", namespace, name, t.PropertyName, t.Reported.Value))
	}
	return e.fail
}

func (e *engine) ReportState(_ context.Context, namespace, name, state string) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.reports = append(e.reports, fmt.Sprintf("%s/%s is %s", namespace, name, state))
	return e.fail
}

func (e *engine) heard() []string {
	e.mu.Lock()
	defer e.mu.Unlock()
	return slices.Clone(e.reports)
}

// allGiven is every call of Given since forgetGiven.
func (e *engine) allGiven() []string {
	e.mu.Lock()
	defer e.mu.Unlock()
	return slices.Clone(e.given)
}

func (e *engine) forgetGiven() {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.given = nil
}

func (e *engine) toldOf(id string) (string, bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	text, ok := e.told[id]
	return text, ok
}

func (e *engine) connected(protocol string) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.up[protocol]
}

// memory is a Memory.
type memory struct {
	mu   sync.Mutex
	rows map[string]string
	slow chan struct{} // if set, Put waits for it or its context
}

func (m *memory) Put(ctx context.Context, bucket, key string, value []byte) error {
	m.mu.Lock()
	slow := m.slow
	m.mu.Unlock()
	if slow != nil {
		select {
		case <-slow:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.rows[bucket+"/"+key] = string(value)
	return nil
}

func (m *memory) Delete(_ context.Context, bucket string, keys ...string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, key := range keys {
		delete(m.rows, bucket+"/"+key)
	}
	return nil
}

func (m *memory) All(_ context.Context, bucket string, visit func(string, []byte) error) error {
	m.mu.Lock()
	rows := maps.Clone(m.rows)
	m.mu.Unlock()
	for _, key := range slices.Sorted(maps.Keys(rows)) {
		if name, ok := strings.CutPrefix(key, bucket+"/"); ok {
			if err := visit(name, []byte(rows[key])); err != nil {
				return err
			}
		}
	}
	return nil
}

func (m *memory) row(key string) string {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.rows[bucket+"/"+key]
}

// env is an edge that mappers can register with.
type env struct {
	t      *testing.T
	dir    string
	socket string
	cfg    Config
	engine *engine
	memory *memory
	reg    *prometheus.Registry
	server *Server
	stop   func()
}

// unhurried is for tests that count calls: one that is given up on a busy machine is made again.
func unhurried(c *Config) { c.CallTimeout = time.Minute }

func newEnv(t *testing.T, change ...func(*Config)) *env {
	t.Helper()
	dir := t.TempDir()
	e := &env{t: t, dir: dir, socket: filepath.Join(dir, "dmi.sock"), memory: &memory{rows: map[string]string{}},
		engine: &engine{entries: map[string]Entry{}, told: map[string]string{}, up: map[string]bool{}}}
	e.cfg = Config{Socket: e.socket, CallTimeout: 300 * time.Millisecond, ProbeInterval: 100 * time.Millisecond, RetryBase: 20 * time.Millisecond, RetryMax: 100 * time.Millisecond}
	for _, c := range change {
		c(&e.cfg)
	}
	e.start()
	t.Cleanup(func() { e.stop() })
	return e
}

func (e *env) start() {
	e.t.Helper()
	e.reg = prometheus.NewRegistry()
	var err error
	e.server, err = New(e.cfg, Deps{Devices: e.engine, Memory: e.memory, Log: slog.New(slog.DiscardHandler), Registry: e.reg,
		Connected: func(protocol string, up bool, _ time.Time) {
			e.engine.mu.Lock()
			defer e.engine.mu.Unlock()
			e.engine.up[protocol] = up
			e.engine.said = append(e.engine.said, fmt.Sprint(protocol, " ", up))
		},
		Told: func(namespace, name string, err error) {
			e.engine.mu.Lock()
			defer e.engine.mu.Unlock()
			e.engine.told[device.ID(namespace, name)] = fmt.Sprint(err)
		},
		Given: func(d *dmi.Device) {
			e.engine.mu.Lock()
			defer e.engine.mu.Unlock()
			e.engine.given = append(e.engine.given, d.GetName()+" "+d.GetSpec().GetProperties()[0].GetDesired().GetValue())
		}})
	if err != nil {
		e.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	server := e.server
	go func() { ended <- server.Start(ctx) }()
	e.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-ended; err != nil {
			e.t.Errorf("Start: %v", err)
		}
	})
}

// wait waits for a condition that says what it found.
func wait(t *testing.T, what string, condition func() (found any, ok bool)) {
	t.Helper()
	deadline := time.Now().Add(20 * time.Second)
	for {
		found, ok := condition()
		if ok {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("expected %s, found %v", what, found)
		}
		time.Sleep(2 * time.Millisecond)
	}
}

func (e *env) knows(f *foreign, want string) {
	e.t.Helper()
	wait(e.t, "the mapper to know "+want, func() (any, bool) { found := f.state(); return found, found == want })
}

func (e *env) isConnected(protocol string, want bool) {
	e.t.Helper()
	wait(e.t, fmt.Sprintf("%s connected: %v", protocol, want), func() (any, bool) { up := e.engine.connected(protocol); return up, up == want })
}

// call makes a call to the edge that succeeds.
func (e *env) call(method, request string) string {
	e.t.Helper()
	out, err := e.try(method, request)
	if err != nil {
		e.t.Fatalf("%s: %v", method, err)
	}
	return out
}

func (e *env) try(method, request string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	return callEdge(ctx, e.socket, method, request)
}

// mapper starts a mapper and registers it.
func (e *env) mapper(protocol string, withData bool) *foreign {
	e.t.Helper()
	f := listenForeign(e.t, filepath.Join(e.dir, fmt.Sprintf("%s-%d.sock", protocol, time.Now().UnixNano())))
	e.register(protocol, f.address, withData)
	return f
}

func (e *env) register(protocol, address string, withData bool) string {
	e.t.Helper()
	return e.call("MapperRegister", fmt.Sprintf(`{"withData": %v, "mapper": {"name": "m", "version": "v1", "api_version": "v1beta1", "protocol": %q, "address": %q, "state": "ok"}}`,
		withData, protocol, base64.StdEncoding.EncodeToString([]byte(address))))
}

func newModel(protocol, name string) *v1beta1.DeviceModel {
	return &v1beta1.DeviceModel{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name}, Spec: v1beta1.DeviceModelSpec{Protocol: protocol,
		Properties: []v1beta1.ModelProperty{{Name: "set", Type: v1beta1.Int, AccessMode: v1beta1.ReadWrite, Maximum: "100"}, {Name: "get", Type: v1beta1.Float, AccessMode: v1beta1.ReadOnly}}}}
}

// put makes or changes a device of the model that has the protocol's name.
func (e *env) put(protocol, name, desired string, change ...func(*Entry)) {
	e.t.Helper()
	entry := Entry{Model: newModel(protocol, protocol), Device: &v1beta1.Device{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name},
		Spec: v1beta1.DeviceSpec{DeviceModelRef: &v1beta1.ModelReference{Name: protocol},
			Protocol: &v1beta1.ProtocolConfig{ProtocolName: protocol, ConfigData: &runtime.RawExtension{Raw: []byte(`{"nested": {"a": 1, "b": 2, "c": 3}}`)}},
			Properties: []v1beta1.DeviceProperty{{Name: "set", Desired: &v1beta1.TwinProperty{Value: desired, Metadata: map[string]string{"timestamp": fmt.Sprint(time.Now().UnixNano())}}},
				{Name: "get", ReportToCloud: new(true), CollectCycle: 1000}}}}}
	for _, c := range change {
		c(&entry)
	}
	e.engine.mu.Lock()
	e.engine.entries[device.ID("default", name)] = entry
	e.engine.mu.Unlock()
	e.server.Changed("default", name)
}

func (e *env) drop(name string) {
	e.engine.mu.Lock()
	delete(e.engine.entries, device.ID("default", name))
	e.engine.mu.Unlock()
	e.server.Changed("default", name)
}
