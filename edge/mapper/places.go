package mapper

import (
	"bytes"
	"errors"
	"io"
	"net"
	"os"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/tether-edge/tether/common/localsocket"
)

// The operating system holds this many connections that wait to be accepted besides.
const maxConnections = 256

// places is a listener that holds a bounded number of connections open. One process may have them all, until others want some: then
// the latest of the process that has the most gives way.
type places struct {
	net.Listener
	limit   int
	refused *prometheus.CounterVec

	mu      sync.Mutex // guards what follows
	open    int
	by      map[int][]*placed // by process, the oldest first
	stopped bool
}

func newPlaces(l net.Listener, limit int, refused *prometheus.CounterVec) *places {
	return &places{Listener: l, limit: limit, refused: refused, by: map[int][]*placed{}}
}

// Accept closes what it has no place for: whoever holds all places open must not keep the listener from being closed.
func (p *places) Accept() (net.Conn, error) {
	for {
		c, err := p.Listener.Accept()
		if err != nil {
			return nil, err
		}
		who, _ := localsocket.Peer(c) // those of which it is not known are as one
		if in := p.enter(c, who); in != nil {
			return in, nil
		}
		_ = c.Close() // there is nobody to tell
	}
}

// Close ends the listener.
func (p *places) Close() error {
	p.mu.Lock()
	p.stopped = true
	p.mu.Unlock()
	return p.Listener.Close()
}

// enter returns nil if there is no place.
func (p *places) enter(c net.Conn, who int) *placed {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.open >= p.limit {
		p.refused.WithLabelValues("connections").Inc()
		greedy := who
		for other, all := range p.by {
			if len(all) > len(p.by[greedy]) {
				greedy = other
			}
		}
		if greedy == who || len(p.by[greedy]) < 2 {
			return nil // nobody has more than one: who is there stays
		}
		latest := p.by[greedy][len(p.by[greedy])-1]
		p.remove(latest)
		latest.over.Store(true)
		_ = latest.Conn.Close() // its own Close finds its place gone
	}
	in := &placed{Conn: c, of: p, who: who}
	p.open++
	p.by[who] = append(p.by[who], in)
	return in
}

// remove is called with mu held.
func (p *places) remove(c *placed) {
	i := slices.Index(p.by[c.who], c)
	if i < 0 {
		return
	}
	p.open--
	if p.by[c.who] = slices.Delete(p.by[c.who], i, i+1); len(p.by[c.who]) == 0 {
		delete(p.by, c.who)
	}
}

// preface is what a client of HTTP/2, and so of gRPC, says first (RFC 9113, section 3.4).
var preface = []byte("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")

// placed is a connection that has a place.
type placed struct {
	net.Conn
	of  *places
	who int
	// said is how much of the preface came; of the goroutine that reads.
	said int
	// over: the mapper ended it, or it gave way. One that the library ends is of somebody who does not speak its protocol.
	over atomic.Bool
}

// Read ends the connection of who speaks something else than gRPC.
func (c *placed) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	c.ended(err)
	if first := min(n, len(preface)-c.said); first > 0 {
		if !bytes.Equal(b[:first], preface[c.said:c.said+first]) {
			return 0, io.EOF
		}
		c.said += first
	}
	return n, err
}

func (c *placed) Write(b []byte) (int, error) {
	n, err := c.Conn.Write(b)
	c.ended(err)
	return n, err
}

func (c *placed) ended(err error) {
	if err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
		c.over.Store(true)
	}
}

// Close gives the place back, and counts one that was not the mapper's to end.
func (c *placed) Close() error {
	c.of.mu.Lock()
	c.of.remove(c)
	stopped := c.of.stopped
	c.of.mu.Unlock()
	if !c.over.Swap(true) && !stopped {
		c.of.refused.WithLabelValues("garbage").Inc()
	}
	return c.Conn.Close()
}
