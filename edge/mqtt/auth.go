package mqtt

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"sync"

	"golang.org/x/crypto/bcrypt"
)

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

// users checks passwords. bcrypt is slow on purpose, so that one password is checked at a time, and what was right is
// remembered, as a keyed digest.
type users struct {
	anonymous bool // who comes from loopback without a name is let in, with all rights
	byName    map[string]*User
	rights    map[string]*rights
	key       [32]byte

	mu    sync.Mutex // guards right
	right map[[32]byte]bool
	slow  sync.Mutex // held while bcrypt works
}

func newUsers(list []User, anonymous bool) *users {
	u := &users{anonymous: anonymous, byName: map[string]*User{}, rights: map[string]*rights{}, right: map[[32]byte]bool{}}
	_, _ = rand.Read(u.key[:]) // never fails
	for i := range list {
		u.byName[list[i].Name] = &list[i]
		u.rights[list[i].Name] = &rights{list[i].ACL}
	}
	return u
}

// nobody is the hash of no password, of bcrypt's usual cost: a name that does not exist takes as long as a wrong password.
const nobody = "$2a$10$ajq8Q7fbtFRQvXpdCq7Jcuy.Rx1h/L4J60Otx.gyNLbAYctGMJ9tK"

// login returns the user that a client is, "" for nobody in particular. local says that it comes from a loopback address.
func (u *users) login(local bool, name string, password []byte) (user string, ok bool) {
	if u.anonymous && local && (name == "" || len(u.byName) == 0) {
		return "", true
	}
	_, ok = u.check(name, password)
	return name, ok && name != ""
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

// check returns the rights of name if password is its own.
func (u *users) check(name string, password []byte) (*rights, bool) {
	if len(password) > 72 { // bcrypt looks no further
		return nil, false
	}
	mac := hmac.New(sha256.New, u.key[:])
	mac.Write([]byte(name + "\x00"))
	mac.Write(password)
	sum := [32]byte(mac.Sum(nil))
	u.mu.Lock()
	known := u.right[sum]
	u.mu.Unlock()
	if known {
		return u.rights[name], true
	}
	hash := nobody
	user := u.byName[name]
	if user != nil {
		hash = user.Hash
	}
	u.slow.Lock()
	err := bcrypt.CompareHashAndPassword([]byte(hash), password)
	u.slow.Unlock()
	if err != nil || user == nil {
		return nil, false
	}
	u.mu.Lock()
	u.right[sum] = true // one entry a user: only its own password is right
	u.mu.Unlock()
	return u.rights[name], true
}
