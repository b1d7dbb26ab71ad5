package mqtt

import (
	"fmt"
	"net"
	"os/exec"
	"testing"
	"time"

	paho5 "github.com/eclipse/paho.golang/paho"
)

// client5 is a client of MQTT 5, of another library than the broker's.
type client5 struct {
	*paho5.Client
	conn net.Conn
	got  chan *paho5.Publish
}

// dial5 connects one; change adjusts its CONNECT, and settings the client.
func dial5(t *testing.T, addr, id string, change func(*paho5.Connect), settings ...func(*paho5.ClientConfig)) *client5 {
	t.Helper()
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	c := &client5{conn: conn, got: make(chan *paho5.Publish, 1000)}
	config := paho5.ClientConfig{ClientID: id, Conn: conn, PacketTimeout: 20 * time.Second,
		OnPublishReceived: []func(paho5.PublishReceived) (bool, error){func(p paho5.PublishReceived) (bool, error) {
			c.got <- p.Packet
			return true, nil
		}}}
	for _, set := range settings {
		set(&config)
	}
	c.Client = paho5.NewClient(config)
	connect := &paho5.Connect{ClientID: id, KeepAlive: 30, CleanStart: true, Properties: &paho5.ConnectProperties{}}
	if change != nil {
		change(connect)
	}
	if _, err := c.Connect(t.Context(), connect); err != nil {
		t.Fatalf("connect %s: %v", id, err)
	}
	t.Cleanup(c.leave)
	return c
}

// leave says goodbye and waits until the client's goroutines are gone.
func (c *client5) leave() {
	_ = c.Disconnect(&paho5.Disconnect{})
	_ = c.conn.Close()
	<-c.Done()
}

// vanish closes the connection without a word.
func (c *client5) vanish() {
	_ = c.conn.Close()
	<-c.Done()
}

func (c *client5) subscribe(t *testing.T, filter string, qos byte) {
	t.Helper()
	if _, err := c.Subscribe(t.Context(), &paho5.Subscribe{Subscriptions: []paho5.SubscribeOptions{{Topic: filter, QoS: qos}}}); err != nil {
		t.Fatalf("subscribe to %s: %v", filter, err)
	}
}

func (c *client5) next(t *testing.T) *paho5.Publish {
	t.Helper()
	select {
	case p := <-c.got:
		return p
	case <-time.After(20 * time.Second):
		t.Fatal("no message in 20 s")
		return nil
	}
}

func seconds(n uint32) *uint32 { return &n }

// session lets a session outlast its connection.
func session5(c *paho5.Connect) {
	c.CleanStart, c.Properties.SessionExpiryInterval = false, seconds(3600)
}

// TestAClientOfMQTT5 works by paho.golang as the specification has it: all qualities of service, properties through the broker, retained
// messages, sessions that last with what waits in them, shared subscriptions, and a reason where something is refused.
func TestAClientOfMQTT5(t *testing.T) {
	r := start(t, &ram{}, nil)
	c := dial5(t, r.Address(), "five", session5)
	for qos := range byte(3) {
		topic := fmt.Sprint("five/", qos)
		c.subscribe(t, topic, qos)
		format := byte(1)
		sent := &paho5.Publish{Topic: topic, QoS: qos, Payload: []byte("x"), Properties: &paho5.PublishProperties{ContentType: "text/plain", ResponseTopic: "answer",
			CorrelationData: []byte{1, 2}, PayloadFormat: &format, MessageExpiry: seconds(100), User: paho5.UserProperties{{Key: "k", Value: "v"}}}}
		if _, err := c.Publish(t.Context(), sent); err != nil {
			t.Fatalf("QoS %d: %v", qos, err)
		}
		got := c.next(t)
		p := got.Properties
		if got.Topic != topic || got.QoS != qos || string(got.Payload) != "x" || p.ContentType != "text/plain" || p.ResponseTopic != "answer" || len(p.CorrelationData) != 2 ||
			p.PayloadFormat == nil || *p.PayloadFormat != 1 || p.MessageExpiry == nil || *p.MessageExpiry > 100 || *p.MessageExpiry < 80 || p.User.Get("k") != "v" {
			t.Errorf("QoS %d: what arrived is %v with %v", qos, got, p)
		}
	}
	if ack, err := c.Publish(t.Context(), &paho5.Publish{Topic: "$hw/events/node/other/x", QoS: 1, Payload: []byte("x")}); err == nil || ack == nil || ack.ReasonCode != 0x87 {
		t.Errorf("a topic of the edge's own: %v, %v, want the reason 0x87", ack, err)
	}
	c.vanish()
	from := dial5(t, r.Address(), "from", nil)
	for i := range 3 {
		if _, err := from.Publish(t.Context(), &paho5.Publish{Topic: fmt.Sprint("five/", i), QoS: 1, Retain: i == 0, Payload: []byte(fmt.Sprint(i))}); err != nil {
			t.Fatal(err)
		}
	}
	again := dial5(t, r.Address(), "five", session5)
	for _, want := range []string{"1", "2"} { // five/0 is of QoS 0: nothing waits for who is away
		if got := again.next(t); string(got.Payload) != want {
			t.Errorf("what waited is %q, want %q", got.Payload, want)
		}
	}
	again.subscribe(t, "five/0", 1)
	if got := again.next(t); string(got.Payload) != "0" || !got.Retain {
		t.Errorf("what was retained is %q, retained %v", got.Payload, got.Retain)
	}
	first, second := dial5(t, r.Address(), "s1", nil), dial5(t, r.Address(), "s2", nil)
	for _, s := range []*client5{first, second} {
		s.subscribe(t, "$share/group/work", 1)
	}
	const n = 20
	for i := range n {
		if _, err := from.Publish(t.Context(), &paho5.Publish{Topic: "work", QoS: 1, Payload: []byte(fmt.Sprint(i))}); err != nil {
			t.Fatal(err)
		}
	}
	eventually(t, "each message to be with one of the two", func() bool { return len(first.got)+len(second.got) == n })
	if len(first.got) == 0 || len(second.got) == 0 {
		t.Errorf("%d and %d messages went to the two of a group, want some to each", len(first.got), len(second.got))
	}
}

