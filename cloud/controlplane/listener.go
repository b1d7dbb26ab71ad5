package controlplane

import (
	"context"
	"errors"
	"net"
)

// multiListener accepts from several listeners as one. Its address is the first one's.
type multiListener struct {
	listeners []net.Listener
	accepted  chan accepted
	// closed is done once Close was called; it frees the loops that wait to hand over.
	closed context.Context
	close  context.CancelFunc
}

type accepted struct {
	conn net.Conn
	err  error
}

func newMultiListener(listeners []net.Listener) net.Listener {
	if len(listeners) == 1 {
		return listeners[0]
	}
	ctx, cancel := context.WithCancel(context.Background())
	m := &multiListener{listeners: listeners, accepted: make(chan accepted), closed: ctx, close: cancel}
	for _, l := range listeners {
		go m.loop(l)
	}
	return m
}

func (m *multiListener) loop(l net.Listener) {
	for {
		conn, err := l.Accept()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		// Other errors (such as too many open files) go to the server, which waits a little.
		select {
		case m.accepted <- accepted{conn, err}:
		case <-m.closed.Done():
			if conn != nil {
				conn.Close()
			}
			return
		}
	}
}

func (m *multiListener) Accept() (net.Conn, error) {
	select {
	case a := <-m.accepted:
		return a.conn, a.err
	case <-m.closed.Done():
		return nil, net.ErrClosed
	}
}

func (m *multiListener) Close() error {
	m.close()
	var faults []error
	for _, l := range m.listeners {
		faults = append(faults, l.Close())
	}
	return errors.Join(faults...)
}

func (m *multiListener) Addr() net.Addr { return m.listeners[0].Addr() }
