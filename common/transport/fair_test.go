package transport

import (
	"errors"
	"net"
	"runtime"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
)

// crowd is a listener whose connections come from addresses that the test names.
type crowd struct {
	arrivals chan net.Conn
	failures chan error
	closed   chan struct{}
}

func (c *crowd) Accept() (net.Conn, error) {
	select {
	case x := <-c.arrivals:
		return x, nil
	case err := <-c.failures:
		return nil, err
	case <-c.closed:
		return nil, net.ErrClosed
	}
}
func (c *crowd) Close() error   { close(c.closed); return nil }
func (c *crowd) Addr() net.Addr { return &net.TCPAddr{} }

// visitor is a connection from an address.
type visitor struct {
	net.Conn
	from   string
	number int
	gone   chan struct{}
}

func (v *visitor) RemoteAddr() net.Addr { a, _ := net.ResolveTCPAddr("tcp", v.from+":1"); return a }
func (v *visitor) Close() error         { close(v.gone); return nil }

func (c *crowd) arrive(from string, number int) *visitor {
	v := &visitor{from: from, number: number, gone: make(chan struct{})}
	c.arrivals <- v
	return v
}

func newCrowd(t *testing.T, most, room int) (*crowd, *FairListener) {
	t.Helper()
	c := &crowd{arrivals: make(chan net.Conn), failures: make(chan error), closed: make(chan struct{})}
	f := newFairListener(c, most, time.Hour, func() int { return room }, nil)
	t.Cleanup(func() { _ = f.Close() })
	return c, f
}

// serve accepts one and says who it is.
func (f *FairListener) serve(t *testing.T) (*placed, *visitor) {
	t.Helper()
	p := f.accepted(t)
	return p, p.Conn.(*visitor)
}

// accepted is the next that has a place.
func (f *FairListener) accepted(t *testing.T) *placed {
	t.Helper()
	got := make(chan net.Conn, 1)
	go func() {
		if c, err := f.Accept(); err == nil {
			got <- c
		}
	}()
	select {
	case c := <-got:
		return c.(*placed)
	case <-time.After(10 * time.Second):
		t.Fatal("nobody is served within 10 s")
		return nil
	}
}

func TestOneAddressWithManyConnectionsHoldsUpNoOther(t *testing.T) {
	c, f := newCrowd(t, 4, 1000)
	for i := range 500 {
		c.arrive("10.0.0.1", i)
	}
	var held []*placed
	for i := range 3 {
		p, v := f.serve(t)
		if v.number != i {
			t.Errorf("served number %d, expected %d: the oldest", v.number, i)
		}
		held = append(held, p)
	}
	// Behind hundreds, and with three of four places taken: the last one is kept for whoever is of another address.
	c.arrive("10.0.0.2", 0)
	other, v := f.serve(t)
	if v.from != "10.0.0.2" {
		t.Fatalf("the last place went to %s, which holds three of four", v.from)
	}
	// In turn: each gets a place that becomes free.
	c.arrive("10.0.0.2", 1)
	c.arrive("10.0.0.3", 0)
	for waiting := 0; waiting < 3; { // until both are known
		f.mu.Lock()
		waiting = f.waiting.turns.Len()
		f.mu.Unlock()
		runtime.Gosched()
	}
	turns := map[string]int{}
	for range 3 {
		held[0].leave()
		held[0].leave() // more than once counts once
		p, v := f.serve(t)
		turns[v.from]++
		held = append(held[1:], p)
	}
	if turns["10.0.0.1"] != 1 || turns["10.0.0.2"] != 1 || turns["10.0.0.3"] != 1 {
		t.Errorf("three places went to %v, expected one each", turns)
	}
	for _, p := range append(held, other) {
		_ = p.Close() // leaves its place too
	}
	if n := f.places.free(); n != 4 {
		t.Errorf("%d places are free after all have left, expected 4", n)
	}
}

