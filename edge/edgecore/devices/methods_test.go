package devices

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/crypto/bcrypt"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/tether-edge/tether/apis/config/v1alpha1"
	"github.com/tether-edge/tether/apis/devices/v1beta1"
	kit "github.com/tether-edge/tether/common/mapper"
	"github.com/tether-edge/tether/common/object"
	"github.com/tether-edge/tether/common/run"
	"github.com/tether-edge/tether/edge/store"
)

// A pump is a device at the site. What is written to it is remembered for the test.
type pump struct {
	mu     sync.Mutex // guards what follows
	values map[string]string
	writes []string
	deaf   bool // it takes what is written and does nothing
	full   int  // the highest speed that it takes; 0 for any
	// begun tells that a write began, which then waits for held to be closed; nil for none.
	begun, held chan struct{}
}

func (p *pump) Read(_ context.Context, q kit.Property) (string, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.values[q.Name], nil
}

func (p *pump) Write(_ context.Context, q kit.Property, value string) error {
	p.mu.Lock()
	if n, err := strconv.Atoi(value); err == nil && p.full > 0 && n > p.full {
		defer p.mu.Unlock()
		return fmt.Errorf("%w: expected at most %d, found %d", kit.ErrProperty, p.full, n)
	}
	p.writes = append(p.writes, q.Name+"="+value)
	begun, held := p.begun, p.held
	p.begun = nil
	if !p.deaf {
		p.values[q.Name] = value
	}
	p.mu.Unlock()
	if begun != nil {
		close(begun)
	}
	if held != nil {
		<-held // a driver that ignores its deadline
	}
	return nil
}

func (p *pump) Close() error { return nil }

func (p *pump) edit(change func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	change()
}

func (p *pump) written() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Clone(p.writes)
}

// gateway is an edge node's devices as edgecore joins them, on a real store and a real mapper's socket, without cloud and kubelet.
type gateway struct {
	t       *testing.T
	cfg     *v1alpha1.EdgeCore
	dir     string
	socket  string
	store   *store.Store
	core    *Devices
	pumps   map[string]*pump
	client  *http.Client
	stop    func()
	version uint64
}

func newGateway(t *testing.T, change ...func(*v1alpha1.EdgeCore)) *gateway {
	t.Helper()
	g := &gateway{t: t, cfg: v1alpha1.DefaultEdgeCore(), pumps: map[string]*pump{}, client: &http.Client{Transport: &http.Transport{}, Timeout: 2 * time.Minute}}
	g.cfg.Devices.MapperSocket, g.dir = filepath.Join(t.TempDir(), "dmi.sock"), t.TempDir()
	g.cfg.Devices.MQTT.Mode = v1alpha1.MQTTOff
	g.cfg.Devices.HTTP.BindAddress = "127.0.0.1:0"
	for _, c := range change {
		c(g.cfg)
	}
	for _, name := range []string{"pump-1", "pump-2"} {
		g.pumps[name] = &pump{values: map[string]string{"speed": "0", "mode": "idle"}}
	}
	g.start()
	g.put(&v1beta1.DeviceModel{ObjectMeta: metav1.ObjectMeta{Namespace: "plant", Name: "pump", UID: "m"}, Spec: v1beta1.DeviceModelSpec{Protocol: "test", Properties: []v1beta1.ModelProperty{
		{Name: "speed", Type: v1beta1.Int, Maximum: "1000"}, {Name: "mode", Type: v1beta1.String}}}}, object.DeviceModels)
	g.device("pump-1", "10")
	g.device("pump-2", "20")
	if err := g.store.MarkSynced(t.Context(), []object.ID{object.DeviceModels, object.Devices}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { g.stop() })
	t.Cleanup(g.client.CloseIdleConnections)
	return g
}

// start starts what of edgecore devices take.
func (g *gateway) start() {
	g.t.Helper()
	quiet := slog.New(slog.DiscardHandler)
	s, err := store.Open(g.t.Context(), store.Config{Dir: g.dir, NodeName: "edge-1", EventQuota: int64(g.cfg.Store.EventQuota), CopyInterval: time.Hour}, store.Deps{Log: quiet})
	if err != nil {
		g.t.Fatal(err)
	}
	core, err := New("edge-1", g.cfg.Devices, Deps{Store: s, Log: quiet, Now: time.Now, Registerer: prometheus.NewRegistry(),
		Happened: func(context.Context, object.Outgoing) error { return nil }})
	if err != nil {
		g.t.Fatal(err)
	}
	group := run.New(quiet)
	group.Add("store", s)
	core.Add(group)
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- group.Start(ctx) }()
	g.store, g.core = s, core
	g.stop = sync.OnceFunc(func() {
		cancel()
		if err := errors.Join(<-ended, s.Close()); err != nil {
			g.t.Errorf("the gateway ended with %v", err)
		}
	})
	g.eventually("it serves devices", func() error {
		if len(core.methods.Addresses()) == 0 {
			return errors.New("not yet")
		}
		return nil
	})
}

