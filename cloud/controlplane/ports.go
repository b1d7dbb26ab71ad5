package controlplane

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"strconv"
	"syscall"
	"time"
)

// Free ports are looked for here: below the range from which Linux takes the
// source ports of connections, so that none of those takes a port between our
// look and the component's bind, and clear of NodePorts and of Tether's kubelet ports.
const (
	freePortMin = 11000
	freePortMax = 19999
)

type portUse struct {
	flag      string
	port      *int
	addresses []string
}

// ports lists every port of the configuration with the addresses it is served on.
func (c *Config) ports() []portUse {
	local := []string{loopback}
	return []portUse{
		{"--secure-port", &c.SecurePort, nil}, // addresses: see claimPorts; they may be invalid here
		{"--etcd-port", &c.EtcdPort, local},
		{"--etcd-peer-port", &c.EtcdPeerPort, local},
		{"--controller-manager-port", &c.ControllerManagerPort, local},
		{"--scheduler-port", &c.SchedulerPort, local},
	}
}

// claimPorts replaces each port 0 by a free one and makes sure that the others
// are free. It returns one error that names every port or address that is not.
// Components of a predecessor that was just killed get a moment to go.
func claimPorts(ctx context.Context, c *Config) error {
	deadline := time.Now().Add(500 * time.Millisecond)
	for {
		err := tryPorts(c)
		if err == nil || !errors.Is(err, syscall.EADDRINUSE) || time.Now().After(deadline) {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(50 * time.Millisecond):
		}
	}
}

func tryPorts(c *Config) error {
	var held []net.Listener // until all are chosen, so that no port is chosen twice
	defer func() {
		for _, l := range held {
			l.Close()
		}
	}()
	uses := c.ports()
	uses[0].addresses = c.serveAddresses()

	var faults []error
	for _, fixed := range []bool{true, false} { // free ones last: they must not take a fixed one
		for _, u := range uses {
			if (*u.port != 0) != fixed {
				continue
			}
			if !fixed {
				ls, port, err := listenFree(u)
				if err != nil {
					faults = append(faults, err)
					continue
				}
				*u.port, held = port, append(held, ls...)
				continue
			}
			for _, a := range u.addresses {
				l, err := net.Listen("tcp", net.JoinHostPort(a, strconv.Itoa(*u.port)))
				if err != nil {
					faults = append(faults, explainListen(u.flag, a, *u.port, err))
					continue
				}
				held = append(held, l)
			}
		}
	}
	return errors.Join(faults...)
}

func listenFree(u portUse) ([]net.Listener, int, error) {
	var last error
	for range 200 {
		port := freePortMin + rand.IntN(freePortMax-freePortMin+1)
		ls, err := listenAll(u.addresses, port)
		if err == nil {
			return ls, port, nil
		}
		last = err
		if !errors.Is(err, syscall.EADDRINUSE) {
			break
		}
	}
	return nil, 0, fmt.Errorf("%s: looking for a free port: %w", u.flag, last)
}

// listenAll listens on one port of every address, or on none.
func listenAll(addresses []string, port int) ([]net.Listener, error) {
	var ls []net.Listener
	for _, a := range addresses {
		l, err := net.Listen("tcp", net.JoinHostPort(a, strconv.Itoa(port)))
		if err != nil {
			for _, l := range ls {
				l.Close()
			}
			return nil, explainListen("--secure-port", a, port, err)
		}
		ls = append(ls, l)
	}
	return ls, nil
}

func explainListen(flag, address string, port int, err error) error {
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		return fmt.Errorf("port %d on %s is in use by another process: stop that (ss -ltnp shows it) or choose another port with %s: %w", port, address, flag, syscall.EADDRINUSE)
	case errors.Is(err, syscall.EADDRNOTAVAIL):
		return fmt.Errorf("%s is not an address of this machine: add it first (such as ip address add %s/32 dev lo) or leave it out: %w", address, address, syscall.EADDRNOTAVAIL)
	case errors.Is(err, syscall.EACCES):
		return fmt.Errorf("port %d on %s needs more rights: choose a port above 1023 with %s: %w", port, address, flag, syscall.EACCES)
	}
	return fmt.Errorf("listen on port %d of %s (%s): %w", port, address, flag, err)
}