func TestWhereTooManyWaitTheLatestOfTheMostGoes(t *testing.T) {
	c, f := newCrowd(t, 1, 10)
	few := c.arrive("10.0.0.2", 0)
	var many []*visitor
	for i := range 20 {
		many = append(many, c.arrive("10.0.0.1", i))
	}
	late := c.arrive("10.0.0.3", 0)
	for i, v := range many {
		if i < 8 {
			continue
		}
		select {
		case <-v.gone:
		case <-time.After(10 * time.Second):
			t.Fatalf("number %d of 20 from one address still waits, with room for ten", i)
		}
	}
	for _, v := range append(many[:8], few, late) {
		select {
		case <-v.gone:
			t.Errorf("number %d of %s was closed, expected the latest of 10.0.0.1", v.number, v.from)
		default:
		}
	}
	// Where files run out, one that waits gives up its own.
	c.failures <- &net.OpError{Op: "accept", Err: syscall.EMFILE}
	select {
	case <-many[7].gone:
	case <-time.After(10 * time.Second):
		t.Error("nobody was closed when there were no files left")
	}
	c.failures <- &net.OpError{Op: "accept", Err: syscall.ECONNABORTED}
	if _, v := f.serve(t); v != few {
		t.Errorf("served %s number %d, expected who came first", v.from, v.number)
	}
	broken := errors.New("the network is gone")
	c.failures <- broken
	<-late.gone
	if _, err := f.Accept(); !errors.Is(err, broken) {
		t.Errorf("Accept: %v, expected the listener's error", err)
	}
}

func TestAddressesShareAGroup(t *testing.T) {
	for addr, want := range map[string]string{
		"10.0.0.1:5": "10.0.0.1", "[::ffff:10.0.0.1]:5": "10.0.0.1", "[2001:db8:1:2:3::4]:5": "2001:db8:1:2::/64", "x": "unknown",
	} {
		if got := AddressGroup(addr); got != want {
			t.Errorf("AddressGroup(%q) = %q, want %q", addr, got, want)
		}
	}
}

func TestAPlaceEndsWhateverItsHolderDoes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := &crowd{arrivals: make(chan net.Conn), failures: make(chan error), closed: make(chan struct{})}
		f := newFairListener(c, 4, time.Minute, func() int { return 8 }, nil)
		defer f.Close()
		holds, left := c.arrive("10.0.0.1", 1), c.arrive("10.0.0.2", 2)
		for range 2 {
			if p, v := f.serve(t); v == left {
				p.leave()
			}
		}
		gone := func(v *visitor) bool {
			select {
			case <-v.gone:
				return true
			default:
				return false
			}
		}
		<-time.After(time.Minute - time.Second)
		if gone(holds) {
			t.Error("it was closed within its time")
		}
		<-time.After(time.Hour)
		if !gone(holds) || gone(left) {
			t.Errorf("after its time who holds a place was closed: %t, who left it: %t; expected true and false", gone(holds), gone(left))
		}
	})
}

// TestWhoHasLeftWhileWaitingCostsNoHandshake: of edges that try again and again only what they still wait for is served.
func TestWhoHasLeftWhileWaitingCostsNoHandshake(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	left := 0 // by Accept, which this test calls
	f := newFairListener(l, 1, time.Hour, nil, func() { left++ })
	defer f.Close()
	dial := func(from string) net.Conn {
		c, err := (&net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)}}).Dial("tcp", l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	first := dial("127.0.0.1")
	defer first.Close()
	served := f.accepted(t)
	// All of one address, and all but the last of another.
	for _, from := range []string{"127.0.0.2", "127.0.0.1", "127.0.0.1"} {
		c := dial(from)
		_, _ = c.Write([]byte("hello")) // what was sent before hides no end
		_ = c.Close()
	}
	last := dial("127.0.0.1")
	defer last.Close()
	until := func(what string, is func() bool) {
		t.Helper()
		for deadline := time.Now().Add(10 * time.Second); ; runtime.Gosched() {
			f.mu.Lock()
			ok := is()
			f.mu.Unlock()
			if ok {
				return
			}
			if time.Now().After(deadline) {
				t.Fatalf("waited 10 s until %s", what)
			}
		}
	}
	until("four wait", func() bool { return f.waiting.count == 4 })
	until("three of them have left", func() bool {
		n := 0
		for _, l := range f.waiting.lines {
			for _, c := range l.conns {
				if hungUp(c) {
					n++
				}
			}
		}
		return n == 3
	})
	_ = served.Close()
	next := f.accepted(t)
	if next.RemoteAddr().String() != last.LocalAddr().String() || left != 3 {
		t.Errorf("expected the one that still waits to be served and three to have left, found %s of %s and %d", next.RemoteAddr(), last.LocalAddr(), left)
	}
	_ = next.Close()
	if n := f.places.free(); n != 1 {
		t.Errorf("expected the only place to be free again, found %d", n)
	}
}
