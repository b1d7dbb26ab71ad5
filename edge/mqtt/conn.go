package mqtt

import (
	"errors"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	mochi "github.com/mochi-mqtt/server/v2"
	"github.com/mochi-mqtt/server/v2/packets"
	"golang.org/x/time/rate"

	"github.com/tether-edge/tether/common/localsocket"
)

// A conn is a client's connection whose Write never blocks, and is given whole packets. The broker's library writes while it holds a
// lock that every publisher to this client needs, so that one client that does not read would stop all who publish to it. Here a
// goroutine of the connection's own does the writing, and waitRoom holds back only the goroutine that fetches what is
// published to this client.
type conn struct {
	net.Conn
	limits  Limits
	ip      net.IP
	metrics *metrics
	msgs    *rate.Limiter
	bytes   *rate.Limiter
	done    chan struct{} // closed by Close
	gone    chan struct{} // closed when the library is done with it
	// client is the client id once it is claimed, user whose it is and hash what the password was held against, former the session that it takes over, as the library has
	// it, and orphans the messages that reached former too late. Those that come before adopted is set wait in late. Guarded
	// by table.mu.
	client, user, hash string
	lasts              bool // its session outlives it, and was counted before it was established
	former             *mochi.Client
	orphans, late      []packets.Packet
	adopted            bool
	// lot is whom it counts as; guarded by gate.mu. process is which process of this machine it is of, 0 if that is not known; guarded
	// by gate.choosing.
	lot     string
	process int
	// subscribing is set while a SUBSCRIBE is judged.
	subscribing atomic.Bool
	// group is what the message being read changes, and will what is to be published at the end; of the goroutine that reads.
	group *group
	will  *willRecord

	mu     sync.Mutex // guards the fields below
	wake   *sync.Cond
	out    []byte
	closed bool
	// established is set once what was queued for the session has been sent again.
	established bool
	window      window
}

const (
	// highWater is how many bytes wait for a client before what is published to it waits too.
	highWater = 256 << 10
	// lastWords bounds the writing of what was left when a connection was closed.
	lastWords = time.Second
)

var errSlow = errors.New("the client does not read what is sent to it")

func newConn(c net.Conn, limits Limits, m *metrics) *conn {
	nc := &conn{Conn: c, limits: limits, metrics: m, done: make(chan struct{}), gone: make(chan struct{}), window: window{unacked: map[uint16]bool{}},
		msgs:  rate.NewLimiter(rate.Limit(limits.MessageRate), limits.MessageRate),
		bytes: rate.NewLimiter(rate.Limit(limits.ByteRate), max(limits.ByteRate, limits.Payload)+1<<16)}
	if a, ok := c.RemoteAddr().(*net.TCPAddr); ok {
		nc.ip = a.IP
	}
	nc.wake = sync.NewCond(&nc.mu)
	return nc
}

// link is the connection as the kernel knows it.
func (c *conn) link() localsocket.Link {
	end := func(a net.Addr) netip.AddrPort {
		if t, ok := a.(*net.TCPAddr); ok {
			return t.AddrPort()
		}
		return netip.AddrPort{}
	}
	return localsocket.Link{Local: end(c.LocalAddr()), Remote: end(c.RemoteAddr())}
}

// Write takes p. A client that leaves far more unread than it may is cut off.
func (c *conn) Write(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return 0, net.ErrClosed
	}
	// What is sent again to a session's new connection comes at once, and is bounded by the queue.
	if len(c.out)+c.window.bytes > 2*highWater+2*c.limits.Payload+c.limits.QueueBytes {
		c.metrics.cut.WithLabelValues("unread").Inc()
		c.close()
		return 0, errSlow
	}
	c.out = c.window.pass(c.out, p)
	c.wake.Broadcast()
	return len(p), nil
}

// flush writes what Write took until the connection is closed, and closes it then.
func (c *conn) flush() {
	defer c.Conn.Close()
	for {
		c.mu.Lock()
		for len(c.out) == 0 && !c.closed {
			c.wake.Wait()
		}
		p, closed := c.out, c.closed
		c.mu.Unlock()
		if len(p) == 0 {
			return
		}
		n := min(len(p), 16<<10)
		limit := c.limits.Stall
		if closed {
			limit = lastWords
		}
		_ = c.Conn.SetWriteDeadline(time.Now().Add(limit))
		_, err := c.Conn.Write(p[:n])
		c.mu.Lock()
		if c.out = c.out[n:]; len(c.out) == 0 {
			c.out = nil
		}
		if err != nil {
			if timeout := net.Error(nil); !c.closed && errors.As(err, &timeout) && timeout.Timeout() {
				c.metrics.cut.WithLabelValues("stalled").Inc()
			}
			c.out = nil
			c.close()
		}
		c.wake.Broadcast()
		c.mu.Unlock()
	}
}

// waitRoom waits until a message with that packet id (0: QoS 0) may be sent: the client has read most of what was sent before, and
// acknowledged as much as it asked for. Before the session is established only what is sent again may be: the library gives a client messages
// before its CONNACK, and new ones before older. It returns at once when the connection is closed.
func (c *conn) waitRoom(id uint16, again bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for !c.closed && !again && (!c.established || len(c.out) > highWater || id != 0 && c.window.full(id)) {
		c.wake.Wait()
	}
}

// establish notes that what waited for the session has been sent again.
func (c *conn) establish() {
	c.mu.Lock()
	c.established = true
	c.wake.Broadcast()
	c.mu.Unlock()
}

// acked notes that the client has acknowledged a message, and sends what waited for that.
func (c *conn) acked(id uint16) {
	c.mu.Lock()
	if !c.closed {
		c.out = c.window.acked(c.out, id)
	}
	c.wake.Broadcast()
	c.mu.Unlock()
}

// SetDeadline sets the reader's. The writer's is its own.
func (c *conn) SetDeadline(t time.Time) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return net.ErrClosed
	}
	return c.SetReadDeadline(t)
}

// Close ends reading at once, and writing shortly after.
func (c *conn) Close() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.close()
	return nil
}

// giveUp closes the connection since the disk does not take what the client sends.
func (c *conn) giveUp() {
	c.metrics.cut.WithLabelValues("unsaved").Inc()
	_ = c.Close()
}

func (c *conn) close() {
	if c.closed {
		return
	}
	c.closed = true
	close(c.done)
	_ = c.SetReadDeadline(time.Unix(1, 0))
	c.wake.Broadcast()
}

// throttle waits until the client may send another message of n bytes.
func (c *conn) throttle(n int) {
	d := max(c.msgs.Reserve().Delay(), c.bytes.ReserveN(time.Now(), min(n, c.bytes.Burst())).Delay())
	if d <= 0 {
		return
	}
	c.metrics.throttled.Inc()
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-c.done:
	}
}
