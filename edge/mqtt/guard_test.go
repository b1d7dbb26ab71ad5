package mqtt

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	paho "github.com/eclipse/paho.mqtt.golang"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"golang.org/x/crypto/bcrypt"

	"github.com/tether-edge/tether/common/pki"
)

func user(t *testing.T, name, password string, acl ...Access) User {
	t.Helper()
	h, err := bcrypt.GenerateFromPassword([]byte(password), bcrypt.MinCost)
	if err != nil {
		t.Fatal(err)
	}
	return User{Name: name, Hash: string(h), ACL: acl}
}

func as(o *paho.ClientOptions, name, password string) *paho.ClientOptions {
	return o.SetUsername(name).SetPassword(password)
}

func refused(t *testing.T, o *paho.ClientOptions, why string) {
	t.Helper()
	c := paho.NewClient(o)
	defer c.Disconnect(0)
	if err := wait(c.Connect()); err == nil {
		t.Errorf("%s: expected a refusal, found a connection", why)
	}
}

func TestOnlyUsersWithTheirPasswordGetIn(t *testing.T) {
	r := start(t, nil, func(c *Config) {
		c.Broker.Anonymous = false
		c.Broker.Users = []User{user(t, "ann", "secret", Access{"#", true, true})}
	})
	refused(t, options(r.Address(), "a"), "nobody")
	refused(t, as(options(r.Address(), "a"), "ann", "wrong"), "wrong password")
	refused(t, as(options(r.Address(), "a"), "bob", "secret"), "unknown user")
	refused(t, as(options(r.Address(), "a"), "ann", strings.Repeat("x", 80)), "endless password")
	for range 2 { // the second time from memory
		dial(t, as(options(r.Address(), "a"), "ann", "secret")).Disconnect(0)
	}
	refused(t, as(options(r.Address(), "a"), "ann", "wrong"), "wrong password after the right one")
	if n := testutil.ToFloat64(r.metrics.refused.WithLabelValues("password")); n != 5 {
		t.Errorf("expected 5 refusals to be counted, found %v", n)
	}
}

func TestUsersChangeWhileTheBrokerRuns(t *testing.T) {
	r := start(t, nil, func(c *Config) {
		c.Broker.Users, c.Broker.MoreUsers = []User{user(t, "ann", "p", Access{"#", true, true})}, true
	})
	if err := r.SetUsers(nil); err != nil {
		t.Fatal(err)
	}
	bob := user(t, "bob", "p", Access{"a", true, true})
	refused(t, as(options(r.Address(), "b"), "bob", "p"), "a user who is not there yet")
	if err := r.SetUsers([]User{bob}); err != nil {
		t.Fatal(err)
	}
	lost := make(chan error, 1)
	c := dial(t, as(options(r.Address(), "b"), "bob", "p").SetConnectionLostHandler(func(_ paho.Client, err error) { lost <- err }))
	if got := c.granted(t, "b"); got != 128 {
		t.Errorf("it may read what it may not: %d", got)
	}
	bob.ACL = append(bob.ACL, Access{"b", true, false})
	if err := r.SetUsers([]User{bob}); err != nil {
		t.Fatal(err)
	}
	if got := c.granted(t, "b"); got != 1 {
		t.Errorf("a right that it was given is refused: %d", got)
	}
	for what, bad := range map[string]User{"no name": {Hash: bob.Hash}, "no hash": {Name: "x", Hash: "x"}, "no filter": {Name: "x", Hash: bob.Hash, ACL: []Access{{"#/a", true, true}}},
		"a name of the configuration": {Name: "ann", Hash: bob.Hash}} {
		if err := r.SetUsers([]User{bad}); err == nil {
			t.Errorf("%s: accepted", what)
		}
	}
	c.subscribe(t, "a", 1)
	c.publish(t, "a", 1, false, "still there")
	c.expect(t, "a", "still there")
	other := dial(t, as(options(r.Address(), "ann"), "ann", "p"))
	if err := r.SetUsers([]User{user(t, "bob", "q")}); err != nil {
		t.Fatal(err)
	}
	select {
	case <-lost:
	case <-time.After(20 * time.Second):
		t.Fatal("who has another password is still connected")
	}
	refused(t, as(options(r.Address(), "b"), "bob", "p"), "the former password")
	dial(t, as(options(r.Address(), "b"), "bob", "q"))
	other.subscribe(t, "x", 1) // nobody else noticed
	if n := testutil.ToFloat64(r.metrics.users); n != 2 {
		t.Errorf("%v users are counted, expected 2", n)
	}
	if n := testutil.ToFloat64(r.metrics.cut.WithLabelValues("user")); n != 1 {
		t.Errorf("%v connections were closed, expected 1", n)
	}
}

