package methods

import (
	"context"
	"crypto/tls"
	"net"
	"net/http"
	"slices"
	"sync"
)

// A gate bounds the connections. One that waits for no call gives way to a newer one, the oldest first: who opens connections and
// says nothing or half of something, has no password, or does not read what he asked for keeps nobody out. Of those that wait one user
// has at most half the places.
type gate struct {
	limit, each int
	m           *metrics

	mu      sync.Mutex // guards what follows
	open    map[*guest]bool
	quiet   []*guest       // that wait for no call, the oldest first
	working map[string]int // those that do, by user
}

func newGate(limit int) *gate {
	return &gate{limit: limit, each: max(1, limit/2), open: map[*guest]bool{}, working: map[string]int{}}
}

func (g *gate) count() int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return len(g.open)
}

// A door is a listener whose connections go through the gate.
type door struct {
	net.Listener
	gate *gate
}

// Accept closes what there is no place for.
func (d *door) Accept() (net.Conn, error) {
	for {
		c, err := d.Listener.Accept()
		if err != nil {
			return nil, err
		}
		if g := d.gate.enter(c); g != nil {
			return g, nil
		}
		_ = c.Close() // there is nobody to tell
	}
}

// A guest is a connection that was let in.
type guest struct {
	net.Conn
	gate *gate
}

// Close closes the connection and gives its place back.
func (g *guest) Close() error {
	g.gate.leave(g)
	return g.Conn.Close()
}

func (g *gate) enter(c net.Conn) *guest {
	g.mu.Lock()
	var former *guest
	if len(g.open) >= g.limit {
		if len(g.quiet) == 0 {
			g.mu.Unlock()
			g.m.refused.WithLabelValues("connections").Inc()
			return nil
		}
		former = g.quiet[0]
		g.remove(former)
	}
	guest := &guest{c, g}
	g.open[guest] = true
	g.quiet = append(g.quiet, guest)
	g.mu.Unlock()
	if former != nil {
		g.m.refused.WithLabelValues("silent").Inc()
		_ = former.Conn.Close() // its own Close finds its place gone
	}
	return guest
}

func (g *gate) leave(c *guest) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.remove(c)
}

// remove is called with mu held.
func (g *gate) remove(c *guest) {
	delete(g.open, c)
	g.hush(c)
}

// hush takes c out of those that give way. Called with mu held.
func (g *gate) hush(c *guest) {
	g.quiet = slices.DeleteFunc(g.quiet, func(o *guest) bool { return o == c })
}

// guestKey is where a request's context has its guest.
type guestKey struct{}

// guestOf returns the guest that net/http has a connection of, in TLS or not.
func guestOf(c net.Conn) *guest {
	if t, ok := c.(*tls.Conn); ok {
		c = t.NetConn()
	}
	g, _ := c.(*guest)
	return g
}

// known puts a connection's guest into the context of its requests.
func (g *gate) known(ctx context.Context, c net.Conn) context.Context {
	return context.WithValue(ctx, guestKey{}, guestOf(c))
}

// work has the connection of a request keep its place until rest is called. False if as many of the user's do as may.
func (g *gate) work(ctx context.Context, user string) (rest func(), room bool) {
	c, _ := ctx.Value(guestKey{}).(*guest)
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.working[user] >= g.each {
		return nil, false
	}
	g.working[user]++
	g.hush(c)
	return func() {
		g.mu.Lock()
		defer g.mu.Unlock()
		if g.working[user]--; g.working[user] == 0 {
			delete(g.working, user)
		}
		if g.open[c] {
			g.quiet = append(g.quiet, c)
		}
	}, true
}

// state hears from net/http how a connection is: after a request it is as good as new.
func (g *gate) state(c net.Conn, state http.ConnState) {
	if guest := guestOf(c); state == http.StateIdle && guest != nil {
		g.mu.Lock()
		defer g.mu.Unlock()
		if g.open[guest] {
			g.hush(guest)
			g.quiet = append(g.quiet, guest)
		}
	}
}
