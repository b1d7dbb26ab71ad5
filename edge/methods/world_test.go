package methods

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/tether-edge/tether/apis/devices/v1beta1"
	dmi "github.com/tether-edge/tether/apis/dmi/v1beta1"
	common "github.com/tether-edge/tether/common/device"
	"github.com/tether-edge/tether/common/twin"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const deadline = 20 * time.Second

// plant is the engine of devices and the store in one: what is desired and what is kept are there together, or not at all.
type plant struct {
	mu      sync.Mutex // guards what follows
	devices map[id]Device
	notes   map[string]string
	desired []string // each desire, as device property=value
	away    map[id]bool
	writes  int // by Keep
	failing error
	unread  error
	server  *Server
	block   chan struct{} // if set, Desire and Keep wait for it
	leaving map[id]bool   // devices that go once they were looked at
	ready   chan struct{}
}

func newPlant() *plant {
	p := &plant{devices: map[id]Device{}, notes: map[string]string{}, away: map[id]bool{}, leaving: map[id]bool{}, ready: make(chan struct{})}
	close(p.ready)
	return p
}

func (p *plant) Ready() <-chan struct{} { return p.ready }

func (p *plant) Names() (all [][2]string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, key := range slices.Sorted(maps.Keys(p.devices)) {
		ns, name, _ := strings.Cut(key, "/")
		all = append(all, [2]string{ns, name})
	}
	return all
}

func (p *plant) Device(namespace, name string) (Device, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	d, ok := p.devices[common.ID(namespace, name)]
	d.Properties = maps.Clone(d.Properties)
	if p.leaving[common.ID(namespace, name)] {
		delete(p.devices, common.ID(namespace, name))
	}
	return d, ok
}

func (p *plant) Status(namespace, name string) ([]metav1.Condition, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return []metav1.Condition{{Type: "MapperConnected", Status: "True", Reason: "Connected"}}, !p.away[common.ID(namespace, name)]
}

func (p *plant) Desire(_ context.Context, namespace, name, uid, call string, values map[string]string, notes ...Note) error {
	p.wait()
	p.mu.Lock()
	defer p.mu.Unlock()
	d, ok := p.devices[common.ID(namespace, name)]
	if p.failing != nil {
		return p.failing
	}
	if !ok || string(d.Device.UID) != uid {
		return ErrUnknown
	}
	current := map[string]*twin.Property{}
	for property, value := range values {
		next := *d.Properties[property]
		next.Edge = &twin.Value{Value: value, Call: call}
		d.Properties[property], current[property] = &next, &next
		p.desired = append(p.desired, fmt.Sprintf("%s %s=%s", name, property, value))
	}
	p.keep(notes)
	p.server.Changed(namespace, name, current)
	return nil
}

func (p *plant) wait() {
	p.mu.Lock()
	block := p.block
	p.mu.Unlock()
	if block != nil {
		<-block
	}
}

func (p *plant) keep(notes []Note) {
	for _, n := range notes {
		if n.Value == nil {
			delete(p.notes, n.Key)
		} else {
			p.notes[n.Key] = string(n.Value)
		}
	}
}

func (p *plant) Keep(_ context.Context, notes ...Note) error {
	p.wait()
	p.mu.Lock()
	defer p.mu.Unlock()
	p.writes++
	if p.failing == nil {
		p.keep(notes)
	}
	return p.failing
}

func (p *plant) All(_ context.Context, _ string, visit func(string, []byte) error) error {
	p.mu.Lock()
	notes, err := maps.Clone(p.notes), p.unread
	p.unread = nil
	p.mu.Unlock()
	for key, value := range notes {
		if err := visit(key, []byte(value)); err != nil {
			return err
		}
	}
	return err
}

// edit changes what the plant is under its lock.
func (p *plant) edit(change func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	change()
}

func (p *plant) heard() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Clone(p.desired)
}

// boiler makes a device whose method heat sets setpoint and fan.
func (p *plant) boiler(name string) {
	model := &v1beta1.DeviceModel{ObjectMeta: metav1.ObjectMeta{Namespace: "plant", Name: "boiler"}, Spec: v1beta1.DeviceModelSpec{Protocol: "virtual", Properties: []v1beta1.ModelProperty{
		{Name: "setpoint", Type: v1beta1.Int, Minimum: "0", Maximum: "100"}, {Name: "fan", Type: v1beta1.Boolean}, {Name: "label", Type: v1beta1.String},
		{Name: "flow", Type: v1beta1.Float, AccessMode: v1beta1.ReadOnly}}}}
	d := &v1beta1.Device{ObjectMeta: metav1.ObjectMeta{Namespace: "plant", Name: name, UID: types.UID("uid-" + name)}, Spec: v1beta1.DeviceSpec{
		DeviceModelRef: &v1beta1.ModelReference{Name: "boiler"}, Properties: []v1beta1.DeviceProperty{{Name: "setpoint"}, {Name: "fan"}, {Name: "label"}, {Name: "flow"}},
		Methods: []v1beta1.DeviceMethod{{Name: "heat", Description: "warms", PropertyNames: []string{"setpoint", "fan"}}, {Name: "set", PropertyNames: []string{"setpoint"}},
			{Name: "name it/now", PropertyNames: []string{"label"}}, {Name: "nothing"}, {Name: "measure", PropertyNames: []string{"flow"}}, {Name: "wish", PropertyNames: []string{"color"}}}}}
	p.edit(func() {
		p.devices["plant/"+name] = Device{Device: d, Model: model, Properties: map[string]*twin.Property{"setpoint": {Own: true, Type: v1beta1.Int}, "fan": {Own: true}, "label": {Own: true}, "flow": {Own: true}}}
	})
}