// Where users are to come, a name that is none of theirs is no name to come in with, though nobody needs one.
func TestANameHasToBeAUsersWhereUsersAreToCome(t *testing.T) {
	r := start(t, nil, func(c *Config) { c.Broker.MoreUsers = true })
	dial(t, options(r.Address(), "a"))
	refused(t, as(options(r.Address(), "b"), "bob", "p"), "a name before the users have come")
}

func TestAClientSeesAndSaysOnlyWhatItsACLAllows(t *testing.T) {
	r := start(t, nil, func(c *Config) {
		c.Broker.Users = []User{
			user(t, "pump", "p", Access{pump + "#", true, true}, Access{"plant/+/speed", true, false}),
			user(t, "all", "p", Access{"#", true, true}, Access{"$hw/#", true, true}),
		}
	})
	c := dial(t, as(options(r.Address(), "pump"), "pump", "p"))
	all := dial(t, as(options(r.Address(), "all"), "all", "p"))
	for filter, want := range map[string]byte{pump + "twin/update/result": 1, pump + "#": 1, "plant/1/speed": 1, "$share/g/plant/+/speed": 1,
		"$hw/#": 128, "#": 128, "$hw/events/device/plant/fan/#": 128, "plant/+/+": 128, "$share/g/#": 128} {
		if got := c.granted(t, filter); got != want {
			t.Errorf("subscribing to %s: expected code %d, found %d", filter, want, got)
		}
	}
	all.subscribe(t, "#", 1)
	all.subscribe(t, "$hw/#", 1)
	c.publish(t, "plant/1/speed", 1, false, "not allowed")
	c.publish(t, "$hw/events/device/plant/fan/state/update", 1, false, `{"state":"ok"}`)
	c.publish(t, pump+"state/update", 1, false, `{"state":"ok"}`)
	if m := all.next(t); m.Topic() != pump+"state/update/result" {
		t.Errorf("expected nothing of what is not allowed, found %s", m.Topic())
	}
	if n := testutil.ToFloat64(r.metrics.denied.WithLabelValues("acl")); n != 2 {
		t.Errorf("expected 2 refusals to be counted, found %v", n)
	}
	refused(t, as(options(r.Address(), "w").SetWill("plant/1/speed", "x", 1, false), "pump", "p"), "a will that is not allowed")
}

// Else a user would get what waits for another.
func TestASessionBelongsToItsUser(t *testing.T) {
	r := start(t, nil, func(c *Config) {
		c.Broker.Users = []User{user(t, "ann", "p", Access{"#", true, true}), user(t, "bob", "p", Access{"bob/#", true, true})}
	})
	dial(t, as(lasting(r.Address(), "id"), "ann", "p")).Disconnect(100)
	refused(t, as(lasting(r.Address(), "id"), "bob", "p"), "another user's client id")
	dial(t, as(lasting(r.Address(), "id"), "ann", "p"))
}

