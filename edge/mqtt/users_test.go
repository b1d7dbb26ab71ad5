package mqtt

import (
	"strings"
	"testing"
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
		u, err := NewUsers(c.list, c.anonymous)
		if err != nil {
			t.Fatal(err)
		}
		name, ok := u.Login(c.local, c.name, c.password)
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
	if u, err := NewUsers(list, false); err != nil || u.MayRead("", "plant", "pump") || u.MayDesire("stranger", "plant", "pump") {
		t.Errorf("nobody has rights: %v", err)
	}
	if _, err := NewUsers([]User{{Name: "a", Hash: "plain"}}, false); err == nil || !strings.Contains(err.Error(), "bcrypt") {
		t.Errorf("found %v", err)
	}
}
