package mqtt

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/tether-edge/tether/common/localsocket"
)

// census knows the process of each port, which also names its socket. It waits for hold before it does, if that is not nil.
type census struct {
	of         map[uint16]int
	fail, gone bool
	hold       chan struct{}
	asked      int
}

func (c *census) all(links []localsocket.Link) (map[localsocket.Link]int, error) {
	found := map[localsocket.Link]int{}
	for _, l := range links {
		if pid := c.of[l.Remote.Port()]; pid != 0 {
			found[l] = pid
		}
	}
	if c.fail {
		return nil, errors.New("not to be seen")
	}
	return found, nil
}

func (c *census) socket(l localsocket.Link) (uint64, error) {
	if c.hold != nil {
		<-c.hold
	}
	c.asked++
	if c.gone {
		return 0, nil
	}
	return uint64(l.Remote.Port()), nil
}

func (c *census) has(pid int, inode uint64) (bool, error) {
	return c.of[uint16(inode)] == pid, nil
}

// stub is a connection that can only be asked for its ends and closed.
type stub struct {
	net.Conn
	from netip.AddrPort
}

func (s stub) RemoteAddr() net.Addr { return net.TCPAddrFromAddrPort(s.from) }
func (s stub) LocalAddr() net.Addr {
	return net.TCPAddrFromAddrPort(netip.MustParseAddrPort("127.0.0.1:1884"))
}
func (s stub) SetReadDeadline(time.Time) error { return nil }

// gates is a gate with 16 places in a lot, and what is needed to fill it.
type gates struct {
	*gate
	census *census
	port   uint16
}

func newGates() *gates {
	limits := Default("n").Broker.Limits
	limits.ConnectionsPerAddress = 16
	g := &gates{newGate(limits, newMetrics(prometheus.NewRegistry())), &census{of: map[uint16]int{}}, 1000}
	g.look = g.census
	return g
}

// stranger is a client that said CONNECT, nil if it is not let in so far.
func (g *gates) stranger(process int, address string) *conn {
	g.port++
	g.census.of[g.port] = process
	g.looked = time.Time{} // as if some time had passed
	c := newConn(stub{from: netip.AddrPortFrom(netip.MustParseAddr(address), g.port)}, g.limits, g.metrics)
	if !g.enter(c, func() {}) || !g.connected(c) {
		return nil
	}
	return c
}

// connect is a client that is let in, nil if it is not. Of process 0 nobody knows.
func (g *gates) connect(process int, address, user string, former *conn) *conn {
	c := g.stranger(process, address)
	if c == nil {
		return nil
	}
	if g.admit(c, user, former) != "" {
		g.leave(c)
		return nil
	}
	return c
}

func (g *gates) count(process int, address, user string, n int) (in []*conn) {
	for range n {
		if c := g.connect(process, address, user, nil); c != nil {
			in = append(in, c)
		}
	}
	return in
}

func (g *gates) left(all []*conn) (n int) {
	for _, c := range all {
		if g.open[c] {
			n++
		}
	}
	return n
}

func TestProcessesOfThisMachineShareThePlacesOfThoseWithoutAName(t *testing.T) {
	g := newGates()
	flood := g.count(1, "127.0.0.1", "", 20)
	if len(flood) != 16 {
		t.Fatalf("%d of one process are let in, expected 16", len(flood))
	}
	one := g.count(2, "127.0.0.2", "", 3) // another loopback address is no other machine
	two := g.count(3, "::1", "", 3)
	if len(one) != 3 || len(two) != 3 || g.left(flood) != 10 {
		t.Errorf("of others %d and %d are let in, and of the flood %d are left", len(one), len(two), g.left(flood))
	}
	if g.open[flood[15]] || !g.open[flood[0]] {
		t.Error("expected the latest to give way, and the first to stay")
	}
	if again := g.count(1, "127.0.0.1", "", 5); len(again) != 0 || g.left(one) != 3 || g.left(two) != 3 {
		t.Errorf("the flood takes back %d", len(again))
	}
	more := g.count(2, "127.0.0.1", "", 20)
	if a, b, c := g.left(flood), g.left(one)+g.left(more), g.left(two); a != 7 || b != 6 || c != 3 { // one more would have the other come back for it
		t.Errorf("they have %d, %d and %d places, expected 7, 6 and 3", a, b, c)
	}
	if n := len(g.open); n != 16 || len(g.strange) != 0 || len(g.waiting) != 0 {
		t.Errorf("%d are open, %d strangers, %d wait", n, len(g.strange), len(g.waiting))
	}
}

func TestUsersAndAddressesHavePlacesOfTheirOwn(t *testing.T) {
	g := newGates()
	g.count(1, "127.0.0.1", "", 20)
	for _, c := range []struct {
		address, user string
		want          int
	}{{"127.0.0.1", "ann", 16}, {"127.0.0.1", "bob", 16}, {"192.0.2.1", "ann", 16}, {"192.0.2.2", "ann", 16}, {"127.0.0.7", "bob", 0}} {
		if in := g.count(1, c.address, c.user, 20); len(in) != c.want {
			t.Errorf("%s from %s: %d are let in, expected %d", c.user, c.address, len(in), c.want)
		}
	}
	// A client that comes again takes its own place.
	if g.connect(1, "192.0.2.1", "ann", nil) != nil {
		t.Error("one too many is let in")
	}
	if g.connect(1, "192.0.2.1", "ann", g.lots["ann at 192.0.2.1"][3]) == nil {
		t.Error("a client that comes again is not let in")
	}
}