func TestTLSListener(t *testing.T) {
	dir := t.TempDir()
	ca, err := pki.NewCA("test", time.Hour, time.Now)
	if err != nil {
		t.Fatal(err)
	}
	pair, err := ca.IssueServer([]string{"broker"}, time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	if err := pair.Save(dir+"/cert", dir+"/key"); err != nil {
		t.Fatal(err)
	}
	r := start(t, nil, func(c *Config) {
		c.Broker.ListenTLS, c.Broker.CertFile, c.Broker.KeyFile = freePort(t), dir+"/cert", dir+"/key"
		c.Broker.Users = []User{user(t, "ann", "p", Access{"#", true, true})}
	})
	roots := x509.NewCertPool()
	roots.AddCert(ca.Cert())
	secure := func() *paho.ClientOptions {
		return paho.NewClientOptions().AddBroker("ssl://" + r.cfg.Broker.ListenTLS).SetClientID("s").SetAutoReconnect(false).
			SetTLSConfig(&tls.Config{RootCAs: roots, ServerName: "broker"})
	}
	c := dial(t, as(secure(), "ann", "p"))
	c.subscribe(t, "a", 2)
	c.publish(t, "a", 2, false, "x")
	c.expect(t, "a", "x")
	refused(t, secure().SetTLSConfig(&tls.Config{}), "a client that does not know the CA")
}

func TestAWillIsSentAndATakeoverIsClean(t *testing.T) {
	r := start(t, &ram{}, nil)
	watch := dial(t, options(r.Address(), "watch"))
	watch.subscribe(t, "will/#", 1)
	lost := make(chan error, 1)
	first := dial(t, lasting(r.Address(), "x").SetWill("will/x", "gone", 1, false).SetConnectionLostHandler(func(_ paho.Client, err error) { lost <- err }))
	first.subscribe(t, "a/#", 1)
	second := dial(t, lasting(r.Address(), "x"))
	select {
	case <-lost:
	case <-time.After(20 * time.Second):
		t.Fatal("the first connection is still there")
	}
	watch.expect(t, "will/x", "gone")
	watch.publish(t, "a/1", 1, false, "for the second")
	second.expect(t, "a/1", "for the second")
	for range 20 { // clean ones, whose end deletes a session
		second = dial(t, options(r.Address(), "x"))
	}
	second.subscribe(t, "a/#", 1)
	watch.publish(t, "a/1", 1, false, "for the last")
	second.expect(t, "a/1", "for the last")
}

// connect sends a CONNECT of MQTT 3.1.1 with a clean session from an address, and returns the connection and the code.
func connect(t *testing.T, from, addr, id string) (net.Conn, byte) {
	t.Helper()
	d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)}, Timeout: 10 * time.Second}
	c, err := d.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	body := append([]byte{0, 4, 'M', 'Q', 'T', 'T', 4, 2, 0, 0, 0, byte(len(id))}, id...)
	if _, err := c.Write(append([]byte{0x10, byte(len(body))}, body...)); err != nil {
		return c, 255
	}
	ack := make([]byte, 4)
	if err := c.SetReadDeadline(time.Now().Add(20 * time.Second)); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(c, ack); err != nil {
		return c, 255
	}
	return c, ack[3]
}

// A client that subscribes and reads nothing loses what is for it. Who publishes to it, and who else subscribes, does not notice.
func TestASlowSubscriberHoldsUpNobody(t *testing.T) {
	r := start(t, nil, func(c *Config) {
		c.Broker.Limits.Stall, c.Broker.Limits.MessageRate, c.Broker.Limits.ByteRate = time.Second, 1<<20, 1<<30
		c.Broker.Limits.QueueBytes = 1 << 30 // else no more may be for it than the kernel's buffers hold
	})
	slow, code := connect(t, "127.0.0.1", r.Address(), "slow")
	if code != 0 {
		t.Fatal("not connected")
	}
	if _, err := slow.Write([]byte{0x82, 8, 0, 1, 0, 3, 'a', '/', '#', 1}); err != nil {
		t.Fatal(err)
	}
	good := dial(t, options(r.Address(), "good"))
	good.subscribe(t, "a/#", 1)
	from := dial(t, options(r.Address(), "from"))
	payload := bytes.Repeat([]byte("x"), 64<<10)
	for range 400 {
		from.publish(t, "a/1", 1, false, payload)
		good.next(t)
	}
	eventually(t, "the slow one is cut off", func() bool {
		return testutil.ToFloat64(r.metrics.cut.WithLabelValues("stalled"))+testutil.ToFloat64(r.metrics.cut.WithLabelValues("unread")) > 0
	})
}