func (g *gateway) eventually(what string, ask func() error) {
	g.t.Helper()
	eventually(g.t, what, ask)
}

// eventually waits until ask returns nil.
func eventually(t *testing.T, what string, ask func() error) {
	t.Helper()
	tick, over := time.NewTicker(2*time.Millisecond), time.After(30*time.Second)
	defer tick.Stop()
	for {
		err := ask()
		if err == nil {
			return
		}
		select {
		case <-tick.C:
		case <-over:
			t.Fatalf("%s: %v", what, err)
		}
	}
}

// put is an object as the cloud sends it.
func (g *gateway) put(o object.Object, id object.ID) {
	g.t.Helper()
	kind, _ := object.Lookup(id)
	o.GetObjectKind().SetGroupVersionKind(kind.GroupVersionKind)
	g.version++
	o.SetResourceVersion(fmt.Sprint(g.version))
	body, err := object.Encode(kind, o)
	if err == nil {
		err = g.store.ApplyBatch(g.t.Context(), []store.Incoming{{Key: object.KeyOf(id, o), Version: object.Version{UID: string(o.GetUID()), RV: g.version}, Body: body}})
	}
	if err != nil {
		g.t.Fatal(err)
	}
}

// device is one that the cloud desires a speed of.
func (g *gateway) device(name, speed string) {
	g.t.Helper()
	g.put(&v1beta1.Device{ObjectMeta: metav1.ObjectMeta{Namespace: "plant", Name: name, UID: types.UID("uid-" + name)}, Spec: v1beta1.DeviceSpec{NodeName: "edge-1",
		DeviceModelRef: &v1beta1.ModelReference{Name: "pump"}, Properties: []v1beta1.DeviceProperty{
			{Name: "speed", CollectCycle: 20, Desired: &v1beta1.TwinProperty{Value: speed}}, {Name: "mode", CollectCycle: 20}},
		Methods: []v1beta1.DeviceMethod{{Name: "run", PropertyNames: []string{"speed", "mode"}}, {Name: "turn", PropertyNames: []string{"speed"}}}}}, object.Devices)
}

// mapper runs one until it is stopped.
func (g *gateway) mapper() (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	options := kit.Options{Protocol: "test", Socket: filepath.Join(filepath.Dir(g.cfg.Devices.MapperSocket), "test.sock"), EdgeSocket: g.cfg.Devices.MapperSocket, RetryMax: 100 * time.Millisecond,
		Log: slog.New(slog.DiscardHandler), Open: func(_ context.Context, d kit.Device) (kit.Driver, error) { return g.pumps[d.Name], nil }}
	go func() { ended <- kit.Run(ctx, options) }()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-ended; err != nil {
			g.t.Errorf("the mapper ended with %v", err)
		}
	})
	g.t.Cleanup(stop)
	return stop
}

type reply struct {
	Code       int
	Reasons    []string
	Call       string
	Properties map[string]struct{ Desired, Result, Reason, Reported string }
	Replayed   bool `json:"-"`
	err        error
}

// call calls a method of a pump.
func (g *gateway) call(device, method, key, body string) (r reply) {
	return g.callAs(device, method, key, body, "", "")
}

func (g *gateway) callAs(device, method, key, body, user, password string) (r reply) {
	request, err := http.NewRequestWithContext(g.t.Context(), http.MethodPost, "http://"+g.core.methods.Addresses()[0]+"/v1/devices/plant/"+device+"/methods/"+method, strings.NewReader(body))
	if err != nil {
		return reply{err: err}
	}
	request.Header.Set("Content-Type", "application/json")
	if key != "" {
		request.Header.Set("Idempotency-Key", key)
	}
	if user != "" {
		request.SetBasicAuth(user, password)
	}
	response, err := g.client.Do(request)
	if err != nil {
		return reply{err: err}
	}
	defer response.Body.Close()
	data, err := io.ReadAll(response.Body)
	if err == nil {
		err = json.Unmarshal(data, &r)
	}
	r.err, r.Replayed = err, response.Header.Get("Idempotency-Replayed") != ""
	return r
}

