package mqtt

import (
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// What the broker allows to clients it allows at other ports: who may publish what the device shall have may desire it, who may
// subscribe to what it has may read it.
func TestUsersHaveTheirRightsElsewhere(t *testing.T) {
	list := []User{user(t, "pump", "p", Access{pump + "#", true, true}), user(t, "reader", "p", Access{"$hw/events/device/+/+/twin/get/result", true, false}),
		user(t, "writer", "p", Access{"$hw/events/device/plant/+/twin/update", false, true}), user(t, "all", "p", Access{"#", true, true})}
	for _, c := range []struct {
		anonymous, local bool
		list             []User
		name, password   string
		ok               bool
		read, desire     string // of the devices pump and fan
	}{
		{true, true, list, "", "", true, "pump fan", "pump fan"},
		{true, false, list, "", "", false, "", ""},
		{false, true, list, "", "", false, "", ""},
		{true, true, nil, "anybody", "x", true, "pump fan", "pump fan"},
		{true, true, list, "anybody", "x", false, "", ""},
		{true, true, list, "pump", "wrong", false, "", ""},
		{false, false, list, "pump", "p", true, "pump", "pump"},
		{false, false, list, "reader", "p", true, "pump fan", ""},
		{false, false, list, "writer", "p", true, "", "pump fan"},
		{true, true, list, "all", "p", true, "", ""}, // # covers nothing that begins with $
	} {
		u, err := NewUsers(c.list, c.anonymous, false)
		if err != nil {
			t.Fatal(err)
		}
		name, ok, _ := u.Login(c.local, c.name, c.password)
		if ok != c.ok {
			t.Errorf("%+v: let in: %v", c, ok)
		}
		if !ok {
			continue
		}
		var read, desire []string
		for _, d := range []string{"pump", "fan"} {
			if u.MayRead(name, "plant", d) {
				read = append(read, d)
			}
			if u.MayDesire(name, "plant", d) {
				desire = append(desire, d)
			}
		}
		if strings.Join(read, " ") != c.read || strings.Join(desire, " ") != c.desire {
			t.Errorf("%+v: reads %q and desires %q", c, read, desire)
		}
	}
	if u, err := NewUsers(list, false, false); err != nil || u.MayRead("", "plant", "pump") || u.MayDesire("stranger", "plant", "pump") {
		t.Errorf("nobody has rights: %v", err)
	}
	if _, err := NewUsers([]User{{Name: "a", Hash: "plain"}}, false, false); err == nil || !strings.Contains(err.Error(), "bcrypt") {
		t.Errorf("found %v", err)
	}
}

// The users of a Service that a Secret brings hold at the node's other ports, which share them.
func TestUsersThatComeLaterHoldAtOtherPortsToo(t *testing.T) {
	shared, err := NewUsers([]User{user(t, "ann", "p")}, true, true)
	if err != nil {
		t.Fatal(err)
	}
	if _, ok, _ := shared.Login(true, "stranger", ""); ok {
		t.Error("a name that nobody has is let in though users are to come")
	}
	s := New(Default("n"), Deps{Users: shared, Log: slog.New(slog.DiscardHandler), Registry: prometheus.NewRegistry(), Now: time.Now})
	if err := s.SetUsers([]User{user(t, "bob", "q", Access{pump + "#", true, true})}); err != nil {
		t.Fatal(err)
	}
	for name, password := range map[string]string{"ann": "p", "bob": "q"} {
		if _, ok, _ := shared.Login(false, name, password); !ok {
			t.Errorf("%s is not let in", name)
		}
	}
	if !shared.MayDesire("bob", "plant", "pump") || shared.MayDesire("ann", "plant", "pump") {
		t.Error("the rights are not those of their filters")
	}
	if err := s.SetUsers(nil); err != nil {
		t.Fatal(err)
	}
	if _, ok, _ := shared.Login(false, "bob", "q"); ok {
		t.Error("who is gone is let in")
	}
}
