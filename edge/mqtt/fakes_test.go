package mqtt

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"sync"
	"testing"
	"time"

	paho "github.com/eclipse/paho.mqtt.golang"
	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// ram is a Memory. fail, while set, is what Apply returns.
type ram struct {
	mu      sync.Mutex
	buckets map[string]map[string][]byte
	fail    error
	gate    chan struct{} // while not nil, Apply waits for it
	commits int
}

func (r *ram) Apply(_ context.Context, changes []Change) error {
	r.mu.Lock()
	gate := r.gate
	r.mu.Unlock()
	if gate != nil {
		<-gate
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.fail != nil {
		return r.fail
	}
	r.commits++
	for _, c := range changes {
		if r.buckets == nil {
			r.buckets = map[string]map[string][]byte{}
		}
		if r.buckets[c.Bucket] == nil {
			r.buckets[c.Bucket] = map[string][]byte{}
		}
		if c.Value == nil {
			delete(r.buckets[c.Bucket], c.Key)
		} else {
			r.buckets[c.Bucket][c.Key] = c.Value
		}
	}
	return nil
}

func (r *ram) All(_ context.Context, bucket string, visit func(string, []byte) error) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	for k, v := range r.buckets[bucket] {
		if err := visit(k, v); err != nil {
			return err
		}
	}
	return nil
}

// image is what would be there after a power cut now.
func (r *ram) image() *ram {
	r.mu.Lock()
	defer r.mu.Unlock()
	c := &ram{buckets: map[string]map[string][]byte{}}
	for b, m := range r.buckets {
		c.buckets[b] = maps.Clone(m)
	}
	return c
}

func (r *ram) count(bucket string) int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.buckets[bucket])
}

func (r *ram) set(fail error, gate chan struct{}) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.fail, r.gate = fail, gate
}

// plant is a Devices with the devices plant/pump and plant/fan.
type plant struct {
	mu      sync.Mutex
	updates []Update
	begun   int           // calls of Update
	block   chan struct{} // while not nil, Update waits for it
	fail    error
	panics  bool
}

func text(s string) *string { return &s }

func (p *plant) known(namespace, name string) error {
	if namespace != "plant" || name != "pump" && name != "fan" {
		return fmt.Errorf("device %s/%s: %w", namespace, name, ErrNotFound)
	}
	return nil
}

func (p *plant) Update(ctx context.Context, namespace, name string, u Update) error {
	if err := p.known(namespace, name); err != nil {
		return err
	}
	p.mu.Lock()
	p.begun++
	block, fail, panics := p.block, p.fail, p.panics
	p.mu.Unlock()
	if panics {
		panic("the engine's fault")
	}
	if block != nil {
		select {
		case <-block:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	if fail != nil {
		return fail
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.updates = append(p.updates, u)
	return nil
}

func (p *plant) Twin(namespace, name string) (map[string]Property, error) {
	if err := p.known(namespace, name); err != nil {
		return nil, err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	speed := Property{Actual: &Value{Value: text("0")}, Metadata: &TypeMetadata{Type: "INT"}, ActualVersion: &Version{Edge: int64(len(p.updates))}}
	if n := len(p.updates); n > 0 {
		speed = p.updates[n-1].Twin["speed"]
	}
	return map[string]Property{"speed": speed, "unit": {Actual: &Value{Value: text("rpm")}}}, nil
}

func (p *plant) SetState(_ context.Context, namespace, name, state string) (Info, error) {
	return Info{Namespace: namespace, Name: name, State: state, LastOnline: "2026-01-02T03:04:05Z"}, p.known(namespace, name)
}

func (p *plant) List() []Info {
	return []Info{{Namespace: "plant", Name: "pump", State: "ok", Description: "cellar"}}
}

func (p *plant) count() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.updates)
}

func (p *plant) began() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.begun
}

func quietLog() *slog.Logger { return slog.New(slog.DiscardHandler) }

func clock() time.Time { return time.UnixMilli(1700000000123) }

// rig is a Service that runs.
type rig struct {
	*Service
	devices *plant
	mem     *ram
	reg     *prometheus.Registry
	stop    func()
}

// waiting is how many bytes wait for a client's acknowledgement.
func (r *rig) waiting(client string) int {
	b := r.broker.Load()
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.sessions[client].bytes
}

// start runs a Service on a port of its own; change adjusts its configuration.
func start(t *testing.T, mem *ram, change func(*Config)) *rig {
	t.Helper()
	cfg := Default("edge-1")
	cfg.Broker.Listen = "127.0.0.1:0"
	if change != nil {
		change(&cfg)
	}
	if err := cfg.Validate(); err != nil {
		t.Fatal(err)
	}
	r := &rig{devices: &plant{}, mem: mem, reg: prometheus.NewRegistry()}
	deps := Deps{Devices: r.devices, Log: quietLog(), Registry: r.reg, Now: clock}
	if testing.Verbose() {
		deps.Log = slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn}))
	}
	if mem != nil {
		deps.Memory = mem
	}
	r.Service = New(cfg, deps)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- r.Start(ctx) }()
	r.stop = sync.OnceFunc(func() {
		cancel()
		select {
		case err := <-done:
			if err != nil {
				t.Errorf("Start: %v", err)
			}
		case <-time.After(30 * time.Second):
			t.Error("Start does not return")
		}
	})
	t.Cleanup(r.stop)
	if cfg.Mode == External {
		return r
	}
	select {
	case <-r.Ready():
	case err := <-done:
		done <- err
		t.Fatalf("Start: %v", err)
	}
	return r
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	deadline := time.Now().Add(20 * time.Second)
	for !ok() {
		if time.Now().After(deadline) {
			t.Fatalf("after 20 s, still expected: %s", what)
		}
		time.Sleep(2 * time.Millisecond)
	}
}