func (g *gateway) is(r reply, code int, reason string) {
	g.t.Helper()
	if r.err != nil || r.Code != code || !strings.Contains(strings.Join(r.Reasons, "; "), reason) {
		g.t.Fatalf("expected %d %q, found %+v", code, reason, r)
	}
}

// connected waits until the pump's mapper is there and the pump has what is desired of it.
func (g *gateway) connected(device, speed string) {
	g.t.Helper()
	g.eventually("the mapper is there", func() error {
		_, there := g.core.Engine.Health("plant", device)
		v, _ := g.core.Engine.Device("plant", device)
		if p := v.Properties["speed"]; !there || p == nil || p.Reported == nil || p.Reported.Value != speed {
			return fmt.Errorf("connected: %v, %+v", there, p)
		}
		return nil
	})
}

func (g *gateway) wrote(device string, want ...string) {
	g.t.Helper()
	if got := g.pumps[device].written(); !slices.Equal(got, want) {
		g.t.Errorf("%s was written %q, expected %q", device, got, want)
	}
}

func TestAMethodIsCalledThroughItsMapper(t *testing.T) {
	g := newGateway(t)
	g.eventually("the device is known", func() error {
		if r := g.call("pump-1", "turn", "", `{"speed": 50}`); r.Code != http.StatusServiceUnavailable {
			return fmt.Errorf("found %+v", r)
		}
		return nil
	})
	g.is(g.call("pump-1", "turn", "", `{"speed": 50}`), http.StatusServiceUnavailable, `the mapper of protocol "test" is away`)
	g.mapper()
	g.connected("pump-1", "10")
	r := g.call("pump-1", "run", "k", `{"speed": 50, "mode": "boost"}`)
	g.is(r, http.StatusOK, "")
	if p := r.Properties; p["speed"].Desired != "50" || p["speed"].Result != "done" || p["speed"].Reported != "50" || p["mode"].Reported != "boost" {
		t.Errorf("answered with %+v", r)
	}
	if again := g.call("pump-1", "run", "k", `{"speed": 50, "mode": "boost"}`); again.Code != http.StatusOK || again.Call != r.Call || !again.Replayed {
		t.Errorf("asked again it is %+v", again)
	}
	g.wrote("pump-1", "speed=10", "speed=50", "mode=boost")
	// Somebody turned it at the device: another call of the same value writes it, though nothing else is desired than before.
	g.pumps["pump-1"].edit(func() { g.pumps["pump-1"].values["speed"] = "7" })
	g.connected("pump-1", "7")
	g.is(g.call("pump-1", "turn", "", `{"speed": 50}`), http.StatusOK, "")
	g.wrote("pump-1", "speed=10", "speed=50", "mode=boost", "speed=50")
	// Also where the cloud desires just that.
	g.is(g.call("pump-1", "turn", "", `{"speed": 10}`), http.StatusOK, "")
	g.pumps["pump-1"].edit(func() { g.pumps["pump-1"].values["speed"] = "7" })
	g.connected("pump-1", "7")
	g.is(g.call("pump-1", "turn", "", `{"speed": "10"}`), http.StatusOK, "")
	g.wrote("pump-1", "speed=10", "speed=50", "mode=boost", "speed=50", "speed=10", "speed=10")
	// What the device has already is read back and not written.
	g.is(g.call("pump-1", "turn", "", `{"speed": 10}`), http.StatusOK, "")
	g.wrote("pump-1", "speed=10", "speed=50", "mode=boost", "speed=50", "speed=10", "speed=10")
}

