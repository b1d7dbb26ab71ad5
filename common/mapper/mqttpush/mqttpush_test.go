package mqttpush

import (
	"log/slog"
	"net"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	mochi "github.com/mochi-mqtt/server/v2"
	"github.com/mochi-mqtt/server/v2/hooks/auth"
	"github.com/mochi-mqtt/server/v2/listeners"
	"github.com/mochi-mqtt/server/v2/packets"

	dmi "github.com/tether-edge/tether/apis/dmi/v1beta1"
	"github.com/tether-edge/tether/common/mapper"
)

// serve runs a broker and returns where it is.
func serve(t *testing.T, hooks ...mochi.Hook) (*mochi.Server, string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	broker := mochi.New(&mochi.Options{InlineClient: true, Logger: slog.New(slog.DiscardHandler)})
	for _, h := range append(hooks, new(auth.AllowHook)) {
		if err := broker.AddHook(h, nil); err != nil {
			t.Fatal(err)
		}
	}
	if err := broker.AddListener(listeners.NewNet("t", l)); err != nil {
		t.Fatal(err)
	}
	if err := broker.Serve(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = broker.Close() })
	return broker, "tcp://" + l.Addr().String()
}

// send pushes until it succeeds.
func send(t *testing.T, p mapper.Push) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		err := p.Push(t.Context(), mapper.Sample{Value: "42", Time: time.Now()})
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatal(err)
		}
	}
}

// cutter ends the connection of who publishes to a topic.
type cutter struct {
	mochi.HookBase
	topic string
	cuts  atomic.Int64
}

func (c *cutter) ID() string           { return "cutter" }
func (c *cutter) Provides(b byte) bool { return b == mochi.OnPublish }

func (c *cutter) OnPublish(cl *mochi.Client, pk packets.Packet) (packets.Packet, error) {
	if pk.TopicName != c.topic {
		return pk, nil
	}
	c.cuts.Add(1)
	cl.Stop(packets.ErrTopicNameInvalid)
	return pk, packets.ErrRejectPacket
}

func TestAValueForWhichABrokerEndsTheConnectionIsNotSentAgain(t *testing.T) {
	cut := &cutter{topic: "bad"}
	_, address := serve(t, cut)
	newPush := New()
	push := func(topic string) mapper.Push {
		p, err := newPush(&dmi.PushMethod{Mqtt: &dmi.PushMethodMQTT{Address: address, Topic: topic, Qos: 1}})
		if err != nil {
			t.Fatal(err)
		}
		return p
	}
	good, bad := push("good"), push("bad")
	for round := range int64(3) {
		send(t, good)
		if err := bad.Push(t.Context(), mapper.Sample{Value: "1", Time: time.Now()}); err == nil {
			t.Error("expected the push to fail")
		}
		send(t, good)
		if n := cut.cuts.Load(); n != round+1 {
			t.Errorf("after push %d of a bad value the broker ended %d connections", round+1, n)
		}
	}
	for _, p := range []mapper.Push{good, bad} {
		if err := p.Close(); err != nil {
			t.Error(err)
		}
	}
}

func TestValuesArePublishedOverOneConnection(t *testing.T) {
	broker, address := serve(t)
	got := make(chan string, 10)
	if err := broker.Subscribe("meters/#", 1, func(_ *mochi.Client, _ packets.Subscription, pk packets.Packet) {
		got <- pk.TopicName + " " + string(pk.Payload)
	}); err != nil {
		t.Fatal(err)
	}
	newPush := New()
	make2 := func(topic string) mapper.Push {
		p, err := newPush(&dmi.PushMethod{Mqtt: &dmi.PushMethodMQTT{Address: address, Topic: topic, Qos: 1}})
		if err != nil {
			t.Fatal(err)
		}
		return p
	}
	one, two := make2("meters/1"), make2("meters/2")
	send(t, one)
	send(t, two)
	for _, topic := range []string{"meters/1", "meters/2"} {
		if found := <-got; !strings.HasPrefix(found, topic+" time is 20") || !strings.HasSuffix(found, "  "+topic+": 42") {
			t.Errorf("found %q", found)
		}
	}
	remote := 0
	for id := range broker.Clients.GetAll() {
		if id != mochi.InlineClientId {
			remote++
		}
	}
	if remote != 1 {
		t.Errorf("expected 1 connection, found %d", remote)
	}
	for _, p := range []mapper.Push{one, two} {
		if err := p.Close(); err != nil {
			t.Error(err)
		}
	}
	if err := one.Push(t.Context(), mapper.Sample{}); err == nil {
		t.Error("expected a push without a broker to be refused")
	}
}

func TestAMethodThatCannotWorkIsRefused(t *testing.T) {
	for _, m := range []*dmi.PushMethodMQTT{nil, {Address: "nowhere", Topic: "t"}, {Address: "tcp://127.0.0.1:1"}, {Address: "tcp://127.0.0.1:1", Topic: "t", Qos: 3},
		{Address: "tcp://127.0.0.1:1", Topic: "push/+/#"}, {Address: "http://127.0.0.1:1", Topic: "t"}} {
		if _, err := New()(&dmi.PushMethod{Mqtt: m}); err == nil {
			t.Errorf("expected %v to be refused", m)
		}
	}
}
