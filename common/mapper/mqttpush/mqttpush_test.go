package mqttpush

import (
	"log/slog"
	"net"
	"strings"
	"testing"
	"time"

	mochi "github.com/mochi-mqtt/server/v2"
	"github.com/mochi-mqtt/server/v2/hooks/auth"
	"github.com/mochi-mqtt/server/v2/listeners"
	"github.com/mochi-mqtt/server/v2/packets"

	dmi "github.com/tether-edge/tether/apis/dmi/v1beta1"
	"github.com/tether-edge/tether/common/mapper"
)

func TestValuesArePublishedOverOneConnection(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	broker := mochi.New(&mochi.Options{InlineClient: true, Logger: slog.New(slog.DiscardHandler)})
	if err := broker.AddHook(new(auth.AllowHook), nil); err != nil {
		t.Fatal(err)
	}
	if err := broker.AddListener(listeners.NewNet("t", l)); err != nil {
		t.Fatal(err)
	}
	if err := broker.Serve(); err != nil {
		t.Fatal(err)
	}
	defer broker.Close()
	got := make(chan string, 10)
	if err := broker.Subscribe("meters/#", 1, func(_ *mochi.Client, _ packets.Subscription, pk packets.Packet) {
		got <- pk.TopicName + " " + string(pk.Payload)
	}); err != nil {
		t.Fatal(err)
	}
	newPush := New()
	make2 := func(topic string) mapper.Push {
		p, err := newPush(&dmi.PushMethod{Mqtt: &dmi.PushMethodMQTT{Address: "tcp://" + l.Addr().String(), Topic: topic, Qos: 1}})
		if err != nil {
			t.Fatal(err)
		}
		return p
	}
	one, two := make2("meters/1"), make2("meters/2")
	send := func(p mapper.Push) {
		t.Helper()
		for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(5 * time.Millisecond) {
			err := p.Push(t.Context(), mapper.Sample{Value: "42", Time: time.Now()})
			if err == nil {
				return
			}
			if time.Now().After(deadline) {
				t.Fatal(err)
			}
		}
	}
	send(one)
	send(two)
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
	for _, m := range []*dmi.PushMethodMQTT{nil, {Address: "nowhere", Topic: "t"}, {Address: "tcp://127.0.0.1:1"}, {Address: "tcp://127.0.0.1:1", Topic: "t", Qos: 3}} {
		if _, err := New()(&dmi.PushMethod{Mqtt: m}); err == nil {
			t.Errorf("expected %v to be refused", m)
		}
	}
}