func TestACallIsMadeOnceThoughTheAgentAndTheMapperRestart(t *testing.T) {
	g := newGateway(t)
	stop := g.mapper()
	g.connected("pump-1", "10")
	begun, held := make(chan struct{}), make(chan struct{})
	p := g.pumps["pump-1"]
	p.edit(func() { p.begun, p.held = begun, held })
	cut := make(chan reply, 1)
	go func() { cut <- g.call("pump-1", "turn", "k", `{"speed": 50}`) }()
	<-begun
	g.stop()
	g.is(<-cut, http.StatusServiceUnavailable, "ask again, with the same Idempotency-Key")
	p.edit(func() { p.held = nil })
	close(held)
	stop() // before it could report what it wrote
	g.start()
	g.mapper()
	g.connected("pump-1", "50")
	succeeds := func() { // as soon as the agent is up
		t.Helper()
		g.eventually("the call succeeds", func() error {
			if r := g.call("pump-1", "turn", "k", `{"speed": 50}`); r.Code != http.StatusOK {
				return fmt.Errorf("found %+v", r)
			}
			return nil
		})
	}
	succeeds()
	g.wrote("pump-1", "speed=10", "speed=50")
	// The cloud's value is another by the time that somebody asks for the call once more.
	g.device("pump-1", "60")
	g.connected("pump-1", "60")
	g.stop()
	g.start()
	g.connected("pump-1", "60")
	succeeds()
	g.wrote("pump-1", "speed=10", "speed=50", "speed=60")
}

func TestTheCloudsChangeHoldsOverACall(t *testing.T) {
	g := newGateway(t)
	g.mapper()
	g.connected("pump-1", "10")
	g.is(g.call("pump-1", "turn", "", `{"speed": 50}`), http.StatusOK, "")
	g.device("pump-1", "10") // as after a cut: nobody changed it
	g.is(g.call("pump-1", "run", "", `{"speed": 50, "mode": "on"}`), http.StatusOK, "")
	g.wrote("pump-1", "speed=10", "speed=50", "mode=on")
	p := g.pumps["pump-1"]
	p.edit(func() { p.deaf = true })
	result := make(chan reply, 1)
	go func() { result <- g.call("pump-1", "turn", "k", `{"speed": 70}`) }()
	g.eventually("it is written", func() error {
		if !slices.Contains(p.written(), "speed=70") {
			return errors.New("it is not")
		}
		return nil
	})
	p.edit(func() { p.deaf = false })
	g.device("pump-1", "80")
	g.is(<-result, http.StatusConflict, `"80" is desired now, before the device had "70"`)
	g.connected("pump-1", "80")
	g.is(g.call("pump-1", "turn", "k", `{"speed": 70}`), http.StatusConflict, `"80" is desired now`)
}

func TestADeviceThatHangsHoldsUpNoOthersCalls(t *testing.T) {
	g := newGateway(t)
	g.mapper()
	g.connected("pump-1", "10")
	g.connected("pump-2", "20")
	held, begun := make(chan struct{}), make(chan struct{})
	p := g.pumps["pump-1"]
	p.edit(func() { p.begun, p.held = begun, held })
	result := make(chan reply, 1)
	go func() { result <- g.call("pump-1", "turn", "", `{"speed": 50}`) }()
	<-begun
	g.is(g.call("pump-2", "turn", "", `{"speed": 30}`), http.StatusOK, "")
	p.edit(func() { p.held = nil })
	close(held)
	g.is(<-result, http.StatusOK, "")
}

// Users, anonymous and ACLs are those of MQTT, also where no broker runs.
func TestMethodsAreCalledByThoseWhoMayPublish(t *testing.T) {
	hash, err := bcrypt.GenerateFromPassword([]byte("secret"), bcrypt.MinCost)
	if err != nil {
		t.Fatal(err)
	}
	g := newGateway(t, func(cfg *v1alpha1.EdgeCore) {
		cfg.Devices.MQTT.Anonymous = false
		cfg.Devices.MQTT.Users = []v1alpha1.MQTTUser{{Name: "ann", PasswordHash: string(hash), ACL: []v1alpha1.MQTTAccess{{Filter: "$hw/events/device/plant/pump-1/#", Read: true, Write: true}}},
			{Name: "eve", PasswordHash: string(hash), ACL: []v1alpha1.MQTTAccess{{Filter: "$hw/events/device/plant/+/#", Read: true}, {Filter: "#", Write: true}}}}
	})
	g.mapper()
	g.connected("pump-1", "10")
	g.connected("pump-2", "20")
	const body = `{"speed": 50}`
	g.is(g.call("pump-1", "turn", "", body), http.StatusUnauthorized, "devices.mqtt.users")
	g.is(g.callAs("pump-1", "turn", "", body, "ann", "wrong"), http.StatusUnauthorized, "")
	g.is(g.callAs("pump-1", "turn", "", body, "eve", "secret"), http.StatusForbidden, "may not publish")
	g.is(g.callAs("pump-2", "turn", "", body, "ann", "secret"), http.StatusForbidden, "may not publish")
	g.is(g.callAs("pump-1", "turn", "", body, "ann", "secret"), http.StatusOK, "")
	shown := func(user string) (names []string) {
		request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+g.core.methods.Addresses()[0]+"/v1/devices", nil)
		if err != nil {
			t.Fatal(err)
		}
		request.SetBasicAuth(user, "secret")
		response, err := g.client.Do(request)
		if err != nil {
			t.Fatal(err)
		}
		defer response.Body.Close()
		var list struct{ Devices []struct{ Name string } }
		if err := json.NewDecoder(response.Body).Decode(&list); err != nil {
			t.Fatal(err)
		}
		for _, d := range list.Devices {
			names = append(names, d.Name)
		}
		return names
	}
	if ann, eve := fmt.Sprint(shown("ann")), fmt.Sprint(shown("eve")); ann != "[pump-1]" || eve != "[pump-1 pump-2]" {
		t.Errorf("ann sees %s, eve %s", ann, eve)
	}
}

