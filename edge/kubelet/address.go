package kubelet

import (
	"errors"
	"fmt"
	"net"
	"time"
)

// addressEvery is how often the node's address is looked at, where it is not configured. A change counts once it was seen
// twice.
const addressEvery = 30 * time.Second

// ErrMoved: the machine has another address now, which a kubelet takes up at its start only.
var ErrMoved = errors.New("the node has another address")

// routeAddress is the machine's own address on its way to the rest of the world: IPv4's if there is one. The kubelet would
// find the same, but asks DNS for the node's name first, at every status: where no resolver answers that takes half a
// minute each time.
func routeAddress() (net.IP, error) {
	var errs []error
	// Of documentation (RFC 5737, RFC 3849): nothing is sent, the kernel only chooses the source.
	for _, to := range []string{"192.0.2.1:9", "[2001:db8::1]:9"} {
		c, err := net.Dial("udp", to)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		ip := c.LocalAddr().(*net.UDPAddr).IP
		_ = c.Close()
		if ip.IsGlobalUnicast() {
			return ip, nil
		}
	}
	return nil, fmt.Errorf("find the address of the default route: %w", errors.Join(errs...))
}

// locate sets the node's address, where it is not configured. Without a default route it stays empty, which leaves it to
// the kubelet.
func (k *Kubelet) locate() {
	if k.cfg.NodeIP != "" {
		return
	}
	k.locates = true
	ip, err := k.address()
	if err != nil {
		k.log.Warn("the node has no address yet: set kubelet.nodeIP, or give the machine a default route", "err", err)
		return
	}
	k.cfg.NodeIP = ip.String()
	k.log.Info("the node's address is the one of the default route", "address", k.cfg.NodeIP)
}

// moved returns ErrMoved once the machine had another address at two looks. A machine that has none keeps the one that it
// had.
func (k *Kubelet) moved() error {
	ip, err := k.address()
	if err != nil || ip.String() == k.cfg.NodeIP {
		k.seen = ""
		return nil
	}
	if k.seen != ip.String() {
		k.seen = ip.String()
		return nil
	}
	return fmt.Errorf("%w: %s instead of %q", ErrMoved, k.seen, k.cfg.NodeIP)
}
