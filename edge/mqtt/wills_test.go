package mqtt

import (
	"testing"
	"time"

	paho "github.com/eclipse/paho.mqtt.golang"
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

	r = start(t, image, func(c *Config) { c.Broker.WillGrace = 4 * time.Second })
	watch = dial(t, lasting(r.Address(), "watch"))
	dial(t, options(r.Address(), "back"))
	other := dial(t, willing(r.Address(), "other"))
	watch.expect(t, "will/away", "gone")
	eventually(t, "only the will of who is connected to be stored", func() bool { return image.count(bucketWills) == 1 })
	if n := len(watch.got); n > 0 {
		t.Errorf("%d more wills were sent, the first on %s: their clients are here", n, watch.next(t).Topic())
	}
	other.Disconnect(100)
	eventually(t, "no will to be stored", func() bool { return image.count(bucketWills) == 0 })
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
