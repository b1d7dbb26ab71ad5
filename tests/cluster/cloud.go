package cluster

import (
	"fmt"
	"net"

	"github.com/vishvananda/netlink"
)

// CloudAddress is the address of the cloud's side: API server and CloudCore are to listen on it. Every edge host reaches
// it over its cable, and so do pods. It is made at the first call, on a bridge of its own without ports: an address on
// lo would have no owner that Down could remove.
func (c *Cluster) CloudAddress() (string, error) {
	c.mu.Lock()
	number := c.state.Number
	c.mu.Unlock()
	if number > 0 {
		return cloudAddress(number), nil
	}
	unlock, err := lockMachine()
	if err != nil {
		return "", err
	}
	defer unlock()
	if number, err = freeNumber(cloudNet); err != nil {
		return "", err
	}
	bridge := &netlink.Bridge{LinkAttrs: netlink.NewLinkAttrs()}
	bridge.Name = fmt.Sprintf("te%s-c", c.state.ID)
	if err := removeLinkNamed(bridge.Name); err != nil { // of a call that failed half-way
		return "", err
	}
	if err := netlink.LinkAdd(bridge); err != nil {
		return "", fmt.Errorf("make the cloud's address: bridge %s: %w", bridge.Name, err)
	}
	address := &netlink.Addr{IPNet: &net.IPNet{IP: net.ParseIP(cloudAddress(number)).To4(), Mask: net.CIDRMask(32, 32)}}
	if err := netlink.AddrAdd(bridge, address); err != nil {
		return "", fmt.Errorf("make the cloud's address %s: %w", address.IP, err)
	}
	if err := setLink(bridge.Name, true); err != nil {
		return "", err
	}
	if err := c.update(func(s *state) { s.Number = number }); err != nil {
		return "", err
	}
	return cloudAddress(number), nil
}

// FurtherAddress is the nth address of the cloud's side beside CloudAddress, from 1, for further CloudCores. It is made at the
// first call.
func (c *Cluster) FurtherAddress(n int) (string, error) {
	first, err := c.CloudAddress()
	if err != nil {
		return "", err
	}
	bridge, err := netlink.LinkByName(fmt.Sprintf("te%s-c", c.state.ID))
	if err != nil {
		return "", fmt.Errorf("make a further address of the cloud: %w", err)
	}
	ip := net.ParseIP(first).To4()
	ip[3] += byte(n)
	if err := netlink.AddrReplace(bridge, &netlink.Addr{IPNet: &net.IPNet{IP: ip, Mask: net.CIDRMask(32, 32)}}); err != nil {
		return "", fmt.Errorf("make a further address of the cloud, %s: %w", ip, err)
	}
	return ip.String(), nil
}

func cloudAddress(number int) string { return fmt.Sprintf("10.200.%d.1", number) }

// FreePorts finds n TCP ports that are free on 127.0.0.1 and, if it is not empty, on address. Another program may take
// one before it is used; the program that is given it must say so.
func FreePorts(n int, address string) ([]int, error) {
	var ports []int
	var held []net.Listener
	defer func() {
		for _, listener := range held {
			listener.Close()
		}
	}()
	// All are held until the last one is found, so that none is given twice.
	for len(ports) < n {
		listener, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return nil, fmt.Errorf("find a free port: %w", err)
		}
		held = append(held, listener)
		port := listener.Addr().(*net.TCPAddr).Port
		if address != "" {
			other, err := net.Listen("tcp", net.JoinHostPort(address, fmt.Sprint(port)))
			if err != nil {
				continue
			}
			held = append(held, other)
		}
		ports = append(ports, port)
	}
	return ports, nil
}