func TestWhereProcessesCannotBeSeenNobodyGivesWay(t *testing.T) {
	for what, change := range map[string]func(*gates){"the kernel does not say": func(g *gates) { g.census.fail = true }, "they are nobody's": func(g *gates) { g.census.of = map[uint16]int{} }, "the newcomer is gone": func(g *gates) { g.census.gone = true }} {
		g := newGates()
		in := g.count(1, "127.0.0.1", "", 16)
		change(g)
		if c := g.connect(2, "127.0.0.1", "", nil); c != nil || g.left(in) != 16 {
			t.Errorf("%s: let in %v, %d are left", what, c != nil, g.left(in))
		}
	}
	g := newGates() // nor where each is a process of its own
	var in []*conn
	for i := range 16 {
		in = append(in, g.connect(i+1, "127.0.0.1", "", nil))
	}
	if c := g.connect(100, "127.0.0.1", "", nil); c != nil || g.left(in) != 16 {
		t.Errorf("sixteen processes: let in %v, %d are left", c != nil, g.left(in))
	}
}

// Those who have said CONNECT and are being judged are bounded like those who have not.
func TestStrangersOfOneAddressAreBounded(t *testing.T) {
	g := newGates()
	for i := range 20 {
		c := newConn(stub{from: netip.AddrPortFrom(netip.MustParseAddr("192.0.2.1"), uint16(i+1))}, g.limits, g.metrics)
		if in := g.enter(c, func() {}); in != (i < 16) {
			t.Errorf("stranger %d: let in: %v", i, in)
		} else if in && !g.connected(c) {
			t.Errorf("stranger %d gave way", i)
		}
	}
}

// Who waits until it is looked up who gives way counts in its address and cannot be evicted.
func TestFewWaitUntilItIsKnownWhoGivesWay(t *testing.T) {
	g := newGates()
	g.limits.Connections, g.limits.ConnectionsPerAddress = 100, 20
	g.count(1, "127.0.0.1", "", 20)
	g.census.hold = make(chan struct{})
	var strangers []*conn
	for range 20 {
		strangers = append(strangers, g.stranger(1, "127.0.0.1"))
	}
	told := make(chan string)
	for _, c := range strangers[:maxChoosers] {
		go func() {
			why := g.admit(c, "", nil)
			g.leave(c)
			told <- why
		}()
	}
	eventually(t, "they wait", func() bool { return len(g.choosers) == maxChoosers })
	for _, c := range strangers[maxChoosers:] {
		if why := g.admit(c, "", nil); why != "busy" {
			t.Errorf("one more is told %q", why)
		}
		g.leave(c)
	}
	close(g.census.hold)
	for range maxChoosers {
		if why := <-told; why != "address" {
			t.Errorf("who is of the process that has all is told %q", why)
		}
	}
	if g.census.asked != maxChoosers {
		t.Errorf("%d newcomers were looked up %d times", maxChoosers, g.census.asked)
	}
	if g.connect(2, "127.0.0.1", "", nil) == nil {
		t.Error("afterwards one of another process is not let in")
	}
}

// helper is a process of its own that holds connections of clients without a name until its input ends.
const helper = "TETHER_TEST_MQTT_FLOOD"

func TestAFloodOfOneProgramKeepsNoOtherOut(t *testing.T) {
	if address := os.Getenv(helper); address != "" {
		for i := range 20 {
			connect(t, "127.0.0.1", address, fmt.Sprint("flood", i))
		}
		fmt.Println("ready")
		_, _ = os.Stdin.Read(make([]byte, 1)) // until it is closed
		return
	}
	r := start(t, nil, func(c *Config) { c.Broker.Limits.ConnectionsPerAddress = 20 })
	flood := exec.Command(os.Args[0], "-test.run=^TestAFloodOfOneProgramKeepsNoOtherOut$")
	flood.Env = append(os.Environ(), helper+"="+r.Address())
	hold, err := flood.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := flood.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := flood.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		_ = hold.Close()
		_ = flood.Wait() // it says nothing that is not seen here
	}()
	said := make([]byte, 100)
	if n, err := out.Read(said); err != nil || !strings.HasPrefix(string(said[:n]), "ready") {
		t.Fatalf("the flood says %q, %v", said, err)
	}
	for i := range 5 {
		c := dial(t, options(r.Address(), fmt.Sprint("honest", i)))
		c.publish(t, "a", 1, false, "x")
	}
	if n := testutil.ToFloat64(r.metrics.refused.WithLabelValues("process")); n != 5 {
		t.Errorf("%v connections gave way, expected 5", n)
	}
}
