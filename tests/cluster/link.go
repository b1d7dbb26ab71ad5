package cluster

import (
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"strings"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
)

// The address plan: one network of 256 addresses for each number, out of one of these two ranges.
const (
	cloudNet = 200 // 10.200.N.1 is the cloud of a cluster
	edgeNet  = 201 // 10.201.N.1 is the machine's end of an edge host's cable, 10.201.N.2 the host's

	maxNumber = 250
)

// subnet is the network of number n in a range.
func subnet(plan, n int) *net.IPNet {
	return &net.IPNet{IP: net.IPv4(10, byte(plan), byte(n), 0).To4(), Mask: net.CIDRMask(24, 32)}
}

// RootAddress is the machine's address on the cable: where the edge reaches the cloud.
func (h *EdgeHost) RootAddress() string { return fmt.Sprintf("10.201.%d.1", h.number) }

// Address is the edge host's own address.
func (h *EdgeHost) Address() string { return fmt.Sprintf("10.201.%d.2", h.number) }

// PodSubnet is the network that the host's pods get addresses from. Outside the host they show as Address.
func (h *EdgeHost) PodSubnet() string { return fmt.Sprintf("10.244.%d.0/24", h.number) }

// RootLink is the name of the machine's end of the cable. The edge's end is eth0.
func (h *EdgeHost) RootLink() string { return h.linkName("r") }

// RelayLinks are the two ends that a packet relay has to join when the host was made with Split: whatever arrives on
// one must be sent out on the other. Until one does, the cable is dead.
func (h *EdgeHost) RelayLinks() (towardsRoot, towardsEdge string) {
	return h.linkName("a"), h.linkName("b")
}

// linkName stays within the 15 bytes that the kernel allows.
func (h *EdgeHost) linkName(end string) string {
	return fmt.Sprintf("te%s-%d%s", h.cluster.state.ID, h.number, end)
}

// freeNumber finds a number whose network no link of the machine has an address in.
func freeNumber(plan int) (int, error) {
	addresses, err := whole(func() ([]netlink.Addr, error) { return netlink.AddrList(nil, netlink.FAMILY_V4) })
	if err != nil {
		return 0, fmt.Errorf("list the machine's addresses: %w", err)
	}
	for n := 1; n <= maxNumber; n++ {
		taken := slices.ContainsFunc(addresses, func(a netlink.Addr) bool {
			return subnet(plan, n).Contains(a.IP) || a.IPNet.Contains(subnet(plan, n).IP)
		})
		if !taken {
			return n, nil
		}
	}
	return 0, fmt.Errorf("expected a free network among 10.%d.1.0/24 to 10.%d.%d.0/24, found an address in each: take other clusters down", plan, plan, maxNumber)
}

// makeLink joins the holder's network namespace to the machine's and gives both ends their addresses.
func (h *EdgeHost) makeLink() error {
	holder, err := h.holder()
	if err != nil {
		return err
	}
	ends := [][2]string{{h.RootLink(), ""}}
	if h.split {
		a, b := h.RelayLinks()
		ends = [][2]string{{h.RootLink(), a}, {b, ""}}
	}
	for _, pair := range ends {
		veth := &netlink.Veth{LinkAttrs: netlink.NewLinkAttrs(), PeerName: pair[1]}
		veth.Name = pair[0]
		if pair[1] == "" {
			veth.PeerName, veth.PeerNamespace = "eth0", netlink.NsPid(holder.PID)
		}
		if err := netlink.LinkAdd(veth); err != nil {
			return fmt.Errorf("make the cable %s: %w", pair[0], err)
		}
		for _, name := range pair {
			if name == "" {
				continue
			}
			if err := setLink(name, true); err != nil {
				return err
			}
		}
	}
	root, err := netlink.LinkByName(h.RootLink())
	if err != nil {
		return fmt.Errorf("find the cable %s: %w", h.RootLink(), err)
	}
	if err := netlink.AddrAdd(root, h.netAddress(h.RootAddress())); err != nil {
		return fmt.Errorf("set the address %s: %w", h.RootAddress(), err)
	}
	if err := h.configureEdgeEnd(holder.PID); err != nil {
		return fmt.Errorf("set up the edge's end of the cable: %w", err)
	}
	// Pods are reached through this host; it must forward for them.
	return h.Inside(false, func() error {
		if err := os.WriteFile("/proc/sys/net/ipv4/ip_forward", []byte("1"), 0o644); err != nil {
			return fmt.Errorf("let the edge host forward: %w", err)
		}
		return nil
	})
}

