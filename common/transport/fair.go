package transport

import (
	"errors"
	"net"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// maxWaiting bounds the connections that were accepted and have no place yet, where nothing else is said. They cost a socket each and
// nothing more.
const maxWaiting = 4096

// A FairListener serves so many connections at once and lets the others wait: those of one address in order, and the
// addresses in turn, so that thousands of connections from one address do not hold up the rest. One that its peer has left
// when its turn comes is closed: in a storm most are of edges that have tried again since. Where too many wait, the latest
// of the address with the most is closed.
type FairListener struct {
	net.Listener
	places *Places
	life   time.Duration // of a place
	room   func() int    // for those waiting; it does not block
	left   func()        // if not nil, called for each that its peer left while it waited; it does not block

	mu sync.Mutex // guards all below
	// changed is signalled when a connection came, a place was given back or the listener has ended.
	changed *sync.Cond
	waiting *waiting
	ended   error
}

// NewFairListener returns one that serves most connections at once. It must be closed. A connection has its place until it
// is closed, which happens after life, whatever it does, unless it has left its place.
func NewFairListener(l net.Listener, most int, life time.Duration) *FairListener {
	return newFairListener(l, most, life, nil, nil)
}

func newFairListener(l net.Listener, most int, life time.Duration, room func() int, left func()) *FairListener {
	if room == nil {
		room = func() int { return maxWaiting }
	}
	f := &FairListener{Listener: l, places: NewPlaces(most), life: life, room: room, left: left, waiting: newWaiting()}
	f.changed = sync.NewCond(&f.mu)
	go f.collect()
	return f
}

// collect accepts whoever comes until the listener ends.
func (f *FairListener) collect() {
	for {
		c, err := f.Listener.Accept()
		switch {
		case err == nil:
			if t, ok := c.(*net.TCPConn); ok {
				// Pings find dead peers; the kernel's probes would only wake idle radios.
				_ = t.SetKeepAlive(false)
			}
			f.add(c)
		case errors.Is(err, syscall.ECONNABORTED):
		case errors.Is(err, syscall.EMFILE), errors.Is(err, syscall.ENFILE), errors.Is(err, syscall.ENOBUFS), errors.Is(err, syscall.ENOMEM):
			if !f.relieve() {
				time.Sleep(50 * time.Millisecond) // those that are served need the files
			}
		default:
			f.end(err)
			return
		}
	}
}

func (f *FairListener) add(c net.Conn) {
	who := AddressGroup(c.RemoteAddr().String())
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.ended != nil {
		_ = c.Close()
		return
	}
	f.waiting.add(who, c)
	if f.waiting.count > f.room() {
		_ = f.waiting.last().Close()
	}
	f.changed.Signal()
}

// relieve closes one of those waiting, if there are any.
func (f *FairListener) relieve() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.waiting.count == 0 {
		return false
	}
	_ = f.waiting.last().Close()
	return true
}

// Accept returns the next connection that has a place.
func (f *FairListener) Accept() (net.Conn, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for f.ended == nil {
		if c := f.next(); c != nil {
			return c, nil
		}
		f.changed.Wait()
	}
	return nil, f.ended
}

// next is the connection whose turn it is, nil if there is none or no place for any. It is called with mu held.
func (f *FairListener) next() net.Conn {
	if f.places.free() == 0 {
		return nil
	}
	turns := &f.waiting.turns
	for turn := turns.Front(); turn != nil; {
		l := turn.Value.(*line)
		turn = turn.Next()
		if !f.places.Take(l.who) {
			continue
		}
		c := f.first(l)
		if c == nil {
			f.places.Give(l.who) // and it is in no turn any more
			continue
		}
		if len(l.conns) > 0 {
			turns.MoveToBack(l.turn) // its next turn is after all others'
		}
		over := time.AfterFunc(f.life, func() { _ = c.Close() })
		return &placed{Conn: c, over: over, leave: sync.OnceFunc(func() { over.Stop(); f.leave(l.who) })}
	}
	return nil
}

// first takes the oldest of an address out of those waiting, nil if none is left that its peer has not left. It is called
// with mu held.
func (f *FairListener) first(l *line) net.Conn {
	for len(l.conns) > 0 {
		c := f.waiting.first(l)
		if !hungUp(c) {
			return c
		}
		_ = c.Close()
		if f.left != nil {
			f.left()
		}
	}
	return nil
}

// hungUp reports whether the peer has closed a connection, whatever it sent before. Nothing is read for it.
func hungUp(c net.Conn) bool {
	s, ok := c.(syscall.Conn)
	if !ok {
		return false
	}
	raw, err := s.SyscallConn()
	if err != nil {
		return false
	}
	gone := false
	_ = raw.Control(func(fd uintptr) { // it fails where the connection is closed here, which is for its reader to find
		poll := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLRDHUP}}
		n, err := unix.Poll(poll, 0)
		gone = err == nil && n > 0
	})
	return gone
}

func (f *FairListener) leave(who string) {
	f.places.Give(who)
	f.mu.Lock()
	defer f.mu.Unlock()
	f.changed.Signal()
}

// end makes Accept fail and closes those waiting.
func (f *FairListener) end(err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.ended = err
	for _, c := range f.waiting.all() {
		_ = c.Close()
	}
	f.changed.Broadcast()
}

// Place returns the connection that a FairListener accepted, and what gives its place back while it goes on.
func Place(c net.Conn) (inner net.Conn, leave func()) {
	if p, ok := c.(*placed); ok {
		return p.Conn, p.leave
	}
	return c, func() {}
}

// placed is a connection that has a place until it leaves it or is closed.
type placed struct {
	net.Conn
	// over closes the connection when the life of its place ends.
	over  *time.Timer
	leave func()
}

func (p *placed) Close() error {
	p.leave()
	return p.Conn.Close()
}
