package netem

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// ErrLinkGone is the end of a relay whose link was removed.
var ErrLinkGone = errors.New("the link is gone")

// maxFrame is longer than any frame; what a sender without real packets puts on the cable is then refused by the other
// link, and counted, instead of being cut short.
const maxFrame = 128 << 10

// receiveBuffer is what the kernel keeps of a burst until the relay has taken it.
const receiveBuffer = 8 << 20

// port is a packet socket on one link of the network namespace that it was opened in.
type port struct {
	name   string
	index  int
	socket *os.File // in the runtime's poller: reads and writes block a goroutine, not a thread
	links  *netlink.Handle
}

// openPort prepares a link and opens a socket on it.
func openPort(name string) (_ *port, err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("open link %s: %w", name, err)
		}
	}()
	// The handle stays in the namespace of this thread; later calls may come from another one.
	links, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return nil, err
	}
	p := &port{name: name, links: links}
	if err := p.prepare(); err != nil {
		links.Close()
		return nil, err
	}
	if err := p.open(); err != nil {
		links.Close()
		return nil, err
	}
	return p, nil
}

// prepare makes the kernel a bystander on the link: it must answer neither ARP nor IPv6 neighbour solicitations that
// are meant for the far end, and must send nothing of its own.
func (p *port) prepare() error {
	link, err := p.links.LinkByName(p.name)
	if err != nil {
		return err
	}
	p.index = link.Attrs().Index
	if err := p.links.LinkSetARPOff(link); err != nil {
		return fmt.Errorf("switch ARP off: %w", err)
	}
	v6 := filepath.Join("/proc/sys/net/ipv6/conf", p.name, "disable_ipv6")
	if err := os.WriteFile(v6, []byte("1"), 0o644); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("switch IPv6 off: %w", err)
	}
	if err := DisableOffload(p.name); err != nil {
		return err
	}
	if err := p.links.LinkSetUp(link); err != nil {
		return fmt.Errorf("bring it up: %w", err)
	}
	return nil
}

func (p *port) open() error {
	// Protocol 0 receives nothing until the socket is bound to its link.
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open a packet socket: %w", err)
	}
	if err := p.bind(fd); err != nil {
		_ = unix.Close(fd)
		return err
	}
	p.socket = os.NewFile(uintptr(fd), p.name)
	return nil
}

func (p *port) bind(fd int) error {
	// What others send out on the link did not arrive on it.
	if err := unix.SetsockoptInt(fd, unix.SOL_PACKET, unix.PACKET_IGNORE_OUTGOING, 1); err != nil {
		return fmt.Errorf("ignore outgoing frames: %w", err)
	}
	if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, receiveBuffer); err != nil {
		return fmt.Errorf("set the receive buffer: %w", err)
	}
	// Frames are addressed to the far end; some devices would filter them. It ends with the socket.
	everything := &unix.PacketMreq{Ifindex: int32(p.index), Type: unix.PACKET_MR_PROMISC}
	if err := unix.SetsockoptPacketMreq(fd, unix.SOL_PACKET, unix.PACKET_ADD_MEMBERSHIP, everything); err != nil {
		return fmt.Errorf("receive all frames: %w", err)
	}
	address := &unix.SockaddrLinklayer{Protocol: networkOrder(unix.ETH_P_ALL), Ifindex: p.index}
	if err := unix.Bind(fd, address); err != nil {
		return fmt.Errorf("bind: %w", err)
	}
	return nil
}

// networkOrder is v with its bytes in network order, as the kernel wants it.
func networkOrder(v uint16) uint16 {
	var b [2]byte
	binary.BigEndian.PutUint16(b[:], v)
	return binary.NativeEndian.Uint16(b[:])
}

// alive returns an error once the link was removed, and nil while it is only down.
func (p *port) alive() error {
	_, err := p.links.LinkByIndex(p.index)
	if errors.As(err, &netlink.LinkNotFoundError{}) {
		return fmt.Errorf("link %s: %w", p.name, ErrLinkGone)
	}
	if err != nil {
		return fmt.Errorf("look at link %s: %w", p.name, err)
	}
	return nil
}

// takeMissed returns how many frames the kernel dropped since the last call, for want of room.
func (p *port) takeMissed() (uint64, error) {
	raw, err := p.socket.SyscallConn()
	if err != nil {
		return 0, err
	}
	var stats *unix.TpacketStats
	if ctl := raw.Control(func(fd uintptr) {
		stats, err = unix.GetsockoptTpacketStats(int(fd), unix.SOL_PACKET, unix.PACKET_STATISTICS)
	}); ctl != nil {
		return 0, ctl
	}
	if err != nil {
		return 0, fmt.Errorf("read the statistics of link %s: %w", p.name, err)
	}
	return uint64(stats.Drops), nil
}

// closeSocket ends reads and writes; close also lets go of the namespace.
func (p *port) closeSocket() { _ = p.socket.Close() }

func (p *port) close() {
	p.closeSocket()
	p.links.Close()
}
