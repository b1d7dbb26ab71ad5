package tunnel

import (
	"errors"
	"net"
	"sync"
	"syscall"
	"time"
)

// merged accepts from the listeners of all nodes. A node that nobody asks costs it a goroutine that waits.
type merged struct {
	conns   chan net.Conn
	closed  chan struct{}
	closing sync.Once
}

func newMerged() *merged { return &merged{conns: make(chan net.Conn), closed: make(chan struct{})} }

// offer hands over a connection to a node's port, or closes it where nobody takes connections any more.
func (m *merged) offer(c connOf) {
	select {
	case m.conns <- c:
	case <-m.closed:
		_ = c.Close()
	}
}

// accept has take take what comes to l, until that is closed.
func accept(l net.Listener, take func(net.Conn)) {
	for {
		c, err := l.Accept()
		switch {
		case err == nil:
			take(c)
		case errors.Is(err, net.ErrClosed):
			return
		default:
			if !errors.Is(err, syscall.ECONNABORTED) {
				time.Sleep(50 * time.Millisecond) // no file or memory for it: those that are served will give some back
			}
		}
	}
}

// Accept implements net.Listener.
func (m *merged) Accept() (net.Conn, error) {
	select {
	case c := <-m.conns:
		return c, nil
	case <-m.closed:
		return nil, net.ErrClosed
	}
}

// Close implements net.Listener.
func (m *merged) Close() error {
	m.closing.Do(func() { close(m.closed) })
	return nil
}

// Addr implements net.Listener.
func (m *merged) Addr() net.Addr { return &net.TCPAddr{} }
