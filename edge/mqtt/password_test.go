package mqtt

import (
	"fmt"
	"sync"
	"testing"

	"github.com/prometheus/client_golang/prometheus/testutil"
)

// crowd has as many passwords as may wait at a door be guessed there, none of which is judged before stop. last is one of them.
func crowd(t *testing.T, u *Users, at *door, last func()) (stop func()) {
	t.Helper()
	at.slow.Lock()
	var all sync.WaitGroup
	for i := range maxWaiting - 1 {
		all.Go(func() {
			if _, _, v := u.now.Load().login(at, false, "ann", fmt.Append(nil, "guess ", i)); v != wrong {
				t.Errorf("guess %d: %v", i, v)
			}
		})
	}
	all.Go(last)
	eventually(t, "a crowd at the door", func() bool {
		at.mu.Lock()
		defer at.mu.Unlock()
		return len(at.waiting) == maxWaiting
	})
	return sync.OnceFunc(func() {
		at.slow.Unlock()
		all.Wait()
	})
}

// Who guesses passwords at one port keeps nobody out at another, and nobody at all whose password was right before.
func TestACrowdAtOnePortKeepsOthersOutNowhereElse(t *testing.T) {
	ann, bob := user(t, "ann", "p"), user(t, "bob", "q")
	u, err := NewUsers([]User{ann}, false, true)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := u.set([]User{bob}); err != nil {
		t.Fatal(err)
	}
	login := func(name, password string) bool {
		_, ok, _ := u.Login(false, name, password)
		return ok
	}
	if !login("ann", "p") {
		t.Fatal("ann is not let in")
	}
	bobs := func() {
		if !login("bob", "q") {
			t.Error("who waited for his turn is not let in")
		}
	}
	stop := crowd(t, u, u.ports, bobs)
	defer stop()
	if _, ok, crowded := u.Login(false, "bob", "other"); ok || !crowded {
		t.Errorf("a password is let in that was not checked, or not said to be unchecked: %v, %v", ok, crowded)
	}
	if _, ok, crowded := u.Login(false, "", ""); ok || crowded {
		t.Errorf("nobody is let in, or told to come again: %v, %v", ok, crowded)
	}
	if login("bob", "other") {
		t.Error("a password is let in that was not checked")
	}
	if !login("ann", "p") {
		t.Error("who is known is not let in at once")
	}
	if _, _, v := u.now.Load().login(u.broker, false, "bob", []byte("q")); v != right {
		t.Errorf("at the broker: %v, expected that he is let in", v)
	}
	if !login("bob", "q") {
		t.Error("who was let in at the broker is not known at other ports")
	}
	// A change of the users forgets those alone who are gone or have another password.
	if _, err := u.set([]User{user(t, "bob", "q")}); err != nil {
		t.Fatal(err)
	}
	if !login("ann", "p") {
		t.Error("who has the same hash as before is forgotten")
	}
	if login("bob", "q") {
		t.Error("who has another hash is let in without a look at it")
	}
	if _, err := u.set(nil); err != nil {
		t.Fatal(err)
	}
	if n := len(u.passwords.known); n != 1 {
		t.Errorf("%d passwords are remembered, expected ann's", n)
	}
	if _, err := u.set([]User{bob}); err != nil {
		t.Fatal(err)
	}
	stop()
	if !login("bob", "q") {
		t.Error("bob is not let in when the crowd is gone")
	}
}

// Clients that all bring the same password, as after a restart, wait for one check of it.
func TestTheSamePasswordIsCheckedOnce(t *testing.T) {
	u, err := NewUsers([]User{user(t, "ann", "p"), user(t, "bob", "q")}, false, false)
	if err != nil {
		t.Fatal(err)
	}
	checked := &try{done: make(chan struct{}), ok: true}
	stop := crowd(t, u, u.ports, func() {
		u.ports.mu.Lock()
		defer u.ports.mu.Unlock()
		u.ports.waiting[u.passwords.proof("bob", u.now.Load().hash("bob"), []byte("q"))] = checked
	})
	defer stop()
	close(checked.done)
	if _, ok, _ := u.Login(false, "bob", "q"); !ok {
		t.Error("bob is not let in")
	}
}

// A client of MQTT that comes to a crowd is told to come again, and not that its password is wrong.
func TestAClientIsToldThatTheBrokerIsBusy(t *testing.T) {
	r := start(t, nil, func(c *Config) {
		c.Broker.Anonymous = false
		c.Broker.Users = []User{user(t, "ann", "p")}
	})
	stop := crowd(t, r.users, r.users.broker, func() {
		r.users.now.Load().login(r.users.broker, false, "bob", nil)
	})
	defer stop()
	refused(t, as(options(r.Address(), "a"), "ann", "p"), "a crowd at the door")
	if n := testutil.ToFloat64(r.metrics.refused.WithLabelValues("busy")); n != 1 {
		t.Errorf("%v refusals are counted, expected 1", n)
	}
	stop()
	dial(t, as(options(r.Address(), "a"), "ann", "p"))
}
