package netem

import (
	"errors"
	"fmt"
	"net"
	"os"
	"runtime"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	rootIP = "10.9.0.1"
	edgeIP = "10.9.0.2"
)

// cable is two namespaces, as tests/cluster joins them: root has one end of the cable and both links of the gap, edge
// has the other end. The namespaces have no name: they go with the process, however it ends.
type cable struct {
	t          *testing.T
	root, edge netns.NsHandle
}

func newCable(t *testing.T) *cable {
	t.Helper()
	c := &cable{t: t, root: newNamespace(t), edge: newNamespace(t)}
	c.in(c.root, func() error {
		for _, v := range []*netlink.Veth{
			{LinkAttrs: netlink.LinkAttrs{Name: "far"}, PeerName: "a"},
			{LinkAttrs: netlink.LinkAttrs{Name: "b"}, PeerName: "eth0", PeerNamespace: netlink.NsFd(c.edge)},
		} {
			if err := netlink.LinkAdd(v); err != nil {
				return fmt.Errorf("make %s: %w", v.Name, err)
			}
		}
		return errors.Join(setUp("a", true), setUp("b", true), configure("far", rootIP))
	})
	c.in(c.edge, func() error { return configure("eth0", edgeIP) })
	// Until the kernel has noticed the carrier, a moment later, an end swallows what is sent.
	for name, ns := range map[string]netns.NsHandle{"far": c.root, "eth0": c.edge} {
		eventually(t, "the carrier of "+name, func() error { return within(ns, func() error { return operational(name) }) })
	}
	return c
}

func operational(name string) error {
	link, err := netlink.LinkByName(name)
	if err == nil && link.Attrs().OperState != netlink.OperUp {
		err = fmt.Errorf("%s is %s", name, link.Attrs().OperState)
	}
	return err
}

func setUp(name string, up bool) error {
	link, err := netlink.LinkByName(name)
	if err != nil {
		return err
	}
	if up {
		return netlink.LinkSetUp(link)
	}
	return netlink.LinkSetDown(link)
}

// newNamespace makes a network namespace that lasts as long as the test.
func newNamespace(t *testing.T) netns.NsHandle {
	t.Helper()
	made := make(chan netns.NsHandle)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with its goroutine
		ns, err := netns.New()
		if err != nil {
			t.Error(err)
		}
		made <- ns
	}()
	ns := <-made
	if t.Failed() {
		t.FailNow()
	}
	t.Cleanup(func() { _ = ns.Close() })
	return ns
}

func configure(name, address string) error {
	link, err := netlink.LinkByName(name)
	if err != nil {
		return err
	}
	if err := os.WriteFile("/proc/sys/net/ipv6/conf/"+name+"/disable_ipv6", []byte("1"), 0o644); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	if err := netlink.AddrAdd(link, &netlink.Addr{IPNet: &net.IPNet{IP: net.ParseIP(address).To4(), Mask: net.CIDRMask(24, 32)}}); err != nil {
		return err
	}
	if err := DisableOffload(name); err != nil {
		return err
	}
	return netlink.LinkSetUp(link)
}

// in runs f on a thread in a namespace; its error ends the test.
func (c *cable) in(ns netns.NsHandle, f func() error) {
	c.t.Helper()
	if err := within(ns, f); err != nil {
		c.t.Fatal(err)
	}
}

func within(ns netns.NsHandle, f func() error) error {
	result := make(chan error)
	go func() {
		runtime.LockOSThread()
		err := netns.Set(ns)
		if err == nil {
			err = f()
		}
		result <- err
	}()
	return <-result
}

// relay joins the gap. The settings of cfg count, not its names.
func (c *cable) relay(cfg Config) (r *Relay, stop func()) {
	c.t.Helper()
	cfg.Root, cfg.Edge = "a", "b"
	c.in(c.root, func() error {
		r, stop = ForTest(c.t, cfg)
		return nil
	})
	return r, stop
}

// knowEachOther spares both ends ARP, so that only the test's own frames pass.
func (c *cable) knowEachOther() {
	c.t.Helper()
	var rootMAC, edgeMAC net.HardwareAddr
	c.in(c.root, func() (err error) { rootMAC, err = mac("far"); return err })
	c.in(c.edge, func() (err error) { edgeMAC, err = mac("eth0"); return err })
	c.in(c.root, func() error { return neighbour("far", edgeIP, edgeMAC) })
	c.in(c.edge, func() error { return neighbour("eth0", rootIP, rootMAC) })
}

func mac(name string) (net.HardwareAddr, error) {
	link, err := netlink.LinkByName(name)
	if err != nil {
		return nil, err
	}
	return link.Attrs().HardwareAddr, nil
}

func neighbour(link, ip string, mac net.HardwareAddr) error {
	l, err := netlink.LinkByName(link)
	if err != nil {
		return err
	}
	return netlink.NeighSet(&netlink.Neigh{LinkIndex: l.Attrs().Index, State: netlink.NUD_PERMANENT, IP: net.ParseIP(ip), HardwareAddr: mac})
}

// connect returns the two ends of a TCP connection that the edge opened to the root.
func (c *cable) connect() (edge, root net.Conn) {
	c.t.Helper()
	var l net.Listener
	c.in(c.root, func() (err error) { l, err = net.Listen("tcp", rootIP+":0"); return err })
	defer l.Close()
	c.in(c.edge, func() (err error) {
		edge, err = net.DialTimeout("tcp", l.Addr().String(), 20*time.Second)
		return err
	})
	root, err := l.Accept()
	if err != nil {
		c.t.Fatal(err)
	}
	for _, conn := range []net.Conn{edge, root} {
		c.t.Cleanup(func() { _ = conn.Close() })
		if err := conn.SetDeadline(time.Now().Add(time.Minute)); err != nil {
			c.t.Fatal(err)
		}
	}
	return edge, root
}

// datagrams returns a UDP socket of the edge and one of the root that is connected to it.
func (c *cable) datagrams() (edge, root *net.UDPConn) {
	c.t.Helper()
	c.in(c.edge, func() (err error) {
		edge, err = net.ListenUDP("udp", &net.UDPAddr{IP: net.ParseIP(edgeIP)})
		return err
	})
	c.t.Cleanup(func() { _ = edge.Close() })
	c.in(c.root, func() (err error) {
		root, err = net.DialUDP("udp", nil, edge.LocalAddr().(*net.UDPAddr))
		return err
	})
	c.t.Cleanup(func() { _ = root.Close() })
	return edge, root
}

// eventually waits for a condition.
func eventually(t *testing.T, what string, ok func() error) {
	t.Helper()
	deadline := time.Now().Add(30 * time.Second)
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for {
		err := ok()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("waited for %s: %v", what, err)
		}
		<-tick.C
	}
}