type inbox struct {
	paho.Client
	got chan paho.Message
}

func options(addr, id string) *paho.ClientOptions {
	return paho.NewClientOptions().AddBroker("tcp://" + addr).SetClientID(id).SetAutoReconnect(false).SetProtocolVersion(4).SetConnectTimeout(10 * time.Second)
}

// dial connects a client whose messages arrive in got.
func dial(t *testing.T, o *paho.ClientOptions) *inbox {
	t.Helper()
	c := &inbox{got: make(chan paho.Message, 10000)}
	o.SetDefaultPublishHandler(func(_ paho.Client, m paho.Message) { c.got <- m })
	c.Client = paho.NewClient(o)
	if err := wait(c.Connect()); err != nil {
		t.Fatalf("connect: %v", err)
	}
	t.Cleanup(func() { c.Disconnect(0) })
	return c
}

func wait(token paho.Token) error {
	if !token.WaitTimeout(20 * time.Second) {
		return errors.New("no answer in 20 s")
	}
	return token.Error()
}

func (c *inbox) subscribe(t *testing.T, filter string, qos byte) {
	t.Helper()
	token := c.Subscribe(filter, qos, nil)
	if err := wait(token); err != nil {
		t.Fatalf("subscribe to %s: %v", filter, err)
	}
}

// granted subscribes and returns the code of the answer.
func (c *inbox) granted(t *testing.T, filter string) byte {
	t.Helper()
	token := c.Subscribe(filter, 1, nil)
	_ = wait(token) // an error says that it was refused, as the code does
	for _, code := range token.(*paho.SubscribeToken).Result() {
		return code
	}
	t.Fatalf("no answer to SUBSCRIBE %s", filter)
	return 0
}

func (c *inbox) publish(t *testing.T, topic string, qos byte, retained bool, payload any) {
	t.Helper()
	if err := wait(c.Publish(topic, qos, retained, payload)); err != nil {
		t.Fatalf("publish to %s: %v", topic, err)
	}
}

// next returns the next message.
func (c *inbox) next(t *testing.T) paho.Message {
	t.Helper()
	select {
	case m := <-c.got:
		return m
	case <-time.After(20 * time.Second):
		t.Fatal("no message in 20 s")
		return nil
	}
}

// expect fails unless the next message is that one.
func (c *inbox) expect(t *testing.T, topic, payload string) {
	t.Helper()
	if m := c.next(t); m.Topic() != topic || string(m.Payload()) != payload {
		t.Fatalf("expected %s on %s, found %s on %s", payload, topic, clip(string(m.Payload()), 300), m.Topic())
	}
}
