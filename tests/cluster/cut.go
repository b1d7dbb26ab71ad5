package cluster

import (
	"context"
	"fmt"
	"strings"

	"github.com/vishvananda/netlink"
)

// dropChain is the chain of the edge host's own iptables that swallows what crosses the cable.
const dropChain = "TETHER-CUT"

// Cut takes the cable out: the machine's end goes down and the edge sees its carrier go. Connections learn of it only by
// their own timeouts. Cutting twice is no error.
func (h *EdgeHost) Cut() error { return setLink(h.RootLink(), false) }

// Drop swallows every packet on the cable while both ends look healthy, which leaves connections half open. The rules
// are in the edge host's own network namespace, not in the machine's.
func (h *EdgeHost) Drop(ctx context.Context) error {
	if dropped, err := h.dropped(ctx); err != nil || dropped {
		return err
	}
	script := "set -e; ipt() { iptables --wait 5 \"$@\"; }; ipt -N " + dropChain + " 2>/dev/null || ipt -F " + dropChain +
		"; ipt -A " + dropChain + " -i eth0 -j DROP; ipt -A " + dropChain + " -o eth0 -j DROP" +
		"; for chain in INPUT OUTPUT FORWARD; do ipt -I $chain -j " + dropChain + "; done"
	if _, err := h.Run(ctx, "/bin/sh", "-c", script); err != nil {
		return fmt.Errorf("drop the packets of the cable: %w", err)
	}
	return nil
}

// dropped reports whether Drop is in force.
func (h *EdgeHost) dropped(ctx context.Context) (bool, error) {
	rules, err := h.Run(ctx, "iptables", "--wait", "5", "-S")
	if err != nil {
		return false, fmt.Errorf("look at the rules of the cable: %w", err)
	}
	return strings.Contains(rules, "-A INPUT -j "+dropChain), nil
}

// Heal undoes Cut and Drop. Healing a whole cable is no error.
func (h *EdgeHost) Heal(ctx context.Context) error {
	if err := setLink(h.RootLink(), true); err != nil {
		return err
	}
	dropped, err := h.dropped(ctx)
	if err != nil || !dropped {
		return err
	}
	script := "set -e; for chain in INPUT OUTPUT FORWARD; do iptables --wait 5 -D $chain -j " + dropChain + "; done; iptables --wait 5 -F " + dropChain + "; iptables --wait 5 -X " + dropChain
	if _, err := h.Run(ctx, "/bin/sh", "-c", script); err != nil {
		return fmt.Errorf("let the packets of the cable pass again: %w", err)
	}
	return nil
}

// IsCut reports whether the cable is cut, by Cut or by Drop.
func (h *EdgeHost) IsCut(ctx context.Context) (bool, error) {
	link, err := netlink.LinkByName(h.RootLink())
	if err != nil {
		return false, fmt.Errorf("look at the cable %s: %w", h.RootLink(), err)
	}
	if link.Attrs().RawFlags&uint32(1) == 0 { // IFF_UP
		return true, nil
	}
	return h.dropped(ctx)
}
