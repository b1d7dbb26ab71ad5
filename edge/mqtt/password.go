package mqtt

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"sync"

	"golang.org/x/crypto/bcrypt"
)

// A verdict is what became of a name and a password.
type verdict int

const (
	wrong verdict = iota
	right
	// busy: as many passwords wait to be checked as may. This one may be right.
	busy
)

// nobody is the hash of no password, of bcrypt's usual cost: a name that does not exist takes as long as a wrong password.
const nobody = "$2a$10$ajq8Q7fbtFRQvXpdCq7Jcuy.Rx1h/L4J60Otx.gyNLbAYctGMJ9tK"

// passwords remembers which ones were right, as keyed digests, for as long as the user's hash is the same: who is known never
// waits for those who guess.
type passwords struct {
	key [32]byte
	mu  sync.Mutex // guards known
	// known has one entry a user: only its own password is right.
	known map[string]proven
}

// proven is a password that matched a hash.
type proven struct {
	digest [32]byte
	hash   string
}

func newPasswords() *passwords {
	p := &passwords{known: map[string]proven{}}
	_, _ = rand.Read(p.key[:]) // never fails
	return p
}

// check judges the password of the user of that name and hash, which is empty for one who does not exist. It blocks while bcrypt works
// for those who came to the same door before.
func (p *passwords) check(at *door, name, hash string, password []byte) verdict {
	if name == "" || len(password) > 72 { // no user has no name, and bcrypt looks no further
		return wrong
	}
	this := p.proof(name, hash, password)
	p.mu.Lock()
	known := p.known[name] == this
	p.mu.Unlock()
	if known {
		return right
	}
	found := at.compare(this, password)
	if found == right {
		p.mu.Lock()
		p.known[name] = this
		p.mu.Unlock()
	}
	return found
}

func (p *passwords) proof(name, hash string, password []byte) proven {
	mac := hmac.New(sha256.New, p.key[:])
	mac.Write([]byte(name + "\x00"))
	mac.Write(password)
	return proven{[32]byte(mac.Sum(nil)), hash}
}

// keep forgets all users but these.
func (p *passwords) keep(users map[string]*User) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for name := range p.known {
		if users[name] == nil {
			delete(p.known, name)
		}
	}
}

// maxWaiting is how many different passwords wait at one door. On a small gateway bcrypt takes some 0.2 s for each at its usual
// cost, and a client of MQTT has 10 s to be let in.
const maxWaiting = 32

// A door is where one port has passwords checked, one at a time: bcrypt is slow on purpose, and who guesses at one port must not keep
// those of another out, or take all processors.
type door struct {
	mu      sync.Mutex // guards waiting
	waiting map[proven]*try
	slow    sync.Mutex // held while bcrypt works
}

// A try is a password that is being checked. Whoever brings the same one meanwhile shares the outcome.
type try struct {
	done chan struct{} // closed when ok is set
	ok   bool
}

func newDoor() *door { return &door{waiting: map[proven]*try{}} }

func (d *door) compare(this proven, password []byte) verdict {
	d.mu.Lock()
	t, shared := d.waiting[this]
	if !shared {
		if len(d.waiting) >= maxWaiting {
			d.mu.Unlock()
			return busy
		}
		t = &try{done: make(chan struct{})}
		d.waiting[this] = t
	}
	d.mu.Unlock()
	if shared {
		<-t.done
	} else {
		d.slow.Lock()
		t.ok = fits(this.hash, password)
		d.slow.Unlock()
		d.mu.Lock()
		delete(d.waiting, this)
		d.mu.Unlock()
		close(t.done)
	}
	if t.ok {
		return right
	}
	return wrong
}

// fits reports whether a hash is that of password. The empty hash is nobody's.
func fits(hash string, password []byte) bool {
	exists := hash != ""
	if !exists {
		hash = nobody
	}
	return bcrypt.CompareHashAndPassword([]byte(hash), password) == nil && exists
}
