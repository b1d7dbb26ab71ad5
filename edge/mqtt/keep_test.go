package mqtt

import (
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	paho "github.com/eclipse/paho.mqtt.golang"
)

func lasting(addr, id string) *paho.ClientOptions { return options(addr, id).SetCleanSession(false) }

// A power cut right after the acknowledgement loses nothing, repeats nothing of QoS 2, and keeps the order.
func TestAcknowledgedMessagesOutliveAPowerCut(t *testing.T) {
	mem := &ram{}
	r := start(t, mem, nil)
	away := dial(t, lasting(r.Address(), "away"))
	away.subscribe(t, "line/#", 2)
	away.Disconnect(100)
	from := dial(t, lasting(r.Address(), "from"))
	const n = 60
	for i := range n {
		from.publish(t, "line/1", byte(1+i%2), false, fmt.Sprint(i))
	}
	from.publish(t, "line/state", 1, true, "running")
	image := mem.image()
	r.stop()

	for range 2 { // the second time from what a broker left that had loaded it
		r = start(t, image.image(), nil)
		away = dial(t, lasting(r.Address(), "away"))
		for i := range n {
			away.expect(t, "line/1", fmt.Sprint(i))
		}
		away.expect(t, "line/state", "running")
		late := dial(t, options(r.Address(), "late"))
		late.subscribe(t, "line/state", 1)
		if m := late.next(t); !m.Retained() || string(m.Payload()) != "running" {
			t.Fatalf("expected the retained message, found %q", m.Payload())
		}
		eventually(t, "nothing under way is stored any more", func() bool { return r.mem.count(bucketInflight) == 0 })
		away.Disconnect(100)
		r.stop()
	}
}

// The library acknowledges first and hands on later; a power cut between would lose the message.
func TestNothingIsAcknowledgedBeforeItIsStored(t *testing.T) {
	for _, qos := range []byte{1, 2} {
		mem := &ram{}
		r := start(t, mem, nil)
		away := dial(t, lasting(r.Address(), "away"))
		away.subscribe(t, "line/#", 2)
		away.Disconnect(100)
		from := dial(t, lasting(r.Address(), "from"))
		eventually(t, "the sessions are stored", func() bool { return mem.count(bucketSessions) == 2 })
		gate := make(chan struct{})
		mem.set(nil, gate)
		token := from.Publish("line/1", qos, false, "x")
		if token.WaitTimeout(200 * time.Millisecond) {
			t.Errorf("QoS %d: expected no acknowledgement while nothing is stored", qos)
		}
		mem.set(nil, nil)
		close(gate)
		if err := wait(token); err != nil {
			t.Errorf("QoS %d: %v", qos, err)
		}
		if n := mem.count(bucketInflight); n == 0 {
			t.Errorf("QoS %d: expected the message to be stored once it is acknowledged", qos)
		}
		r.stop()
	}
}

// A memory that fails for a while costs time and no message.
func TestAFailingMemoryIsTriedAgain(t *testing.T) {
	mem := &ram{}
	r := start(t, mem, nil)
	c := dial(t, lasting(r.Address(), "c"))
	c.subscribe(t, "line/#", 1)
	mem.set(errors.New("disk full"), nil)
	token := c.Publish("line/1", 1, true, "x")
	if token.WaitTimeout(100 * time.Millisecond) {
		t.Error("expected no acknowledgement while the memory fails")
	}
	mem.set(nil, nil)
	if err := wait(token); err != nil {
		t.Error(err)
	}
	if mem.count(bucketRetained) != 1 {
		t.Error("expected the retained message to be stored")
	}
}

func TestADamagedRecordKeepsNoBrokerFromStarting(t *testing.T) {
	mem := &ram{buckets: map[string]map[string][]byte{}}
	for _, b := range []string{bucketSessions, bucketSubscriptions, bucketInflight, bucketRetained} {
		mem.buckets[b] = map[string][]byte{"x": []byte(`{"id":`), "y": []byte(`{"client":"nobody"}`)}
	}
	r := start(t, mem, nil)
	c := dial(t, options(r.Address(), "c"))
	c.subscribe(t, "a", 0)
	eventually(t, "damaged and ownerless records are deleted", func() bool { return mem.count(bucketInflight)+mem.count(bucketSubscriptions) == 0 })
}

// A session that its client ends, by a clean connect or an unsubscribe, leaves nothing behind.
func TestWhatEndsIsForgotten(t *testing.T) {
	mem := &ram{}
	r := start(t, mem, nil)
	c := dial(t, lasting(r.Address(), "c"))
	c.subscribe(t, "a/#", 1)
	c.subscribe(t, "b/#", 1)
	if err := wait(c.Unsubscribe("b/#")); err != nil {
		t.Fatal(err)
	}
	eventually(t, "one subscription is stored", func() bool { return mem.count(bucketSubscriptions) == 1 })
	c.Disconnect(100)
	from := dial(t, options(r.Address(), "from"))
	from.publish(t, "a/1", 1, true, "x")
	if mem.count(bucketInflight) != 1 || mem.count(bucketRetained) != 1 {
		t.Fatalf("expected the message to wait and to be retained, found %d, %d", mem.count(bucketInflight), mem.count(bucketRetained))
	}
	from.publish(t, "a/1", 1, true, "")
	dial(t, options(r.Address(), "c")).Disconnect(100)
	eventually(t, "nothing is stored", func() bool {
		return mem.count(bucketSessions)+mem.count(bucketSubscriptions)+mem.count(bucketInflight)+mem.count(bucketRetained) == 0
	})
}

