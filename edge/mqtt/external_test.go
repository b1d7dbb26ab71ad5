package mqtt

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	paho "github.com/eclipse/paho.mqtt.golang"
	mochi "github.com/mochi-mqtt/server/v2"
	"github.com/mochi-mqtt/server/v2/hooks/auth"
	"github.com/mochi-mqtt/server/v2/listeners"
	"github.com/mochi-mqtt/server/v2/packets"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
)

// stranger is a broker that is not ours.
func stranger(t *testing.T, addr string) func() {
	t.Helper()
	s := mochi.New(&mochi.Options{Logger: slog.New(slog.DiscardHandler)})
	ledger := &auth.Ledger{Auth: auth.AuthRules{{Username: "edge", Password: "secret", Allow: true}, {Username: "app", Password: "secret", Allow: true}}}
	if err := s.AddHook(new(auth.Hook), &auth.Options{Ledger: ledger}); err != nil {
		t.Fatal(err)
	}
	if err := s.AddHook(&twoTables{}, nil); err != nil {
		t.Fatal(err)
	}
	if err := s.AddListener(listeners.NewTCP(listeners.Config{ID: "t", Address: addr})); err != nil {
		t.Fatal(err)
	}
	if err := s.Serve(); err != nil {
		t.Fatal(err)
	}
	return func() { _ = s.Close() }
}

// twoTables keeps the numbers of what clients send apart from those of what they are sent, which the library has in one table and so
// loses some.
type twoTables struct{ mochi.HookBase }

const apart = 30000

func (*twoTables) Provides(what byte) bool {
	return what == mochi.OnPacketRead || what == mochi.OnPacketEncode
}

func (*twoTables) OnPacketRead(_ *mochi.Client, pk packets.Packet) (packets.Packet, error) {
	if pk.FixedHeader.Type == packets.Publish && pk.FixedHeader.Qos == 1 || pk.FixedHeader.Type == packets.Subscribe {
		pk.PacketID += apart
	}
	return pk, nil
}

func (*twoTables) OnPacketEncode(_ *mochi.Client, pk packets.Packet) packets.Packet {
	if pk.FixedHeader.Type == packets.Puback || pk.FixedHeader.Type == packets.Suback {
		pk.PacketID -= apart
	}
	return pk
}