// made builds the parts without running them.
func made(change func(*v1alpha1.EdgeDevices)) (*Devices, error) {
	cfg := v1alpha1.DefaultEdgeCore().Devices
	change(&cfg)
	return New("edge-1", cfg, Deps{Log: slog.New(slog.DiscardHandler), Now: time.Now, Registerer: prometheus.NewRegistry()})
}

func TestAWrongUserIsSaid(t *testing.T) {
	_, err := made(func(cfg *v1alpha1.EdgeDevices) {
		cfg.MQTT.Mode, cfg.MQTT.Users = v1alpha1.MQTTOff, []v1alpha1.MQTTUser{{Name: "ann", PasswordHash: "secret"}}
	})
	if err == nil || !strings.Contains(err.Error(), "devices.mqtt: users: users[0]: expected a bcrypt hash") {
		t.Errorf("found %v", err)
	}
}

// Users whom no port asks for are not judged: they must not keep a node down.
func TestUsersThatAreNobodysAreNotJudged(t *testing.T) {
	for _, mode := range []v1alpha1.MQTTMode{v1alpha1.MQTTOff, v1alpha1.MQTTExternal} {
		if _, err := made(func(cfg *v1alpha1.EdgeDevices) {
			cfg.HTTP.BindAddress, cfg.MQTT.Mode, cfg.MQTT.Server.URL = "", mode, "tcp://127.0.0.1:1883"
			cfg.MQTT.Users = []v1alpha1.MQTTUser{{Name: "ann", PasswordHash: "secret"}}
		}); err != nil {
			t.Errorf("%s: %v", mode, err)
		}
	}
}

// The users of a Secret are those of HTTP also where no broker runs.
func TestUsersOfASecretCallWithoutABroker(t *testing.T) {
	hash, err := bcrypt.GenerateFromPassword([]byte("secret"), bcrypt.MinCost)
	if err != nil {
		t.Fatal(err)
	}
	g := newGateway(t, func(cfg *v1alpha1.EdgeCore) {
		cfg.Devices.MQTT.UsersSecret = v1alpha1.MQTTUsersSecret{Namespace: "plant", Name: "users"}
	})
	ask := func() int {
		request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+g.core.methods.Addresses()[0]+"/v1/devices", nil)
		if err != nil {
			t.Fatal(err)
		}
		request.SetBasicAuth("ann", "secret")
		response, err := g.client.Do(request)
		if err != nil {
			t.Fatal(err)
		}
		response.Body.Close()
		return response.StatusCode
	}
	if code := ask(); code != http.StatusUnauthorized {
		t.Errorf("before the Secret has come: %d", code)
	}
	list := strings.Replace(goodList, annsHash, string(hash), 1)
	if err := g.store.ApplyBatch(t.Context(), []store.Incoming{userSecret(t, 1, map[string]string{v1alpha1.MQTTUsersKey: list})}); err != nil {
		t.Fatal(err)
	}
	g.eventually("ann is let in", func() error {
		if code := ask(); code != http.StatusOK {
			return fmt.Errorf("found %d", code)
		}
		return nil
	})
}

func TestWithoutAPortNoMethodIsCalled(t *testing.T) {
	d, err := made(func(cfg *v1alpha1.EdgeDevices) { cfg.HTTP.BindAddress = "" })
	if err != nil {
		t.Fatal(err)
	}
	if d.methods != nil {
		t.Error("there is a port")
	}
}