func (h *EdgeHost) netAddress(ip string) *netlink.Addr {
	return &netlink.Addr{IPNet: &net.IPNet{IP: net.ParseIP(ip).To4(), Mask: net.CIDRMask(24, 32)}}
}

// configureEdgeEnd brings up loopback and eth0 inside, with the default route over the cable.
func (h *EdgeHost) configureEdgeEnd(pid int) error {
	space, err := netns.GetFromPid(pid)
	if err != nil {
		return fmt.Errorf("open the network namespace: %w", err)
	}
	defer space.Close()
	handle, err := netlink.NewHandleAt(space)
	if err != nil {
		return fmt.Errorf("open the network namespace: %w", err)
	}
	defer handle.Close()
	for _, name := range []string{"lo", "eth0"} {
		link, err := handle.LinkByName(name)
		if err != nil {
			return fmt.Errorf("find %s: %w", name, err)
		}
		if err := handle.LinkSetUp(link); err != nil {
			return fmt.Errorf("bring up %s: %w", name, err)
		}
		if name == "lo" {
			continue
		}
		if err := handle.AddrAdd(link, h.netAddress(h.Address())); err != nil {
			return fmt.Errorf("set the address %s: %w", h.Address(), err)
		}
		route := &netlink.Route{LinkIndex: link.Attrs().Index, Gw: net.ParseIP(h.RootAddress())}
		if err := handle.RouteAdd(route); err != nil {
			return fmt.Errorf("set the default route: %w", err)
		}
	}
	return nil
}

// MovedAddress is another address of the host, which Move gives it.
func (h *EdgeHost) MovedAddress() string { return fmt.Sprintf("10.201.%d.3", h.number) }

// Move takes the edge's address away and gives it another one of its two, as a move to another network does.
func (h *EdgeHost) Move(from, to string) error {
	return h.Inside(false, func() error {
		link, err := netlink.LinkByName("eth0")
		if err != nil {
			return fmt.Errorf("find eth0: %w", err)
		}
		if err := netlink.AddrDel(link, h.netAddress(from)); err != nil {
			return fmt.Errorf("take the address %s away: %w", from, err)
		}
		if err := netlink.AddrAdd(link, h.netAddress(to)); err != nil {
			return fmt.Errorf("set the address %s: %w", to, err)
		}
		// The former route went with the address.
		if err := netlink.RouteAdd(&netlink.Route{LinkIndex: link.Attrs().Index, Gw: net.ParseIP(h.RootAddress())}); err != nil {
			return fmt.Errorf("set the default route: %w", err)
		}
		return nil
	})
}

// setLink sets a link of the machine up or down.
func setLink(name string, up bool) error {
	link, err := netlink.LinkByName(name)
	if err != nil {
		return fmt.Errorf("find the link %s: %w", name, err)
	}
	if up {
		err = netlink.LinkSetUp(link)
	} else {
		err = netlink.LinkSetDown(link)
	}
	if err != nil {
		return fmt.Errorf("set the link %s: %w", name, err)
	}
	return nil
}

// removeLink removes the host's cable; what is gone already is no error.
func (h *EdgeHost) removeLink() error {
	var faults []error
	for _, end := range []string{"r", "a", "b"} {
		faults = append(faults, removeLinkNamed(h.linkName(end)))
	}
	return errors.Join(faults...)
}

// removeLinkNamed removes one link of the machine, if it is there. The other end of a veth goes with it.
func removeLinkNamed(name string) error {
	link, err := netlink.LinkByName(name)
	if errors.As(err, &netlink.LinkNotFoundError{}) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("remove the link %s: %w", name, err)
	}
	if err := netlink.LinkDel(link); err != nil {
		// It may have gone meanwhile with a namespace that was just being freed.
		if _, again := netlink.LinkByName(name); errors.As(again, &netlink.LinkNotFoundError{}) {
			return nil
		}
		return fmt.Errorf("remove the link %s: %w", name, err)
	}
	return nil
}

// linksNamed lists the links of the machine whose name begins with prefix.
func linksNamed(prefix string) ([]string, error) {
	links, err := whole(netlink.LinkList)
	if err != nil {
		return nil, fmt.Errorf("list the links: %w", err)
	}
	var names []string
	for _, link := range links {
		if name := link.Attrs().Name; strings.HasPrefix(name, prefix) {
			names = append(names, name)
		}
	}
	return names, nil
}
