package mqtt

import (
	"strings"
	"testing"
	"time"

	paho5 "github.com/eclipse/paho.golang/paho"
	paho "github.com/eclipse/paho.mqtt.golang"
	"github.com/mochi-mqtt/server/v2/packets"
)

// willing has a will on will/ID.
func willing(addr, id string) *paho.ClientOptions {
	return options(addr, id).SetWill("will/"+id, "gone", 1, false)
}

// TestAWillOutlivesAPowerCut: nobody else would say that a client is gone which does not come back after it.
func TestAWillOutlivesAPowerCut(t *testing.T) {
	mem := &ram{}
	r := start(t, mem, nil)
	watch := dial(t, lasting(r.Address(), "watch"))
	watch.subscribe(t, "will/#", 1)
	for _, id := range []string{"away", "back", "other"} {
		dial(t, willing(r.Address(), id))
	}
	dial(t, willing(r.Address(), "polite")).Disconnect(100)
	eventually(t, "the wills of those who are connected to be stored", func() bool { return mem.count(bucketWills) == 3 })
	image := mem.image()
	r.stop()

	r = start(t, image, func(c *Config) { c.Broker.WillGrace = time.Hour })
	watch = dial(t, lasting(r.Address(), "watch"))
	dial(t, options(r.Address(), "back"))
	other := dial(t, willing(r.Address(), "other"))
	r.passes(time.Hour)
	watch.expect(t, "will/away", "gone")
	eventually(t, "only the will of who is connected to be stored", func() bool { return image.count(bucketWills) == 1 })
	if n := len(watch.got); n > 0 {
		t.Errorf("%d more wills were sent, the first on %s: their clients are here", n, watch.next(t).Topic())
	}
	other.Disconnect(100)
	eventually(t, "no will to be stored", func() bool { return image.count(bucketWills) == 0 })
}

// passes lets so much time pass for the wills that wait.
func (r *rig) passes(d time.Duration) {
	w := r.broker.Load().wills
	w.mu.Lock()
	for client, waits := range w.waiting {
		waits.due = waits.due.Add(-d)
		w.waiting[client] = waits
	}
	w.mu.Unlock()
	w.changed <- struct{}{}
}

// TestWillsAreBounded: each, and all together; and one that is to come later than its session lasts comes when that ends.
func TestWillsAreBounded(t *testing.T) {
	r := start(t, &ram{}, nil)
	w := r.broker.Load().wills
	if w.room(&willRecord{UserProperties: []packets.UserProperty{{Key: "k", Val: strings.Repeat("v", maxWill)}}}) || !w.room(&willRecord{Payload: make([]byte, 65_535)}) {
		t.Errorf("expected room for 64 KiB of payload, and none for more than %d bytes in all", maxWill)
	}
	w.mu.Lock()
	w.bytes += maxWills - 100_000
	w.mu.Unlock()
	one := dial(t, willing(r.Address(), "one").SetBinaryWill("will/one", make([]byte, 60_000), 1, false))
	refused(t, options(r.Address(), "two").SetBinaryWill("will/two", make([]byte, 60_000), 1, false), "will")
	one.Disconnect(100)
	eventually(t, "its will to be forgotten", func() bool { w.mu.Lock(); defer w.mu.Unlock(); return w.bytes == maxWills-100_000 })
	dial(t, options(r.Address(), "two").SetBinaryWill("will/two", make([]byte, 60_000), 1, false)).Disconnect(100)
	dial5(t, r.Address(), "late", func(c *paho5.Connect) {
		c.Properties.SessionExpiryInterval = seconds(30)
		c.WillMessage, c.WillProperties = &paho5.WillMessage{Topic: "will/late", Payload: []byte("gone")}, &paho5.WillProperties{WillDelayInterval: seconds(3600)}
	})
	w.mu.Lock()
	defer w.mu.Unlock()
	if got := w.stored["late"].Delay; got != 30 {
		t.Errorf("a will of a session of 30 s is stored with a delay of %d s", got)
	}
}

// TestAWillIsJudgedAgainBeforeItIsSent: its user may have lost the right since.
func TestAWillIsJudgedAgainBeforeItIsSent(t *testing.T) {
	mem := &ram{}
	users := func(filters ...string) func(*Config) {
		return func(c *Config) {
			c.Broker.WillGrace = time.Millisecond
			var acl []Access
			for _, f := range filters {
				acl = append(acl, Access{Filter: f, Read: true, Write: true})
			}
			c.Broker.Users = []User{user(t, "ann", "p", acl...), user(t, "watch", "p", acl...)}
		}
	}
	r := start(t, mem, users("#"))
	watch := dial(t, as(lasting(r.Address(), "watch"), "watch", "p"))
	watch.subscribe(t, "will/#", 1)
	dial(t, as(willing(r.Address(), "one"), "ann", "p"))
	dial(t, as(willing(r.Address(), "two"), "ann", "p"))
	eventually(t, "the wills to be stored", func() bool { return mem.count(bucketWills) == 2 })
	image := mem.image()
	r.stop()
	r = start(t, image, users("will/two"))
	eventually(t, "no will to be stored", func() bool { return image.count(bucketWills) == 0 })
	watch = dial(t, as(lasting(r.Address(), "watch"), "watch", "p"))
	watch.expect(t, "will/two", "gone")
	if n := len(watch.got); n > 0 {
		t.Errorf("%d more wills were sent, by a user who may not", n)
	}
}
