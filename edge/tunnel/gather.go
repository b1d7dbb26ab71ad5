package tunnel

import (
	"errors"
	"io"
	"net"
	"sync"
)

// gathered is how many bytes are gathered at most; as many again may be under way. A stream costs the edge both beside its
// window, once something was written to it.
const gathered = 64 << 10

// gatherer is a stream that gathers what is written while it sends: the kubelet writes in small pieces, and each would be a
// frame, a few records of TLS and a system call of its own. An error of a Write comes with a later one.
type gatherer struct {
	net.Conn
	gone chan struct{} // closed once the stream is

	mu sync.Mutex // guards all below
	// changed is signalled when bytes came, were taken, or nothing more will be.
	changed *sync.Cond
	waiting []byte // what was written and is not under way
	sends   bool   // send runs
	closed  bool   // by the one who writes
	err     error  // no more can be written
}

func newGatherer(c net.Conn) *gatherer {
	g := &gatherer{Conn: c, gone: make(chan struct{})}
	g.changed = sync.NewCond(&g.mu)
	return g
}

// Read implements net.Conn. A caller who says no more has gone, and takes no more either: streams have no halves. What is
// being written to it then must not wait for it.
func (g *gatherer) Read(p []byte) (int, error) {
	n, err := g.Conn.Read(p)
	if errors.Is(err, io.EOF) {
		g.end(net.ErrClosed)
	}
	return n, err
}

// Write implements net.Conn.
func (g *gatherer) Write(p []byte) (int, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	total := 0
	for {
		for g.err == nil && !g.closed && len(g.waiting) == gathered {
			g.changed.Wait()
		}
		switch {
		case g.err != nil:
			return total, g.err
		case g.closed:
			return total, net.ErrClosed
		}
		n := min(len(p), gathered-len(g.waiting))
		if g.waiting == nil {
			g.waiting = make([]byte, 0, gathered)
		}
		g.waiting, p, total = append(g.waiting, p[:n]...), p[n:], total+n
		if !g.sends {
			g.sends = true
			go g.send()
		}
		g.changed.Broadcast()
		if len(p) == 0 {
			return total, nil
		}
	}
}

// send sends what was written until that fails or, after a Close, all is sent.
func (g *gatherer) send() {
	spare := make([]byte, 0, gathered)
	for {
		g.mu.Lock()
		for g.err == nil && !g.closed && len(g.waiting) == 0 {
			g.changed.Wait()
		}
		if g.err != nil || len(g.waiting) == 0 {
			g.mu.Unlock()
			g.end(net.ErrClosed)
			return
		}
		now := g.waiting
		g.waiting = spare[:0]
		g.changed.Broadcast()
		g.mu.Unlock()
		if _, err := g.Conn.Write(now); err != nil {
			g.end(err)
			return
		}
		spare = now
	}
}

// end closes the stream. What was not sent is lost, and Writes fail with err.
func (g *gatherer) end(err error) {
	g.mu.Lock()
	first := g.err == nil
	if first {
		g.err = err
		g.changed.Broadcast()
	}
	g.mu.Unlock()
	if first {
		_ = g.Conn.Close()
		close(g.gone)
	}
}

// Close implements net.Conn. What was written before is sent for as long as the caller wants it, who may be a person with a pager: the
// stream ends with him or with the session. Nobody waits for it.
func (g *gatherer) Close() error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.closed || g.err != nil {
		return nil
	}
	g.closed = true
	if !g.sends {
		go g.end(net.ErrClosed)
		return nil
	}
	g.changed.Broadcast()
	return nil
}
