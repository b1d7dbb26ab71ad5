package tunnel

import (
	"encoding/binary"
	"sync/atomic"
	"time"
)

const (
	// applicationData is the type of a record of TLS (RFC 8446, section 5.1) that carries it. In TLS 1.3 all that is
	// encrypted says so.
	applicationData = 23
	// shortAnswer is longer than what a server that gives no session tickets sends between its handshake and an answer of
	// HTTP, in bytes: the answer to a KeyUpdate (22), an alert (19), a "100 Continue" (42). The head of an answer is longer.
	shortAnswer = 64
)

// answered tells from the outside of a connection over TLS when the server has answered a request. A stranger's is answered
// too, with the end of the connection. What a stranger may have of the server before, such as its handshake or answers to
// messages of TLS, is none.
type answered struct {
	asked    atomic.Bool // the caller sent what comes after its handshake, or the end of that
	from, to records
}

// caller sees what the caller sends, in order, and reports whether it has asked.
func (a *answered) caller(p []byte) bool {
	a.from.see(p, func(kind byte, _ int) {
		if kind == applicationData {
			a.asked.Store(true)
		}
	})
	return a.asked.Load()
}

// holder sees what the server sends, in order and before the caller has it, and reports whether it has answered. A caller that
// asks before the server has ended its part of the handshake is ended by it.
func (a *answered) holder(p []byte) (yes bool) {
	a.to.see(p, func(kind byte, length int) {
		yes = yes || kind == applicationData && length > shortAnswer && a.asked.Load()
	})
	return yes
}

// expire calls one of the two after strangerLife: stays if the caller has asked, since the holder would have ended a stranger,
// and some answers take hours to begin.
func (a *answered) expire(stays, ends func()) *time.Timer {
	return time.AfterFunc(strangerLife, func() {
		if a.asked.Load() {
			stays()
		} else {
			ends()
		}
	})
}

// records follows one direction of TLS.
type records struct {
	head [5]byte // type, version and length
	have int     // of head
	rest int     // of the record
}

// see calls each with the type and the length of every record that begins in p.
func (r *records) see(p []byte, each func(kind byte, length int)) {
	for len(p) > 0 {
		if r.rest > 0 {
			n := min(r.rest, len(p))
			r.rest, p = r.rest-n, p[n:]
			continue
		}
		n := copy(r.head[r.have:], p)
		r.have, p = r.have+n, p[n:]
		if r.have == len(r.head) {
			r.have, r.rest = 0, int(binary.BigEndian.Uint16(r.head[3:]))
			each(r.head[0], r.rest)
		}
	}
}