// With a broker that is there already, requests are answered by it; and again when it has been away.
func TestAnExternalBrokerIsServedAndReturnedTo(t *testing.T) {
	addr := freePort(t)
	password := filepath.Join(t.TempDir(), "password")
	if err := os.WriteFile(password, []byte("wrong\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	stop := stranger(t, addr)
	r := start(t, nil, func(c *Config) {
		c.Mode, c.Server = External, Server{URL: "tcp://" + addr, User: "edge", PasswordFile: password}
	})
	eventually(t, "the wrong password is refused", func() bool { return testutil.ToFloat64(r.metrics.ext.WithLabelValues("failed")) > 0 })
	if err := os.WriteFile(password, []byte("secret\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for i := range 2 {
		eventually(t, "the broker is reached", func() bool { return testutil.ToFloat64(r.metrics.connections) == 1 })
		c := dial(t, as(options(addr, "app"), "app", "secret"))
		c.subscribe(t, "$hw/events/+/+/+/updated", 1)
		c.subscribe(t, "$hw/events/device/+/+/twin/+/result", 1)
		c.publish(t, pump+"twin/update", 1, false, fmt.Sprintf(`{"event_id":"%d","twin":{"speed":{}}}`, i))
		if m := c.next(t); m.Topic() != pump+"twin/update/result" || !strings.Contains(string(m.Payload()), fmt.Sprintf(`"event_id":"%d"`, i)) {
			t.Errorf("expected the result, found %s on %s", m.Payload(), m.Topic())
		}
		c.publish(t, pump+"twin/update", 1, false, make([]byte, 10<<20))
		if m := c.next(t); !strings.Contains(string(m.Payload()), `"code":400`) {
			t.Errorf("expected 10 MB to be answered with 400, found %s", m.Payload())
		}
		r.Updated("plant", "pump")
		c.expect(t, pump+"updated", `{"event_id":"","timestamp":1700000000123,"attributes":{}}`)
		c.Disconnect(0)
		stop()
		eventually(t, "the loss is seen", func() bool { return testutil.ToFloat64(r.metrics.connections) == 0 })
		if i == 0 {
			stop = stranger(t, addr)
		}
	}
	if r.devices.count() != 2 {
		t.Errorf("expected 2 updates, found %d", r.devices.count())
	}
}

// external starts a Service with a broker that is not ours.
func external(t *testing.T, addr string) *rig {
	t.Helper()
	password := filepath.Join(t.TempDir(), "password")
	if err := os.WriteFile(password, []byte("secret"), 0o600); err != nil {
		t.Fatal(err)
	}
	r := start(t, nil, func(c *Config) {
		c.Mode, c.Server = External, Server{URL: "tcp://" + addr, User: "edge", PasswordFile: password}
	})
	eventually(t, "the broker is reached", func() bool { return testutil.ToFloat64(r.metrics.connections) == 1 })
	return r
}

// eventIDs are those of the updates so far.
func (p *plant) eventIDs() (ids []string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, u := range p.updates {
		ids = append(ids, *u.Twin["speed"].Expected.Value)
	}
	return ids
}

func desire(n int) string {
	return fmt.Sprintf(`{"twin":{"speed":{"expected":{"value":"%d"}}}}`, n)
}

// What is asked for while edgecore restarts is the external broker's to keep, also what edgecore had and was not done with.
func TestAnExternalBrokerKeepsRequestsForTheNextProcess(t *testing.T) {
	addr := freePort(t)
	defer stranger(t, addr)()
	r := external(t, addr)
	c := dial(t, as(options(addr, "app"), "app", "secret"))
	c.publish(t, pump+"twin/update", 1, false, desire(0))
	eventually(t, "the first update", func() bool { return r.devices.count() == 1 })
	r.devices.mu.Lock()
	r.devices.block = make(chan struct{})
	r.devices.mu.Unlock()
	c.publish(t, pump+"twin/update", 1, false, desire(1))
	eventually(t, "the second to be under way", func() bool { return r.devices.began() == 2 })
	r.stop()
	c.publish(t, pump+"twin/update", 1, false, desire(2))
	next := external(t, addr)
	eventually(t, "what was left to do", func() bool { return next.devices.count() >= 2 })
	ids := next.devices.eventIDs()
	slices.Sort(ids) // this broker gives again what it got within one second in any order
	if !slices.Equal(ids, []string{"1", "2"}) {
		t.Errorf("expected what was not done, and nothing that was; found %q", ids)
	}
}

// More than can wait is put off, and none of it lost.
func TestMoreRequestsThanCanWaitArePutOff(t *testing.T) {
	addr := freePort(t)
	defer stranger(t, addr)()
	r := external(t, addr)
	c := dial(t, as(options(addr, "app"), "app", "secret"))
	blocked := make(chan struct{})
	r.devices.mu.Lock()
	r.devices.block = blocked
	r.devices.mu.Unlock()
	const all = 2*clientInbox + 50
	for n := range all {
		c.publish(t, pump+"twin/update", 1, false, desire(n))
	}
	eventually(t, "the connection is behind", func() bool { return testutil.ToFloat64(r.metrics.throttled) > 0 })
	close(blocked)
	eventually(t, "all updates", func() bool {
		ids := r.devices.eventIDs()
		slices.Sort(ids)
		return len(slices.Compact(ids)) == all
	})
}

// asked is a message as paho gives it.
type asked struct {
	paho.Message
	topic string
	once  bool // QoS 0
	acks  *int
}

func (m asked) Topic() string   { return m.topic }
func (m asked) Retained() bool  { return false }
func (m asked) Payload() []byte { return nil }
func (m asked) Ack()            { *m.acks++ }
func (m asked) Qos() byte {
	if m.once {
		return 0
	}
	return 1
}

// What comes after a request that found no place may not overtake it.
func TestARequestThatIsPutOffIsNotOvertaken(t *testing.T) {
	c := newClient(Server{}, "edge-1", &answerer{})
	behind := make(chan struct{})
	receive := c.receiver(1, behind)
	for range clientInbox + 1 {
		receive(nil, asked{topic: pump + "twin/update"})
	}
	select {
	case <-behind:
	default:
		t.Fatal("nobody is told that the connection is behind")
	}
	waiting := func() (n int) {
		for _, inbox := range c.inbox {
			n += len(inbox)
		}
		return n
	}
	for _, inbox := range c.inbox {
		if len(inbox) > 0 {
			<-inbox
		}
	}
	receive(nil, asked{topic: pump + "twin/update"})
	if n := waiting(); n != clientInbox-1 {
		t.Errorf("%d requests wait, expected %d: a later one took the place", n, clientInbox-1)
	}
	if n := c.waiting.Load(); n != clientInbox {
		t.Errorf("%d requests are counted, expected %d", n, clientInbox)
	}
}

// One that no broker gives again is lost alone: to connect anew would bring nothing.
func TestAFloodThatIsNotGivenAgainCostsTheOthersNothing(t *testing.T) {
	metrics := newMetrics(prometheus.NewRegistry())
	c := newClient(Server{}, "edge-1", &answerer{metrics: metrics})
	behind := make(chan struct{})
	receive := c.receiver(1, behind)
	for range clientInbox + 10 {
		receive(nil, asked{topic: pump + "twin/update", once: true})
	}
	select {
	case <-behind:
		t.Error("the connection counts as behind")
	default:
	}
	if n := testutil.ToFloat64(metrics.dropped.WithLabelValues("inbox")); n != 10 {
		t.Errorf("%v are counted as lost, expected 10", n)
	}
	for _, inbox := range c.inbox {
		if len(inbox) > 0 {
			<-inbox
		}
	}
	receive(nil, asked{topic: pump + "twin/update"})
	if n := c.waiting.Load(); n != clientInbox+1 {
		t.Errorf("%d requests are counted, expected %d", n, clientInbox+1)
	}
}

// What came over a connection that was lost comes again if the broker kept the session since, and only then.
func TestWhatABrokerForgotIsAnsweredByWhoHasIt(t *testing.T) {
	c := newClient(Server{}, "edge-1", &answerer{})
	c.fresh.Store(3)
	c.again.Store(5)
	for session, want := range map[int64]int{2: 1, 3: 0, 4: 0, 5: 1} {
		acks := 0
		c.serveOne(t.Context(), incoming{asked{topic: "no/request", acks: &acks}, session})
		if acks != want {
			t.Errorf("of connection %d: acknowledged %d times, expected %d", session, acks, want)
		}
	}
}

// silent is a connection whose broker says nothing.
type silent struct{ paho.Client }

func (silent) Publish(string, byte, bool, any) paho.Token { return pending{} }

type pending struct{ paho.Token }

func (pending) Done() <-chan struct{} { return nil }

// A result that was under way when its connection was lost was not heard, and waits for nothing.
func TestAResultEndsWithItsConnection(t *testing.T) {
	c := newClient(Server{}, "edge-1", &answerer{metrics: newMetrics(prometheus.NewRegistry()), log: quietLog()})
	if c.tell(message{}) {
		t.Error("without a connection a result counts as heard")
	}
	lasts, end := context.WithCancel(t.Context())
	c.set(silent{}, lasts)
	end()
	if c.tell(message{}) {
		t.Error("a result counts as heard whose connection was lost")
	}
}

// A request that an external broker retained would be made again at each connect.
func TestARetainedRequestIsIgnored(t *testing.T) {
	addr := freePort(t)
	defer stranger(t, addr)()
	c := dial(t, as(options(addr, "app"), "app", "secret"))
	c.publish(t, pump+"twin/update", 1, true, `{"twin":{"speed":{}}}`)
	c.publish(t, "x", 1, false, "") // once this is acknowledged, that one has been handed on to all who were there
	r := external(t, addr)
	eventually(t, "it is counted", func() bool { return testutil.ToFloat64(r.metrics.denied.WithLabelValues("retained")) == 1 })
	if r.devices.count() != 0 {
		t.Error("expected no update")
	}
}

func TestAWrongConfigurationSaysEachFault(t *testing.T) {
	c := Config{Node: "a/b", Mode: Internal, Broker: Broker{Listen: "0.0.0.0:1883", Anonymous: true, ListenTLS: "x",
		Users: []User{{Name: "a", Hash: "plain", ACL: []Access{{Filter: "a#"}}}, {Name: "a"}}}}
	err := c.Validate()
	for _, want := range []string{"node:", "maxRequest:", "anonymous:", "listenTLS: expected host", "listenTLS: expected a cert", "users[0]:", "users[0].acl[0]:", "users[1]:", "limits.queue:", "limits.stall:"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("expected a fault that begins with %q, found %v", want, err)
		}
	}
	for _, url := range []string{"", "http://a:1", "tcp://a", ":"} {
		c := Config{Node: "n", Mode: External, MaxRequest: 1, Server: Server{URL: url}}
		if c.Validate() == nil {
			t.Errorf("expected server %q to be refused", url)
		}
	}
	ok := Default("edge-1")
	if err := ok.Validate(); err != nil {
		t.Error(err)
	}
}

func TestAPortThatIsTakenIsAnError(t *testing.T) {
	r := start(t, nil, nil)
	cfg := Default("edge-1")
	cfg.Broker.Listen = r.Address()
	s := New(cfg, Deps{Devices: &plant{}, Log: quietLog(), Registry: prometheus.NewRegistry(), Now: clock})
	if err := s.Start(context.Background()); err == nil {
		t.Error("expected Start to fail")
	}
}
