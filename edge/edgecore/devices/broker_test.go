package devices

import (
	"errors"
	"log/slog"
	"net"
	"strings"
	"testing"
	"time"

	mochi "github.com/mochi-mqtt/server/v2"
	"github.com/mochi-mqtt/server/v2/hooks/auth"
	"github.com/mochi-mqtt/server/v2/listeners"
	"github.com/mochi-mqtt/server/v2/packets"

	"github.com/tether-edge/tether/apis/config/v1alpha1"
)

// foreign runs a broker that is not ours, and hears what is published on a topic from its first moment.
func foreign(t *testing.T, address, topic string) (heard <-chan string, stop func()) {
	t.Helper()
	s := mochi.New(&mochi.Options{Logger: slog.New(slog.DiscardHandler), InlineClient: true})
	if err := s.AddHook(new(auth.AllowHook), nil); err != nil {
		t.Fatal(err)
	}
	all := make(chan string, 100)
	if err := s.Subscribe(topic, 1, func(_ *mochi.Client, _ packets.Subscription, pk packets.Packet) { all <- string(pk.Payload) }); err != nil {
		t.Fatal(err)
	}
	if err := s.AddListener(listeners.NewTCP(listeners.Config{ID: "t", Address: address})); err != nil {
		t.Fatal(err)
	}
	if err := s.Serve(); err != nil {
		t.Fatal(err)
	}
	return all, func() { _ = s.Close() }
}

// What was desired while the broker was away is said when it is back: a device on MQTT need not ask for it.
func TestWhatIsDesiredWhileABrokerIsAwayIsSaidWhenItIsBack(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := l.Addr().String()
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	const topic = "$hw/events/device/plant/pump-1/twin/update/delta"
	until := func(heard <-chan string, want string) {
		t.Helper()
		for late := time.After(30 * time.Second); ; {
			select {
			case m := <-heard:
				if strings.Contains(m, `"delta":{"speed":"`+want+`"}`) {
					return
				}
			case <-late:
				t.Fatalf("nobody said that speed %s is desired", want)
			}
		}
	}
	heard, stop := foreign(t, address, topic)
	g := newGateway(t, func(c *v1alpha1.EdgeCore) {
		c.Devices.MQTT.Mode, c.Devices.MQTT.Server.URL = v1alpha1.MQTTExternal, "tcp://"+address
	})
	until(heard, "10")
	stop()
	g.device("pump-1", "31")
	g.eventually("31 to be desired", func() error {
		if v, _ := g.core.Engine.Device("plant", "pump-1"); v.Properties["speed"].Desired().Value != "31" {
			return errors.New("it is not")
		}
		return nil
	})
	heard, stop = foreign(t, address, topic)
	defer stop()
	until(heard, "31")
}