// users lets in whose password is his name, unless it is busy; who has none may do everything.
type users struct{ read, desire map[string]bool }

func (u users) Login(local bool, name, password string) (user string, ok, busy bool) {
	return name, name == password, password == "busy"
}
func (u users) MayRead(user, namespace, name string) bool {
	return user == "" || u.read[user+" "+common.ID(namespace, name)]
}
func (u users) MayDesire(user, namespace, name string) bool {
	return user == "" || u.desire[user+" "+common.ID(namespace, name)]
}

type world struct {
	t *testing.T
	*plant
	cfg    Config
	users  users
	reg    *prometheus.Registry
	url    string
	client *http.Client
	stop   func()
}

func newWorld(t *testing.T, change ...func(*Config)) *world {
	t.Helper()
	w := &world{t: t, plant: newPlant(), cfg: Config{Listen: "127.0.0.1:0", MinTimeout: time.Millisecond, Timeout: deadline}, users: users{map[string]bool{}, map[string]bool{}}}
	w.boiler("b1")
	w.boiler("b2")
	for _, c := range change {
		c(&w.cfg)
	}
	w.start()
	t.Cleanup(func() { w.stop() })
	return w
}

// start is a process that begins.
func (w *world) start() {
	w.t.Helper()
	w.reg = prometheus.NewRegistry()
	s := New(w.cfg, Deps{Devices: w.plant, Memory: w.plant, Users: w.users, Log: slog.New(slog.DiscardHandler), Registry: w.reg})
	w.edit(func() { w.plant.server = s })
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- s.Start(ctx) }()
	eventually(w.t, "it listens", func() error {
		if len(s.Addresses()) == 0 {
			return errors.New("not yet")
		}
		return nil
	})
	w.url = "http://" + s.Addresses()[0]
	w.client = &http.Client{Transport: &http.Transport{}, Timeout: 2 * deadline}
	client := w.client
	w.stop = sync.OnceFunc(func() {
		cancel()
		client.CloseIdleConnections()
		if err := <-ended; err != nil {
			w.t.Errorf("Start: %v", err)
		}
	})
}

// restart is a process that ends, and another that begins.
func (w *world) restart() {
	w.t.Helper()
	w.stop()
	w.start()
}

func eventually(t *testing.T, what string, ask func() error) {
	t.Helper()
	end := time.Now().Add(deadline)
	for {
		err := ask()
		if err == nil {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("%s: %v", what, err)
		}
		time.Sleep(time.Millisecond)
	}
}

// reply is an answer with what it came with.
type reply struct {
	answer
	header http.Header
	err    error
}

// do asks. headers are pairs; one of user logs in.
func (w *world) do(ctx context.Context, verb, path, body string, headers ...string) reply {
	r, err := http.NewRequestWithContext(ctx, verb, w.url+path, strings.NewReader(body))
	if err != nil {
		return reply{err: err}
	}
	for i := 0; i < len(headers); i += 2 {
		switch headers[i] {
		case "user":
			name, password, _ := strings.Cut(headers[i+1], ":")
			r.SetBasicAuth(name, password)
		case "Host":
			r.Host = headers[i+1]
		default:
			r.Header.Add(headers[i], headers[i+1])
		}
	}
	resp, err := w.client.Do(r)
	if err != nil {
		return reply{err: err}
	}
	defer resp.Body.Close()
	var out reply
	data, err := io.ReadAll(resp.Body)
	if err == nil {
		d := json.NewDecoder(bytes.NewReader(data))
		d.DisallowUnknownFields()
		err = d.Decode(&out.answer)
	}
	if err == nil && out.Code != resp.StatusCode {
		err = fmt.Errorf("status %d with %s", resp.StatusCode, data)
	}
	out.header, out.err = resp.Header, err
	return out
}

// late calls a method that is begun and not read back. On a busy machine its turn may come too late, and it is called again.
func (w *world) late(device, method, key, body string, headers ...string) reply {
	w.t.Helper()
	for {
		r := w.post(device, method, "?timeout=20ms", key, body, headers...)
		w.is(r, http.StatusGatewayTimeout, "")
		if r.Call != "" {
			return r
		}
	}
}

// post calls a method of a boiler.
func (w *world) post(device, method, query, key, body string, headers ...string) reply {
	if key != "" {
		headers = append(headers, "Idempotency-Key", key)
	}
	return w.do(w.t.Context(), http.MethodPost, "/v1/devices/plant/"+device+"/methods/"+method+query, body, headers...)
}

