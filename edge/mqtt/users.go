package mqtt

import (
	"errors"
	"fmt"
	"slices"
	"sync/atomic"
)

// Users are those of the broker and of other ports of this node, with the rights that their filters give them. Make it with
// NewUsers; it is safe for concurrent use.
type Users struct {
	own       []User
	anonymous bool
	more      bool
	now       atomic.Pointer[users]
	passwords *passwords
	// broker and ports are the doors of MQTT, and of the node's other ports.
	broker, ports *door
}

// NewUsers returns the users of a configuration. Anonymous lets clients in that come from loopback without a name, with all
// rights. More says that there are others, now or later: see Service.SetUsers. The error lists what is wrong with list.
func NewUsers(list []User, anonymous, more bool) (*Users, error) {
	if err := errors.Join(faultsOf(list)...); err != nil {
		return nil, fmt.Errorf("users: %w", err)
	}
	return makeUsers(list, anonymous, more), nil
}

func makeUsers(list []User, anonymous, more bool) *Users {
	u := &Users{own: list, anonymous: anonymous, more: more, passwords: newPasswords(), broker: newDoor(), ports: newDoor()}
	u.now.Store(newUsers(list, anonymous, more, u.passwords))
	return u
}

// Set makes more the users beside those of the configuration, in place of what it was given before, where no Service runs that has
// connections to close: see Service.SetUsers. After an error everything is as it was.
func (u *Users) Set(more []User) error {
	_, err := u.set(more)
	return err
}

// set makes more the users beside those of the configuration, and returns how many there are.
func (u *Users) set(more []User) (int, error) {
	faults := faultsOf(more)
	for i := range more {
		if slices.ContainsFunc(u.own, func(o User) bool { return o.Name == more[i].Name }) {
			faults = append(faults, fmt.Errorf("users[%d]: expected a name that is not in the configuration too, found %q", i, more[i].Name))
		}
	}
	if len(faults) > 0 {
		return 0, errors.Join(faults...)
	}
	all := slices.Concat(u.own, more)
	now := newUsers(all, u.anonymous, u.more, u.passwords)
	u.now.Store(now)
	u.passwords.keep(now.byName)
	return len(all), nil
}

// Login judges a name and a password as a CONNECT's. User is "" for a client without a name. It blocks while bcrypt works, which does
// one password at a time, apart from those of MQTT's clients. Of 32 that wait the next one is not looked at, which is what crowded
// says, unless it was right before.
func (u *Users) Login(local bool, name, password string) (user string, ok, crowded bool) {
	user, _, v := u.now.Load().login(u.ports, local, name, []byte(password))
	return user, v == right, v == busy
}

// MayRead reports whether a user may see the twin of a device: whether it may subscribe to what twin/get is answered with.
func (u *Users) MayRead(user, namespace, name string) bool {
	return u.now.Load().of(user).may(deviceTopic(namespace, name, twinGet.String()+result), false)
}

// MayDesire reports whether a user may set what a device shall have: whether it may publish its twin/update.
func (u *Users) MayDesire(user, namespace, name string) bool {
	return u.now.Load().of(user).may(deviceTopic(namespace, name, twinUpdate.String()), true)
}
