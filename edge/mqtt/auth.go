package mqtt

// rights are what a client may do with topics. The nil rights allow everything.
type rights struct{ acl []Access }

// may reports whether topic, or for reading all that a filter matches, is allowed.
func (r *rights) may(topic string, write bool) bool {
	if r == nil {
		return true
	}
	topic = unshared(topic)
	for _, a := range r.acl {
		if (write && a.Write || !write && a.Read) && covers(a.Filter, topic) {
			return true
		}
	}
	return false
}

// users are those of one moment.
type users struct {
	anonymous bool // who comes from loopback without a name is let in, with all rights
	named     bool // there are users, or will be: who comes with a name is one of them
	byName    map[string]*User
	rights    map[string]*rights
	passwords *passwords
}

func newUsers(list []User, anonymous, named bool, known *passwords) *users {
	u := &users{anonymous: anonymous, named: named || len(list) > 0, byName: map[string]*User{}, rights: map[string]*rights{}, passwords: known}
	for i := range list {
		u.byName[list[i].Name] = &list[i]
		u.rights[list[i].Name] = &rights{list[i].ACL}
	}
	return u
}

// login returns the user that a client is, "" for nobody in particular, and the hash of its password. local says that it comes from
// a loopback address.
func (u *users) login(at *door, local bool, name string, password []byte) (user, hash string, v verdict) {
	if u.anonymous && local && (name == "" || !u.named) {
		return "", "", right
	}
	hash = u.hash(name)
	return name, hash, u.passwords.check(at, name, hash, password)
}

// of are the rights of a user that login returned.
func (u *users) of(user string) *rights {
	if user == "" && u.anonymous {
		return nil
	}
	if r := u.rights[user]; r != nil {
		return r
	}
	return &rights{}
}

// hash is a user's, empty for one who does not exist.
func (u *users) hash(name string) string {
	if user := u.byName[name]; user != nil {
		return user.Hash
	}
	return ""
}