// A client's packet ids and the broker's are two sequences that both begin at 1. The library keeps them in one table.
func TestAClientsPacketIDsDoNotTouchOurs(t *testing.T) {
	r := start(t, &ram{}, nil)
	c := dial(t, lasting(r.Address(), "c").SetAutoAckDisabled(true))
	c.subscribe(t, "in/#", 1)
	from := dial(t, options(r.Address(), "from"))
	const n = 10
	for i := range n {
		from.publish(t, "in/1", 1, false, fmt.Sprint(i))
	}
	for i := range n { // taken, and not acknowledged
		c.expect(t, "in/1", fmt.Sprint(i))
	}
	for i := range 2 * n {
		c.publish(t, "out/1", byte(1+i%2), false, "x")
		c.subscribe(t, fmt.Sprint("more/", i), 1)
	}
	c.Disconnect(100)
	c = dial(t, lasting(r.Address(), "c"))
	for i := range n {
		c.expect(t, "in/1", fmt.Sprint(i))
	}
}

func TestASessionThatIsAwayTooLongEnds(t *testing.T) {
	mem := &ram{}
	r := start(t, mem, func(c *Config) { c.Broker.Limits.SessionExpiry = time.Second })
	subscriptions := func() int64 { return atomic.LoadInt64(&r.metrics.library.Load().Subscriptions) }
	before := subscriptions()
	c := dial(t, lasting(r.Address(), "c"))
	c.subscribe(t, "a/#", 1)
	c.Disconnect(100)
	eventually(t, "the session is gone", func() bool {
		return mem.count(bucketSessions)+mem.count(bucketSubscriptions) == 0 && subscriptions() == before
	})
}

// The library keeps the order of 65,536 messages.
func TestTheOrderHoldsForEver(t *testing.T) {
	r := start(t, &ram{}, func(c *Config) { c.Broker.Limits.MessageRate, c.Broker.Limits.ByteRate = 1<<20, 1<<30 })
	c := dial(t, lasting(r.Address(), "c"))
	c.subscribe(t, "a", 1)
	c.Disconnect(100)
	from := dial(t, options(r.Address(), "from"))
	for range 65500 {
		from.Publish("b", 0, false, "")
	}
	const n = 60
	for i := range n {
		from.publish(t, "a", 1, false, fmt.Sprint(i))
	}
	c = dial(t, lasting(r.Address(), "c"))
	for i := range n {
		c.expect(t, "a", fmt.Sprint(i))
	}
}

// A client that comes back while messages for it stream in gets each of them.
func TestAReconnectInTheMiddleLosesNothing(t *testing.T) {
	r := start(t, &ram{}, func(c *Config) { c.Broker.Limits.MessageRate, c.Broker.Limits.Queue = 1<<20, 30000 })
	const n = 4000
	var mu sync.Mutex
	got := map[string]bool{}
	join := func() paho.Client {
		c := paho.NewClient(lasting(r.Address(), "c").SetDefaultPublishHandler(func(_ paho.Client, m paho.Message) {
			mu.Lock()
			defer mu.Unlock()
			got[string(m.Payload())] = true
		}))
		if err := wait(c.Connect()); err != nil {
			t.Fatal(err)
		}
		return c
	}
	c := join()
	if err := wait(c.Subscribe("a", 1, nil)); err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	from := dial(t, options(r.Address(), "from"))
	go func() {
		for i := range n {
			if err := wait(from.Publish("a", 1, false, fmt.Sprint(i))); err != nil {
				done <- err
				return
			}
		}
		done <- nil
	}()
	for ended := false; !ended; {
		select {
		case err := <-done:
			if err != nil {
				t.Fatal(err)
			}
			ended = true
		default:
			former := c
			c = join() // takes over
			former.Disconnect(0)
		}
	}
	defer func() { c.Disconnect(0) }()
	eventually(t, "all messages", func() bool {
		mu.Lock()
		defer mu.Unlock()
		return len(got) == n
	})
}

// A right that is taken away by a new configuration holds for sessions that were there before it.
func TestRightsThatWereTakenAwayAreGone(t *testing.T) {
	mem := &ram{}
	users := func(filter string) func(*Config) {
		return func(c *Config) {
			c.Broker.Users = []User{user(t, "ann", "p", Access{filter, true, true}), user(t, "all", "p", Access{"#", true, true})}
		}
	}
	r := start(t, mem, users("a/#"))
	c := dial(t, as(lasting(r.Address(), "c"), "ann", "p"))
	c.subscribe(t, "a/#", 1)
	c.Disconnect(100)
	from := dial(t, as(options(r.Address(), "from"), "all", "p"))
	from.publish(t, "a/1", 1, false, "before")
	if mem.count(bucketInflight) != 1 {
		t.Fatal("expected the message to wait")
	}
	r.stop()
	r = start(t, mem, users("b/#"))
	from = dial(t, as(options(r.Address(), "from"), "all", "p"))
	from.publish(t, "a/1", 1, false, "after")
	eventually(t, "neither waits", func() bool { return mem.count(bucketInflight) == 0 })
	c = dial(t, as(lasting(r.Address(), "c"), "ann", "p"))
	c.subscribe(t, "b/#", 1)
	from.publish(t, "a/1", 1, false, "now")
	from.publish(t, "b/1", 1, false, "allowed")
	c.expect(t, "b/1", "allowed")
}