// posting is post in the background.
func (w *world) posting(device, method, query, key, body string) <-chan reply {
	c := make(chan reply, 1)
	go func() { c <- w.post(device, method, query, key, body) }()
	return c
}

func (w *world) is(r reply, code int, reason string) {
	w.t.Helper()
	if r.err != nil || r.Code != code || !strings.Contains(strings.Join(r.Reasons, "; "), reason) {
		w.t.Fatalf("expected %d %q, found %+v, %v", code, reason, r.answer, r.err)
	}
}

func (w *world) gets(c <-chan reply, code int, reason string) reply {
	w.t.Helper()
	select {
	case r := <-c:
		w.is(r, code, reason)
		return r
	case <-time.After(deadline):
		w.t.Fatalf("no answer, expected %d", code)
		return reply{}
	}
}

// desires waits until exactly these desires were heard.
func (w *world) desires(want ...string) {
	w.t.Helper()
	slices.Sort(want)
	eventually(w.t, "desires", func() error {
		got := w.heard()
		slices.Sort(got)
		if !slices.Equal(got, want) {
			return fmt.Errorf("found %q, expected %q", got, want)
		}
		return nil
	})
}

// report is a mapper's: property, value, and the value that it saw desired; "" for none. As Tether's do, it names the call that
// desires that value; after a # it names another, or none.
func (w *world) report(device string, values ...string) {
	w.t.Helper()
	if err := w.reportFails(device, nil, values...); err != nil {
		w.t.Fatal(err)
	}
}

// reportFails is a report that the disk does not take, if failing is not nil.
func (w *world) reportFails(device string, failing error, values ...string) error {
	twins := w.twins(device, values...)
	notes, said, err := w.plant.server.Reporting(w.t.Context(), "plant", device, twins)
	if err != nil {
		return err
	}
	if failing == nil {
		w.edit(func() {
			w.keep(notes)
			for _, t := range twins {
				next := *w.devices["plant/"+device].Properties[t.PropertyName]
				next.Reported = &twin.Value{Value: t.Reported.Value}
				w.devices["plant/"+device].Properties[t.PropertyName] = &next
			}
		})
	}
	said(failing)
	return nil
}

func (p *plant) twins(device string, values ...string) (twins []v1beta1.Twin) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for i := 0; i < len(values); i += 3 {
		t := v1beta1.Twin{PropertyName: values[i], Reported: &v1beta1.TwinProperty{Value: values[i+1]}}
		if seen, call, named := strings.Cut(values[i+2], "#"); seen != "" {
			if !named {
				call = p.callOf(device, values[i], seen)
			}
			t.ObservedDesired = &v1beta1.TwinProperty{Value: seen, Metadata: calledBy(call)}
		}
		twins = append(twins, t)
	}
	return twins
}

// callOf returns the call that desires a value of a property, "" for none. Called with mu held.
func (p *plant) callOf(device, property, value string) string {
	own := p.devices["plant/"+device].Properties[property]
	if own == nil || own.Desired() == nil || !common.Same(own.Type, own.Desired().Value, value) {
		return ""
	}
	return own.Desired().Call
}

func calledBy(call string) map[string]string {
	if call == "" {
		return map[string]string{"timestamp": "1"}
	}
	return map[string]string{"timestamp": "1", common.MetadataCall: call}
}

// given is a mapper that takes what is desired of a property, by a call or none.
func (w *world) given(device, property, value, call string) {
	w.plant.server.Given(&dmi.Device{Namespace: "plant", Name: device, Spec: &dmi.DeviceSpec{Properties: []*dmi.DeviceProperty{{Name: property,
		Desired: &dmi.TwinProperty{Value: value, Metadata: calledBy(call)}}}}})
}

// calls is the call that desires a property of a device.
func (w *world) calls(device, property string) string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.devices["plant/"+device].Properties[property].Desired().Call
}

// cloud desires something else.
func (w *world) cloud(device, property, value string) {
	w.edit(func() {
		next := twin.Property{Own: true, Cloud: &twin.Value{Value: value}}
		w.devices["plant/"+device].Properties[property] = &next
		w.plant.server.Changed("plant", device, map[string]*twin.Property{property: &next})
	})
}

// waits fails if the only call of a device has an outcome.
func (w *world) waits(device string) {
	w.t.Helper()
	d := w.plant.server.desk
	d.mu.Lock()
	defer d.mu.Unlock()
	if n := len(d.pending["plant/"+device]); n != 1 {
		w.t.Fatalf("%d calls of %s wait for their outcome", n, device)
	}
}

// metric sums the series of one of the server's metrics.
func (w *world) metric(name string) (sum float64) {
	w.t.Helper()
	all, err := w.reg.Gather()
	if err != nil {
		w.t.Fatal(err)
	}
	for _, f := range all {
		if f.GetName() != "tether_methods_"+name {
			continue
		}
		for _, m := range f.GetMetric() {
			sum += m.GetCounter().GetValue() + m.GetGauge().GetValue() + float64(m.GetHistogram().GetSampleCount())
		}
	}
	return sum
}
