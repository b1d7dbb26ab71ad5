package mqtt

import (
	"crypto/tls"
	"errors"
	"log/slog"
	"net"
	"sync"
	"time"

	"github.com/mochi-mqtt/server/v2/listeners"
	"github.com/mochi-mqtt/server/v2/packets"
)

// A listener accepts connections for the broker's library.
type listener struct {
	id, addr string
	tls      *tls.Config // nil without TLS
	gate     *gate
	over     func(*conn) // called when a connection is over
	log      *slog.Logger

	ln net.Listener
	wg sync.WaitGroup
}

// ID, Protocol and Address are for the library's logs.
func (l *listener) ID() string       { return l.id }
func (l *listener) Protocol() string { return "tcp" }

// Address is where it listens, with the port that it got.
func (l *listener) Address() string {
	if l.ln == nil {
		return l.addr
	}
	return l.ln.Addr().String()
}

// Init opens the port.
func (l *listener) Init(*slog.Logger) (err error) {
	l.ln, err = net.Listen("tcp", l.addr)
	return err
}

// Serve accepts until Close.
func (l *listener) Serve(establish listeners.EstablishFn) {
	for {
		c, err := l.ln.Accept()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil { // out of file descriptors, mostly: those that are open go on
			l.log.Warn("cannot accept an MQTT client", "error", err)
			time.Sleep(100 * time.Millisecond)
			continue
		}
		if l.tls != nil {
			c = tls.Server(c, l.tls)
		}
		nc := newConn(c, l.gate.limits, l.gate.metrics)
		// Counted while the gate is held: Close must not find nobody and go when one is just coming in.
		if !l.gate.enter(nc, func() { l.wg.Add(2) }) {
			_ = c.Close()
			continue
		}
		go func() { defer l.wg.Done(); nc.flush() }()
		go func() { defer l.wg.Done(); l.serve(nc, establish) }()
	}
}

// serve is one connection. The library decodes what strangers send: a panic there ends the connection, not edgecore.
func (l *listener) serve(c *conn, establish listeners.EstablishFn) {
	defer func() {
		_ = c.Close()
		l.over(c)
		l.gate.leave(c)
		close(c.gone)
	}()
	defer func() {
		if p := recover(); p != nil {
			l.gate.metrics.panics.Inc()
			l.log.Error("an MQTT client made the broker panic; its connection is closed", "remote", c.ip, "panic", p)
		}
	}()
	_ = c.SetDeadline(time.Now().Add(c.limits.ConnectTimeout))
	if t, ok := c.Conn.(*tls.Conn); ok {
		if err := t.SetDeadline(time.Now().Add(c.limits.ConnectTimeout)); err != nil {
			return
		}
		if err := t.Handshake(); err != nil {
			l.gate.metrics.refused.WithLabelValues("tls").Inc()
			return
		}
	}
	if err := establish(l.id, c); err != nil {
		if code := (packets.Code{}); errors.Is(err, packets.ErrPacketTooLarge) {
			l.gate.metrics.cut.WithLabelValues("size").Inc()
		} else if errors.As(err, &code) && code.Code >= packets.ErrUnspecifiedError.Code {
			l.gate.metrics.cut.WithLabelValues("protocol").Inc()
		}
		l.log.Debug("an MQTT client is gone", "remote", c.ip, "error", err)
	}
}

// Close stops accepting and closes the clients.
func (l *listener) Close(closeClients listeners.CloseFn) {
	_ = l.ln.Close()
	closeClients(l.id)
	l.gate.close()
	l.wg.Wait()
}