// TestAWillOfMQTT5 is sent when its delay is over, unless its client is back, and with its properties.
func TestAWillOfMQTT5(t *testing.T) {
	r := start(t, &ram{}, nil)
	watch := dial5(t, r.Address(), "watch", nil)
	watch.subscribe(t, "will/#", 1)
	will := func(delay uint32) func(*paho5.Connect) {
		return func(c *paho5.Connect) {
			session5(c)
			c.WillMessage = &paho5.WillMessage{Topic: "will/" + c.ClientID, QoS: 1, Retain: true, Payload: []byte("gone")}
			c.WillProperties = &paho5.WillProperties{WillDelayInterval: seconds(delay), User: paho5.UserProperties{{Key: "k", Value: "v"}}}
		}
	}
	back, clean, away := dial5(t, r.Address(), "back", will(20)), dial5(t, r.Address(), "clean", will(3600)), dial5(t, r.Address(), "away", will(1))
	back.vanish()
	back = dial5(t, r.Address(), "back", session5)
	away.vanish()
	if got := watch.next(t); got.Topic != "will/away" || string(got.Payload) != "gone" || got.Properties.User.Get("k") != "v" {
		t.Errorf("found %v, want the will of the client that is away, with its properties", got)
	}
	// A new session ends the former one, and its will is not to wait any longer.
	clean.vanish()
	dial5(t, r.Address(), "clean", nil)
	if got := watch.next(t); got.Topic != "will/clean" {
		t.Errorf("found %v, want the will of the session that has ended", got)
	}
	late := dial5(t, r.Address(), "late", nil)
	late.subscribe(t, "will/#", 1)
	for range 2 {
		if got := late.next(t); !got.Retain || got.Topic == "will/back" {
			t.Errorf("found %v, want the retained wills", got)
		}
	}
	eventually(t, "no will to be stored", func() bool { return r.mem.count(bucketWills) == 0 })
	if len(watch.got) > 0 {
		t.Errorf("another will was sent: %v", <-watch.got)
	}
	_ = back
}

// TestAWillHasItsProperties: those that mosquitto sends.
func TestAWillHasItsProperties(t *testing.T) {
	r := start(t, &ram{}, nil)
	watch := dial5(t, r.Address(), "watch", nil)
	watch.subscribe(t, "will/#", 1)
	host, port, err := net.SplitHostPort(r.Address())
	if err != nil {
		t.Fatal(err)
	}
	args := []string{"-h", host, "-p", port, "-V", "mqttv5", "-i", "w", "-t", "x", "--will-topic", "will/w", "--will-payload", "gone", "--will-qos", "1"}
	for _, p := range [][]string{{"content-type", "text/plain"}, {"response-topic", "answer"}, {"correlation-data", "12"}, {"payload-format-indicator", "1"}, {"message-expiry-interval", "100"}, {"user-property", "k", "v"}} {
		args = append(args, append([]string{"-D", "will"}, p...)...)
	}
	cmd := exec.CommandContext(t.Context(), "mosquitto_sub", args...)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the will to be stored", func() bool { return r.mem.count(bucketWills) == 1 })
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait() // it was killed
	got := watch.next(t)
	p := got.Properties
	if got.Topic != "will/w" || got.QoS != 1 || string(got.Payload) != "gone" || p.ContentType != "text/plain" || p.ResponseTopic != "answer" || string(p.CorrelationData) != "12" ||
		p.PayloadFormat == nil || *p.PayloadFormat != 1 || p.MessageExpiry == nil || *p.MessageExpiry > 100 || *p.MessageExpiry < 80 || p.User.Get("k") != "v" {
		t.Errorf("the will is %v with %v", got, p)
	}
}

// TestADisconnectWithWill asks for it.
func TestADisconnectWithWill(t *testing.T) {
	r := start(t, &ram{}, nil)
	watch := dial5(t, r.Address(), "watch", nil)
	watch.subscribe(t, "will/#", 1)
	for code, want := range map[byte]bool{0x00: false, 0x04: true} {
		id := fmt.Sprint("c", code)
		c := dial5(t, r.Address(), id, func(c *paho5.Connect) {
			c.WillMessage = &paho5.WillMessage{Topic: "will/" + id, QoS: 1, Payload: []byte("gone")}
		})
		eventually(t, "the will to be stored", func() bool { return r.mem.count(bucketWills) == 1 })
		if err := c.Disconnect(&paho5.Disconnect{ReasonCode: code}); err != nil {
			t.Fatal(err)
		}
		eventually(t, "the will to be stored no more", func() bool { return r.mem.count(bucketWills) == 0 })
		if want {
			if got := watch.next(t); got.Topic != "will/"+id {
				t.Errorf("found %v", got)
			}
		} else if len(watch.got) > 0 {
			t.Errorf("a client that said goodbye left a will: %v", <-watch.got)
		}
	}
}