func TestAFloodIsSlowedDown(t *testing.T) {
	r := start(t, nil, func(c *Config) { c.Broker.Limits.MessageRate = 50 })
	flood := dial(t, options(r.Address(), "flood"))
	began := time.Now()
	for range 100 {
		flood.Publish("a", 0, false, "x")
	}
	flood.publish(t, "a", 1, false, "x")
	if took := time.Since(began); took < 900*time.Millisecond {
		t.Errorf("expected 101 messages at 50 a second to take a second beyond the burst, found %v", took)
	}
	if testutil.ToFloat64(r.metrics.throttled) == 0 {
		t.Error("expected the delays to be counted")
	}
}

func TestTenThousandConnectionsStarveNobody(t *testing.T) {
	r := start(t, nil, func(c *Config) { c.Broker.Limits.ConnectionsPerAddress = 50 })
	d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP("127.0.0.2")}, Timeout: 10 * time.Second}
	for i := range 10000 {
		c, err := d.Dial("tcp", r.Address())
		if err != nil {
			t.Fatalf("connection %d: %v", i, err)
		}
		t.Cleanup(func() { c.Close() })
		if i%5000 == 2500 {
			other := dial(t, options(r.Address(), fmt.Sprint("other", i)))
			other.publish(t, "a", 1, false, "x")
			// Nor does one of the same address that has something to say.
			if _, code := connect(t, "127.0.0.2", r.Address(), fmt.Sprint("same", i)); code != 0 {
				t.Error("expected silent connections to give way to one that speaks")
			}
		}
	}
	eventually(t, "at most 50 and the others are open", func() bool { return testutil.ToFloat64(r.metrics.connections) <= 54 })
	for i := range 60 {
		connect(t, "127.0.0.3", r.Address(), fmt.Sprint("c", i))
	}
	// Whatever address of this machine they have, they are this one process: no other has to give way.
	if n := testutil.ToFloat64(r.metrics.refused.WithLabelValues("address")); n != 14 {
		t.Errorf("expected 14 connected clients to be refused, which with 4 others are more than 50, found %v", n)
	}
}

func TestLimits(t *testing.T) {
	r := start(t, nil, func(c *Config) {
		c.Broker.Limits.Subscriptions, c.Broker.Limits.TopicLevels, c.Broker.Limits.RetainedBytes = 2, 3, 4000
		c.Broker.Limits.Sessions = 1
	})
	c := dial(t, options(r.Address(), "c"))
	for _, f := range []string{"a/b/c/d", "a", "b", "c"} {
		if got, want := c.granted(t, f), map[string]byte{"a": 1, "b": 1, "c": 128, "a/b/c/d": 128}[f]; got != want {
			t.Errorf("subscribing to %s: expected code %d, found %d", f, want, got)
		}
	}
	for i := range 10 {
		c.publish(t, fmt.Sprint("r/", i), byte(i%3), true, strings.Repeat("x", 500))
	}
	if n := testutil.ToFloat64(r.metrics.retained); n > 4000 || n < 2000 {
		t.Errorf("expected at most 4000 bytes to be retained, found %v", n)
	}
	eventually(t, "7 messages are not retained", func() bool { return testutil.ToFloat64(r.metrics.dropped.WithLabelValues("retained")) == 7 })
	dial(t, lasting(r.Address(), "s1")).Disconnect(100)
	refused(t, lasting(r.Address(), "s2"), "a second session that lasts")
	dial(t, lasting(r.Address(), "s1")).Disconnect(100)

	refused(t, options(r.Address(), "inline"), "the client id by which the edge itself publishes")
	refused(t, options(r.Address(), strings.Repeat("x", 257)), "a long client id")

	huge := dial(t, options(r.Address(), "huge"))
	_ = wait(huge.Publish("a", 1, false, make([]byte, 10<<20)))
	eventually(t, "the client with 10 MB is cut off", func() bool { return testutil.ToFloat64(r.metrics.cut.WithLabelValues("size")) == 1 })
	c.publish(t, "a", 1, false, "still here")
	c.expect(t, "a", "still here")
}

