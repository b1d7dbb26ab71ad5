package mqtt

import (
	"errors"
	"fmt"
)

// Users lets the users of the broker in at other ports of this node, with the rights that their filters give them. Make it
// with NewUsers; it is safe for concurrent use.
type Users struct{ users *users }

// NewUsers returns the users of a configuration. Anonymous lets clients in that come from loopback without a name, with all
// rights. The error lists what is wrong with list.
func NewUsers(list []User, anonymous bool) (*Users, error) {
	if err := errors.Join(faultsOf(list)...); err != nil {
		return nil, fmt.Errorf("users: %w", err)
	}
	return &Users{newUsers(list, anonymous)}, nil
}

// Login judges a name and a password as a CONNECT's. User is "" for a client without a name. It blocks while bcrypt works,
// which does one password at a time.
func (u *Users) Login(local bool, name, password string) (user string, ok bool) {
	return u.users.login(local, name, []byte(password))
}

// MayRead reports whether a user may see the twin of a device: whether it may subscribe to what twin/get is answered with.
func (u *Users) MayRead(user, namespace, name string) bool {
	return u.users.of(user).may(deviceTopic(namespace, name, twinGet.String()+result), false)
}

// MayDesire reports whether a user may set what a device shall have: whether it may publish its twin/update.
func (u *Users) MayDesire(user, namespace, name string) bool {
	return u.users.of(user).may(deviceTopic(namespace, name, twinUpdate.String()), true)
}