// Clients that come together are not more than one by one.
func TestSessionsThatLastAreBoundedThoughTheyComeTogether(t *testing.T) {
	const most = 3
	r := start(t, nil, func(c *Config) { c.Broker.Limits.Sessions = most })
	let := make(chan bool)
	const n = 30
	for i := range n {
		c := paho.NewClient(lasting(r.Address(), fmt.Sprint("s", i)).SetConnectRetry(false))
		t.Cleanup(func() { c.Disconnect(0) })
		go func() { let <- wait(c.Connect()) == nil }()
	}
	in := 0
	for range n {
		if <-let {
			in++
		}
	}
	if in != most {
		t.Errorf("%d sessions that last were let in, expected %d", in, most)
	}
}

// What waits for all clients is bounded, and those who are away take nothing from one who reads.
func TestTheQueuesOfAllClientsAreBoundedTogether(t *testing.T) {
	const room, size = 64 << 10, 1 << 10
	r := start(t, &ram{}, func(c *Config) { c.Broker.Limits.QueuedBytes = room })
	for i := range 8 {
		away := dial(t, lasting(r.Address(), fmt.Sprint("away", i)))
		away.subscribe(t, "a", 1)
		away.Disconnect(100)
	}
	reads := dial(t, options(r.Address(), "reads"))
	reads.subscribe(t, "a", 1)
	from := dial(t, options(r.Address(), "from"))
	for i := range 100 { // 100 KiB for each
		from.publish(t, "a", 1, false, fmt.Sprintf("%03d%s", i, strings.Repeat("x", size)))
		if m := reads.next(t); !strings.HasPrefix(string(m.Payload()), fmt.Sprintf("%03d", i)) {
			t.Fatalf("the one who reads got %.3s, expected %03d", m.Payload(), i)
		}
		// Six that are not acknowledged are its share of so little room.
		eventually(t, "its acknowledgement", func() bool { return r.waiting("reads") == 0 })
	}
	if n := testutil.ToFloat64(r.metrics.queued); n < room/2 || n > room+9*2*size {
		t.Errorf("%v bytes wait, expected about %d", n, room)
	}
	if n := testutil.ToFloat64(r.metrics.dropped.WithLabelValues("queues")); n < 8*30 {
		t.Errorf("%v messages were dropped, expected most of 800", n)
	}
}

// Shares that were taken when there were fewer clients do not add up without end.
func TestMoreClientsDoNotRaiseTheBoundOfAll(t *testing.T) {
	const room, size = 64 << 10, 1 << 10
	r := start(t, &ram{}, func(c *Config) { c.Broker.Limits.QueuedBytes = room })
	from := dial(t, options(r.Address(), "from"))
	for i := range 14 {
		topic := fmt.Sprint("a", i)
		away := dial(t, lasting(r.Address(), topic))
		away.subscribe(t, topic, 1)
		away.Disconnect(100)
		for range 70 {
			from.publish(t, topic, 1, false, strings.Repeat("x", size))
		}
	}
	if n := testutil.ToFloat64(r.metrics.queued); n < 2*room || n > 2*room+2*size {
		t.Errorf("%v bytes wait, expected about %d", n, 2*room)
	}
}

// What waits for a client that is away is bounded in messages and in bytes.
func TestTheQueueOfAClientIsBounded(t *testing.T) {
	for _, x := range []struct{ queue, bytes, want int }{{10, 1 << 20, 10}, {1000, 3000, 3}} {
		r := start(t, &ram{}, func(c *Config) { c.Broker.Limits.Queue, c.Broker.Limits.QueueBytes = x.queue, x.bytes })
		c := dial(t, lasting(r.Address(), "c"))
		c.subscribe(t, "a", 1)
		c.Disconnect(100)
		from := dial(t, options(r.Address(), "from"))
		for i := range 50 {
			from.publish(t, "a", 1, false, fmt.Sprintf("%03d%s", i, strings.Repeat("x", 1000)))
		}
		if n := r.mem.count(bucketInflight); n != x.want {
			t.Errorf("queue of %d messages and %d bytes: expected %d to be kept, found %d", x.queue, x.bytes, x.want, n)
		}
		lost, err := r.reg.Gather()
		if err != nil {
			t.Fatal(err)
		}
		counted := 0.0
		for _, f := range lost {
			if f.GetName() == "tether_mqtt_queue_full_total" || f.GetName() == "tether_mqtt_dropped_messages_total" {
				for _, m := range f.Metric {
					counted += m.Counter.GetValue()
				}
			}
		}
		if int(counted) != 50-x.want {
			t.Errorf("expected %d lost messages to be counted, found %v", 50-x.want, counted)
		}
		c = dial(t, lasting(r.Address(), "c"))
		for i := range x.want {
			if m := c.next(t); string(m.Payload()[:3]) != fmt.Sprintf("%03d", i) {
				t.Fatalf("expected message %d, found %s", i, m.Payload()[:3])
			}
		}
		r.stop()
	}
}

// Bytes that are no MQTT, and MQTT that is wrong, cost their connection.
func TestGarbageCostsItsConnection(t *testing.T) {
	r := start(t, nil, nil)
	pub := func(topic string) []byte {
		b := append([]byte{0, byte(len(topic))}, topic...)
		return append([]byte{0x30, byte(len(b))}, b...)
	}
	for i, b := range [][]byte{
		[]byte("GET / HTTP/1.1\r\n\r\n"), {0xff, 0xff, 0xff, 0xff, 0xff}, {0x30, 0}, {0x82, 0xff, 0xff, 0xff, 0x7f}, {0x82, 2, 0, 1}, {0x62, 1, 1}, {0xf0, 0},
		pub("a/#"), pub("a/+"), pub("a\x00b"), pub(""), pub("\xff\xfe"), {0x36, 3, 0, 1, 'a'}, {0x32, 5, 0, 1, 'a', 0, 0}, {0xa2, 2, 0, 1}, {0x10, 2, 0, 0},
	} {
		for _, connected := range []bool{false, true} {
			c, code := connect(t, "127.0.0.1", r.Address(), fmt.Sprint("g", i))
			if code != 0 {
				t.Fatal("not connected")
			}
			if !connected {
				c.Close()
				var err error
				if c, err = net.Dial("tcp", r.Address()); err != nil {
					t.Fatal(err)
				}
				t.Cleanup(func() { c.Close() })
			}
			if _, err := c.Write(append(b, 0xc0, 0)); err != nil {
				t.Fatal(err)
			}
			if connected && b[0] != 0x30 && i < 3 { // most are closed at once, some are ignored; none may hang the broker
				_ = c.SetReadDeadline(time.Now().Add(20 * time.Second))
				_, _ = io.ReadAll(c)
			}
		}
	}
	if n := testutil.ToFloat64(r.metrics.panics); n != 0 {
		t.Errorf("expected no panic, found %v", n)
	}
	c := dial(t, options(r.Address(), "c"))
	c.subscribe(t, "a", 1)
	c.publish(t, "a", 1, false, "still here")
	c.expect(t, "a", "still here")
}

func freePort(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}
